"""What the Python servers share: a uvloop, a port that is printed, tokens."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import uvloop
from aiohttp import web

SECRET = os.environ.get("BENCH_SECRET", "")
ALGORITHM = "HS256"


def run(start: Callable[[], Awaitable[int]]) -> None:
    """Start a server, print the port that it returns, and let it run until the process is killed."""

    async def serve() -> None:
        print(await start(), flush=True)
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def listen(application: web.Application) -> int:
    """Open a free port for an application of aiohttp; the port."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])
