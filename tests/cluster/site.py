"""A cluster of real processes: servers, Redis and a MongoDB, each of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp

from tests.cluster.balancer import Balancer, make_balancer
from tests.harness import PATIENCE_S, Json, ServerProcess, start_server
from tests.mongodb import MongoServer, make_server
from tests.redis_server import RedisServer, make_redis


class Cluster:
    """Its parts; `nodes` are the servers that run."""

    def __init__(
        self, folder: Path, redis: RedisServer, mongodb: MongoServer, env: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._count = 0
        self.redis = redis
        self.mongodb = mongodb
        self.store_url = mongodb.url("cluster")
        self.nodes: list[ServerProcess] = []
        self._env = {
            "TERTULIA_DATABASE__URL": self.store_url,
            "TERTULIA_CLUSTER__URL": redis.url,
            "TERTULIA_LIMITS__ENABLED": "false",
            "TERTULIA_SERVER__DRAIN_DELAY_S": "0",
            **env,
        }

    async def add(self, env: Mapping[str, str] | None = None) -> ServerProcess:
        """Start one more server."""
        self._count += 1
        node = await start_server(self._folder / f"node-{self._count}", {**self._env, **(env or {})})
        self.nodes.append(node)
        return node

    async def kill(self, node: ServerProcess) -> None:
        """End a server as a crash does."""
        self.nodes.remove(node)
        node.process.kill()
        await node.process.wait()

    async def stop(self, node: ServerProcess) -> int:
        """Have a server drain and end; its exit code."""
        self.nodes.remove(node)
        return await node.stop()

    async def close(self) -> None:
        """End what runs still."""
        for node in self.nodes:
            if node.process.returncode is None:
                node.process.kill()
                await node.process.wait()


@contextlib.asynccontextmanager
async def running_cluster(
    folder: Path, count: int, env: Mapping[str, str] | None = None, *, redis: RedisServer | None = None
) -> AsyncIterator[Cluster]:
    """So many servers over a Redis (or that one) and a MongoDB of their own.

    Skips where one of these cannot be had.
    """
    bus = await asyncio.to_thread(make_redis) if redis is None else redis
    try:
        mongodb = await asyncio.to_thread(make_server)
        try:
            cluster = Cluster(folder, bus, mongodb, env or {})
            try:
                # The first one makes the collections.
                await cluster.add()
                await asyncio.gather(*(cluster.add() for _ in range(count - 1)))
                yield cluster
            finally:
                await cluster.close()
        finally:
            await asyncio.to_thread(mongodb.stop)
    finally:
        await asyncio.to_thread(bus.stop)


class BalancedServers(ServerProcess):
    """Several servers behind nginx, as one: `url` is nginx's."""

    def __init__(self, balancer: Balancer, servers: list[ServerProcess]) -> None:
        super().__init__(servers[0].process, balancer.url, servers[0].log_path)
        self._servers = servers

    def log_lines(self) -> list[Json]:
        return [line for server in self._servers for line in ServerProcess.log_lines(server)]


@contextlib.asynccontextmanager
async def balanced_servers(folder: Path, env: Mapping[str, str]) -> AsyncIterator[BalancedServers]:
    """Two servers on the store that `env` names, joined by a Redis of their own, behind nginx."""
    redis = await asyncio.to_thread(make_redis)
    servers: list[ServerProcess] = []
    try:
        env = {"TERTULIA_CLUSTER__URL": redis.url, **env, "TERTULIA_SERVER__TRUSTED_PROXIES": "127.0.0.0/8"}
        servers = [await start_server(folder / name, env) for name in ("one", "other")]
        addresses = [server.url.removeprefix("http://") for server in servers]
        balancer = await asyncio.to_thread(make_balancer, folder / "nginx", *addresses)
        try:
            yield BalancedServers(balancer, servers)
        finally:
            await asyncio.to_thread(balancer.stop)
    finally:
        for server in servers:
            if server.process.returncode is None:
                server.process.kill()
                await server.process.wait()
        await asyncio.to_thread(redis.stop)


async def readiness(node: ServerProcess) -> tuple[int, Json]:
    """What it answers who asks whether it is ready."""
    async with aiohttp.ClientSession() as http, http.get(f"{node.url}/readyz") as response:
        return response.status, await response.json()


async def becomes(node: ServerProcess, status: int, **body: object) -> None:
    """It answers so, by and by."""
    async with asyncio.timeout(PATIENCE_S):
        while await readiness(node) != (status, body):  # noqa: ASYNC110 - it tells who asks
            await asyncio.sleep(0.1)
