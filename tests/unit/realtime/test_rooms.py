from hypothesis import given
from hypothesis import strategies as st

from server.realtime.packet_log import Stay
from server.realtime.rooms import Rooms

NAMES = st.sampled_from("abcd")
MEMBERS = st.sampled_from(range(4))
STEPS = st.lists(
    st.tuples(st.just("enter"), MEMBERS, NAMES)
    | st.tuples(st.just("leave"), MEMBERS, NAMES)
    | st.tuples(st.just("leave_all"), MEMBERS, NAMES),
    max_size=40,
)


@given(STEPS, st.lists(NAMES), st.lists(NAMES))
def test_rooms_are_a_set_of_pairs(
    steps: list[tuple[str, int, str]], rooms: list[str], except_rooms: list[str]
) -> None:
    actual: Rooms[int] = Rooms()
    expected: set[tuple[int, str]] = set()
    for step, member, room in steps:
        if step == "enter":
            actual.enter(member, room)
            expected.add((member, room))
        elif step == "leave":
            actual.leave(member, room)
            expected.discard((member, room))
        else:
            actual.leave_all(member)
            expected -= {pair for pair in expected if pair[0] == member}
    for member in range(4):
        assert actual.rooms_of(member) == {room for other, room in expected if other == member}
    found = actual.members(rooms, except_rooms)
    assert len(found) == len(set(found))
    inside = {member for member, room in expected if room in rooms}
    assert set(found) == inside - {member for member, room in expected if room in except_rooms}


def test_nothing_is_kept_of_who_left_everything() -> None:
    rooms: Rooms[int] = Rooms()
    for member in range(3):
        for room in "ab":
            rooms.enter(member, room)
    rooms.leave_all(0)
    rooms.leave_all(1)
    rooms.leave(2, "a")
    rooms.leave(2, "b")
    assert not rooms._members
    assert not rooms._rooms


def test_what_a_member_entered_with_is_known_until_it_leaves() -> None:
    rooms: Rooms[int] = Rooms()
    first, second, others = Stay(since=1), Stay(since=2), Stay(since=3)
    rooms.enter(1, "a", first)
    rooms.enter(1, "b", second)
    rooms.enter(1, "plain")
    rooms.enter(2, "a", others)
    assert rooms.stays_of(1) == {"a": first, "b": second}
    assert [rooms.has(1, room) for room in ("a", "plain", "c")] == [True, True, False]
    assert [rooms.leave(1, room) for room in ("a", "a", "c", "plain")] == [first, None, None, None]
    assert not rooms.has(1, "a")
    assert rooms.leave_all(1) == {"b": second}
    assert (rooms.stays_of(1), rooms.leave_all(1)) == ({}, {})
    assert rooms.stays_of(2) == {"a": others}


class Counting:
    """A member that counts how often it is compared or looked up."""

    touched = 0

    def __hash__(self) -> int:
        Counting.touched += 1
        return id(self)

    def __eq__(self, other: object) -> bool:
        Counting.touched += 1
        return self is other


def test_leaving_costs_the_rooms_of_one_member_only() -> None:
    rooms: Rooms[Counting] = Rooms()
    members = [Counting() for _ in range(500)]
    for number, member in enumerate(members):
        rooms.enter(member, "everyone")
        rooms.enter(member, f"room {number}")
    before = Counting.touched
    rooms.leave_all(members[0])
    assert Counting.touched - before < 20


def test_every_change_of_a_room_is_told() -> None:
    rooms: Rooms[int] = Rooms()
    told: list[str] = []
    rooms.changed = told.append
    rooms.enter(1, "a")
    rooms.enter(1, "b")
    rooms.leave(1, "a")
    rooms.enter(1, "c")
    rooms.leave_all(1)
    assert told == ["a", "b", "a", "c", "b", "c"]
