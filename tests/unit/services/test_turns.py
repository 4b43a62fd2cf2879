import asyncio
import random

import pytest

from server.domain.errors import UnavailableError
from server.services.turns import Turns
from tests.harness import PATIENCE_S
from tests.services import Clock


async def test_a_key_is_held_by_one_at_a_time_and_by_all_in_turn() -> None:
    """Whatever keys each takes, and in whatever order: nobody waits in a circle."""
    turns, held, most = Turns(), {"a": 0, "b": 0, "c": 0}, 0
    chance = random.Random(7)

    async def work(keys: list[str]) -> None:
        nonlocal most
        async with turns.take(*keys):
            for key in set(keys):
                held[key] += 1
                most = max(most, held[key])
            await asyncio.sleep(0)
            for key in set(keys):
                held[key] -= 1

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(work(chance.choices("abc", k=chance.randint(0, 4))) for _ in range(300)))
    assert (most, set(held.values())) == (1, {0})


async def test_others_do_not_wait() -> None:
    turns = Turns()
    async with asyncio.timeout(PATIENCE_S), turns.take("a"), turns.take("b", "c"):
        pass


async def test_what_nobody_holds_or_waits_for_is_forgotten() -> None:
    turns = Turns()

    async def fail(key: str) -> None:
        async with turns.take(key, "all"):
            raise ZeroDivisionError

    failing = [asyncio.create_task(fail(str(number % 10))) for number in range(100)]
    await asyncio.sleep(0)
    failing[50].cancel()
    await asyncio.gather(*failing, return_exceptions=True)
    del failing
    assert len(turns) == 0


async def test_a_turn_that_does_not_come_is_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = Clock(), Turns(longest_wait_s=10)
    clock.drive(monkeypatch)

    async def wait() -> None:
        async with turns.take("b", "a"):
            raise AssertionError

    async with turns.take("a"):
        waiting = asyncio.create_task(wait())
        await clock.elapse(0)
        await clock.elapse(9.9)
        assert not waiting.done()
        await clock.elapse(0.1)
        with pytest.raises(UnavailableError):
            await waiting
    async with asyncio.timeout(PATIENCE_S), turns.take("a", "b"):
        pass
