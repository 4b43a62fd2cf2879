"""Two servers change one room at random while commands are lost, unanswered, done late, and servers crash."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from server.domain.errors import UnavailableError
from server.domain.models import Member, Role
from server.storage.mongo import lock
from server.storage.mongo.store import MongoStorage
from tests.builders import member, room

WRITES = ("insert", "update", "delete")
ROLES: tuple[Role, ...] = ("owner", "member")
_crashed: ContextVar[list[bool]] = ContextVar("_crashed")


class Storm:
    """What befalls the writes of the stores. One is done at a time, as FerretDB alone would not."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.is_calm = True
        self._one = asyncio.Lock()
        self._late: set[asyncio.Task[Any]] = set()

    def befall(self, storage: MongoStorage) -> None:
        database = storage._database
        for name in WRITES:
            setattr(database, name, self._befallen(getattr(database, name)))

    def _befallen(self, given: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def alone(*args: Any, **options: Any) -> Any:
            async with self._one:
                return await given(*args, **options)

        async def late(*args: Any, **options: Any) -> None:
            await asyncio.sleep(self.chance.uniform(0, 0.4))
            await alone(*args, **options)

        async def command(*args: Any, **options: Any) -> Any:
            crashed = _crashed.get([False])
            await asyncio.sleep(self.chance.choice([0, 0, 0.01]))
            fate = 1.0 if self.is_calm else self.chance.random()
            crashed[0] = crashed[0] or fate < 0.02
            if crashed[0] or fate < 0.03:
                raise UnavailableError("it was lost")
            if fate < 0.14:
                self._late.add(asyncio.create_task(late(*args, **options)))
                raise UnavailableError("it is on its way")
            done = await alone(*args, **options)
            if fate < 0.16:
                raise UnavailableError("its answer was lost")
            return done

        return command

    async def end(self) -> None:
        self.is_calm = True
        await asyncio.gather(*self._late)


class Walk:
    """Somebody who does one thing after the other. `is_in`: what of each person is certain; None: nothing."""

    def __init__(
        self, number: int, people: Sequence[str], storage: MongoStorage, chance: random.Random
    ) -> None:
        self.people = [f"{number}-{each}" for each in people]
        self._everybody = [f"{server}-{each}" for server in range(2) for each in people]
        self.is_in: dict[str, bool | None] = dict.fromkeys(self.people, False)
        self._storage = storage
        self._chance = chance
        self._joined = 0

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            _crashed.set([False])
            person = self._chance.choice(self.people)
            was, self.is_in[person] = self.is_in[person], None
            try:
                self.is_in[person] = await self._step(person, was=was)
            except UnavailableError:
                continue

    async def _step(self, person: str, *, was: bool | None) -> bool | None:
        self._joined += 1
        what = self._chance.random()
        if what < 0.45:
            joining = member("room", person, joined_at=self._joined, incarnation=f"{person}-{self._joined}")
            await self._storage.add_member(joining)
            return True
        if what < 0.8:
            removed = await self._storage.remove_member("room", person)
            # Who was not there may be added late, by a command of before.
            return False if removed or was is False else None
        anybody = self._chance.choice(self._everybody)
        await self._storage.set_role("room", anybody, self._chance.choice(ROLES))
        return was


@pytest.mark.parametrize("people", [("ana", "eva"), ("ana",)])  # where they are few the room is often empty
@pytest.mark.parametrize("seed", range(10))
async def test_a_room_keeps_an_owner_and_who_was_removed_stays_away(
    url: str, seed: int, people: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "ABANDONED_AFTER_S", 0.2)
    chance = random.Random(seed)
    storages = [MongoStorage(url, is_alone=False, timeout_s=10) for _ in range(2)]
    storm = Storm(chance)
    for each in storages:
        await each.open()
        storm.befall(each)
    founder = member("room", "founder", role="owner", joined_at=0)
    await storages[0].create_room(room("room"), [founder])
    walks = [Walk(number, people, storage, chance) for number, storage in enumerate(storages)]
    storm.is_calm = False
    walking = [asyncio.create_task(walk.run(15)) for walk in walks]
    await asyncio.sleep(0.1)
    storm.is_calm = True
    await storages[1].remove_member("room", "founder")
    storm.is_calm = False
    await asyncio.gather(*walking)
    await storm.end()
    for person in [person for walk in walks for person in walk.people]:
        await storages[0].find_member("room", person)  # who looks sees to what was cut off
    members = {each.user_id: each for each in await storages[0].members("room", (0, ""), 100)}
    assert_owned(members)
    for person, is_in in (pair for walk in walks for pair in walk.is_in.items()):
        assert is_in is None or (person in members) is is_in, person
    for each in storages:
        await each.close()


def assert_owned(members: dict[str, Member]) -> None:
    assert not members or any(each.role == "owner" for each in members.values()), members
