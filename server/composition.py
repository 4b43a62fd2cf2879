"""The use cases, each given what it needs; `app` puts a store, a bus, sockets and HTTP around them."""

import time
from collections.abc import Mapping

from server import events
from server.backends import Backends
from server.domain.ratelimit import Rate
from server.ephemeral.base import Ephemeral
from server.services.accounts import AccountService
from server.services.completion import Completion
from server.services.directory import Directory
from server.services.health import Health
from server.services.messages import MessageService
from server.services.nodes import Nodes
from server.services.notices import Publisher
from server.services.passwords import Passwords
from server.services.presence import PresenceRules, PresenceService
from server.services.rooms import RoomLimits, RoomService
from server.services.sync import SyncService
from server.services.telling import Teller
from server.services.tokens import ClaimNames, Tokens
from server.services.views import Views
from server.settings import AuthSettings, LimitsSettings, Settings
from server.storage.commit import Committer
from server.storage.cursors import CursorCommitter


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def make_tokens(auth: AuthSettings, secret: str) -> Tokens:
    """The tokens of this site."""
    claims = auth.claims
    return Tokens(
        secret,
        claim_names=ClaimNames(
            id=claims.id,
            username=claims.username,
            display_name=claims.display_name,
            avatar_url=claims.avatar_url,
        ),
        issuer=auth.issuer,
        audience=auth.audience,
        leeway_s=auth.leeway_s,
        access_ttl_s=auth.access_ttl_s,
    )


def make_rates(limits: LimitsSettings) -> Mapping[str, Rate] | None:
    """The rate of each class of events; None when limits are off."""
    if not limits.enabled:
        return None
    classes = {event.rate for event in events.CLIENT_EVENTS.values()}
    return {
        each: Rate(getattr(limits, f"{each}_per_s"), getattr(limits, f"{each}_burst")) for each in classes
    }


class UseCases:
    """All services of one server over one store. `start` begins what runs beside them; `close` ends it."""

    def __init__(
        self,
        settings: Settings,
        secret: str,
        backends: Backends,
        publisher: Publisher,
        nodes: Nodes | None,
    ) -> None:
        self._settings = settings
        self._storage = storage = backends.storage
        ephemeral, is_heard = backends.ephemeral, backends.bus.is_heard
        self._publisher = publisher
        self._quiet_above = quiet_above = settings.presence.max_room_size
        self._completion = Completion()
        self._passwords = Passwords()
        self._cursors = CursorCommitter(storage)
        self.health = Health(
            storage,
            storage,
            clock=time.monotonic,
            is_heard=is_heard,
            do_others_hear=lambda: nodes is not None and nodes.do_others_hear,
        )
        self.directory = Directory(storage, storage, is_heard=is_heard)
        self._views = Views(storage, storage, storage, self.directory, ephemeral)
        self.teller = Teller(
            self._views, self.directory, publisher, ephemeral, storage, quiet_above=quiet_above
        )
        deadline_s = settings.realtime.event_deadline_s
        self.committer = Committer(
            storage,
            self.teller.tell,
            node=backends.node,
            is_alone=backends.nodes is None,
            deadline_s=deadline_s,
        )
        self.accounts = self._make_accounts(secret)
        self.rooms = self._make_rooms()
        self.messages = self._make_messages()
        self.sync = SyncService(
            storage, storage, storage, self.directory, self._views, quiet_above=quiet_above, clock=now_ms
        )
        self.presence = self._make_presence(ephemeral)

    def start(self) -> None:
        """Begin to number, store and tell."""
        self.committer.start()

    async def close(self, timeout_s: float) -> None:
        """Finish, store and tell what was accepted."""
        await self._completion.close(timeout_s)
        await self.committer.close()
        await self._cursors.close()
        self._passwords.close()

    def _make_accounts(self, secret: str) -> AccountService:
        auth = self._settings.auth
        return AccountService(
            self._storage,
            self._storage,
            make_tokens(auth, secret),
            self._passwords,
            self._views,
            self._publisher,
            self._completion,
            has_accounts=auth.accounts_enabled,
            refresh_ttl_s=auth.refresh_ttl_s,
            refresh_grace_s=auth.refresh_grace_s,
            clock=now_ms,
        )

    def _make_rooms(self) -> RoomService:
        limits = self._settings.limits
        rules = RoomLimits(
            rooms_per_user=limits.rooms_per_user if limits.enabled else None,
            members_per_room=limits.members_per_room if limits.enabled else None,
            quiet_above=self._quiet_above,
        )
        return RoomService(
            self._storage,
            self.directory,
            self._views,
            self._publisher,
            self._completion,
            rules,
            clock=now_ms,
        )

    def _make_messages(self) -> MessageService:
        chat = self._settings.chat
        return MessageService(
            self._storage,
            self.committer,
            self._cursors,
            self.directory,
            self.rooms,
            self._views,
            self._publisher,
            most_content_chars=chat.max_content_chars,
            reactions=chat.reactions,
            quiet_above=self._quiet_above,
            clock=now_ms,
        )

    def _make_presence(self, ephemeral: Ephemeral) -> PresenceService:
        presence, limits = self._settings.presence, self._settings.limits
        rules = PresenceRules(
            grace_s=presence.grace_s,
            typing_ttl_s=presence.typing_ttl_s,
            quiet_above=presence.max_room_size,
            most_typing=presence.max_typing_shown,
            sockets_per_user=limits.sockets_per_user if limits.enabled else None,
        )
        return PresenceService(
            ephemeral,
            self._storage,
            self._storage,
            self.directory,
            self._publisher,
            rules,
            clock=now_ms,
        )
