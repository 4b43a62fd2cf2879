import asyncio
from collections.abc import AsyncIterator
from secrets import token_hex

import pytest

from server.redis_client import Client, make_client
from tests.redis_server import RedisServer, make_redis, shared_redis_url


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A client of the Redis that the tests of this process share."""
    made = make_client(await asyncio.to_thread(shared_redis_url), timeout_s=3)
    yield made
    await made.aclose()


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    """One that may be frozen or killed."""
    made = await asyncio.to_thread(make_redis)
    yield made
    made.thaw()
    await asyncio.to_thread(made.stop)


@pytest.fixture
def name() -> str:
    """What the keys of one test begin with."""
    return f"{{test-{token_hex(6)}}}"
