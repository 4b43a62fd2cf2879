"""What every test may use; and no skip passes where everything is required."""

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.harness import Api, ServerProcess, http_api, running_server

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and os.environ.get("TERTULIA_TEST_REQUIRE") == "all"
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although TERTULIA_TEST_REQUIRE=all: {report.longrepr}"
    return report


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server of the test's own, without limits."""
    async with running_server(tmp_path / "data", {"TERTULIA_LIMITS__ENABLED": "false"}) as running:
        yield running


@pytest_asyncio.fixture
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    """Its HTTP API."""
    async with http_api(server) as opened:
        yield opened
