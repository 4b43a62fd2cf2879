"""The unmodified npm client in a Node process of its own."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.harness import PATIENCE_S, Json
from tests.node import JS_DIR, require_node

TRANSPORTS: dict[str, Json] = {
    "websocket": {"transports": ["websocket"]},
    "polling": {"transports": ["polling"]},
    "upgrade": {"transports": ["polling", "websocket"]},
}


class JsClient:
    """A Node process with one client; `notes` is what it told, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.notes: list[Json] = []
        self._noted = asyncio.Condition()
        self._next_id = 0

    async def read(self) -> None:
        """Take notes until the process ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._noted:
                self.notes.append(json.loads(line))
                self._noted.notify_all()

    async def note(self, matches: Callable[[Json], bool]) -> Json:
        """Wait for a note, taken already or to come."""
        async with asyncio.timeout(PATIENCE_S), self._noted:
            while True:
                for note in self.notes:
                    if matches(note):
                        return note
                await self._noted.wait()

    async def on(self, what: str, count: int = 1) -> Json:
        """The `count`th note of a kind."""

        def is_it(note: Json) -> bool:
            return note.get("on") == what and len(self.all(what)) >= count

        await self.note(is_it)
        return self.all(what)[count - 1]

    async def heard(self, event: str) -> Json:
        """The first event of this name: its payload."""
        note = await self.note(lambda note: note.get("event") == event)
        payload: Json = note["args"][0]
        return payload

    def all(self, what: str) -> list[Json]:
        """The notes of a kind so far."""
        return [note for note in self.notes if note.get("on") == what]

    def messages(self) -> list[Json]:
        """The messages heard so far."""
        heard = [note for note in self.all("event") if note["event"] == "chat_message"]
        return [note["args"][0]["message"] for note in heard]

    async def do(self, name: str, **arguments: Any) -> Any:
        """Have a command done; its result."""
        self._next_id += 1
        number = self._next_id
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": name, **arguments}).encode() + b"\n")
        answer = await self.note(lambda note: note.get("id") == number and "on" not in note)
        assert "error" not in answer, answer
        return answer.get("result")

    async def call(self, event: str, payload: object = None) -> Json:
        """Send an event; its data."""
        answer = await self.do("call", event=event, payload=payload)
        assert answer["ok"], answer
        data: Json = answer["data"]
        return data


@contextlib.asynccontextmanager
async def js_client(
    url: str, auth: Json, transport: str, *, refresh: str | None = None
) -> AsyncIterator[JsClient]:
    """A client that connects now and comes back quickly, for the length of a block."""
    options = {**TRANSPORTS[transport], "reconnectionDelay": 50, "reconnectionDelayMax": 200}
    process = await asyncio.create_subprocess_exec(
        require_node(),
        "client.mjs",
        cwd=JS_DIR,
        env={"PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    client = JsClient(process)
    reading = asyncio.create_task(client.read())
    try:
        await client.do("open", url=url, auth=auth, refresh=refresh, options=options)
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
