import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from server import events
from server.asyncapi import document
from server.domain.errors import ERRORS

DOCUMENT = document()


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(reference: str) -> Any:
    assert reference.startswith("#/")
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema that stands in the document."""
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_it_is_json_and_always_the_same() -> None:
    assert json.dumps(DOCUMENT) == json.dumps(document())
    assert (DOCUMENT["asyncapi"], DOCUMENT["info"]["version"]) == ("3.0.0", events.VERSION)
    assert DOCUMENT["channels"]["chat"]["address"] == "/chat"


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 50
    for reference in found:
        assert isinstance(resolve(reference), dict)


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", events.CLIENT_EVENTS)
def test_every_event_of_a_client_has_its_payload_its_answer_and_its_codes(name: str) -> None:
    event = events.CLIENT_EVENTS[name]
    operation = DOCUMENT["operations"][f"on.{name}"]
    assert operation["action"] == "receive"
    sent = resolve(resolve(operation["messages"][0]["$ref"])["$ref"])
    assert (sent["name"], sent["summary"]) == (name, event.doc)
    assert set(resolve(sent["payload"]["$ref"])["properties"]) == set(event.payload.__struct_fields__)
    ack = resolve(resolve(operation["reply"]["messages"][0]["$ref"])["$ref"])["payload"]
    done, failed = ack["oneOf"]
    assert (
        resolve(done["properties"]["data"]["$ref"]) == DOCUMENT["components"]["schemas"][event.data.__name__]
    )
    codes = failed["properties"]["error"]["allOf"][1]["properties"]["code"]["enum"]
    assert set(codes) == {*event.errors, *events.COMMON_ERRORS}
    for code in codes:
        answer = {"ok": False, "error": {"code": code, "message": "m", "field": "f", "retry_after_ms": 1}}
        validator(ack).validate(answer)
    wrong: list[dict[str, Any]] = [
        {"ok": True},
        {"ok": False},
        {"ok": True, "error": {"code": codes[0], "message": "m"}},
        {"ok": False, "error": {"code": "no_such_code", "message": "m"}},
    ]
    assert not any(validator(ack).is_valid(each) for each in wrong)


@pytest.mark.parametrize("name", events.SERVER_EVENTS)
def test_every_event_of_the_server_has_its_payload(name: str) -> None:
    event = events.SERVER_EVENTS[name]
    operation = DOCUMENT["operations"][f"emit.{name}"]
    assert operation["action"] == "send"
    told = resolve(resolve(operation["messages"][0]["$ref"])["$ref"])
    assert (told["name"], told["summary"]) == (name, event.doc)
    assert set(resolve(told["payload"]["$ref"])["properties"]) == set(event.payload.__struct_fields__)


def test_no_other_event_is_in_it() -> None:
    expected = {f"on.{name}" for name in events.CLIENT_EVENTS} | {
        f"emit.{name}" for name in events.SERVER_EVENTS
    }
    assert DOCUMENT["operations"].keys() == expected
    assert DOCUMENT["channels"]["chat"]["messages"].keys() == DOCUMENT["components"]["messages"].keys()


def test_every_code_is_explained() -> None:
    schema = DOCUMENT["components"]["schemas"]["Error"]
    assert schema["properties"]["code"]["enum"] == [error.code for error in ERRORS]
    for error in ERRORS:
        assert f"`{error.code}` ({error.http_status}): {error.doc}" in schema["description"]


@pytest.mark.parametrize(
    ("name", "payload", "is_valid"),
    [
        ("chat_message", {"content": "a", "room_id": "r"}, True),
        ("chat_message", {"content": "a", "other": 1}, False),
        ("chat_message", {}, False),
        ("sync", {"rooms": {"r": 4, "s": None}}, True),
        ("sync", {"rooms": {"r s": 4}}, False),
        ("sync", {"rooms": {"r": -1}}, False),
        ("history", {"room_id": "r", "limit": 101}, False),
        ("create_room", {"kind": "direct", "name": "a"}, False),
    ],
)
def test_the_schemas_say_what_the_server_takes(name: str, payload: dict[str, Any], *, is_valid: bool) -> None:
    shape = events.CLIENT_EVENTS[name].payload
    schema = DOCUMENT["components"]["schemas"][shape.__name__]
    assert validator(schema).is_valid(payload) is is_valid
    try:
        msgspec.convert(payload, shape)
    except msgspec.ValidationError:
        assert not is_valid
    else:
        assert is_valid
