"""How a request to change a room becomes entries of its log; decided on the arguments alone."""

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from server.domain.errors import ChatError, ConflictError, ForbiddenError, NotFoundError
from server.domain.models import SHOWN_REACTORS, Change, ChangeKind, Head, Message, MessageType

ReactAction = Literal["toggle", "add", "remove"]


class Draft(Struct, frozen=True, kw_only=True):
    """A change that somebody asked for and nobody has numbered yet. `key` is unique in the room."""

    room_id: str
    key: str
    by: str
    at: int


class Post(Draft, frozen=True, kw_only=True):
    """A new message. `digest` is the fingerprint of its payload: a repeat has the same one."""

    digest: str
    client_msg_id: str | None
    message_type: MessageType
    content: str
    reply_to: str | None = None


class Edit(Draft, frozen=True, kw_only=True):
    """New content for one's own message."""

    message_id: str
    content: str


class Delete(Draft, frozen=True, kw_only=True):
    """A tombstone in place of a message: by its sender, or by an admin of the room."""

    message_id: str
    by_admin: bool


class React(Draft, frozen=True, kw_only=True):
    """One's own reaction to a message, set, taken back or switched."""

    message_id: str
    reaction_type: str
    action: ReactAction


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of a draft: the message now, and the entry that was made, unless nothing changed."""

    message: Message
    change: Change | None = None
    is_duplicate: bool = False


class Present(Struct, frozen=True, kw_only=True):
    """What a plan is decided on, read at or after `heads`.

    `messages` by (room, message id); `reactions` are the drafters' own, by (room, message id, user);
    `known` are entries that stand in the log already, by (room, key); `messages` has their messages too.
    """

    heads: dict[str, Head]
    messages: dict[tuple[str, str], Message]
    reactions: dict[tuple[str, str, str], str | None]
    known: dict[tuple[str, str], Change]


class Plan(Struct, frozen=True, kw_only=True):
    """The entries to append, in order, and each draft's outcome or refusal, in the order of the drafts."""

    entries: tuple[Change, ...]
    outcomes: tuple[Outcome | ChatError, ...]
    heads: dict[str, Head]


def plan(drafts: Iterable[Draft], present: Present, *, node: str) -> Plan:
    """Number a batch: each draft is decided on the state that the one before it leaves.

    A draft that is refused takes no number and does not concern the others.
    """
    planner = _Planner(present, node)
    outcomes = tuple(planner.take(draft) for draft in drafts)
    return Plan(entries=tuple(planner.entries), outcomes=outcomes, heads=planner.heads)


class _Planner:
    def __init__(self, present: Present, node: str) -> None:
        self.heads = dict(present.heads)
        self.messages = dict(present.messages)
        self.reactions = dict(present.reactions)
        self.known = dict(present.known)
        self.node = node
        self.entries: list[Change] = []

    def take(self, draft: Draft) -> Outcome | ChatError:
        try:
            known = self.known.get((draft.room_id, draft.key))
            if known is not None:
                return self._repeat(draft, known)
            if isinstance(draft, Post):
                return self._post(draft)
            return self._change(draft)
        except ChatError as error:
            return error

    def _repeat(self, draft: Draft, known: Change) -> Outcome:
        if isinstance(draft, Post):
            if known.digest != draft.digest:
                raise ConflictError("this client_msg_id stands for another message", field="client_msg_id")
            message = self.messages.get((draft.room_id, known.message.id), known.message)
            return Outcome(message=message, change=known, is_duplicate=True)
        return Outcome(message=known.message, change=known)

    def _post(self, draft: Post) -> Outcome:
        head = self.heads[draft.room_id]
        message = Message(
            id=draft.key,
            room_id=draft.room_id,
            seq=head.last_seq + 1,
            rev=head.rev + 1,
            sender_id=draft.by,
            client_msg_id=draft.client_msg_id,
            message_type=draft.message_type,
            content=draft.content,
            reply_to=draft.reply_to,
            created_at=draft.at,
            content_rev=head.rev + 1,
        )
        return self._append(draft, "message", message, digest=draft.digest)

    def _change(self, draft: Draft) -> Outcome:
        assert isinstance(draft, Edit | Delete | React)  # noqa: S101 - the union of the remaining drafts
        message = self.messages.get((draft.room_id, draft.message_id))
        if message is None:
            raise NotFoundError("there is no such message in this room", field="message_id")
        if isinstance(draft, Delete):
            return self._delete(draft, message)
        if message.deleted_at is not None:
            raise NotFoundError("this message was deleted", field="message_id")
        if isinstance(draft, Edit):
            return self._edit(draft, message)
        return self._react(draft, message)

    def _edit(self, draft: Edit, message: Message) -> Outcome:
        if message.sender_id != draft.by:
            raise ForbiddenError("only its sender may edit a message")
        if message.content == draft.content:
            return Outcome(message=message)
        rev = self.heads[draft.room_id].rev + 1
        edited = msgspec.structs.replace(message, content=draft.content, edited_at=draft.at, content_rev=rev)
        return self._append(draft, "edit", edited)

    def _delete(self, draft: Delete, message: Message) -> Outcome:
        if message.sender_id != draft.by and not draft.by_admin:
            raise ForbiddenError("only its sender and the room's admins may delete a message")
        if message.deleted_at is not None:
            return Outcome(message=message)
        tombstone = msgspec.structs.replace(
            message, content="", attachments=(), reactions={}, reaction_counts={}, deleted_at=draft.at
        )
        return self._append(draft, "delete", tombstone)

    def _react(self, draft: React, message: Message) -> Outcome:
        own = self.reactions.get((draft.room_id, message.id, draft.by))
        wanted = _wanted_reaction(draft, own)
        if wanted == own:
            return Outcome(message=message)
        reacted = with_reaction(message, draft.by, own, wanted)
        self.reactions[draft.room_id, message.id, draft.by] = wanted
        return self._append(draft, "react", reacted, reaction_type=wanted)

    def _append(
        self,
        draft: Draft,
        kind: ChangeKind,
        message: Message,
        *,
        digest: str = "",
        reaction_type: str | None = None,
    ) -> Outcome:
        head = self.heads[draft.room_id]
        rev = head.rev + 1
        change = Change(
            room_id=draft.room_id,
            rev=rev,
            kind=kind,
            last_seq=max(head.last_seq, message.seq),
            key=draft.key,
            digest=digest,
            by=draft.by,
            node=self.node,
            at=draft.at,
            reaction_type=reaction_type,
            message=msgspec.structs.replace(message, rev=rev),
        )
        self.heads[draft.room_id] = change.head
        self.messages[draft.room_id, message.id] = change.message
        self.known[draft.room_id, draft.key] = change
        self.entries.append(change)
        return Outcome(message=change.message, change=change)


def _wanted_reaction(draft: React, own: str | None) -> str | None:
    if draft.action == "add":
        return draft.reaction_type
    if own == draft.reaction_type:
        return None
    return own if draft.action == "remove" else draft.reaction_type


def with_reaction(message: Message, user_id: str, old: str | None, new: str | None) -> Message:
    """The message after the user's reaction went from `old` to `new`; counts are exact, lists hold 20 ids."""
    counts, lists = dict(message.reaction_counts), dict(message.reactions)
    if old is not None:
        counts[old] = counts.get(old, 0) - 1
        lists[old] = tuple(each for each in lists.get(old, ()) if each != user_id)
        if counts[old] <= 0:
            counts.pop(old), lists.pop(old)
    if new is not None:
        counts[new] = counts.get(new, 0) + 1
        if len(lists.get(new, ())) < SHOWN_REACTORS:
            lists[new] = (*lists.get(new, ()), user_id)
    return msgspec.structs.replace(message, reactions=lists, reaction_counts=counts)
