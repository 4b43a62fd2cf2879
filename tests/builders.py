"""The things of the domain with every field filled in, for tests that care about one or two of them."""

import hashlib

from msgspec.structs import replace

from server.domain.changes import with_reaction
from server.domain.models import Change, ChangeKind, Member, Message, MessageType, Role, Room, RoomKind, User

CREATED_AT = 1_769_941_800_123
"""2026-02-01T10:30:00.123Z, in milliseconds."""


def user(user_id: str = "juan", *, username: str | None = None, display_name: str | None = None) -> User:
    """A person whose username is the id, unless given."""
    username = username or user_id
    return User(
        id=user_id,
        username=username,
        display_name=display_name or username.title(),
        created_at=CREATED_AT,
    )


def room(
    room_id: str = "room",
    *,
    kind: RoomKind = "group",
    name: str | None = "A room",
    key: str | None = None,
    created_by: str = "juan",
) -> Room:
    """A room whose key follows from the id, unless given."""
    return Room(
        id=room_id,
        kind=kind,
        name=name,
        key=key or f"key-{room_id}",
        created_by=created_by,
        created_at=CREATED_AT,
    )


def member(
    room_id: str = "room",
    user_id: str = "juan",
    *,
    role: Role = "member",
    joined_at: int = CREATED_AT,
    incarnation: str | None = None,
) -> Member:
    """A membership whose incarnation follows from room and user, unless given."""
    return Member(
        room_id=room_id,
        user_id=user_id,
        role=role,
        joined_at=joined_at,
        incarnation=incarnation or f"{room_id}-{user_id}",
    )


def message_change(
    room_id: str = "room",
    rev: int = 1,
    *,
    seq: int | None = None,
    by: str = "juan",
    content: str = "Hola!",
    key: str | None = None,
    client_msg_id: str | None = None,
    message_type: MessageType = "text",
    attachments: tuple[dict[str, object], ...] = (),
    reply_to: str | None = None,
    node: str = "node",
    at: int | None = None,
) -> Change:
    """The entry of a new message. By default the room holds nothing but messages: `seq` is `rev`."""
    seq = rev if seq is None else seq
    at = CREATED_AT + rev if at is None else at
    message = Message(
        id=key or f"{room_id}-{rev}",
        room_id=room_id,
        seq=seq,
        rev=rev,
        sender_id=by,
        client_msg_id=client_msg_id,
        message_type=message_type,
        content=content,
        attachments=attachments,
        reply_to=reply_to,
        created_at=at,
        content_rev=rev,
    )
    digest = hashlib.sha256(content.encode()).hexdigest()
    return _entry("message", message, last_seq=seq, key=message.id, digest=digest, by=by, node=node, at=at)


def edit_change(message: Message, rev: int, content: str, *, last_seq: int | None = None) -> Change:
    """The entry that gives the message new content. `last_seq` is the room's (default: the message's)."""
    at = CREATED_AT + rev
    edited = replace(message, rev=rev, content=content, edited_at=at, content_rev=rev)
    return _entry("edit", edited, last_seq=last_seq, by=message.sender_id, at=at)


def delete_change(
    message: Message, rev: int, *, by: str | None = None, last_seq: int | None = None
) -> Change:
    """The entry that leaves a tombstone of the message."""
    at = CREATED_AT + rev
    gone = replace(
        message, rev=rev, content="", attachments=(), reactions={}, reaction_counts={}, deleted_at=at
    )
    return _entry("delete", gone, last_seq=last_seq, by=by or message.sender_id, at=at)


def react_change(
    message: Message,
    rev: int,
    *,
    by: str,
    reaction_type: str | None = "like",
    old: str | None = None,
    last_seq: int | None = None,
) -> Change:
    """The entry that sets `by`'s reaction, which was `old`, to `reaction_type` (None: takes it back)."""
    reacted = replace(with_reaction(message, by, old, reaction_type), rev=rev)
    return _entry(
        "react", reacted, last_seq=last_seq, by=by, at=CREATED_AT + rev, reaction_type=reaction_type
    )


def _entry(
    kind: ChangeKind,
    message: Message,
    *,
    by: str,
    at: int,
    last_seq: int | None = None,
    key: str | None = None,
    digest: str = "",
    node: str = "node",
    reaction_type: str | None = None,
) -> Change:
    return Change(
        room_id=message.room_id,
        rev=message.rev,
        kind=kind,
        last_seq=message.seq if last_seq is None else last_seq,
        key=key or f"{message.room_id}-{message.rev}",
        digest=digest,
        by=by,
        node=node,
        at=at,
        reaction_type=reaction_type,
        message=message,
    )
