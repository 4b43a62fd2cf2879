import asyncio
from typing import Any

import msgspec
import pytest

from namespaces.chat import ChatNamespace
from namespaces.sessions import Session
from server import events
from server.domain.errors import ERRORS
from server.views import ExpiresData, Nothing
from tests.services import Site, hold_answer
from tests.unit.namespaces.world import Chat, FakeConnection


@pytest.fixture
async def chat(site: Site) -> Chat:
    await site.people("juan", "ana", "eva")
    return Chat(site)


@pytest.fixture
async def juan(chat: Chat) -> FakeConnection:
    return await chat.enter("juan")


def test_every_event_of_the_contract_has_one_method_and_no_other_is_one() -> None:
    own = {
        name for name, value in vars(ChatNamespace).items() if callable(value) and not name.startswith("_")
    }
    assert own == set(events.CLIENT_EVENTS)
    for name, event in events.CLIENT_EVENTS.items():
        hints = getattr(ChatNamespace, name).__annotations__
        assert hints["payload"] is event.payload
        assert hints["return"] in (event.data, event.data | Nothing)


async def test_a_conversation_from_its_room_to_its_end(chat: Chat, juan: FakeConnection) -> None:
    """Every event once, each answered with what the contract declares."""
    answered: dict[str, dict[str, Any]] = {}

    async def ask(event: str, **payload: Any) -> dict[str, Any]:
        data = await chat.call(juan, event, **payload)
        msgspec.convert(data, events.CLIENT_EVENTS[event].data)
        answered[event] = data
        return data

    room_id = (await ask("create_room", kind="public", name="Friends", member_ids=["ana"]))["room"]["id"]
    message = (await ask("chat_message", room_id=room_id, content="Hola!"))["message"]
    of = {"room_id": room_id, "message_id": message["id"]}
    assert (await ask("edit_message", **of, content="Adiós"))["message"]["content"] == "Adiós"
    assert (await ask("react_message", **of, reaction_type="like"))["message"]["my_reaction"] == "like"
    assert await ask("read_message", **of) == {"last_read_seq": 1}
    assert await ask("typing", room_id=room_id, is_typing=True) == {}
    assert (await ask("delete_message", **of))["message"]["content"] == ""
    assert (await ask("history", room_id=room_id))["messages"][0]["rev"] == 4
    assert (await ask("add_member", room_id=room_id, user_id="eva"))["room"]["member_count"] == 3
    assert (await ask("set_role", room_id=room_id, user_id="eva", role="owner"))["room"]["role"] == "owner"
    assert (await ask("remove_member", room_id=room_id, user_id="ana"))["room"]["member_count"] == 2
    assert (await ask("sync", rooms={room_id: 0}))["rooms"][0]["rev"] == 4
    assert await ask("leave_room", room_id=room_id) == {}
    assert (await ask("join_room", room_id=room_id))["room"]["role"] == "member"
    assert (await ask("open_direct", user_id="ana"))["room"]["peer"]["id"] == "ana"
    chat.site.clock.advance(100)
    assert await ask("auth_refresh", token=chat.token("juan")) == {"expires_in": 900}
    assert answered.keys() == events.CLIENT_EVENTS.keys()


async def test_who_removes_themselves_has_left(chat: Chat, juan: FakeConnection) -> None:
    room_id = await chat.site.group("juan", "ana")
    assert await chat.call(juan, "remove_member", room_id=room_id, user_id="juan") == {}
    assert (await chat.error(juan, "history", {"room_id": room_id}))["code"] == "not_found"


async def test_a_message_ends_typing(chat: Chat, juan: FakeConnection) -> None:
    room_id = await chat.site.group("juan", "ana")
    await chat.call(juan, "typing", room_id=room_id, is_typing=True)
    await chat.call(juan, "chat_message", room_id=room_id, content="Hola!")
    told = [tell.data for tell in chat.site.publisher.told("typing_status")]
    assert [getattr(data, "is_typing", None) for data in told] == [True, False]


async def test_a_disconnect_ends_typing(chat: Chat, juan: FakeConnection) -> None:
    room_id = await chat.site.group("juan", "ana")
    await chat.call(juan, "typing", room_id=room_id, is_typing=True)
    await chat.namespace.disconnected(juan, "transport close")
    assert len(chat.site.publisher.told("typing_status")) == 2


async def test_a_renewal_is_of_the_same_user_with_a_token_that_is_accepted(
    chat: Chat, juan: FakeConnection
) -> None:
    session = juan.state
    assert isinstance(session, Session)
    before = session.identity
    refused = {
        "another's": (chat.token("ana"), "forbidden"),
        "expired": (chat.token("juan", exp=1), "token_expired"),
        "no token": ("text", "token_invalid"),
    }
    for token, code in refused.values():
        assert (await chat.error(juan, "auth_refresh", {"token": token}))["code"] == code
    assert session.identity is before
    again = chat.token("juan", exp=int(chat.site.clock.now_s) + 5_000)
    assert await chat.call(juan, "auth_refresh", token=again) == {"expires_in": 5_000}
    assert session.identity.login_id != before.login_id


async def test_a_login_that_ends_while_a_connection_takes_its_token_is_refused(
    chat: Chat, juan: FakeConnection
) -> None:
    token = chat.token("juan", exp=int(chat.site.clock.now_s) + 5_000)
    identity = await chat.site.accounts.authenticate(token)
    gate = hold_answer(chat.site.storage, "find_login")
    renewing = asyncio.create_task(chat.error(juan, "auth_refresh", {"token": token}))
    await gate.reached()
    await chat.site.accounts.logout(identity, everywhere=False)
    gate.open()
    assert (await renewing)["code"] == "token_revoked"


async def test_what_is_answered_is_declared(chat: Chat, juan: FakeConnection) -> None:
    """Each refusal that an event's own rules know is among its codes."""
    room_id = await chat.site.group("ana", "juan")
    direct_id = (await chat.call(juan, "open_direct", user_id="ana"))["room"]["id"]
    message = await chat.site.say("ana", room_id)
    of = {"room_id": room_id, "message_id": message.id}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("chat_message", {"room_id": "no-such", "content": "a"}),
        ("edit_message", {**of, "content": "a"}),
        ("delete_message", of),
        ("delete_message", {**of, "message_id": "no-such"}),
        ("react_message", {**of, "message_id": "no-such", "reaction_type": "like"}),
        ("read_message", {**of, "message_id": "no-such"}),
        ("typing", {"room_id": "no-such", "is_typing": True}),
        ("join_room", {"room_id": "no-such"}),
        ("leave_room", {"room_id": direct_id}),
        ("create_room", {"kind": "group", "name": "a", "member_ids": ["no-such"]}),
        ("open_direct", {"user_id": "no-such"}),
        ("add_member", {"room_id": room_id, "user_id": "eva"}),
        ("remove_member", {"room_id": room_id, "user_id": "ana"}),
        ("remove_member", {"room_id": direct_id, "user_id": "juan"}),
        ("set_role", {"room_id": room_id, "user_id": "juan", "role": "owner"}),
        ("history", {"room_id": "no-such"}),
        ("auth_refresh", {"token": "text"}),
    ]
    known = {error.code for error in ERRORS}
    undeclared = []
    for event, payload in cases:
        code = (await chat.error(juan, event, payload))["code"]
        assert code in known
        if code not in (*events.CLIENT_EVENTS[event].errors, *events.COMMON_ERRORS):
            undeclared.append((event, code))
    assert undeclared == []


def test_the_seconds_left_are_whole() -> None:
    assert msgspec.to_builtins(ExpiresData(expires_in=60)) == {"expires_in": 60}
