import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from namespaces.chat import ChatNamespace
from server import events
from server.domain.errors import ERRORS, InvalidError
from server.events import CLIENT_EVENTS, SERVER_EVENTS, ChatMessage, decode
from server.settings import LimitsSettings

GOOD: dict[str, dict[str, Any]] = {
    "chat_message": {"content": "a"},
    "edit_message": {"room_id": "r", "message_id": "m", "content": "a"},
    "delete_message": {"room_id": "r", "message_id": "m"},
    "react_message": {"room_id": "r", "message_id": "m", "reaction_type": "like"},
    "read_message": {"room_id": "r"},
    "typing": {"room_id": "r", "is_typing": True},
    "join_room": {"room_id": "r"},
    "leave_room": {"room_id": "r"},
    "create_room": {"kind": "group", "name": "a"},
    "open_direct": {"user_id": "u"},
    "add_member": {"room_id": "r", "user_id": "u"},
    "remove_member": {"room_id": "r", "user_id": "u"},
    "set_role": {"room_id": "r", "user_id": "u", "role": "admin"},
    "sync": {},
    "history": {"room_id": "r"},
    "auth_refresh": {"token": "t"},
}
"""What each event needs at least."""

# By type of field: values that no field of this type takes.
TEXTS = [7, True, 1.5, [], {}, b"a", "a\0", "\ud800"]
REQUIRED = [*TEXTS, None]
IDS = [*TEXTS, "", "a" * 81, "a b", "a/b", "ñ", "a\n"]
NUMBERS = ["7", True, 1.5, -1, 2**53, [], {}]
WRONG: dict[str, list[Any]] = {
    **dict.fromkeys(("room_id", "to_user_id", "message_id", "reply_to", "user_id"), IDS),
    **dict.fromkeys(("content", "name", "reaction_type"), REQUIRED),
    **dict.fromkeys(("seq", "before_seq", "after_seq", "around_seq"), NUMBERS),
    "message_type": [*TEXTS, None, "voice", "field `evil`", "` - at `$.evil`"],
    "client_msg_id": [*TEXTS, "", "a" * 65],
    "attachments": [None, {}, "a", [{}], [1]],
    "action": [*TEXTS, None, "switch"],
    "is_typing": [0, 1, "true", None, []],
    "kind": [*TEXTS, None, "direct"],
    "member_ids": [None, "a", {}, [1], ["a b"], ["a"] * 101, ["a\0"]],
    "role": [*TEXTS, None, "guest"],
    "rooms": [None, [], "a", {"a b": 1}, {"a": "1"}, {"a": -1}, {"": 1}, {f"{n}": 1 for n in range(501)}],
    "cursor": [*TEXTS, "a" * 201],
    "limit": [*NUMBERS, 0, 101, None],
    "token": [*TEXTS, "", "a" * 16_385],
}


def field_of(payload: object, shape: type) -> str | None:
    with pytest.raises(InvalidError) as refused:
        decode(payload, shape)
    assert refused.value.message
    return refused.value.field


@pytest.mark.parametrize("name", CLIENT_EVENTS)
def test_an_event_is_decoded_from_what_it_needs(name: str) -> None:
    shape = CLIENT_EVENTS[name].payload
    assert isinstance(decode(GOOD[name], shape), shape)


@pytest.mark.parametrize("name", CLIENT_EVENTS)
def test_a_missing_field_is_named(name: str) -> None:
    for field in GOOD[name]:
        without = {key: value for key, value in GOOD[name].items() if key != field}
        assert field_of(without, CLIENT_EVENTS[name].payload) == field


@pytest.mark.parametrize("name", CLIENT_EVENTS)
@pytest.mark.parametrize("field", ["other", "type", "Room_id", "", "$.content", "field `content`"])
def test_an_unknown_field_is_named(name: str, field: str) -> None:
    assert field_of({**GOOD[name], field: 1}, CLIENT_EVENTS[name].payload) == (field or None)


@pytest.mark.parametrize("name", CLIENT_EVENTS)
def test_a_wrong_value_of_any_field_is_named(name: str) -> None:
    shape = CLIENT_EVENTS[name].payload
    for field in shape.__struct_fields__:
        for value in WRONG[field]:
            found = field_of({**GOOD[name], field: value}, shape)
            assert found is not None, (field, value)
            assert found.partition(".")[0] == field, (field, value)


def test_text_that_cannot_be_stored_is_refused_at_any_depth() -> None:
    """Before anything else, as names of fields too: it could not even be shown in the answer."""
    shape = CLIENT_EVENTS["chat_message"].payload
    for bad in ("\0", "a\0b", "\ud800", "\udfff", "😀\ud83d"):
        assert field_of({"content": "a", "attachments": [{"deep": [{"er": bad}]}]}, shape) is not None
        for payload in ({"content": "a", bad: 1}, {"content": "a", "attachments": [{bad: 1}]}):
            field = field_of(payload, shape)
            assert field is not None
            field.encode()
    strange = "😀\u0001\u202e\ufffe"
    assert decode({"content": strange}, ChatMessage).content == strange


def test_a_payload_nested_without_end_is_invalid() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for payload in ({"content": "a", "attachments": deep}, {"content": deep}):
        field_of(payload, CLIENT_EVENTS["chat_message"].payload)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(CLIENT_EVENTS)), st.data())
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_comes_is_decoded_or_invalid(name: str, data: st.DataObject) -> None:
    event = CLIENT_EVENTS[name]
    fields = st.sampled_from([*event.payload.__struct_fields__, "other"])
    payload = {**GOOD[name], **data.draw(st.dictionaries(fields, json_values, max_size=3))}
    try:
        decoded = decode(payload, event.payload)
    except InvalidError as error:
        f"{error.message} {error.field}".encode()
    else:
        assert set(payload) <= set(event.payload.__struct_fields__)
        msgspec.json.encode(decoded)


def test_every_event_has_a_handler_and_every_handler_an_event() -> None:
    handlers = {name for name in vars(ChatNamespace) if not name.startswith("_")}
    assert handlers == set(CLIENT_EVENTS) == set(GOOD)


def test_every_event_stands_under_its_name() -> None:
    for table in (CLIENT_EVENTS, SERVER_EVENTS):
        assert all(name == event.name for name, event in table.items())
        assert all(event.doc.endswith(".") for event in table.values())


def test_every_code_of_an_event_is_one_of_the_tree_of_errors() -> None:
    codes = {error.code for error in ERRORS}
    assert len(codes) == len(ERRORS)
    for event in CLIENT_EVENTS.values():
        assert {*event.errors, *events.COMMON_ERRORS} <= codes
        assert not set(event.errors) & set(events.COMMON_ERRORS), event.name


def test_every_class_of_events_has_its_limits_in_the_settings() -> None:
    classes = {event.rate for event in CLIENT_EVENTS.values()}
    assert classes == set(get_args(events.RateClass))
    fields = set(LimitsSettings.__struct_fields__)
    assert {f"{each}_{kind}" for each in classes for kind in ("per_s", "burst")} <= fields


def test_every_event_that_is_told_is_declared_with_its_payload() -> None:
    """Read off the code that tells: `event="…", data=Shape(` and `emit("…", Shape(`."""
    root = Path(__file__).resolve().parents[2]
    told: dict[str, set[str]] = {}
    pattern = re.compile(r"(?:event=|\.emit\(\s*)\"(\w+)\",\s*(?:data=)?(\w+)")
    for path in [*(root / "server" / "services").glob("*.py"), *(root / "namespaces").glob("*.py")]:
        for name, data in pattern.findall(path.read_text(encoding="utf-8")):
            told.setdefault(name, set()).add(data)
    assert told.keys() <= SERVER_EVENTS.keys()
    for name, found in told.items():
        shapes = {each for each in found if each[0].isupper()}
        assert shapes <= {SERVER_EVENTS[name].payload.__name__}, name
    unseen = SERVER_EVENTS.keys() - told.keys()
    by_table = {"chat_message", "message_edited", "message_deleted", "message_reaction"}
    assert unseen == by_table | {"member_joined", "member_left"}
