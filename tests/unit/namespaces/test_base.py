import asyncio
import logging
from typing import Any

import pytest

from server.domain.errors import ConflictError, RateLimitedError, UnavailableError
from server.domain.ratelimit import Rate
from server.telemetry import Repeats
from server.views import EventFailed
from tests.harness import PATIENCE_S
from tests.services import Site, break_, hold_answer
from tests.unit.namespaces.world import Chat, FakeConnection, logged


@pytest.fixture
async def chat(site: Site) -> Chat:
    await site.people("juan", "ana")
    return Chat(site)


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


async def test_of_events_that_are_refused_one_a_kind_and_person_is_logged(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood of them, over many sockets and reconnects too, must not fill the disk."""
    chat.namespace._rejections = Repeats(window_s=10, clock=chat.site.clock.s)
    caplog.set_level(logging.INFO)

    async def refuse(user_id: str, event: str) -> None:
        connection = await chat.enter(user_id)
        for _ in range(50):
            await chat.error(connection, event, {"unknown": 1})

    def lines() -> list[tuple[str, str, int]]:
        found = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        rejected = [event for event in found if event["event"] == "msg.rejected"]
        return [(event["name"], event["code"], event["left_out"]) for event in rejected]

    for user_id in ("ana", "ana", "juan"):
        await refuse(user_id, "sync")
        await refuse(user_id, "nothing")
    logged = [("sync", "invalid", 0), ("nothing", "unknown_event", 0)]
    assert lines() == logged * 2
    chat.site.clock.advance(10)
    await refuse("ana", "typing")
    assert lines() == [*logged * 2, ("typing", "invalid", 99)]


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
