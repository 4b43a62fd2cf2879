"""The use cases over a real store, without a network: their clock stands still, their publisher remembers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
from argon2 import PasswordHasher
from msgspec import Struct

from server.domain.errors import UnavailableError
from server.ephemeral.memory import MemoryEphemeral
from server.events import ChatMessage, CreateRoom
from server.services.accounts import AccountService, Identity
from server.services.completion import Completion
from server.services.directory import Directory
from server.services.health import Health
from server.services.messages import MessageService
from server.services.notices import Control, Notice, Publisher, Tell
from server.services.passwords import Passwords
from server.services.presence import PresenceRules, PresenceService
from server.services.rooms import RoomLimits, RoomService
from server.services.sync import SyncService
from server.services.telling import Teller
from server.services.tokens import ClaimNames, Tokens
from server.services.views import Views
from server.storage.commit import Committer
from server.storage.cursors import CursorCommitter
from server.storage.sqlite.store import SqliteStorage
from server.views import MessageView
from tests import builders
from tests.harness import PATIENCE_S, SECRET


class Clock:
    """The wall clock of a test: it moves by `advance` alone."""

    def __init__(self) -> None:
        self.now_s: float = 1_769_941_800

    def s(self) -> float:
        return self.now_s

    def ms(self) -> int:
        return round(self.now_s * 1000)

    def advance(self, seconds: float) -> None:
        self.now_s += seconds

    def drive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the timers of the running loop follow, so that a minute passes at once."""
        loop, started_s = asyncio.get_running_loop(), self.now_s
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.now_s - started_s)

    async def elapse(self, seconds: float) -> None:
        """Advance, and let the timers act that are due."""
        self.advance(seconds)
        for _ in range(3):
            await asyncio.sleep(0)


class Recorder(Publisher):
    """Keeps all notices in order, and hands control notices to those who follow, as a bus does."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._followers: list[Callable[[Control], Awaitable[None]]] = []
        self._changed = asyncio.Event()

    def follow(self, handler: Callable[[Control], Awaitable[None]]) -> None:
        self._followers.append(handler)

    async def publish(self, *notices: Notice) -> None:
        for notice in notices:
            self.notices.append(notice)
            self._changed.set()
            if not isinstance(notice, Tell):
                for follower in self._followers:
                    await follower(notice)

    def told(self, *events: str) -> list[Tell]:
        """What somebody was told, of these events or of all."""
        tells = [each for each in self.notices if isinstance(each, Tell) and (each.rooms or each.users)]
        return [each for each in tells if not events or each.event in events]

    def controls(self) -> list[Control]:
        return [each for each in self.notices if not isinstance(each, Tell)]

    async def until_told(self, event: str, count: int = 1) -> list[Tell]:
        """Wait until an event has been told so many times."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told(event)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.told(event)

    def forget(self) -> None:
        self.notices.clear()


class Gate:
    """Holds somebody up: `reached` when they came, `open` to let them go on."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def pass_through(self) -> None:
        self._reached.set()
        await self._opened.wait()

    async def reached(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._reached.wait()

    def open(self) -> None:
        self._opened.set()


def hold_answer(target: object, method: str) -> Gate:
    """Hold the answer of the next call of a method: what it read may be old when it comes."""
    gate, original = Gate(), getattr(target, method)

    async def held(*args: Any, **kwargs: Any) -> Any:
        setattr(target, method, original)
        answer = await original(*args, **kwargs)
        await gate.pass_through()
        return answer

    setattr(target, method, held)
    return gate


def hold_call(target: object, method: str) -> Gate:
    """Hold the next call of a method before it does anything."""
    gate, original = Gate(), getattr(target, method)

    async def held(*args: Any, **kwargs: Any) -> Any:
        setattr(target, method, original)
        await gate.pass_through()
        return await original(*args, **kwargs)

    setattr(target, method, held)
    return gate


def break_(target: object, *methods: str, error: Exception | None = None) -> Callable[[], None]:
    """Make methods fail until the function returned is called."""
    originals = {method: getattr(target, method) for method in methods}

    async def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise error or UnavailableError("the store does not answer in time")

    for method in methods:
        setattr(target, method, broken)

    def mend() -> None:
        for method, original in originals.items():
            setattr(target, method, original)

    return mend


class CountingHasher(PasswordHasher):
    """A cheap one that counts; `verified` are the hashes that passwords were compared with."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 - the library's name
        self.verified.append(str(hash))
        return super().verify(hash, password)


class SiteRules(Struct, frozen=True, kw_only=True):
    """What differs between the sites of tests."""

    quiet_above: int = 200
    rooms_per_user: int | None = None
    members_per_room: int | None = None
    most_typing: int = 5
    sockets_per_user: int | None = None
    has_accounts: bool = True


class Site:
    """The use cases, composed as in the server. `publisher` hands its notices to the directory."""

    def __init__(self, folder: Path, rules: SiteRules, clock: Clock) -> None:
        self.rules = rules
        self.clock = clock
        self.publisher = Recorder()
        self.storage = store = SqliteStorage(folder / "tertulia.db", readers=2)
        self.ephemeral = MemoryEphemeral(clock=clock.s)
        self.directory = Directory(store, store)
        self.publisher.follow(self.directory.forget)
        self.views = Views(store, store, store, self.directory, self.ephemeral)
        quiet_above = rules.quiet_above
        self.teller = Teller(
            self.views, self.directory, self.publisher, self.ephemeral, store, quiet_above=quiet_above
        )
        self.committer = Committer(store, self.teller.tell, node="node")
        self.cursors = CursorCommitter(store)
        self.completion = Completion()
        self.hasher = CountingHasher()
        self.passwords = Passwords(self.hasher)
        self.health = Health(store, store, clock=clock.s)
        self.tokens = Tokens(SECRET, claim_names=ClaimNames(), leeway_s=5)
        self.accounts = self._make_accounts()
        self.rooms = self._make_rooms()
        self.messages = self._make_messages()
        self.sync = SyncService(
            store, store, store, self.directory, self.views, quiet_above=quiet_above, clock=clock.ms
        )
        self.presence = self._make_presence()

    def _make_accounts(self) -> AccountService:
        return AccountService(
            self.storage,
            self.storage,
            self.tokens,
            self.passwords,
            self.views,
            self.publisher,
            self.completion,
            has_accounts=self.rules.has_accounts,
            refresh_ttl_s=30 * 24 * 3600,
            refresh_grace_s=60,
            clock=self.clock.ms,
        )

    def _make_rooms(self) -> RoomService:
        limits = RoomLimits(
            rooms_per_user=self.rules.rooms_per_user,
            members_per_room=self.rules.members_per_room,
            quiet_above=self.rules.quiet_above,
        )
        return RoomService(
            self.storage,
            self.directory,
            self.views,
            self.publisher,
            self.completion,
            limits,
            clock=self.clock.ms,
        )

    def _make_messages(self) -> MessageService:
        return MessageService(
            self.storage,
            self.committer,
            self.cursors,
            self.directory,
            self.rooms,
            self.views,
            self.publisher,
            most_content_chars=4_000,
            reactions=("like", "love", "haha", "wow", "sad", "angry"),
            quiet_above=self.rules.quiet_above,
            clock=self.clock.ms,
        )

    def _make_presence(self) -> PresenceService:
        rules = PresenceRules(
            grace_s=5,
            typing_ttl_s=6,
            quiet_above=self.rules.quiet_above,
            most_typing=self.rules.most_typing,
            sockets_per_user=self.rules.sockets_per_user,
        )
        return PresenceService(
            self.ephemeral,
            self.storage,
            self.storage,
            self.directory,
            self.publisher,
            rules,
            clock=self.clock.ms,
        )

    async def people(self, *user_ids: str) -> None:
        """Make people whose username is their id."""
        for user_id in user_ids:
            await self.storage.create_user(builders.user(user_id), None)

    async def group(self, owner: str, *members: str, kind: str = "group", name: str = "A room") -> str:
        """Make a room of people who exist; its id."""
        assert kind in ("group", "public")
        wanted = CreateRoom(
            kind="public" if kind == "public" else "group", name=name, member_ids=list(members)
        )
        return (await self.rooms.create(owner, wanted)).id

    async def say(self, sender: str, room_id: str, content: str = "Hola!") -> MessageView:
        """Send a message; as it was answered."""
        sent = await self.messages.send(sender, ChatMessage(room_id=room_id, content=content))
        return sent.message

    async def say_all(self, sender: str, room_id: str, contents: Iterable[str]) -> list[MessageView]:
        """Send messages, which are stored together in this order."""
        await self.directory.get_access(room_id, sender)
        return await asyncio.gather(*(self.say(sender, room_id, content) for content in contents))

    def identity(self, user_id: str, *, lasts_s: int = 900, login_id: str = "login") -> Identity:
        """Somebody signed in, whose token is good for so many seconds more."""
        return Identity(
            user=builders.user(user_id), login_id=login_id, expires_at=int(self.clock.now_s) + lasts_s
        )


@contextlib.asynccontextmanager
async def open_site(folder: Path, rules: SiteRules | None = None) -> AsyncIterator[Site]:
    """A site for the length of a block, its data in `folder`."""
    site = Site(folder, rules or SiteRules(), Clock())
    await site.storage.open()
    site.committer.start()
    try:
        yield site
    finally:
        await site.committer.close()
        await site.cursors.close()
        await site.completion.close(timeout_s=0)
        site.passwords.close()
        await site.storage.close()
