"""What becomes of a room when its changes are done one after another, said as plainly as possible."""

from collections.abc import Mapping, Sequence
from typing import Literal

from hypothesis import strategies as st
from msgspec import Struct

from server.domain.changes import Delete, Draft, Edit, Outcome, Post, React, ReactAction
from server.domain.errors import ChatError
from server.domain.models import Message
from tests.builders import CREATED_AT, message_change
from tests.drafts import delete, edit, post, react

SHOWN = 20
USERS = tuple(f"user-{n}" for n in range(6))
ROOMS = ("plaza", "taller")
REACTIONS = ("like", "love", "sad")


class Op(Struct, frozen=True, kw_only=True):
    """Something a user does. `target` counts the room's messages and begins anew after the last one."""

    kind: Literal["send", "edit", "delete", "react"]
    room: str
    user: str
    target: int
    text: str
    unique: str | None
    reaction: str
    action: ReactAction
    by_admin: bool

    def draft(self, message_ids: Sequence[str], *, at: int = CREATED_AT) -> Draft:
        """The draft of it. In a room without messages it concerns one that does not exist."""
        if self.kind == "send":
            return post(self.text, room_id=self.room, by=self.user, unique=self.unique, at=at)
        target = message_ids[self.target % len(message_ids)] if message_ids else "nothing"
        message = message_change(self.room, key=target).message
        if self.kind == "edit":
            return edit(message, self.text, by=self.user, at=at)
        if self.kind == "delete":
            return delete(message, by=self.user, by_admin=self.by_admin, at=at)
        return react(message, self.user, self.reaction, action=self.action, at=at)


def ops(rooms: Sequence[str] = ROOMS) -> st.SearchStrategy[Op]:
    """Few users, texts, keys and targets, so that they meet."""
    return st.builds(
        Op,
        kind=st.sampled_from(["send", "send", "edit", "delete", "react", "react", "react"]),
        room=st.sampled_from(rooms),
        user=st.sampled_from(USERS[:3]),
        target=st.integers(0, 5),
        text=st.sampled_from(["", "Hola!", "¿Qué tal?", "😀"]),
        unique=st.sampled_from([None, None, "1", "2", "3"]),
        reaction=st.sampled_from(REACTIONS),
        action=st.sampled_from(["toggle", "toggle", "add", "remove"]),
        by_admin=st.booleans(),
    )


class MessageModel:
    """A message: who reacts how, and whether more than `SHOWN` ever reacted in one way at a time."""

    def __init__(self, draft: Post, seq: int, rev: int) -> None:
        self.draft = draft
        self.seq, self.rev = seq, rev
        self.content = draft.content
        self.reactions: dict[str, str] = {}
        self.was_crowded = False
        self.edited_at: int | None = None
        self.deleted_at: int | None = None

    def counts(self) -> dict[str, int]:
        kinds = list(self.reactions.values())
        return {kind: kinds.count(kind) for kind in kinds}

    def check(self, message: Message) -> None:
        """Assert that this is what the message is."""
        assert (message.id, message.room_id) == (self.draft.key, self.draft.room_id)
        assert (message.seq, message.rev) == (self.seq, self.rev)
        assert (message.sender_id, message.client_msg_id) == (self.draft.by, self.draft.client_msg_id)
        assert message.content == self.content
        assert (message.created_at, message.edited_at) == (self.draft.at, self.edited_at)
        assert message.deleted_at == self.deleted_at
        assert message.reaction_counts == self.counts()
        assert message.reactions.keys() == message.reaction_counts.keys()
        for kind, users in message.reactions.items():
            own = {user for user, reaction in self.reactions.items() if reaction == kind}
            assert len(users) <= SHOWN
            assert len(set(users)) == len(users)
            assert set(users) <= own
            assert self.was_crowded or set(users) == own


class RoomModel:
    """A room's messages by id, and the number of its changes."""

    def __init__(self) -> None:
        self.rev = 0
        self.messages: dict[str, MessageModel] = {}

    def judge(self, draft: Draft) -> str:
        """What comes of it now: "stored", "unchanged", "duplicate", or the code of the refusal."""
        if isinstance(draft, Post):
            first = self.messages.get(draft.key)
            if first is None:
                return "stored"
            return "duplicate" if first.draft.digest == draft.digest else "conflict"
        assert isinstance(draft, Edit | Delete | React)
        message = self.messages.get(draft.message_id)
        return "not_found" if message is None else self._judge_change(draft, message)

    def do(self, draft: Draft) -> str:
        """Do it, if it is to be; what `judge` says."""
        verdict = self.judge(draft)
        if verdict == "stored":
            self.rev += 1
            if isinstance(draft, Post):
                self.messages[draft.key] = MessageModel(draft, len(self.messages) + 1, self.rev)
            elif isinstance(draft, Edit | Delete | React):
                self.messages[draft.message_id].rev = self.rev
                self._change(draft, self.messages[draft.message_id])
        return verdict

    @staticmethod
    def _judge_change(draft: Edit | Delete | React, message: MessageModel) -> str:
        is_own, is_deleted = message.draft.by == draft.by, message.deleted_at is not None
        if isinstance(draft, Delete):
            return "forbidden" if not (is_own or draft.by_admin) else "unchanged" if is_deleted else "stored"
        if is_deleted:
            return "not_found"
        if isinstance(draft, Edit):
            return (
                "forbidden" if not is_own else "unchanged" if message.content == draft.content else "stored"
            )
        has_it = message.reactions.get(draft.by) == draft.reaction_type
        is_change = {"toggle": True, "add": not has_it, "remove": has_it}[draft.action]
        return "stored" if is_change else "unchanged"

    @staticmethod
    def _change(draft: Edit | Delete | React, message: MessageModel) -> None:
        if isinstance(draft, Edit):
            message.content, message.edited_at = draft.content, draft.at
        elif isinstance(draft, Delete):
            message.content, message.deleted_at = "", draft.at
            message.reactions.clear()
        elif message.reactions.get(draft.by) == draft.reaction_type:
            del message.reactions[draft.by]
        else:
            message.reactions[draft.by] = draft.reaction_type
            message.was_crowded |= max(message.counts().values()) > SHOWN


def verdict_of(outcome: Outcome | BaseException) -> str:
    """What the code under test says, in the words of `RoomModel.do`."""
    if isinstance(outcome, ChatError):
        return outcome.code
    assert isinstance(outcome, Outcome), outcome
    if outcome.is_duplicate:
        return "duplicate"
    return "unchanged" if outcome.change is None else "stored"


def check_present(models: Mapping[str, RoomModel], messages: Mapping[str, Sequence[Message]]) -> None:
    """Assert that each room's messages, by ascending seq, are those of its model."""
    for room_id, model in models.items():
        present = messages[room_id]
        assert [message.id for message in present] == list(model.messages)
        for message in present:
            model.messages[message.id].check(message)
