"""`make cluster` as a whole: two servers that are one chat, and nothing left when it ends."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy.local_cluster import FOLDER, StartError, find_programs
from tests.harness import ROOT, SECRET, caught_up, connected, site_token

pytestmark = pytest.mark.real_services
PATIENCE_S = 60.0


class Running:
    """The command, started."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.said = ""

    async def until_said(self, what: str) -> str:
        """Read what it says up to a line with this in it; all that was said."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while what not in self.said:
                line = (await self.process.stdout.readline()).decode()
                assert line, self.said
                self.said += line
        return self.said

    async def until_end(self) -> None:
        """Read the rest of what it said."""
        assert self.process.stdout is not None
        self.said += (await self.process.stdout.read()).decode()

    async def end(self, how: signal.Signals) -> int:
        """Send the signal and wait; the exit code."""
        self.process.send_signal(how)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r", process (\d+)$", self.said, flags=re.MULTILINE)]

    def addresses(self) -> list[str]:
        (line,) = re.findall(r"^The servers alone: (.+)$", self.said, flags=re.MULTILINE)
        found: list[str] = line.split(", ")
        return found


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[Running]:
    try:
        find_programs({})
    except StartError as missing:
        pytest.skip(str(missing).replace("\n", "; "))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "deploy.local_cluster", "--port", f"{port}"]
    env = {"PATH": os.environ["PATH"], "TERTULIA_AUTH__SECRET": SECRET}
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=env, stdout=PIPE)
    running = Running(process, FOLDER / f"{port}")
    yield running
    if process.returncode is None:
        await running.end(signal.SIGTERM)
    shutil.rmtree(running.folder, ignore_errors=True)


async def test_what_is_said_on_one_server_is_heard_on_the_other(cluster: Running) -> None:
    said = await cluster.until_said("The cluster is at")
    balancer = said.split("The cluster is at ")[1].split()[0]
    one, two = cluster.addresses()
    async with (
        connected(one, site_token("juan")) as (juan,),
        connected(two, site_token("ana")) as (ana,),
        connected(balancer, site_token("eva")) as (eva,),
    ):
        members = {"kind": "group", "name": "Tapas", "member_ids": ["ana", "eva"]}
        room_id = (await juan.call("create_room", members))["room"]["id"]
        for each in (ana, eva):
            await each.heard("room_joined")
        await caught_up(juan, room_id, ana, eva)
    pids = cluster.pids()
    assert len(pids) == 5
    assert await cluster.end(signal.SIGTERM) == 0
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_a_server_that_ends_is_told_of_and_the_others_go_on(cluster: Running) -> None:
    await cluster.until_said("The cluster is at")
    (pid,) = re.findall(r"server-1, process (\d+)", cluster.said)
    os.kill(int(pid), signal.SIGKILL)
    await cluster.until_said("server-1 has ended (-9), the others go on")
    async with connected(cluster.addresses()[1], site_token("juan")) as (juan,):
        await juan.call("sync")


async def test_ctrl_c_while_it_starts_ends_what_was_started(cluster: Running) -> None:
    await cluster.until_said("Started server-1")
    assert await cluster.end(signal.SIGINT) == 0
    await cluster.until_end()
    assert "The cluster is at" not in cluster.said
    assert len(cluster.pids()) >= 3
    assert [pid for pid in cluster.pids() if is_alive(pid)] == []
