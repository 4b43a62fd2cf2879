"""The floor: a loop over `transport.write` of one ready frame.

It has as much of the protocol as the load needs, checks no token and sends no pings.
"""

import asyncio
import base64
import hashlib
from typing import cast

from bench import frames
from bench.servers.common import run

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OPEN = b'0{"sid":"bare","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":65536}'

members: list[asyncio.WriteTransport] = []


class Member(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_upgraded = False
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports inherit from nothing of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_upgraded:
            self._upgrade()
            return
        for text in frames.texts(self._buffer):
            if text.startswith(frames.EVENT_BEGIN):
                ready = frames.server_frame(text)
                for transport in members:
                    transport.write(ready)
            elif text.startswith(frames.CONNECT_BEGIN):
                members.append(self._transport)
                self._transport.write(frames.server_frame(frames.CONNECT_BEGIN + b'{"sid":"bare"}'))

    def _upgrade(self) -> None:
        head, end, _ = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        self._buffer.clear()
        self._is_upgraded = True
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frames.server_frame(_OPEN)
        )


async def start() -> int:
    """Listen; the port."""
    server = await asyncio.get_running_loop().create_server(Member, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


if __name__ == "__main__":
    run(start)
