"""Who may go on with a connection, and when: the application is asked first, and one client has it."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from weakref import ref

import pytest

from server.realtime.server import Connection, Options, RefusedError, TransportClosedError
from tests.conformance.wire import TIMEOUT_S, Club, Returning, Site, Socket, eventually, running


class Door(Club):
    """Decides as it is told. What is to come waits while `closed` holds its name."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, BaseException] = {}
        self.closed: set[str] = set()
        self.waiting: list[str] = []
        self.order: list[str] = []
        self.on_connected: Any = lambda _: None

    async def authenticate(self, connection: Connection, auth: Mapping[str, object]) -> str:
        await self._pass("authenticate")
        return await super().authenticate(connection, auth)

    async def connect(self, connection: Connection, auth: object) -> None:
        await super().connect(connection, auth)
        await self._pass("connect")

    def connected(self, connection: Connection) -> None:
        super().connected(connection)
        self.on_connected(connection)

    async def disconnected(self, connection: Connection, reason: str) -> None:
        await self._pass("disconnected")
        await super().disconnected(connection, reason)

    async def reached(self, name: str, count: int = 1) -> None:
        await eventually(lambda: self.waiting.count(name) >= count)

    async def _pass(self, name: str) -> None:
        self.order.append(f"{name} begins")
        if name in self.closed:
            self.waiting.append(name)
            await eventually(lambda: name not in self.closed)
        if name in self.failing:
            raise self.failing[name]
        self.order.append(f"{name} ends")


@pytest.fixture
async def door() -> Door:
    return Door()


@pytest.fixture
async def site(door: Door) -> AsyncIterator[Site]:
    async with running(application=door) as site:
        yield site


@pytest.fixture
async def client(site: Site) -> Returning:
    """Has heard 1, and is away while 2 is said."""
    client = Returning(site)
    await client.come()
    site.emit("said", 1, "r")
    await client.hear()
    client.drop()
    await site.application.until("disconnected")
    site.emit("said", 2, "r")
    return client


async def ask(client: Returning) -> Socket:
    """Begin to come back."""
    socket = await client.site.socket()
    await socket.send(f"40/chat,{json.dumps(client.ticket())}")
    return socket


async def test_authentication_and_admission_come_first_on_every_return(
    site: Site, door: Door, client: Returning
) -> None:
    for _ in range(2):
        door.order.clear()
        door.closed = {"connect"}
        client.socket = await ask(client)
        await door.reached("connect")
        site.emit("said", 3, "r")
        assert door.order == ["authenticate begins", "authenticate ends", "connect begins"]
        door.waiting.clear()
        door.closed.clear()
        assert client.accepted(await client.socket.receive_packet("40/chat,"))
        client.drop()
        await eventually(lambda: door.order[-1] == "disconnected ends")


@pytest.mark.parametrize("step", ["authenticate", "connect"])
async def test_who_is_refused_gets_nothing(door: Door, client: Returning, step: str) -> None:
    """Who was authenticated, and refused then, does not get it later either."""
    door.failing[step] = RefusedError("no", {"code": "forbidden", "retry": "never"})
    socket = await ask(client)
    refusal = {"message": "no", "data": {"code": "forbidden", "retry": "never"}}
    assert await socket.receive_packet("44/chat,") == refusal
    await socket.send("1")
    await socket.closed()
    door.failing.clear()
    assert await client.come() is (step == "authenticate")
    assert await client.catch_up() == ([1, 2] if step == "authenticate" else [1])


@pytest.mark.parametrize("step", ["authenticate", "connect"])
async def test_a_store_that_fails_meanwhile_leaves_it_for_the_next_try(
    door: Door, client: Returning, step: str
) -> None:
    door.failing[step] = TransportClosedError()
    for _ in range(3):
        socket = await ask(client)
        await socket.closed()
    door.failing.clear()
    assert await client.come()
    assert await client.catch_up() == [1, 2]


@pytest.mark.parametrize("step", ["authenticate", "connect"])
async def test_a_store_that_takes_too_long_leaves_it_for_the_next_try(door: Door, step: str) -> None:
    async with running(Options(connect_timeout_s=0.1), door) as site:
        client = Returning(site)
        await client.come()
        client.drop()
        await door.until("disconnected")
        site.emit("said", 1, "r")
        door.closed = {step}
        socket = await ask(client)
        await socket.closed()
        door.closed.clear()
        assert await client.come()
        assert await client.catch_up() == [1]


@pytest.mark.parametrize("how", ["drop", "close", "leave"])
@pytest.mark.parametrize("step", ["authenticate", "disconnected", "connect"])
async def test_who_goes_while_it_is_decided_on_may_come_again(
    site: Site, door: Door, client: Returning, step: str, how: str
) -> None:
    """But not who takes leave: a DISCONNECT ends it, once it is known whose it is."""
    if step == "disconnected":
        assert await client.come()
        await client.hear()
    door.closed = {step}
    client.socket = await ask(client)
    await door.reached(step)
    if how == "drop":
        client.drop()
    elif how == "close":
        await client.socket.websocket.close()
    else:
        await client.socket.send("41/chat,")
    namespace = site.server.namespaces["/chat"]
    await eventually(lambda: not namespace.connections)
    door.closed.clear()
    may_come = how != "leave" or step == "authenticate"
    assert await client.come() is may_come
    assert await client.catch_up() == ([1, 2] if may_come or step == "disconnected" else [1])


async def test_the_end_of_the_old_connection_is_told_before_the_new_one_is_decided(
    site: Site, door: Door
) -> None:
    client = Returning(site)
    await client.come()
    for turn in (1, 2):
        await client.socket.send('42/chat,["wait"]')
        await door.until("event", count=turn)
        door.order.clear()
        door.closed = {"disconnected"}
        client.socket = await ask(client)
        await eventually(lambda: not site.server.namespaces["/chat"].rooms.members(["r"]))
        assert door.order == ["authenticate begins", "authenticate ends"], "its last event is handled first"
        door.gate.set()
        await door.reached("disconnected", count=turn)
        assert door.order[2:] == ["disconnected begins"]
        door.closed.clear()
        door.gate.clear()
        assert client.accepted(await client.socket.receive_packet("40/chat,"))
        told = ["disconnected begins", "disconnected ends"]
        assert door.order[2:] == [*told, "connect begins", "connect ends"]


async def test_an_end_that_takes_too_long_is_not_waited_for(
    site: Site, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.realtime.connection._SETTLE_TIMEOUT_S", 0.05)
    client = Returning(site)
    await client.come()
    door.closed = {"disconnected"}
    assert not await client.come()
    door.closed.clear()
    site.emit("said", 1, "r")
    assert await client.catch_up() == [1]


@pytest.mark.parametrize("step", ["authenticate", "connect", "disconnected", "none"])
async def test_of_many_who_claim_it_at_once_one_has_it(
    site: Site, door: Door, client: Returning, step: str
) -> None:
    if step == "disconnected":
        assert await client.come()
        await client.hear()
    door.closed = {step}
    sockets = [await ask(client) for _ in range(4)]
    if step in ("authenticate", "disconnected"):
        await door.reached(step, count=4 if step == "authenticate" else 1)
    if step == "connect":
        await eventually(lambda: len(site.application.named("connect")) >= 5)
    door.closed.clear()
    await eventually(lambda: len(site.server._engine._transports) == 1)
    connections = site.server.namespaces["/chat"].connections
    await eventually(lambda: [each.is_connecting for each in connections] == [False])
    site.emit("said", 3, "r")
    received = [await all_of(socket) for socket in sockets]
    kept = [texts for texts in received if any('"said",3' in text for text in texts)]
    assert len(kept) == 1, "one of them has it"
    for texts in received:
        answers = [text.removeprefix("40/chat,") for text in texts if text.startswith("40/chat,")]
        assert all(json.loads(answer)["pid"] == client.pid for answer in answers), "nobody begins anew"
    for text in kept[0][1:]:
        client.note(text)
    assert client.data() == [1, 2, 3]
    assert site.server.connection_count == 1


async def all_of(socket: Socket) -> list[str]:
    """What a client is sent until it is cut off or hears 3."""
    texts: list[str] = []
    while isinstance((message := await socket.websocket.receive(TIMEOUT_S)).data, str):
        texts.append(message.data)
        if '"said",3' in message.data:
            break
    return texts


async def test_a_logout_while_away_ends_it(site: Site, client: Returning) -> None:
    other = Returning(site, "eve")
    await other.come()
    other.drop()
    await site.application.until("disconnected", count=2)
    assert site.server.away("/chat", "ana") == [client.sid]
    for sid in site.server.away("/chat", "ana"):
        site.server.forget("/chat", sid)
    assert site.server.away("/chat", "ana") == []
    assert not await client.come()
    assert await client.catch_up() == [1]
    assert await other.come()


async def test_one_that_is_forgotten_while_it_is_open_or_comes_back_is_not_recovered(
    site: Site, door: Door, client: Returning
) -> None:
    assert await client.come()
    site.server.forget("/chat", client.sid)
    assert await client.catch_up() == [1, 2], "it goes on while it lasts"
    client.drop()
    await door.until("disconnected", count=2)
    assert site.server.away("/chat", "ana") == []
    assert not await client.come()
    door.closed = {"disconnected"}
    client.socket = await ask(client)
    await door.reached("disconnected")
    site.server.forget("/chat", client.sid)
    door.closed.clear()
    assert not client.accepted(await client.socket.receive_packet("40/chat,"))


async def test_what_is_said_while_it_is_decided_on_follows_in_order(
    site: Site, door: Door, client: Returning
) -> None:
    door.closed = {"connect"}
    client.socket = await ask(client)
    await door.reached("connect")
    site.emit("said", 3, "r")
    connection = site.connection(client.sid)
    connection.emit("said", 4)
    site.emit("typing", "volatile", "r", volatile=True)
    connection.enter("s")
    site.emit("said", 5, "s")
    door.closed.clear()
    assert client.accepted(await client.socket.receive_packet("40/chat,"))
    site.emit("said", 6, "s")
    assert await client.catch_up() == [1, 2, 3, 4, 5, 6]


async def test_a_room_left_and_entered_again_meanwhile_goes_on(
    site: Site, door: Door, client: Returning
) -> None:
    door.closed = {"connect"}
    client.socket = await ask(client)
    await door.reached("connect")
    connection = site.connection(client.sid)
    connection.leave("r")
    site.emit("said", "a secret", "r")
    connection.enter("r", tag="1")
    site.emit("said", 3, "r")
    client.drop()
    await eventually(lambda: not site.server.connection_count)
    site.emit("said", 4, "r")
    door.closed.clear()
    assert await client.come()
    assert await client.catch_up() == [1, 2, 3, 4]
    client.drop()
    await eventually(lambda: not site.server.connection_count)
    site.emit("said", 5, "r")
    assert await client.come()
    site.emit("said", 6, "r")
    assert await client.catch_up() == [1, 2, 3, 4, 5, 6]


async def test_a_hook_that_fails_closes_it_and_loses_nothing(door: Door, client: Returning) -> None:
    def fail(_connection: Connection) -> None:
        raise ValueError("a bug")

    door.on_connected = fail
    client.socket = await ask(client)
    assert client.accepted(await client.socket.receive_packet("40/chat,"))
    await client.socket.closed()
    door.on_connected = lambda _: None
    assert await client.come()
    assert await client.catch_up() == [1, 2]


async def test_one_that_is_ended_as_it_comes_back_is_told_why(door: Door, client: Returning) -> None:
    """Ahead of what it missed; and it is no more than told."""

    def end(connection: Connection) -> None:
        connection.emit("ended", "revoked", is_kept=False)
        connection.disconnect()

    door.on_connected = end
    client.socket = await ask(client)
    assert client.accepted(await client.socket.receive_packet("40/chat,"))
    assert await client.hear() == ["ended", "revoked"]
    assert await client.socket.receive() == "41/chat,"
    door.on_connected = lambda _: None
    assert not await client.come()


async def test_why_it_was_closed_is_not_told_again_to_who_is_back(site: Site, client: Returning) -> None:
    assert await client.come()
    connection = site.connection(client.sid)
    await client.hear()
    connection.emit("ended", "expired", is_kept=False)
    connection.close()
    client.drop()
    assert await client.come()
    site.emit("said", 3, "r")
    assert await client.catch_up() == [1, 2, 3]


async def test_of_a_client_that_is_away_nothing_heavy_is_kept(site: Site) -> None:
    client = Returning(site)
    await client.come()
    connection = ref(site.connection(client.sid))
    site.application.connections.clear()
    client.drop()
    await site.application.until("disconnected")
    await eventually(lambda: not site.server._tasks)
    gc.collect()
    assert connection() is None
    assert await client.come()


async def test_a_client_that_sends_no_pid_does_not_disturb_its_other_connection(site: Site) -> None:
    first, second = Returning(site), Returning(site)
    assert not await first.come()
    assert not await second.come()
    site.emit("said", 1, "r")
    assert await first.catch_up() == await second.catch_up() == [1]
    await asyncio.gather(*(each.socket.websocket.close() for each in (first, second)))
    await site.application.until("disconnected", count=2)
    site.emit("said", 2, "r")
    assert await second.come()
    assert await first.come()
    assert await first.catch_up() == await second.catch_up() == [1, 2]
