"""How an entry of the log becomes a row, and how a list of entries is read back."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
from msgspec import Raw, Struct

from server.domain.models import Change, ChangeKind, Message, MessageType
from server.storage import base
from server.storage.sqlite.database import Connection
from server.telemetry import get_logger

RawEntry = tuple[str, int, Raw]
"""Room, rev, and the rest as it was read."""

_log = get_logger(__name__)

_COLUMNS = (
    "room_id, rev, kind, message_id, seq, last_seq, key, digest, by_id, node, at, reaction_type,"
    " content_rev, content, attachments, state"
)
_VALUES = f"({', '.join('?' for _ in _COLUMNS.split(','))})"
# Every batch is made of these sizes. OR FAIL: the transaction undoes what stands before a refused row, so
# SQLite need not prepare to undo the statement alone, which doubles its time.
_INSERTS = {
    size: f"INSERT OR FAIL INTO changes ({_COLUMNS}) VALUES {', '.join([_VALUES] * size)}"  # noqa: S608 - constants
    for size in (64, 16, 4, 1)
}


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the columns do not hold of the message after a change."""

    sender_id: str
    client_msg_id: str | None = None
    message_type: MessageType = "text"
    reply_to: str | None = None
    reactions: dict[str, tuple[str, ...]] = {}
    reaction_counts: dict[str, int] = {}
    created_at: int
    edited_at: int | None = None
    deleted_at: int | None = None


class Entry(Struct, frozen=True, array_like=True):
    """The third part of what the view `entries` gives, in its order."""

    kind: ChangeKind
    message_id: str
    seq: int
    last_seq: int
    key: str
    digest: str
    by_id: str
    node: str
    at: int
    reaction_type: str | None
    content_rev: int
    state: str
    body_rev: int
    content: str | None
    attachments: str | None


_encode = msgspec.json.Encoder().encode
_decode_list = msgspec.json.Decoder(list[RawEntry]).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_state = msgspec.json.Decoder(State).decode
_decode_attachments = msgspec.json.Decoder(tuple[dict[str, object], ...]).decode


def insert(connection: Connection, changes: Sequence[Change]) -> None:
    """Insert them in order. SQLite refuses a number or key that is taken."""
    rows = [_to_row(change) for change in changes]
    start = 0
    for size, statement in _INSERTS.items():
        while len(rows) - start >= size:
            connection.execute(statement, tuple(chain.from_iterable(rows[start : start + size])))
            start += size


def _to_row(change: Change) -> tuple[Any, ...]:
    message = change.message
    state = State(
        sender_id=message.sender_id,
        client_msg_id=message.client_msg_id,
        message_type=message.message_type,
        reply_to=message.reply_to,
        reactions=message.reactions,
        reaction_counts=message.reaction_counts,
        created_at=message.created_at,
        edited_at=message.edited_at,
        deleted_at=message.deleted_at,
    )
    has_body = change.kind in ("message", "edit")
    return (
        change.room_id,
        change.rev,
        change.kind,
        message.id,
        message.seq,
        change.last_seq,
        change.key,
        change.digest,
        change.by,
        change.node,
        change.at,
        change.reaction_type,
        message.content_rev,
        message.content if has_body else None,
        _encode(message.attachments).decode() if has_body and message.attachments else None,
        _encode(state).decode(),
    )


def split(found: bytes | None) -> list[RawEntry]:
    """A list of the view `entries` as SQLite put it together; None stands for an empty one."""
    return [] if found is None else _decode_list(found)


class EntryReader:
    """Decodes entries. One that does not decode is reported, counted once and left out."""

    def __init__(self) -> None:
        self._broken: set[tuple[str, int]] = set()

    @property
    def skipped(self) -> int:
        """How many entries did not decode, however often each was read; at most `base.MOST_COUNTED`."""
        return len(self._broken)

    def changes(self, found: Iterable[RawEntry]) -> list[Change]:
        """The changes of these entries."""
        changes: list[Change] = []
        for room_id, rev, raw in found:
            try:
                changes.append(_to_change(room_id, rev, _decode_entry(raw)))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                if len(self._broken) < base.MOST_COUNTED:
                    self._broken.add((room_id, rev))
                _log.warning("store.undecodable", room=room_id, rev=rev, reason=str(error))
        return changes

    def messages(self, found: Iterable[RawEntry]) -> list[Message]:
        """The messages after these entries."""
        return [change.message for change in self.changes(found)]


def _to_change(room_id: str, rev: int, entry: Entry) -> Change:
    return Change(
        room_id=room_id,
        rev=rev,
        kind=entry.kind,
        last_seq=entry.last_seq,
        key=entry.key,
        digest=entry.digest,
        by=entry.by_id,
        node=entry.node,
        at=entry.at,
        reaction_type=entry.reaction_type,
        message=_to_message(room_id, rev, entry),
    )


def _to_message(room_id: str, rev: int, entry: Entry) -> Message:
    state = _decode_state(entry.state)
    # A tombstone shows nothing, even where the row that holds its text was not blanked.
    content, attachments = (entry.content, entry.attachments) if state.deleted_at is None else (None, None)
    return Message(
        id=entry.message_id,
        room_id=room_id,
        seq=entry.seq,
        rev=rev,
        sender_id=state.sender_id,
        client_msg_id=state.client_msg_id,
        message_type=state.message_type,
        content=content or "",
        attachments=_decode_attachments(attachments) if attachments else (),
        reply_to=state.reply_to,
        reactions=state.reactions,
        reaction_counts=state.reaction_counts,
        created_at=state.created_at,
        edited_at=state.edited_at,
        deleted_at=state.deleted_at,
        content_rev=entry.content_rev,
    )
