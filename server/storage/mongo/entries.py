"""How an entry of the log becomes a document, and how documents are read back."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import bson
import msgspec
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from server.domain.models import Change, ChangeKind, Message, MessageType
from server.storage import base
from server.telemetry import Repeats, get_logger

_T = TypeVar("_T")
_log = get_logger(__name__)


class Reaction(Struct, frozen=True, kw_only=True):
    """A list of these, for a reaction's name may be one that a document cannot have as a field."""

    type: str
    count: int
    user_ids: tuple[str, ...] | None = None


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the fields of the entry do not hold of the message after a change."""

    sender_id: str
    client_msg_id: str | None = None
    message_type: MessageType = "text"
    reply_to: str | None = None
    reactions: tuple[Reaction, ...] = ()
    created_at: int
    edited_at: int | None = None
    deleted_at: int | None = None


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document of `changes`. `attachments` is JSON: they may hold what a document cannot."""

    room_id: str
    rev: int
    kind: ChangeKind
    message_id: str
    seq: int
    last_seq: int
    key: str
    digest: str
    by: str
    node: str
    at: int
    reaction_type: str | None = None
    content_rev: int
    content: str | None = None
    attachments: str | None = None
    state: State
    is_unblanked: bool = False


_encode_attachments = msgspec.json.Encoder().encode
_decode_attachments = msgspec.json.Decoder(tuple[dict[str, object], ...]).decode


def id_of(room_id: str, rev: int) -> str:
    """The `_id` of an entry."""
    return f"{room_id}:{rev}"


def to_document(change: Change) -> dict[str, Any]:
    """The document of an entry; one that deletes is marked until the bodies before it are blanked."""
    message = change.message
    has_body = change.kind in ("message", "edit")
    entry = Entry(
        room_id=change.room_id,
        rev=change.rev,
        kind=change.kind,
        message_id=message.id,
        seq=message.seq,
        last_seq=change.last_seq,
        key=change.key,
        digest=change.digest,
        by=change.by,
        node=change.node,
        at=change.at,
        reaction_type=change.reaction_type,
        content_rev=message.content_rev,
        content=message.content if has_body else None,
        attachments=_encode_attachments(message.attachments).decode()
        if has_body and message.attachments
        else None,
        state=_to_state(message),
        is_unblanked=change.kind == "delete",
    )
    fields: dict[str, Any] = msgspec.to_builtins(entry)
    return {"_id": id_of(change.room_id, change.rev)} | fields


def _to_state(message: Message) -> State:
    return State(
        sender_id=message.sender_id,
        client_msg_id=message.client_msg_id,
        message_type=message.message_type,
        reply_to=message.reply_to,
        reactions=tuple(
            Reaction(type=type_, count=count, user_ids=message.reactions.get(type_))
            for type_, count in message.reaction_counts.items()
        ),
        created_at=message.created_at,
        edited_at=message.edited_at,
        deleted_at=message.deleted_at,
    )


class Place(Struct, frozen=True, kw_only=True):
    """Where a message stands, of any of its entries."""

    room_id: str
    seq: int


class Reader:
    """Decodes documents. One that does not decode is reported, counted once and left out."""

    def __init__(self) -> None:
        self._broken: set[str] = set()
        self._reported = Repeats()

    @property
    def skipped(self) -> int:
        """How many documents did not decode, however often each was read; at most `base.MOST_COUNTED`."""
        return len(self._broken)

    def find(self, kind: type[_T], document: RawBSONDocument | None, **renamed: str) -> _T | None:
        """The document as `kind`, some of whose fields have other names in it; None if it does not decode."""
        if document is None:
            return None
        try:
            fields = bson.decode(document.raw)
            for name, stored_name in renamed.items():
                fields[name] = fields.get(stored_name)
            return msgspec.convert(fields, kind)
        except (BSONError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._skip(str(document.get("_id")), type(error).__name__)
            return None

    def each(self, kind: type[_T], documents: Iterable[RawBSONDocument], **renamed: str) -> list[_T]:
        """Those of the documents that decode."""
        found = (self.find(kind, document, **renamed) for document in documents)
        return [each for each in found if each is not None]

    def changes(self, entries: Iterable[Entry], bodies: Mapping[tuple[str, int], Entry]) -> list[Change]:
        """The changes of these entries; `bodies` has, by (room, rev), those with the texts of the others."""
        changes: list[Change] = []
        for entry in entries:
            try:
                changes.append(_to_change(entry, bodies))
            except (KeyError, msgspec.MsgspecError) as error:
                self._skip(id_of(entry.room_id, entry.rev), type(error).__name__)
        return changes

    def _skip(self, id_: str, reason: str) -> None:
        if len(self._broken) < base.MOST_COUNTED:
            self._broken.add(id_)
        if (left_out := self._reported.admit(id_)) is not None:
            _log.warning("store.undecodable", id=id_, reason=reason, left_out=left_out)


def needs_body(entry: Entry) -> bool:
    """Whether its text stands in another entry, at `content_rev`."""
    return entry.state.deleted_at is None and entry.content_rev != entry.rev


def _to_change(entry: Entry, bodies: Mapping[tuple[str, int], Entry]) -> Change:
    return Change(
        room_id=entry.room_id,
        rev=entry.rev,
        kind=entry.kind,
        last_seq=entry.last_seq,
        key=entry.key,
        digest=entry.digest,
        by=entry.by,
        node=entry.node,
        at=entry.at,
        reaction_type=entry.reaction_type,
        message=_to_message(entry, bodies),
    )


def _to_message(entry: Entry, bodies: Mapping[tuple[str, int], Entry]) -> Message:
    state = entry.state
    # A tombstone shows nothing, even where the entry that holds its text was not blanked.
    body = bodies[entry.room_id, entry.content_rev] if needs_body(entry) else entry
    content, attachments = (body.content, body.attachments) if state.deleted_at is None else (None, None)
    return Message(
        id=entry.message_id,
        room_id=entry.room_id,
        seq=entry.seq,
        rev=entry.rev,
        sender_id=state.sender_id,
        client_msg_id=state.client_msg_id,
        message_type=state.message_type,
        content=content or "",
        attachments=_decode_attachments(attachments) if attachments else (),
        reply_to=state.reply_to,
        reactions={each.type: each.user_ids for each in state.reactions if each.user_ids is not None},
        reaction_counts={each.type: each.count for each in state.reactions},
        created_at=state.created_at,
        edited_at=state.edited_at,
        deleted_at=state.deleted_at,
        content_rev=entry.content_rev,
    )
