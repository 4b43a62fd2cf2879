"""The two programs of examples/ talk to each other."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.events import CLIENT_EVENTS, SERVER_EVENTS
from tests.harness import PATIENCE_S, ROOT, ServerProcess, http_api, running_server, site_token
from tests.node import NODE_MODULES, require_node

pytestmark = pytest.mark.node

EXAMPLES = ROOT / "examples"
ASKS_TO_STOP = "Now stop the server"
SHORT_LIVED = {
    "TERTULIA_AUTH__ACCESS_TTL_S": "20",
    "TERTULIA_AUTH__EXPIRING_NOTICE_S": "17",
    "TERTULIA_PRESENCE__GRACE_S": "0.2",
}


class _Program:
    """A running example; `lines` is what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def printed(self, beginning: str) -> None:
        """Wait for a line that begins so, or for the end."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S * 2):
            async for line in self.process.stdout:
                self.lines.append(line.decode().rstrip())
                if self.lines[-1].startswith(beginning):
                    return

    async def finish(self) -> int:
        """Its exit code."""
        await self.printed("\0")
        return await self.process.wait()

    def seen(self, arrow: str) -> set[str]:
        """The events printed behind `->` or `<-`."""
        return {line.split()[1] for line in self.lines if line.startswith(arrow)}


@contextlib.asynccontextmanager
async def _running(*command: str | Path) -> AsyncIterator[_Program]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield _Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def _conversation(folder: Path, server: ServerProcess) -> AsyncIterator[tuple[_Program, _Program]]:
    """Both programs; the JavaScript one beside its packages, as in a project of its own."""
    node = require_node()
    (folder / "node_modules").symlink_to(NODE_MODULES)
    script = shutil.copy(EXAMPLES / "conversation.mjs", folder)
    async with (
        _running(node, script, server.url) as juan,
        _running(sys.executable, EXAMPLES / "conversation.py", server.url) as ana,
    ):
        yield juan, ana


async def test_both_programs_send_and_receive_every_event_of_the_contract(tmp_path: Path) -> None:
    """Also where people have signed up already, as README and the page suggest."""
    async with running_server(tmp_path / "data", SHORT_LIVED) as server, http_api(server) as api:
        for username in ("juan", "ana"):
            await api.call("GET", "/api/me", token=site_token(username))
        await _talk(tmp_path, server)


async def _talk(folder: Path, server: ServerProcess) -> None:
    async with _conversation(folder, server) as (juan, ana):
        await asyncio.gather(juan.printed(ASKS_TO_STOP), ana.printed(ASKS_TO_STOP))
        await server.stop()
        for program in (juan, ana):
            assert await program.finish() == 0, "\n".join(program.lines)
            assert program.lines[-1] == "every event was sent and received"
            assert program.seen("->") == CLIENT_EVENTS.keys()
            assert program.seen("<-") == SERVER_EVENTS.keys()


async def test_a_program_names_what_it_did_not_see(tmp_path: Path) -> None:
    """Here because the other one never comes."""
    async with running_server(tmp_path / "data") as server:
        (tmp_path / "node_modules").symlink_to(NODE_MODULES)
        script = shutil.copy(EXAMPLES / "conversation.mjs", tmp_path)
        for command in ((require_node(), script), (sys.executable, EXAMPLES / "conversation.py")):
            async with _running(*command, server.url, "1") as program:
                assert await program.finish() == 1
            unsent = CLIENT_EVENTS.keys() - program.seen("->")
            unheard = SERVER_EVENTS.keys() - program.seen("<-")
            assert {"chat_message", "history"} <= unsent
            names = program.lines[-1].removeprefix("missing: ").split(", ")
            assert {*names} == {*(f"-> {each}" for each in unsent), *(f"<- {each}" for each in unheard)}
