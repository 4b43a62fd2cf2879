import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from server.realtime.heartbeat import Heartbeat

INTERVAL_S = 0.02
TIMEOUT_S = 0.03


class Calls:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self._changed = asyncio.Event()
        self.heartbeat = Heartbeat(
            interval_s=INTERVAL_S,
            timeout_s=TIMEOUT_S,
            ping=lambda: self._note("ping"),
            give_up=lambda: self._note("give up"),
        )

    def _note(self, call: str) -> None:
        self.seen.append(call)
        self._changed.set()

    async def until(self, *expected: str) -> None:
        async with asyncio.timeout(2):
            while len(self.seen) < len(expected):
                self._changed.clear()
                await self._changed.wait()
        assert self.seen == list(expected)


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    calls = Calls()
    yield calls
    calls.heartbeat.stop()


async def passed(times: int = 1) -> None:
    """Wait for so many whole rounds of another heartbeat, which has begun later."""
    for _ in range(times):
        other = Calls()
        other.heartbeat.start()
        await other.until("ping", "give up")


async def test_a_client_that_does_not_answer_a_ping_is_given_up(calls: Calls) -> None:
    calls.heartbeat.start()
    await calls.until("ping", "give up")
    await passed()
    assert calls.seen == ["ping", "give up"]


async def test_each_answer_leads_to_the_next_ping(calls: Calls) -> None:
    calls.heartbeat.start()
    for number in range(1, 4):
        await calls.until(*["ping"] * number)
        calls.heartbeat.pong()
        calls.heartbeat.pong()


async def test_an_answer_to_nothing_puts_nothing_off(calls: Calls) -> None:
    calls.heartbeat.start()
    before = calls.heartbeat._timer
    calls.heartbeat.pong()
    assert calls.heartbeat._timer is before


async def test_it_knows_when_the_last_answered_ping_was_sent(calls: Calls) -> None:
    """Not when the answer came: what was sent in between may not have been received."""
    clock = asyncio.get_running_loop().time
    calls.heartbeat.start()
    answered_s = [calls.heartbeat.answered_at_s]
    before_s = clock()
    await calls.until("ping")
    after_s = clock()
    await asyncio.sleep(0.01)
    answered_s.append(calls.heartbeat.answered_at_s)
    for _ in range(2):
        calls.heartbeat.pong()
        answered_s.append(calls.heartbeat.answered_at_s)
    assert answered_s[:2] == [-math.inf] * 2
    assert before_s < answered_s[2] == answered_s[3] <= after_s


async def test_a_client_that_is_not_read_is_not_given_up(calls: Calls) -> None:
    calls.heartbeat.start()
    await calls.until("ping")
    calls.heartbeat.pause()
    await passed(2)
    assert calls.seen == ["ping"]
    calls.heartbeat.resume()
    await calls.until("ping", "give up")


async def test_a_pause_that_began_before_the_ping_counts_too(calls: Calls) -> None:
    calls.heartbeat.start()
    calls.heartbeat.pause()
    await calls.until("ping")
    await passed(2)
    assert calls.seen == ["ping"]
    calls.heartbeat.resume()
    calls.heartbeat.pong()
    await calls.until("ping", "ping")


async def test_it_stands_still_until_every_pause_is_over(calls: Calls) -> None:
    """A POST may still wait for room when the websocket that followed it does."""
    calls.heartbeat.start()
    await calls.until("ping")
    calls.heartbeat.pause()
    calls.heartbeat.pause()
    calls.heartbeat.resume()
    await passed(2)
    assert calls.seen == ["ping"]
    calls.heartbeat.resume()
    await calls.until("ping", "give up")


async def test_nothing_is_called_after_the_stop(calls: Calls) -> None:
    calls.heartbeat.start()
    await calls.until("ping")
    calls.heartbeat.pause()
    calls.heartbeat.stop()
    calls.heartbeat.resume()
    calls.heartbeat.pong()
    await passed(2)
    assert calls.seen == ["ping"]
