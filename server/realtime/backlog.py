"""What is sent to a client before its CONNECT has been answered, and follows the answer."""

from server.realtime.packets import Encoded
from server.realtime.session import MAX_UNSENT_FRAMES, Options


class Backlog:
    """Packets in order, bounded as what a session has unsent."""

    def __init__(self, options: Options) -> None:
        self._max_bytes = options.max_buffer_bytes
        self._packets: list[Encoded] = []
        self._size_bytes = 0

    def add(self, packet: Encoded) -> bool:
        """Put a packet behind the others; False where there is too much already."""
        if self._size_bytes >= self._max_bytes or len(self._packets) >= MAX_UNSENT_FRAMES:
            return False
        self._packets.append(packet)
        self._size_bytes += sum(len(frame.payload) for frame in packet.frames)
        return True

    def take(self) -> list[Encoded]:
        """All of it; nothing is left."""
        packets, self._packets, self._size_bytes = self._packets, [], 0
        return packets
