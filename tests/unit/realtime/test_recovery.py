"""Who may go on with a connection, and for how long."""

import gc
from collections.abc import Callable
from weakref import ref

import pytest

from server.realtime.packet_log import Stay
from server.realtime.recovery import Recovery, RecoveryOptions, Trail
from tests.unit.realtime.trails import PING_S, Clock, away, begin, tell


def test_a_connection_is_taken_back_by_its_owner_once(recovery: Recovery) -> None:
    trail = away(recovery)
    assert recovery.claim(trail.pid, "juan") is None
    assert recovery.claim("another pid", "ana") is None
    assert recovery.claim(trail.sid, "ana") is None
    assert recovery.claim(trail.pid, "ana") is trail
    assert recovery.claim(trail.pid, "ana") is None


def test_a_connection_that_has_a_transport_is_not_taken_but_found(recovery: Recovery) -> None:
    trail = begin(recovery)
    assert recovery.claim(trail.pid, "ana") is None
    assert recovery.find_connected(trail.pid, "ana") is trail
    assert recovery.find_connected(trail.pid, "juan") is None
    assert recovery.find_connected(trail.sid, "ana") is None
    recovery.leave(trail, {})
    assert recovery.find_connected(trail.pid, "ana") is None


def test_a_pid_is_not_the_sid_and_nobody_elses(recovery: Recovery) -> None:
    pids = {begin(recovery, sid=f"{number}").pid for number in range(100)}
    assert len(pids) == 100
    assert all(len(pid) >= 20 for pid in pids)


@pytest.mark.parametrize(("away_s", "is_taken"), [(0, True), (119.9, True), (120, False), (1_000, False)])
def test_a_connection_is_taken_back_in_time(
    recovery: Recovery,
    clock: Clock,
    away_s: float,
    is_taken: bool,  # noqa: FBT001 - a table's column
) -> None:
    clock.now_s += 7_000
    trail = away(recovery)
    clock.now_s += away_s
    assert (recovery.claim(trail.pid, "ana") is trail) is is_taken
    assert recovery.is_used is is_taken


def test_who_stayed_away_too_long_is_kept_until_somebody_comes(recovery: Recovery, clock: Clock) -> None:
    away(recovery)
    tell(recovery)
    clock.now_s += 120
    recovery.end(begin(recovery, "juan"))
    assert not recovery.is_used
    assert (recovery.log.dropped, recovery.log._size_bytes) == (1, 0)


@pytest.mark.parametrize("max_away_s", [0, -1])
def test_where_it_is_off_there_is_none(clock: Clock, max_away_s: float) -> None:
    assert clock.now_s
    recovery = Recovery(RecoveryOptions(max_away_s=max_away_s), ping_s=PING_S)
    assert recovery.begin("sid", "ana") is None
    assert not recovery.is_used


def test_one_that_could_not_be_taken_back_may_come_again_but_has_no_more_time(
    recovery: Recovery, clock: Clock
) -> None:
    trail = away(recovery, room=Stay(since=0))
    clock.now_s += 100
    claimed = recovery.claim(trail.pid, "ana")
    assert claimed is trail
    recovery.restore(trail)
    assert recovery.claim(trail.pid, "ana") is trail
    assert trail.kept == {"room": Stay(since=0)}
    recovery.restore(trail)
    clock.now_s += 20
    assert recovery.claim(trail.pid, "ana") is None


def test_one_that_ended_is_over(recovery: Recovery) -> None:
    trail = away(recovery)
    recovery.claim(trail.pid, "ana")
    recovery.end(trail)
    assert recovery.claim(trail.pid, "ana") is None
    assert recovery.find_connected(trail.pid, "ana") is None
    assert not recovery.is_used


def leave_alone(recovery: Recovery, trail: Trail) -> None:
    recovery.leave(trail, {})


def leave_and_claim(recovery: Recovery, trail: Trail) -> None:
    recovery.leave(trail, {})
    assert recovery.claim(trail.pid, "ana") is trail


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda *_: None, leave_alone),
        (leave_alone, lambda *_: None),
        (leave_and_claim, Recovery.restore),
    ],
    ids=["connected", "away", "being taken back"],
)
def test_one_that_is_forgotten_is_not_taken_back(
    recovery: Recovery, before: Callable[[Recovery, Trail], None], after: Callable[[Recovery, Trail], None]
) -> None:
    trail, other = begin(recovery), away(recovery, sid="other")
    before(recovery, trail)
    recovery.forget("sid")
    assert recovery.find_position(trail, None) is None
    after(recovery, trail)
    assert recovery.claim(trail.pid, "ana") is None
    assert recovery.find_connected(trail.pid, "ana") is None
    assert recovery.claim(other.pid, "ana") is other


def test_who_is_away_is_listed_for_their_owner(recovery: Recovery, clock: Clock) -> None:
    away(recovery, sid="early")
    clock.now_s += 50
    away(recovery, sid="late")
    away(recovery, "juan", sid="juan's")
    begin(recovery, sid="connected")
    assert recovery.away("ana") == ["early", "late"]
    assert recovery.away("eva") == []
    clock.now_s += 70
    assert recovery.away("ana") == ["late"]


def test_one_whose_time_is_over_is_not_listed_behind_one_whose_time_is_not(
    recovery: Recovery, clock: Clock
) -> None:
    early = away(recovery, sid="early")
    clock.now_s += 50
    away(recovery, sid="late")
    assert recovery.claim(early.pid, "ana") is early
    recovery.restore(early)
    clock.now_s += 70
    assert recovery.away("ana") == ["late"]
    assert recovery.claim(early.pid, "ana") is None


def test_of_too_many_that_are_away_the_oldest_go(recovery: Recovery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.recovery._MAX_AWAY", 2)
    trails = [away(recovery, sid=f"{number}") for number in range(3)]
    assert recovery.away("ana") == ["1", "2"]
    assert recovery.claim(trails[0].pid, "ana") is None


class Holder:
    def abandon(self) -> None: ...


def test_of_a_transport_that_went_nothing_is_held(recovery: Recovery) -> None:
    trail, holder = begin(recovery), Holder()
    trail.abandon, gone = holder.abandon, ref(holder)
    recovery.leave(trail, {})
    del holder
    gc.collect()
    assert gone() is None
    trail.abandon()
