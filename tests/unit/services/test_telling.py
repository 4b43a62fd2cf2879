import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.domain.models import Change, Message
from server.events import ReactMessage
from server.services.notices import Tell
from server.views import MessageData, MessageReaction
from tests.builders import delete_change, edit_change, message_change, react_change
from tests.services import Site, SiteRules, open_site


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Site]:
    """A site where a room of three is large."""
    async with open_site(tmp_path, SiteRules(quiet_above=2)) as opened:
        await opened.people("juan", "ana", "eva")
        yield opened


def revs(tells: list[Tell]) -> list[int]:
    return [
        tell.data.message.rev if isinstance(tell.data, MessageData) else tell.data.rev
        for tell in tells
        if isinstance(tell.data, MessageData | MessageReaction)
    ]


async def told_message(site: Site, room_id: str) -> Message:
    """A message that is stored and told."""
    sent = await site.say("juan", room_id)
    await site.publisher.until_told("chat_message")
    site.publisher.forget()
    return (await site.storage.find_messages([(room_id, sent.id)]))[room_id, sent.id]


async def test_changes_are_told_in_their_order_with_one_read_of_messages(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.people("juan", "ana")
    room_id = await site.group("juan", "ana")
    first = message_change(room_id, 1)
    reply = message_change(room_id, 2, seq=2, by="ana", reply_to=first.message.id)
    changes = [
        first,
        reply,
        react_change(first.message, 3, by="ana", last_seq=2),
        edit_change(first.message, 4, "Adiós", last_seq=2),
        delete_change(reply.message, 5, last_seq=2),
    ]
    await site.storage.append(changes)
    site.publisher.forget()
    batches: list[int] = []
    messages = site.views.messages

    async def counted(shown: list[Message], *, reader: str | None) -> object:
        assert reader is None
        batches.append(len(shown))
        return await messages(shown, reader=reader)

    monkeypatch.setattr(site.views, "messages", counted)
    await site.teller.tell(changes)
    tells = site.publisher.told()
    assert batches == [4]
    assert [tell.event for tell in tells] == [
        "chat_message",
        "chat_message",
        "message_reaction",
        "message_edited",
        "message_deleted",
    ]
    assert revs(tells) == [1, 2, 3, 4, 5]
    assert {tell.rooms for tell in tells} == {frozenset([room_id])}
    quote = tells[1].data.message.reply_to if isinstance(tells[1].data, MessageData) else None
    assert quote is not None
    assert (quote.seq, quote.content, quote.sender.username) == (1, "Adiós", "juan")
    assert tells[2].data == MessageReaction(
        room_id=room_id,
        message_id=first.message.id,
        seq=1,
        rev=3,
        user_id="ana",
        reaction_type="like",
        reaction_counts={"like": 1},
    )


async def test_what_is_stored_is_told_by_ascending_rev(site: Site) -> None:
    await site.people("juan", "ana")
    room_id = await site.group("juan", "ana")
    await asyncio.gather(*(site.say(who, room_id) for _ in range(20) for who in ("juan", "ana")))
    assert revs(await site.publisher.until_told("chat_message", 40)) == list(range(1, 41))


async def test_in_a_small_room_every_reaction_is_told_at_once(small: Site) -> None:
    room_id = await small.group("juan", "ana")
    message = await told_message(small, room_id)
    for rev in (2, 3, 4):
        await small.teller.tell([react_change(message, rev, by="ana")])
    assert revs(small.publisher.told()) == [2, 3, 4]


async def test_in_a_large_room_a_message_tells_its_reactions_once_a_second_the_newest_last(
    small: Site,
) -> None:
    room_id = await small.group("juan", "ana", "eva")
    message = await told_message(small, room_id)
    told = []
    for rev in range(2, 30):
        await small.teller.tell([react_change(message, rev, by="ana")])
        await small.teller.tick()
        told.append((round(small.clock.now_s % 1000, 3), revs(small.publisher.told())))
        small.publisher.forget()
        small.clock.advance(0.25)
    instants = [at for at, revs_ in told for _ in revs_]
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(instants))
    assert [rev for _, revs_ in told for rev in revs_] == [2, 6, 10, 14, 18, 22, 26]
    small.clock.advance(1)
    await small.teller.tick()
    assert revs(small.publisher.told()) == [29]


async def test_messages_do_not_wait_for_one_another(small: Site) -> None:
    room_id = await small.group("juan", "ana", "eva")
    one, other = await told_message(small, room_id), await told_message(small, room_id)
    for message, rev in ((one, 3), (one, 4), (other, 5), (other, 6)):
        await small.teller.tell([react_change(message, rev, by="ana")])
    assert revs(small.publisher.told()) == [3, 5]
    await small.teller.tell([edit_change(one, 7, "Adiós", last_seq=2)])
    assert revs(small.publisher.told()) == [3, 5, 7]


async def test_a_held_reaction_does_not_come_after_a_newer_one(small: Site) -> None:
    """The room may have become small while it was held."""
    room_id = await small.group("juan", "ana", "eva")
    message = await told_message(small, room_id)
    for rev in (2, 3):
        await small.teller.tell([react_change(message, rev, by="ana")])
    await small.rooms.remove_member("juan", room_id, "eva")
    await small.teller.tell([react_change(message, 4, by="ana")])
    small.clock.advance(1)
    await small.teller.tick()
    assert revs(small.publisher.told()) == [2, 4]


async def test_what_another_server_has_just_told_waits_for_its_second_to_be_over(small: Site) -> None:
    """Its claim is seen here, although this server has told nothing."""
    room_id = await small.group("juan", "ana", "eva")
    message = await told_message(small, room_id)
    assert await small.ephemeral.claim(f"reaction:{message.id}", 1)
    for rev in (2, 3):
        await small.teller.tell([react_change(message, rev, by="ana")])
    assert revs(small.publisher.told()) == []
    small.clock.advance(1)
    await small.teller.tick()
    assert revs(small.publisher.told()) == [3]


async def test_nothing_is_remembered_of_messages_long_told(small: Site) -> None:
    room_id = await small.group("juan", "ana", "eva")
    message = await told_message(small, room_id)
    for rev in (2, 3):
        await small.teller.tell([react_change(message, rev, by="ana")])
    small.clock.advance(1)
    await small.teller.tick()
    assert revs(small.publisher.told()) == [2, 3]
    assert not small.teller._held


async def test_what_was_not_brought_is_told_again_from_the_store_without_a_gap(site: Site) -> None:
    await site.people("juan", "ana")
    room_id = await site.group("juan", "ana")
    for content in ("one", "two", "three"):
        await site.say("juan", room_id, content)
    told = await site.publisher.until_told("chat_message", 3)
    assert await site.teller.tells_after(room_id, 0) == told
    assert await site.teller.tells_after(room_id, 2) == told[2:]
    assert await site.teller.tells_after(room_id, 3) == []
    assert await site.teller.heads([room_id, "empty"]) == {room_id: 3, "empty": 0}


async def test_one_that_does_not_decode_keeps_its_place_among_those_told_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.people("juan", "ana")
    room_id = await site.group("juan", "ana")
    for content in ("one", "two", "three"):
        await site.say("juan", room_id, content)
    changes = await site.storage.changes_after(room_id, 0, 10)

    async def without_the_second(*_: object) -> list[Change]:
        return [changes[0], changes[2]]

    monkeypatch.setattr(site.storage, "changes_after", without_the_second)
    told = await site.teller.tells_after(room_id, 0)
    assert [(tell.place.number, bool(tell.rooms)) for tell in told if tell.place] == [
        (1, True),
        (2, False),
        (3, True),
    ]


async def test_in_a_large_room_of_a_messages_reactions_the_newest_alone_is_told_again(small: Site) -> None:
    room_id = await small.group("juan", "ana", "eva")
    sent = await small.say("juan", room_id)
    for who in ("juan", "ana", "eva"):
        await small.messages.react(
            who, ReactMessage(room_id=room_id, message_id=sent.id, reaction_type="like")
        )
    told = await small.teller.tells_after(room_id, 0)
    assert [(tell.place.number, bool(tell.rooms)) for tell in told if tell.place] == [
        (1, True),
        (2, False),
        (3, False),
        (4, True),
    ]
