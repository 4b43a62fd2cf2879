import asyncio
from collections.abc import AsyncIterator

import pytest

from server.realtime import packets
from server.realtime.packets import UnencodableError
from server.realtime.server import Connection, Options, RefusedError, Server
from tests.conformance.wire import Recorder, Site, Socket, running


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


async def member(site: Site, *rooms: str) -> Socket:
    socket = await site.connected()
    for number, room in enumerate(rooms):
        await socket.send(f'42/chat,{number}["join","{room}"]')
        assert await socket.receive() == f'43/chat,{number}["{room}"]'
    return socket


async def test_an_event_reaches_the_union_of_rooms_once_and_not_the_exceptions(site: Site) -> None:
    both = await member(site, "a", "b")
    one = await member(site, "b")
    excepted = await member(site, "a", "quiet")
    outside = await member(site, "c")
    site.server.emit("hi", {"n": 1}, namespace="/chat", rooms=["a", "b"], except_rooms=["quiet"])
    site.server.emit("end", {}, namespace="/chat", rooms=["a", "b", "c"])
    for socket in (both, one):
        assert [await socket.receive(), await socket.receive()] == [
            '42/chat,["hi",{"n":1}]',
            '42/chat,["end",{}]',
        ]
    for socket in (excepted, outside):
        assert await socket.receive() == '42/chat,["end",{}]'


async def test_a_packet_is_encoded_once_for_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = [await member(site, "a") for _ in range(5)]
    calls = []
    encode_event = packets.encode_event

    def counted(namespace: str, event: str, data: object) -> packets.EventPacket:
        calls.append(event)
        return encode_event(namespace, event, data)

    monkeypatch.setattr(packets, "encode_event", counted)
    site.emit("hi", {}, "a")
    site.emit("nobody hears", {}, "empty room")
    for socket in sockets:
        assert await socket.receive() == '42/chat,["hi",{}]'
    assert calls == ["hi"]


async def recoverable(site: Site, *rooms: str) -> tuple[Socket, str]:
    """A member that asked for recovery, and its sid."""
    socket = await site.socket()
    await socket.send('40/chat,{"recovery":true,"user":"ana"}')
    sid = (await socket.receive_packet("40/chat,"))["sid"]
    for number, room in enumerate(rooms):
        await socket.send(f'42/chat,{number}["join","{room}"]')
        assert await socket.receive() == f'43/chat,{number}["{room}"]'
    return socket, sid


async def test_events_are_kept_only_while_somebody_may_ask_for_them(site: Site) -> None:
    recovery = site.server.namespaces["/chat"].recovery
    plain = await member(site, "a")
    site.emit("one", {}, "a")
    assert recovery.log.head == 0
    socket, _ = await recoverable(site, "a")
    for event, volatile in (("two", False), ("three", True), ("four", False)):
        site.emit(event, {}, "a", volatile=volatile)
    site.emit("nobody is there now", {}, "b")
    site.emit("nobody will ask for it", {}, "b", volatile=True)
    assert recovery.log.head == 3
    heard = [await socket.receive() for _ in range(3)]
    assert heard == [
        f'42/chat,["two",{{}},"{recovery.offset(1)}"]',
        f'42/chat,["three",{{}},"{recovery.offset(1)}"]',
        f'42/chat,["four",{{}},"{recovery.offset(2)}"]',
    ]
    for event in ("one", "two", "three", "four"):
        assert await plain.receive() == f'42/chat,["{event}",{{}}]'
    await socket.send("41/chat,")
    await site.application.until("disconnected")
    site.emit("five", {}, "a")
    assert (recovery.log.head, recovery.log.dropped) == (3, 3)


async def test_a_connection_that_is_away_is_listed_until_it_is_forgotten(site: Site) -> None:
    sockets, sids = zip(*[await recoverable(site) for _ in range(3)], strict=True)
    site.server.forget("/chat", sids[0])
    for socket in sockets:
        await socket.websocket.close()
    await site.application.until("disconnected", count=3)
    assert set(site.server.away("/chat", "ana")) == {sids[1], sids[2]}
    assert site.server.away("/chat", "somebody") == []
    site.server.forget("/chat", sids[1])
    assert site.server.away("/chat", "ana") == [sids[2]]


async def test_an_emit_names_its_rooms(site: Site) -> None:
    with pytest.raises(ValueError, match="rooms"):
        site.server.emit("hi", {}, namespace="/chat", rooms=[])
    with pytest.raises(ValueError, match="rooms"):
        site.server.emit("hi", {}, namespace="/chat", rooms="room")
    with pytest.raises(ValueError, match="rooms"):
        site.server.emit("hi", {}, namespace="/chat", rooms=["room"], except_rooms="room")


async def test_an_emit_that_cannot_be_encoded_is_the_callers_to_know(site: Site) -> None:
    await member(site, "a")
    with pytest.raises(UnencodableError):
        site.emit("hi", {"content": "\ud800"}, "a")


async def test_connections_are_found_by_room_and_counted(site: Site) -> None:
    socket = await member(site, "a")
    await member(site)
    (found,) = site.server.connections_in("/chat", "a")
    assert found is site.application.connections[0]
    assert site.server.connections_in("/chat", "b") == []
    assert site.server.connection_count == 2
    await socket.send("41/chat,")
    await site.application.until("disconnected")
    assert site.server.connections_in("/chat", "a") == []
    assert site.server.connection_count == 1


async def test_a_connection_that_is_being_decided_on_is_found_already() -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    async def decide(connection: Connection, _auth: object) -> None:
        connection.enter("a")
        entered.set()
        await gate.wait()

    async with running(application=Recorder(decide)) as site:
        socket = await site.socket()
        await socket.send("40/chat,")
        await entered.wait()
        (found,) = site.server.connections_in("/chat", "a")
        site.emit("hi", {}, "a")
        gate.set()
        assert await socket.receive() == f'40/chat,{{"sid":"{found.sid}"}}'
        assert await socket.receive() == '42/chat,["hi",{}]'


async def test_the_refusal_of_other_namespaces_can_be_worded(site: Site) -> None:
    socket = await site.socket()
    await socket.send("40/x,")
    assert await socket.receive() == '44/x,{"message":"Invalid namespace"}'
    site.server.register("/more", Recorder(), unknown_namespace_message="connect to /chat")
    await socket.send("40/x,")
    assert await socket.receive_packet("44/x,") == {
        "message": "connect to /chat",
        "data": {"code": "not_found", "retry": "never"},
    }
    site.server.register(
        "/more", Recorder(), unknown_namespace_message="no", unknown_namespace_data={"code": "gone"}
    )
    await socket.send("40/x,")
    assert await socket.receive_packet("44/x,") == {"message": "no", "data": {"code": "gone"}}


def test_a_namespace_begins_with_a_slash() -> None:
    with pytest.raises(ValueError, match="slash"):
        Server(Options()).register("chat", Recorder())


async def test_close_ends_every_connection_and_leaves_nothing(site: Site) -> None:
    sockets = [await member(site, "a") for _ in range(3)]
    poller = await site.poller()
    await poller.connect()
    polling = asyncio.create_task(poller.poll())
    await sockets[0].send('42/chat,["wait"]')
    await site.application.until("event", count=4)
    closing = asyncio.create_task(site.server.close())
    for socket in sockets:
        assert await socket.closed() == 1000
    assert await polling == ["6"]
    assert not closing.done()
    site.application.gate.set()
    await closing
    assert site.application.named("disconnected") == [("server shutting down",)] * 4
    assert site.is_empty()
    assert (await site.http.get(f"{site.url}?EIO=4&transport=polling")).status == 503


async def test_close_cancels_what_does_not_end_and_the_end_is_still_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.realtime.server._CLOSE_TIMEOUT_S", 0.05)
    async with running() as site:
        socket = await site.connected()
        await socket.send('42/chat,["wait"]')
        await site.application.until("event")
        closed = asyncio.create_task(socket.closed())
        await site.server.close()
        assert await closed == 1000
        assert site.application.named("waited") == []
        assert site.application.named("disconnected") == [("server shutting down",)]
        assert site.is_empty()


async def test_close_waits_for_clients_also_when_others_came_and_went_before(site: Site) -> None:
    first = await site.connected()
    await first.websocket.close()
    await site.emptied()
    socket, poller = await member(site, "a"), await site.poller()
    site.connection(await poller.connect()).enter("a")
    site.emit("last", {}, "a")
    closing = asyncio.create_task(site.server.close())
    assert await socket.receive() == '42/chat,["last",{}]'
    assert await socket.closed() == 1000
    assert await poller.poll() == ['42/chat,["last",{}]']
    await closing


async def test_close_of_a_server_without_clients_returns_at_once(site: Site) -> None:
    await asyncio.wait_for(site.server.close(), 0.5)


async def test_a_refused_client_may_try_again(site: Site) -> None:
    async def refuse(_connection: Connection, _auth: object) -> None:
        raise RefusedError("no", {"code": "token_invalid", "retry": "never"})

    site.application.on_connect = refuse
    socket = await site.socket()
    await socket.send("40/chat,")
    assert (await socket.receive_packet("44/chat,"))["data"] == {"code": "token_invalid", "retry": "never"}
    site.application.on_connect = None
    await socket.connect()
    assert site.server.connection_count == 1
