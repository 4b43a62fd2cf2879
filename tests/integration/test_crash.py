"""The server is killed in the middle of its work, again and again: what was acknowledged is there, once."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from socketio.exceptions import SocketIOError

from server.domain.models import Change, Head
from server.storage.base import Membership, Storage
from server.storage.mongo.store import MongoStorage
from server.storage.sqlite.store import SqliteStorage
from tests.harness import NAMESPACE, PATIENCE_S, Client, Json, ServerProcess, running_server, site_token

ROOMS_PER_WRITER = 3
SEED = 20_261_122


class Load(Struct, frozen=True, kw_only=True):
    """How many write how much at a time, how many kills come, and between how many acks each."""

    writers: int
    rooms: int
    in_flight: int
    kills: int
    acks: tuple[int, int]


LOADS = {
    "sqlite": Load(writers=20, rooms=8, in_flight=6, kills=3, acks=(100, 500)),
    # FerretDB reads the whole log for each query.
    "mongodb": Load(writers=6, rooms=4, in_flight=2, kills=2, acks=(20, 60)),
}


class Writer:
    """Somebody who sends, reacts and reads without waiting, and keeps what was answered and what was not."""

    def __init__(self, number: int, rooms: Sequence[str], chance: random.Random, in_flight: int) -> None:
        self.user_id = f"writer-{number}"
        self.rooms = rooms
        self.chance = chance
        self.in_flight = in_flight
        self.sent: dict[str, Json] = {}
        self.acked: dict[str, Json] = {}
        self.resent: set[str] = set()
        self.liked: set[str] = set()
        self.heard: list[Json] = []

    @property
    def unanswered(self) -> dict[str, Json]:
        return {unique: payload for unique, payload in self.sent.items() if unique not in self.acked}

    async def connect(self, url: str) -> None:
        self.client = await Client().connect(url, {"token": site_token(self.user_id)})
        self.emitting = asyncio.Lock()

    async def write(self, on_ack: Callable[[], None]) -> None:
        """Go on until the connection ends."""
        lanes = [asyncio.create_task(self._lane(on_ack)) for _ in range(self.in_flight)]
        await self.client.ended.wait()
        for lane in lanes:
            lane.cancel()
        for ended in await asyncio.gather(*lanes, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError | SocketIOError), ended
        self.heard.extend(told["message"] for told in self.client.received("chat_message"))

    async def resend(self) -> None:
        """Send again all that was not answered, and have it answered."""
        for unique, payload in self.unanswered.items():
            self.acked[unique] = (await self.client.call("chat_message", payload))["message"]
            self.resent.add(unique)

    async def _lane(self, on_ack: Callable[[], None]) -> None:
        while True:
            kind = self.chance.random()
            if kind < 0.8 or not self.acked:
                unique = f"{len(self.sent)}"
                payload = {
                    "room_id": self.chance.choice(self.rooms),
                    "content": f"{self.user_id} says {unique}",
                    "client_msg_id": unique,
                }
                self.sent[unique] = payload
                self.acked[unique] = (await self._ask("chat_message", payload))["message"]
                on_ack()
            else:
                known = self.chance.choice(list(self.acked.values()))
                target = {"room_id": known["room_id"], "message_id": known["id"]}
                if kind < 0.9:
                    await self._ask("read_message", target)
                else:
                    await self._ask("react_message", {**target, "reaction_type": "like", "action": "add"})
                    self.liked.add(known["id"])

    async def _ask(self, event: str, payload: Json) -> Json:
        """As Client.call, but sent in the order asked."""
        answered: asyncio.Future[Json] = asyncio.get_running_loop().create_future()

        def answer(ack: Json) -> None:
            if not answered.done():
                answered.set_result(ack)

        async with self.emitting:
            await self.client.sio.emit(event, payload, namespace=NAMESPACE, callback=answer)
        ack = await answered
        assert ack["ok"] or ack["error"]["code"] in ("unavailable", "draining"), ack
        if not ack["ok"]:
            await asyncio.Event().wait()  # the connection ends next
        data: Json = ack["data"]
        return data


class Kept:
    """All that the store holds, read while no server runs."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Change]] = {}
        self.heads: dict[str, Head] = {}
        self.memberships: list[Membership] = []

    @classmethod
    async def read(cls, storage: Storage, rooms: Sequence[str], writers: Sequence[Writer]) -> "Kept":
        kept = cls()
        await storage.open()
        kept.heads = await storage.heads(rooms)
        for room in rooms:
            kept.logs[room] = await storage.changes_after(room, 0, 1_000_000)
        for writer in writers:
            kept.memberships += await storage.memberships(writer.user_id)
        await storage.close()
        return kept

    def check_numbers(self) -> None:
        for room, log in self.logs.items():
            sent = [change for change in log if change.kind == "message"]
            assert [change.rev for change in log] == list(range(1, len(log) + 1))
            assert [change.message.seq for change in sent] == list(range(1, len(sent) + 1))
            assert (self.heads[room].rev, self.heads[room].last_seq) == (len(log), len(sent))
        for membership in self.memberships:
            assert membership.member is not None
            assert membership.member.last_read_seq <= self.heads[membership.room.id].last_seq

    def check_writer(self, writer: Writer) -> None:
        """What was acked is there as it was answered, once, in its order; the rest once at most."""
        own = [
            change.message
            for log in self.logs.values()
            for change in log
            if change.kind == "message" and change.by == writer.user_id
        ]
        copies = Counter(message.client_msg_id for message in own)
        assert set(copies.values()) <= {1}
        stored = {message.client_msg_id: message for message in own}
        assert stored.keys() <= writer.sent.keys()
        for unique, answered in writer.acked.items():
            message = stored[unique]
            assert (message.id, message.seq, message.content) == (
                answered["id"],
                answered["seq"],
                answered["content"],
            )
        likes = {
            change.message.id
            for log in self.logs.values()
            for change in log
            if change.kind == "react" and change.by == writer.user_id
        }
        assert writer.liked <= likes

    def check_order(self, writer: Writer) -> None:
        """The messages of a writer in a room come in the order sent, but for those that were sent again."""
        for room in self.logs:
            seqs = [
                writer.acked[unique]["seq"]
                for unique, payload in writer.sent.items()
                if payload["room_id"] == room and unique in writer.acked.keys() - writer.resent
            ]
            assert seqs == sorted(seqs)

    def check_told(self, writer: Writer) -> None:
        """Nobody was told of what is not there."""
        revs = {(room, change.rev): change.key for room, log in self.logs.items() for change in log}
        for message in writer.heard:
            assert revs[message["room_id"], message["rev"]] == message["id"]


async def _work_until(
    server: ServerProcess, writers: Sequence[Writer], acks: int, how: signal.Signals
) -> int:
    """All write at once; the server gets the signal in the moment of that ack. Its exit code."""
    seen = 0

    def on_ack() -> None:
        nonlocal seen
        seen += 1
        if seen == acks:
            server.process.send_signal(how)

    await asyncio.gather(*(writer.write(on_ack) for writer in writers))
    assert seen >= acks
    async with asyncio.timeout(PATIENCE_S):
        return await server.process.wait()


def _storage(folder: Path, env: Mapping[str, str]) -> Storage:
    if url := env.get("TERTULIA_DATABASE__URL"):
        return MongoStorage(url, is_alone=False)
    return SqliteStorage(folder / "var" / "tertulia.db")


async def _make_rooms(server: ServerProcess, number: int) -> list[str]:
    owner = await Client().connect(server.url, {"token": site_token("owner")})
    rooms = [
        (await owner.call("create_room", {"kind": "public", "name": f"Room {n}"}))["room"]["id"]
        for n in range(number)
    ]
    await owner.close()
    return rooms


async def _join(server: ServerProcess, writers: Sequence[Writer]) -> None:
    for writer in writers:
        await writer.connect(server.url)
        for room in writer.rooms:
            await writer.client.call("join_room", {"room_id": room})


@pytest.mark.every_store
async def test_what_was_acknowledged_survives_every_kill_once_and_in_order(
    tmp_path: Path,
    store: str,
    make_store_env: Callable[[], dict[str, str]],
    record_property: Callable[[str, Any], None],
) -> None:
    env = {"TERTULIA_LIMITS__ENABLED": "false", **make_store_env()}
    chance, load = random.Random(SEED), LOADS[store]
    kills = [(chance.randint(*load.acks), signal.SIGKILL) for _ in range(load.kills)]
    writers: list[Writer] = []
    rooms: list[str] = []
    for acks, how in [*kills, (sum(load.acks) // 2, signal.SIGTERM)]:
        record_property(how.name, acks)
        async with running_server(tmp_path, env) as server:
            if not rooms:
                rooms = await _make_rooms(server, load.rooms)
                for n in range(load.writers):
                    own = [rooms[(n + m) % load.rooms] for m in range(ROOMS_PER_WRITER)]
                    writers.append(Writer(n, own, random.Random(chance.random()), load.in_flight))
            await _join(server, writers)
            await asyncio.gather(*(writer.resend() for writer in writers))
            assert not any(writer.unanswered for writer in writers)
            exit_code = await _work_until(server, writers, acks, how)
        assert exit_code == (0 if how == signal.SIGTERM else -how)
        kept = await Kept.read(_storage(tmp_path, env), rooms, writers)
        kept.check_numbers()
        for writer in writers:
            kept.check_writer(writer)
            kept.check_order(writer)
            kept.check_told(writer)
