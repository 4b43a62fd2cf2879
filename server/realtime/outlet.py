"""What is written below a websocket, and how much of it the client has not taken yet."""

import asyncio

from server.realtime.hold import Hold

# What a websocket is sent in one moment always waits for the next: up to this its client is not behind.
BEHIND_BYTES = 65_536


def free_bytes(max_bytes: int) -> int:
    """Who has no more than this unsent is idle: so much again makes it neither behind nor too slow."""
    return min(BEHIND_BYTES, max_bytes) // 2


class Outlet:
    """Writes ready frames to a TCP transport, once there is one."""

    __slots__ = ("_free_bytes", "_held", "_held_bytes", "_hold", "_is_found_free", "_max_bytes", "_tcp")

    def __init__(self, hold: Hold, max_bytes: int) -> None:
        """`max_bytes`: what may be unsent before a write."""
        self._tcp: asyncio.Transport | None = None
        self._max_bytes = max_bytes
        self._free_bytes = free_bytes(max_bytes)
        self._is_found_free = False
        # What is to be written together.
        self._hold = hold
        self._held: list[bytes] = []
        self._held_bytes = 0

    def open(self, tcp: asyncio.Transport) -> None:
        """Write to this from now on."""
        self._tcp = tcp

    @property
    def is_open(self) -> bool:
        """Whether there is a transport, be it lost or not."""
        return self._tcp is not None

    @property
    def is_behind(self) -> bool:
        """Whether the client has not taken yet what it was sent before."""
        return self._tcp is not None and self._unsent_bytes(self._tcp) > BEHIND_BYTES

    def find_free(self) -> asyncio.Transport | None:
        """The transport, if its client is idle; once what is sent changes that, the hold's `doubts` grow.

        When it has been lost, writing to it raises RuntimeError on uvloop.
        """
        tcp = self._tcp
        if tcp is None or tcp.is_closing() or self._unsent_bytes(tcp) > self._free_bytes:
            return None
        self._is_found_free = True
        return tcp

    def send(self, wire: bytes) -> bool:
        """Write it, or hold it; nothing happens where the transport is lost. False: too much is unsent."""
        tcp = self._tcp
        # One that is lost raises on uvloop; its reader ends the session in a moment.
        if tcp is None or tcp.is_closing():
            return True
        unsent_bytes = self._unsent_bytes(tcp)
        if unsent_bytes >= self._max_bytes:
            return False
        if self._is_found_free and unsent_bytes + len(wire) > self._free_bytes:
            self._is_found_free = False
            self._hold.doubts += 1
        if self._hold.is_on:
            self._keep(wire)
        else:
            tcp.write(wire)
        return True

    def flush(self) -> None:
        """Write what is held."""
        held, self._held, self._held_bytes = b"".join(self._held), [], 0
        if held and self._tcp is not None and not self._tcp.is_closing():
            self._tcp.write(held)

    def abort(self) -> None:
        """Close the transport, and send nothing more."""
        if self._tcp is not None:
            self._tcp.abort()

    def _unsent_bytes(self, tcp: asyncio.Transport) -> int:
        return tcp.get_write_buffer_size() + self._held_bytes

    def _keep(self, wire: bytes) -> None:
        if not self._held:
            self._hold.add(self.flush)
        self._held.append(wire)
        self._held_bytes += len(wire)
