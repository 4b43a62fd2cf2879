"""Changes that somebody asks for, as the services ask; and who hears of what was stored."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from server.domain.changes import Delete, Edit, Post, React, ReactAction
from server.domain.models import Change, Message
from server.domain.rules import digest_of
from server.storage.base import LogStore
from server.storage.commit import Committer
from tests.builders import CREATED_AT

_fresh = count(1)


def post(
    content: str = "Hola!",
    *,
    room_id: str = "room",
    by: str = "juan",
    unique: str | None = None,
    at: int = CREATED_AT,
) -> Post:
    """A new message; `unique` is its client_msg_id."""
    return Post(
        room_id=room_id,
        key=_fresh_key() if unique is None else digest_of("message", room_id, by, unique),
        by=by,
        at=at,
        digest=digest_of("text", content, ""),
        client_msg_id=unique,
        message_type="text",
        content=content,
    )


def edit(message: Message, content: str, *, by: str | None = None, at: int = CREATED_AT) -> Edit:
    """New content; by its sender, unless given."""
    return Edit(
        room_id=message.room_id,
        key=_fresh_key(),
        by=by or message.sender_id,
        at=at,
        message_id=message.id,
        content=content,
    )


def delete(
    message: Message, *, by: str | None = None, by_admin: bool = False, at: int = CREATED_AT
) -> Delete:
    """A deletion; by its sender, unless given."""
    return Delete(
        room_id=message.room_id,
        key=_fresh_key(),
        by=by or message.sender_id,
        at=at,
        message_id=message.id,
        by_admin=by_admin,
    )


def react(
    message: Message,
    by: str,
    reaction_type: str = "like",
    *,
    action: ReactAction = "toggle",
    at: int = CREATED_AT,
) -> React:
    """A reaction."""
    return React(
        room_id=message.room_id,
        key=_fresh_key(),
        by=by,
        at=at,
        message_id=message.id,
        reaction_type=reaction_type,
        action=action,
    )


def _fresh_key() -> str:
    return f"key-{next(_fresh)}"


class Told:
    """The committer's `on_committed`: keeps what it was told, batch by batch; waits for `gate` first."""

    def __init__(self) -> None:
        self.batches: list[list[Change]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._grew = asyncio.Condition()

    async def __call__(self, changes: Sequence[Change]) -> None:
        await self.gate.wait()
        async with self._grew:
            self.batches.append(list(changes))
            self._grew.notify_all()

    @property
    def changes(self) -> list[Change]:
        return [change for batch in self.batches for change in batch]

    def of(self, room_id: str | None) -> list[Change]:
        """What was told of a room (None: of all of them)."""
        return [change for change in self.changes if room_id in (None, change.room_id)]

    async def reaches(self, number: int, room_id: str | None = None) -> None:
        """Return once that many changes of the room were told."""
        async with asyncio.timeout(10), self._grew:
            await self._grew.wait_for(lambda: len(self.of(room_id)) >= number)


@asynccontextmanager
async def committing(
    log: LogStore, told: Told, *, node: str = "node", is_alone: bool = True, deadline_s: float = 10.0
) -> AsyncIterator[Committer]:
    """A committer for the length of a block; what waits at its end is written and told."""
    committer = Committer(log, told, node=node, is_alone=is_alone, deadline_s=deadline_s)
    committer.start()
    try:
        yield committer
    finally:
        await committer.close()
