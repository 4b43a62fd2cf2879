"""A client as the standard ones behave, in raw frames, and what it makes sure of as it goes."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType

from tests.harness import Json, site_token

_CHANGES = {"chat_message", "message_edited", "message_deleted"}
# Beyond the deadline that servers have for an event unless their settings say otherwise.
ANSWER_S = 12.0
# As the standard clients' own, which begin with a second.
_RECONNECT_S = (0.1, 0.6)
_MOST_RECONNECT_S = 5.0


class Member:
    """Somebody in one room, who reconnects, recovers or syncs, and sends until it is acknowledged.

    `where` names the server of the next connection. `heard` are the revs that came as events on one
    connection and its recoveries, in order; `known` is what it has of each rev, by events or by sync. An ack
    is awaited for `answer_s`: who asks again before the server has given up adds to what keeps it from
    answering.
    """

    def __init__(
        self, name: str, where: Callable[[], str], http: ClientSession, room_id: str, answer_s: float
    ) -> None:
        self.name = name
        self.room_id = room_id
        self.known: dict[int, str] = {}
        self.acked: dict[str, int] = {}
        self.doubled = 0
        self.disordered = 0
        self.recovered = 0
        self.synced = 0
        self.refused: list[Json] = []
        self.is_online = asyncio.Event()
        self.is_synced = asyncio.Event()
        self._where = where
        self._http = http
        self._answer_s = answer_s
        self._heard: list[int] = []
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._next_id = 0
        self._pid: str | None = None
        self._offset: str | None = None
        self._socket: ClientWebSocketResponse | None = None
        self._known_changed = asyncio.Condition()
        self._token = site_token(name)

    async def run(self) -> None:
        """Stay connected, until cancelled."""
        self._tries = 0
        while True:
            with contextlib.suppress(ClientError, OSError, TimeoutError):
                url = f"{self._where()}/socket.io/?EIO=4&transport=websocket"
                async with self._http.ws_connect(url) as socket:
                    await self._serve(socket)
            self.is_online.clear()
            for answer in self._answers.values():
                answer.cancel()
            self._answers.clear()
            await asyncio.sleep(min(_MOST_RECONNECT_S, random.uniform(*_RECONNECT_S) * 2**self._tries))
            self._tries += 1

    async def say(self, content: str) -> None:
        """Send until it is acknowledged, always with the same id."""
        client_msg_id = uuid4().hex
        payload = {"room_id": self.room_id, "content": content, "client_msg_id": client_msg_id}
        while True:
            await self.is_online.wait()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError, ConnectionError, ClientError):
                answer = await self.ask("chat_message", payload)
                if answer["ok"]:
                    message = answer["data"]["message"]
                    self.acked[message["id"]] = message["seq"]
                    return
                assert answer["error"]["code"] in {"unavailable", "draining"}, answer
            _raise_if_cancelled()
            await asyncio.sleep(0.1)

    async def ask(self, event: str, payload: Json) -> Json:
        """Send an event; its ack."""
        assert self._socket is not None
        self._next_id += 1
        number = self._next_id
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send_str(f"42/chat,{number}{json.dumps([event, payload])}")
        try:
            async with asyncio.timeout(self._answer_s):
                return await answer
        finally:
            self._answers.pop(number, None)

    async def knows(self, rev: int) -> None:
        """Return once it has every change up to that one."""
        async with self._known_changed:
            await self._known_changed.wait_for(lambda: len(self.known) >= rev)

    def drop(self) -> None:
        """Lose the connection without a word."""
        if self._socket is not None:
            connection = self._socket._response.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()

    async def _serve(self, socket: ClientWebSocketResponse) -> None:
        known = {"pid": self._pid, "offset": self._offset}
        auth = {"token": self._token, "recovery": True, **{k: v for k, v in known.items() if v is not None}}
        await socket.receive()
        await socket.send_str(f"40/chat,{json.dumps(auth)}")
        self._socket = socket
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                return
            await self._received(socket, message.data)

    async def _received(self, socket: ClientWebSocketResponse, text: str) -> None:
        if text == "2":
            await socket.send_str("3")
        elif text.startswith("40/chat,"):
            self._accepted(json.loads(text.removeprefix("40/chat,")))
        elif text.startswith("44/chat,"):
            self.refused.append(json.loads(text.removeprefix("44/chat,")))
        elif text.startswith("42/chat,["):
            await self._event(*json.loads(text.removeprefix("42/chat,")))
        elif text.startswith("43/chat,"):
            number, _, body = text.removeprefix("43/chat,").partition("[")
            if (answer := self._answers.get(int(number))) is not None and not answer.done():
                answer.set_result(json.loads("[" + body)[0])

    def _accepted(self, answer: Json) -> None:
        if answer["pid"] == self._pid:
            self.recovered += 1
        else:
            self.synced += 1
            self._heard = []
            self.is_synced.clear()
        if not self.is_synced.is_set():
            # Also where a recovered connection follows one that went before its sync had run to its end.
            self._syncing = asyncio.create_task(self._sync())
        self._pid = answer["pid"]
        self._tries = 0
        self.is_online.set()

    async def _event(self, name: str, payload: Json, offset: Any = None) -> None:
        if isinstance(offset, str):
            self._offset = offset
        if name in _CHANGES and payload["message"]["room_id"] == self.room_id:
            rev = payload["message"]["rev"]
            self.doubled += rev in self._heard[-2_000:]
            self.disordered += bool(self._heard) and rev < self._heard[-1]
            self._heard.append(rev)
            await self._know([payload["message"]])

    async def _sync(self) -> None:
        # When the connection goes, the next one begins anew.
        with contextlib.suppress(ConnectionError, ClientError, asyncio.CancelledError):
            while not await self._sync_page():  # noqa: ASYNC110 - the server says when by an answer
                await asyncio.sleep(0.1)
            self.is_synced.set()

    async def _sync_page(self) -> bool:
        """Ask for what changed behind all that it has without a gap; whether that was everything."""
        rev = next((n for n in range(1, len(self.known) + 2) if n not in self.known), 1) - 1
        try:
            answer = await self.ask("sync", {"rooms": {self.room_id: rev}})
        except TimeoutError:
            return False
        if not answer["ok"]:
            return False
        (room,) = [each for each in answer["data"]["rooms"] if each["room"]["id"] == self.room_id]
        assert not room["reset"]
        await self._know(room["changes"])
        return not room["truncated"]

    async def _know(self, messages: list[Json]) -> None:
        async with self._known_changed:
            for message in messages:
                self.known[message["rev"]] = message["id"]
            self._known_changed.notify_all()


def _raise_if_cancelled() -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
