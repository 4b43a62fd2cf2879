"""What no well-made client sends closes the transport: once, whole, and on both transports."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from server.realtime.packets import RESERVED_EVENTS
from server.realtime.server import Options
from tests.conformance.wire import Site, running

Close = Callable[..., Awaitable[None]]

NESTED = "[" * 20_000
PLACEHOLDER = '{"_placeholder":true,"num":0}'

AT_ANY_TIME = {
    "an unknown Engine.IO packet": ["7"],
    "an empty Engine.IO packet": [""],
    "a ping": ["2"],
    "a second handshake": ['0{"sid":"x"}'],
    "no Socket.IO packet": ["4"],
    "an unknown Socket.IO packet": ["47/chat,[]"],
    "no packet at all": ["4abc"],
    "a CONNECT_ERROR": ['44/chat,{"message":"x"}'],
    "CONNECT with a list": ["40/chat,[]"],
    "CONNECT with a string": ['40/chat,"token"'],
    "CONNECT of another namespace with a string": ['40/elsewhere,"token"'],
    "an event of another namespace": ['42/elsewhere,["echo"]'],
    "an event of the main namespace": ['42["echo"]'],
    "an ack of another namespace": ["43/elsewhere,1[]"],
    "DISCONNECT from another namespace": ["41/elsewhere,"],
    "broken JSON": ['42/chat,["echo"'],
    "JSON nested without end": [f'42/chat,["echo",{NESTED}'],
    "a number without end": [f'42/chat,["echo",{"9" * 5_000}]'],
    "a number beyond all": ['42/chat,["echo",1e999]'],
    "a NaN": ['42/chat,["echo",NaN]'],
    "a NaN beside half a surrogate pair": ['42/chat,["echo","\\ud800",NaN]'],
    "an event that is an object": ['42/chat,{"echo":1}'],
    "an event that is empty": ["42/chat,[]"],
    "an event without data": ["42/chat,"],
    "an event named by a number": ["42/chat,[1]"],
    "an event named by a list": ['42/chat,[["echo"]]'],
    "an ack numbered in other digits": ["43/chat,٢[]"],
    "an event numbered in other digits": ['42/chat,٢["echo"]'],
    "attachments counted in other digits": [f'45٢-/chat,["echo",{PLACEHOLDER}]'],
    "an event of a namespace with a query": ['42/chat?x,["echo"]'],
    "an ack with an endless id": [f"43/chat,{'9' * 101}[]"],
    "an ack that is an object": ["43/chat,1{}"],
    "a binary event without attachments": ['45/chat,["echo"]'],
    "a binary event that announces none": ['450-/chat,["echo"]'],
    "eleven attachments": [f'4511-/chat,["echo",{PLACEHOLDER}]'],
    "an attachment that nothing announced": [b"x"],
    "a packet instead of an attachment": [f'451-/chat,["echo",{PLACEHOLDER}]', '42/chat,["echo"]'],
    "a placeholder without its attachment": ['451-/chat,["echo",{"_placeholder":true,"num":1}]', b"x"],
    **{f"the reserved name {name}": [f'42/chat,["{name}",{{}}]'] for name in sorted(RESERVED_EVENTS)},
    **{
        f"the reserved name {name}, binary": [f'451-/chat,["{name}",{PLACEHOLDER}]']
        for name in sorted(RESERVED_EVENTS)
    },
}
BEFORE_CONNECT = {
    "an event before CONNECT": ['42/chat,["echo"]'],
    "an ack before CONNECT": ["43/chat,1[]"],
    "DISCONNECT before CONNECT": ["41/chat,"],
}
AFTER_CONNECT = {
    "a second CONNECT": ["40/chat,"],
    "DISCONNECT with data": ["41/chat,{}"],
    "an event after DISCONNECT": ["41/chat,", '42/chat,["echo"]'],
}

EARLY = AT_ANY_TIME | BEFORE_CONNECT
LATE = AT_ANY_TIME | AFTER_CONNECT


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(Options(max_packet_bytes=100_000)) as site:
        yield site


async def close_by_websocket(site: Site, messages: list[str | bytes], *, connected: bool) -> None:
    socket = await (site.connected() if connected else site.socket())
    await socket.send(*messages)
    assert await socket.closed() == 1000


async def close_by_polling(site: Site, messages: list[str | bytes], *, connected: bool) -> None:
    poller = await site.poller()
    if connected:
        await poller.connect()
    packets = [message if isinstance(message, str) else "beA==" for message in messages]
    assert (await poller.post(*packets))[0] == 400
    assert await poller.try_poll() == (200, "1")
    assert (await poller.try_poll())[0] == 400


@pytest.mark.parametrize("close", [close_by_websocket, close_by_polling])
@pytest.mark.parametrize("case", EARLY)
async def test_before_connect_it_closes_the_transport(site: Site, case: str, close: Close) -> None:
    await close(site, EARLY[case], connected=False)
    await site.emptied()
    assert site.application.calls == []


@pytest.mark.parametrize("close", [close_by_websocket, close_by_polling])
@pytest.mark.parametrize("case", LATE)
async def test_after_connect_it_closes_the_transport_and_the_end_is_told_once(
    site: Site, case: str, close: Close
) -> None:
    await close(site, LATE[case], connected=True)
    await site.emptied()
    assert site.application.named("event") == []
    reason = "client namespace disconnect" if case == "an event after DISCONNECT" else "parse error"
    assert site.application.named("disconnected") == [(reason,)]


async def test_a_websocket_text_that_is_not_utf_8_closes_it(site: Site) -> None:
    socket = await site.connected()
    await socket.websocket._writer.send_frame(b'42/chat,["\xff"]', 1)
    assert await socket.closed() == 1000
    assert await site.application.until("disconnected") == [("parse error",)]


async def test_half_a_surrogate_pair_is_for_the_application_to_answer(site: Site) -> None:
    socket = await site.connected()
    await socket.send('42/chat,["note",{"content":"\\ud83d"}]', '42/chat,1["echo",2]')
    assert await socket.receive() == "43/chat,1[[2]]"
    assert site.application.named("event")[0] == ("note", [{"content": "\ud83d"}], False)


async def test_ten_attachments_are_taken(site: Site) -> None:
    socket = await site.connected()
    await socket.send(f'4510-/chat,1["note",{PLACEHOLDER}]', *[bytes([number]) for number in range(10)])
    assert await socket.receive() == f"461-/chat,1[{PLACEHOLDER}]"
    assert await socket.receive() == b"\x00"
    poller = await site.poller()
    await poller.connect()
    assert await poller.post(f'451-/chat,2["note",{PLACEHOLDER}]', "bAQI=") == (200, "ok")
    assert await poller.poll() == [f"461-/chat,2[{PLACEHOLDER}]", "bAQI="]


@pytest.mark.parametrize("ack", ["43/chat,[]", "43/chat,7", "43/chat,", "43/chat,7[]"])
async def test_an_ack_of_nothing_is_ignored(site: Site, ack: str) -> None:
    socket = await site.connected()
    await socket.send(ack, '42/chat,1["echo",2]')
    assert await socket.receive() == "43/chat,1[[2]]"


async def test_a_query_is_part_of_a_namespaces_name(site: Site) -> None:
    socket = await site.connected()
    await socket.send("40/chat?token=x,", '42/chat,1["echo",2]')
    assert await socket.receive() == '44/chat?token=x,{"message":"Invalid namespace"}'
    assert await socket.receive() == "43/chat,1[[2]]"
