"""What is no packet, or too large a one: the transport closes, nothing is stored, and the server goes on."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from server import events
from tests.harness import (
    Api,
    Client,
    ServerProcess,
    connected,
    http_api,
    raw_socket,
    receive_until,
    running_server,
    site_token,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

numbers = itertools.count()


class World:
    """Eva is connected and alone in a room."""

    def __init__(self, eva: Client, token: str, room_id: str) -> None:
        self.eva = eva
        self.token = token
        self.room_id = room_id
        self.rev = 0

    async def assert_nothing_stored(self) -> None:
        """Of all that was sent since the last time; and the next message is taken, with the next number."""
        sent = await self.eva.call("chat_message", {"room_id": self.room_id, "content": "good"})
        self.rev += 1
        assert sent["message"]["rev"] == self.rev
        assert len((await self.eva.call("sync"))["rooms"]) == 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all of this file; none of it may cost it a stack trace."""
    env = {"TERTULIA_LIMITS__ENABLED": "false"}
    async with running_server(tmp_path_factory.mktemp("packets"), env) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with http_api(server) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def world(server: ServerProcess) -> AsyncIterator[World]:
    token = site_token(f"eva-{next(numbers)}")
    async with connected(server.url, token) as (eva,):
        room = (await eva.call("create_room", {"kind": "group", "name": "Tapas"}))["room"]
        yield World(eva, token, room["id"])
    assert server.faults() == []


RAW: dict[str, Any] = {
    **{
        f"reserved {name}": f'42/chat,1["{name}",{{}}]' for name in ("connect", "connect_error", "disconnect")
    },
    **{f"reserved {name}": f'42/chat,["{name}",{{}}]' for name in ("disconnecting", "newListener")},
    "an event whose name is no text": "42/chat,1[7,{}]",
    "an event without a name": "42/chat,1[]",
    "an event that is no list": '42/chat,1{"a":1}',
    "no JSON": '42/chat,1["sync",{',
    "a number out of range": '42/chat,1["sync",{"rooms":{"a":1e400}}]',
    "a nest without end": '42/chat,1["sync",' + "[" * 30_000 + "]" * 30_000 + "]",
    "another namespace": '42/admin,1["sync",{}]',
    "a second CONNECT": "40/chat,{}",
    "an unknown packet": "49/chat,",
    "an unknown frame": "9",
    "bytes that nobody announced": b"\x00",
    "bytes that are no UTF-8": b"\xff",
}


@pytest.mark.parametrize("name", RAW)
async def test_what_is_no_packet_closes_the_transport(name: str, world: World, api: Api) -> None:
    async with raw_socket(api, {"token": world.token}) as socket:
        await socket.send(RAW[name])
        assert await socket.closed() == 1000
    await world.assert_nothing_stored()


@pytest.mark.parametrize("event", events.CLIENT_EVENTS)
async def test_events_before_connect_close_the_transport(event: str, world: World, api: Api) -> None:
    payload = {"room_id": world.room_id, "content": "early", "kind": "group", "name": "early"}
    async with raw_socket(api) as socket:
        await socket.send(f'42/chat,1["{event}",{json.dumps(payload)}]')
        assert await socket.closed() == 1000
    await world.assert_nothing_stored()


async def test_a_packet_of_64_kib_is_taken_and_one_byte_more_is_not(world: World, api: Api) -> None:
    frame = f'42/chat,1["chat_message",{{"room_id":"{world.room_id}","content":"big"'
    full = frame + " " * (64 * 1024 - len(frame) - 2) + "}]"
    async with raw_socket(api, {"token": world.token}) as socket:
        await socket.send(full)
        (answer,) = await receive_until(socket, "43/chat,1")
        assert answer["ok"]
        world.rev += 1
        await socket.send(full + " ")
        assert await socket.closed() == 1009
    await world.assert_nothing_stored()


async def test_a_poll_of_64_kib_is_taken_and_one_byte_more_is_not(world: World, api: Api) -> None:
    url = f"{api.url}/socket.io/?EIO=4&transport=polling"
    async with api.session.get(url) as response:
        sid = json.loads((await response.text())[1:])["sid"]
    connect = f'40/chat,{{"token":"{world.token}"'
    full = connect + " " * (64 * 1024 - len(connect) - 1) + "}"
    for body, status in ((full + " ", 413), (full, 200), (full + " ", 413)):
        async with api.session.post(f"{url}&sid={sid}", data=body) as response:
            assert response.status == status
    async with api.session.get(f"{url}&sid={sid}") as response:
        assert (await response.text()).startswith("40/chat,")
    await world.assert_nothing_stored()
