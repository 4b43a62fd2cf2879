"""Who is online and who is typing, and who is told of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from server.domain.errors import ChatError
from server.domain.models import User
from server.ephemeral.base import Ephemeral, StatusChange, Typing
from server.events import TypingPayload
from server.services.directory import Directory
from server.services.notices import Place, Publisher, SocketsEnded, Tell
from server.services.views import iso_or_none
from server.storage.base import RoomStore, UserStore
from server.views import TypingStatus, UserStatus


class PresenceRules(Struct, frozen=True, kw_only=True):
    """Durations in seconds. Over `quiet_above` members nobody is told who comes online.

    `sockets_per_user`: connections of a person on all servers; None: any number.
    """

    grace_s: float
    typing_ttl_s: float
    quiet_above: int
    most_typing: int
    sockets_per_user: int | None = None


class PresenceService:
    """A person is online while any of their connections holds; `tick` notices what has run out."""

    def __init__(
        self,
        ephemeral: Ephemeral,
        rooms: RoomStore,
        users: UserStore,
        directory: Directory,
        publisher: Publisher,
        rules: PresenceRules,
        *,
        clock: Callable[[], int],
    ) -> None:
        self._ephemeral = ephemeral
        self._rooms = rooms
        self._users = users
        self._directory = directory
        self._publisher = publisher
        self._rules = rules
        self._clock = clock
        self._gone: dict[str, int] = {}
        # What others do not know, since it could not be told: the next tick tells it.
        self._untold: dict[str, StatusChange] = {}
        # What began here and may be shown yet, and when it began; what the next tick ends of it.
        self._begun: dict[Typing, int] = {}
        self._over: set[Typing] = set()

    async def arrive(self, user: User, connection_id: str) -> None:
        """A connection of the user begins. With one too many the oldest ends, wherever it is."""
        limit = self._rules.sockets_per_user
        arrival = await self._ephemeral.arrive(user.id, connection_id, limit)
        if arrival.change is not None:
            await self._tell_status(user, arrival.change)
        if arrival.surplus and limit is not None:
            ended = frozenset(arrival.surplus)
            await self._publisher.publish(SocketsEnded(user_id=user.id, connection_ids=ended, limit=limit))

    async def leave(self, user_id: str, connection_id: str) -> None:
        """A connection ends: typing ends at once, being online after the grace."""
        await self._ephemeral.leave(user_id, connection_id, self._rules.grace_s)
        for typing in await self._ephemeral.stop_typing_from(connection_id):
            self._forget(typing)
            await self._tell_typing(typing, is_typing=False)

    async def typing(self, actor: str, wanted: TypingPayload, connection_id: str) -> None:
        """The actor began or ended typing in one of their rooms."""
        await self._directory.get_access(wanted.room_id, actor)
        typing = Typing(wanted.room_id, actor)
        if not wanted.is_typing:
            await self.stop_typing(wanted.room_id, actor)
            return
        is_large = await self._directory.member_count(wanted.room_id) > self._rules.quiet_above
        most = self._rules.most_typing if is_large else 1_000_000
        self._over.discard(typing)
        self._begun[typing] = self._clock()
        if await self._ephemeral.start_typing(typing, connection_id, self._rules.typing_ttl_s, most):
            await self._tell_typing(typing, is_typing=True)

    async def stop_typing(self, room_id: str, user_id: str) -> None:
        """End it, if it is shown."""
        typing = Typing(room_id, user_id)
        self._forget(typing)
        if await self._ephemeral.stop_typing(typing):
            await self._tell_typing(typing, is_typing=False)

    async def said(self, room_id: str, user_id: str) -> None:
        """They have sent a message: end the typing that began here. Where others began it, they do."""
        if Typing(room_id, user_id) in self._begun:
            await self.stop_typing(room_id, user_id)

    def passed(self, room_id: str, user_id: str, at: int) -> None:
        """A message of theirs, of that time, is told, whichever server took it: what began before is over."""
        # Mostly nobody types, and this is asked of each message.
        if self._begun and self._begun.get(typing := Typing(room_id, user_id), at) < at:
            self._over.add(typing)

    def _forget(self, typing: Typing) -> None:
        self._begun.pop(typing, None)
        self._over.discard(typing)

    async def tick(self) -> None:
        """Tell of those who went offline and of typing that ran out. Called about twice a second."""
        await self._end_typing()
        # Named once by the reaper, and kept until it is stored and told: the store may be away.
        for change in await self._ephemeral.reap():
            self._keep_untold(change)
            if not change.is_online:
                away_ms = round((self._rules.grace_s + change.ago_s) * 1000)
                self._gone[change.user_id] = self._clock() - away_ms
        if self._gone:
            await self._users.set_last_seen(list(self._gone.items()))
            self._gone.clear()
        if self._untold:
            await self._tell_untold()

    async def _end_typing(self) -> None:
        for typing in list(self._over):
            with suppress(ChatError):  # whoever sees it typing drops it soon, too
                await self.stop_typing(typing.room_id, typing.user_id)
        for typing in await self._ephemeral.reap_typing():
            with suppress(ChatError):
                await self._tell_typing(typing, is_typing=False)
        oldest = self._clock() - round(self._rules.typing_ttl_s * 1000)
        self._begun = {typing: at for typing, at in self._begun.items() if at > oldest}

    async def _tell_untold(self) -> None:
        untold = list(self._untold)
        users = await self._users.find_users(untold)
        for user_id in untold:
            # Else somebody has told it meanwhile.
            if (change := self._untold.pop(user_id, None)) is not None and user_id in users:
                await self._tell_status(users[user_id], change)

    async def _tell_status(self, user: User, change: StatusChange) -> None:
        """Tell it now, or by the next tick when this fails."""
        self._untold.pop(user.id, None)
        try:
            await self._try_to_tell_status(user, change)
        except (ChatError, asyncio.CancelledError):
            self._keep_untold(change)
            raise

    def _keep_untold(self, change: StatusChange) -> None:
        known = self._untold.get(change.user_id)
        if known is None or known.version < change.version:
            self._untold[change.user_id] = change

    async def _try_to_tell_status(self, user: User, change: StatusChange) -> None:
        """Tell it, unless it has ceased to be so while this was read: then who changed it tells.

        On the way to the others it keeps its place: an older one is not told behind a newer one.
        """
        room_ids = [each.room.id for each in await self._rooms.memberships(user.id)]
        counts = await self._directory.member_counts(room_ids)
        small = frozenset(each for each in room_ids if counts.get(each, 0) <= self._rules.quiet_above)
        if not small:
            return
        status = UserStatus(
            user_id=user.id,
            username=user.username,
            status="online" if change.is_online else "offline",
            last_seen=iso_or_none(user.last_seen),
        )
        if change.is_online == (user.id in await self._ephemeral.online({user.id})):
            place = Place(f"status:{user.id}", change.version, is_gapless=False)
            await self._publisher.publish(Tell(event="user_status", data=status, rooms=small, place=place))

    async def _tell_typing(self, typing: Typing, *, is_typing: bool) -> None:
        user = await self._directory.get_profile(typing.user_id)
        data = TypingStatus(
            room_id=typing.room_id, user_id=user.id, username=user.username, is_typing=is_typing
        )
        await self._publisher.publish(
            Tell(event="typing_status", data=data, rooms=frozenset([typing.room_id]), volatile=True)
        )
