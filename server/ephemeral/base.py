"""State that may be lost: who is online, who is typing. Implementations: memory."""

from typing import Protocol

from msgspec import Struct


class Typing(Struct, frozen=True):
    """One person typing in one room."""

    room_id: str
    user_id: str


class Ephemeral(Protocol):
    """Presence is one lease a connection; a person is online while any of theirs holds.

    A connection id is opaque and never used twice. Instants are seconds of the implementation's own clock.
    """

    async def arrive(self, user_id: str, connection_id: str) -> bool:
        """Hold a lease. True when the person was offline before."""

    async def leave(self, user_id: str, connection_id: str, grace_s: float) -> None:
        """Let the lease run out in `grace_s`. Only `reap` says that somebody is offline."""

    async def reap(self) -> list[str]:
        """The people whose last lease has run out since the last call; each is named once."""

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
