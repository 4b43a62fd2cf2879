"""What a connection that comes back has missed: offsets, rooms, and whether all of it is still there."""

from collections.abc import Callable

import pytest

from server.realtime.packet_log import Stay
from server.realtime.recovery import _MANY_STAYS, Recovery, RecoveryOptions
from tests.unit.realtime.trails import OPTIONS, PING_S, Clock, away, begin, packet, positions, tell

ROOM = frozenset(["room"])


def test_an_offset_is_that_of_the_packet_or_of_the_newest_one(recovery: Recovery) -> None:
    trail = begin(recovery)
    offsets = [recovery.offset(), tell(recovery), recovery.offset(), tell(recovery, 20)]
    assert offsets[1] == offsets[2] == recovery.offset(1)
    assert [recovery.find_position(trail, offset) for offset in offsets] == [0, 1, 1, 21]
    assert len({offsets[0], offsets[1], offsets[3]}) == 3


def test_an_offset_can_stand_in_a_packet(recovery: Recovery) -> None:
    offset = tell(recovery, 300)
    assert offset.isascii()
    assert not set(offset) & set('"\\')


MADE = "EPOCH.5"


@pytest.mark.parametrize(
    "forged",
    [
        "",
        ".",
        "5",
        ".5",
        "EPOCH",
        "EPOCH.",
        "EPOCH.-1",
        "EPOCH.+1",
        "EPOCH. 1",
        "EPOCH.1 ",
        "EPOCH.1\n",
        "EPOCH.0x1",
        "EPOCH.1_0",
        "EPOCH.A",
        "EPOCH.٣",
        "EPOCH.g",
        "EPOCH.1.",
        "EPOCH..1",
        "EPOCH.1.1",
        "x.EPOCH.1",
        "another.5",
        "EPOCH.6",
        "EPOCH.ffffffffffffffff",
        "EPOCH." + "0" * 17,
        "EPOCH." + "9" * 5_000,
        "\ud800.1",
        "!",
        5,
        5.0,
        True,
        b"EPOCH.5",
        ["EPOCH.5"],
        {"EPOCH.5": 1},
    ],
    ids=ascii,
)
def test_an_offset_that_is_none_of_ours_recovers_nothing(recovery: Recovery, forged: object) -> None:
    trail = begin(recovery)
    epoch = tell(recovery, 5).rpartition(".")[0]
    assert recovery.find_position(trail, MADE.replace("EPOCH", epoch)) == 5
    if isinstance(forged, str):
        forged = forged.replace("EPOCH", epoch)
    assert recovery.find_position(trail, forged) is None


def test_an_offset_of_an_earlier_process_or_of_another_namespace_is_none_of_ours(clock: Clock) -> None:
    assert clock.now_s
    one, other = Recovery(OPTIONS, ping_s=1), Recovery(OPTIONS, ping_s=1)
    tell(one)
    tell(other)
    assert one.find_position(begin(one), other.offset()) is None


def test_nothing_older_than_the_connection_is_asked_for(recovery: Recovery) -> None:
    """A client that never got an offset begins at the beginning; an old one of its own does not go behind."""
    first = tell(recovery, 3)
    trail = begin(recovery)
    tell(recovery, 2)
    assert [recovery.find_position(trail, offset) for offset in (None, first, recovery.offset(1))] == [
        3,
        3,
        3,
    ]
    assert recovery.find_position(trail, recovery.offset(4)) == 4


@pytest.mark.parametrize(("position", "found"), [(1, None), (2, 2), (3, 3), (5, 5)])
def test_where_packets_behind_it_are_gone_an_offset_recovers_nothing(
    clock: Clock, position: int, found: int | None
) -> None:
    assert clock.now_s
    recovery = Recovery(RecoveryOptions(max_log_entries=3), ping_s=1)
    trail = begin(recovery)
    tell(recovery, 5)
    assert recovery.find_position(trail, recovery.offset(position)) == found
    assert recovery.find_position(trail, None) is None


def test_packets_are_kept_for_as_long_as_anybody_who_may_come_back_has_missed_them(
    recovery: Recovery, clock: Clock
) -> None:
    """A transport may have been dead for a whole ping when that is noticed."""
    trail = begin(recovery)
    tell(recovery)
    clock.now_s += PING_S
    recovery.leave(trail, {})
    clock.now_s += 119.9
    assert recovery.claim(trail.pid, "ana") is trail
    assert recovery.find_position(trail, None) == 0
    clock.now_s += 1
    recovery.restore(trail)
    assert recovery.find_position(trail, None) is None


@pytest.mark.parametrize(("ping_s", "is_taken"), [(-10, False), (0, False), (0.1, True)])
def test_what_is_gone_was_not_missed_by_who_answered_a_ping_behind_it(
    clock: Clock,
    ping_s: float,
    is_taken: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Else whoever hears nothing for long could never be recovered: its offset is old."""
    recovery = Recovery(RecoveryOptions(max_log_entries=1), ping_s=1)
    trail = begin(recovery)
    tell(recovery, 2)
    recovery.answered(trail, clock.now_s + ping_s)
    clock.now_s += 20
    assert recovery.find_position(trail, None) == (0 if is_taken else None)


def test_packets_are_dropped_when_nobody_can_ask_for_them_any_more(recovery: Recovery) -> None:
    one, other = begin(recovery), begin(recovery)
    tell(recovery, 3)
    steps: list[Callable[[], object]] = [
        lambda: recovery.end(one),
        lambda: recovery.leave(other, {}),
        lambda: recovery.claim(other.pid, "ana"),
        lambda: recovery.end(other),
    ]
    seen = [(recovery.is_used, recovery.log.dropped)]
    for step in steps:
        step()
        seen.append((recovery.is_used, recovery.log.dropped))
    assert seen == [(True, 0)] * 4 + [(False, 3)]


def test_a_room_entered_again_as_the_same_member_goes_on_where_it_was_cut_short(recovery: Recovery) -> None:
    trail = away(recovery, same=Stay(since=1, tag="1"), other=Stay(since=1, tag="1"), plain=Stay(since=1))
    kept = dict(trail.kept)
    assert trail.enter("same", "1", head=9) is kept["same"]
    assert trail.enter("plain", None, head=9) is kept["plain"]
    for room, tag in (("other", "2"), ("other", None), ("plain", "1"), ("new", "1"), ("new", None)):
        assert trail.enter(room, tag, head=9) == Stay(since=9, tag=tag)


def test_what_was_sent_to_a_room_until_it_was_left_is_still_due_and_nothing_after(recovery: Recovery) -> None:
    trail = begin(recovery)
    tell(recovery, 2)
    stay = trail.enter("room", "1", recovery.log.head)
    tell(recovery, 2)
    trail.leave("room", stay, head=recovery.log.head, dropped=0)
    tell(recovery, 2)
    again = trail.enter("room", "1", recovery.log.head)
    tell(recovery, 2)
    assert positions(recovery, trail) == [3, 4]
    assert positions(recovery, trail, room=again) == [3, 4, 7, 8]
    assert positions(recovery, trail, after=3, room=again) == [4, 7, 8]


def test_a_room_left_while_it_comes_back_is_entered_anew(recovery: Recovery) -> None:
    trail = away(recovery, room=Stay(since=0, tag="1"))
    tell(recovery, 2)
    trail.leave("room", trail.enter("room", "1", recovery.log.head), head=recovery.log.head, dropped=0)
    tell(recovery, 2)
    again = trail.enter("room", "1", recovery.log.head)
    tell(recovery, 2)
    assert again == Stay(since=4, tag="1")
    assert positions(recovery, trail, room=again) == [1, 2, 5, 6]


def test_what_is_for_one_connection_alone_is_due_since_it_began_and_to_nobody_else(
    recovery: Recovery,
) -> None:
    earlier = begin(recovery)
    tell(recovery)
    trail = begin(recovery)
    recovery.record(packet(), frozenset([trail.pid]))
    recovery.record(packet(), frozenset([earlier.pid]))
    assert positions(recovery, trail) == [2]
    assert positions(recovery, earlier) == [3]
    assert positions(recovery, trail, sid=Stay(since=0)) == [2]


def test_who_was_left_out_is_left_out_again(recovery: Recovery) -> None:
    trail = begin(recovery)
    recovery.record(packet(), ROOM, frozenset(["quiet"]))
    recovery.record(packet(), ROOM, frozenset([trail.pid]))
    recovery.record(packet(), ROOM, frozenset(["another"]))
    assert positions(recovery, trail, room=Stay(since=0), quiet=Stay(since=0)) == [3]


@pytest.mark.parametrize("rooms", [1, 3 * _MANY_STAYS])
def test_however_often_rooms_are_left_what_is_due_is_kept_and_the_rest_is_not(
    clock: Clock, rooms: int
) -> None:
    assert clock.now_s
    recovery = Recovery(RecoveryOptions(max_log_entries=10), ping_s=1)
    trail = begin(recovery)
    expected = []
    for number in range(4 * _MANY_STAYS):
        room = f"{number % rooms}"
        stay = trail.enter(room, None, recovery.log.head)
        if number % 2:
            tell(recovery, room=room)
            expected.append(recovery.log.head)
        trail.leave(room, stay, head=recovery.log.head, dropped=recovery.log.dropped)
    assert positions(recovery, trail) == expected[-10:]
    assert sum(map(len, trail.stays.values())) <= _MANY_STAYS + 2
