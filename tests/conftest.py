"""What every test may use; and no skip passes where everything is required."""

import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.cluster import figures
from tests.cluster.site import balanced_servers
from tests.harness import Api, ServerProcess, http_api, preferring, running_server
from tests.mongodb import is_real_mongod, shared_url
from tests.redis_server import RedisServer, given_url, running_redis

STARTED_S = time.time()
CLUSTERS = ("cluster", "cluster by polling")

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
    """What workers do not report: what the failing of a cluster's parts came to, and deselected tests."""
    if told := figures.table(since_s=STARTED_S):
        terminalreporter.section("when parts of a cluster fail")
        terminalreporter.write_line(told)
    if not is_real_mongod():
        terminalreporter.write_line(
            "Without a real MongoDB, the tests marked real_mongod were left out: neither passed nor skipped."
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker
    if marker("every_store") and "store" in metafunc.fixturenames:
        marks = [pytest.mark.real_services, *([pytest.mark.real_mongod] if marker("heavy") else [])]
        on_mongodb = pytest.param("mongodb", marks=marks)
        stores = ["sqlite", on_mongodb]
        if (clustered := marker("clustered")) and "server" in metafunc.fixturenames:
            stores += [pytest.param(each, marks=marks) for each in CLUSTERS[: clustered.args[0]]]
        metafunc.parametrize("store", stores, indirect=True, scope="module")


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest) -> str:
    """Where the server keeps its data: sqlite; in tests marked every_store, mongodb too.

    As one of CLUSTERS: in mongodb, and it is two servers joined by Redis, behind nginx.
    """
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
    tmp_path: Path, store: str, make_store_env: Callable[[], dict[str, str]]
) -> AsyncIterator[ServerProcess]:
    """A server of the test's own, without limits."""
    env = {"TERTULIA_LIMITS__ENABLED": "false", **make_store_env()}
    running = balanced_servers if store in CLUSTERS else running_server
    transports = ["polling"] if store == CLUSTERS[1] else ["websocket"]
    with preferring(transports):
        async with running(tmp_path / "data", env) as server:
            yield server


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
