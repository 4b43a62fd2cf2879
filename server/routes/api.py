"""The HTTP API: the same use cases as the events, for those who have no socket."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Annotated, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from server import events, views
from server.domain.errors import InvalidError, RateLimitedError, TooLargeError
from server.domain.ratelimit import Rate, RateLimiter
from server.domain.rules import find_bad_text
from server.services.accounts import AccountService, Identity
from server.services.messages import MessageService
from server.services.presence import PresenceService
from server.services.rooms import RoomService

from .edge import Edge, json_response

_MOST_BODY_BYTES = 64 * 1024
_BODY_TIMEOUT_S = 20.0
_MOST_KEY_CHARS = 64
_MOST_DIGITS = 16
Shape = TypeVar("Shape", bound=Struct)
SignedIn = Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]


class RegisterBody(events.Payload, frozen=True, kw_only=True):
    """A new account."""

    username: str
    password: str
    display_name: str | None = None


class LoginBody(events.Payload, frozen=True, kw_only=True):
    """Who signs in."""

    username: str
    password: Annotated[str, Meta(max_length=1024)]


class RefreshBody(events.Payload, frozen=True, kw_only=True):
    """The refresh token of a login."""

    refresh_token: str


class LogoutBody(events.Payload, frozen=True, kw_only=True):
    """Whether to end all of one's logins."""

    everywhere: bool = False


class ProfileBody(events.Payload, frozen=True, kw_only=True):
    """What to change of one's profile."""

    display_name: str | UnsetType = UNSET
    avatar_url: str | UnsetType | None = UNSET


class ListQuery(events.Payload, frozen=True, kw_only=True):
    """A page of a list."""

    query: Annotated[str, Meta(max_length=100)] = ""
    cursor: Annotated[str, Meta(max_length=200)] = ""
    limit: events.Limit = 50


class RoomsQuery(ListQuery, frozen=True, kw_only=True):
    """A page of one's own rooms, or of the public ones."""

    scope: Literal["mine", "public"] = "mine"


class UsersPage(Struct, frozen=True, kw_only=True):
    """People; `next` is the cursor of the next page."""

    users: list[views.UserView]
    next: str | None


class RoomsPage(Struct, frozen=True, kw_only=True):
    """Rooms; `next` is the cursor of the next page."""

    rooms: list[views.RoomView]
    next: str | None


class MembersPage(Struct, frozen=True, kw_only=True):
    """Members; `next` is the cursor of the next page."""

    members: list[views.MemberView]
    next: str | None


class ApiRules(Struct, frozen=True, kw_only=True):
    """None: no limit."""

    rates: Mapping[str, Rate] | None
    logins_per_min: int | None


class Api:
    """All routes below /api."""

    def __init__(
        self,
        accounts: AccountService,
        rooms: RoomService,
        messages: MessageService,
        presence: PresenceService,
        edge: Edge,
        limiter: RateLimiter,
        rules: ApiRules,
    ) -> None:
        self._accounts = accounts
        self._rooms = rooms
        self._messages = messages
        self._presence = presence
        self._edge = edge
        self._limiter = limiter
        self._rules = rules

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application's router."""
        room, member = "/api/rooms/{room_id}", "/api/rooms/{room_id}/members/{user_id}"
        return [
            web.post("/api/auth/register", self.register),
            web.post("/api/auth/login", self.login),
            web.post("/api/auth/refresh", self.refresh),
            web.post("/api/auth/logout", self._signed_in("auth", self.logout)),
            web.get("/api/me", self._signed_in("query", self.me)),
            web.patch("/api/me", self._signed_in("room", self.update_me)),
            web.get("/api/users", self._signed_in("query", self.users)),
            web.get("/api/rooms", self._signed_in("query", self.rooms)),
            web.post("/api/rooms", self._signed_in("room", self.create_room)),
            web.get(room, self._signed_in("query", self.room)),
            web.patch(room, self._signed_in("room", self.rename_room)),
            web.delete(room, self._signed_in("room", self.delete_room)),
            web.get(f"{room}/members", self._signed_in("query", self.members)),
            web.post(f"{room}/members", self._signed_in("room", self.add_member)),
            web.delete(member, self._signed_in("room", self.remove_member)),
            web.get(f"{room}/messages", self._signed_in("query", self.history)),
            web.post(f"{room}/messages", self._signed_in("message", self.send)),
        ]

    async def register(self, request: web.Request) -> web.Response:
        self._take_login(request, None)
        body = await _body(request, RegisterBody)
        signed = await self._accounts.register(body.username, body.password, body.display_name)
        return json_response(signed)

    async def login(self, request: web.Request) -> web.Response:
        body = await _body(request, LoginBody)
        self._take_login(request, body.username.lower()[:_MOST_KEY_CHARS])
        return json_response(await self._accounts.login(body.username, body.password))

    async def refresh(self, request: web.Request) -> web.Response:
        body = await _body(request, RefreshBody)
        login_id = body.refresh_token.partition(".")[0][:_MOST_KEY_CHARS]
        # Not by address: behind one there may be a company, whose every page comes each 15 minutes.
        self._take_rate("refresh of " + login_id, "auth")
        return json_response(await self._accounts.refresh(body.refresh_token))

    async def logout(self, request: web.Request, identity: Identity) -> web.Response:
        body = await _body(request, LogoutBody)
        await self._accounts.logout(identity, everywhere=body.everywhere)
        return json_response({})

    async def me(self, _request: web.Request, identity: Identity) -> web.Response:
        return json_response({"user": await self._accounts.me(identity.user.id)})

    async def update_me(self, request: web.Request, identity: Identity) -> web.Response:
        body = await _body(request, ProfileBody)
        user = await self._accounts.update_profile(identity.user.id, body.display_name, body.avatar_url)
        return json_response({"user": user})

    async def users(self, request: web.Request, _identity: Identity) -> web.Response:
        query = _query(request, ListQuery)
        users, cursor = await self._accounts.search(query.query, query.cursor, query.limit)
        return json_response(UsersPage(users=users, next=cursor))

    async def rooms(self, request: web.Request, identity: Identity) -> web.Response:
        query = _query(request, RoomsQuery)
        listing = self._rooms.mine if query.scope == "mine" else self._rooms.public
        rooms, cursor = await listing(identity.user.id, query.query, query.cursor, query.limit)
        return json_response(RoomsPage(rooms=rooms, next=cursor))

    async def create_room(self, request: web.Request, identity: Identity) -> web.Response:
        body = await _body(request, events.CreateRoom)
        return json_response(views.RoomData(room=await self._rooms.create(identity.user.id, body)))

    async def room(self, request: web.Request, identity: Identity) -> web.Response:
        return json_response(views.RoomData(room=await self._rooms.get(identity.user.id, _room_id(request))))

    async def rename_room(self, request: web.Request, identity: Identity) -> web.Response:
        body = await _body(request, NameBody)
        room = await self._rooms.rename(identity.user.id, _room_id(request), body.name)
        return json_response(views.RoomData(room=room))

    async def delete_room(self, request: web.Request, identity: Identity) -> web.Response:
        await self._rooms.delete(identity.user.id, _room_id(request))
        return json_response({})

    async def members(self, request: web.Request, identity: Identity) -> web.Response:
        query = _query(request, ListQuery)
        after = _member_cursor(query.cursor)
        members, last = await self._rooms.members(identity.user.id, _room_id(request), after, query.limit)
        cursor = None if last is None else f"{last[0]}.{last[1]}"
        return json_response(MembersPage(members=members, next=cursor))

    async def add_member(self, request: web.Request, identity: Identity) -> web.Response:
        body = await _body(request, events.OpenDirect)
        room = await self._rooms.add_member(identity.user.id, _room_id(request), body.user_id)
        return json_response(views.RoomData(room=room))

    async def remove_member(self, request: web.Request, identity: Identity) -> web.Response:
        user_id = request.match_info["user_id"]
        room = await self._rooms.remove_member(identity.user.id, _room_id(request), user_id)
        return json_response(views.RoomData(room=room) if room is not None else {})

    async def history(self, request: web.Request, identity: Identity) -> web.Response:
        asked = _query(request, events.History, room_id=_room_id(request))
        return json_response(await self._messages.history(identity.user.id, asked))

    async def send(self, request: web.Request, identity: Identity) -> web.Response:
        body = await _body(request, events.ChatMessage, room_id=_room_id(request))
        sent = await self._messages.send(identity.user.id, body)
        await self._presence.said(sent.message.room_id, identity.user.id)
        return json_response(sent)

    def _signed_in(
        self, rate_class: str, handler: SignedIn
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def authenticated(request: web.Request) -> web.StreamResponse:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            is_bearer = scheme.lower() == "bearer"
            given = token.strip() if is_bearer else None
            # A profile follows the token when its user connects: else each request might be a write and told.
            identity = await self._accounts.authenticate(given, follows_profile=False)
            self._take_rate(identity.user.id, rate_class)
            return await handler(request, identity)

        return authenticated

    def _take_rate(self, who: str, rate_class: str) -> None:
        if self._rules.rates is not None:
            self._take((who, rate_class), self._rules.rates[rate_class])

    def _take_login(self, request: web.Request, username: str | None) -> None:
        per_min = self._rules.logins_per_min
        if per_min is None:
            return
        rate = Rate(per_min / 60, per_min)
        self._take(("login", self._edge.client_address(request)), rate)
        if username is not None:
            self._take(("login as", username), rate)

    def _take(self, key: tuple[str, str], rate: Rate) -> None:
        wait_s = self._limiter.take(key, rate, time.monotonic())
        if wait_s > 0:
            raise RateLimitedError("too many requests", retry_after_ms=int(wait_s * 1000) + 1)


class NameBody(events.Payload, frozen=True, kw_only=True):
    """A room's new name."""

    name: str


async def _body(request: web.Request, shape: type[Shape], **path: str) -> Shape:
    """The body as its shape; no body counts as {}. Raises InvalidError, TooLargeError."""
    if (request.content_length or 0) > _MOST_BODY_BYTES:
        raise TooLargeError("the body is too large")
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            raw = await request.read()
    except (TimeoutError, web.RequestPayloadError, ConnectionError):
        raise InvalidError("the body did not come whole") from None
    try:
        body = msgspec.json.decode(raw) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse_bad_text(raw, shape)
        raise InvalidError("the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidError("the body is one object")
    return _with_path(body, path, shape)


def _refuse_bad_text(raw: bytes, shape: type[Struct]) -> None:
    """JSON may escape half a surrogate pair. Then raises InvalidError with the field, as an event does."""
    with suppress(ValueError, RecursionError):
        body = json.loads(raw)
        if isinstance(body, dict) and find_bad_text(body) is not None:
            events.decode(body, shape)


def _query(request: web.Request, shape: type[Shape], **path: str) -> Shape:
    """The query string as its shape. Raises InvalidError."""
    given: dict[str, object] = {}
    for name, text in request.query.items():
        is_number = name == "limit" or name.endswith("_seq")
        given[name] = int(text) if is_number and _is_digits(text) else text
    return _with_path(given, path, shape)


def _with_path(given: Mapping[str, object], path: Mapping[str, str], shape: type[Shape]) -> Shape:
    for name, value in path.items():
        if given.get(name, value) != value:
            raise InvalidError("the path says otherwise", field=name)
    return events.decode({**given, **path}, shape)


def _room_id(request: web.Request) -> str:
    return request.match_info["room_id"]


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _member_cursor(cursor: str) -> tuple[int, str]:
    joined_at, _, user_id = cursor.partition(".")
    if cursor and not _is_digits(joined_at):
        raise InvalidError("cursor is not one that this list gave", field="cursor")
    return (int(joined_at), user_id) if cursor else (0, "")
