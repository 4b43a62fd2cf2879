"""Token buckets: never more than the burst and what has flowed in since, whatever the order of calls."""

from itertools import accumulate, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.ratelimit import Rate, RateLimiter

rates = st.builds(Rate, st.floats(0.01, 1000), st.integers(1, 50))
pauses = st.lists(st.floats(0, 5), min_size=1, max_size=60)
ROUNDING = 1e-6


@given(rates, pauses)
def test_no_window_holds_more_than_the_burst_and_what_flowed_in(rate: Rate, pauses: list[float]) -> None:
    limiter = RateLimiter()
    taken = [now for now in accumulate(pauses) if limiter.take("key", rate, now) == 0]
    for (first, start), (last, end) in combinations(enumerate(taken), 2):
        assert last - first + 1 <= rate.burst + rate.per_s * (end - start) + ROUNDING


@given(rates, pauses)
def test_who_waits_as_long_as_told_is_let_in(rate: Rate, pauses: list[float]) -> None:
    limiter = RateLimiter()
    for now in accumulate(pauses):
        wait_s = limiter.take("key", rate, now)
        if wait_s > 0:
            assert limiter.take("key", rate, now + wait_s * 0.99) > 0
            assert limiter.take("key", rate, now + wait_s * 1.01 + ROUNDING) == 0
            return


@given(rates, st.integers(1, 200))
def test_at_once_the_burst_is_let_in_and_no_more(rate: Rate, calls: int) -> None:
    limiter = RateLimiter()
    assert [limiter.take("key", rate, 100.0) for _ in range(calls)].count(0) == min(calls, rate.burst)


@given(rates)
def test_refusals_cost_nothing(rate: Rate) -> None:
    """Somebody who hammers is let in as often as somebody who waits."""
    limiter = RateLimiter()
    while limiter.take("key", rate, 0.0) == 0:
        pass
    waits = [limiter.take("key", rate, 0.0) for _ in range(20)]
    assert waits == [waits[0]] * 20


@given(rates)
def test_a_clock_that_steps_back_gives_nothing_away(rate: Rate) -> None:
    limiter = RateLimiter()
    while limiter.take("key", rate, 10.0) == 0:
        pass
    assert limiter.take("key", rate, 0.0) > 0
    assert limiter.take("key", rate, 10.0) > 0


def test_each_key_has_its_own_bucket() -> None:
    limiter, rate = RateLimiter(), Rate(1, 1)
    assert [limiter.take(key, rate, 0.0) for key in ("juan", "ana", ("juan", "typing"))] == [0, 0, 0]
    assert limiter.take("juan", rate, 0.0) == pytest.approx(1)


def test_the_bucket_used_longest_ago_is_forgotten_first() -> None:
    limiter, rate = RateLimiter(most_keys=2), Rate(1, 1)
    for key in ("old", "used", "old", "new"):
        limiter.take(key, rate, 0.0)
    assert limiter.take("old", rate, 0.0) > 0
    assert limiter.take("used", rate, 0.0) == 0


@given(st.lists(st.integers(), max_size=100))
def test_the_number_of_buckets_is_bounded(keys: list[int]) -> None:
    limiter = RateLimiter(most_keys=5)
    for key in keys:
        limiter.take(key, Rate(1, 1), 0.0)
        assert len(limiter._buckets) <= 5
