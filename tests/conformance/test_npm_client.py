"""The unmodified npm client against the engine alone, over each of its transports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.realtime.server import Connection, RefusedError
from server.realtime.session import Reason
from tests.conformance.wire import Club, Recorder, Site, eventually, running
from tests.harness import Json
from tests.js_client import TRANSPORTS, JsClient, js_client

pytestmark = pytest.mark.node

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)
MANY = 100
# How the client's process writes bytes.
BYTES = bytes(range(256))
BUFFER: Json = {"type": "Buffer", "data": list(BYTES)}


def url_of(site: Site) -> str:
    return site.url.removesuffix("/socket.io/")


@asynccontextmanager
async def clients(site: Site, transport: str, *auths: Json) -> AsyncIterator[list[JsClient]]:
    """Clients that have connected."""
    if not auths:
        yield []
        return
    async with (
        js_client(url_of(site), auths[0], transport) as first,
        clients(site, transport, *auths[1:]) as others,
    ):
        await first.on("connect")
        if transport == "upgrade":
            await first.on("upgrade")
        yield [first, *others]


async def told(client: JsClient, last: str) -> list[list[object]]:
    """The events that it has heard up to one of that name, each with its arguments."""
    await client.note(lambda note: note.get("event") == last)
    return [[note["event"], *note["args"]] for note in client.all("event")]


@each_transport
async def test_texts_and_bytes_arrive_whole_both_ways(transport: str) -> None:
    sent = {"text": "ñ 😀 \u2028", "bytes": BYTES, "more": [BYTES, None, 1.5]}
    shown = {"text": "ñ 😀 \u2028", "bytes": BUFFER, "more": [BUFFER, None, 1.5]}
    async with running() as site, clients(site, transport, {}) as (client,):
        assert await client.do("call", event="echo", payload=shown) == [shown]
        assert site.application.named("event") == [("echo", [sent], True)]
        for data in (sent, BYTES, "text", None, b""):
            site.application.connections[0].emit("told", data)
        site.application.connections[0].emit("last", {})
        assert await told(client, "last") == [
            ["told", shown],
            ["told", BUFFER],
            ["told", "text"],
            ["told", None],
            ["told", {"type": "Buffer", "data": []}],
            ["last", {}],
        ]


@each_transport
async def test_an_event_goes_to_its_rooms_and_not_to_the_exceptions(transport: str) -> None:
    async with running() as site, clients(site, transport, {}, {}) as (one, both):
        await one.do("call", event="join", payload="a")
        for room in ("a", "b"):
            await both.do("call", event="join", payload=room)
        site.server.emit("all", 1, namespace="/chat", rooms=["a", "b"])
        site.server.emit("some", 2, namespace="/chat", rooms=["a"], except_rooms=["b"])
        site.emit("last", 3, "a")
        assert await told(one, "last") == [["all", 1], ["some", 2], ["last", 3]]
        assert await told(both, "last") == [["all", 1], ["last", 3]]


@each_transport
async def test_what_is_volatile_is_not_for_who_has_yet_to_fetch_something(transport: str) -> None:
    async with running() as site, clients(site, transport, {}) as (client,):
        await client.do("call", event="join", payload="a")
        site.emit("first", 1, "a")
        site.emit("perhaps", 2, "a", volatile=True)
        site.emit("last", 3, "a")
        heard = await told(client, "last")
        perhaps = [] if transport == "polling" else [["perhaps", 2]]
        assert heard == [["first", 1], *perhaps, ["last", 3]]


async def test_events_are_in_order_through_the_upgrade() -> None:
    async with running() as site, js_client(url_of(site), {}, "upgrade") as client:
        await site.application.until("connected")
        (connection,) = site.application.connections
        session, numbers = site.transport(), iter(range(1_000_000))
        while not client.all("upgrade"):
            if len(session._unsent) < MANY:
                connection.emit("told", next(numbers))
            await asyncio.sleep(0)
        connection.emit("last", {})
        heard = await told(client, "last")
        assert heard == [*(["told", number] for number in range(next(numbers))), ["last", {}]]


@each_transport
async def test_who_is_back_goes_on_and_hears_what_it_missed_once_and_in_order(transport: str) -> None:
    async with (
        running(application=Club()) as site,
        clients(site, transport, {"user": "ana", "recovery": True}) as (client,),
    ):
        site.emit("told", 1, "r")
        await client.heard("told")
        session = site.transport()
        session.abort(Reason.TRANSPORT_CLOSE)
        site.emit("told", 2, "r")
        site.application.connections[0].emit("lost", "it has ended")
        site.emit("told", BYTES, "r")
        site.emit("perhaps", 3, "r", volatile=True)
        back = await client.on("connect", count=2)
        site.emit("last", 4, "r")
        heard = await told(client, "last")
        assert [event[:2] for event in heard] == [["told", 1], ["told", 2], ["told", BUFFER], ["last", 4]]
        assert all(len(event) == 3 for event in heard), "the offset is the last argument"
        assert (back["recovered"], back["id"]) == (True, client.all("connect")[0]["id"])
        assert site.transport() is not session


@each_transport
async def test_without_asking_nobody_is_recovered(transport: str) -> None:
    async with (
        running(application=Club()) as site,
        clients(site, transport, {"user": "ana"}) as (client,),
    ):
        site.transport().abort(Reason.TRANSPORT_CLOSE)
        site.emit("missed", 1, "r")
        back = await client.on("connect", count=2)
        assert not back["recovered"]
        site.emit("last", 2, "r")
        assert await told(client, "last") == [["last", 2]]


@each_transport
async def test_who_is_refused_learns_why_and_may_connect_again(transport: str) -> None:
    async def decide(_connection: Connection, auth: object) -> None:
        if auth == {"user": "nobody"}:
            raise RefusedError("who are you", {"code": "unknown"})

    async with (
        running(application=Recorder(decide)) as site,
        js_client(url_of(site), {"user": "nobody"}, transport) as client,
    ):
        refused = await client.on("connect_error")
        assert (refused["message"], refused["data"]) == ("who are you", {"code": "unknown"})
        assert not refused["active"], "it does not try again by itself"
        await client.do("auth", auth={"user": "ana"})
        await client.do("connect")
        await client.on("connect")
        assert await client.do("call", event="echo", payload=1) == [1]
        assert [call[0] for call in site.application.calls[:3]] == ["connect", "connect", "connected"]


@each_transport
async def test_who_is_disconnected_stays_away_and_who_is_closed_comes_back(transport: str) -> None:
    async with running() as site, clients(site, transport, {}) as (client,):
        site.application.connections[0].close()
        gone = await client.on("disconnect")
        assert gone["active"]
        await client.on("connect", count=2)
        site.application.connections[1].disconnect()
        gone = await client.on("disconnect", count=2)
        assert (gone["reason"], gone["active"]) == ("io server disconnect", False)
        await eventually(lambda: site.server.connection_count == 0)
        assert await site.application.until("disconnected", count=2) == [
            ("forced close",),
            ("server namespace disconnect",),
        ]
