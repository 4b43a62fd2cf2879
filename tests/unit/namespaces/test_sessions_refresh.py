"""What sessions learn by reading anew, when notices of it may have been missed."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from namespaces.fanout import excepted
from namespaces.sessions import _MOST_KNOWN, Session, room_channel, told_channel, user_channel
from server.domain.errors import UnavailableError
from server.domain.models import Login
from server.services.notices import MembershipChanged, Tell
from server.views import RoomJoined, RoomLeft
from tests.builders import member
from tests.harness import PATIENCE_S
from tests.services import Site, break_, hold_answer, hold_call
from tests.unit.namespaces.world import World, codes, connection_of, rooms_of


@pytest.fixture
async def world(site: Site, monkeypatch: pytest.MonkeyPatch) -> World:
    site.clock.drive(monkeypatch)
    await site.people("juan", "ana", "eva")
    return World(site)


async def test_rooms_that_were_joined_and_left_unheard_are_entered_left_and_told(world: World) -> None:
    left, kept = [await world.site.group("juan", "ana") for _ in range(2)]
    joined = await world.site.group("juan")
    session = await world.connect("ana")
    await world.site.storage.remove_member(left, "ana")
    await world.site.storage.add_member(member(joined, "ana"))
    await world.sessions.refresh()
    channels = {user_channel("ana"), *map(room_channel, (kept, joined))}
    assert rooms_of(session) == channels
    connection = connection_of(session)
    assert connection.emitted("room_left") == [RoomLeft(room_id=left, reason="removed")]
    assert connection.emitted("room_joined") == [RoomJoined(room_id=joined)]
    await world.sessions.refresh()
    assert len(connection.emitted("room_left") + connection.emitted("room_joined")) == 2


def hears(session: Session, event: str, room_id: str) -> bool:
    """Whether the session is among those whom a notice tells this of its user."""
    told = RoomLeft(room_id=room_id, reason="left") if event == "left" else RoomJoined(room_id=room_id)
    return not excepted(Tell(event=event, data=told)) & session.connection.rooms


async def test_who_was_told_by_reading_anew_is_not_told_when_the_notice_comes(world: World) -> None:
    """Until it is so once more."""
    room_id = await world.site.group("juan", "ana")
    session = await world.connect("ana")
    joins = MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"]))
    await world.site.storage.remove_member(room_id, "ana")
    await world.sessions.refresh()
    assert not hears(session, "left", room_id)
    await world.sessions.handle(msgspec.structs.replace(joins, left_because="left"))
    assert not hears(session, "left", room_id)
    await world.site.storage.add_member(member(room_id, "ana"))
    await world.sessions.refresh()
    assert not hears(session, "joined", room_id)
    await world.sessions.handle(joins)
    assert not hears(session, "joined", room_id)
    await world.site.rooms.remove_member("juan", room_id, "ana")
    assert hears(session, "left", room_id)
    await world.site.rooms.add_member("juan", room_id, "ana")
    assert hears(session, "joined", room_id)


@pytest.mark.parametrize("is_member", [False, True])
async def test_what_is_not_so_any_more_is_not_told(world: World, *, is_member: bool) -> None:
    """Notices of servers that did not hear each other come in another order than they were made."""
    room_id = await world.site.group("juan", "ana")
    session, recovered = [await world.connect("ana") for _ in range(2)]
    recovered.connection.is_recovered = True
    if not is_member:
        await world.site.rooms.remove_member("juan", room_id, "ana")
    joins = MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"]))
    for notice in (joins, msgspec.structs.replace(joins, left_because="left"), joins):
        event = "joined" if notice.left_because is None else "left"
        await world.sessions.handle(notice)
        assert not hears(session, event, room_id)
        told = connection_of(recovered).emitted("room_joined")
        assert hears(recovered, event, room_id) is (is_member is (event == "joined") and not told)
    assert (room_channel(room_id) in session.connection.rooms) is is_member
    for each in (session, recovered):
        assert connection_of(each).emitted("room_left") == []
        # Who was put out for a moment may have missed something.
        assert connection_of(each).emitted("room_joined") == [RoomJoined(room_id=room_id)] * is_member


async def test_who_is_back_before_the_removal_is_dealt_with_is_told_to_read_what_was_missed(
    world: World,
) -> None:
    """On one server others talk while the rooms are read."""
    room_id = await world.site.group("juan", "ana")
    session = await world.connect("ana")
    gate = hold_call(world.site.storage, "memberships")
    removing = asyncio.create_task(world.site.rooms.remove_member("juan", room_id, "ana"))
    await gate.reached()
    assert rooms_of(session) == {user_channel("ana")}, "now nothing of the room reaches them"
    await world.site.storage.add_member(member(room_id, "ana"))
    gate.open()
    async with asyncio.timeout(PATIENCE_S):
        await removing
    assert rooms_of(session) == {user_channel("ana"), room_channel(room_id)}
    assert connection_of(session).emitted("room_joined") == [RoomJoined(room_id=room_id)]
    await world.sessions.handle(MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"])))
    assert not hears(session, "joined", room_id)


async def test_a_membership_that_nobody_tells_of_is_told_when_it_is_read(world: World) -> None:
    """The outcome of its writing was unknown to who did it."""
    room_id = await world.site.group("juan")
    session = await world.connect("ana")
    await world.site.storage.add_member(member(room_id, "ana"))
    doubt = MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"]), is_told=False)
    for _ in range(2):
        await world.sessions.handle(doubt)
    await world.site.storage.remove_member(room_id, "ana")
    for _ in range(2):
        await world.sessions.handle(doubt)
    told = [entry[1] for entry in connection_of(session).journal if entry[0] == "emit"]
    assert told == ["room_joined", "room_left"]


@pytest.mark.parametrize("is_bound", [False, True])
async def test_a_notice_that_comes_while_rooms_are_read_anew_is_not_told_twice(
    world: World, *, is_bound: bool
) -> None:
    room_id = await world.site.group("juan", "ana")
    session = await world.connect("ana", room_id=room_id if is_bound else None)
    for change in (world.site.rooms.remove_member, world.site.rooms.add_member):
        gate = hold_answer(world.site.storage, "memberships")
        refreshing = asyncio.create_task(world.sessions.refresh())
        await gate.reached()
        await change("juan", room_id, "ana")
        gate.open()
        async with asyncio.timeout(PATIENCE_S):
            await refreshing
    connection = connection_of(session)
    told = [len(connection.emitted(event)) for event in ("room_left", "room_joined")]
    assert told == ([1, 1] if is_bound else [0, 0]), "the others hear it in their user's room"


async def test_a_notice_of_one_room_leaves_what_is_unheard_of_another_to_be_told(world: World) -> None:
    room_id, other = [await world.site.group("juan") for _ in range(2)]
    session = await world.connect("ana")
    for each in (room_id, other):
        await world.site.storage.add_member(member(each, "ana"))
    await world.sessions.handle(MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"])))
    assert rooms_of(session) == {user_channel("ana"), room_channel(room_id)}
    await world.sessions.refresh()
    assert connection_of(session).emitted("room_joined") == [RoomJoined(room_id=other)]


async def test_who_is_out_already_knows_it_and_who_is_put_out_by_an_older_notice_is_told(
    world: World,
) -> None:
    """Notices of two servers that did not hear each other come in another order than they were made."""
    room_id = await world.site.group("juan", "ana")
    session = await world.connect("ana")
    people, left = frozenset(["ana"]), RoomLeft(room_id=room_id, reason="removed")
    await world.site.storage.remove_member(room_id, "ana")
    await world.sessions.handle(MembershipChanged(room_id=room_id, user_ids=people))
    assert connection_of(session).emitted("room_left") == [left]
    other = await world.connect("ana")
    await world.sessions.handle(MembershipChanged(room_id=room_id, user_ids=people, left_because="removed"))
    for each in (session, other):
        assert told_channel(left) in each.connection.rooms


async def test_a_session_of_one_room_is_told_once_that_it_is_out(world: World) -> None:
    room_id = await world.site.group("juan", "ana")
    connection = connection_of(await world.connect("ana", room_id=room_id))
    await world.site.storage.remove_member(room_id, "ana")
    await world.sessions.refresh()
    notice = MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"]), left_because="removed")
    await world.sessions.handle(notice)
    assert connection.emitted("room_left") == [RoomLeft(room_id=room_id, reason="removed")]


async def test_who_is_out_of_a_room_unheard_is_found_by_settling_it(world: World) -> None:
    room_id, other = [await world.site.group("juan", "ana", "eva") for _ in range(2)]
    ana, eva = [await world.connect(each) for each in ("ana", "eva")]
    for each, user_id in ((room_id, "ana"), (other, "eva")):
        await world.site.storage.remove_member(each, user_id)
    await world.sessions.settle(room_id)
    assert connection_of(ana).emitted("room_left") == [RoomLeft(room_id=room_id, reason="removed")]
    assert room_channel(room_id) not in ana.connection.rooms
    assert eva.connection.rooms >= {room_channel(room_id), room_channel(other)}


async def test_to_settle_a_room_only_those_in_it_are_looked_at(world: World) -> None:
    class Unread(dict[str, str | None]):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError

    room_id = await world.site.group("juan", "ana")
    ana, bystander = [await world.connect(each) for each in ("ana", "eva")]
    await world.site.storage.remove_member(room_id, "ana")
    connection_of(bystander).tags = Unread(connection_of(bystander).tags)
    await world.sessions.settle(room_id)
    assert rooms_of(ana) == {user_channel("ana")}


async def test_a_session_of_one_room_is_told_of_that_room_alone(world: World) -> None:
    room_id, other = [await world.site.group("juan", "ana") for _ in range(2)]
    session = await world.connect("ana", room_id=room_id)
    connection = connection_of(session)
    for each in (other, room_id):
        await world.site.storage.remove_member(each, "ana")
    await world.sessions.refresh()
    assert rooms_of(session) == set()
    await world.site.storage.add_member(member(room_id, "ana"))
    await world.sessions.refresh()
    assert rooms_of(session) == {room_channel(room_id)}
    told = [entry[1:] for entry in connection.journal if entry[0] == "emit"]
    assert told == [
        ("room_left", RoomLeft(room_id=room_id, reason="removed")),
        ("room_joined", RoomJoined(room_id=room_id)),
    ]


async def test_rooms_are_told_here_before_they_are_entered(world: World) -> None:
    room_id = await world.site.group("juan", "ana")
    await world.connect("ana")
    assert world.listened == {room_id}


async def test_a_session_whose_login_ended_unheard_is_ended(world: World) -> None:
    site = world.site
    phone = await world.connect("ana", identity=site.identity("ana", login_id="phone"))
    laptop = await world.connect("ana", identity=site.identity("ana", login_id="laptop"))
    ended = Login(
        id="phone", user_id="ana", n=0, rotated_at=site.clock.ms(), expires_at=site.clock.ms() + 1_000_000
    )
    await site.storage.revoke_login(ended)
    await world.sessions.refresh()
    assert (codes(phone), codes(laptop)) == ([("token_revoked", "never")], [])
    await site.storage.update_user("ana", revoked_before=site.clock.ms())
    await world.sessions.refresh()
    assert codes(laptop) == [("token_revoked", "never")], "it does not say when it was issued"


async def test_what_cannot_be_read_is_said_and_changes_nothing(world: World) -> None:
    room_id = await world.site.group("juan", "ana")
    session = await world.connect("ana")
    mend = break_(world.site.storage, "memberships")
    with pytest.raises(UnavailableError):
        await world.sessions.refresh()
    assert room_channel(room_id) in session.connection.rooms
    mend()
    await world.sessions.refresh()


async def test_a_session_does_not_remember_every_room_it_was_ever_in(world: World) -> None:
    session = await world.connect("ana")
    for _ in range(_MOST_KNOWN + 5):
        await world.site.rooms.delete("ana", await world.site.group("ana"))
    assert len(session.connection.rooms) == len({user_channel("ana")}) + _MOST_KNOWN
    room_id = await world.site.group("ana")
    assert hears(session, "joined", room_id)
    assert len(session.connection.rooms) == len({user_channel("ana"), room_channel(room_id)}) + _MOST_KNOWN
