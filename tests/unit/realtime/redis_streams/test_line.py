import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.realtime.redis_streams.line import Line, NoScriptError
from server.redis_client import FAILURES, Client
from tests.conformance.wire import eventually
from tests.redis_server import RedisServer


class World:
    """A line, what it heard and how often it broke."""

    def __init__(self, client: Client, channel: str, timeout_s: float = 2.0) -> None:
        self.heard: list[bytes] = []
        self.breaks = 0
        self.line = Line(client, channel, heard=self.heard.append, broken=self._break, timeout_s=timeout_s)

    def _break(self) -> None:
        self.breaks += 1


@pytest.fixture
async def world(client: Client, name: str) -> AsyncIterator[World]:
    made = World(client, name)
    await made.line.open()
    yield made
    made.line.close()


async def test_calls_are_answered_in_their_order_and_what_is_published_is_heard(
    world: World, name: str
) -> None:
    calls = [world.line.call("INCR", f"{name}:n") for _ in range(3)]
    publishing = world.line.call("PUBLISH", name, b"hello\r\n")
    assert await asyncio.gather(*calls, publishing) == [1, 2, 3, 1]
    assert world.heard == [b"hello\r\n"]


async def test_an_error_is_that_of_its_call_alone(world: World, name: str) -> None:
    await world.line.call("SET", name, "text")
    answers = await asyncio.gather(
        world.line.call("INCR", name),
        world.line.call("EVALSHA", "0" * 40, 0),
        world.line.call("GET", name),
        return_exceptions=True,
    )
    assert [isinstance(each, FAILURES) for each in answers] == [True, True, False]
    assert isinstance(answers[1], NoScriptError)
    assert (answers[2], world.line.is_open) == (b"text", True)


async def test_a_call_that_was_given_up_takes_nobody_elses_answer(world: World, name: str) -> None:
    given_up = asyncio.create_task(world.line.call("INCRBY", f"{name}:n", 5))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await world.line.call("PING") == b"PONG"


async def test_a_line_that_was_cut_fails_what_waits_and_can_be_opened_again(
    world: World, client: Client
) -> None:
    untyped: Any = client
    number = await world.line.call("CLIENT", "ID")
    waiting = asyncio.create_task(world.line.call("BLPOP", "nothing", 60))
    await eventually(lambda: len(world.line._answers) == 1)
    await untyped.client_kill_filter(_id=str(number))
    with pytest.raises(FAILURES):
        await waiting
    assert (world.breaks, world.line.is_open) == (1, False)
    with pytest.raises(FAILURES):
        await world.line.call("PING")
    await world.line.open()
    assert await world.line.call("PING") == b"PONG"


async def test_who_answers_too_late_is_let_go(client: Client, redis: RedisServer, name: str) -> None:
    async with asyncio.timeout(20):
        other = type(client).from_url(redis.url)
        made = World(other, name, timeout_s=0.2)
        await made.line.open()
        redis.freeze()
        with pytest.raises(TimeoutError):
            await made.line.call("PING")
        assert (made.breaks, made.line.is_open) == (1, False)
        with pytest.raises(FAILURES):
            await made.line.open()
        assert not made.line.is_open
        redis.thaw()
        await other.aclose()


async def test_each_call_has_its_own_time(client: Client, redis: RedisServer, name: str) -> None:
    async with asyncio.timeout(20):
        other = type(client).from_url(redis.url)
        made = World(other, name, timeout_s=1.5)
        await made.line.open()
        for _ in range(3):  # each answered in time, the last two later than the first one had to be
            assert await made.line.call("BLPOP", "nothing", "0.8") is None
        redis.freeze()
        with pytest.raises(TimeoutError):
            await made.line.call("PING")
        redis.thaw()
        await other.aclose()


async def test_a_primary_that_is_one_no_more_is_let_go(client: Client, redis: RedisServer, name: str) -> None:
    other: Any = type(client).from_url(redis.url)
    made = World(other, name)
    await made.line.open()
    await other.replicaof("127.0.0.1", "1")
    with pytest.raises(FAILURES):
        await made.line.call("SET", "a", "b")
    assert (made.breaks, made.line.is_open) == (1, False)
    await other.aclose()


async def test_who_may_not_hear_is_refused(client: Client, redis: RedisServer, name: str) -> None:
    admin: Any = type(client).from_url(redis.url)
    await admin.execute_command("ACL", "SETUSER", "default", "resetchannels")
    made = World(admin, name)
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    with pytest.raises(FAILURES, match="no permissions"):
        await made.line.open()
    assert not made.line.is_open
    await asyncio.sleep(0)  # what comes behind the refusal is nobody's answer
    assert not faults
    await admin.aclose()
