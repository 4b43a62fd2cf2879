import msgspec
import pytest

from server.realtime.bus import Control, Emit, Order
from server.realtime.packets import UnencodableError
from server.realtime.redis_streams import entries
from server.realtime.redis_streams.entries import (
    EchoEntry,
    Entry,
    RepairEntry,
    TakeoverEntry,
    control_entry,
    emit_entry,
    position_of,
)
from tests.unit.realtime.redis_streams import outs


@pytest.mark.parametrize(
    "entry",
    [
        outs.emit_entry(1, key="r", rev=2),
        control_entry(Control(name="c", data={"a": [1]}), node="me", number=1),
        EchoEntry("me", 1, 2.5),
        RepairEntry("me", 1),
        TakeoverEntry("me", 1, "pid"),
    ],
)
def test_an_entry_is_what_it_was_encoded_from(entry: Entry) -> None:
    assert entries.decode(entries.encode(entry)) == entry
    assert entries.lost(entry) == entry


def test_what_is_lost_twice_is_still_what_it_was_at_first() -> None:
    entry = outs.emit_entry(3)
    again = entries.again(entries.again(entry, 5, "one"), 9, "two")
    assert (again.number, again.epoch, again.first) == (9, "one", 3)
    assert entries.lost(entries.decode(entries.encode(again))) == entry


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\xa4emit\xa1a\x01", b"\xc1", b"{}"])
def test_what_is_no_entry_raises_one_error(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        entries.decode(data)


def test_an_emit_keeps_all_that_its_recipients_need() -> None:
    emit = Emit(
        event="e",
        data=[b"x"],
        rooms=frozenset("r"),
        except_rooms=frozenset("s"),
        volatile=True,
        order=Order("r", 3),
    )
    entry = emit_entry(emit, namespace="/chat", node="me", number=4)
    assert (entry.rooms, entry.except_rooms, entry.volatile) == (("r",), ("s",), True)
    assert (entry.key, entry.rev) == ("r", 3)
    assert entry.packet.parts[1] == [b"x"]
    assert b"".join(frame.payload for frame in entry.packet.plain().frames[:1]).startswith(b"451-/chat,")


def test_an_order_with_gaps_is_a_matter_of_the_door_alone() -> None:
    emit = Emit(event="e", data=1, rooms=frozenset("r"), order=Order("r", 3, is_gapless=False))
    entry = emit_entry(emit, namespace="/chat", node="me", number=4)
    assert (entry.key, entry.rev) == ("", 0)


def test_what_is_not_json_is_refused_before_it_is_published() -> None:
    with pytest.raises(UnencodableError):
        emit_entry(Emit(event="e", data="\ud800", rooms=frozenset("r")), namespace="/", node="me", number=1)


def test_positions_are_in_the_order_of_ids() -> None:
    ids = [b"0-0", b"0-1", b"1-0", b"1-1048575", b"2-0", b"1796055205889-3"]
    positions = [position_of(each) for each in ids]
    assert positions == sorted(set(positions))
    assert positions[-1] < 2**63
