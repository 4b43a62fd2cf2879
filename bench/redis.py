"""A redis-server of its own for a cluster under measurement, which keeps nothing."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.process import Server, ServerError

_START_S = 20.0
_STOP_S = 5.0
_LOOK_EVERY_S = 0.02


@contextmanager
def running_redis(program: str) -> Iterator[Server]:
    """Start it on a free loopback port; kill it at the end. Raises ServerError, OSError."""
    with tempfile.TemporaryDirectory(prefix="tertulia-bench-") as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            _wait_for(process, port)
            yield Server(process.pid, port)
        finally:
            process.kill()
            process.wait(_STOP_S)


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    until_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until_s:
        with suppress(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=_START_S).close()
            return
        time.sleep(_LOOK_EVERY_S)
    raise ServerError("redis-server did not start")
