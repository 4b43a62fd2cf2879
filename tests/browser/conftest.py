"""One browser for all tests of a worker, one server for those of a module, people for each test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.browser.chromium import chromium
from tests.browser.people import Pages, People, people_at
from tests.harness import Api, ServerProcess, http_api, running_server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pages() -> AsyncIterator[Pages]:
    """Empty pages of a running browser."""
    async with chromium() as browser:
        yield Pages(browser)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """A server without limits; `SERVER_ENV` of the module adds to its environment."""
    env = {"TERTULIA_LIMITS__ENABLED": "false", **getattr(request.module, "SERVER_ENV", {})}
    async with running_server(tmp_path_factory.mktemp("server"), env) as running:
        yield running
    assert running.faults() == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    """Its HTTP API."""
    async with http_api(server) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def people(pages: Pages, server: ServerProcess) -> AsyncIterator[People]:
    """The people of one test. It fails if a browser complained of anything that was not expected."""
    async with people_at(pages, server.url) as arriving:
        yield arriving
