import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from server.domain.models import Message
from server.events import DeleteMessage, EditMessage, ReactMessage
from server.services.views import iso, peer_id, size_bytes
from server.storage.base import Membership
from server.views import RoomView
from tests import builders
from tests.services import Site


@pytest.fixture
async def room_id(site: Site) -> str:
    """A room of Juan's with Ana."""
    await site.people("juan", "ana", "eva")
    return await site.group("juan", "ana")


async def stored(site: Site, room_id: str, *message_ids: str) -> list[Message]:
    found = await site.storage.find_messages([(room_id, each) for each in message_ids])
    return [found[room_id, each] for each in message_ids]


async def seen_by(site: Site, reader: str, room_id: str) -> RoomView:
    return await site.views.room((await site.storage.find_rooms([room_id]))[room_id], reader)


@given(st.integers(0, 253_402_300_799_999))
def test_an_instant_is_shown_to_the_millisecond(at: int) -> None:
    shown = iso(at)
    assert (len(shown), shown[-1]) == (24, "Z")
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert dt.datetime.fromisoformat(shown) - epoch == dt.timedelta(milliseconds=at)


async def test_a_message_shows_its_sender_as_they_are_now(site: Site, room_id: str) -> None:
    sent = await site.say("ana", room_id)
    await site.accounts.update_profile("ana", "Ana María", "https://x/a.png")
    message = (await stored(site, room_id, sent.id))[0]
    view = await site.views.message(message, reader=None)
    assert (view.sender.display_name, view.sender.avatar_url) == ("Ana María", "https://x/a.png")
    assert view.created_at == iso(site.clock.ms())


async def test_a_sender_whose_account_is_gone_keeps_the_id(site: Site) -> None:
    view = await site.views.message(builders.message_change(by="ghost").message, reader=None)
    assert (view.sender.id, view.sender.username, view.sender.display_name) == ("ghost", "", "")


async def test_a_quote_shows_the_quoted_message_as_it_is_now(site: Site, room_id: str) -> None:
    first = await site.say("juan", room_id, "x" * 200)
    reply = builders.message_change(room_id, 2, by="ana", reply_to=first.id).message
    view = await site.views.message(reply, reader=None)
    assert view.reply_to is not None
    assert (view.reply_to.id, view.reply_to.content, view.reply_to.sender.id) == (first.id, "x" * 140, "juan")
    await site.messages.edit("juan", EditMessage(room_id=room_id, message_id=first.id, content="new"))
    view = await site.views.message(reply, reader=None)
    assert view.reply_to is not None
    assert view.reply_to.content == "new"
    await site.messages.delete("juan", DeleteMessage(room_id=room_id, message_id=first.id))
    view = await site.views.message(reply, reader=None)
    assert view.reply_to is not None
    assert (view.reply_to.seq, view.reply_to.content) == (1, "")


async def test_only_an_answer_to_its_reader_says_how_they_reacted(site: Site, room_id: str) -> None:
    sent = await site.say("juan", room_id)
    await site.messages.react("ana", ReactMessage(room_id=room_id, message_id=sent.id, reaction_type="love"))
    message = (await stored(site, room_id, sent.id))[0]
    shown = {
        reader: (await site.views.message(message, reader=reader)).my_reaction
        for reader in ("ana", "juan", None)
    }
    assert shown == {"ana": "love", "juan": None, None: UNSET}


async def test_a_page_costs_the_same_few_reads_however_long_it_is(
    site: Site, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await site.say_all("juan", room_id, (f"{n}" for n in range(20)))
    for each in sent:
        await site.messages.react(
            "ana", ReactMessage(room_id=room_id, message_id=each.id, reaction_type="like")
        )
    messages = await site.storage.messages_between(room_id, 1, 20)
    reads: list[str] = []
    read = site.storage._database.read

    async def counted(statement: str, *parameters: str | int) -> object:
        reads.append(statement)
        return await read(statement, *parameters)

    monkeypatch.setattr(site.storage._database, "read", counted)
    views = await site.views.messages(messages, reader="ana")
    assert {view.my_reaction for view in views} == {"like"}
    assert len(reads) <= 2


async def test_a_room_is_seen_through_the_eyes_of_its_reader(site: Site, room_id: str) -> None:
    for text in ("one", "two", "three" * 100):
        await site.say("juan", room_id, text)
    juan, ana = await seen_by(site, "juan", room_id), await seen_by(site, "ana", room_id)
    assert (juan.role, juan.last_read_seq, juan.unread) == ("owner", 3, 0)
    assert (ana.role, ana.last_read_seq, ana.unread) == ("member", 0, 3)
    for view in (juan, ana):
        assert (view.kind, view.name, view.member_count, view.peer) == ("group", "A room", 2, None)
        assert (view.rev, view.first_seq, view.last_seq) == (3, 1, 3)
        assert view.last_message is not None
        assert view.last_message.content == ("three" * 100)[:200]


async def test_a_room_without_messages_has_no_last_one(site: Site, room_id: str) -> None:
    view = await seen_by(site, "ana", room_id)
    assert (view.last_message, view.rev, view.last_seq, view.unread) == (None, 0, 0, 0)


async def test_a_visitor_of_a_public_room_sees_that_it_is_there_and_no_message(site: Site) -> None:
    await site.people("juan", "ana")
    room_id = await site.group("juan", kind="public")
    await site.say("juan", room_id)
    view = await seen_by(site, "ana", room_id)
    assert (view.role, view.last_message, view.last_read_seq, view.unread) == (None, None, 0, 0)
    assert (view.name, view.member_count, view.last_seq) == ("A room", 1, 1)


async def test_a_direct_room_shows_each_the_other_with_their_presence(site: Site, room_id: str) -> None:
    assert room_id
    direct = await site.rooms.open_direct("juan", "ana")
    await site.ephemeral.arrive("juan", "1")
    peers = {who: (await seen_by(site, who, direct.id)).peer for who in ("juan", "ana")}
    assert {who: (peer.id, peer.status) if peer else None for who, peer in peers.items()} == {
        "juan": ("ana", "offline"),
        "ana": ("juan", "online"),
    }


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("b", "a"), ("~uff", "A-_1")])
def test_the_peer_is_the_other_one(one: str, other: str) -> None:
    key = "direct:" + ":".join(sorted((one, other)))
    room = builders.room(kind="direct", key=key)
    assert (peer_id(room, one), peer_id(room, other)) == (other, one)


async def test_rooms_come_in_the_order_asked(site: Site, room_id: str) -> None:
    others = [await site.group("juan", "ana", name=name) for name in ("b", "a")]
    wanted = [others[1], room_id, others[0]]
    by_id = {each.room.id: each for each in await site.storage.memberships("ana")}
    views = await site.views.rooms([by_id[each] for each in wanted], reader="ana")
    assert [view.id for view in views] == wanted
    assert await site.views.rooms([], reader="ana") == []


async def test_a_cursor_is_never_shown_beyond_the_end(site: Site, room_id: str) -> None:
    """A cursor that a message has moved may be read before the head that it belongs to."""
    await site.say("juan", room_id)
    ahead = Membership(
        room=(await site.storage.find_rooms([room_id]))[room_id],
        member=replace(builders.member(room_id, "ana"), last_read_seq=9),
    )
    view = (await site.views.rooms([ahead], reader="ana"))[0]
    assert (view.last_read_seq, view.unread) == (1, 0)


async def test_members_whose_account_is_gone_are_left_out(site: Site, room_id: str) -> None:
    members = [builders.member(room_id, user_id) for user_id in ("ana", "ghost", "juan")]
    assert [view.user.id for view in await site.views.members(members)] == ["ana", "juan"]


def test_a_size_is_counted_in_bytes_of_json() -> None:
    assert size_bytes(["ñ", '"']) == len('["ñ","\\""]'.encode())
