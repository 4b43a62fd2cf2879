"""Events that break the contract: each gets its code and field, nothing is stored, and the server goes on.

What is wrong with its fields is made from its declaration, so an event that is added is held to it too.
"""

import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
import pytest_asyncio
from msgspec import inspect
from msgspec.structs import FieldInfo

from server import events
from tests.harness import (
    Api,
    Client,
    Json,
    ServerProcess,
    connected,
    http_api,
    raw_socket,
    receive_until,
    running_server,
    site_token,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = events.CLIENT_EVENTS
VALUES: tuple[object, ...] = (
    *(None, True, -1, 1.5, 2**53, 10**30, "", "?", b"?"),
    *([], ["?"], [None], {}, {"?": 1}, {"?": None}, {"_placeholder": True, "num": 7}),
)
BAD_TEXTS: tuple[object, ...] = ("a\0b", "\ud800", "a\udfff", ["\ud800"], {"\ud800": 1}, {"a": {"b": "\0"}})
NO_OBJECTS: tuple[object, ...] = ([], [{}], "{}", 7, True, b"{}", ({}, {}), ({}, None), (None, {}), ([], {}))
numbers = itertools.count()


class World:
    """Eva and Ana are in a group where one thing has been said; Eva is connected."""

    def __init__(self, eva: Client, name: str, room: Json, message: Json) -> None:
        self.eva = eva
        self.name = name
        self.room_id: str = room["id"]
        self.message_id: str = message["id"]
        self.rev: int = message["rev"]

    def sample(self, event: str) -> Json:
        """A payload that the event takes, with what it requires and what says where."""
        known = {"room_id": self.room_id, "message_id": self.message_id, "user_id": f"ana-{self.name}"}
        known |= {"token": site_token(f"eva-{self.name}"), "reaction_type": "like"}
        return {
            field.name: known[field.name] if field.name in known else _some(field)
            for field in _fields(event)
            if field.required or field.name in ("room_id", "message_id")
        }

    async def assert_nothing_stored(self) -> None:
        """Of all that was sent since the last time; and the next message is taken, with the next number."""
        sent = await self.eva.call("chat_message", {"room_id": self.room_id, "content": "good"})
        self.rev += 1
        assert sent["message"]["rev"] == self.rev


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all of this file; none of it may cost it a stack trace."""
    env = {"TERTULIA_LIMITS__ENABLED": "false"}
    async with running_server(tmp_path_factory.mktemp("events"), env) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with http_api(server) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def world(server: ServerProcess, api: Api) -> AsyncIterator[World]:
    name = str(next(numbers))
    await api.call("GET", "/api/me", token=site_token(f"ana-{name}"))
    async with connected(server.url, site_token(f"eva-{name}")) as (eva,):
        wanted = {"kind": "group", "name": "Tapas", "member_ids": [f"ana-{name}"]}
        room = (await eva.call("create_room", wanted))["room"]
        said = await eva.call("chat_message", {"room_id": room["id"], "content": "Hola!"})
        yield World(eva, name, room, said["message"])
    assert server.faults() == []


def _fields(event: str) -> tuple[FieldInfo, ...]:
    return msgspec.structs.fields(EVENTS[event].payload)


def _some(field: FieldInfo) -> object:
    """A value of the field's type."""
    match inspect.type_info(field.type):
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return "Hola"
        case kind:
            pytest.fail(f"no sample for {field.name}: {kind}")


def _misfits(field: FieldInfo) -> Iterator[object]:
    """Values that are not of the field's type."""
    for value in VALUES:
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            yield value


@contextlib.asynccontextmanager
async def _unmoved(client: Client) -> AsyncIterator[None]:
    """What the client sees of the world is the same before and after."""
    before = await client.call("sync")
    yield
    assert await client.call("sync") == before


async def refuse(client: Client, event: str, payload: object, code: str, field: str | None) -> None:
    answer = await client.ask(event, payload)
    assert answer["ok"] is False, (payload, answer)
    error = answer["error"]
    assert (error["code"], error.get("field")) == (code, field), (payload, error)
    assert error["message"]
    assert not {"data", "error_id"} & {*answer, *error}


@pytest.mark.parametrize("event", EVENTS)
async def test_each_event_takes_its_sample(event: str, world: World) -> None:
    """Without this the refusals below would prove nothing."""
    if event == "join_room":
        made = await world.eva.call("create_room", {"kind": "public", "name": "Plaza"})
        world.room_id = made["room"]["id"]
    answer = await world.eva.ask(event, world.sample(event))
    assert answer["ok"], answer
    msgspec.convert(answer["data"], EVENTS[event].data)


@pytest.mark.parametrize("event", EVENTS)
async def test_a_field_that_is_missing_unknown_or_of_another_type_is_named(event: str, world: World) -> None:
    good = world.sample(event)
    async with _unmoved(world.eva):
        for field in _fields(event):
            if field.required:
                rest = {name: value for name, value in good.items() if name != field.name}
                await refuse(world.eva, event, rest, "invalid", field.name)
            misfits = [*_misfits(field), *BAD_TEXTS]
            assert len(misfits) > 8
            for value in misfits:
                answer = await world.eva.ask(event, {**good, field.name: value})
                assert answer["error"]["code"] == "invalid", (field.name, value, answer)
                assert answer["error"]["field"].startswith(field.name), (field.name, value, answer)
        for name in ("surprise", "Content", "__proto__", "type", "x" * 1000):
            await refuse(world.eva, event, {**good, name: 1}, "invalid", name)
        await refuse(world.eva, event, {**good, "": 1}, "invalid", None)
        await refuse(world.eva, event, {**good, "\ud800": 1}, "invalid", "payload")
    await world.assert_nothing_stored()


@pytest.mark.parametrize("event", EVENTS)
async def test_an_event_carries_one_object(event: str, world: World, api: Api) -> None:
    async with _unmoved(world.eva):
        for payload in NO_OBJECTS:
            await refuse(world.eva, event, payload, "invalid", None)
        async with raw_socket(api, {"token": site_token(f"eva-{world.name}")}) as socket:
            await socket.send(f'42/chat,1["{event}",null]')
            (answer,) = await receive_until(socket, "43/chat,1")
            assert answer["error"]["code"] == "invalid"
    await world.assert_nothing_stored()


@pytest.mark.parametrize("event", [name for name in EVENTS if name != "sync"])
async def test_an_event_without_an_argument_is_an_empty_object(event: str, world: World) -> None:
    answer = await world.eva.ask(event)
    assert answer["error"]["code"] == "invalid"
    assert answer["error"]["field"] in {field.name for field in _fields(event)}


TEXTS: dict[str, tuple[object, bool]] = {
    "nothing": ("", False),
    "one character": ("a", True),
    "4,000 characters": ("a" * 4000, True),
    "4,000 of the widest": ("\U0010ffff" * 4000, True),
    "4,001 characters": ("a" * 4001, False),
    "4,001 of the widest": ("\U0010ffff" * 4001, False),
    "space alone": (" \n ", True),
    "a NUL": ("a\0", False),
    "a lone surrogate": ("a\ud83d", False),
    "surrogates the wrong way round": ("\ude00\ud83d", False),
}


@pytest.mark.parametrize("event", ["chat_message", "edit_message"])
async def test_content_has_1_to_4000_characters_without_nul_or_half_a_surrogate_pair(
    event: str, world: World
) -> None:
    for text, is_good in TEXTS.values():
        payload = {**world.sample(event), "content": text}
        if is_good:
            assert (await world.eva.call(event, payload))["message"]["content"] == text
            world.rev += 1
        else:
            await refuse(world.eva, event, payload, "invalid", "content")
    await world.assert_nothing_stored()


# (event, what is changed of its sample, code, field); {ana}, {eva} and {elsewhere} are filled in.
RULES: list[tuple[str, Json, str, str | None]] = [
    ("chat_message", {"to_user_id": "{ana}"}, "invalid", "room_id"),
    ("chat_message", {"room_id": None}, "invalid", "room_id"),
    ("chat_message", {"room_id": None, "to_user_id": "{eva}"}, "invalid", "to_user_id"),
    ("chat_message", {"room_id": None, "to_user_id": "nobody"}, "not_found", "to_user_id"),
    ("chat_message", {"reply_to": "nothing"}, "invalid", "reply_to"),
    ("chat_message", {"reply_to": "{elsewhere}"}, "invalid", "reply_to"),
    ("chat_message", {"attachments": [{"url": "https://example.org"}]}, "invalid", "attachments"),
    ("chat_message", {"message_type": "system"}, "invalid", "message_type"),
    ("chat_message", {"client_msg_id": "x" * 65}, "invalid", "client_msg_id"),
    ("edit_message", {"message_id": "nothing"}, "not_found", "message_id"),
    ("edit_message", {"message_id": "{elsewhere}"}, "not_found", "message_id"),
    ("delete_message", {"message_id": "nothing"}, "not_found", "message_id"),
    ("delete_message", {"message_id": "{elsewhere}"}, "not_found", "message_id"),
    ("react_message", {"message_id": "{elsewhere}"}, "not_found", "message_id"),
    ("react_message", {"reaction_type": "hate"}, "invalid", "reaction_type"),
    ("react_message", {"reaction_type": "Like"}, "invalid", "reaction_type"),
    ("react_message", {"action": "replace"}, "invalid", "action"),
    ("read_message", {"message_id": None}, "invalid", "seq"),
    ("read_message", {"seq": 1}, "invalid", "seq"),
    ("read_message", {"message_id": "{elsewhere}"}, "not_found", "message_id"),
    ("create_room", {"kind": "direct"}, "invalid", "kind"),
    ("create_room", {"name": " \t"}, "invalid", "name"),
    ("create_room", {"name": "x" * 101}, "invalid", "name"),
    ("create_room", {"member_ids": ["nobody"]}, "not_found", "member_ids"),
    ("create_room", {"member_ids": ["{ana}"] * 101}, "invalid", "member_ids"),
    ("open_direct", {"user_id": "{eva}"}, "invalid", "user_id"),
    ("open_direct", {"user_id": "nobody"}, "not_found", "user_id"),
    ("add_member", {"user_id": "nobody"}, "not_found", "user_id"),
    ("remove_member", {"user_id": "nobody"}, "not_found", "user_id"),
    ("set_role", {"user_id": "nobody"}, "not_found", "user_id"),
    ("set_role", {"role": "god"}, "invalid", "role"),
    ("set_role", {"user_id": "{eva}", "role": "member"}, "conflict", None),
    ("history", {"before_seq": 1, "after_seq": 1}, "invalid", "before_seq"),
    ("history", {"around_seq": 1, "after_seq": 1}, "invalid", "before_seq"),
    ("history", {"limit": 0}, "invalid", "limit"),
    ("history", {"limit": 101}, "invalid", "limit"),
    ("sync", {"rooms": {f"room-{number}": 0 for number in range(501)}}, "invalid", "rooms"),
    ("sync", {"cursor": ""}, "invalid", "cursor"),
    ("sync", {"cursor": "next"}, "invalid", "cursor"),
    ("sync", {"cursor": "-1.1.1.x"}, "invalid", "cursor"),
    ("sync", {"cursor": "².³.¹.x"}, "invalid", "cursor"),
    ("sync", {"cursor": "1" * 201}, "invalid", "cursor"),
]


@pytest.mark.parametrize("event", sorted({rule[0] for rule in RULES}))
async def test_what_the_types_alone_do_not_say_is_refused_too(event: str, world: World) -> None:
    made = await world.eva.call("create_room", {"kind": "group", "name": "Elsewhere"})
    said = {"room_id": made["room"]["id"], "content": "there"}
    elsewhere = (await world.eva.call("chat_message", said))["message"]["id"]
    words = {"{ana}": f"ana-{world.name}", "{eva}": f"eva-{world.name}", "{elsewhere}": elsewhere}
    async with _unmoved(world.eva):
        for name, changes, code, field in RULES:
            if name == event:
                filled = json.dumps({**world.sample(event), **changes})
                for word, value in words.items():
                    filled = filled.replace(word, value)
                await refuse(world.eva, event, json.loads(filled), code, field)
    await world.assert_nothing_stored()


async def test_500_rooms_may_be_named(world: World) -> None:
    named = {f"room-{number}": 0 for number in range(500)}
    assert len((await world.eva.call("sync", {"rooms": named}))["left"]) == 500


async def test_a_client_msg_id_stands_for_one_message_and_one_room(world: World) -> None:
    eva = world.eva
    message = {"room_id": world.room_id, "content": "one", "client_msg_id": "1"}
    room: Json = {"kind": "public", "name": "Plaza", "client_msg_id": "1"}
    first = await eva.call("chat_message", message)
    world.rev += 1
    await eva.call("create_room", room)
    async with _unmoved(eva):
        again = await eva.call("chat_message", message)
        assert (again["duplicate"], again["message"]["id"]) == (True, first["message"]["id"])
        for change in ({"content": "two"}, {"message_type": "image"}, {"reply_to": world.message_id}):
            await refuse(eva, "chat_message", {**message, **change}, "conflict", "client_msg_id")
        for change in ({"name": "Other"}, {"kind": "group"}):
            await refuse(eva, "create_room", {**room, **change}, "conflict", "client_msg_id")
    await world.assert_nothing_stored()


@pytest.mark.parametrize(
    "name", ["", "unknown", "chat_message ", "CHAT_MESSAGE", "__init__", "_handle", "\ud800", "x" * 9000]
)
async def test_an_event_that_nobody_declared_is_unknown(name: str, world: World) -> None:
    answer = await world.eva.ask(name, {"room_id": world.room_id})
    assert (answer["ok"], answer["error"]["code"]) == (False, "unknown_event")
    await world.eva.sio.emit(name, {"client_msg_id": "7"}, namespace="/chat")
    told = await world.eva.heard("event_failed", lambda told: told["client_msg_id"] == "7")
    assert told["error"]["code"] == "unknown_event"
    assert told["event"] == ("?" if name == "\ud800" else name[:64])
    await world.assert_nothing_stored()


async def test_an_event_without_an_ack_fails_by_an_event(world: World) -> None:
    for payload, field, client_msg_id in (
        ({"content": "a", "client_msg_id": "1"}, "room_id", "1"),
        ({"room_id": world.room_id, "client_msg_id": "2"}, "content", "2"),
        ({"content": 7, "client_msg_id": 7}, "content", None),
        ([{"client_msg_id": "3"}], None, None),
        (None, "content", None),
    ):
        world.eva.events.clear()
        await world.eva.sio.emit("chat_message", payload, namespace="/chat")
        told = await world.eva.heard("event_failed")
        assert (told["event"], told["client_msg_id"]) == ("chat_message", client_msg_id)
        assert (told["error"]["code"], told["error"].get("field")) == ("invalid", field)
    await world.assert_nothing_stored()


HOSTILE = (
    "'); DROP TABLE changes; --",
    '" OR ""="',
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "{{7*7}} ${7*7} %s %00 \\u0000 \\",
    "\u202egnirts\u202c \ufeff\u200b\x1b[31m\x7f\x85\u2028.",
    "e\u0301 é 👩‍👩‍👧 \U0001f1ea\U0001f1f8 ﷽",
)


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_is_stored_and_sent_as_it_came(text: str, world: World, api: Api) -> None:
    eva, token = world.eva, site_token(f"eva-{world.name}")
    named = (await eva.call("create_room", {"kind": "public", "name": text, "client_msg_id": text}))["room"]
    assert named["name"] == text
    sent = {"room_id": named["id"], "content": text, "client_msg_id": text[:64]}
    message = (await eva.call("chat_message", sent))["message"]
    edited = f"{text} {text}"
    await eva.call("edit_message", {"room_id": named["id"], "message_id": message["id"], "content": edited})
    await eva.call("chat_message", {"room_id": named["id"], "content": text, "reply_to": message["id"]})
    _, me = await api.call("PATCH", "/api/me", {"display_name": text}, token=token)
    assert me["user"]["display_name"] == text
    assert (await eva.heard("user_updated"))["user"]["display_name"] == text
    (first, second) = (await eva.call("history", {"room_id": named["id"]}))["messages"]
    assert (first["content"], first["client_msg_id"]) == (edited, text[:64])
    assert (second["content"], second["reply_to"]["content"]) == (text, edited[:140])
    assert second["sender"]["display_name"] == text
    synced = await eva.call("sync", {"rooms": {named["id"]: 0, world.room_id: 0}})
    names = {each["room"]["id"]: each["room"]["name"] for each in synced["rooms"]}
    assert names == {named["id"]: text, world.room_id: "Tapas"}
    await world.assert_nothing_stored()
