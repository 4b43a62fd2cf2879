"""An outlet alone; what a session does with it is in test_session and test_hold."""

from server.realtime.hold import Hold
from server.realtime.outlet import BEHIND_BYTES, Outlet
from tests.unit.realtime.test_session import Wire

MAX_BYTES = 1_000_000
HALF = BEHIND_BYTES // 2


def opened(max_bytes: int = MAX_BYTES) -> tuple[Outlet, Wire, Hold]:
    hold, wire = Hold(), Wire()
    outlet = Outlet(hold, max_bytes)
    outlet.open(wire)
    return outlet, wire, hold


def test_before_there_is_a_transport_nothing_is_free_or_behind() -> None:
    outlet = Outlet(Hold(), MAX_BYTES)
    assert (outlet.is_open, outlet.is_behind, outlet.find_free()) == (False, False, None)


def test_it_is_free_with_half_of_what_would_make_it_behind() -> None:
    outlet, wire, _ = opened()
    outlet.send(bytes(HALF))
    assert outlet.find_free() is wire
    outlet.send(b"x")
    assert outlet.find_free() is None


def test_it_is_free_with_half_of_a_smaller_bound() -> None:
    outlet, wire, _ = opened(max_bytes=10)
    outlet.send(bytes(5))
    assert outlet.find_free() is wire
    outlet.send(b"x")
    assert outlet.find_free() is None


def test_one_that_is_lost_is_not_free() -> None:
    outlet, wire, _ = opened()
    wire.is_lost = True
    assert outlet.find_free() is None


def test_the_packet_after_which_it_is_free_no_longer_raises_a_doubt_once() -> None:
    outlet, _, hold = opened()
    outlet.find_free()
    outlet.send(bytes(HALF))
    assert hold.doubts == 0
    outlet.send(b"x")
    outlet.send(b"x")
    assert hold.doubts == 1


def test_what_was_not_found_free_raises_no_doubt() -> None:
    outlet, _, hold = opened()
    outlet.send(bytes(HALF + 1))
    assert hold.doubts == 0


async def test_what_is_held_counts() -> None:
    outlet, _, hold = opened()
    outlet.find_free()
    hold.begin()
    outlet.send(bytes(HALF))
    outlet.send(b"x")
    assert (outlet.find_free(), hold.doubts) == (None, 1)
