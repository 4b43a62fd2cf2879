"""What the use cases say to the connected world, in the words of the domain: people and rooms, no sockets."""

from typing import Protocol

from msgspec import Struct

from server.domain.models import Head
from server.views import LeaveReason


class Place(Struct, frozen=True):
    """A notice's place among those of its `key`: nobody is told it behind one of a greater number.

    `is_gapless`: it is the change `number` of the room `key`, told right behind the one before. `head` is the
    end of the room's log that the change made, `said_by` who wrote it, if it is a message.
    """

    key: str
    number: int
    is_gapless: bool
    head: Head | None = None
    said_by: str | None = None


class Tell(Struct, frozen=True, kw_only=True):
    """An event for every socket in these rooms and of these people; each socket gets it once.

    `volatile`: it is of no use later, so who is slow or away need not get it. A change that is not to be told
    by itself still has its `place`, and names nobody.
    """

    event: str
    data: Struct
    rooms: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    volatile: bool = False
    place: Place | None = None


class MembershipChanged(Struct, frozen=True, kw_only=True):
    """These people joined or left a room; `left_because` is given when they left.

    `is_told`: what is published right behind it tells them so. Else it is not certain, or others tell it.
    """

    room_id: str
    user_ids: frozenset[str]
    left_because: LeaveReason | None = None
    is_told: bool = True


class RoomChanged(Struct, frozen=True, kw_only=True):
    """A room's name, or somebody's role in it, is another one."""

    room_id: str


class ProfileChanged(Struct, frozen=True, kw_only=True):
    """A person's name or picture is another one."""

    user_id: str


class LoginEnded(Struct, frozen=True, kw_only=True):
    """The sockets of one login of a user end; of all of them where `login_id` is None."""

    user_id: str
    login_id: str | None


class SocketsEnded(Struct, frozen=True, kw_only=True):
    """These connections of a user are beyond the `limit` of open ones, and end."""

    user_id: str
    connection_ids: frozenset[str]
    limit: int


Control = MembershipChanged | RoomChanged | ProfileChanged | LoginEnded | SocketsEnded
Notice = Tell | Control


class Publisher(Protocol):
    """Takes notices to every server."""

    async def publish(self, *notices: Notice) -> None:
        """In this order; when it returns, this server's own sockets have been told.

        A `MembershipChanged` that somebody left holds from the moment it is handled: no later event of the
        room reaches them. Raises UnavailableError when the other servers cannot be told in time.
        """
