from server.ephemeral.redis_own import Kept, OwnConnections, arguments
from tests.services import Clock

GRACE_S = 5.0


def told(own: OwnConnections) -> list[tuple[str, str, str, int, int]]:
    return [each[:5] for each in own.kept("node")]


def test_a_connection_is_told_again_with_how_long_it_has_been_there() -> None:
    clock = Clock()
    own = OwnConnections(clock=clock.s)
    own.begin("juan", "1").is_known = True
    clock.advance(2)
    own.begin("juan", "2")
    own.begin("ana", "3")
    clock.advance(1)
    assert told(own) == [
        ("node|1|1", "juan", "known", 3000, 0),
        ("node|2|2", "juan", "known", 1000, 0),
        ("node|3|3", "ana", "new", 1000, 0),
    ]


def test_one_that_arrives_twice_is_one_and_after_leaving_another() -> None:
    own = OwnConnections()
    first = own.begin("juan", "1")
    assert own.begin("juan", "1") is first
    assert own.end("juan", "1", GRACE_S) is first
    assert own.end("juan", "1", GRACE_S) is None
    again = own.begin("juan", "1")
    assert again.generation > first.generation
    assert own.end("ana", "1", GRACE_S) is None
    assert own.surplus("juan", 1) == []


def test_who_left_is_told_of_with_the_time_that_is_left_until_they_were_declared_gone() -> None:
    clock = Clock()
    own = OwnConnections(clock=clock.s)
    for user_id, grace_s in (("juan", GRACE_S), ("juan", 3), ("ana", 1)):
        own.begin(user_id, "1")
        own.end(user_id, "1", grace_s)
    assert own.online({"juan", "ana", "eva"}) == {"juan", "ana"}
    clock.advance(2)
    assert own.online({"juan", "ana"}) == {"juan"}
    left = [("juan", "left", 2000, 3000), ("ana", "left", 2000, -1000)]
    assert [each[1:] for each in told(own)] == left
    own.heard()
    own.reaped(clock.s() - 2)
    assert [each[1:] for each in told(own)] == left, "it was asked before the grace of anybody was over"
    own.reaped(clock.s())
    assert [each[1:] for each in told(own)] == left[:1]
    clock.advance(3)
    own.reaped(clock.s())
    assert told(own) == []


def test_a_grace_begins_when_redis_has_begun_it() -> None:
    clock = Clock()
    own = OwnConnections(clock=clock.s)
    own.begin("juan", "1")
    own.end("juan", "1", GRACE_S)
    clock.advance(1)
    own.ended("juan", GRACE_S)
    own.ended("ana", GRACE_S)
    assert [each[1:] for each in told(own)] == [("juan", "left", 1000, 5000)]


def test_who_came_back_without_having_been_declared_gone_is_known_if_they_were() -> None:
    clock = Clock()
    own = OwnConnections(clock=clock.s)
    own.begin("juan", "1").is_known = True
    own.begin("ana", "1")
    own.begin("eva", "1").is_known = True
    own.end("eva", "1", 1)
    own.heard()
    clock.advance(60)
    for user_id in ("juan", "ana"):
        own.end(user_id, "1", GRACE_S)
    for user_id in ("juan", "ana", "eva"):
        own.begin(user_id, "2")
    kinds = {user_id: kind for _, user_id, kind, *_ in told(own) if kind != "left"}
    assert kinds == {"juan": "known", "ana": "new", "eva": "new"}


def test_who_is_put_back_and_untold_is_known_when_redis_has_named_them() -> None:
    """And so is whoever joins them meanwhile."""
    own = OwnConnections()
    for user_id in ("juan", "ana"):
        own.begin(user_id, "1")
    own.put_back(list(own.kept("node")), {"juan"})
    second = own.begin("juan", "2")
    own.arrived(second, is_told=False)
    assert [(each[1], each[2]) for each in told(own)] == [("juan", "new"), ("juan", "new"), ("ana", "known")]
    own.reaped(0)
    assert {each[2] for each in told(own)} == {"known"}
    third = own.begin("juan", "3")
    own.arrived(third, is_told=False)
    assert third.is_known


def test_of_too_many_the_oldest_are_named() -> None:
    own = OwnConnections()
    for connection in ("1", "2", "3"):
        own.begin("juan", connection)
    assert own.surplus("juan", 2) == ["1"]
    assert own.surplus("juan", 5) == own.surplus("juan", None) == own.surplus("ana", 1) == []


def test_nothing_is_kept_of_who_is_gone() -> None:
    clock = Clock()
    own = OwnConnections(clock=clock.s)
    own.begin("juan", "1")
    own.end("juan", "1", 0)
    own.reaped(clock.s())
    assert (own._people, own._left) == ({}, {})


def test_what_is_told_goes_one_after_another() -> None:
    kept = [Kept("a", "juan", "new", 1, 0, None), Kept("b", "ana", "left", 2, 3, None)]
    assert arguments(kept) == ["a", "juan", "new", 1, 0, "b", "ana", "left", 2, 3]
