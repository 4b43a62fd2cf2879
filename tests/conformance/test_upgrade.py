"""From long-polling to a websocket, and clients that do not go through with it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conformance.wire import Poller, Site, Socket, eventually, running


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


async def probed(site: Site, poller: Poller) -> Socket:
    socket = await site.socket(sid=poller.handshake["sid"])
    await socket.send("2probe")
    assert await socket.receive() == "3probe"
    return socket


async def test_a_client_moves_to_a_websocket_and_loses_nothing(site: Site) -> None:
    poller = await site.poller()
    assert poller.handshake["upgrades"] == ["websocket"]
    await poller.connect()
    await poller.post('42/chat,["join","r"]')
    socket = await probed(site, poller)
    site.emit("during", {}, "r")
    assert await poller.poll() == ["6"]
    await socket.send("5", '42/chat,1["echo"]')
    assert [await socket.receive(), await socket.receive()] == ['42/chat,["during",{}]', "43/chat,1[[]]"]
    assert site.application.named("disconnected") == []


async def test_the_poll_that_is_held_open_is_released(site: Site) -> None:
    poller = await site.poller()
    polling = asyncio.create_task(poller.poll())
    await probed(site, poller)
    assert await polling == ["6"]


async def test_a_poll_goes_on_until_the_probe(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    await site.socket(sid=poller.handshake["sid"])
    polling = asyncio.create_task(poller.poll())
    await poller.post('42/chat,1["echo"]')
    assert await polling == ["43/chat,1[[]]"]


@pytest.mark.parametrize("last", ["4x", "2probe", "5x", "close", "drop"])
async def test_an_upgrade_that_fails_leaves_polling_as_it_was(site: Site, last: str) -> None:
    poller = await site.poller()
    await poller.connect()
    await poller.post('42/chat,["join","r"]')
    for attempt in range(2):
        socket = await probed(site, poller)
        site.emit("during", attempt, "r")
        if last == "drop":
            connection = socket.websocket._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.abort()
        elif last == "close":
            await socket.websocket.close()
        else:
            await socket.send(last)
            await socket.closed()
        await eventually(lambda: site.transport()._awaited is None)
        assert await poller.poll() == [f'42/chat,["during",{attempt}]']
    assert await poller.post('42/chat,1["echo"]') == (200, "ok")
    assert await poller.poll() == ["43/chat,1[[]]"]


async def test_a_websocket_that_never_probes_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.transport._UPGRADE_TIMEOUT_S", 0.05)
    poller = await site.poller()
    socket = await site.socket(sid=poller.handshake["sid"])
    assert await socket.closed() == 1000
    await poller.connect()


async def test_a_websocket_that_is_probing_ends_with_its_session(site: Site) -> None:
    poller = await site.poller()
    socket = await probed(site, poller)
    await poller.post("1")
    assert await socket.closed() == 1000
    await site.emptied()


async def test_one_websocket_at_a_time_may_take_over(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    first = await probed(site, poller)
    second = await site.socket(sid=poller.handshake["sid"])
    assert await second.closed() == 1000
    await first.send("5", '42/chat,1["echo"]')
    assert await first.receive() == "43/chat,1[[]]"


async def test_after_the_upgrade_other_requests_are_refused(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    socket = await probed(site, poller)
    await socket.send("5", '42/chat,1["echo"]')
    assert await socket.receive() == "43/chat,1[[]]"
    assert (await poller.try_poll())[0] == 400
    assert (await poller.post("4x"))[0] == 400
    another = await site.socket(sid=poller.handshake["sid"])
    assert await another.closed() == 1000
    await socket.send('42/chat,2["echo"]')
    assert await socket.receive() == "43/chat,2[[]]"


async def test_a_websocket_that_took_over_ends_the_session_when_it_ends(site: Site) -> None:
    poller = await site.poller()
    await poller.connect()
    socket = await probed(site, poller)
    await socket.send("5")
    await socket.websocket.close()
    assert await site.application.until("disconnected") == [("transport close",)]
    await site.emptied()
