"""What the answers of `sync` add up to, and how large they are."""

import asyncio
import random
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.events import DeleteMessage, EditMessage, History, ReactMessage
from server.views import MessageView, SyncRoom
from tests.builders import member, message_change, room
from tests.services import Site, open_site
from tests.unit.services.syncing import LONG, first_page, ids, pages


@pytest.fixture
async def people(site: Site) -> Site:
    await site.people("juan", "ana")
    return site


class Reader:
    """Ana's client: what it holds of a room, and how it catches up."""

    def __init__(self, site: Site, room_id: str) -> None:
        self.site, self.room_id = site, room_id
        self.rev = 0
        self.held: dict[int, MessageView] = {}

    async def catch_up(self) -> int:
        """Follow a chain of truncated answers to its end; how many there were."""
        for count in range(1, 100):
            found = (await first_page(self.site, {self.room_id: self.rev})).rooms[0]
            self.take(found)
            if not found.truncated:
                return count
        raise AssertionError("the chain does not end")

    def take(self, found: SyncRoom) -> None:
        revs = [message.rev for message in found.changes]
        assert revs == sorted(revs)
        assert all(self.rev < rev <= found.rev for rev in revs)
        assert not found.reset
        self.rev = found.rev
        self.held |= {message.seq: message for message in found.changes}

    async def present(self) -> dict[int, MessageView]:
        """All messages as history shows them."""
        found: dict[int, MessageView] = {}
        has_more = True
        while has_more:
            asked = History(room_id=self.room_id, after_seq=max(found, default=0), limit=100)
            page = await self.site.messages.history("ana", asked)
            found |= {message.seq: message for message in page.messages}
            has_more = page.has_more
        return found


async def change_something(site: Site, room_id: str, chance: random.Random, sent: list[MessageView]) -> None:
    """One random change by one random person."""
    who = chance.choice(["juan", "ana"])
    kind = chance.choice(["send"] * 4 + ["edit", "delete", "react", "react"])
    target = chance.choice([each for each in sent if each.sender.id == who] or sent)
    if kind == "send" or target.sender.id != who:
        sent.append(await site.say(who, room_id, LONG[: chance.randrange(1, 4_000)]))
        return
    of = {"room_id": room_id, "message_id": target.id}
    if kind == "edit":
        await site.messages.edit(who, EditMessage(**of, content=f"{chance.random()}"))
    elif kind == "delete":
        await site.messages.delete(who, DeleteMessage(**of))
        sent.remove(target)
    else:
        reaction = chance.choice(["like", "love"])
        wanted = ReactMessage(room_id=room_id, message_id=target.id, reaction_type=reaction)
        await site.messages.react(who, wanted)


@pytest.mark.parametrize("seed", range(3))
async def test_truncated_chains_reach_the_head_and_the_present_state(people: Site, seed: int) -> None:
    chance = random.Random(seed)
    room_id = await people.group("juan", "ana")
    sent = [await people.say(who, room_id, LONG) for who in ("juan", "ana")]
    reader, chains = Reader(people, room_id), []
    for _ in range(2):
        for _ in range(120):
            await change_something(people, room_id, chance, sent)
        chains.append(await reader.catch_up())
        assert reader.rev == (await people.storage.heads([room_id]))[room_id].rev
        assert reader.held == await reader.present()
    assert max(chains) > 1


RoomSize = tuple[int, str, int, int, int | str | None]

room_sizes = st.lists(
    st.tuples(
        st.integers(0, 60),  # messages
        st.sampled_from(["a", "\x01", "😀", '"']),  # what they are made of
        st.integers(1, 4_000),  # how long they are
        st.sampled_from([1, 2, 199]),  # members beside Ana
        st.sampled_from([None, 0, "unnamed"]),
    ),
    min_size=1,
    max_size=8,
)


def room_name(number: int) -> str:
    return f"room-{number}-{'x' * 50}"


async def fill(site: Site, given_rooms: list[RoomSize]) -> dict[str, int | None]:
    """Make the rooms; how they are named in the call."""
    named: dict[str, int | None] = {}
    for number, (count, char, length, others, naming) in enumerate(given_rooms):
        room_id = room_name(number)
        members = [f"{n}-{'y' * 60}"[:64] for n in range(others)]
        rows = [member(room_id, user_id) for user_id in ("ana", *members)]
        await site.storage.create_room(room(room_id), rows)
        revs = range(1, count + 1)
        text = char * length
        await site.storage.append([message_change(room_id, rev, content=text, by=members[0]) for rev in revs])
        if not isinstance(naming, str):
            named[room_id] = naming
    return named


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(room_sizes, st.integers(0, 490), st.integers(20, 80))
def test_no_answer_is_over_the_limit_whatever_the_rooms_hold(
    tmp_path: Path, given_rooms: list[RoomSize], unknown: int, length: int
) -> None:
    """Nor are the names of many rooms that the reader is not in too much for it."""

    async def live() -> None:
        async with open_site(tmp_path / uuid.uuid4().hex) as site:
            await site.people("ana")
            named = await fill(site, given_rooms)
            named |= {f"{number}".ljust(length, "z"): 7 for number in range(unknown)}
            found = await pages(site, named)
            assert sorted(ids(*found)) == sorted(map(room_name, range(len(given_rooms))))
            for each in (each for page in found for each in page.rooms):
                assert each.truncated or each.rev == each.room.rev
                assert each.changes or each.room.id not in named or not each.room.last_seq

    asyncio.run(live())
