"""Who may connect, what they are told, and what is left when it fails half way."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from namespaces.sessions import Session
from server.realtime.server import RefusedError, TransportClosedError
from tests.services import Gate, Site, break_, hold_answer
from tests.unit.namespaces.world import Chat, FakeConnection, logged


@pytest.fixture
async def chat(site: Site) -> Chat:
    await site.people("juan", "ana")
    return Chat(site)


async def refusal(
    chat: Chat, auth: Mapping[str, object], connection: FakeConnection | None = None
) -> dict[str, object]:
    """What CONNECT_ERROR carries."""
    with pytest.raises(RefusedError) as refused:
        await chat.connect_with(connection or FakeConnection(), auth)
    assert refused.value.message
    return refused.value.data


async def test_a_token_may_come_in_the_connect_packet_or_a_header(chat: Chat) -> None:
    for connection, auth in (
        (FakeConnection(), {"token": chat.token("ana")}),
        (FakeConnection(headers={"Authorization": f"bearer  {chat.token('ana')} "}), {}),
        (FakeConnection(headers={"Authorization": f"Bearer {chat.token('ana')}"}), {"token": None}),
        (FakeConnection(headers={"Authorization": "Bearer wrong"}), {"token": chat.token("ana")}),
    ):
        await chat.connect_with(connection, auth)
        assert isinstance(connection.state, Session)
        assert connection.state.user_id == "ana"


@pytest.mark.parametrize("may_query_token", [False, True])
async def test_a_token_in_the_url_is_taken_only_where_that_is_allowed(
    site: Site, *, may_query_token: bool
) -> None:
    chat = Chat(site, may_query_token=may_query_token)
    connection = FakeConnection(query={"token": chat.token("ana")})
    if may_query_token:
        await chat.connect_with(connection, {})
    else:
        assert await refusal(chat, {}, connection) == {"code": "unauthenticated", "retry": "never"}


@pytest.mark.parametrize(
    ("auth", "code", "retry"),
    [
        ({}, "unauthenticated", "never"),
        ({"token": ""}, "unauthenticated", "never"),
        ({"token": 7}, "token_invalid", "never"),
        ({"token": "\ud800"}, "token_invalid", "never"),
        ({"token": "EXPIRED"}, "token_expired", "refresh"),
        ({"token": "GOOD", "room_id": 7}, "invalid", "never"),
        ({"token": "GOOD", "room_id": "\ud800"}, "not_found", "never"),
    ],
    ids=str,
)
async def test_who_may_not_connect_is_told_what_to_do(
    chat: Chat, auth: dict[str, object], code: str, retry: str
) -> None:
    good, expired = chat.token("ana"), chat.token("ana", exp=int(chat.site.clock.now_s) - 5)
    named = {"GOOD": good, "EXPIRED": expired}
    auth = {
        name: named.get(value, value) if isinstance(value, str) else value for name, value in auth.items()
    }
    assert await refusal(chat, auth) == {"code": code, "retry": retry}
    assert await chat.is_forgotten("ana")


async def test_a_login_that_has_ended_is_refused(chat: Chat) -> None:
    token = chat.token("ana")
    await chat.site.accounts.logout(await chat.site.accounts.authenticate(token), everywhere=False)
    assert await refusal(chat, {"token": token}) == {"code": "token_revoked", "retry": "never"}


@pytest.mark.parametrize("method", ["find_login", "find_users"])
async def test_a_login_that_ends_while_its_token_is_read_is_refused(chat: Chat, method: str) -> None:
    """Its sockets are ended before this one is known to be one of them."""
    token, connection = chat.token("ana"), FakeConnection()
    identity = await chat.site.accounts.authenticate(token)
    gate = hold_answer(chat.site.storage, method)
    connecting = asyncio.create_task(chat.connect_with(connection, {"token": token}))
    await gate.reached()
    await chat.site.accounts.logout(identity, everywhere=False)
    gate.open()
    with pytest.raises(RefusedError) as refused:
        await connecting
    assert refused.value.data == {"code": "token_revoked", "retry": "never"}
    assert await chat.is_forgotten("ana")


async def test_whose_connection_it_is_to_be_is_known_before_anything_is_entered(chat: Chat) -> None:
    """Then it may be recovered; it is nobody's session yet."""
    await chat.site.group("ana")
    connection = FakeConnection()
    assert await chat.namespace.authenticate(connection, {"token": chat.token("ana")}) == "ana"
    assert connection.journal == []
    assert (await chat.error(connection, "sync"))["code"] == "unauthenticated"
    assert not chat.sessions._people
    await chat.namespace.disconnected(connection, "transport close")
    assert await chat.is_forgotten("ana")


@pytest.mark.parametrize("ended", ["its own", "another", "everywhere", "somebody else's"])
async def test_a_login_that_ends_while_a_connection_is_taken_back_is_not_missed(
    chat: Chat, ended: str
) -> None:
    """Between the two the engine waits until the transport before is over."""
    token, connection = chat.token("ana"), FakeConnection()
    await chat.namespace.authenticate(connection, {"token": token})
    identity = await chat.site.accounts.authenticate(token)
    other = chat.token("juan" if ended == "somebody else's" else "ana", exp=identity.expires_at + 1)
    going = identity if ended == "its own" else await chat.site.accounts.authenticate(other)
    await chat.site.accounts.logout(going, everywhere=ended == "everywhere")
    if ended in ("its own", "everywhere"):
        with pytest.raises(RefusedError) as refused:
            await chat.namespace.connect(connection, {"token": token})
        assert refused.value.data == {"code": "token_revoked", "retry": "never"}
        assert await chat.is_forgotten("ana")
    else:
        await chat.namespace.connect(connection, {"token": token})
        assert isinstance(connection.state, Session)


@pytest.mark.parametrize("method", ["find_login", "find_users", "memberships"])
async def test_without_the_store_the_transport_is_closed_and_the_door_shut(chat: Chat, method: str) -> None:
    break_(chat.site.storage, method)
    with pytest.raises(TransportClosedError):
        await chat.connect_with(FakeConnection(), {"token": chat.token("ana")})
    assert not chat.site.health.can_admit
    assert await chat.is_forgotten("ana")


@pytest.mark.parametrize("method", ["find_login", "memberships"])
async def test_a_connect_that_takes_too_long_closes_the_transport(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    site.clock.drive(monkeypatch)
    chat = Chat(site, deadline_s=10)
    gate = hold_answer(site.storage, method)
    connecting = asyncio.create_task(chat.connect_with(FakeConnection(), {"token": chat.token("ana")}))
    await gate.reached()
    await site.clock.elapse(10)
    with pytest.raises(TransportClosedError):
        await connecting
    assert not site.health.can_admit
    assert await chat.is_forgotten("ana")


@pytest.mark.parametrize("method", ["find_users", "memberships"])
async def test_a_bug_refuses_with_an_id_that_finds_its_trace(
    chat: Chat, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    break_(chat.site.storage, method, error=ZeroDivisionError("a bug"))
    data = await refusal(chat, {"token": chat.token("ana")})
    assert (data["code"], data["retry"]) == ("internal", "never")
    assert len(logged(caplog, data["error_id"])) == 1
    assert chat.site.health.can_admit
    assert await chat.is_forgotten("ana")


async def test_a_presence_that_fails_leaves_nobody_behind(chat: Chat) -> None:
    connection = FakeConnection()
    await chat.site.group("ana", "juan")
    break_(chat.site.publisher, "publish")
    with pytest.raises(TransportClosedError):
        await chat.connect_with(connection, {"token": chat.token("ana")})
    assert connection.state is None
    assert await chat.is_forgotten("ana")


@pytest.mark.parametrize(
    "hold",
    [
        lambda site: hold_answer(site.storage, "find_login"),
        lambda site: hold_answer(site.storage, "find_users"),
        lambda site: hold_answer(site.storage, "memberships"),
        lambda site: hold_answer(site.presence, "arrive"),
    ],
    ids=["login", "user", "rooms", "presence"],
)
async def test_a_client_that_leaves_while_it_connects_leaves_nothing(
    chat: Chat, hold: Callable[[Site], Gate]
) -> None:
    connection, gate = FakeConnection(), hold(chat.site)
    connecting = asyncio.create_task(chat.connect_with(connection, {"token": chat.token("ana")}))
    await gate.reached()
    connection.close()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await chat.namespace.disconnected(connection, "transport close")
    assert not isinstance(connection.state, Session)
    assert await chat.is_forgotten("ana")
