"""The things the product is about: people, rooms, memberships, messages and the changes made to them."""

from typing import Literal

from msgspec import Struct

RoomKind = Literal["direct", "group", "public"]
Role = Literal["owner", "admin", "member"]
MessageType = Literal["text", "image", "video", "audio", "file"]
ChangeKind = Literal["message", "edit", "delete", "react"]

SHOWN_REACTORS = 20
"""A message lists at most this many user ids a reaction; the counts are exact."""


class User(Struct, frozen=True, kw_only=True):
    """A person. Times are milliseconds since the epoch, UTC."""

    id: str
    username: str
    display_name: str
    avatar_url: str | None = None
    created_at: int
    last_seen: int | None = None
    revoked_before: int | None = None


class Login(Struct, frozen=True, kw_only=True):
    """A family of refresh tokens: one log-in on one device. `n` counts its rotations."""

    id: str
    user_id: str
    n: int
    rotated_at: int
    expires_at: int
    is_revoked: bool = False


class Room(Struct, frozen=True, kw_only=True):
    """A conversation. `key` is unique among all rooms; a deleted room keeps its row and its key.

    `digest` is of what was asked for when it was made ("": of a direct room, and where it was not kept).
    """

    id: str
    kind: RoomKind
    name: str | None
    key: str
    digest: str = ""
    created_by: str
    created_at: int
    first_seq: int = 1
    deleted_at: int | None = None


class Member(Struct, frozen=True, kw_only=True):
    """One user's membership of one room. `incarnation` differs each time the user joins."""

    room_id: str
    user_id: str
    role: Role
    joined_at: int
    incarnation: str
    last_read_seq: int = 0


class Head(Struct, frozen=True, kw_only=True):
    """The end of a room's log: its greatest `rev`, the last `seq` and when that change was made."""

    rev: int = 0
    last_seq: int = 0
    at: int = 0


class Message(Struct, frozen=True, kw_only=True):
    """A message as it stands after the change `rev`; `content_rev` is the change that holds its content."""

    id: str
    room_id: str
    seq: int
    rev: int
    sender_id: str
    client_msg_id: str | None
    message_type: MessageType
    content: str
    attachments: tuple[dict[str, object], ...] = ()
    reply_to: str | None = None
    reactions: dict[str, tuple[str, ...]] = {}
    reaction_counts: dict[str, int] = {}
    created_at: int
    edited_at: int | None = None
    deleted_at: int | None = None
    content_rev: int

    @property
    def is_blank(self) -> bool:
        """Whether its text was taken away by a deletion which this state does not have yet."""
        return self.deleted_at is None and not self.content and not self.attachments


class Change(Struct, frozen=True, kw_only=True):
    """One entry of a room's insert-only log.

    `key` is unique in the room; `digest` is of the first payload of a message ("" for other kinds);
    `reaction_type` is what a reaction was set to (None: taken back); `message` is the message after it.
    """

    room_id: str
    rev: int
    kind: ChangeKind
    last_seq: int
    key: str
    digest: str
    by: str
    node: str
    at: int
    reaction_type: str | None = None
    message: Message

    @property
    def head(self) -> Head:
        """The end of the room's log behind it."""
        return Head(rev=self.rev, last_seq=self.last_seq, at=self.at)
