"""State that may be lost: who is online, who is typing. Implementations: memory, redis."""

from typing import Protocol

from msgspec import Struct


class Typing(Struct, frozen=True):
    """One person typing in one room."""

    room_id: str
    user_id: str


class StatusChange(Struct, frozen=True, kw_only=True):
    """Somebody came online or went offline.

    `version`: what a person does later has a greater one, whichever server says so. `ago_s`, of who went
    offline: how many seconds ago their last lease ran out.
    """

    user_id: str
    is_online: bool
    version: int
    ago_s: float = 0.0


class Arrival(Struct, frozen=True):
    """What a new connection means: a change of who is online, and connections too many, the oldest first."""

    change: StatusChange | None
    surplus: list[str]


class Ephemeral(Protocol):
    """Presence is one lease a connection; a person is online while any of theirs holds.

    A connection id is opaque. A connection that is taken up again keeps it: it has left its server before it
    arrives there again, but may arrive at another one before it has left this. Instants are seconds of the
    implementation's own clock. No method raises because what this is kept in is away: what is asked then
    is answered by what this server knows, and what is not known to others is told them later, or lost.
    """

    async def start(self) -> None:
        """Begin. To be called once, before anything else."""

    async def close(self) -> None:
        """Stop. The leases of this server's connections run out."""

    async def arrive(self, user_id: str, connection_id: str, most: int | None = None) -> Arrival:
        """Hold a lease. With a `change` when the person was offline before.

        `surplus` are the connections that have not left beyond the newest `most`; None: any number may be.
        """

    async def leave(self, user_id: str, connection_id: str, grace_s: float) -> None:
        """Let the lease run out in `grace_s`. Only `reap` says that somebody is offline."""

    async def reap(self) -> list[StatusChange]:
        """The people whose last lease has run out, and who came online without `arrive` having said so.

        Each change is named once to one server; if that one dies before it calls again, to another one.
        """

    async def online(self, user_ids: set[str]) -> set[str]:
        """Those of these people who are online."""

    async def start_typing(self, typing: Typing, connection_id: str, ttl_s: float, most: int) -> bool:
        """Show it for `ttl_s` more. False when `most` others are shown in this room already."""

    async def stop_typing(self, typing: Typing) -> bool:
        """True when it was shown."""

    async def stop_typing_from(self, connection_id: str) -> list[Typing]:
        """End what this connection began; what was shown."""

    async def reap_typing(self) -> list[Typing]:
        """End what has run out; what was shown."""

    async def claim(self, name: str, ttl_s: float) -> bool:
        """True for the first who asks; until `ttl_s` later False for everybody."""
