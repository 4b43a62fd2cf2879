"""From durable changes to the events that tell of them."""

from collections.abc import Callable, Sequence

from server.domain.models import Change
from server.services.directory import Directory
from server.services.notices import Publisher, Tell
from server.services.views import Views
from server.views import MessageData, MessageReaction

_EVENTS = {"message": "chat_message", "edit": "message_edited", "delete": "message_deleted"}
_COALESCED_S = 1.0


class Teller:
    """`tell` is the committer's `on_committed`: entries of a room come by ascending rev, and are told so.

    In rooms over `quiet_above` members a message's reactions are told at most once a second, the newest last.
    """

    def __init__(
        self,
        views: Views,
        directory: Directory,
        publisher: Publisher,
        *,
        quiet_above: int,
        clock: Callable[[], float],
    ) -> None:
        self._views = views
        self._directory = directory
        self._publisher = publisher
        self._quiet_above = quiet_above
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._held: dict[str, Change] = {}

    async def tell(self, changes: Sequence[Change]) -> None:
        """Publish the changes in this order."""
        shown = await self._views.messages(
            [change.message for change in changes if change.kind != "react"], reader=None
        )
        views = iter(shown)
        notices = []
        for change in changes:
            if change.kind != "react":
                data = MessageData(message=next(views))
                notices.append(Tell(event=_EVENTS[change.kind], data=data, rooms=frozenset([change.room_id])))
            elif not await self._is_held(change):
                notices.append(_reaction(change))
        await self._publisher.publish(*notices)

    async def tick(self) -> None:
        """Tell the held reactions whose second is over; forget what is long told."""
        now = self._clock()
        over = [each for each, told_at in self._told_at.items() if told_at + _COALESCED_S <= now]
        due = []
        for message_id in over:
            held = self._held.pop(message_id, None)
            if held is None:
                del self._told_at[message_id]
            else:
                self._told_at[message_id] = now
                due.append(_reaction(held))
        if due:
            await self._publisher.publish(*due)

    async def _is_held(self, change: Change) -> bool:
        message_id = change.message.id
        if await self._directory.member_count(change.room_id) <= self._quiet_above:
            self._held.pop(message_id, None)
            return False
        if message_id in self._told_at:
            self._held[message_id] = change
            return True
        self._told_at[message_id] = self._clock()
        return False


def _reaction(change: Change) -> Tell:
    return Tell(
        event="message_reaction",
        data=MessageReaction(
            room_id=change.room_id,
            message_id=change.message.id,
            seq=change.message.seq,
            rev=change.rev,
            user_id=change.by,
            reaction_type=change.reaction_type,
            reaction_counts=change.message.reaction_counts,
        ),
        rooms=frozenset([change.room_id]),
    )
