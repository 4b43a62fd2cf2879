"""Real Redis servers, each a process of the tests' own: started on a free port, ended by its id."""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from tests.certificates import Authority
from tests.harness import PATIENCE_S

_URL = "TERTULIA_TEST_REDIS_URL"
_LOG = "redis.log"
_MOST_PORTS = 5


class RedisServer:
    """A Redis that keeps nothing on disk. It can be made to fail in every way that a real one does.

    `password`: what clients need. `authority`: it speaks TLS alone, with a certificate of that one.
    `replica_of` is the port of another one. After a `start` it has the same address as before, and is empty.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str | None = None,
        authority: Authority | None = None,
        replica_of: int | None = None,
    ) -> None:
        self._folder = folder
        self._password = password
        self._authority = authority
        self._replica_of = replica_of
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is, from the first start on."""
        login = f":{quote(self._password, safe='')}@" if self._password is not None else ""
        scheme = "redis" if self._authority is None else "rediss"
        return f"{scheme}://{login}127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client of its own for the test, which closes it."""
        options = {} if self._authority is None else {"ssl_ca_certs": str(self._authority.trusted)}
        client: redis.Redis = redis.Redis.from_url(self.url, **options)
        return client

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; it answers when this returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self.port:
            assert self._try_to_start(), self._log()
            return
        for _ in range(_MOST_PORTS):
            # Somebody else may take a free port before it does.
            self.port = find_free_port()
            if self._try_to_start():
                return
        raise AssertionError(self._log())

    def _try_to_start(self) -> bool:
        arguments = [part for name, value in self._options().items() for part in (f"--{name}", value)]
        with (self._folder / _LOG).open("ab") as log:
            self._process = subprocess.Popen([require_redis_server(), *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return self._process.poll() is None
            time.sleep(0.01)
        self.kill()
        return False

    def _options(self) -> dict[str, str]:
        options = {
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "dir": str(self._folder),
            "enable-debug-command": "yes",
            "repl-diskless-sync-delay": "0",
        }
        if self._authority is None:
            options["port"] = str(self.port)
        else:
            options |= tls_options(self._authority, self.port)
        if self._password is not None:
            options |= {"requirepass": self._password, "masterauth": self._password}
        if self._replica_of is not None:
            options["replicaof"] = f"127.0.0.1 {self._replica_of}"
        return options

    def _log(self) -> str:
        return (self._folder / _LOG).read_text()

    def kill(self) -> None:
        """End it as a crash does; what it held is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order, if it runs."""
        self._end(signal.SIGTERM)

    def pause(self, seconds: float) -> None:
        """Have it do nothing for so long, from now on; nobody waits for it here."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as opened:
            login = f"AUTH {self._password}\r\n" if self._password is not None else ""
            opened.sendall(f"{login}DEBUG SLEEP {seconds}\r\n".encode())

    def freeze(self) -> None:
        """Have it do nothing until `thaw`. Its clock goes on, and what it is sent it does then."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Empty it while it runs."""
        with self.client() as client:
            client.flushall()

    def holds(self, key: str) -> bool:
        """Whether it has that key."""
        with self.client() as client:
            return bool(client.exists(key))

    def promote(self) -> None:
        """Have a replica be a primary."""
        with self.client() as client:
            client.replicaof("NO", "ONE")

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            # One that is frozen hears nothing else.
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(PATIENCE_S)
            self._process = None


def tls_options(authority: Authority, port: int) -> dict[str, str]:
    """Have a server speak TLS alone, to its clients and to other servers."""
    certificate, key = map(str, authority.sign_loopback())
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-auth-clients": "no",
        "tls-replication": "yes",
        "tls-cert-file": certificate,
        "tls-key-file": key,
        "tls-ca-cert-file": str(authority.trusted),
    }


def require_redis_server() -> str:
    """The program. Without one the test is skipped."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("there is no redis-server; `make services` installs it")
    return found


def given_url() -> str | None:
    """The Redis that whoever runs the tests has named."""
    return os.environ.get(_URL)


@contextlib.contextmanager
def running_redis(
    folder: Path,
    *,
    password: str | None = None,
    authority: Authority | None = None,
    replica_of: int | None = None,
) -> Iterator[RedisServer]:
    """A Redis for the length of a block; it is ended in every case."""
    server = RedisServer(folder, password=password, authority=authority, replica_of=replica_of)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def make_redis(password: str | None = None) -> RedisServer:
    """A Redis of the test's own, which stops it."""
    server = RedisServer(Path(tempfile.mkdtemp(prefix="tertulia-redis-")), password=password)
    server.start()
    return server


@cache
def _shared() -> RedisServer:
    server = make_redis()
    atexit.register(server.stop)
    return server


def shared_redis_url() -> str:
    """The URL of what the tests of this process share: each begins its keys with a name of its own."""
    return given_url() or _shared().url


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
