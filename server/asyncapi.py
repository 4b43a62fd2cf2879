"""The contract as an AsyncAPI 3.0 document, made from `events` alone."""

from typing import Any

import msgspec

from server import events
from server.domain.errors import ERRORS
from server.views import ErrorView, Nothing

_REF = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The document, as JSON types."""
    payloads = [event.payload for event in events.CLIENT_EVENTS.values()]
    answers = [event.data for event in events.CLIENT_EVENTS.values()]
    told = [event.payload for event in events.SERVER_EVENTS.values()]
    shapes = list(dict.fromkeys([*payloads, *answers, *told, ErrorView, Nothing]))
    _, schemas = msgspec.json.schema_components(shapes, ref_template=_REF)
    schemas["Error"] = _error_schema()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tertulia",
            "version": events.VERSION,
            "description": "Socket.IO 5 at /socket.io/. Every event carries one object and is acknowledged "
            "with {ok: true, data} or {ok: false, error}.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {"chat": {"address": events.NAMESPACE, "messages": _messages()}},
        "operations": {**_client_operations(), **_server_operations()},
        "components": {"schemas": schemas, "messages": _components()},
    }


def _ref(shape: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=shape.__name__)}


def _error_schema() -> dict[str, Any]:
    codes = "\n".join(f"- `{error.code}` ({error.http_status}): {error.doc}" for error in ERRORS)
    return {
        "allOf": [_ref(ErrorView)],
        "properties": {"code": {"enum": [error.code for error in ERRORS]}},
        "description": codes,
    }


def _components() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, event in events.CLIENT_EVENTS.items():
        found[f"client.{name}"] = {"name": name, "summary": event.doc, "payload": _ref(event.payload)}
        found[f"ack.{name}"] = {"name": name, "title": f"Ack of {name}", "payload": _ack_schema(event)}
    for name, told in events.SERVER_EVENTS.items():
        found[f"server.{name}"] = {"name": name, "summary": told.doc, "payload": _ref(told.payload)}
    return found


def _ack_schema(event: events.ClientEvent) -> dict[str, Any]:
    codes = sorted({*events.COMMON_ERRORS, *event.errors})
    done = _envelope("data", _ref(event.data), ok=True)
    error = {"allOf": [{"$ref": _REF.format(name="Error")}, {"properties": {"code": {"enum": codes}}}]}
    return {"oneOf": [done, _envelope("error", error, ok=False)]}


def _envelope(name: str, shape: dict[str, Any], *, ok: bool) -> dict[str, Any]:
    properties = {"ok": {"const": ok}, name: shape}
    return {"type": "object", "required": ["ok", name], "properties": properties}


def _messages() -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in _components()}


def _message_ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/chat/messages/{name}"}


def _client_operations() -> dict[str, Any]:
    return {
        f"on.{name}": {
            "action": "receive",
            "channel": {"$ref": "#/channels/chat"},
            "summary": event.doc,
            "messages": [_message_ref(f"client.{name}")],
            "reply": {
                "channel": {"$ref": "#/channels/chat"},
                "messages": [_message_ref(f"ack.{name}")],
            },
        }
        for name, event in events.CLIENT_EVENTS.items()
    }


def _server_operations() -> dict[str, Any]:
    return {
        f"emit.{name}": {
            "action": "send",
            "channel": {"$ref": "#/channels/chat"},
            "summary": event.doc,
            "messages": [_message_ref(f"server.{name}")],
        }
        for name, event in events.SERVER_EVENTS.items()
    }
