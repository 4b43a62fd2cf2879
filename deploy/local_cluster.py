"""Two servers, Redis, a MongoDB and nginx on the loopback, of installed programs: `make cluster`.

What was said in it is gone when it is started again. All that it starts ends with it, by its process id.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pymongo import AsyncMongoClient

from deploy.balancer import command, configure, find_nginx

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "var" / "cluster"
"""Has a folder for each port, with data and logs; a start empties it."""

FERRETDB = ROOT / ".cache" / "bin" / "ferretdb"
SERVERS = 2
_PATIENCE_S = 60.0
# A server stores and tells what it has accepted.
_STOP_PATIENCE_S = 25.0
_DATABASE, _BUS, _SECRET = "TERTULIA_DATABASE__URL", "TERTULIA_CLUSTER__URL", "TERTULIA_AUTH__SECRET"


class StartError(Exception):
    """Something did not start; the message says what to do."""


@dataclass(frozen=True)
class Part:
    """A process that was started."""

    name: str
    process: Process
    log_path: Path


@dataclass(frozen=True)
class Programs:
    """What is started; None: not needed, since its URL is given."""

    nginx: str
    redis: str | None
    mongod: str | None
    ferretdb: str | None


def find_programs(env: Mapping[str, str], *, ferretdb: Path = FERRETDB) -> Programs:
    """The programs of this machine. Raises StartError naming all that is missing and what to type."""
    nginx, redis, mongod = find_nginx(), shutil.which("redis-server"), shutil.which("mongod")
    missing = []
    if nginx is None:
        missing.append("nginx. Type: apt-get install nginx")
    if redis is None and not _is_given(env, _BUS):
        missing.append(f"redis-server. Type: apt-get install redis-server (or set {_BUS}=redis://…)")
    if mongod is None and not ferretdb.is_file() and not _is_given(env, _DATABASE):
        missing.append(
            "a MongoDB: mongod is not on the PATH, and FerretDB is not built. "
            f"Type: make services (needs Go), or install MongoDB (or set {_DATABASE}=mongodb://…)"
        )
    if missing or nginx is None:
        raise StartError("\n".join(f"make cluster needs {each}" for each in missing))
    return Programs(
        nginx=nginx,
        redis=None if _is_given(env, _BUS) else redis,
        mongod=None if _is_given(env, _DATABASE) else mongod,
        ferretdb=None if _is_given(env, _DATABASE) or mongod else str(ferretdb),
    )


def _is_given(env: Mapping[str, str], variable: str) -> bool:
    return variable in env or f"{variable}_FILE" in env


class Cluster:
    """What runs. `start`, then `stop`, which may come at any time."""

    def __init__(self, programs: Programs, folder: Path, *, port: int, env: Mapping[str, str]) -> None:
        self._programs = programs
        self.folder = folder
        self._port = port
        self._env = dict(env)
        self.parts: list[Part] = []

    async def start(self) -> list[str]:
        """Start everything; the address of the balancer, then those of the servers. Raises StartError."""
        _require_free(self._port)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self._programs.redis is not None:
            self._env[_BUS] = await self._start_redis(self._programs.redis)
        if self._programs.mongod is not None:
            self._env[_DATABASE] = await self._start_mongod(self._programs.mongod)
        elif self._programs.ferretdb is not None:
            self._env[_DATABASE] = await self._start_ferretdb(self._programs.ferretdb)
        if not _is_given(self._env, _SECRET):
            self._env[_SECRET] = secrets.token_urlsafe(48)
        addresses = await self._start_servers()
        await self._start_nginx(addresses)
        return [f"http://127.0.0.1:{self._port}", *addresses]

    async def stop(self) -> None:
        """End all: first the servers, which need the rest for their last words."""
        servers = [part for part in self.parts if part.name.startswith("server")]
        others = [part for part in self.parts if part not in servers]
        for group in (servers, others):
            await asyncio.gather(*(_end(part.process) for part in group))

    async def _start_redis(self, program: str) -> str:
        port = _free_port()
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        part = await self._spawn("redis", [program, "--port", f"{port}", *options])
        await _listening(part, port)
        return f"redis://127.0.0.1:{port}/0"

    async def _start_mongod(self, program: str) -> str:
        port, data = _free_port(), self.folder / "mongod"
        data.mkdir()
        options = ["--replSet", "cluster", "--bind_ip", "127.0.0.1", "--dbpath", str(data)]
        part = await self._spawn("mongod", [program, "--port", f"{port}", *options])
        await _listening(part, port)
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            f"mongodb://127.0.0.1:{port}/?directConnection=true"
        )
        members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
        async with client, asyncio.timeout(_PATIENCE_S):
            await client.admin.command("replSetInitiate", {"_id": "cluster", "members": members})
            while not (await client.admin.command("hello"))["isWritablePrimary"]:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)
        return f"mongodb://127.0.0.1:{port}/tertulia?replicaSet=cluster"

    async def _start_ferretdb(self, program: str) -> str:
        port, data = _free_port(), self.folder / "ferretdb"
        data.mkdir()
        part = await self._spawn("ferretdb", [program, str(data), f"127.0.0.1:{port}"])
        await _listening(part, port)
        return f"mongodb://127.0.0.1:{port}/tertulia?directConnection=true"

    async def _start_servers(self) -> list[str]:
        names = [f"server-{number}" for number in range(1, SERVERS + 1)]
        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(self._start_server(name)) for name in names]
        except* StartError as errors:
            raise errors.exceptions[0] from None
        return [each.result() for each in starting]

    async def _start_server(self, name: str) -> str:
        env = {
            "TERTULIA_SERVER__DEVELOPMENT": "true",
            **self._env,
            "TERTULIA_SERVER__HOST": "127.0.0.1",
            "TERTULIA_SERVER__PORT": "0",
            "TERTULIA_SERVER__TRUSTED_PROXIES": "127.0.0.1/32",
        }
        part = await self._spawn(name, [sys.executable, "-m", "server", "run"], env)
        assert part.process.stdout is not None  # noqa: S101 - it was asked for
        line = (await part.process.stdout.readline()).decode()
        address = line.removeprefix("Tertulia is at ").strip()
        if not address.startswith("http://"):
            raise StartError(f"{name} did not start:\n{_tail(part)}")
        await _ready(part, address)
        return address

    async def _start_nginx(self, addresses: Sequence[str]) -> None:
        folder = self.folder / "nginx"
        folder.mkdir()
        servers = [each.removeprefix("http://") for each in addresses]
        config = configure(folder, listen=f"127.0.0.1:{self._port}", servers=servers)
        part = await self._spawn("nginx", command(self._programs.nginx, config))
        await _listening(part, self._port)
        await _ready(part, f"http://127.0.0.1:{self._port}")

    async def _spawn(self, name: str, arguments: list[str], env: Mapping[str, str] | None = None) -> Part:
        log_path = self.folder / f"{name}.log"
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                cwd=ROOT,
                env=env,
                stdin=asyncio.subprocess.PIPE,  # FerretDB ends when it is closed
                stdout=asyncio.subprocess.PIPE if env is not None else log,
                stderr=log,
                # Ctrl-C in a terminal goes to the whole group: they are to end in their order.
                start_new_session=True,
            )
        part = Part(name, process, log_path)
        self.parts.append(part)
        print(f"Started {name}, process {process.pid}", flush=True)
        return part


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = 'stop what runs there, or type: make cluster ARGS="--port 9000"'
            raise StartError(f"port {port} cannot be had ({error.strerror}): {remedy}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(part: Part) -> str:
    lines = part.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"  {line}" for line in lines[-10:]])


async def _listening(part: Part, port: int) -> None:
    """Wait until it does; nothing but trying tells."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while part.process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    raise StartError(f"{part.name} did not start:\n{_tail(part)}")


async def _ready(part: Part, address: str) -> None:
    """Wait until /readyz says so."""
    said = "nothing"
    with contextlib.suppress(TimeoutError):
        async with aiohttp.ClientSession() as session, asyncio.timeout(_PATIENCE_S):
            while part.process.returncode is None:
                try:
                    async with session.get(f"{address}/readyz") as answer:
                        said = await answer.text()
                        if answer.ok:
                            return
                except aiohttp.ClientError as error:
                    said = str(error)
                await asyncio.sleep(0.1)
    raise StartError(f"{part.name} is not ready ({said}):\n{_tail(part)}")


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_PATIENCE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _report_end(part: Part) -> None:
    """Say when one ends; the rest goes on, for that is what a cluster is for."""
    code = await part.process.wait()
    print(f"{part.name} has ended ({code}), the others go on. Its log: {part.log_path}", flush=True)


async def _until(stopping: asyncio.Event, cluster: Cluster) -> None:
    """Start, tell where it is, and stay until `stopping`."""
    balancer, *servers = await cluster.start()
    print(f"Logs: {cluster.folder}\nThe servers alone: {', '.join(servers)}")
    print(f"The cluster is at {balancer} (Ctrl-C ends all of it)", flush=True)
    watching = [asyncio.create_task(_report_end(part)) for part in cluster.parts]
    await stopping.wait()
    for task in watching:
        task.cancel()


async def run(programs: Programs, *, port: int) -> int:
    """Until SIGINT or SIGTERM; the exit code."""
    stopping = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    cluster = Cluster(programs, FOLDER / f"{port}", port=port, env=os.environ)
    working = asyncio.create_task(_until(stopping, cluster))
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        # A signal ends the start too, wherever it is.
        working.cancel()
        await working
    except asyncio.CancelledError:
        return 0
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        stopped.cancel()
        await cluster.stop()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="make cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8080, help="where nginx listens (8080)")
    options = parser.parse_args(arguments)
    try:
        programs = find_programs(os.environ)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return asyncio.run(run(programs, port=options.port))


if __name__ == "__main__":
    sys.exit(main())
