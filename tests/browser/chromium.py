"""The browser of these tests: Debian's Chromium, else the one that Playwright keeps in this checkout."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.async_api import Browser, async_playwright

from tests.harness import ROOT

SYSTEM = Path("/usr/bin/chromium")
OWN_BROWSERS = ROOT / ".cache" / "ms-playwright"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
SOCKETIO_CLIENT = ROOT / "static" / "vendor" / "socket.io.esm.min.js"
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A running browser; where none can be had the test skips, or fails where all is required."""
    if not SOCKETIO_CLIENT.is_file():
        give_up("static/vendor has no Socket.IO client; make web fetches it")
    os.environ.setdefault("PLAYWRIGHT_BROWSERS_PATH", str(OWN_BROWSERS))
    async with async_playwright() as playwright:
        path = find_chromium(Path(playwright.chromium.executable_path))
        # The sandbox of the browser cannot be set up by root.
        arguments = [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else list(ARGUMENTS)
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


def find_chromium(own: Path) -> Path:
    """The system's, else the one at `own`; without either as `give_up`."""
    path = next((each for each in (SYSTEM, own) if each.is_file()), None)
    if path is None:
        give_up("no Chromium; make services installs one")
    return path


def axe_source() -> str:
    """The script of axe-core; where it is not installed as with no browser."""
    if not AXE.is_file():
        give_up("axe-core is not installed; make services installs it")
    return AXE.read_text(encoding="utf-8")


def give_up(reason: str) -> NoReturn:
    """Skip, or fail where everything is required."""
    if os.environ.get("TERTULIA_TEST_REQUIRE") == "all":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
