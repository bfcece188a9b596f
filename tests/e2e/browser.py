"""A headless Chromium that shows one page, spoken to by its own debugging protocol. Knows no ComfyUI."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket

START_SECONDS = 60
KEYS = {"Enter": 13, "z": 90}
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--hide-scrollbars")


def find_chromium() -> str | None:
    """CHROMIUM_PATH, or the first of the usual names on PATH."""
    names = [os.environ.get("CHROMIUM_PATH"), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Page:
    """One open page.

    Attributes:
        complaints: what it wrote to the console as an error, and exceptions that nobody caught.
    """

    def __init__(self, connection: websocket.WebSocket) -> None:
        self.complaints: list[str] = []
        self._connection = connection
        self._number = 0
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Any method of the protocol; reads what the page has to say until the answer comes."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv())
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited.

        Raises:
            AssertionError: the script threw; with what it said.
        """
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        failure = answer.get("exceptionDetails")
        assert failure is None, failure.get("exception", failure).get("description", failure)
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(script):
            assert time.monotonic() < deadline, f"not true after {seconds} s: {script}"
            time.sleep(0.2)

    def reload(self) -> None:
        """Returns once the old page is gone."""
        self.evaluate("window.isOld = true")
        self.call("Page.reload")
        with suppress(AssertionError):  # who asks in the moment in which one page goes and the other comes
            self.wait_for("!window.isOld")
        self.wait_for("!window.isOld")

    def click(self, x: float, y: float) -> None:
        """With the left button, there in the window."""
        for event in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, control: bool = False) -> None:
        """Pressed and let go, such as Enter, where the focus is; with the control key held down or not."""
        pressed = {"key": name, "code": name, "windowsVirtualKeyCode": KEYS[name], "modifiers": 2 * control}
        for event in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=event, **pressed)

    def screenshot(self, path: Path, **options: Any) -> None:
        """Writes what is seen as PNG; with `clip`, a part of it: x, y, width, height and scale."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        data = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = data["exceptionDetails"]
            self.complaints.append(details.get("exception", details).get("description", str(details)))
        elif message.get("method") == "Runtime.consoleAPICalled" and data["type"] == "error":
            self.complaints.append(" ".join(str(each.get("value", each.get("description"))) for each in data["args"]))
        elif message.get("method") == "Log.entryAdded" and data["entry"]["level"] == "error":
            self.complaints.append(f"{data['entry']['text']} ({data['entry'].get('url')})")


@contextmanager
def open_page(chromium: str, address: str, profile: Path, width: int = 1800, height: int = 1200) -> Iterator[Page]:
    """Starts a browser with a profile of its own, opens an address in it, and ends it.

    Args:
        profile: an empty folder.
        width, height: of the window, in pixels.
    """
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    command += ["--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + START_SECONDS
        while not port_file.exists() or "\n" not in port_file.read_text():
            assert process.poll() is None, "the browser did not start"
            assert time.monotonic() < deadline, "the browser did not open its debugging port"
            time.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            targets = json.load(answer)
        target = next(each for each in targets if each["type"] == "page")["webSocketDebuggerUrl"]
        with closing(websocket.create_connection(target, suppress_origin=True, timeout=120)) as connection:
            page = Page(connection)
            page.call("Page.navigate", url=address)
            yield page
    finally:
        process.terminate()
        process.wait()
