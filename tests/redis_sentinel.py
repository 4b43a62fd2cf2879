"""A Redis with a replica and a Sentinel that promotes it, each a process of the tests' own."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.certificates import Authority
from tests.fault_proxy import Fault, FaultProxy, no_fault
from tests.harness import PATIENCE_S
from tests.redis_server import RedisServer, find_free_port, require_redis_server, running_redis, tls_options

SERVICE = "main"
PASSWORD = "hunter2"
# It is promoted so long after the primary was last heard.
_DOWN_AFTER_MS = 1_000


class ReplicatedRedis:
    """The replica hears its primary by way of a line that may be silent."""

    def __init__(
        self,
        primary: RedisServer,
        replica: RedisServer,
        line: FaultProxy,
        sentinel_port: int,
        authority: Authority | None,
    ) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel_port = sentinel_port
        self._line = line
        self._authority = authority

    @property
    def url(self) -> str:
        """By way of the Sentinel."""
        return self.url_of(self.sentinel_port)

    def url_of(self, *ports: int) -> str:
        """By way of Sentinels at these ports."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        scheme = "redis" if self._authority is None else "rediss"
        return f"{scheme}+sentinel://:{PASSWORD}@{hosts}/{SERVICE}"

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
        if self._authority is None:
            return redis.Redis(port=self.sentinel_port)
        trusted = str(self._authority.trusted)
        return redis.Redis(host="127.0.0.1", port=self.sentinel_port, ssl=True, ssl_ca_certs=trusted)


@contextlib.asynccontextmanager
async def replicated_redis(
    folder: Path, *, authority: Authority | None = None
) -> AsyncIterator[ReplicatedRedis]:
    """All three for the length of a block, and ended in every case. `authority`: they speak TLS alone."""
    secured: dict[str, Any] = {"password": PASSWORD, "authority": authority}
    with running_redis(folder / "primary", **secured) as primary:
        async with FaultProxy(primary.port, choose=no_fault).listening() as line:
            with running_redis(folder / "replica", **secured, replica_of=line.port) as replica:
                port = find_free_port()
                with _running_sentinel(folder / "sentinel", port, primary.port, authority):
                    made = ReplicatedRedis(primary, replica, line, port, authority)
                    await made.ready()
                    yield made


@contextlib.contextmanager
def _running_sentinel(
    folder: Path, port: int, primary_port: int, authority: Authority | None
) -> Iterator[None]:
    folder.mkdir(parents=True)
    file = folder / "sentinel.conf"
    options = {"port": str(port)} if authority is None else tls_options(authority, port)
    lines = [
        *(f"{name} {value}" for name, value in options.items()),
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
