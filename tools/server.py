"""A real, unmodified ComfyUI server with this clone as its only custom node: started, asked, stopped.

Knows the host's HTTP and websocket interface, no workflow. Writes into the folder it is given, never into the host's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import websocket

from tools.host import ROOT, HostError, find_python

# A folder name that no installed pack has, and no Python module; from one with spaces the host would not serve `web`.
PACK = "AdaCache-from-this-clone"
START_SECONDS = 300
LOG_LINES = 30  # of the server's log, shown when it fails
DIRECTLY = build_opener(ProxyHandler({}))  # a proxy of this machine would not find our server

Progress = Callable[[str, int, int], None]  # node id, steps done, steps in all


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        address: host and port.
        process: its id.
    """

    address: str
    process: int

    def object_info(self) -> dict[str, Any]:
        """Every node's inputs and outputs."""
        return json.loads(self._get("/object_info"))

    def run(
        self,
        prompt: dict[str, Any],
        progress: Progress,
        metadata: dict[str, Any] | None = None,
        begins: Callable[[str], None] = lambda node: None,
    ) -> dict[str, Any]:
        """Queues a prompt in API format and waits until it is done.

        Args:
            prompt: node id -> class and inputs.
            progress: is told the steps of samplers.
            metadata: for the files that are saved; the frontend puts the workflow there.
            begins: is told each node as it begins.

        Returns:
            What its output nodes left: node id -> {"images": [...], "text": [...], ...}.

        Raises:
            HostError: the host did not take the prompt, or a node failed; with the node and the reason.
        """
        client = os.urandom(8).hex()
        line = socket.create_connection(self.address.split(":"))  # our own, or it would go through a proxy
        url = f"ws://{self.address}/ws?clientId={client}"
        with closing(websocket.create_connection(url, socket=line)) as messages:
            extra = {} if metadata is None else {"extra_data": {"extra_pnginfo": metadata}}
            body = json.dumps({"prompt": prompt, "client_id": client, **extra}).encode()
            taken = json.loads(self._get("/prompt", body))
            if taken.get("node_errors"):  # the host would run the valid rest and call it a success
                raise HostError(f"the host did not take the whole prompt: {json.dumps(taken['node_errors'])}")
            number = taken["prompt_id"]
            while True:
                message = messages.recv()
                if isinstance(message, bytes):  # a preview picture
                    continue
                event = json.loads(message)
                kind, data = event["type"], event["data"]
                if data.get("prompt_id") != number:
                    continue
                if kind == "progress":
                    progress(data["node"], data["value"], data["max"])
                elif kind == "executing":
                    begins(data["node"] or "")
                elif kind in ("execution_error", "execution_interrupted"):
                    raise HostError(f"{data['node_type']}: {data.get('exception_message', 'interrupted')}")
                elif kind == "execution_success":
                    break
        while number not in (history := json.loads(self._get(f"/history/{number}"))):
            time.sleep(0.1)  # it is written a moment after the message
        return history[number]["outputs"]

    def interrupt(self) -> None:
        """Cancels what is running."""
        self._get("/interrupt", b"{}")

    def free(self) -> None:
        """Unloads all models and forgets what nodes made, before the next prompt."""
        self._get("/free", json.dumps({"unload_models": True, "free_memory": True}).encode())

    def view(self, file: dict[str, str]) -> bytes:
        """One of the files that output nodes name."""
        return self._get(f"/view?{urlencode(file)}")

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        """Raises HostError with the host's own words where it refuses."""
        try:
            with DIRECTLY.open(Request(f"http://{self.address}{path}", body)) as answer:
                return answer.read()
        except HTTPError as error:
            raise HostError(f"{path}: {error.read().decode()}") from None


@contextmanager
def serve(host: Path, work: Path, pack: Path | None = None, beside: Sequence[Path] = ()) -> Iterator[Server]:
    """Starts the ComfyUI at `host` and stops it again; with the frontend in COMFYUI_FRONTEND, a folder, if that is set.

    Args:
        work: folder of ours for all that the server writes; `server.log` in it has its output.
        pack: an installed pack in `work/custom_nodes`, to load in place of this clone.
        beside: folders of other packs to load.

    Raises:
        HostError: it did not start, or went away; with the end of its log.
    """
    python = find_python(host)
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    for name in ("input", "models", "output", "temp", "user"):
        (work / name).mkdir(parents=True, exist_ok=True)
    pack = pack or _this_clone(work / "custom_nodes")
    for other in beside:
        _put(other, pack.parent / other.name)
    port = _free_port()
    command = [python, "main.py", "--port", str(port), "--disable-auto-launch"]
    command += ["--use-pytorch-cross-attention", "--database-url", "sqlite:///:memory:"]
    command += ["--base-directory", work, "--disable-all-custom-nodes", "--whitelist-custom-nodes", pack.name]
    command += [other.name for other in beside]
    if frontend := os.environ.get("COMFYUI_FRONTEND"):
        command += ["--front-end-root", frontend]
    if not _has_accelerator(python, environment):
        command.append("--cpu")
    log = work / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=host, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        server = Server(f"127.0.0.1:{port}", process.pid)
        _wait(server, process, log)
        try:
            yield server
        except (websocket.WebSocketException, URLError) as error:
            raise HostError(f"ComfyUI went away ({error}); {_end_of(log)}") from error
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _this_clone(custom_nodes: Path) -> Path:
    """This clone as the only pack in a folder."""
    shutil.rmtree(custom_nodes, ignore_errors=True)
    custom_nodes.mkdir(parents=True)
    return _put(ROOT, custom_nodes / PACK)


def _put(folder: Path, pack: Path) -> Path:
    """A link to a folder, or a copy of it where links are not allowed."""
    try:
        pack.symlink_to(folder, target_is_directory=True)
    except OSError:
        shutil.copytree(folder, pack, ignore=shutil.ignore_patterns(".*", "output", "tests", "__pycache__"))
    return pack


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _has_accelerator(python: Path, environment: dict[str, str]) -> bool:
    """Whether the host's torch sees a GPU; older ones have no `torch.accelerator`."""
    question = "import torch; print(getattr(torch, 'accelerator', torch.cuda).is_available())"
    answer = subprocess.run([python, "-c", question], env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise HostError(f"{python} cannot import torch, so it is not this ComfyUI's: set COMFYUI_PYTHON")
    return answer.stdout.strip() == "True"


def _wait(server: Server, process: subprocess.Popen, log: Path) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server._get("/system_stats")
            return
        except URLError:
            time.sleep(0.2)
    raise HostError(f"ComfyUI did not start; {_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join([f"the end of {log}:", *log.read_text(errors="replace").splitlines()[-LOG_LINES:]])
