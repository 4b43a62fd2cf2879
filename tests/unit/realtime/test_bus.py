import asyncio

import msgspec
import pytest

from server.realtime.bus import Bus, Control, Emit, MemoryBus
from server.realtime.server import Options, Server
from tests.conformance.wire import Recorder


class LocalServer(Server):
    """A server that writes down what it is to emit."""

    def __init__(self) -> None:
        super().__init__(Options())
        self.seen: list[object] = []

    def emit(self, event: str, data: object, **how: object) -> None:
        if event == "unencodable":
            raise ValueError("unencodable")
        self.seen.append((event, data, how))


def make() -> tuple[MemoryBus, LocalServer]:
    server = LocalServer()
    return MemoryBus(server, namespace="/chat"), server


def emit(event: str) -> Emit:
    return Emit(event=event, data={}, rooms=frozenset({"r"}))


async def test_an_emit_is_the_servers_with_all_it_says() -> None:
    bus, server = make()
    data = msgspec.Raw(b"{}")
    await bus.publish(
        [Emit(event="e", data=data, rooms=frozenset("ab"), except_rooms=frozenset("c"), volatile=True)]
    )
    assert server.seen == [
        (
            "e",
            data,
            {
                "namespace": "/chat",
                "rooms": frozenset("ab"),
                "except_rooms": frozenset("c"),
                "volatile": True,
            },
        )
    ]


async def test_an_entry_waits_until_the_control_before_it_has_been_handled() -> None:
    bus, server = make()
    gate = asyncio.Event()

    async def handle(control: Control) -> None:
        await gate.wait()
        server.seen.append((control.name, control.data, {}))

    async def handle_too(control: Control) -> None:
        server.seen.append((f"{control.name} again", control.data, {}))

    bus.subscribe(handle)
    bus.subscribe(handle_too)
    entries: list[Emit | Control] = [emit("before"), Control(name="control", data={"a": 1}), emit("after")]
    publishing = asyncio.create_task(bus.publish(entries))
    await asyncio.sleep(0)
    await bus.publish([emit("another's")])
    gate.set()
    await publishing
    names = [entry[0] for entry in server.seen if isinstance(entry, tuple)]
    assert names == ["before", "another's", "control", "control again", "after"]


async def test_an_entry_that_fails_takes_none_along() -> None:
    bus, server = make()

    async def fail(_: Control) -> None:
        raise ValueError

    bus.subscribe(fail)
    await bus.publish([emit("unencodable"), Control(name="control", data={}), emit("after")])
    assert len(server.seen) == 1


async def test_it_is_heard_from_start_to_close() -> None:
    bus, _ = make()
    started: Bus = bus
    heard = [bus.is_heard()]
    for step in (started.start, started.close):
        await step()
        heard.append(bus.is_heard())
    assert heard == [False, True, False]


async def test_an_emit_without_a_room_reaches_nobody() -> None:
    server = Server(Options())
    server.register("/chat", Recorder())
    with pytest.raises(ValueError, match="rooms"):
        server.emit("e", {}, namespace="/chat", rooms=())
    await MemoryBus(server, namespace="/chat").publish([Emit(event="e", data={}, rooms=frozenset())])
