"""Long random histories: what the store reads back is what the rules of the domain decided."""

import random
from collections.abc import Sequence
from typing import get_args

import pytest

from server.domain.changes import Delete, Draft, Edit, Plan, Post, Present, React, ReactAction, plan
from server.domain.models import Change, Head, Message
from server.storage.base import Storage
from tests.builders import CREATED_AT
from tests.contract.conftest import Implementation

ROOMS = ("red", "blue")
USERS = ("ana", "bea", "juan")
REACTIONS = ("like", "love", "wow")


class History:
    """The log as a list and what follows from it, kept beside the store."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log: dict[str, list[Change]] = {room_id: [] for room_id in ROOMS}
        self.messages: dict[tuple[str, str], Message] = {}
        self.reactions: dict[tuple[str, str, int], str] = {}
        self.count = 0

    def draft(self) -> Draft:
        self.count += 1
        room_id, by = self.random.choice(ROOMS), self.random.choice(USERS)
        key, at, content = f"key-{self.count}", CREATED_AT + self.count, f"text {self.count}"
        ids = [message_id for of, message_id in self.messages if of == room_id]
        kind = self.random.choice(["post", "edit", "react", "react", "delete"]) if ids else "post"
        if kind == "post":
            return Post(
                room_id=room_id,
                key=key,
                by=by,
                at=at,
                digest=content,
                client_msg_id=None,
                message_type="text",
                content=content,
            )
        chosen = self.random.choice(ids)
        if kind == "edit":
            return Edit(room_id=room_id, key=key, by=by, at=at, message_id=chosen, content=content)
        if kind == "delete":
            by_admin = self.random.random() < 0.2
            return Delete(room_id=room_id, key=key, by=by, at=at, message_id=chosen, by_admin=by_admin)
        return React(
            room_id=room_id,
            key=key,
            by=by,
            at=at,
            message_id=chosen,
            reaction_type=self.random.choice(REACTIONS),
            action=self.random.choice(get_args(ReactAction)),
        )

    def remember(self, entries: Sequence[Change]) -> None:
        for entry in entries:
            message = entry.message
            self.log[entry.room_id].append(entry)
            self.messages[entry.room_id, message.id] = message
            own = (entry.room_id, entry.by, message.seq)
            if entry.kind == "react":
                self.reactions.pop(own, None)
                if entry.reaction_type is not None:
                    self.reactions[own] = entry.reaction_type
            if entry.kind == "delete":
                gone = [key for key in self.reactions if (key[0], key[2]) == (entry.room_id, message.seq)]
                for key in gone:
                    del self.reactions[key]


async def decide(storage: Storage, drafts: Sequence[Draft]) -> Plan:
    """Decide on what the store says, as the server does."""
    refs = [(draft.room_id, draft.message_id) for draft in drafts if isinstance(draft, Edit | Delete | React)]
    messages = await storage.find_messages(refs)
    asked = {
        (draft.room_id, draft.message_id, draft.by): (draft.room_id, draft.by, message.seq)
        for draft in drafts
        if isinstance(draft, React) and (message := messages.get((draft.room_id, draft.message_id)))
    }
    own = await storage.own_reactions(list(asked.values()))
    present = Present(
        heads=await storage.heads(ROOMS),
        messages=messages,
        reactions={key: own.get(ref) for key, ref in asked.items()},
        known=await storage.find_by_keys([(draft.room_id, draft.key) for draft in drafts]),
    )
    return plan(drafts, present, node="node")


async def compare(storage: Storage, history: History) -> None:
    heads = await storage.heads(ROOMS)
    for room_id, log in history.log.items():
        last = log[-1] if log else None
        assert heads[room_id] == (last.head if last else Head())
        told = await storage.changes_after(room_id, 0, 10_000)
        assert [(e.rev, e.kind, e.key, e.by, e.reaction_type, e.digest) for e in told] == [
            (e.rev, e.kind, e.key, e.by, e.reaction_type, e.digest) for e in log
        ]
        present = await storage.messages_between(room_id, 1, 10_000)
        mine = sorted(
            (m for (of, _), m in history.messages.items() if of == room_id), key=lambda each: each.seq
        )
        assert present == mine
        # Each entry tells the message after it; the text of one that was deleted since may be gone.
        for entry, expected in zip(told, log, strict=True):
            now = history.messages[room_id, entry.message.id]
            assert entry == expected or (now.deleted_at is not None and entry.message.content == "")
    assert await storage.find_messages(list(history.messages)) == history.messages
    asked = [(of, user, m.seq) for (of, _), m in history.messages.items() for user in USERS]
    assert await storage.own_reactions(asked) == history.reactions


@pytest.mark.parametrize("seed", range(5))
async def test_a_random_history_reads_back_as_it_was_decided(
    storage: Storage, implementation: Implementation, seed: int
) -> None:
    history = History(seed)
    for _ in range(round(30 * implementation.effort)):
        drafts = [history.draft() for _ in range(history.random.randint(1, 20))]
        decided = await decide(storage, drafts)
        await storage.append(decided.entries)
        history.remember(decided.entries)
        await compare(storage, history)
    kinds = {entry.kind for log in history.log.values() for entry in log}
    assert kinds == {"message", "edit", "delete", "react"}
