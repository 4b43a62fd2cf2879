import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from namespaces.sessions import Session
from server.domain.errors import ConflictError, RateLimitedError, UnavailableError
from server.domain.ratelimit import Rate
from server.realtime.server import RefusedError, TransportClosedError
from server.views import EventFailed
from tests.harness import PATIENCE_S
from tests.services import Gate, Site, break_, hold_answer
from tests.unit.namespaces.world import Chat, FakeConnection


@pytest.fixture
async def chat(site: Site) -> Chat:
    await site.people("juan", "ana")
    return Chat(site)


async def refusal(chat: Chat, auth: object, connection: FakeConnection | None = None) -> dict[str, object]:
    """What CONNECT_ERROR carries."""
    with pytest.raises(RefusedError) as refused:
        await chat.namespace.connect(connection or FakeConnection(), auth)
    assert refused.value.message
    return refused.value.data


def logged(caplog: pytest.LogCaptureFixture, error_id: object) -> list[dict[str, Any]]:
    """The events of the log with this error id that have a stack trace."""
    found = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [event for event in found if event.get("error_id") == error_id and "Traceback" in str(event)]


async def test_a_token_may_come_in_the_connect_packet_or_a_header(chat: Chat) -> None:
    for connection, auth in (
        (FakeConnection(), {"token": chat.token("ana")}),
        (FakeConnection(headers={"Authorization": f"bearer  {chat.token('ana')} "}), {}),
        (FakeConnection(headers={"Authorization": f"Bearer {chat.token('ana')}"}), "not an object"),
        (FakeConnection(headers={"Authorization": "Bearer wrong"}), {"token": chat.token("ana")}),
    ):
        await chat.namespace.connect(connection, auth)
        assert isinstance(connection.state, Session)
        assert connection.state.user_id == "ana"


@pytest.mark.parametrize("may_query_token", [False, True])
async def test_a_token_in_the_url_is_taken_only_where_that_is_allowed(
    site: Site, *, may_query_token: bool
) -> None:
    chat = Chat(site, may_query_token=may_query_token)
    connection = FakeConnection(query={"token": chat.token("ana")})
    if may_query_token:
        await chat.namespace.connect(connection, {})
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
        (["GOOD"], "unauthenticated", "never"),
    ],
    ids=str,
)
async def test_who_may_not_connect_is_told_what_to_do(chat: Chat, auth: Any, code: str, retry: str) -> None:
    if isinstance(auth, dict):
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
    connecting = asyncio.create_task(chat.namespace.connect(connection, {"token": token}))
    await gate.reached()
    await chat.site.accounts.logout(identity, everywhere=False)
    gate.open()
    with pytest.raises(RefusedError) as refused:
        await connecting
    assert refused.value.data == {"code": "token_revoked", "retry": "never"}
    assert await chat.is_forgotten("ana")


@pytest.mark.parametrize("method", ["find_login", "find_users", "memberships"])
async def test_without_the_store_the_transport_is_closed_and_the_door_shut(chat: Chat, method: str) -> None:
    break_(chat.site.storage, method)
    with pytest.raises(TransportClosedError):
        await chat.namespace.connect(FakeConnection(), {"token": chat.token("ana")})
    assert not chat.site.health.can_admit
    assert await chat.is_forgotten("ana")


async def test_a_connect_that_takes_too_long_closes_the_transport(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.clock.drive(monkeypatch)
    chat = Chat(site, deadline_s=10)
    gate = hold_answer(site.storage, "memberships")
    connecting = asyncio.create_task(chat.namespace.connect(FakeConnection(), {"token": chat.token("ana")}))
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
        await chat.namespace.connect(connection, {"token": chat.token("ana")})
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
    connecting = asyncio.create_task(chat.namespace.connect(connection, {"token": chat.token("ana")}))
    await gate.reached()
    connection.close()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await chat.namespace.disconnected(connection, "transport close")
    assert connection.state is None
    assert await chat.is_forgotten("ana")


async def test_a_connection_that_is_over_is_forgotten(chat: Chat) -> None:
    connection = await chat.enter("ana")
    assert await chat.site.ephemeral.online({"ana"}) == {"ana"}
    for _ in range(2):
        await chat.namespace.disconnected(connection, "transport close")
    assert await chat.is_forgotten("ana")


async def test_a_presence_that_cannot_be_told_does_not_keep_a_connection(chat: Chat) -> None:
    connection = await chat.enter("ana")
    break_(chat.site.presence, "leave")
    await chat.namespace.disconnected(connection, "transport close")
    assert not chat.sessions._people


async def test_an_event_is_answered_with_its_data(chat: Chat) -> None:
    connection = await chat.enter("ana")
    assert (await chat.ask(connection, "sync"))["data"]["rooms"] == []
    assert await chat.namespace.event(connection, "sync", [], wants_ack=False) is None
    assert connection.emitted("event_failed") == []


@pytest.mark.parametrize(
    ("event", "args", "code", "field"),
    [
        ("no_such_event", [], "unknown_event", None),
        ("connect", [], "unknown_event", None),
        ("event", [{}], "unknown_event", None),
        ("_handle", [{}], "unknown_event", None),
        ("sync", [{}, {}], "invalid", None),
        ("sync", [None], "invalid", None),
        ("sync", [[{}]], "invalid", None),
        ("sync", ["text"], "invalid", None),
        ("sync", [b"bytes"], "invalid", None),
        ("sync", [{"other": 1}], "invalid", "other"),
        ("sync", [{"type": "sync"}], "invalid", "type"),
        ("history", [], "invalid", "room_id"),
        ("history", [{"room_id": "no-such"}], "not_found", "room_id"),
        ("chat_message", [{"room_id": "a", "content": "\ud800"}], "invalid", "content"),
    ],
)
async def test_an_event_that_cannot_be_done_is_answered_with_its_error(
    chat: Chat, event: str, args: list[object], code: str, field: str | None
) -> None:
    connection = await chat.enter("ana")
    error = await chat.error(connection, event, *args)
    assert (error["code"], error.get("field")) == (code, field)
    assert await chat.namespace.event(connection, event, args, wants_ack=False) is None
    (failed,) = connection.emitted("event_failed")
    assert isinstance(failed, EventFailed)
    assert (failed.event, failed.error.code) == (event, code)


async def test_a_connection_that_is_not_signed_in_does_nothing(chat: Chat) -> None:
    assert (await chat.error(FakeConnection(), "sync"))["code"] == "unauthenticated"


@pytest.mark.parametrize("name", ["\ud800" * 3, "a" * 1_000, ""])
async def test_an_event_of_any_name_is_answered(chat: Chat, name: str) -> None:
    connection = await chat.enter("ana")
    assert await chat.namespace.event(connection, name, [], wants_ack=False) is None
    (failed,) = connection.emitted("event_failed")
    assert len(failed.event) <= 64
    assert failed.error.code == "unknown_event"


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("1", "1"),
        ("a" * 64, "a" * 64),
        ("a\n\u200b", "a\n\u200b"),
        ("a" * 65, None),
        (7, None),
        ("\ud800", None),
        (None, None),
    ],
)
async def test_a_failure_names_the_message_that_it_is_about(
    chat: Chat, sent: object, told: str | None
) -> None:
    connection = await chat.enter("ana")
    payload = {"room_id": "no-such", "content": "a", "client_msg_id": sent}
    await chat.namespace.event(connection, "chat_message", [payload], wants_ack=False)
    (failed,) = connection.emitted("event_failed")
    assert failed.client_msg_id == told


def fail_with(chat: Chat, error: Exception) -> None:
    """Have the use case behind `typing` raise."""
    break_(chat.site.presence, "typing", error=error)


TYPING = {"room_id": "room", "is_typing": True}


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ConflictError("taken", field="name"), {"code": "conflict", "message": "taken", "field": "name"}),
        (
            RateLimitedError("slow down", retry_after_ms=7),
            {"code": "rate_limited", "message": "slow down", "retry_after_ms": 7},
        ),
        (UnavailableError("away"), {"code": "unavailable", "message": "away"}),
        (TimeoutError(), {"code": "unavailable", "message": "it took too long"}),
    ],
    ids=["conflict", "rate", "away", "time-out"],
)
async def test_what_a_use_case_refuses_is_told_with_all_it_says(
    chat: Chat, raised: Exception, error: dict[str, object]
) -> None:
    connection = await chat.enter("ana")
    fail_with(chat, raised)
    assert await chat.error(connection, "typing", TYPING) == error


async def test_a_bug_is_answered_with_an_id_that_finds_its_trace(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await chat.enter("ana")
    fail_with(chat, ZeroDivisionError("a secret"))
    error = await chat.error(connection, "typing", TYPING)
    assert (error["code"], "secret" in error["message"]) == ("internal", False)
    assert len(logged(caplog, error["error_id"])) == 1
    assert caplog.records[-1].levelno == logging.ERROR


async def test_an_event_that_takes_too_long_is_answered_and_the_next_one_is_done(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.clock.drive(monkeypatch)
    chat = Chat(site, deadline_s=10)
    connection = await chat.enter("ana")
    gate = hold_answer(site.storage, "memberships")
    asking = asyncio.create_task(chat.ask(connection, "sync"))
    await gate.reached()
    await site.clock.elapse(10)
    async with asyncio.timeout(PATIENCE_S):
        assert (await asking)["error"]["code"] == "unavailable"
    assert (await chat.ask(connection, "sync"))["ok"]


async def test_each_class_of_events_has_a_bucket_for_each_user(site: Site) -> None:
    rates = {"query": Rate(0.001, 2), "typing": Rate(0.001, 1)}
    chat = Chat(site, rates=rates)
    phone, laptop, juan = [await chat.enter(user_id) for user_id in ("ana", "ana", "juan")]
    assert (await chat.ask(phone, "sync"))["ok"]
    assert (await chat.error(laptop, "sync", {"unknown": 1}))["code"] == "invalid"
    error = await chat.error(laptop, "sync")
    assert error["code"] == "rate_limited"
    assert 990_000 < error["retry_after_ms"] < 1_000_002
    assert (await chat.error(phone, "typing", TYPING))["code"] == "not_found"
    assert (await chat.ask(juan, "sync"))["ok"]
    assert (await chat.error(juan, "no_such_event"))["code"] == "unknown_event"
    assert (await chat.error(juan, "no_such_event"))["code"] == "rate_limited"


async def test_a_socket_of_one_room_need_not_name_it(chat: Chat) -> None:
    one, other = await chat.site.group("ana", "juan"), await chat.site.group("ana")
    connection = await chat.enter("ana", room_id=one)

    async def room_of(**payload: Any) -> str:
        sent = await chat.call(connection, "chat_message", content="a", **payload)
        return str(sent["message"]["room_id"])

    assert await room_of() == one
    assert await room_of(type="chat_message") == one
    assert await room_of(room_id=other) == other
    assert await room_of(to_user_id="juan") not in (one, other)
    assert (await chat.call(connection, "history"))["messages"][-1]["seq"] == 2
    error = await chat.error(connection, "chat_message", {"content": "a", "type": "typing"})
    assert (error["code"], error["field"]) == ("invalid", "type")
    synced = await chat.call(connection, "sync", rooms={one: None, other: None})
    assert [each["room"]["id"] for each in synced["rooms"]] == [one]


async def test_a_payload_is_not_changed_by_filling_it_in(chat: Chat) -> None:
    room_id = await chat.site.group("ana")
    connection = await chat.enter("ana", room_id=room_id)
    payload = {"type": "chat_message", "content": "a"}
    await chat.ask(connection, "chat_message", payload)
    assert payload == {"type": "chat_message", "content": "a"}
