"""Whatever becomes of Redis, of servers and of connections: who is told, is told all, once, in order."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from random import Random
from typing import Any

import pytest
from msgspec import Struct, field
from msgspec.structs import replace

from server.realtime.bus import Control, Emit
from server.realtime.redis_streams.recovery import INEXACT
from server.realtime.server import Options
from server.redis_client import make_client
from tests.conformance.cluster import ClubMember, Cluster, Log, Node, crash
from tests.conformance.wire import Returning, Socket
from tests.redis_server import RedisServer, make_redis

SEEDS = range(int(os.environ.get("TERTULIA_TEST_SEEDS", "2")))
DEEDS = 45
ROOMS = ("r", "s")
PATIENCE_S = 20.0


async def until(holds: Callable[[], object], state: Callable[[], object] = str) -> None:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + PATIENCE_S
    while not holds():
        assert loop.time() < until_s, state()
        await asyncio.sleep(0.01)


class Life(Struct):
    """What one client heard from a CONNECT that began anew to the last that went on with it.

    All that is said behind `since`, by room, is to be heard; the one before may be.
    """

    since: dict[str, int]
    said: dict[str, list[int]] = field(default_factory=lambda: {room: [] for room in ROOMS})
    told: list[Any] = field(default_factory=list)

    def note(self, event: list[Any]) -> None:
        if event[0] == "told":
            assert event[1] not in self.told, "told twice"
            self.told.append(event[1])
            return
        room, number = event[1]
        said = self.said[room]
        expected = said[-1] + 1 if said else min(number, self.since[room] + 1)
        assert number == expected, f"{room}: {number} behind {said[-3:]}, since {self.since[room]}"
        said.append(number)


class Guest(ClubMember):
    """A client that listens all the time, and comes back to whatever server."""

    def __init__(self, node: Node, user: str, log: "RoomLog") -> None:
        super().__init__(node.site, user)
        self._log = log
        self.node = node
        self.lives: list[Life] = []
        self.faults: list[str] = []
        self._listening: asyncio.Task[None] | None = None
        # Held until their session ends: a connection that nobody holds is not closed.
        self._sockets: list[Socket] = []

    @property
    def life(self) -> Life:
        return self.lives[-1]

    def was_told(self, what: str) -> bool:
        return what in self.life.told

    @property
    def is_here(self) -> bool:
        return self._listening is not None and not self._listening.done()

    async def turn_to(self, node: Node) -> bool:
        """Connect there, once; whether it was recovered. What it has is lost without a word."""
        self.stop_listening()
        self.node = node
        self.at(node)
        try:
            is_recovered = await Returning.come(self)
        except AssertionError:
            # Cut off before it was accepted: it comes once more.
            return False
        finally:
            self._sockets.append(self.socket)
        if not is_recovered:
            self.lives.append(Life(self._log.heads_now()))
        self._listening = asyncio.create_task(self._listen(self.life))
        return is_recovered

    def stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None

    def lose(self) -> None:
        self.stop_listening()
        with suppress(AssertionError):  # it is closed already
            self.drop()

    async def _listen(self, life: Life) -> None:
        while True:
            try:
                event = await self.hear()
            except AssertionError:
                return
            try:
                life.note(event)
            except AssertionError as error:
                self.faults.append(f"{self.auth['user']} at {self.site.url}: {error}")


class Storm:
    """Servers, guests, and what befalls them. `is_lossy`: Redis may forget, so that what it had is lost."""

    def __init__(self, redis: RedisServer, seed: int, *, is_lossy: bool) -> None:
        self.redis = redis
        self.random = Random(seed)
        self.cluster = Cluster(redis.url, Options())
        self.log = RoomLog()
        self.cluster.log = self.log
        self.is_lossy = is_lossy
        self.nodes: list[Node] = []
        self.guests: list[Guest] = []
        self.controls: dict[int, list[int]] = {}
        self._numbers = count(1)
        self._stack = AsyncExitStack()
        self._works: set[asyncio.Task[None]] = set()
        self.told: dict[int, list[tuple[Guest, Life]]] = {}

    async def begin(self) -> None:
        for _ in range(3):
            await self.add_node()
        for index, user in enumerate(("ana", "eva", "juan", "leo", "mia")):
            self.cluster.club.rooms[user] = dict.fromkeys(ROOMS, "1")
            guest = Guest(self.nodes[index % 3], user, self.log)
            self.guests.append(guest)
            assert not await guest.turn_to(guest.node)

    async def add_node(self) -> None:
        node = await self._stack.enter_async_context(self.cluster.node())
        self.nodes.append(node)
        heard = self.controls[id(node)] = []

        async def handle(control: Control) -> None:
            if control.name == "c":
                heard.append(int(str(control.data["number"])))
                await asyncio.sleep(0)

        node.bus.subscribe(handle)

    async def end(self) -> None:
        for guest in self.guests:
            guest.lose()
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        await self._stack.aclose()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._works.add(task)

    def node(self) -> Node:
        return self.random.choice(self.nodes)

    # What may happen

    async def say(self) -> None:
        self.spawn(self.node().say(self.random.choice(ROOMS), self.random.choice([1, 1, 1, 4])))

    async def say_unheard(self) -> None:
        """Its server dies right before it would publish."""
        self.log.say(self.random.choice(ROOMS))

    async def tell(self) -> None:
        number, node, room = next(self._numbers), self.node(), self.random.choice(ROOMS)
        self.told[number] = [(guest, guest.life) for guest in self.guests if guest.is_here]
        self.spawn(node.tell(number, room))

    async def control(self) -> None:
        control = Control(name="c", data={"number": next(self._numbers)})
        self.spawn(self.node().bus.publish([control]))

    async def pause(self) -> None:
        await asyncio.sleep(self.random.choice([0.0, 0.005, 0.03]))

    async def lose_connection(self) -> None:
        self.random.choice(self.guests).lose()

    async def come_back(self) -> None:
        """From nowhere, or to take over what its server believes alive."""
        guest = self.random.choice(self.guests)
        await guest.turn_to(self.node())

    async def lose_server(self) -> None:
        node = self.nodes.pop(self.random.randrange(len(self.nodes)))
        await crash(node)
        self.told.clear()
        with suppress(BaseExceptionGroup):
            await self.add_node()

    async def freeze(self) -> None:
        self.redis.freeze()
        for _ in range(self.random.choice([1, 5])):
            await self.random.choice([self.say, self.tell, self.control, self.lose_connection])()
            await asyncio.sleep(self.random.choice([0.05, 0.3]))
        self.redis.thaw()

    async def cut(self) -> None:
        """Some connections to Redis break; what became of a write is unknown to whose they were."""
        client = make_client(self.redis.url, timeout_s=5)
        for each in await client.client_list():
            if self.random.random() < 0.4:
                await client.client_kill_filter(_id=each["id"], skipme=True)
        await client.aclose()

    async def forget(self) -> None:
        if self.is_lossy:
            self.told.clear()
            await asyncio.to_thread(self.redis.flush)

    async def restart(self) -> None:
        if self.is_lossy:
            self.told.clear()
            await asyncio.to_thread(self.redis.kill)
            await self.say()
            await self.tell()
            await asyncio.sleep(self.random.choice([0.0, 0.2]))
            await asyncio.to_thread(self.redis.start)
            self.told.clear()

    async def rage(self) -> None:
        often = [self.say, self.say, self.say_unheard, self.tell, self.tell, self.control, self.pause]
        often += [self.pause, self.lose_connection, self.come_back, self.come_back, self.come_back]
        seldom = [self.lose_server, self.freeze, self.cut, self.cut, self.forget, self.restart]
        for index in range(DEEDS):
            await self.random.choice(seldom if index % 15 == 14 else often)()
            assert not self.faults(), self.faults()

    # What holds

    def faults(self) -> list[str]:
        return [fault for guest in self.guests for fault in guest.faults]

    async def calm(self) -> None:
        """All servers hear, and what was said and told has come to everybody."""
        await until(self.is_exact, self.state)
        for guest in self.guests:
            while not guest.is_here:
                await guest.turn_to(self.node())
        for room in ROOMS:
            await self.node().say(room)
        for node in self.nodes:
            await node.settled()
        for guest in self.guests:
            async with asyncio.timeout(PATIENCE_S):
                while not self.has_all(guest):
                    if not guest.is_here:
                        # Cut off, to begin anew.
                        await guest.turn_to(self.node())
                    await asyncio.sleep(0.01)

    def state(self) -> list[object]:
        """For who has to find out why something does not hold."""
        buses = [node.bus for node in self.nodes]
        return [
            {
                **{name: getattr(bus._fallback, name) for name in ("is_away", "is_heard", "must_read_anew")},
                **{name: getattr(bus._outbox, name) for name in ("told", "owed", "fences", "unsent")},
                **{name: getattr(bus._tracks, name) for name in ("ahead", "broken")},
            }
            for bus in buses
        ] + [(guest.auth["user"], guest.is_here, guest.life) for guest in self.guests]

    def is_exact(self) -> bool:
        return all(node.bus.is_exact and node.bus.is_heard() for node in self.nodes)

    def repeated(self) -> list[int]:
        """Controls that a server handled twice."""
        return [number for heard in self.controls.values() for number in heard if heard.count(number) > 1]

    def has_all(self, guest: Guest) -> bool:
        heads = self.log.heads_now()
        return bool(self.faults()) or (
            guest.is_here and all(guest.life.said[room][-1:] == [heads[room]] for room in ROOMS)
        )

    async def go_on(self) -> None:
        """From now on offsets are exact, and everybody may go anywhere."""
        await until(self.is_exact, self.state)
        await self.nodes[0].tell("calm")
        for guest in self.guests:
            await until(partial(guest.was_told, "calm"))
            assert guest.offset not in {None, INEXACT}
            guest.lose()
        await self.nodes[1].tell("gone")
        for guest, node in zip(self.guests, [*self.nodes, *self.nodes], strict=False):
            assert await guest.turn_to(node)
            await until(partial(guest.was_told, "gone"))

    def missed(self) -> list[str]:
        """What was told to who was there, and there still, and not heard."""
        return [
            f"{guest.auth['user']} missed {number}"
            for number, present in self.told.items()
            for guest, life in present
            if life is guest.life and number not in life.told
        ]


class RoomLog(Log):
    """Numbers with the name of their room."""

    def say(self, room: str) -> Emit:
        emit = super().say(room)
        self.emits[room][-1] = emit = replace(emit, data=[room, emit.data])
        return emit

    def heads_now(self) -> dict[str, int]:
        return {room: len(self.emits.get(room, [])) for room in ROOMS}


@asynccontextmanager
async def storm(seed: int, *, is_lossy: bool) -> AsyncIterator[Storm]:
    redis = await asyncio.to_thread(make_redis)
    made = Storm(redis, seed, is_lossy=is_lossy)
    try:
        await made.begin()
        yield made
    finally:
        redis.thaw()
        await made.end()
        await asyncio.to_thread(redis.stop)


@pytest.mark.parametrize("is_lossy", [False, True], ids=["redis stays", "redis forgets"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_everybody_is_told_all_once_in_order(seed: int, *, is_lossy: bool) -> None:
    async with storm(seed, is_lossy=is_lossy) as made:
        await made.rage()
        await made.calm()
        assert not made.faults()
        assert not made.missed()
        assert not made.repeated()
        await made.go_on()
        assert not made.faults()
