from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.realtime.packet_log import _ENTRY_BYTES, Entry, PacketLog, Stay, Stays
from server.realtime.packets import EventPacket

RETENTION_S = 10.0
MAX_ENTRIES = 8
MAX_BYTES = 5_000

ROOMS = "abc"
MOST_POSITIONS = 40


class Append(NamedTuple):
    rooms: frozenset[str]
    except_rooms: frozenset[str]
    size_bytes: int


class Wait(NamedTuple):
    seconds: float


class Clear(NamedTuple):
    pass


Step = Append | Wait | Clear
SOME_ROOMS = st.frozensets(st.sampled_from(ROOMS), min_size=1)
# Most packets are kept for a while.
APPENDS = st.builds(
    Append,
    SOME_ROOMS,
    st.frozensets(st.sampled_from(ROOMS), max_size=1),
    st.sampled_from([2, 10, 10, 10, 10, 2_000, 6_000]),
)
STEPS = st.lists(
    APPENDS | APPENDS | APPENDS | st.builds(Wait, st.sampled_from([0.5, 4.0, 11.0])) | st.just(Clear()),
    max_size=MOST_POSITIONS,
)
POSITIONS = st.integers(min_value=0, max_value=MOST_POSITIONS)
STAYS = st.dictionaries(
    st.sampled_from(ROOMS),
    st.lists(st.builds(Stay, POSITIONS, st.none() | POSITIONS), max_size=3),
)


def make_packet(size_bytes: int = 1, number: int = 0) -> EventPacket:
    return EventPacket(str(number).zfill(size_bytes)[:size_bytes].encode(), ())


def make_log(*, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> PacketLog:
    return PacketLog(retention_s=RETENTION_S, max_entries=max_entries, max_bytes=max_bytes)


class Sent(NamedTuple):
    position: int
    at_s: float
    append: Append


class Model:
    """All that was ever sent, and from where on it is kept."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sent: list[Sent] = []
        self.dropped = 0

    def take(self, step: Step) -> None:
        match step:
            case Append():
                self.sent.append(Sent(len(self.sent) + 1, self.now_s, step))
            case Wait():
                self.now_s += step.seconds
            case Clear():
                self.dropped = len(self.sent)
        while (kept := self.sent[self.dropped :]) and (
            kept[0].at_s < self.now_s - RETENTION_S
            or len(kept) > MAX_ENTRIES
            or sum(_ENTRY_BYTES + each.append.size_bytes for each in kept) > MAX_BYTES
        ):
            self.dropped += 1

    def missed(self, stays: Stays, after: int) -> list[int]:
        return [
            each.position
            for each in self.sent
            if each.position > after
            and is_in(each.position, each.append.rooms, stays)
            and not is_in(each.position, each.append.except_rooms, stays)
        ]


def is_in(position: int, rooms: Iterable[str], stays: Mapping[str, Iterable[Stay]]) -> bool:
    return any(
        stay.since < position and (stay.until is None or position <= stay.until)
        for room in rooms
        for stay in stays.get(room, ())
    )


def within(stays: dict[str, list[Stay]], head: int) -> dict[str, list[Stay]]:
    """The same with positions that there are."""
    return {
        room: [
            Stay(each.since % (head + 1), None if each.until is None else each.until % (head + 1))
            for each in times
        ]
        for room, times in stays.items()
    }


@given(STEPS, st.lists(STAYS, min_size=1, max_size=2))
def test_it_tells_what_was_missed_as_if_all_had_been_looked_through(
    steps: list[Step], members: list[dict[str, list[Stay]]]
) -> None:
    log, model = make_log(), Model()
    packets: list[EventPacket] = []
    for step in steps:
        model.take(step)
        if isinstance(step, Append):
            packets.append(make_packet(step.size_bytes, len(packets)))
            position = log.append(packets[-1], step.rooms, step.except_rooms, now_s=model.now_s)
            assert position == len(packets)
        elif isinstance(step, Wait):
            log.drop_old(model.now_s)
        else:
            log.clear()
        assert (log.head, log.dropped) == (len(model.sent), model.dropped)
        if model.dropped:
            assert log.dropped_at_s == model.sent[model.dropped - 1].at_s
    for drawn in members:
        stays = within(drawn, log.head)
        for after in range(log.dropped, log.head + 1):
            missed = log.missed(stays, after)
            assert [entry.position for entry in missed] == model.missed(stays, after)
            for entry in missed:
                assert entry.packet.plain() == packets[entry.position - 1].plain()


@given(STEPS)
def test_nothing_is_kept_of_what_was_dropped(steps: list[Step]) -> None:
    log, now_s = make_log(), 0.0
    for step in steps:
        if isinstance(step, Append):
            log.append(make_packet(step.size_bytes), step.rooms, step.except_rooms, now_s=now_s)
        elif isinstance(step, Wait):
            now_s += step.seconds
        else:
            log.clear()
    by_room = defaultdict(list)
    for entry in log._entries:
        for room in entry.rooms:
            by_room[room].append(entry)
    assert {room: list(entries) for room, entries in log._by_room.items()} == by_room
    log.drop_old(now_s + 2 * RETENTION_S)
    assert (len(log._entries), log._by_room, log._size_bytes) == (0, {}, 0)


def appended(
    log: PacketLog, count: int, *, room: str = "a", size_bytes: int = 1, now_s: float = 0
) -> PacketLog:
    for _ in range(count):
        log.append(make_packet(size_bytes), [room], now_s=now_s)
    return log


def test_of_a_packet_that_was_sent_its_bytes_are_kept_once() -> None:
    """The frames made of it are several times as large as what counts."""
    log, packet = make_log(), make_packet(1_000)
    marked = packet.marked("epoch.1")
    log.append(packet, ["a"], now_s=0)
    (entry,) = log.missed({"a": [Stay(since=0)]}, 0)
    assert (entry.packet._plain, entry.packet._marked) == (None, None)
    assert entry.packet.marked("epoch.1") == marked


def test_it_keeps_so_many_packets() -> None:
    log = appended(make_log(), MAX_ENTRIES)
    assert log.dropped == 0
    assert appended(log, 3).dropped == 3


def test_it_keeps_so_many_bytes_and_an_empty_packet_has_some() -> None:
    log = appended(make_log(max_entries=1_000), MAX_BYTES // _ENTRY_BYTES, size_bytes=0)
    assert log.dropped == 0
    assert appended(log, 1, size_bytes=0).dropped == 1
    assert appended(log, 1, size_bytes=MAX_BYTES + 1).dropped == log.head


def test_it_keeps_packets_for_so_long_and_needs_no_new_one_to_notice() -> None:
    log = appended(make_log(), 1, now_s=100)
    appended(log, 1, now_s=105)
    for now_s, dropped in ((110, 0), (110.1, 1), (115, 1), (200, 2)):
        log.drop_old(now_s)
        assert log.dropped == dropped


@pytest.mark.parametrize(
    ("stay", "due"),
    [(Stay(since=2, until=4), [3, 4]), (Stay(since=4), [5, 6]), (Stay(since=3, until=3), [])],
)
def test_a_time_in_a_room_begins_behind_one_packet_and_ends_with_another(stay: Stay, due: list[int]) -> None:
    log = appended(make_log(), 6)
    assert [entry.position for entry in log.missed({"a": [stay]}, 0)] == due


def test_before_anything_was_sent_nothing_was_missed() -> None:
    log = make_log()
    assert (log.head, log.dropped) == (0, 0)
    assert log.missed({"a": [Stay(since=0)]}, 0) == []


class CountingDeque(deque[Entry]):
    """Counts how many packets are looked at."""

    looks = 0

    def __reversed__(self) -> Iterator[Entry]:
        for entry in super().__reversed__():
            self.looks += 1
            yield entry


@pytest.mark.parametrize("after", [0, 9_990])
def test_finding_what_was_missed_costs_what_was_missed(after: int) -> None:
    """Neither what was sent before nor what was sent to others."""
    log = PacketLog(retention_s=1, max_entries=100_000, max_bytes=100_000_000)
    appended(log, 5, room="quiet")
    appended(log, 9_995, room="busy")
    rooms = {"quiet", "busy"} if after else {"quiet"}
    looked = [CountingDeque(log._by_room[room]) for room in rooms]
    log._by_room.update(zip(rooms, looked, strict=True))
    missed = log.missed({room: [Stay(since=0)] for room in rooms}, after)
    assert 5 <= len(missed) <= 10
    assert sum(each.looks for each in looked) <= len(missed) + len(rooms)


@given(POSITIONS, st.none() | POSITIONS, POSITIONS)
def test_a_time_in_a_room_is_due_while_something_of_it_is_kept(
    since: int, until: int | None, dropped: int
) -> None:
    stay = Stay(since=since, until=until)
    kept = range(dropped + 1, MOST_POSITIONS + 2)
    assert stay.is_due(dropped) == (until is None or any(stay.covers(position) for position in kept))


def test_what_somebody_was_left_out_of_is_found_where_that_may_turn_out_otherwise() -> None:
    log = PacketLog(retention_s=RETENTION_S, max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES)
    log.append(make_packet(1), ["a"], ["b"], now_s=0)
    stays = {"a": [Stay(since=0)], "b": [Stay(since=0)]}
    assert log.missed(stays, 0) == []
    assert [entry.position for entry in log.missed(stays, 0, is_any=True)] == [1]
