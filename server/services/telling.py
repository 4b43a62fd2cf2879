"""From durable changes to the events that tell of them."""

from collections.abc import Collection, Sequence

from msgspec import Struct

from server.domain.models import Change
from server.ephemeral.base import Ephemeral
from server.services.directory import Directory
from server.services.notices import Place, Publisher, Tell
from server.services.views import Views
from server.storage.base import LogStore
from server.views import MessageData, MessageReaction

_EVENTS = {"message": "chat_message", "edit": "message_edited", "delete": "message_deleted"}
_REACTION = "message_reaction"
_COALESCED_S = 1.0
_PAGE = 200


class _Nothing(Struct, frozen=True):
    """What is told to nobody."""


class Teller:
    """`tell` is the committer's `on_committed`: entries of a room come by ascending rev, and are told so.

    In rooms over `quiet_above` members a message's reactions are told at most once a second, whichever server
    tells them, the newest last.
    """

    def __init__(
        self,
        views: Views,
        directory: Directory,
        publisher: Publisher,
        ephemeral: Ephemeral,
        log: LogStore,
        *,
        quiet_above: int,
    ) -> None:
        self._views = views
        self._directory = directory
        self._publisher = publisher
        self._ephemeral = ephemeral
        self._log = log
        self._quiet_above = quiet_above
        self._held: dict[str, Change] = {}

    async def tell(self, changes: Sequence[Change]) -> None:
        """Publish the changes in this order."""
        held = {
            (change.room_id, change.rev)
            for change in changes
            if change.kind == "react" and await self._is_held(change)
        }
        await self._publisher.publish(*await self._tells(changes, held))

    async def tells_after(self, room_id: str, rev: int) -> list[Tell]:
        """The changes of a room behind `rev`, or the first of them, to be told again without a gap."""
        changes = await self._log.changes_after(room_id, rev, _PAGE)
        newest = {change.message.id: change.rev for change in changes if change.kind == "react"}
        is_large = await self._directory.member_count(room_id) > self._quiet_above
        held = {
            (room_id, change.rev)
            for change in changes
            if is_large and change.kind == "react" and newest[change.message.id] != change.rev
        }
        told = {tell.place.number: tell for tell in await self._tells(changes, held) if tell.place}
        # One that does not decode keeps its place.
        return [
            told.get(number)
            or Tell(event=_REACTION, data=_Nothing(), place=Place(room_id, number, is_gapless=True))
            for number in range(rev + 1, max(told, default=rev) + 1)
        ]

    async def heads(self, room_ids: Collection[str]) -> dict[str, int]:
        """How far each room's log has come."""
        return {room_id: head.rev for room_id, head in (await self._log.heads(list(room_ids))).items()}

    async def _tells(self, changes: Sequence[Change], held: set[tuple[str, int]]) -> list[Tell]:
        messages = [change.message for change in changes if change.kind != "react"]
        views = iter(await self._views.messages(messages, reader=None))
        return [
            _told(change, _REACTION, _reaction(change), is_held=(change.room_id, change.rev) in held)
            if change.kind == "react"
            else _told(change, _EVENTS[change.kind], MessageData(message=next(views)))
            for change in changes
        ]

    async def tick(self) -> None:
        """Tell the held reactions whose second is over."""
        due = []
        for message_id in list(self._held):
            # Meanwhile a newer one may be held, or told.
            if await self._may_tell(message_id) and (held := self._held.pop(message_id, None)) is not None:
                # Later changes of the room may have been told: it has no place among them any more.
                rooms = frozenset([held.room_id])
                due.append(Tell(event=_REACTION, data=_reaction(held), rooms=rooms))
        if due:
            await self._publisher.publish(*due)

    async def _is_held(self, change: Change) -> bool:
        message_id = change.message.id
        is_large = await self._directory.member_count(change.room_id) > self._quiet_above
        if is_large and not await self._may_tell(message_id):
            self._held[message_id] = change
            return True
        self._held.pop(message_id, None)
        return False

    async def _may_tell(self, message_id: str) -> bool:
        return await self._ephemeral.claim(f"reaction:{message_id}", _COALESCED_S)


def _told(change: Change, event: str, data: Struct, *, is_held: bool = False) -> Tell:
    said_by = change.by if change.kind == "message" else None
    return Tell(
        event=event,
        data=data,
        rooms=frozenset() if is_held else frozenset([change.room_id]),
        place=Place(change.room_id, change.rev, is_gapless=True, head=change.head, said_by=said_by),
    )


def _reaction(change: Change) -> MessageReaction:
    return MessageReaction(
        room_id=change.room_id,
        message_id=change.message.id,
        seq=change.message.seq,
        rev=change.rev,
        user_id=change.by,
        reaction_type=change.reaction_type,
        reaction_counts=change.message.reaction_counts,
    )
