"""A websocket whose client reads slowly, or is gone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop
from msgspec.structs import replace

from server.realtime.packets import Frame, encoded
from server.realtime.session import Reason
from tests.conformance.wire import TIMEOUT_S, Socket
from tests.unit.realtime.engine_site import OPTIONS, EngineSite, running


@pytest.fixture
async def site() -> AsyncIterator[EngineSite]:
    async with running() as site:
        yield site


async def test_a_slow_consumer_is_cut_off() -> None:
    half_a_megabyte = encoded(Frame(bytes(500_000), is_binary=True))
    async with running(replace(OPTIONS, max_buffer_bytes=1_000_000)) as site:
        socket = await site.socket()
        transport = site.echoes[0].transport
        while transport.is_open:
            transport.send(half_a_megabyte)
            await asyncio.sleep(0)
        assert await site.reason() == "slow consumer"
        assert await socket.closed() == 1006


def tcp_of(socket: Socket) -> asyncio.Transport:
    """The client's side of the connection below a websocket."""
    connection = socket.websocket._response.connection
    assert connection is not None
    assert isinstance(connection.transport, asyncio.Transport)
    return connection.transport


LARGE = Frame(bytes(1_000_000), is_binary=True)


async def fill(site: EngineSite, socket: Socket) -> int:
    """Have the client read nothing, and send until that is noticed. Returns how many frames that took."""
    tcp_of(socket).pause_reading()
    count = 0
    while not site.echoes[0].transport.is_behind:
        site.echoes[0].transport.send(encoded(LARGE))
        count += 1
        await asyncio.sleep(0)
    return count


PATIENT = replace(OPTIONS, max_buffer_bytes=100_000_000)


@pytest.mark.parametrize("new_client", [EngineSite.socket, EngineSite.upgraded])
async def test_who_waits_for_a_client_to_read_is_woken_when_it_has_read(
    new_client: Callable[[EngineSite], Awaitable[Socket]],
) -> None:
    async with running(PATIENT) as site:
        socket = await new_client(site)
        transport = site.echoes[0].transport
        await asyncio.wait_for(transport.drained(), TIMEOUT_S)
        count = await fill(site, socket)
        waiting = asyncio.create_task(transport.drained())
        assert await asyncio.wait({waiting}, timeout=0.05) == (set(), {waiting})
        tcp_of(socket).resume_reading()
        for _ in range(count):
            assert await socket.receive() == LARGE.payload
        await asyncio.wait_for(waiting, TIMEOUT_S)
        assert not transport.is_behind


@pytest.mark.parametrize("new_client", [EngineSite.socket, EngineSite.upgraded])
async def test_who_waits_for_a_client_that_goes_away_is_woken(
    new_client: Callable[[EngineSite], Awaitable[Socket]],
) -> None:
    async with running(PATIENT) as site:
        socket = await new_client(site)
        await fill(site, socket)
        waiting = asyncio.create_task(site.echoes[0].transport.drained())
        assert await asyncio.wait({waiting}, timeout=0.05) == (set(), {waiting})
        tcp_of(socket).abort()
        await asyncio.wait_for(waiting, TIMEOUT_S)
        assert await site.reason() == "transport close"


async def send_until_the_loss_is_known() -> None:
    async with running() as site:
        await site.socket()
        transport = site.echoes[0].transport
        transport.outlet.abort()
        while transport.is_open:
            transport.send(encoded(Frame(b"4x")))
            await asyncio.sleep(0)
        assert await site.reason() == "transport close"


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.Loop])
def test_sending_to_a_websocket_that_was_just_lost_harms_nobody(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Whoever sends to a whole room goes on with the others."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(send_until_the_loss_is_known())


async def test_closing_waits_for_no_client_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.session.LINGER_S", 0.1)
    async with running(replace(OPTIONS, max_buffer_bytes=100_000_000)) as site:
        socket = await site.socket()
        transport = site.echoes[0].transport
        transport.send(encoded(*[Frame(bytes(1_000_000), is_binary=True)] * 50))
        transport.close(Reason.PING_TIMEOUT)
        assert await site.reason() == "ping timeout"
        assert await socket.closed() == 1006
