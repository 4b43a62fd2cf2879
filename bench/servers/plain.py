"""python-socketio as it comes, on aiohttp."""

from typing import Any

import jwt
from aiohttp import web
from socketio.async_server import AsyncServer
from socketio.exceptions import ConnectionRefusedError as RefusedError

from bench.frames import EVENT, NAMESPACE, ROOM
from bench.servers.common import ALGORITHM, SECRET, listen, run

sio = AsyncServer(async_mode="aiohttp")


@sio.on("connect", namespace=NAMESPACE)
async def connect(sid: str, _environ: object, auth: dict[str, Any] | None) -> None:
    """Check the token and enter the room."""
    token = (auth or {}).get("token", "")
    try:
        claims = jwt.decode(token, SECRET, algorithms=[ALGORITHM], options={"require": ["exp"]})
    except jwt.InvalidTokenError:
        raise RefusedError("refused") from None
    await sio.save_session(sid, {"user": claims["sub"]}, namespace=NAMESPACE)
    await sio.enter_room(sid, ROOM, namespace=NAMESPACE)


@sio.on(EVENT, namespace=NAMESPACE)
async def say(_sid: str, data: object) -> None:
    """Tell the room."""
    await sio.emit(EVENT, data, namespace=NAMESPACE, room=ROOM)


async def start() -> int:
    """Listen; the port."""
    application = web.Application()
    sio.attach(application)
    return await listen(application)


if __name__ == "__main__":
    run(start)
