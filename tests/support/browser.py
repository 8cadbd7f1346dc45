"""A headless Chromium, and what it complains about in a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium; its own build would have to be downloaded."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


def complaints(
    browser: Browser, page: Path, width: int = 1280, scheme: Literal["light", "dark"] = "light"
) -> list[str]:
    """Return console messages, errors, requests beside the page's own, and overflow."""
    found: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.on("console", lambda message: found.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: found.append(f"error: {error}"))
    tab.on("request", lambda request: found.append(f"request: {request.url}"))
    tab.goto(page.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    needed = tab.evaluate("document.documentElement.scrollWidth")
    if needed > width:
        found.append(f"{needed} pixels wide on a screen of {width}")
    tab.close()
    found.remove(f"request: {page.as_uri()}")
    return found
