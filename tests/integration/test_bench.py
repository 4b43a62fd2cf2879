"""The measurements can be run; what they measure is asserted nowhere."""

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


async def test_the_fanout_is_measured_without_an_error() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.fanout", "--members", "10", "--rounds", "1", "--seconds", "0.2"),
        *("--servers", "ours,bare", "--no-write"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    assert "| 10 | Tertulia's engine |" in printed.decode()
