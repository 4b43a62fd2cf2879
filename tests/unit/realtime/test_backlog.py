from msgspec.structs import replace

from server.realtime.backlog import Backlog
from server.realtime.packets import Frame, encoded
from server.realtime.session import MAX_UNSENT_FRAMES, Options

PACKETS = [encoded(Frame(b"4%d" % number)) for number in range(3)]


def test_what_is_added_is_taken_in_order_and_once() -> None:
    backlog = Backlog(Options())
    assert all(backlog.add(packet) for packet in PACKETS)
    assert backlog.take() == PACKETS
    assert backlog.take() == []


def test_its_bytes_are_bounded_before_a_packet_is_added() -> None:
    backlog = Backlog(replace(Options(), max_buffer_bytes=4))
    assert [backlog.add(packet) for packet in PACKETS] == [True, True, False]
    backlog.take()
    assert backlog.add(PACKETS[0])


def test_its_packets_are_bounded_too() -> None:
    backlog = Backlog(Options())
    assert all(backlog.add(PACKETS[0]) for _ in range(MAX_UNSENT_FRAMES))
    assert not backlog.add(PACKETS[0])
