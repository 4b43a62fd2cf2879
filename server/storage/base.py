"""The durable state, as four protocols; each method says what it guarantees. Implementations: sqlite, mongo.

Every method raises `UnavailableError` when the store does not answer in time; what became of a write is then
unknown. All reads see every write that was acknowledged before they began.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType

from server.domain.models import Change, Head, Login, Member, Message, Role, Room, User

MOST_COUNTED = 10_000
"""Of so many entries that do not decode it is remembered that they were counted; more are logged alone."""


class StoreRefusedError(Exception):
    """The store must not be used: a newer version made it, or another server uses it; with the remedy."""


class Slot(Struct, frozen=True):
    """A place in a room's log."""

    room_id: str
    rev: int


class CollisionError(Exception):
    """A `rev` or a `key` of the batch is taken; a prefix of the batch may have been stored.

    `slot` is that of its first entry, where the store tells that it was refused, and nothing stored.
    """

    def __init__(self, slot: Slot | None = None) -> None:
        super().__init__("a number or a key of the batch is taken")
        self.slot = slot


class UsernameTakenError(Exception):
    """Another user has this username."""


class LogStore(Protocol):
    """The insert-only log of changes. Unique: (room, rev) and (room, key)."""

    async def append(self, changes: Sequence[Change]) -> None:
        """Store the batch in order and synced to disk; the senders' own cursors move with their messages.

        Raises CollisionError when a number or a key is taken. Nothing that is stored ever moves or goes.
        """

    async def heads(self, room_ids: Sequence[str]) -> dict[str, Head]:
        """The end of each room's log; a room without changes has `Head()`.

        A room whose last entry does not decode is left out: nothing may be numbered after it.
        """

    async def find_by_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Change]:
        """The entries with these (room, key), each with the message as it stood after that entry."""

    async def find_messages(self, refs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Message]:
        """The present messages with these (room, message id)."""

    async def messages_between(self, room_id: str, first_seq: int, last_seq: int) -> list[Message]:
        """The present messages with first_seq <= seq <= last_seq, by ascending seq."""

    async def messages_at(self, refs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        """The present messages at these (room, seq)."""

    async def changes_after(self, room_id: str, rev: int, limit: int) -> list[Change]:
        """The first `limit` entries with a greater rev, ascending, each able to be told again."""

    async def own_reactions(self, refs: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str, int], str]:
        """What each (room, user) reacts with to the message at seq; those without a reaction are left out."""

    async def count_undecodable(self) -> int:
        """How many entries were skipped since the start because they do not decode, each counted once.

        At most `MOST_COUNTED`.
        """


class Membership(Struct, frozen=True, kw_only=True):
    """A room with the reader's own membership of it (None: not a member)."""

    room: Room
    member: Member | None


class RoomStore(Protocol):
    """Rooms, their members, and how far each has read."""

    async def create_room(self, room: Room, members: Sequence[Member]) -> tuple[Room, bool]:
        """Create it with its members, at once: (the room, True), or (the one that has its key, False)."""

    async def find_rooms(self, room_ids: Sequence[str]) -> dict[str, Room]:
        """The rooms with these ids, deleted ones too."""

    async def update_room(
        self, room_id: str, *, name: str | None = None, deleted_at: int | None = None
    ) -> None:
        """Set what is not None. Marking it deleted also removes every member."""

    async def public_rooms(self, query: str, after: str, limit: int) -> list[Room]:
        """Public rooms whose name contains `query` without case, with id > after, ascending."""

    async def find_member(self, room_id: str, user_id: str) -> Member | None:
        """One membership of a room that is not deleted."""

    async def keep_member(self, room_id: str, user_id: str) -> Member | None:
        """As `find_member`; who is found stays, also when a removal that was not answered is done later."""

    async def members_among(self, room_id: str, user_ids: Sequence[str]) -> set[str]:
        """Those of the users who are members of the room; nobody is one of a deleted room."""

    async def members(self, room_id: str, after: tuple[int, str], limit: int) -> list[Member]:
        """The members with (joined_at, user_id) > after, ascending."""

    async def memberships(self, user_id: str) -> list[Membership]:
        """All of a user's rooms, in no order; `member` is never None here."""

    async def add_member(self, member: Member) -> Member:
        """Add it with its cursor at the end of the log; the one that was there already, and is kept, if so.

        Raises NotFoundError when the room is unknown or was deleted meanwhile.
        """

    async def remove_member(self, room_id: str, user_id: str) -> Member | None:
        """Remove and return it; None if there was none.

        When the last owner goes, the member of longest standing becomes the owner, in the same step.
        """

    async def set_role(self, room_id: str, user_id: str, role: Role) -> bool:
        """Set a member's role. False, and nothing done: no such member, or no owner would be left."""

    async def advance_cursors(self, cursors: Sequence[tuple[str, str, int]]) -> list[int]:
        """Move each (room, user) cursor forward to seq, never back; where each is then (0: no member)."""

    async def member_counts(self, room_ids: Sequence[str]) -> dict[str, int]:
        """How many members each room has."""


class UserStore(Protocol):
    """People and their logins."""

    async def create_user(self, user: User, password_hash: str | None) -> User:
        """Create it; the user that has this id already, if so. Raises UsernameTakenError."""

    async def find_users(self, user_ids: Sequence[str]) -> dict[str, User]:
        """The users with these ids."""

    async def find_credentials(self, username: str) -> tuple[User, str | None] | None:
        """The user with this username, without case, and the password hash (None: signs in elsewhere)."""

    async def update_user(
        self,
        user_id: str,
        *,
        display_name: str | UnsetType = UNSET,
        avatar_url: str | UnsetType | None = UNSET,
        revoked_before: int | UnsetType = UNSET,
    ) -> User | None:
        """Set what is given and return the user; None if there is none. `revoked_before` never moves back."""

    async def search_users(self, query: str, after: str, limit: int) -> list[User]:
        """Users whose username or display name begins with `query`, without case, by username > after."""

    async def set_last_seen(self, seen: Sequence[tuple[str, int]]) -> None:
        """Record when each user was last online."""

    async def create_login(self, login: Login) -> None:
        """Begin a login."""

    async def find_login(self, login_id: str) -> Login | None:
        """The login, revoked or not; None when it is unknown or long past."""

    async def rotate_login(self, login_id: str, n: int, at: int, expires_at: int) -> Login | None:
        """Move it from rotation `n` to n + 1, once, unless it is revoked or expired at `at`.

        Returns the login afterwards, moved or not; None when it is unknown.
        """

    async def revoke_login(self, login: Login) -> None:
        """Revoke it; an unknown one (a token from outside) is remembered as revoked until `expires_at`."""

    async def revoke_logins(self, user_id: str) -> None:
        """Revoke all logins of a user."""


class MetaStore(Protocol):
    """The store as a whole."""

    async def open(self) -> None:
        """Open, migrate to this version's schema and take the lease. Raises StoreRefusedError."""

    async def close(self) -> None:
        """Finish what is being written, give the lease back, close. May be called twice."""

    async def epoch(self) -> str:
        """The id of this database: another one after a restore."""

    async def ping(self) -> None:
        """Make sure that it can be read now."""


class NodeReport(Struct, frozen=True, kw_only=True):
    """What a server last said of itself: `beat` counts its reports, `at` is by its own clock."""

    node: str
    beat: int
    at: int
    is_heard: bool


class NodeStore(Protocol):
    """The servers that share a store."""

    async def report(self, node: str, *, at: int, is_heard: bool) -> list[NodeReport]:
        """This server lives at `at`; `is_heard`: it hears the bus. The last report of each, its own too."""

    async def forget_node(self, node: str) -> None:
        """Forget what a server reported."""

    async def written_by(self, node: str, since: int) -> list[tuple[str, int]]:
        """The (room, rev) of what a server wrote at `since` or later by its clock, or the newest of it."""


class Storage(LogStore, RoomStore, UserStore, MetaStore, Protocol):
    """All of it, as `app` hands it out; each service asks for the part that it needs."""
