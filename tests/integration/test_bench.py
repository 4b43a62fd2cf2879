"""The measurements can be run; what they measure is asserted nowhere."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bench.cluster_report import LABELS, PACKAGES
from bench.process import NODE_MODULES, find_node
from tests.redis_server import require_redis_server

ROOT = Path(__file__).parent.parent.parent


async def test_the_fanout_is_measured_without_an_error() -> None:
    printed = await _measure("fanout", "--members", "10", "--servers", "ours,bare")
    assert "| 10 | Tertulia's engine |" in printed


@pytest.mark.parametrize("server", LABELS)
async def test_a_cluster_is_measured_without_an_error(server: str) -> None:
    require_redis_server()
    if server != "ours":
        _require_packages()
    printed = await _measure("cluster", "--members", "4", "--messages", "20", "--servers", server)
    assert f"| 4 | 16 | {LABELS[server]} |" in printed


async def _measure(name: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            f"bench.{name}",
            "--rounds",
            "1",
            "--seconds",
            "0.2",
            "--no-write",
            *arguments,
        ),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


def _require_packages() -> None:
    """Node and what it runs; else the test skips, or fails where all is required."""
    if find_node() is not None and all((NODE_MODULES / name).is_dir() for name in PACKAGES):
        return
    reason = "Node or the npm packages of bench/ are not installed; make services installs them"
    if os.environ.get("TERTULIA_TEST_REQUIRE") == "all":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
