import asyncio
import random
from collections.abc import Awaitable

import pytest

from namespaces.sessions import Session, retry_after, room_channel, user_channel
from server.domain.errors import (
    ChatError,
    NotFoundError,
    TokenExpiredError,
    TokenRevokedError,
    UnauthenticatedError,
    UnavailableError,
)
from server.events import CreateRoom
from server.services.notices import LoginEnded, MembershipChanged, ProfileChanged, RoomChanged, SocketsEnded
from server.views import RoomJoined, RoomLeft, ServerDraining
from tests.harness import PATIENCE_S
from tests.services import Site, break_, hold_answer
from tests.unit.namespaces.world import World, codes, connection_of, rooms_of


@pytest.fixture
async def world(site: Site, monkeypatch: pytest.MonkeyPatch) -> World:
    site.clock.drive(monkeypatch)
    await site.people("juan", "ana", "eva")
    return World(site)


@pytest.fixture
async def room_id(world: World) -> str:
    """A room of Juan's with Ana."""
    return await world.site.group("juan", "ana")


async def within_patience(call: Awaitable[object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await call


async def test_a_session_enters_the_rooms_of_its_user_before_it_is_live(world: World, room_id: str) -> None:
    session = world.session("ana")
    await world.sessions.admit(session)
    assert rooms_of(session) == {user_channel("ana"), room_channel(room_id)}
    assert [entry for entry in connection_of(session).journal if entry[0] == "emit"] == []


async def test_a_session_of_one_room_enters_that_room_alone(world: World, room_id: str) -> None:
    other_id = await world.site.group("ana")
    session = await world.connect("ana", room_id=room_id)
    assert rooms_of(session) == {room_channel(room_id)}
    await world.site.rooms.add_member("ana", other_id, "juan")
    await world.site.rooms.create("ana", _group("third"))
    assert rooms_of(session) == {room_channel(room_id)}


def _group(name: str) -> CreateRoom:
    return CreateRoom(kind="group", name=name)


@pytest.mark.parametrize("asked", ["no such room", "", "user:ana", "room:x"])
async def test_a_session_of_a_room_that_is_not_the_users_is_refused(world: World, asked: str) -> None:
    session = world.session("ana", room_id=asked)
    with pytest.raises(NotFoundError):
        await world.sessions.admit(session)
    assert world.sessions._people == {}


async def test_a_room_entered_while_a_session_is_admitted_is_not_missed(world: World, room_id: str) -> None:
    gate = hold_answer(world.site.storage, "memberships")
    session = world.session("eva")
    admitting = asyncio.create_task(world.sessions.admit(session))
    await gate.reached()
    await world.site.rooms.add_member("juan", room_id, "eva")
    gate.open()
    await within_patience(admitting)
    assert rooms_of(session) == {user_channel("eva"), room_channel(room_id)}


@pytest.mark.parametrize("is_bound", [False, True])
async def test_a_room_left_while_a_session_is_admitted_is_not_entered(
    world: World, room_id: str, *, is_bound: bool
) -> None:
    gate = hold_answer(world.site.storage, "memberships")
    session = world.session("ana", room_id=room_id if is_bound else None)
    admitting = asyncio.create_task(world.sessions.admit(session))
    await gate.reached()
    await world.site.rooms.remove_member("juan", room_id, "ana")
    gate.open()
    if is_bound:
        with pytest.raises(NotFoundError):
            await within_patience(admitting)
    else:
        await within_patience(admitting)
    assert room_channel(room_id) not in session.connection.rooms


async def test_a_login_that_ends_while_its_session_is_admitted_is_refused(world: World) -> None:
    gate = hold_answer(world.site.storage, "memberships")
    session = world.session("ana")
    admitting = asyncio.create_task(world.sessions.admit(session))
    await gate.reached()
    await world.site.publisher.publish(LoginEnded(user_id="ana", login_id="login"))
    gate.open()
    with pytest.raises(TokenRevokedError):
        await within_patience(admitting)
    assert world.sessions._people == {}
    assert session.timer is None


async def test_a_login_that_ends_just_before_connect_is_written_ends_just_after_it(world: World) -> None:
    session = world.session("ana")
    await world.sessions.admit(session)
    await world.site.publisher.publish(LoginEnded(user_id="ana", login_id=None))
    assert connection_of(session).journal == [("enter", user_channel("ana"))]
    world.sessions.go_live(session)
    assert codes(session) == [("token_revoked", "never")]
    assert connection_of(session).ending() == ["disconnect"]
    assert session.timer is None


async def test_a_store_that_fails_admits_nobody_and_keeps_nothing(world: World) -> None:
    break_(world.site.storage, "memberships")
    with pytest.raises(UnavailableError):
        await world.sessions.admit(world.session("ana"))
    assert world.sessions._people == {}


async def test_an_admission_that_is_cancelled_keeps_nothing(world: World) -> None:
    gate = hold_answer(world.site.storage, "memberships")
    admitting = asyncio.create_task(world.sessions.admit(world.session("ana")))
    await gate.reached()
    admitting.cancel()
    await asyncio.gather(admitting, return_exceptions=True)
    assert world.sessions._people == {}


async def test_of_too_many_sockets_those_that_are_named_end(world: World) -> None:
    first, second = await world.connect("ana"), await world.connect("ana")
    juan = await world.connect("juan")
    named = frozenset(each.connection.sid for each in (first, juan))
    notice = SocketsEnded(user_id="ana", connection_ids=named | {"elsewhere"}, limit=1)
    for _ in range(2):
        await world.sessions.handle(notice)
    assert [codes(each) for each in (first, second, juan)] == [[("rate_limited", "never")], [], []]
    assert connection_of(first).ending() == ["disconnect"]
    await world.sessions.handle(SocketsEnded(user_id="eva", connection_ids=named, limit=1))
    assert codes(juan) == []


async def test_one_socket_too_many_that_waits_for_its_connect_ends_just_after_it(world: World) -> None:
    session = world.session("ana")
    await world.sessions.admit(session)
    sid = session.connection.sid
    await world.sessions.handle(SocketsEnded(user_id="ana", connection_ids=frozenset([sid]), limit=1))
    assert codes(session) == []
    world.sessions.go_live(session)
    assert codes(session) == [("rate_limited", "never")]


async def test_a_socket_that_was_ended_already_ends_for_its_first_reason(world: World) -> None:
    session = world.session("ana")
    await world.sessions.admit(session)
    await world.sessions.handle(LoginEnded(user_id="ana", login_id=None))
    sid = session.connection.sid
    await world.sessions.handle(SocketsEnded(user_id="ana", connection_ids=frozenset([sid]), limit=1))
    world.sessions.go_live(session)
    assert codes(session) == [("token_revoked", "never")]


async def test_the_end_of_a_login_ends_its_sockets_and_no_others(world: World) -> None:
    phone = await world.connect("ana", identity=world.site.identity("ana", login_id="phone"))
    laptop = await world.connect("ana", identity=world.site.identity("ana", login_id="laptop"))
    juan = await world.connect("juan", identity=world.site.identity("juan", login_id="phone"))
    await world.sessions.handle(LoginEnded(user_id="ana", login_id="phone"))
    assert [len(codes(each)) for each in (phone, laptop, juan)] == [1, 0, 0]
    world.sessions.renew(laptop, world.site.identity("ana", login_id="tablet"))
    await world.sessions.handle(LoginEnded(user_id="ana", login_id="laptop"))
    assert codes(laptop) == []
    await world.sessions.handle(LoginEnded(user_id="ana", login_id=None))
    assert [len(codes(each)) for each in (phone, laptop, juan)] == [1, 1, 0]


async def test_with_a_login_the_connections_of_its_user_that_are_away_are_over(world: World) -> None:
    """Whichever login they had: it was not kept with them."""
    await world.connect("ana")
    for notice in (
        RoomChanged(room_id="room"),
        MembershipChanged(room_id="room", user_ids=frozenset(["ana"])),
        LoginEnded(user_id="ana", login_id="other"),
        LoginEnded(user_id="juan", login_id=None),
    ):
        await world.sessions.handle(notice)
    assert world.forgotten == ["ana", "juan"]


async def test_a_room_is_entered_as_the_membership_that_it_is(world: World, room_id: str) -> None:
    """Who left and was added again is another member: what was said in between is not for them."""
    session = await world.connect("ana")
    connection, channel = connection_of(session), room_channel(room_id)
    first = connection.tags[channel]
    assert first is not None
    assert connection_of(await world.connect("ana", room_id=room_id)).tags == {channel: first}
    assert connection_of(await world.connect("juan")).tags[channel] not in (first, None)
    assert connection.tags[user_channel("ana")] is None
    await world.site.rooms.remove_member("juan", room_id, "ana")
    await world.site.rooms.add_member("juan", room_id, "ana")
    again = connection.tags[channel]
    assert again not in (first, None)
    assert connection_of(await world.connect("ana")).tags[channel] == again


async def test_what_is_about_one_transport_is_not_told_again_to_who_comes_back(
    world: World, room_id: str
) -> None:
    expiring = await world.connect("ana", identity=world.site.identity("ana", lasts_s=30))
    ended = await world.connect("eva")
    bound = await world.connect("ana", room_id=room_id)
    await world.sessions.handle(LoginEnded(user_id="eva", login_id=None))
    await world.site.rooms.remove_member("juan", room_id, "ana")
    await world.sessions.drain(0)
    assert connection_of(expiring).transient == {"auth_expiring", "server_draining"}
    assert connection_of(ended).transient == {"session_ended"}
    assert connection_of(bound).emitted("room_left")
    assert connection_of(bound).transient == {"server_draining"}


async def test_a_removal_holds_before_anything_else_is_waited_for(world: World, room_id: str) -> None:
    session = await world.connect("ana")
    hold_answer(world.site.storage, "memberships")
    notice = MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"]), left_because="removed")
    handling = asyncio.create_task(world.sessions.handle(notice))
    await asyncio.sleep(0)
    assert not handling.done()
    assert rooms_of(session) == {user_channel("ana")}
    handling.cancel()


async def test_a_session_of_the_room_it_leaves_is_told_so_itself(world: World, room_id: str) -> None:
    """It is not in its user's room, where others hear of it."""
    bound, free = await world.connect("ana", room_id=room_id), await world.connect("ana")
    await world.site.rooms.remove_member("juan", room_id, "ana")
    assert connection_of(bound).emitted("room_left") == [RoomLeft(room_id=room_id, reason="removed")]
    assert connection_of(free).emitted("room_left") == []
    assert rooms_of(bound) == set()
    await world.site.rooms.add_member("juan", room_id, "ana")
    assert connection_of(bound).emitted("room_joined") == [RoomJoined(room_id=room_id)]
    assert connection_of(free).emitted("room_joined") == []


async def test_an_addition_is_entered_when_it_is_answered_on_every_socket(world: World, room_id: str) -> None:
    sessions = [await world.connect("eva") for _ in range(3)]
    await world.site.rooms.add_member("juan", room_id, "eva")
    assert {session.connection.rooms for session in sessions} == {
        frozenset([user_channel("eva"), room_channel(room_id)])
    }


async def test_an_addition_heard_of_after_the_removal_does_not_let_in(world: World, room_id: str) -> None:
    session = await world.connect("ana")
    await world.site.rooms.remove_member("juan", room_id, "ana")
    await world.sessions.handle(MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"])))
    assert rooms_of(session) == {user_channel("ana")}


@pytest.mark.parametrize("ends_inside", [True, False])
async def test_of_two_notices_at_once_the_store_decides(
    world: World, room_id: str, *, ends_inside: bool
) -> None:
    """The answer to the first is old by the time it comes."""
    session = await world.connect("ana")
    add, remove = world.site.rooms.add_member, world.site.rooms.remove_member
    first, second = (remove, add) if ends_inside else (add, remove)
    if not ends_inside:
        await remove("juan", room_id, "ana")
    gate = hold_answer(world.site.storage, "memberships")
    changing = asyncio.gather(first("juan", room_id, "ana"), return_exceptions=True)
    await gate.reached()
    await second("juan", room_id, "ana")
    gate.open()
    await within_patience(changing)
    assert (room_channel(room_id) in session.connection.rooms) is ends_inside


async def test_sessions_whose_rooms_cannot_be_read_are_closed_and_come_back(
    world: World, room_id: str
) -> None:
    ana, juan = await world.connect("ana"), await world.connect("juan")
    mend = break_(world.site.storage, "memberships")
    await world.sessions.handle(MembershipChanged(room_id=room_id, user_ids=frozenset(["ana"])))
    mend()
    assert connection_of(ana).ending() == ["close"]
    assert connection_of(juan).ending() == []
    assert codes(ana) == []


async def test_other_notices_do_nothing_to_a_session(world: World, room_id: str) -> None:
    session = await world.connect("ana")
    before = list(connection_of(session).journal)
    for notice in (RoomChanged(room_id=room_id), ProfileChanged(user_id="ana")):
        await world.sessions.handle(notice)
    assert connection_of(session).journal == before


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_at_once_sessions_end_in_the_rooms_of_the_store(site: Site, seed: int) -> None:
    """And when all are gone, nothing is left of them."""
    chance, world = random.Random(seed), World(site)
    people = ["ana", "eva", "leo"]
    await site.people("juan", *people)
    room_ids = [await site.group("juan", *people[:count]) for count in range(4)]
    live: list[Session] = []

    async def come_and_go() -> None:
        for _ in range(10):
            session = await world.connect(chance.choice(people))
            if chance.random() < 0.3:
                world.sessions.remove(session)
                session.connection.close()
            else:
                live.append(session)

    async def move() -> None:
        for _ in range(10):
            user_id, room_id = chance.choice(people), chance.choice(room_ids)
            change = chance.choice([site.rooms.add_member, site.rooms.remove_member])
            try:
                await change("juan", room_id, user_id)
            except NotFoundError:
                await asyncio.sleep(0)

    await within_patience(asyncio.gather(*(come_and_go() for _ in range(3)), *(move() for _ in range(4))))
    for session in live:
        stored = await site.rooms.incarnations(session.user_id)
        assert rooms_of(session) == {user_channel(session.user_id), *map(room_channel, stored)}
    for session in live:
        world.sessions.remove(session)
    assert (world.sessions._people, world.sessions._sessions) == ({}, {})


async def test_a_drain_tells_everybody_when_and_closes_one_after_the_other(world: World) -> None:
    live = [await world.connect(user_id) for user_id in ("ana", "juan", "eva", "ana")]
    waiting = world.session("ana")
    await world.sessions.admit(waiting)
    draining = asyncio.create_task(world.sessions.drain(8))
    closed = []
    for _ in range(4):
        await world.site.clock.elapse(0)
        closed.append(sum(len(connection_of(each).ending()) for each in live))
        await world.site.clock.elapse(2)
    await within_patience(draining)
    assert closed == [1, 2, 3, 4]
    told = [connection_of(each).emitted("server_draining") for each in live]
    assert sorted(data.reconnect_in_ms for (data,) in told if isinstance(data, ServerDraining)) == [
        0,
        2000,
        4000,
        6000,
    ]
    assert connection_of(waiting).emitted("server_draining") == []


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (TokenExpiredError("a"), "refresh"),
        (TokenRevokedError("a"), "never"),
        (UnauthenticatedError("a"), "never"),
    ],
)
def test_only_a_token_that_expired_is_worth_refreshing(error: ChatError, retry: str) -> None:
    assert retry_after(error) == retry
