"""A replica set in memory, and all that can befall it, decided by one random generator.

Entries are durable from the majority point on. A new primary keeps at least what is durable; the old one goes
on for a while, takes writes that will be lost, and answers reads from what it knew. A command may be lost,
run when its sender has given up, run twice, or be cut in the middle; its answer may be lost.
"""

import asyncio
import random
from collections.abc import Sequence

from server.domain.errors import UnavailableError
from server.domain.models import Change
from server.storage.base import CollisionError, Slot
from tests.memory_log import LogView, ViewStore

TIMEOUT_S = 0.1
LATENCY_S = 0.002
LATE_S = 0.3


class Server:
    """A member that takes writes. `entries[:durable]` will never be lost; the rest may."""

    def __init__(self, entries: Sequence[Change], durable: int) -> None:
        self.entries = list(entries)
        self.durable = durable
        self.is_gone = False
        self.moved = asyncio.Event()

    def insert(self, change: Change) -> None:
        """Raises CollisionError: the unique indexes know what is not durable too."""
        for entry in self.entries:
            if entry.room_id == change.room_id and (entry.rev == change.rev or entry.key == change.key):
                raise CollisionError
        self.entries.append(change)

    def tell_waiters(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()

    async def becomes_durable(self, entry: Change) -> None:
        """Wait, for ever if need be, until this very entry is durable here."""
        while not any(each is entry for each in self.entries[: self.durable]):
            await self.moved.wait()


class ReplicaSet:
    """`befall` is to be run beside the test; after `heal` everything is durable and nothing more happens."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.primary = Server([], 0)
        self.deposed: Server | None = None
        self.commands: set[asyncio.Task[None]] = set()

    def servers(self) -> list[Server]:
        """Who answers those that believe it to be the primary."""
        return [self.primary, self.deposed] if self.deposed else [self.primary]

    async def befall(self) -> None:
        """Entries become durable, primaries are deposed, and the deposed ones notice."""
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / 0.008))
            event = self.chance.random()
            if event < 0.75:
                self._replicate(self.chance.randint(1, 3))
            elif event < 0.80:
                self._depose()
            else:
                self._notice()

    async def heal(self) -> None:
        """End all trouble; commands that still run, run to their end."""
        self._notice()
        while self.commands:
            await asyncio.wait(self.commands)
        self._replicate(len(self.primary.entries))

    def _replicate(self, number: int) -> None:
        self.primary.durable = min(self.primary.durable + number, len(self.primary.entries))
        self.primary.tell_waiters()

    def _depose(self) -> None:
        self._notice()
        old = self.primary
        kept = self.chance.randint(old.durable, len(old.entries))
        self.primary, self.deposed = Server(old.entries[:kept], old.durable), old

    def _notice(self) -> None:
        if self.deposed:
            self.deposed.is_gone = True
        self.deposed = None


class ReplicaSetLog(ViewStore):
    """The log as one node's driver gives it: majority reads, ordered inserts of write concern majority.

    A causal session: each read contains what the node has read before, and its own acknowledged writes; not
    always what other nodes were acknowledged.
    """

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self._chance = replicas.chance
        self._known: Change | None = None

    async def view(self) -> LogView:
        server = await self._reach()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                entries = await self.read(server)
        except TimeoutError:
            raise UnavailableError("the server does not catch up") from None
        return LogView(entries)

    async def read(self, server: Server) -> Sequence[Change]:
        """Read concern majority: what will never be lost."""
        if self._known:
            await server.becomes_durable(self._known)
        entries = server.entries[: server.durable]
        self._known = entries[-1] if entries else None
        return entries

    async def append(self, changes: Sequence[Change]) -> None:
        server = await self._reach()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for _ in range(2 if self._chance.random() < 0.1 else 1):
            command = asyncio.create_task(self._run(server, changes, answer))
            self._replicas.commands.add(command)
            command.add_done_callback(self._replicas.commands.discard)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await answer
                await server.becomes_durable(changes[-1])
                self._known = changes[-1]
        except TimeoutError:
            raise UnavailableError("no answer from the replica set") from None

    async def _reach(self) -> Server:
        """After a while, a server; often the primary."""
        await asyncio.sleep(self._chance.uniform(0, LATENCY_S))
        if self._chance.random() < 0.03:
            raise UnavailableError("the connection was cut")
        return self._chance.choice(self._replicas.servers())

    async def _run(self, server: Server, changes: Sequence[Change], answer: asyncio.Future[None]) -> None:
        """The command on its way and on the server: nothing the sender does stops it."""
        await asyncio.sleep(self._chance.uniform(0, LATE_S if self._chance.random() < 0.15 else LATENCY_S))
        if self._chance.random() < 0.05:
            return
        try:
            for change in changes:
                if server.is_gone or self._chance.random() < 0.01:
                    return
                server.insert(change)
                await asyncio.sleep(0.0005)
        except CollisionError:
            if not answer.done():
                slot = Slot(change.room_id, change.rev) if change is changes[0] else None
                answer.set_exception(CollisionError(slot))
        else:
            if not answer.done():
                answer.set_result(None)
