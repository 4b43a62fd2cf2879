"""Messages and what happens to them: sending, editing, deleting, reacting, reading, paging back."""

from collections.abc import Callable, Sequence
from uuid import uuid4

from server.domain.changes import Delete, Edit, Outcome, Post, React
from server.domain.errors import InvalidError, NotFoundError, UnavailableError
from server.domain.models import Message
from server.domain.rules import checked_content, digest_of, is_admin
from server.events import (
    MOST_ANSWER_BYTES,
    ChatMessage,
    DeleteMessage,
    EditMessage,
    History,
    ReactMessage,
    ReadMessage,
)
from server.services.directory import Directory
from server.services.notices import Publisher, Tell
from server.services.rooms import RoomService
from server.services.views import Views, size_bytes
from server.storage.base import LogStore
from server.storage.commit import Committer
from server.storage.cursors import CursorCommitter
from server.views import HistoryData, MessageData, MessageRead, MessageView, ReadData, SentData

_ENVELOPE_BYTES = 4096


class MessageService:
    """Use cases of messages. `actor` is who asks; every method first makes sure of their membership."""

    def __init__(
        self,
        log: LogStore,
        committer: Committer,
        cursors: CursorCommitter,
        directory: Directory,
        rooms: RoomService,
        views: Views,
        publisher: Publisher,
        *,
        most_content_chars: int,
        reactions: Sequence[str],
        quiet_above: int,
        clock: Callable[[], int],
    ) -> None:
        self._log = log
        self._committer = committer
        self._cursors = cursors
        self._directory = directory
        self._rooms = rooms
        self._views = views
        self._publisher = publisher
        self._most_content_chars = most_content_chars
        self._reactions = frozenset(reactions)
        self._quiet_above = quiet_above
        self._clock = clock

    async def send(self, actor: str, sent: ChatMessage) -> SentData:
        """Store a message and answer it as it stands; a repeat of a client_msg_id answers the first one."""
        content = checked_content(sent.content, self._most_content_chars)
        room_id = await self._room_of(actor, sent)
        unique = sent.client_msg_id
        post = Post(
            room_id=room_id,
            key=digest_of("message", room_id, actor, unique) if unique is not None else uuid4().hex,
            by=actor,
            at=self._clock(),
            digest=digest_of(sent.message_type, content, sent.reply_to or ""),
            client_msg_id=unique,
            message_type=sent.message_type,
            content=content,
            reply_to=sent.reply_to,
        )
        async with self._directory.acting(room_id, actor):
            if sent.reply_to is not None and not await self._find(room_id, sent.reply_to):
                raise InvalidError("there is no such message in this room", field="reply_to")
            outcome = await self._committer.append(post)
        view = await self._views.message(outcome.message, reader=actor)
        return SentData(message=view, duplicate=outcome.is_duplicate)

    async def edit(self, actor: str, wanted: EditMessage) -> MessageData:
        """Give one's own message another content."""
        content = checked_content(wanted.content, self._most_content_chars)
        draft = Edit(
            room_id=wanted.room_id,
            key=uuid4().hex,
            by=actor,
            at=self._clock(),
            message_id=wanted.message_id,
            content=content,
        )
        async with self._directory.acting(wanted.room_id, actor):
            outcome = await self._committer.append(draft)
        return await self._answer(actor, outcome)

    async def delete(self, actor: str, wanted: DeleteMessage) -> MessageData:
        """Leave a tombstone in place of a message: its sender, or an admin of the room."""
        async with self._directory.acting(wanted.room_id, actor) as access:
            draft = Delete(
                room_id=wanted.room_id,
                key=uuid4().hex,
                by=actor,
                at=self._clock(),
                message_id=wanted.message_id,
                by_admin=is_admin(access.member),
            )
            outcome = await self._committer.append(draft)
        return await self._answer(actor, outcome)

    async def react(self, actor: str, wanted: ReactMessage) -> MessageData:
        """Set, take back or switch one's own reaction."""
        draft = React(
            room_id=wanted.room_id,
            key=uuid4().hex,
            by=actor,
            at=self._clock(),
            message_id=wanted.message_id,
            reaction_type=wanted.reaction_type,
            action=wanted.action,
        )
        async with self._directory.acting(wanted.room_id, actor):
            if wanted.reaction_type not in self._reactions:
                names = " ".join(sorted(self._reactions))
                raise InvalidError(f"reaction_type is one of {names}", field="reaction_type")
            outcome = await self._committer.append(draft)
        return await self._answer(actor, outcome)

    async def read(self, actor: str, wanted: ReadMessage) -> ReadData:
        """Move one's read cursor forward; it is stored when this returns."""
        await self._directory.get_access(wanted.room_id, actor)
        if (wanted.message_id is None) == (wanted.seq is None):
            raise InvalidError("give message_id or seq, one of them", field="seq")
        before = await self._rooms.last_read_seq(wanted.room_id, actor)
        seq = await self._seq_of(wanted)
        now = await self._cursors.advance(wanted.room_id, actor, seq) if seq > before else before
        if now > before:
            await self._tell_read(MessageRead(room_id=wanted.room_id, user_id=actor, last_read_seq=now))
        return ReadData(last_read_seq=now)

    async def history(self, actor: str, wanted: History) -> HistoryData:
        """A page of messages by ascending seq, nearest the asked seq, within the limit of an answer."""
        access = await self._directory.get_access(wanted.room_id, actor)
        asked = [
            each for each in (wanted.before_seq, wanted.after_seq, wanted.around_seq) if each is not None
        ]
        if len(asked) > 1:
            raise InvalidError("give one of before_seq, after_seq and around_seq", field="before_seq")
        last_seq = await self._last_seq(wanted.room_id)
        first, last, anchor = _range(wanted, last_seq)
        stored = await self._log.messages_between(wanted.room_id, first, last) if first <= last else []
        shown = await self._views.messages(stored, reader=actor)
        page = nearest_that_fit(shown, anchor, MOST_ANSWER_BYTES - _ENVELOPE_BYTES)
        # Whoever was removed meanwhile is not shown what was said afterwards.
        await self._directory.get_access(wanted.room_id, actor)
        return HistoryData(messages=page, has_more=_has_more(wanted, page, access.room.first_seq, last_seq))

    async def _room_of(self, actor: str, sent: ChatMessage) -> str:
        if (sent.room_id is None) == (sent.to_user_id is None):
            raise InvalidError("give room_id or to_user_id, one of them", field="room_id")
        if sent.room_id is not None:
            return sent.room_id
        assert sent.to_user_id is not None  # noqa: S101 - one of the two is given
        return (await self._rooms.get_direct(actor, sent.to_user_id, field="to_user_id")).id

    async def _find(self, room_id: str, message_id: str) -> Message | None:
        return (await self._log.find_messages([(room_id, message_id)])).get((room_id, message_id))

    async def _seq_of(self, wanted: ReadMessage) -> int:
        if wanted.seq is not None:
            return min(wanted.seq, await self._last_seq(wanted.room_id))
        message = await self._find(wanted.room_id, wanted.message_id or "")
        if message is None:
            raise NotFoundError("there is no such message in this room", field="message_id")
        return message.seq

    async def _last_seq(self, room_id: str) -> int:
        head = (await self._log.heads([room_id])).get(room_id)
        if head is None:
            raise UnavailableError("the log of this room cannot be read")
        return head.last_seq

    async def _tell_read(self, data: MessageRead) -> None:
        is_large = await self._directory.member_count(data.room_id) > self._quiet_above
        await self._publisher.publish(
            Tell(
                event="message_read",
                data=data,
                rooms=frozenset() if is_large else frozenset([data.room_id]),
                users=frozenset([data.user_id]),
            )
        )

    async def _answer(self, actor: str, outcome: Outcome) -> MessageData:
        return MessageData(message=await self._views.message(outcome.message, reader=actor))


def _range(wanted: History, last_seq: int) -> tuple[int, int, int]:
    """(first, last, the seq to stay near): what to read for a page."""
    if wanted.after_seq is not None:
        first = wanted.after_seq + 1
        return first, min(last_seq, wanted.after_seq + wanted.limit), first
    if wanted.around_seq is not None:
        middle = max(1, min(wanted.around_seq, last_seq))
        first = max(1, min(middle - wanted.limit // 2, last_seq - wanted.limit + 1))
        return first, min(last_seq, first + wanted.limit - 1), middle
    last = last_seq if wanted.before_seq is None else min(wanted.before_seq - 1, last_seq)
    return max(1, last - wanted.limit + 1), last, last


def _has_more(wanted: History, page: Sequence[MessageView], first_seq: int, last_seq: int) -> bool:
    if not page:
        return False
    has_older, has_newer = page[0].seq > first_seq, page[-1].seq < last_seq
    if wanted.after_seq is not None:
        return has_newer
    return has_older or has_newer if wanted.around_seq is not None else has_older


def nearest_that_fit(messages: Sequence[MessageView], anchor: int, most_bytes: int) -> list[MessageView]:
    """The messages nearest the seq `anchor`, without a gap, whose JSON is at most `most_bytes` together."""
    chosen: list[MessageView] = []
    left_bytes = most_bytes
    for message in sorted(messages, key=lambda each: (abs(each.seq - anchor), each.seq)):
        left_bytes -= size_bytes(message)
        if left_bytes < 0:
            break
        chosen.append(message)
    return sorted(chosen, key=lambda each: each.seq)
