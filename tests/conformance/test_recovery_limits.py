"""How much a client may have missed, how it is given it, and that nothing is left behind."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, WSMsgType

from server.realtime.connection import Connection
from server.realtime.server import Options, RecoveryOptions
from tests.conformance.wire import TIMEOUT_S, Club, Poller, Returning, Site, Socket, eventually, running

LARGE = "x" * 65_000
# So little that it is the client who takes what it is sent, and not the system in between.
SEND_BUFFER_BYTES = 262144


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(application=Club(), send_buffer_bytes=SEND_BUFFER_BYTES) as site:
        yield site


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    """Of connections that served nothing before."""
    async with ClientSession() as http:
        yield http


async def away(site: Site, client: Returning) -> None:
    """The client is connected, has heard all, and has lost its connection."""
    await client.come()
    await client.catch_up()
    await lost(site, client)


async def lost(site: Site, client: Returning) -> None:
    """The client loses its connection, and the server has noticed."""
    told = len(site.application.named("disconnected"))
    client.drop()
    await site.application.until("disconnected", count=told + 1)


def is_replaying(connection: Connection) -> bool:
    return connection._phase.name == "REPLAYING"


@pytest.mark.parametrize(
    ("caps", "fits", "is_too_much"),
    [
        (RecoveryOptions(max_log_entries=5), [1] * 5, [1] * 6),
        (RecoveryOptions(max_log_bytes=10_000), ["x" * 1_000] * 6, ["x" * 1_000] * 7),
    ],
    ids=["entries", "bytes"],
)
async def test_past_what_is_kept_it_begins_anew(
    caps: RecoveryOptions, fits: list[object], is_too_much: list[object]
) -> None:
    for missed, is_recovered in ((fits, True), (is_too_much, False)):
        async with running(Options(recovery=caps), Club()) as site:
            client = Returning(site)
            await away(site, client)
            for data in missed:
                site.emit("said", data, "r")
            assert await client.come() is is_recovered
            site.emit("said", "live", "r")
            assert await client.catch_up() == [*(missed if is_recovered else []), "live"]


@pytest.mark.parametrize(("count", "is_recovered"), [(125, True), (132, False)])
async def test_past_eight_mebibytes_it_begins_anew(site: Site, count: int, *, is_recovered: bool) -> None:
    client = Returning(site)
    await away(site, client)
    for n in range(count):
        site.emit("said", [n, LARGE], "r")
    assert await client.come() is is_recovered
    heard = [n for n, _ in await client.catch_up()]
    assert heard == (list(range(count)) if is_recovered else [])


async def test_five_megabytes_are_sent_as_the_client_takes_them_and_what_is_live_follows(site: Site) -> None:
    """In one connection, though far more than may be unsent."""
    client = Returning(site)
    await away(site, client)
    for n in range(80):
        site.emit("said", [n, LARGE], "r")
    assert await client.come()
    connection = site.connection(client.sid)
    await client.hear()
    assert is_replaying(connection)
    for n in range(80, 90):
        site.emit("said", [n, LARGE], "r")
        await client.hear()
    assert is_replaying(connection)
    site.emit("typing", [-1, ""], "r", volatile=True)
    assert [n for n, _ in await client.catch_up()] == list(range(90))
    assert not is_replaying(connection)
    assert len(site.application.named("connected")) == 2


async def taken_over(site: Site, poller: Poller, client: Returning, http: ClientSession) -> Socket:
    """A websocket in place of long-polling; what is polled until then is noted."""
    url = f"{site.url}?EIO=4&transport=websocket&sid={poller.handshake['sid']}"
    socket = Socket(await http.ws_connect(url))
    await socket.send("2probe")
    assert await socket.receive() == "3probe"
    while (frames := await poller.poll()) != ["6"]:
        for frame in frames:
            client.note(frame)
    await socket.send("5")
    return socket


@pytest.mark.parametrize("transport", ["websocket", "polling", "upgrade"])
@pytest.mark.parametrize(
    ("count", "padding"), [(6_000, ""), (80, LARGE)], ids=["many small ones", "large ones"]
)
async def test_whatever_it_comes_back_by_one_connection_is_enough(
    site: Site, http: ClientSession, transport: str, count: int, padding: str
) -> None:
    client = Returning(site)
    await away(site, client)
    for n in range(count):
        site.emit("s", [n, padding], "r")
    if transport == "websocket":
        assert await client.come()
    else:
        poller = await site.poller()
        await poller.post(f"40/chat,{json.dumps(client.ticket())}")
        answer, *events = await poller.poll()
        assert client.accepted(json.loads(answer.removeprefix("40/chat,")))
        for event in events:
            client.note(event)
        if transport == "upgrade":
            client.socket = await taken_over(site, poller, client, http)
        while transport == "polling" and len(client.heard) < count:
            for event in await poller.poll():
                client.note(event)
    if transport != "polling":
        await client.catch_up()
    assert [n for n, _ in client.data()] == list(range(count))
    assert len(site.application.named("disconnected")) == 1


async def test_small_buffers_are_no_reason_to_be_cut_off() -> None:
    """A client that takes what it is sent comes back once, however little may be unsent."""
    async with running(Options(max_buffer_bytes=20_000), Club(), send_buffer_bytes=SEND_BUFFER_BYTES) as site:
        client = Returning(site)
        await away(site, client)
        for n in range(2_000):
            site.emit("said", [n, "x" * 1_000], "r")
        assert await client.come()
        assert [n for n, _ in await client.catch_up()] == list(range(2_000))


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_client_that_does_not_take_what_it_is_sent_is_cut_off_and_goes_on_where_it_was(
    transport: str,
) -> None:
    async with running(Options(max_buffer_bytes=65_536), Club(), send_buffer_bytes=SEND_BUFFER_BYTES) as site:
        client = Returning(site)
        await client.come()
        if transport == "polling":
            client.drop()
            await site.application.until("disconnected")
            poller = await site.poller()
            await poller.post(f"40/chat,{json.dumps(client.ticket())}")
        sent = 0
        while ("slow consumer",) not in site.application.named("disconnected"):
            assert sent < 400, "it is not cut off"
            site.emit("said", [sent, "x" * 20_000], "r")
            sent += 1
            await asyncio.sleep(0)
        site.emit("said", [sent, "behind it"], "r")
        if transport == "websocket":
            await hear_to_the_end(client)
            assert 0 < len(client.heard) < sent
        assert await client.come()
        assert [n for n, _ in await client.catch_up()] == list(range(sent + 1))


async def hear_to_the_end(client: Returning) -> None:
    while isinstance(text := (await client.socket.websocket.receive(TIMEOUT_S)).data, str):
        client.note(text)


async def test_who_loses_the_connection_again_and_again_goes_on_where_it_was(site: Site) -> None:
    client = Returning(site)
    await away(site, client)
    for n in range(100):
        site.emit("said", [n, LARGE], "r")
    for turn in range(10):
        assert await client.come()
        site.emit("said", [100 + turn, ""], "r")
        for _ in range(5):
            await client.hear()
        client.drop()
    assert await client.come()
    assert [n for n, _ in await client.catch_up()] == list(range(110))


async def test_who_takes_too_long_to_be_given_it_begins_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.realtime.replay.REPLAY_TIMEOUT_S", 0.1)
    client = Returning(site)
    await away(site, client)
    for n in range(120):
        site.emit("said", [n, LARGE], "r")
    assert await client.come()
    assert await site.application.until("disconnected", count=2) == [("transport close",), ("slow consumer",)]
    await hear_to_the_end(client)
    assert [n for n, _ in client.data()] == list(range(len(client.heard)))
    assert not await client.come()
    site.emit("said", "live", "r")
    assert (await client.catch_up())[-1] == "live"


@pytest.mark.parametrize("when", ["deciding", "replaying"])
async def test_what_is_forgotten_while_it_comes_back_is_not_passed_over(when: str) -> None:
    """It begins anew, rather than going on without."""
    club, entered = Club(), asyncio.Event()
    async with running(
        Options(recovery=RecoveryOptions(max_log_entries=100)), club, send_buffer_bytes=SEND_BUFFER_BYTES
    ) as site:
        client = Returning(site)
        await away(site, client)
        for n in range(100):
            site.emit("said", [n, LARGE], "r")

        def forget() -> None:
            for n in range(100, 300):
                site.emit("said", [n, ""], "r")

        async def admit(connection: Connection, auth: object) -> None:
            await club._admit(connection, auth)
            forget()
            entered.set()

        if when == "deciding":
            club.on_connect = admit
            client.socket = await site.socket()
            await client.socket.send(f"40/chat,{json.dumps(client.ticket())}")
            await entered.wait()
            assert await club.until("disconnected", count=2) == [("transport close",), ("slow consumer",)]
            message = await client.socket.websocket.receive(TIMEOUT_S)
            assert message.type is not WSMsgType.TEXT, "it was not accepted before"
        else:
            assert await client.come()
            await client.hear()
            assert is_replaying(site.connection(client.sid))
            forget()
            await hear_to_the_end(client)
            assert [n for n, _ in client.data()] == list(range(100))
        club.on_connect = club._admit
        assert not await client.come()
        await eventually(lambda: site.server.connection_count == 1)


async def test_a_pong_in_the_middle_says_nothing_of_what_was_to_follow() -> None:
    options = Options(ping_interval_s=0.05, recovery=RecoveryOptions(max_log_entries=100))
    async with running(options, Club(), send_buffer_bytes=SEND_BUFFER_BYTES) as site:
        client = Returning(site)
        await away(site, client)
        for n in range(80):
            site.emit("said", [n, LARGE], "r")
        poller = await site.poller()
        await poller.post(f"40/chat,{json.dumps(client.ticket())}")
        # The ping may come with the first packets already, even ahead of them.
        heard = await poller.poll()
        while not (answers := [text for text in heard if text.startswith("40/chat,")]):
            heard += await poller.poll()
        assert client.accepted(json.loads(answers[0].removeprefix("40/chat,")))
        connection = site.connection(client.sid)
        await eventually(lambda: connection._session._heartbeat._awaits_pong)
        while "2" not in heard:
            heard = await poller.poll()
        await poller.post("3", '42/chat,["echo"]')
        assert connection._session.received_until_s > 0
        assert is_replaying(connection)
        await poller.post("1")
        await site.application.until("disconnected", count=2)
        for n in range(100):
            site.emit("said", n, "elsewhere")
        assert not await client.come()


async def test_who_hears_little_is_not_cut_short_by_what_others_are_told() -> None:
    """By its last pong it had heard all: what was forgotten before is nothing that it missed."""
    club = Club()
    options = Options(ping_interval_s=0.05, recovery=RecoveryOptions(max_log_entries=5))
    async with running(options, club) as site:
        quiet, busy = Returning(site), Returning(site, "busy")
        club.rooms["busy"] = {"elsewhere": "1"}
        await busy.come()
        await quiet.come()
        site.emit("said", 1, "r")
        await quiet.catch_up()
        for n in range(20):
            site.emit("said", n, "elsewhere")
        await answer_a_ping(quiet)
        await lost(site, quiet)
        assert await quiet.come()
        for n in range(5):
            site.emit("said", n, "elsewhere")
        await lost(site, quiet)
        assert await quiet.come(), "it had missed nothing as it came back before"
        await lost(site, quiet)
        site.emit("said", 2, "r")
        assert await quiet.come()
        assert await quiet.catch_up() == [1, 2]


async def answer_a_ping(client: Returning) -> None:
    """Return when the server has the answer to its next ping."""
    client.socket.is_answering = False
    while await client.socket.receive() != "2":
        pass
    client.socket.is_answering = True
    await client.socket.send("3", '42/chat,1["echo"]')
    assert await client.socket.receive() == "43/chat,1[[]]"
