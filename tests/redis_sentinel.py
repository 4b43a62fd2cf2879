"""A Redis with a replica and a Sentinel that promotes it, each a process of the tests' own."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import redis

from tests.fault_proxy import Fault, FaultProxy, no_fault
from tests.harness import PATIENCE_S
from tests.redis_server import RedisServer, find_free_port, require_redis_server, running_redis

SERVICE = "main"
PASSWORD = "hunter2"
# It is promoted so long after the primary was last heard.
_DOWN_AFTER_MS = 1_000


class ReplicatedRedis:
    """The replica hears its primary by way of a line that may be silent."""

    def __init__(
        self, primary: RedisServer, replica: RedisServer, line: FaultProxy, sentinel_port: int
    ) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel_port = sentinel_port
        self._line = line

    @property
    def url(self) -> str:
        """By way of the Sentinel."""
        return self.url_of(self.sentinel_port)

    def url_of(self, *ports: int) -> str:
        """By way of Sentinels at these ports."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}"

    async def lag(self) -> None:
        """From now on nothing reaches the replica any more."""
        self._line.choose = _blackhole
        async with asyncio.timeout(PATIENCE_S):
            # It tells its primary once a second how far it has come.
            while not self._line.met["blackhole"]:  # noqa: ASYNC110 - the line tells who asks
                await asyncio.sleep(0.02)

    async def promoted(self) -> None:
        """Return once the Sentinel names the replica as the primary."""
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(self._primary_port) != self.replica.port:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)

    async def demoted(self) -> None:
        """Return once the primary that was, and is back, is a replica."""
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(self._is_primary):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.1)

    async def ready(self) -> None:
        """Return once the replica has all that its primary has, and the Sentinel knows it."""
        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(self._is_replica_known):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)

    def _is_replica_known(self) -> bool:
        with self.replica.client() as replica, self._sentinel() as sentinel:
            replicas = sentinel.sentinel_slaves(SERVICE)
            is_linked = replica.info("replication")["master_link_status"] == "up"
            return is_linked and [each["flags"] for each in replicas] == ["slave"]

    def _is_primary(self) -> bool:
        with self.primary.client() as primary:
            return bool(primary.info("replication")["role"] == "master")

    def _primary_port(self) -> int:
        with self._sentinel() as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(SERVICE)[1])

    def _sentinel(self) -> redis.Redis:
        return redis.Redis(port=self.sentinel_port)


@contextlib.asynccontextmanager
async def replicated_redis(folder: Path) -> AsyncIterator[ReplicatedRedis]:
    """All three for the length of a block; they are ended in every case."""
    with running_redis(folder / "primary", password=PASSWORD) as primary:
        async with FaultProxy(primary.port, choose=no_fault).listening() as line:
            with running_redis(folder / "replica", password=PASSWORD, replica_of=line.port) as replica:
                port = find_free_port()
                with _running_sentinel(folder / "sentinel", port, primary.port):
                    made = ReplicatedRedis(primary, replica, line, port)
                    await made.ready()
                    yield made


@contextlib.contextmanager
def _running_sentinel(folder: Path, port: int, primary_port: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    file = folder / "sentinel.conf"
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {folder}",
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} 1",
        f"sentinel auth-pass {SERVICE} {PASSWORD}",
        f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
    ]
    # It writes what it learns into its own file.
    file.write_text("\n".join(lines) + "\n")
    with (folder / "sentinel.log").open("ab") as log:
        process = subprocess.Popen([require_redis_server(), str(file), "--sentinel"], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def _blackhole() -> Fault:
    return "blackhole"
