"""Whatever happens to people, servers and Redis: in the end everybody has been told what is so."""

import random
from collections.abc import Awaitable, Callable, Iterable

import pytest

from server.ephemeral.base import StatusChange
from server.ephemeral.redis import RedisEphemeral
from tests.ephemeral_worlds import RedisWorld

pytestmark = pytest.mark.real_services

PEOPLE = ("juan", "ana", "eva", "leo")
GRACE_S = 5.0
STEPS = 60
MOST_SERVERS = 3

Act = Callable[[RedisEphemeral], Awaitable[None]]


class Machine:
    """Acts by chance, and keeps who is where and what was told of them: the newest version holds.

    `orphans` are people of servers that died; after Redis was emptied as well nobody may know of them
    (`unheard`), until there is news of them.
    """

    def __init__(self, world: RedisWorld, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.servers = [world.ephemeral]
        self.held: dict[RedisEphemeral, set[tuple[str, str]]] = {world.ephemeral: set()}
        self.told: dict[str, StatusChange] = {}
        self.been: dict[RedisEphemeral, set[str]] = {world.ephemeral: set()}
        self.orphans: set[str] = set()
        self.unheard: set[str] = set()
        self._connections = iter(range(1_000_000))

    async def act(self) -> None:
        server = self.chance.choice(self.servers)
        acts: list[Act] = [*[self.arrive] * 5, *[self.leave] * 4, *[self.reap] * 3]
        acts += [self.elapse, self.elapse, self.move, self.open, self.die, self.lose, self.pause, self.stall]
        await self.chance.choice(acts)(server)

    async def arrive(self, server: RedisEphemeral, connection: tuple[str, str] | None = None) -> None:
        user_id, connection_id = connection or (self.chance.choice(PEOPLE), f"{next(self._connections)}")
        self.held[server].add((user_id, connection_id))
        self.been[server].add(user_id)
        change = (await server.arrive(user_id, connection_id)).change
        self.tell([change] if change is not None else [])

    async def leave(self, server: RedisEphemeral) -> None:
        if self.held[server]:
            connection = self.chance.choice(sorted(self.held[server]))
            self.held[server].discard(connection)
            await server.leave(*connection, self.chance.choice([0, GRACE_S]))

    async def move(self, server: RedisEphemeral) -> None:
        """A connection goes on at another server, which may hear of it first."""
        other = self.chance.choice(self.servers)
        if other is not server and self.held[server]:
            connection = self.chance.choice(sorted(self.held[server]))
            await self.arrive(other, connection)
            self.held[server].discard(connection)
            await server.leave(*connection, GRACE_S)

    async def reap(self, server: RedisEphemeral) -> None:
        self.tell(await server.reap())

    async def elapse(self, _: RedisEphemeral) -> None:
        """In which somebody at least looks who is gone."""
        await self.world.elapse(self.chance.choice([0.5, 3, 10, 20]))
        await self.reap(self.chance.choice(self.servers))

    async def open(self, _: RedisEphemeral) -> None:
        if len(self.servers) < MOST_SERVERS:
            opened = await self.world.open()
            self.servers.append(opened)
            self.held[opened], self.been[opened] = set(), set()

    async def die(self, server: RedisEphemeral) -> None:
        """Nothing is said; somebody else is there."""
        if len(self.servers) > 1:
            self.orphans |= self.been[server]
            self.servers.remove(server)
            del self.held[server]
            await self.world.die(server)

    async def lose(self, server: RedisEphemeral) -> None:
        """Redis is emptied; everybody notices in turn, some things happen in between."""
        self.unheard |= self.orphans
        self.world.forget()
        for each in self.chance.sample(self.servers, len(self.servers)):
            await self.chance.choice([self.arrive, self.leave, self.reap])(server)
            await each.beat()

    async def pause(self, _: RedisEphemeral) -> None:
        """Redis does nothing for a while; everybody comes back in turn."""
        self.world.make_older(self.chance.choice([5, 20, 100]))
        for each in self.chance.sample(self.servers, len(self.servers)):
            await self.reap(self.chance.choice(self.servers))
            await each.beat()

    async def stall(self, server: RedisEphemeral) -> None:
        """A server does nothing for so long that it is believed dead."""
        if len(self.servers) > 1:
            self.world._living.remove(server)
            await self.world.elapse(20)
            self.world._living.append(server)
            for each in self.servers:
                if each is not server:
                    await self.reap(each)
            await server.beat()
            await self.reap(self.chance.choice(self.servers))

    def tell(self, changes: Iterable[StatusChange]) -> None:
        for change in changes:
            known = self.told.get(change.user_id)
            if known is None or known.version <= change.version:
                self.told[change.user_id] = change
                if not change.is_online:
                    self.orphans.discard(change.user_id)
                    self.unheard.discard(change.user_id)


@pytest.mark.parametrize("seed", range(12))
async def test_in_the_end_everybody_was_told_what_is_so(world: RedisWorld, seed: int) -> None:
    machine = Machine(world, random.Random(seed))
    for _ in range(STEPS):
        await machine.act()
    await world.elapse(40)
    for _ in range(2):
        for server in machine.servers:
            await machine.reap(server)
        await world.elapse(20)
    online = {user_id for held in machine.held.values() for user_id, _ in held}
    for server in machine.servers:
        assert await server.online(set(PEOPLE)) == online
        assert await server.reap() == []
    told = {user_id for user_id, change in machine.told.items() if change.is_online}
    assert told - machine.unheard == online - machine.unheard
    connections = sum(len(held) for held in machine.held.values())
    assert sum(world.redis.zcard(f"{world.prefix}user:{user_id}") for user_id in PEOPLE) == connections
