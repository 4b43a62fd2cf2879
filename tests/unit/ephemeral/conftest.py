"""Servers on one Redis."""

from collections.abc import AsyncIterator

import pytest

from server.ephemeral.redis import RedisEphemeral
from tests.ephemeral_worlds import RedisWorld


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[RedisWorld]:
    """With one server, which declares people gone."""
    made = RedisWorld(redis_url)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def here(world: RedisWorld) -> RedisEphemeral:
    """That server."""
    return world.ephemeral


@pytest.fixture
async def there(world: RedisWorld) -> RedisEphemeral:
    """Another one."""
    return await world.open()
