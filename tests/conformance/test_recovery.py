"""Connection state recovery on the wire: who comes back in time is who it was, and missed nothing."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from server.realtime.server import Options, RecoveryOptions
from tests.conformance.wire import Club, Returning, Site, eventually, running

QUICK = Options(ping_interval_s=0.05, ping_timeout_s=0.05)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(application=Club()) as site:
        yield site


async def lost(site: Site, client: Returning) -> None:
    """The client loses its connection, and the server has noticed."""
    told = len(site.application.named("disconnected"))
    client.drop()
    await site.application.until("disconnected", count=told + 1)


@pytest.mark.parametrize("asked", [True, "true"])
async def test_who_asks_is_given_a_pid_and_an_offset_with_every_event(site: Site, asked: object) -> None:
    socket = await site.socket()
    await socket.send(f"40/chat,{json.dumps({'user': 'ana', 'recovery': asked})}")
    answer = await socket.receive_packet("40/chat,")
    assert set(answer) == {"sid", "pid"}
    assert answer["pid"] != answer["sid"]
    site.emit("said", {"n": 1}, "r")
    site.connection(answer["sid"]).emit("own", None)
    first, second = await socket.receive_packet("42/chat,"), await socket.receive_packet("42/chat,")
    assert (first[:2], second[:2]) == (["said", {"n": 1}], ["own", None])
    assert len(first) == len(second) == 3
    assert isinstance(first[2], str)
    assert first[2] != second[2]
    await socket.send('42/chat,1["echo"]')
    assert await socket.receive() == "43/chat,1[[]]", "an ack has none"


@pytest.mark.parametrize("asked", [None, False, 1, 0, "yes", "True", [], {}, [True]], ids=repr)
async def test_who_does_not_ask_is_given_neither(site: Site, asked: object) -> None:
    socket = await site.socket()
    await socket.send(f"40/chat,{json.dumps({'user': 'ana', 'recovery': asked})}")
    assert set(await socket.receive_packet("40/chat,")) == {"sid"}
    site.emit("said", 1, "r")
    assert await socket.receive() == '42/chat,["said",1]'


async def test_where_recovery_is_off_nobody_is_given_any() -> None:
    options = Options(recovery=RecoveryOptions(max_away_s=0))
    async with running(options, Club()) as site:
        socket = await site.socket()
        await socket.send('40/chat,{"user":"ana","recovery":true,"pid":"x","offset":"y"}')
        assert set(await socket.receive_packet("40/chat,")) == {"sid"}
        site.emit("said", 1, "r")
        assert await socket.receive() == '42/chat,["said",1]'


async def test_the_offer_is_nothing_to_the_application(site: Site) -> None:
    """The pid above all is the engine's and the client's alone."""
    client = Returning(site)
    await client.come()
    site.emit("said", 1, "r")
    await client.catch_up()
    await lost(site, client)
    assert await client.come()
    auth = {"user": "ana", "recovery": True}
    assert site.application.named("connect") == [(auth,), (auth,)]


async def test_after_a_transport_close_it_goes_on(site: Site) -> None:
    client, other = Returning(site), await site.socket()
    await other.connect(auth={"user": "eve"})
    for turn in range(3):
        assert await client.come() is (turn > 0)
        site.emit("said", (turn, "live"), "r")
        await client.catch_up()
        if turn == 1:
            await client.socket.websocket.close()
            await site.application.until("disconnected", count=2)
        else:
            await lost(site, client)
        site.emit("said", (turn, "missed"), "r")
        site.emit("said", (turn, "elsewhere"), "another room")
    assert await client.come()
    assert await client.catch_up() == [[n, when] for n in range(3) for when in ("live", "missed")]
    assert site.application.named("disconnected") == [("transport close",)] * 3
    heard = [await other.receive() for _ in range(6)]
    assert heard[-1] == '42/chat,["said",[2,"missed"]]', "and others hear nothing twice"


async def test_after_a_transport_error_it_goes_on(site: Site) -> None:
    client, poller = Returning(site), await site.poller()
    await poller.post(f"40/chat,{json.dumps(client.ticket())}")
    (answer,) = await poller.poll()
    assert not client.accepted(json.loads(answer.removeprefix("40/chat,")))
    site.emit("said", 1, "r")
    (said,) = await poller.poll()
    client.note(said)
    held = asyncio.create_task(poller.try_poll())
    await eventually(lambda: site.transport()._is_polled)
    assert (await poller.try_poll())[0] == 400
    assert await held == (200, "1")
    assert await site.application.until("disconnected") == [("transport error",)]
    site.emit("said", 2, "r")
    assert await client.come()
    assert await client.catch_up() == [1, 2]


async def test_after_a_ping_timeout_it_goes_on() -> None:
    async with running(QUICK, Club()) as site:
        client = Returning(site)
        await client.come()
        client.socket.is_answering = False
        assert await site.application.until("disconnected") == [("ping timeout",)]
        site.emit("said", 1, "r")
        assert await client.come()
        assert await client.catch_up() == [1]


async def test_after_a_close_by_the_server_it_goes_on(site: Site) -> None:
    client = Returning(site)
    await client.come()
    site.emit("said", 1, "r")
    site.connection(client.sid).close()
    site.emit("said", 2, "r")
    await client.hear()
    assert await client.socket.closed() == 1000
    assert await client.come()
    assert await client.catch_up() == [1, 2]
    assert await site.application.until("disconnected") == [("forced close",)]


@pytest.mark.parametrize("side", ["client", "server"])
async def test_after_a_disconnect_of_either_side_it_begins_anew(site: Site, side: str) -> None:
    client = Returning(site)
    await client.come()
    if side == "client":
        await client.socket.send("41/chat,")
    else:
        site.connection(client.sid).disconnect()
        assert await client.socket.receive() == "41/chat,"
    assert await site.application.until("disconnected") == [(f"{side} namespace disconnect",)]
    client.drop()
    site.emit("said", 1, "r")
    assert not await client.come()
    assert await client.catch_up() == []


@pytest.mark.parametrize("broken", ["42/chat,[]", "9", '42/elsewhere,["x"]'])
async def test_after_a_breach_of_the_protocol_it_begins_anew(site: Site, broken: str) -> None:
    client = Returning(site)
    await client.come()
    await client.socket.send(broken)
    assert await site.application.until("disconnected") == [("parse error",)]
    assert not await client.come()


async def test_who_never_heard_an_event_is_given_all_since_it_connected(site: Site) -> None:
    early = Returning(site)
    await early.come()
    site.emit("said", "before", "r")
    client = Returning(site)
    await client.come()
    site.emit("said", 1, "r")
    await lost(site, client)
    site.emit("said", 2, "r")
    assert client.offset is None
    assert await client.come()
    assert await client.catch_up() == [1, 2]


async def test_the_offset_of_an_earlier_connection_is_none_of_this_one(site: Site) -> None:
    """A client keeps it until its first event."""
    client = Returning(site)
    await client.come()
    site.emit("said", 1, "r")
    await client.catch_up()
    await client.socket.send("41/chat,")
    await site.application.until("disconnected")
    site.emit("said", "while it was no member", "r")
    assert not await client.come()
    site.emit("said", 2, "r")
    await lost(site, client)
    assert await client.come()
    assert await client.catch_up() == [1, 2]


async def test_a_connection_that_only_seems_open_is_taken_over(site: Site) -> None:
    client = Returning(site)
    await client.come()
    old = client.socket
    site.emit("said", 1, "r")
    await client.catch_up()
    for n in (2, 3):
        site.emit("said", n, "r")
    assert await client.come()
    site.emit("said", 4, "r")
    assert await client.catch_up() == [1, 2, 3, 4]
    assert site.application.named("disconnected") == [("transport close",)]
    await old.closed()
    await client.socket.send('42/chat,1["echo"]')
    assert await client.socket.receive() == "43/chat,1[[]]"


async def test_who_stays_away_for_too_long_begins_anew() -> None:
    async with running(Options(recovery=RecoveryOptions(max_away_s=0.05)), Club()) as site:
        client = Returning(site)
        await client.come()
        await lost(site, client)
        site.emit("said", 1, "r")
        await eventually(lambda: not site.server.away("/chat", "ana"))
        assert not await client.come()
        assert await client.catch_up() == []


@pytest.mark.parametrize("pid", ["", "x", "é", 7, None, True, [], {"a": 1}], ids=repr)
async def test_a_pid_that_is_none_begins_anew(site: Site, pid: object) -> None:
    client = Returning(site)
    await client.come()
    await lost(site, client)
    stranger = Returning(site)
    stranger.pid = pid
    assert not await stranger.come()
    assert await client.come(), "and it spoils nothing"


@pytest.mark.parametrize(
    "forged",
    [
        "{epoch}.7fffffff",
        "{epoch}.{beyond}",
        "another1.{here}",
        "{here}",
        "{epoch}.",
        "{epoch}.-1",
        "{epoch}. 1",
        "{epoch}.1\n",
        "{epoch}.1_0",
        "{epoch}.٣",
        "{epoch}.00000000000000001",
        "",
        1,
        True,
        [],
        {"a": 1},
    ],
    ids=repr,
)
async def test_an_offset_that_is_none_begins_anew(site: Site, forged: object) -> None:
    client = Returning(site)
    await client.come()
    site.emit("said", 1, "r")
    await client.catch_up()
    await lost(site, client)
    site.emit("said", 2, "r")
    epoch, _, here = str(client.offset).rpartition(".")
    beyond = f"{int(here, 16) + 2:x}"
    is_text = isinstance(forged, str)
    client.offset = str(forged).format(epoch=epoch, here=here, beyond=beyond) if is_text else forged
    assert not await client.come()
    client.offset = None
    assert await client.catch_up() == [1]


async def test_nobody_takes_the_connection_of_another_user(site: Site) -> None:
    ana, eve = Returning(site, "ana"), Returning(site, "eve")
    await ana.come()
    site.emit("said", 1, "r")
    await ana.catch_up()
    for is_away in (False, True):
        if is_away:
            await lost(site, ana)
        eve.sid, eve.pid, eve.offset = ana.sid, ana.pid, ana.offset
        assert not await eve.come()
        assert eve.sid != ana.sid
        if not is_away:
            await ana.socket.send('42/chat,1["echo"]')
            assert await ana.socket.receive() == "43/chat,1[[]]", "it was not disturbed"
    site.emit("said", 2, "r")
    assert await ana.come()
    assert await ana.catch_up() == [1, 2]
    assert await eve.catch_up() == [2]
