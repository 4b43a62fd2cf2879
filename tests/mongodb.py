"""A MongoDB for the tests: a real one where there is one, else FerretDB, which speaks its protocol.

`TERTULIA_TEST_MONGODB_URL` names one that runs; without it, and for tests that end it, a `mongod` of the PATH
is started as a replica set of one, or the FerretDB that `make services` builds.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

ROOT = Path(__file__).parent.parent
FERRETDB = ROOT / ".cache" / "bin" / "ferretdb"
PATIENCE_S = 30.0

Kind = Literal["mongod", "ferretdb"]


class MongoServer:
    """A database server of its own on a free loopback port, with its data in a temporary folder."""

    def __init__(self, program: Path, kind: Kind) -> None:
        self.kind = kind
        self.port = _free_port()
        self._program = program
        # In memory where there is room: what is tested is not the disk.
        memory = Path("/dev/shm")  # noqa: S108 - the folder in it has a name of its own
        self._folder = tempfile.TemporaryDirectory(
            prefix="tertulia-mongodb-", dir=memory if memory.is_dir() else None
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        if kind == "mongod":
            self._make_replica_set()

    def url(self, database: str, *, port: int | None = None) -> str:
        """The URL of a database; by another port where something stands in between."""
        # FerretDB never frees what a killed client was reading: after a hundred reads it answers nobody.
        fewer = "&maxPoolSize=20" if self.kind == "ferretdb" else ""
        return f"mongodb://127.0.0.1:{port or self.port}/{database}?directConnection=true{fewer}"

    def start(self) -> None:
        """Start it, again after `kill` or `stop`; it listens when this returns."""
        folder = self._folder.name
        address = f"127.0.0.1:{self.port}"
        mongod = [
            "--replSet",
            "tests",
            "--dbpath",
            folder,
            "--bind_ip",
            "127.0.0.1",
            "--port",
            f"{self.port}",
        ]
        with (Path(folder) / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), *(mongod if self.kind == "mongod" else [folder, address])],
                stdin=subprocess.PIPE,  # FerretDB ends when it is closed, however the tests end
                stdout=log,
                stderr=log,
            )
        self._wait()

    def stop(self) -> None:
        """End it and remove its data."""
        self._end(signal.SIGTERM)
        self._folder.cleanup()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.communicate(timeout=PATIENCE_S)
            self._process = None

    def _wait(self) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            assert self._process is not None
            log = Path(self._folder.name) / "server.log"
            assert self._process.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < until_s, log.read_text()
                time.sleep(0.02)
            else:
                return

    def _make_replica_set(self) -> None:
        members = [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]
        client: MongoClient[dict[str, Any]] = MongoClient(self.url("admin"))
        with client:
            client.admin.command("replSetInitiate", {"_id": "tests", "members": members})
            until_s = time.monotonic() + PATIENCE_S
            while not client.admin.command("hello")["isWritablePrimary"]:
                assert time.monotonic() < until_s, "the replica set has no primary"
                time.sleep(0.05)


class GivenServer(MongoServer):
    """The one that `TERTULIA_TEST_MONGODB_URL` names, with databases of the test's own: those are removed.

    It is nobody's to end: tests that do so skip; so do those that put a proxy in front of it where it is on
    another machine.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._suffix = uuid4().hex[:8]
        self._names: set[str] = set()
        self.kind = "mongod" if is_real_mongod() else "ferretdb"
        (self._host, port), *_ = parse_uri(url)["nodelist"]
        self.port = port or 27017

    def url(self, database: str, *, port: int | None = None) -> str:
        name = f"{database}_{self._suffix}"
        self._names.add(name)
        url = _with_database(self._url, name)
        if port is None:
            return url
        if self._host not in ("127.0.0.1", "localhost"):
            _cannot("the MongoDB of TERTULIA_TEST_MONGODB_URL is on another machine")
        scheme, _, rest = url.partition("://")
        address, slash, tail = rest.partition("/")
        user, at, _ = address.rpartition("@")
        # A member of a set would be looked for where it says that it is.
        options = "&".join(
            each for each in tail.partition("?")[2].split("&") if each and not each.startswith("replicaSet=")
        )
        direct = "" if "directConnection=" in options else "directConnection=true"
        return f"{scheme}://{user}{at}127.0.0.1:{port}{slash}{name}?" + "&".join(
            filter(None, [options, direct])
        )

    def start(self) -> None:
        """It runs."""

    def kill(self) -> None:
        _cannot("the MongoDB of TERTULIA_TEST_MONGODB_URL is not one to kill")

    def stop(self) -> None:
        for name in self._names:
            _drop(self._url, name)


def make_server() -> MongoServer:
    """A server of the test's own, which stops it; else the test skips, or fails where all is required."""
    if mongod := shutil.which("mongod"):
        return MongoServer(Path(mongod), "mongod")
    if FERRETDB.is_file():
        return MongoServer(FERRETDB, "ferretdb")
    if given := os.environ.get("TERTULIA_TEST_MONGODB_URL"):
        return GivenServer(given)
    reason = "no mongod on the PATH, and FerretDB is not built; make services builds it where there is Go"
    return _cannot(reason)


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("TERTULIA_TEST_REQUIRE") == "all":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@cache
def _shared_server() -> MongoServer:
    server = make_server()
    atexit.register(server.stop)
    return server


def shared_url(database: str) -> str:
    """The URL of a database on the server that the tests of this process share. Skips as `make_server`."""
    if given := os.environ.get("TERTULIA_TEST_MONGODB_URL"):
        _forget_at_exit(given, database)
        return _with_database(given, database)
    return _shared_server().url(database)


@cache
def is_real_mongod() -> bool:
    """Whether the shared server is a real MongoDB."""
    given = os.environ.get("TERTULIA_TEST_MONGODB_URL")
    if not given:
        return shutil.which("mongod") is not None
    client: MongoClient[dict[str, Any]] = MongoClient(given, serverSelectionTimeoutMS=5_000)
    with client:
        try:
            return "ferretdbVersion" not in client.admin.command("buildInfo")
        except PyMongoError:  # the tests that use it will say so
            return False


def _with_database(url: str, database: str) -> str:
    head, question, options = url.partition("?")
    scheme, _, rest = head.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{database}{question}{options}"


@cache
def _forget_at_exit(url: str, database: str) -> None:
    atexit.register(_drop, url, database)


def _drop(url: str, database: str) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(url, serverSelectionTimeoutMS=1_000)
    with client, suppress(PyMongoError):
        client.drop_database(database)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
