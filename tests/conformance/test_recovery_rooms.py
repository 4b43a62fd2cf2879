"""What a recovered client is given: what it would have been sent, by the times that it was in each room."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.wire import Club, Returning, Site, running


@pytest.fixture
async def club() -> Club:
    club = Club()
    club.rooms["ana"] = {"r": "1", "s": "1"}
    return club


@pytest.fixture
async def site(club: Club) -> AsyncIterator[Site]:
    async with running(application=club) as site:
        yield site


@pytest.fixture
async def client(site: Site) -> Returning:
    """In the rooms r and s. It reads nothing by itself: what it is sent now, it has missed."""
    client = Returning(site)
    await client.come()
    return client


async def lost(site: Site, client: Returning) -> None:
    client.drop()
    await site.application.until("disconnected", count=len(site.application.named("connect")))


async def test_who_was_removed_while_away_gets_nothing_of_that_room(
    site: Site, club: Club, client: Returning
) -> None:
    site.emit("said", "not received in time", "r")
    await lost(site, client)
    site.emit("said", "a secret", "r")
    site.server.emit("said", "both", namespace="/chat", rooms=["r", "s"])
    del club.rooms["ana"]["r"]
    assert await client.come()
    site.emit("said", "a secret", "r")
    site.emit("said", "more", "s")
    assert await client.catch_up() == ["both", "more"]


async def test_who_was_removed_and_added_again_gets_nothing_said_before(
    site: Site, club: Club, client: Returning
) -> None:
    await lost(site, client)
    site.emit("said", "a secret", "r")
    site.emit("said", 1, "s")
    club.rooms["ana"]["r"] = "2"
    assert await client.come()
    site.emit("said", 2, "r")
    assert await client.catch_up() == [1, 2]
    await lost(site, client)
    site.emit("said", 3, "r")
    assert await client.come()
    assert await client.catch_up() == [1, 2, 3]


async def test_a_room_that_is_new_to_it_gives_nothing_said_before(
    site: Site, club: Club, client: Returning
) -> None:
    await lost(site, client)
    site.emit("said", "before", "t")
    club.rooms["ana"]["t"] = "1"
    assert await client.come()
    site.emit("said", 1, "t")
    await lost(site, client)
    site.emit("said", 2, "t")
    assert await client.come()
    assert await client.catch_up() == [1, 2]


async def test_what_was_said_in_a_room_until_it_left_is_given(
    site: Site, club: Club, client: Returning
) -> None:
    connection = site.connection(client.sid)
    site.emit("said", 1, "r")
    connection.leave("r")
    site.emit("said", "a secret", "r")
    connection.enter("r", tag="2")
    site.emit("said", 2, "r")
    connection.leave("r")
    site.emit("said", "a secret", "r")
    site.emit("said", 3, "s")
    await lost(site, client)
    site.emit("said", "a secret", "r")
    del club.rooms["ana"]["r"]
    assert await client.come()
    assert await client.catch_up() == [1, 2, 3]


async def test_who_goes_through_very_many_rooms_misses_nothing(site: Site, client: Returning) -> None:
    connection = site.connection(client.sid)
    for n in range(300):
        connection.enter(f"room {n}")
        site.emit("said", n, f"room {n}")
        connection.leave(f"room {n}")
        site.emit("said", "a secret", f"room {n}")
    await lost(site, client)
    assert await client.come()
    assert await client.catch_up() == list(range(300))


async def test_what_was_sent_to_it_alone_is_given(site: Site, client: Returning) -> None:
    other = Returning(site, "eve")
    await other.come()
    site.connection(client.sid).emit("said", 1)
    site.connection(other.sid).emit("said", "to another")
    site.emit("said", "its id is no room", client.sid)
    site.emit("said", 3, "r")
    client.drop()
    await site.application.until("disconnected")
    site.emit("said", 4, "r")
    assert await client.come()
    site.connection(client.sid).emit("said", 5)
    assert await client.catch_up() == [1, 3, 4, 5]


async def test_whom_an_emit_left_out_is_left_out_again(site: Site, client: Returning) -> None:
    for n in range(2):
        site.server.emit("said", ("s", n), namespace="/chat", rooms=["r"], except_rooms=["s"])
        site.server.emit("said", ("t", n), namespace="/chat", rooms=["r"], except_rooms=["t"])
        if n == 0:
            await lost(site, client)
    assert await client.come()
    assert await client.catch_up() == [["t", 0], ["t", 1]]


async def test_an_event_to_several_of_its_rooms_is_given_once(site: Site, client: Returning) -> None:
    await lost(site, client)
    for n in range(3):
        site.server.emit("said", n, namespace="/chat", rooms=["s", "r", "elsewhere"])
    assert await client.come()
    assert await client.catch_up() == [0, 1, 2]


async def test_binary_events_come_again_with_their_attachments(site: Site, client: Returning) -> None:
    await lost(site, client)
    site.emit("file", {"parts": [b"\x00\x01", {"more": b"\xff"}], "n": 1}, "r")
    site.emit("said", 2, "r")
    assert await client.come()
    await client.catch_up()
    placeholders = [{"_placeholder": True, "num": 0}, {"more": {"_placeholder": True, "num": 1}}]
    assert client.heard == [
        ["file", {"parts": placeholders, "n": 1}, b"\x00\x01", b"\xff"],
        ["said", 2],
    ]


async def test_volatile_events_carry_the_present_offset_and_do_not_come_again(
    site: Site, client: Returning
) -> None:
    site.emit("said", 1, "r")
    await client.hear()
    first = client.offset
    site.emit("typing", 2, "r", volatile=True)
    await client.hear()
    assert client.offset == first
    await lost(site, client)
    site.emit("typing", 3, "r", volatile=True)
    site.emit("said", 4, "r")
    site.emit("typing", 5, "r", volatile=True)
    assert await client.come()
    assert await client.catch_up() == [1, 2, 4]
