"""A server that answers every command as it is told to: what no server of the tests would answer."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import bson

_HEADER = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_PLAIN = {"ok": 1.0, "maxWireVersion": 21, "minWireVersion": 0, "maxBsonObjectSize": 16 * 2**20}

Answer = Callable[[dict[str, Any]], dict[str, Any]]


@asynccontextmanager
async def posing(answer: Answer) -> AsyncIterator[int]:
    """The port it listens on; `answer` gives what it says beside what every server does."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while True:
                length, request_id, _, kind = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                body = await reader.readexactly(length - _HEADER.size)
                # Behind the flags and the kind of the section; of a query behind its collection and numbers.
                start = 5 if kind == _OP_MSG else body.index(b"\0", 4) + 9
                size = struct.unpack_from("<i", body, start)[0]
                said = bson.encode(_PLAIN | answer(bson.decode(body[start : start + size])))
                is_query = kind == _OP_QUERY
                head = struct.pack("<iqii", 8, 0, 0, 1) if is_query else struct.pack("<iB", 0, 0)
                code = _OP_REPLY if is_query else _OP_MSG
                total = _HEADER.size + len(head) + len(said)
                writer.write(_HEADER.pack(total, 0, request_id, code) + head + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
