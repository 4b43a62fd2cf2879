import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.ephemeral import redis_line
from server.ephemeral.redis_line import AwayError, Line
from server.ephemeral.redis_scripts import CLAIM, ONLINE, Script
from server.redis_client import RedisRefusedError
from tests.harness import PATIENCE_S
from tests.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.real_services

PREFIX = "{line}:"
TIMEOUT_S = 1.0


class Breaks:
    """Counts how often a line broke."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def breaks() -> Breaks:
    return Breaks()


@pytest.fixture
async def line(own_redis: RedisServer, breaks: Breaks) -> AsyncIterator[Line]:
    opened = Line(own_redis.url, timeout_s=TIMEOUT_S, broken=breaks)
    await opened.open()
    yield opened
    await opened.close()


async def test_calls_are_done_in_the_order_in_which_they_were_made(line: Line) -> None:
    answers = [await each for each in [line.send(CLAIM, PREFIX, "name", 60_000) for _ in range(1_200)]]
    assert [answer == 0 for answer in answers] == [True] + [False] * 1_199


async def test_a_call_that_nobody_waits_for_is_done(line: Line) -> None:
    line.send(CLAIM, PREFIX, "name", 60_000).cancel()
    assert await line.send(CLAIM, PREFIX, "name", 60_000) > 0


async def test_a_line_that_is_not_open_fails_at_once(own_redis: RedisServer, breaks: Breaks) -> None:
    line = Line(own_redis.url, timeout_s=TIMEOUT_S, broken=breaks)
    with pytest.raises(AwayError):
        await line.send(ONLINE, PREFIX, "juan")
    await line.close()
    assert breaks.count == 0


async def test_what_waits_when_it_breaks_fails_with_it_and_later_calls_at_once(
    line: Line, own_redis: RedisServer, breaks: Breaks
) -> None:
    own_redis.freeze()
    began = time.monotonic()
    waiting = [line.send(ONLINE, PREFIX, "juan")]
    await asyncio.sleep(0.1)
    waiting += [line.send(ONLINE, PREFIX, "juan") for _ in range(3)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert time.monotonic() - began < PATIENCE_S
    assert [type(each) for each in results] == [AwayError] * 4
    assert (line.is_open, breaks.count) == (False, 1)
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(AwayError):
            await line.send(ONLINE, PREFIX, "juan")
    assert time.monotonic() - began < TIMEOUT_S
    with pytest.raises(AwayError):
        await line.open()
    own_redis.thaw()
    await line.open()
    assert await line.send(ONLINE, PREFIX, "juan") == []


async def test_it_is_opened_again_on_a_redis_that_was_started_anew(
    line: Line, own_redis: RedisServer, breaks: Breaks
) -> None:
    own_redis.kill()
    with pytest.raises(AwayError):
        await line.send(ONLINE, PREFIX, "juan")
    with pytest.raises(AwayError):
        await line.open()
    own_redis.start()
    await line.open()
    assert await line.send(ONLINE, PREFIX, "juan") == []
    assert breaks.count == 1


async def test_a_script_that_fails_breaks_it_and_others_of_the_batch_are_answered(
    line: Line, breaks: Breaks
) -> None:
    """It may fail since Redis is short of memory, or has become a replica."""
    unknown = Script("error('no')")
    good, bad, after = (line.send(each, PREFIX, "name", 1000) for each in (CLAIM, unknown, CLAIM))
    assert await good == 0
    with pytest.raises(AwayError):
        await bad
    assert await after > 0
    with pytest.raises(AwayError):
        await line.send(ONLINE, PREFIX)
    assert breaks.count == 1


async def test_whatever_goes_wrong_nobody_waits_for_ever(
    line: Line, breaks: Breaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line._client, "pipeline", lambda **_: object())
    call = line.send(ONLINE, PREFIX)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(AwayError):
            await call
    assert breaks.count == 1


async def test_what_waits_when_it_is_closed_fails(own_redis: RedisServer, breaks: Breaks) -> None:
    line = Line(own_redis.url, timeout_s=TIMEOUT_S, broken=breaks)
    await line.open()
    own_redis.freeze()
    calls = [line.send(ONLINE, PREFIX)]
    await asyncio.sleep(0.1)
    calls.append(line.send(ONLINE, PREFIX))
    await line.close()
    assert [type(each) for each in await asyncio.gather(*calls, return_exceptions=True)] == [AwayError] * 2
    assert breaks.count == 0


async def test_a_password_is_sent_and_never_logged(
    tmp_path: Path, breaks: Breaks, caplog: pytest.LogCaptureFixture
) -> None:
    with running_redis(tmp_path / "locked", password="hunter2") as locked:
        line = Line(locked.url, timeout_s=TIMEOUT_S, broken=breaks)
        await line.open()
        assert await line.send(ONLINE, PREFIX) == []
        await line.close()
        stranger = Line(locked.url.replace("hunter2", "hunter3"), timeout_s=TIMEOUT_S, broken=breaks)
        with pytest.raises(AwayError):
            await stranger.open()
        await stranger.close()
    assert "hunter" not in caplog.text


def test_what_is_no_url_of_redis_is_refused(breaks: Breaks) -> None:
    with pytest.raises(RedisRefusedError):
        Line("http://localhost", timeout_s=TIMEOUT_S, broken=breaks)


def test_a_batch_is_bounded() -> None:
    """So that Redis answers others meanwhile."""
    assert redis_line._MOST_CALLS <= 1_000
