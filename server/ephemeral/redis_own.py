"""The connections of this server, remembered so that Redis can be told of them again."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

# For so long nobody may have looked who is gone, or this server may not have asked Redis anything.
_MOMENT_S = 3.0


class Own:
    """A connection from arriving to leaving. `is_known`: Redis has had it, so others were told."""

    __slots__ = ("connection_id", "generation", "is_known", "since_s", "user_id")

    def __init__(self, user_id: str, connection_id: str, generation: int, since_s: float) -> None:
        self.user_id = user_id
        self.connection_id = connection_id
        self.generation = generation
        self.since_s = since_s
        self.is_known = False


class Left(NamedTuple):
    """When somebody left, when their grace ends, and whether others were told that they had come."""

    since_s: float
    ends_at_s: float
    is_known: bool


class Kept(NamedTuple):
    """What Redis is told again of a connection: as `PUT_BACK` takes it. `own` None: it has left.

    `ago_ms`: since when it has been there, or has left. `grace_ms` of who has left may be past.
    """

    entry: str
    user_id: str
    kind: str
    ago_ms: int
    grace_ms: int
    own: Own | None


class OwnConnections:
    """Those that are here, and the people who have just left. Instants are seconds of `clock`.

    Who left is remembered until they were declared gone: Redis may lose it before.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._people: dict[str, dict[str, Own]] = {}
        self._left: dict[str, Left] = {}
        self._heard_at_s = float("-inf")
        self._put_back: list[Own] = []
        self._generations = itertools.count(1)

    def begin(self, user_id: str, connection_id: str) -> Own:
        """A connection arrives. One that comes back after it left is another generation of it."""
        people = self._people.setdefault(user_id, {})
        if connection_id not in people:
            people[connection_id] = Own(user_id, connection_id, next(self._generations), self._clock())
        return people[connection_id]

    def end(self, user_id: str, connection_id: str, grace_s: float) -> Own | None:
        """It leaves, and the person is online for `grace_s` yet; None when it is not here."""
        people = self._people.get(user_id, {})
        own = people.pop(connection_id, None)
        if not people:
            self._people.pop(user_id, None)
        if own is not None:
            now_s = self._clock()
            before = self._left.get(user_id, Left(now_s, now_s, own.is_known))
            ends_at_s = max(now_s + grace_s, before.ends_at_s)
            self._left[user_id] = Left(now_s, ends_at_s, own.is_known or before.is_known)
        return own

    def ended(self, user_id: str, grace_s: float) -> None:
        """Redis has it that a connection left: by now its grace has begun there."""
        if left := self._left.get(user_id):
            ends_at_s = max(left.ends_at_s, self._clock() + grace_s)
            self._left[user_id] = left._replace(ends_at_s=ends_at_s)

    def heard(self) -> None:
        """Redis is there: it may have declared gone whoever's grace is over."""
        self._heard_at_s = self._clock()

    def reaped(self, asked_at_s: float) -> None:
        """Redis has declared gone whoever's grace was over when it was asked, and has named whom it had to.

        Whoever they were named to tells it, and Redis need not be told any more.
        """
        self.heard()
        for own in self._put_back:
            own.is_known = True
        self._put_back.clear()
        self._left = {each: left for each, left in self._left.items() if left.ends_at_s > asked_at_s}

    def surplus(self, user_id: str, most: int | None) -> list[str]:
        """Connections beyond the newest `most`, the oldest first."""
        here = list(self._people.get(user_id, ()))
        return here[: max(0, len(here) - most)] if most is not None else []

    def online(self, user_ids: set[str]) -> set[str]:
        """Those who are here, or have left just now."""
        here = user_ids & self._people.keys()
        now_s = self._clock()
        return here | {each for each in user_ids & self._left.keys() if self._left[each].ends_at_s > now_s}

    def kept(self, node: str) -> Iterator[Kept]:
        """All that Redis is to be told, under the name of a new node."""
        now_s = self._clock()
        for user_id, people in self._people.items():
            is_known = any(own.is_known for own in people.values()) or self._was_kept(user_id)
            for own in people.values():
                ago_ms = _ms(now_s - own.since_s)
                yield Kept(entry(node, own), user_id, "known" if is_known else "new", ago_ms, 0, own)
        for user_id, left in self._left.items():
            gone = Own(user_id, "", next(self._generations), now_s)
            ago_ms, grace_ms = _ms(now_s - left.since_s), _ms(left.ends_at_s - now_s)
            yield Kept(entry(node, gone), user_id, "left", ago_ms, grace_ms, None)

    def arrived(self, own: Own, *, is_told: bool) -> None:
        """Redis has it. Where nobody is told, others know already or what they are to know is under way."""
        people = self._people.get(own.user_id, {})
        own.is_known = is_told or all(each.is_known for each in people.values() if each is not own)
        if not own.is_known:
            self._put_back.append(own)

    def put_back(self, kept: Iterable[Kept], untold: set[str]) -> None:
        """Redis has these again. Of the `untold` others do not know until it has named them to somebody."""
        for own in (each.own for each in kept if each.own is not None):
            own.is_known = own.user_id not in untold
            if not own.is_known:
                self._put_back.append(own)

    def _was_kept(self, user_id: str) -> bool:
        """Whether a person has left and come back and cannot have been declared gone in between."""
        left = self._left.get(user_id)
        return left is not None and left.is_known and left.ends_at_s > self._heard_at_s + _MOMENT_S


def entry(node: str, own: Own) -> str:
    """How Redis knows a connection."""
    return f"{node}|{own.generation}|{own.connection_id}"


def arguments(kept: Iterable[Kept]) -> list[str | int]:
    """As `PUT_BACK` takes them, one after another."""
    return [argument for each in kept for argument in each[:5]]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
