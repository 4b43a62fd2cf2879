"""What is going on in a room in the moment in which somebody's right to do it ends."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from server.domain.errors import NotFoundError
from server.events import DeleteMessage
from server.storage.sqlite.database import Connection
from tests.harness import PATIENCE_S
from tests.services import Site, hold_call

Ending = Callable[[Site, str], Awaitable[object]]

ENDINGS: dict[str, tuple[str, Ending]] = {
    "leaving": ("room_left", lambda site, room_id: site.rooms.leave("ana", room_id)),
    "removing": ("room_left", lambda site, room_id: site.rooms.remove_member("juan", room_id, "ana")),
    "deleting the room": ("room_left", lambda site, room_id: site.rooms.delete("juan", room_id)),
    "setting the role": (
        "room_updated",
        lambda site, room_id: site.rooms.set_role("juan", room_id, "ana", "member"),
    ),
}


@pytest.fixture
async def room_id(site: Site) -> str:
    """A room of Juan's with Ana, an admin."""
    await site.people("juan", "ana", "eva")
    room_id = await site.group("juan", "ana", kind="public")
    await site.rooms.set_role("juan", room_id, "ana", "admin")
    site.publisher.forget()
    return room_id


@pytest.mark.parametrize("name", ENDINGS)
async def test_what_one_may_do_no_more_is_over_when_that_is_answered(
    name: str, site: Site, room_id: str
) -> None:
    told, end = ENDINGS[name]
    message = await site.say("juan", room_id)
    gate = hold_call(site.storage, "append")
    wanted = DeleteMessage(room_id=room_id, message_id=message.id)
    acting = asyncio.create_task(site.messages.delete("ana", wanted))
    await gate.reached()
    ending = asyncio.ensure_future(end(site, room_id))
    await site.publisher.until_told(told)
    for _ in range(5):
        await site.storage.ping()
    assert not ending.done()
    gate.open()
    await ending
    assert (await site.storage.heads([room_id]))[room_id].rev == 2
    assert (await acting).message.deleted_at is not None


async def test_what_is_refused_does_not_hold_up_a_removal(site: Site, room_id: str) -> None:
    with pytest.raises(NotFoundError):
        await site.messages.delete("ana", DeleteMessage(room_id=room_id, message_id="no-such"))
    async with asyncio.timeout(1):
        await site.rooms.leave("ana", room_id)
    with pytest.raises(NotFoundError):
        await site.say("ana", room_id)


async def test_who_enters_a_room_that_is_being_deleted_is_told_that_it_is_gone(
    site: Site, room_id: str
) -> None:
    gate = hold_call(site.storage, "update_room")
    deleting = asyncio.create_task(site.rooms.delete("juan", room_id))
    await gate.reached()
    entering = asyncio.create_task(site.rooms.join("eva", room_id))
    for _ in range(5):
        await site.storage.ping()
    gate.open()
    await deleting
    (outcome,) = await asyncio.gather(entering, return_exceptions=True)
    left = {user_id for told in site.publisher.told("room_left") for user_id in told.users}
    assert isinstance(outcome, NotFoundError) or "eva" in left


@pytest.mark.parametrize("entering", ["joining", "being added"])
async def test_who_is_said_to_be_in_a_room_already_is_not_removed_by_what_was_asked_before(
    site: Site, room_id: str, entering: str
) -> None:
    """The removal has begun, and nobody waits for it any more."""
    begun, go_on = threading.Event(), threading.Event()

    def remove(connection: Connection) -> None:
        connection.execute("DELETE FROM members WHERE user_id = 'ana'")
        begun.set()
        assert go_on.wait(PATIENCE_S)

    removing = asyncio.create_task(site.storage._database.write(remove))
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    call = (
        site.rooms.join("ana", room_id)
        if entering == "joining"
        else site.rooms.add_member("juan", room_id, "ana")
    )
    answering = asyncio.create_task(call)
    for _ in range(20):
        await site.storage.ping()
    go_on.set()
    await asyncio.gather(removing, answering)
    assert await site.storage.find_member(room_id, "ana") is not None
