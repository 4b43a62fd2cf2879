"""What sessions learn by reading anew, when notices of it may have been missed."""

import pytest

from namespaces.sessions import room_channel, user_channel
from server.domain.errors import UnavailableError
from server.domain.models import Login
from server.views import RoomJoined, RoomLeft
from tests.builders import member
from tests.services import Site, break_
from tests.unit.namespaces.world import World, codes, connection_of


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
    assert session.connection.rooms == channels
    connection = connection_of(session)
    assert connection.emitted("room_left") == [RoomLeft(room_id=left, reason="removed")]
    assert connection.emitted("room_joined") == [RoomJoined(room_id=joined)]
    await world.sessions.refresh()
    assert len(connection.emitted("room_left") + connection.emitted("room_joined")) == 2


async def test_who_is_out_of_a_room_unheard_is_found_by_settling_it(world: World) -> None:
    room_id, other = [await world.site.group("juan", "ana", "eva") for _ in range(2)]
    ana, eva = [await world.connect(each) for each in ("ana", "eva")]
    for each, user_id in ((room_id, "ana"), (other, "eva")):
        await world.site.storage.remove_member(each, user_id)
    await world.sessions.settle(room_id)
    assert connection_of(ana).emitted("room_left") == [RoomLeft(room_id=room_id, reason="removed")]
    assert room_channel(room_id) not in ana.connection.rooms
    assert eva.connection.rooms >= {room_channel(room_id), room_channel(other)}


async def test_a_session_of_one_room_is_told_of_that_room_alone(world: World) -> None:
    room_id, other = [await world.site.group("juan", "ana") for _ in range(2)]
    session = await world.connect("ana", room_id=room_id)
    connection = connection_of(session)
    for each in (other, room_id):
        await world.site.storage.remove_member(each, "ana")
    await world.sessions.refresh()
    assert session.connection.rooms == frozenset()
    await world.site.storage.add_member(member(room_id, "ana"))
    await world.sessions.refresh()
    assert session.connection.rooms == {room_channel(room_id)}
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
