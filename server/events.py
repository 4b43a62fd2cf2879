"""The wire contract: every event, payload, answer and error of the `/chat` namespace. Its one declaration.

Dispatch, strict decoding, answers, error codes, the AsyncAPI document and the HTTP bodies come from here.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from server import views
from server.domain.changes import ReactAction
from server.domain.errors import InvalidError
from server.domain.models import MessageType, Role
from server.domain.rules import find_bad_text

VERSION = "0.1.0"
NAMESPACE = "/chat"
MOST_ANSWER_BYTES = 256 * 1024
MOST_NAMED_ROOMS = 500
MOST_LISTED = 100
NEWEST_MESSAGES = 50
MOST_CHANGES_BEHIND = 1000

# Python's `$` also stands before a last line feed.
Id = Annotated[str, Meta(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_~-]+$(?!\n)")]
ClientMsgId = Annotated[str, Meta(min_length=1, max_length=64)]
Seq = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, Meta(ge=1, le=MOST_LISTED)]
Token = Annotated[str, Meta(min_length=1, max_length=16_384)]
RateClass = Literal["message", "change", "read", "typing", "room", "query", "auth"]


class Payload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: one object; an unknown field is `invalid`."""


class ChatMessage(Payload, frozen=True, kw_only=True):
    """A new message to a room, or to a person (`to_user_id`: the direct room of the two)."""

    content: str
    room_id: Id | None = None
    to_user_id: Id | None = None
    message_type: MessageType = "text"
    client_msg_id: ClientMsgId | None = None
    reply_to: Id | None = None
    attachments: Annotated[list[dict[str, Any]], Meta(max_length=0)] = []


class EditMessage(Payload, frozen=True, kw_only=True):
    """New content for one's own message."""

    room_id: Id
    message_id: Id
    content: str


class DeleteMessage(Payload, frozen=True, kw_only=True):
    """Leave a tombstone in place of a message."""

    room_id: Id
    message_id: Id


class ReactMessage(Payload, frozen=True, kw_only=True):
    """Set, take back or switch one's own reaction."""

    room_id: Id
    message_id: Id
    reaction_type: str
    action: ReactAction = "toggle"


class ReadMessage(Payload, frozen=True, kw_only=True):
    """How far one has read: up to a message or a seq."""

    room_id: Id
    message_id: Id | None = None
    seq: Seq | None = None


class TypingPayload(Payload, frozen=True, kw_only=True):
    """Whether one is typing now."""

    room_id: Id
    is_typing: bool


class RoomPayload(Payload, frozen=True, kw_only=True):
    """A room."""

    room_id: Id


class CreateRoom(Payload, frozen=True, kw_only=True):
    """A new group or public room."""

    kind: Literal["group", "public"]
    name: str
    member_ids: Annotated[list[Id], Meta(max_length=MOST_LISTED)] = []
    client_msg_id: ClientMsgId | None = None


class OpenDirect(Payload, frozen=True, kw_only=True):
    """The other person."""

    user_id: Id


class RoomUser(Payload, frozen=True, kw_only=True):
    """A person in a room."""

    room_id: Id
    user_id: Id


class SetRole(Payload, frozen=True, kw_only=True):
    """A member's new role."""

    room_id: Id
    user_id: Id
    role: Role


class Sync(Payload, frozen=True, kw_only=True):
    """What one holds: the last `rev` of each room, or null for its newest messages."""

    rooms: Annotated[dict[Id, Seq | None], Meta(max_length=MOST_NAMED_ROOMS)] = {}
    cursor: Annotated[str, Meta(max_length=200)] | None = None


class History(Payload, frozen=True, kw_only=True):
    """A page of a room's messages; without a seq the newest."""

    room_id: Id
    before_seq: Seq | None = None
    after_seq: Seq | None = None
    around_seq: Seq | None = None
    limit: Limit = NEWEST_MESSAGES


class AuthRefresh(Payload, frozen=True, kw_only=True):
    """A new access token of the same user."""

    token: Token


class ClientEvent(Struct, frozen=True):
    """An event that clients send: payload, answer, class of rate limit and its own error codes."""

    name: str
    payload: type[Payload]
    data: type[Struct]
    rate: RateClass
    errors: tuple[str, ...]
    doc: str


class ServerEvent(Struct, frozen=True):
    """An event that the server sends."""

    name: str
    payload: type[Struct]
    doc: str


COMMON_ERRORS = ("unauthenticated", "invalid", "rate_limited", "unavailable", "draining", "internal")
"""What any event may answer, beside its own codes and `unknown_event`."""

_IN_ROOM = ("not_found",)
_BY_RANK = ("not_found", "forbidden")

CLIENT_EVENTS: dict[str, ClientEvent] = {
    event.name: event
    for event in (
        ClientEvent(
            "chat_message",
            ChatMessage,
            views.SentData,
            "message",
            ("not_found", "conflict"),
            "Send a message.",
        ),
        ClientEvent(
            "edit_message", EditMessage, views.MessageData, "change", _BY_RANK, "Edit one's own message."
        ),
        ClientEvent(
            "delete_message", DeleteMessage, views.MessageData, "change", _BY_RANK, "Delete a message."
        ),
        ClientEvent(
            "react_message", ReactMessage, views.MessageData, "change", _IN_ROOM, "React to a message."
        ),
        ClientEvent(
            "read_message", ReadMessage, views.ReadData, "read", _IN_ROOM, "Move one's read cursor forward."
        ),
        ClientEvent("typing", TypingPayload, views.Nothing, "typing", _IN_ROOM, "Say that one is typing."),
        ClientEvent("join_room", RoomPayload, views.RoomData, "room", _BY_RANK, "Join a public room."),
        ClientEvent(
            "leave_room", RoomPayload, views.Nothing, "room", ("not_found", "conflict"), "Leave a room."
        ),
        ClientEvent(
            "create_room", CreateRoom, views.RoomData, "room", (*_BY_RANK, "conflict"), "Create a room."
        ),
        ClientEvent(
            "open_direct", OpenDirect, views.RoomData, "room", _BY_RANK, "The direct room with a person."
        ),
        ClientEvent("add_member", RoomUser, views.RoomData, "room", _BY_RANK, "Add a person (admins)."),
        ClientEvent(
            "remove_member",
            RoomUser,
            views.RoomData,
            "room",
            (*_BY_RANK, "conflict"),
            "Remove a member (admins).",
        ),
        ClientEvent(
            "set_role",
            SetRole,
            views.RoomData,
            "room",
            (*_BY_RANK, "conflict"),
            "Set a member's role (admins).",
        ),
        ClientEvent("sync", Sync, views.SyncData, "query", (), "One's rooms and what was missed."),
        ClientEvent("history", History, views.HistoryData, "query", _IN_ROOM, "A page of messages."),
        ClientEvent(
            "auth_refresh",
            AuthRefresh,
            views.ExpiresData,
            "auth",
            ("token_invalid", "token_expired", "token_revoked", "forbidden"),
            "Renew the connection's token in place.",
        ),
    )
}

SERVER_EVENTS: dict[str, ServerEvent] = {
    event.name: event
    for event in (
        ServerEvent("chat_message", views.MessageData, "A new message."),
        ServerEvent("message_edited", views.MessageData, "A message was edited."),
        ServerEvent("message_deleted", views.MessageData, "A message was deleted."),
        ServerEvent("message_reaction", views.MessageReaction, "A reaction changed."),
        ServerEvent("message_read", views.MessageRead, "A read cursor moved."),
        ServerEvent("typing_status", views.TypingStatus, "Somebody began or ended typing."),
        ServerEvent("user_status", views.UserStatus, "Somebody came online or went offline."),
        ServerEvent("user_updated", views.UserUpdated, "A profile changed."),
        ServerEvent("room_joined", views.RoomJoined, "One is in a room now."),
        ServerEvent("room_left", views.RoomLeft, "One is no longer in a room."),
        ServerEvent("room_updated", views.RoomUpdated, "A room changed."),
        ServerEvent("member_joined", views.MemberChanged, "Somebody joined a room."),
        ServerEvent("member_left", views.MemberChanged, "Somebody left a room."),
        ServerEvent("auth_expiring", views.ExpiresData, "The token expires soon: send auth_refresh."),
        ServerEvent("session_ended", views.SessionEnded, "The connection is ended on purpose."),
        ServerEvent("event_failed", views.EventFailed, "An event sent without an ack failed."),
        ServerEvent("server_draining", views.ServerDraining, "The server is shutting down."),
    )
}

# The message may quote what the client sent, so only its beginning and its end are believed.
_FIELD = re.compile(
    r"\AObject (?:contains unknown|missing required) field `(?P<name>.*)`\Z|`\$\.?(?P<path>[^`\[.]*)[^`]*`\Z",
    re.DOTALL,
)
Shape = TypeVar("Shape")


def decode(payload: object, shape: type[Shape]) -> Shape:
    """The payload as its shape. Raises InvalidError, with the field that breaks it."""
    try:
        bad_text = find_bad_text(payload)
        if bad_text is not None:
            raise InvalidError("text may hold neither NUL nor lone surrogates", field=bad_text)
        return msgspec.convert(payload, shape)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
        field = (found["name"] or found["path"] or None) if found else None
        raise InvalidError(str(error), field=field) from None
    except RecursionError:
        raise InvalidError("the payload is nested too deeply") from None
