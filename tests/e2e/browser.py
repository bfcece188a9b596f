"""A headless Chromium with one page, driven by Playwright: which browser, and the errors of its page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

SIZE = {"width": 1800, "height": 1200}  # of the page, in pixels
TIMEOUT = 60_000  # milliseconds that Playwright waits for anything, unless it is told otherwise


def find_chromium() -> str | None:
    """CHROMIUM_PATH, or the first of the usual names on PATH."""
    names = [os.environ.get("CHROMIUM_PATH"), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def open_page(chromium: str, address: str) -> Iterator[Page]:
    """Starts a browser with an empty profile, opens an address in it, and ends it.

    Playwright's event loop runs in this thread until then: meanwhile nothing else may call `asyncio.run` here.
    """
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium) as browser:
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(TIMEOUT)
        page.goto(address)
        yield page


def errors(page: Page) -> list[str]:
    """What the page wrote to the console as an error, and exceptions that nobody caught, since `forget_errors`."""
    written = [f"{each.text} ({each.location['url']})" for each in page.console_messages() if each.type == "error"]
    return written + [each.stack or each.message for each in page.page_errors()]


def forget_errors(page: Page) -> None:
    page.clear_console_messages()
    page.clear_page_errors()
