"""Token buckets, as arithmetic: the caller brings the clock."""

from collections import OrderedDict
from collections.abc import Hashable

from msgspec import Struct


class Rate(Struct, frozen=True):
    """`per_s` calls a second on average, `burst` at once."""

    per_s: float
    burst: int


class RateLimiter:
    """One bucket a key. Holds at most `most_keys` buckets; the one used longest ago is forgotten first.

    A bucket that is forgotten would be full in most cases: only more than `most_keys` active keys at
    once let one of them start anew.
    """

    def __init__(self, *, most_keys: int = 100_000) -> None:
        self._most_keys = most_keys
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, rate: Rate, now: float) -> float:
        """Take one call from the key's bucket. 0.0: it was there; else the seconds until one will be."""
        level, at = self._buckets.pop(key, (float(rate.burst), now))
        level = min(float(rate.burst), level + max(0.0, now - at) * rate.per_s)
        wait_s = 0.0 if level >= 1 else (1 - level) / rate.per_s
        self._buckets[key] = (level - 1 if wait_s == 0 else level, max(at, now))
        if len(self._buckets) > self._most_keys:
            self._buckets.popitem(last=False)
        return wait_s
