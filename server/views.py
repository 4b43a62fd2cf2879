"""The shapes of what the server sends: in answers, in events and over HTTP."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from server.domain.models import MessageType, Role, RoomKind


class UserView(Struct, frozen=True, kw_only=True):
    """A person, with presence."""

    id: str
    username: str
    display_name: str
    avatar_url: str | None
    status: Literal["online", "offline"]
    last_seen: str | None


class SenderView(Struct, frozen=True, kw_only=True):
    """A person, as the sender of a message."""

    id: str
    username: str
    display_name: str
    avatar_url: str | None


class QuoteView(Struct, frozen=True, kw_only=True):
    """The message that another one answers; content cut to 140 characters, empty when deleted."""

    id: str
    seq: int
    sender: SenderView
    message_type: MessageType
    content: str


class MessageView(Struct, frozen=True, kw_only=True):
    """A message; a tombstone (`deleted_at`) keeps its seq. Answers to its reader add `my_reaction`."""

    id: str
    room_id: str
    seq: int
    rev: int
    client_msg_id: str | None
    message_type: MessageType
    content: str
    sender: SenderView
    reply_to: QuoteView | None
    attachments: list[dict[str, Any]]
    reactions: dict[str, list[str]]
    reaction_counts: dict[str, int]
    created_at: str
    edited_at: str | None
    deleted_at: str | None
    my_reaction: str | UnsetType | None = UNSET


class RoomView(Struct, frozen=True, kw_only=True):
    """A room as its reader sees it; to somebody who is not in it (public), role and last_message are null."""

    id: str
    kind: RoomKind
    name: str | None
    peer: UserView | None
    created_at: str
    member_count: int
    rev: int
    first_seq: int
    last_seq: int
    last_message: MessageView | None
    role: Role | None
    last_read_seq: int
    unread: int


class MemberView(Struct, frozen=True, kw_only=True):
    """A member of a room."""

    user: UserView
    role: Role
    joined_at: str
    last_read_seq: int


class SyncRoom(Struct, frozen=True, kw_only=True):
    """One room of a `sync`: its head, and what changed since the `rev` that was named."""

    room: RoomView
    rev: int
    changes: list[MessageView]
    read: dict[str, int] | None
    truncated: bool
    reset: bool


class Nothing(Struct, frozen=True):
    """An empty object."""


class MessageData(Struct, frozen=True, kw_only=True):
    """The message as it stands now."""

    message: MessageView


class SentData(Struct, frozen=True, kw_only=True):
    """The message; `duplicate` when its client_msg_id had been stored before."""

    message: MessageView
    duplicate: bool


class ReadData(Struct, frozen=True, kw_only=True):
    """Where the cursor is now."""

    last_read_seq: int


class RoomData(Struct, frozen=True, kw_only=True):
    """The room as its reader sees it."""

    room: RoomView


class HistoryData(Struct, frozen=True, kw_only=True):
    """Messages by ascending seq; `has_more` in the direction that was asked."""

    messages: list[MessageView]
    has_more: bool


class SyncData(Struct, frozen=True, kw_only=True):
    """A page of one's rooms; `next`: the same call with `cursor: next`."""

    me: UserView
    epoch: str
    rooms: list[SyncRoom]
    left: list[str]
    online: list[str]
    version: str
    next: str | None


class ExpiresData(Struct, frozen=True, kw_only=True):
    """Seconds until the token expires."""

    expires_in: int


class MessageReaction(Struct, frozen=True, kw_only=True):
    """Somebody's reaction changed (null: taken back)."""

    room_id: str
    message_id: str
    seq: int
    rev: int
    user_id: str
    reaction_type: str | None
    reaction_counts: dict[str, int]


class MessageRead(Struct, frozen=True, kw_only=True):
    """Somebody has read up to `last_read_seq`."""

    room_id: str
    user_id: str
    last_read_seq: int


class TypingStatus(Struct, frozen=True, kw_only=True):
    """Somebody began or ended typing; drop it after 7 s without another one."""

    room_id: str
    user_id: str
    username: str
    is_typing: bool


class UserStatus(Struct, frozen=True, kw_only=True):
    """Somebody came online or went offline, over all their devices."""

    user_id: str
    username: str
    status: Literal["online", "offline"]
    last_seen: str | None


class UserUpdated(Struct, frozen=True, kw_only=True):
    """Somebody changed their profile."""

    user: UserView


class RoomJoined(Struct, frozen=True, kw_only=True):
    """One is in a room now: call `sync` with it as null."""

    room_id: str


LeaveReason = Literal["left", "removed", "deleted"]


class RoomLeft(Struct, frozen=True, kw_only=True):
    """One is no longer in a room."""

    room_id: str
    reason: LeaveReason


class RoomUpdated(Struct, frozen=True, kw_only=True):
    """A room's name or member count changed."""

    room_id: str
    name: str | None
    member_count: int


class MemberChanged(Struct, frozen=True, kw_only=True):
    """Somebody joined or left."""

    room_id: str
    user: UserView
    member_count: int


class SessionEnded(Struct, frozen=True, kw_only=True):
    """This connection is ended on purpose; `retry` says whether to come back with a new token."""

    code: Literal["token_expired", "token_revoked", "rate_limited"]
    message: str
    retry: Literal["never", "refresh"]


class ErrorView(Struct, frozen=True, kw_only=True):
    """Why a call was not done."""

    code: str
    message: str
    field: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    error_id: str | UnsetType = UNSET


class EventFailed(Struct, frozen=True, kw_only=True):
    """An event sent without an ack failed."""

    event: str
    client_msg_id: str | None
    error: ErrorView


class ServerDraining(Struct, frozen=True, kw_only=True):
    """This server closes the connection in so many milliseconds; the client's reconnection finds another."""

    reconnect_in_ms: int
