"""From what is stored to what is sent: profiles, quotes and presence are filled in from the present state."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec import UNSET

from server.domain.errors import ChatError, InternalError
from server.domain.models import Head, Member, Message, Room, User
from server.domain.rules import LAST_MESSAGE_CHARS, SHORT_QUOTE_CHARS
from server.ephemeral.base import Ephemeral
from server.events import MOST_ANSWER_BYTES
from server.services.directory import Directory
from server.storage.base import LogStore, Membership, RoomStore, UserStore
from server.views import ErrorView, MemberView, MessageView, QuoteView, RoomView, SenderView, UserView

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_LIST_BYTES = MOST_ANSWER_BYTES - 1024
Shown = TypeVar("Shown")


def iso(at: int) -> str:
    """Milliseconds since the epoch as ISO 8601 in UTC: `2026-02-01T10:30:00.123Z`."""
    instant = _EPOCH + timedelta(milliseconds=at)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(at: int | None) -> str | None:
    """As `iso`, None for None."""
    return None if at is None else iso(at)


def sender_view(user_id: str, user: User | None) -> SenderView:
    """A sender; one whose account is gone keeps the id alone."""
    if user is None:
        return SenderView(id=user_id, username="", display_name="", avatar_url=None)
    return SenderView(
        id=user.id, username=user.username, display_name=user.display_name, avatar_url=user.avatar_url
    )


class Views:
    """Builds views in batches: a page costs a bounded number of reads, however many messages it has."""

    def __init__(
        self, log: LogStore, rooms: RoomStore, users: UserStore, directory: Directory, ephemeral: Ephemeral
    ) -> None:
        self._log = log
        self._rooms = rooms
        self._users = users
        self._directory = directory
        self._ephemeral = ephemeral

    async def messages(self, messages: Sequence[Message], *, reader: str | None) -> list[MessageView]:
        """The messages as events show them, or, to a reader, with `my_reaction` as answers do."""
        quotes = await self._quotes(messages)
        people = {message.sender_id for message in messages} | {quote.sender_id for quote in quotes.values()}
        profiles = await self._directory.profiles(people)
        own = await self._own_reactions(messages, reader) if reader is not None else {}
        return [
            MessageView(
                id=message.id,
                room_id=message.room_id,
                seq=message.seq,
                rev=message.rev,
                client_msg_id=message.client_msg_id,
                message_type=message.message_type,
                content=message.content,
                sender=sender_view(message.sender_id, profiles.get(message.sender_id)),
                reply_to=_quote(message, quotes, profiles),
                attachments=list(message.attachments),
                reactions={reaction: list(ids) for reaction, ids in message.reactions.items()},
                reaction_counts=message.reaction_counts,
                created_at=iso(message.created_at),
                edited_at=iso_or_none(message.edited_at),
                deleted_at=iso_or_none(message.deleted_at),
                **({} if reader is None else {"my_reaction": own.get((message.room_id, message.seq))}),
            )
            for message in messages
        ]

    async def message(self, message: Message, *, reader: str | None) -> MessageView:
        """One message."""
        return (await self.messages([message], reader=reader))[0]

    async def _quotes(self, messages: Sequence[Message]) -> dict[tuple[str, str], Message]:
        refs = {(m.room_id, m.reply_to) for m in messages if m.reply_to is not None and m.deleted_at is None}
        return await self._log.find_messages(list(refs)) if refs else {}

    async def _own_reactions(self, messages: Sequence[Message], reader: str) -> dict[tuple[str, int], str]:
        refs = [(m.room_id, reader, m.seq) for m in messages if m.reaction_counts]
        found = await self._log.own_reactions(refs) if refs else {}
        return {(room_id, seq): reaction for (room_id, _, seq), reaction in found.items()}

    async def users(self, user_ids: Iterable[str]) -> dict[str, UserView]:
        """People with their presence, fresh from the store."""
        wanted = set(user_ids)
        found = await self._users.find_users(list(wanted)) if wanted else {}
        return {view.id: view for view in await self.of_users(list(found.values()))}

    async def online(self, user_ids: set[str]) -> set[str]:
        """Those of these people who are online."""
        return await self._ephemeral.online(user_ids)

    async def of_users(self, users: Sequence[User]) -> list[UserView]:
        """These people with their presence."""
        online = await self._ephemeral.online({user.id for user in users})
        return [
            UserView(
                id=user.id,
                username=user.username,
                display_name=user.display_name,
                avatar_url=user.avatar_url,
                status="online" if user.id in online else "offline",
                last_seen=iso_or_none(user.last_seen),
            )
            for user in users
        ]

    async def members(self, members: Sequence[Member]) -> list[MemberView]:
        """Members of a room."""
        people = await self.users(member.user_id for member in members)
        return [
            MemberView(
                user=people[member.user_id],
                role=member.role,
                joined_at=iso(member.joined_at),
                last_read_seq=member.last_read_seq,
            )
            for member in members
            if member.user_id in people
        ]

    async def rooms(self, memberships: Sequence[Membership], *, reader: str) -> list[RoomView]:
        """Rooms as the reader sees them; the heads are read before the last messages.

        One whose log cannot be read is shown as one without messages.
        """
        room_ids = [each.room.id for each in memberships]
        heads = dict.fromkeys(room_ids, Head()) | await self._log.heads(room_ids)
        counts = await self._directory.member_counts(room_ids)
        inside = [each.room.id for each in memberships if each.member is not None]
        refs = [(room_id, heads[room_id].last_seq) for room_id in inside if heads[room_id].last_seq > 0]
        stored = await self._log.messages_at(refs) if refs else {}
        shown = await self.messages([_shortened(message) for message in stored.values()], reader=reader)
        last = {message.room_id: message for message in shown}
        peers = await self._peers([each.room for each in memberships], reader)
        return [
            _room_view(
                each,
                heads[each.room.id].rev,
                heads[each.room.id].last_seq,
                counts.get(each.room.id, 0),
                last.get(each.room.id),
                peers.get(each.room.id),
            )
            for each in memberships
        ]

    async def room(self, room: Room, reader: str) -> RoomView:
        """One room, with the reader's membership as it is now."""
        member = await self._rooms.find_member(room.id, reader)
        return (await self.rooms([Membership(room=room, member=member)], reader=reader))[0]

    async def _peers(self, rooms: Sequence[Room], reader: str) -> dict[str, UserView]:
        peers = {room.id: peer_id(room, reader) for room in rooms if room.kind == "direct"}
        people = await self.users(peers.values())
        return {room_id: people[user_id] for room_id, user_id in peers.items() if user_id in people}


def peer_id(room: Room, reader: str) -> str:
    """The other person of a direct room, from its key."""
    one, other = room.key.split(":")[1:]
    return other if one == reader else one


def _quote(
    message: Message, quotes: dict[tuple[str, str], Message], profiles: dict[str, User]
) -> QuoteView | None:
    quoted = quotes.get((message.room_id, message.reply_to or ""))
    if quoted is None or message.deleted_at is not None:
        return None
    return QuoteView(
        id=quoted.id,
        seq=quoted.seq,
        sender=sender_view(quoted.sender_id, profiles.get(quoted.sender_id)),
        message_type=quoted.message_type,
        content=quoted.content[:SHORT_QUOTE_CHARS],
    )


def _shortened(message: Message) -> Message:
    if len(message.content) <= LAST_MESSAGE_CHARS:
        return message
    return msgspec.structs.replace(message, content=message.content[:LAST_MESSAGE_CHARS])


def _room_view(
    membership: Membership,
    rev: int,
    last_seq: int,
    member_count: int,
    last_message: MessageView | None,
    peer: UserView | None,
) -> RoomView:
    room, member = membership.room, membership.member
    last_read_seq = min(member.last_read_seq, last_seq) if member is not None else 0
    return RoomView(
        id=room.id,
        kind=room.kind,
        name=room.name,
        peer=peer,
        created_at=iso(room.created_at),
        member_count=member_count,
        rev=rev,
        first_seq=room.first_seq,
        last_seq=last_seq,
        last_message=last_message,
        role=member.role if member is not None else None,
        last_read_seq=last_read_seq,
        unread=max(0, last_seq - last_read_seq) if member is not None else 0,
    )


def first_that_fit(shown: Sequence[Shown], most_bytes: int = MOST_LIST_BYTES) -> list[Shown]:
    """The longest run from the first whose JSON is at most `most_bytes`; one at least."""
    taken = 0
    left_bytes = most_bytes
    for each in shown:
        left_bytes -= size_bytes(each) + 1
        if left_bytes < 0 and taken > 0:
            break
        taken += 1
    return list(shown[:taken])


def size_bytes(view: object) -> int:
    """How many bytes its JSON has."""
    return len(msgspec.json.encode(view))


def error_view(error: ChatError) -> ErrorView:
    """An error as clients see it."""
    return ErrorView(
        code=error.code,
        message=error.message,
        field=error.field if error.field is not None else UNSET,
        retry_after_ms=error.retry_after_ms if error.retry_after_ms is not None else UNSET,
        error_id=error.error_id if isinstance(error, InternalError) else UNSET,
    )
