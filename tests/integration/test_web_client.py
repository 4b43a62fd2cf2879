"""The module of the web client, under Node: by itself, and against a real server."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import running_server
from tests.node import JS_DIR, require_node

pytestmark = pytest.mark.node

WITHOUT_LIMITS = {"TERTULIA_LIMITS__ENABLED": "false"}
SHORT_LIVED_TOKENS = {
    "TERTULIA_AUTH__ACCESS_TTL_S": "2",
    "TERTULIA_AUTH__EXPIRING_NOTICE_S": "1",
    "TERTULIA_AUTH__LEEWAY_S": "0",
}
LONGEST_RUN_S = 300.0
LIVE = "live.test.mjs"
ALONE = sorted(path.name for path in JS_DIR.glob("*.test.mjs") if path.name != LIVE)


@contextlib.asynccontextmanager
async def _ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Kill it where the block is left before it has ended by itself."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _run(*files: str, **env: str) -> None:
    """Run these test files under Node; on failure their output is the message."""
    process = await asyncio.create_subprocess_exec(
        require_node(),
        "--test",
        *files,
        cwd=JS_DIR,
        env={"PATH": os.environ["PATH"], **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with _ended(process), asyncio.timeout(LONGEST_RUN_S):
        output, _ = await process.communicate()
    if process.returncode != 0:
        pytest.fail(output.decode(errors="replace"), pytrace=False)


@pytest.mark.parametrize("file", ALONE)
async def test_the_client_by_itself(file: str) -> None:
    await _run(file)


async def test_the_client_with_a_real_server(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path / "lasting", WITHOUT_LIMITS) as lasting,
        running_server(tmp_path / "short", WITHOUT_LIMITS | SHORT_LIVED_TOKENS) as short,
    ):
        await _run(LIVE, TERTULIA_TEST_URL=lasting.url, TERTULIA_TEST_SHORT_LIVED_URL=short.url)
        assert lasting.faults() == short.faults() == []
