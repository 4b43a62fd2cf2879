"""nginx with the file of `deploy/`, for the tests: only addresses and folders are other ones."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.balancer import command, configure, find_nginx

PATIENCE_S = 20.0


class Balancer:
    """An nginx of its own on a free loopback port. `servers` are HOST:PORT; all it writes is in `folder`."""

    def __init__(self, nginx: str, folder: Path, *servers: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._nginx = nginx
        self.send_to(*servers)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def send_to(self, *servers: str) -> None:
        """Write its file anew, for the next `start`."""
        config = configure(self.folder, listen=f"127.0.0.1:{self.port}", servers=servers)
        self._command = command(self._nginx, config)

    def start(self) -> None:
        """Start it, again after `stop`; it listens when this returns."""
        with (self.folder / "stderr.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until_s = time.monotonic() + PATIENCE_S
        while True:
            assert self._process.poll() is None, self.said()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < until_s, self.said()
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """End it, and with it every connection."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE_S)
        self._process = None

    def said(self) -> str:
        """All that it has written to its logs."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def requests(self) -> list[dict[str, Any]]:
        """The lines of its access log so far. A line is written after the answer has left: stop it first."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]


def make_balancer(folder: Path, *servers: str) -> Balancer:
    """One of the test's own, which stops it; else the test skips, or fails where all is required."""
    if nginx := find_nginx():
        return Balancer(nginx, folder, *servers)
    reason = "no nginx on the PATH; make services installs it (as root, by apt)"
    if os.environ.get("TERTULIA_TEST_REQUIRE") == "all":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
