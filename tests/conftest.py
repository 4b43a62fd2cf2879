"""What every test may use; and no skip passes where everything is required."""

import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.harness import Api, ServerProcess, http_api, running_server
from tests.mongodb import is_real_mongod, shared_url
from tests.redis_server import RedisServer, given_url, running_redis

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count as nothing, what FerretDB in the place of MongoDB cannot show."""
    left_out = [item for item in items if item.get_closest_marker("real_mongod")]
    if left_out and not is_real_mongod():
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Of deselected tests the workers report nothing."""
    if not is_real_mongod():
        terminalreporter.write_line(
            "Without a real MongoDB, the tests marked real_mongod were left out: neither passed nor skipped."
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker
    if marker("every_store") and "store" in metafunc.fixturenames:
        marks = [pytest.mark.real_services, *([pytest.mark.real_mongod] if marker("heavy") else [])]
        on_mongodb = pytest.param("mongodb", marks=marks)
        metafunc.parametrize("store", ["sqlite", on_mongodb], indirect=True, scope="module")


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest) -> str:
    """Where the server keeps its data: sqlite; in tests marked every_store, mongodb too."""
    chosen: str = getattr(request, "param", "sqlite")
    return chosen


@pytest.fixture(scope="module")
def make_store_env(store: str) -> Callable[[], dict[str, str]]:
    """Gives the environment of a server on an empty store."""

    def make() -> dict[str, str]:
        if store == "sqlite":  # in the folder of the server
            return {}
        return {"TERTULIA_DATABASE__URL": shared_url(f"test_{uuid4().hex[:16]}")}

    return make


@pytest_asyncio.fixture
async def server(
    tmp_path: Path, make_store_env: Callable[[], dict[str, str]]
) -> AsyncIterator[ServerProcess]:
    """A server of the test's own, without limits."""
    env = {"TERTULIA_LIMITS__ENABLED": "false", **make_store_env()}
    async with running_server(tmp_path / "data", env) as running:
        yield running


@pytest_asyncio.fixture
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    """Its HTTP API."""
    async with http_api(server) as opened:
        yield opened


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that tests share: the one that was named, or one of this run. Keys are to be a test's own."""
    if (url := given_url()) is not None:
        yield url
        return
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be made to fail."""
    with running_redis(tmp_path / "redis") as running:
        yield running
