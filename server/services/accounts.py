"""People: signing up and in, the logins that this begins, and who a token stands for."""

import secrets
from collections.abc import Awaitable, Callable
from uuid import uuid4

import msgspec
from msgspec import UNSET, Struct, UnsetType

from server.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    TokenExpiredError,
    TokenInvalidError,
    TokenRevokedError,
    UnauthenticatedError,
    UnavailableError,
)
from server.domain.models import Login, User
from server.domain.rules import (
    BUILT_IN_USER_PREFIX,
    checked_display_name,
    checked_username,
    user_id_of_subject,
    username_from,
    with_suffix,
)
from server.services.completion import Completion
from server.services.notices import LoginEnded, ProfileChanged, Publisher, Tell
from server.services.passwords import Passwords
from server.services.tokens import Claims, Tokens
from server.services.views import Views, first_that_fit
from server.storage.base import RoomStore, UsernameTakenError, UserStore
from server.views import UserUpdated, UserView

_MOST_AVATAR_CHARS = 2_048
_USERNAME_TRIES = 6
_MOST_UNANSWERED = 1_000


class Identity(Struct, frozen=True, kw_only=True):
    """Who an accepted token stands for. `expires_at` and `issued_at` are its `exp` and `iat`, in seconds."""

    user: User
    login_id: str
    expires_at: int
    issued_at: int | None = None
    is_built_in: bool = False


class Signed(Struct, frozen=True, kw_only=True):
    """What signing in answers; `expires_in` in seconds."""

    user: UserView
    access_token: str
    expires_in: int
    refresh_token: str


class AccountService:
    """Use cases of accounts. With `has_accounts` false only tokens from outside are accepted."""

    def __init__(
        self,
        store: UserStore,
        rooms: RoomStore,
        tokens: Tokens,
        passwords: Passwords,
        views: Views,
        publisher: Publisher,
        completion: Completion,
        *,
        has_accounts: bool,
        refresh_ttl_s: int,
        refresh_grace_s: int,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._tokens = tokens
        self._passwords = passwords
        self._views = views
        self._publisher = publisher
        self._completion = completion
        self._has_accounts = has_accounts
        self._refresh_ttl_ms = refresh_ttl_s * 1000
        self._refresh_grace_ms = refresh_grace_s * 1000
        self._clock = clock
        # The ids of the accounts whose registration was answered `unavailable`: they may be there by now.
        self._unanswered: dict[str, None] = {}

    async def authenticate(self, token: str | None, *, follows_profile: bool = True) -> Identity:
        """Who the access token stands for; a user first seen is created from its claims.

        `follows_profile`: the name and picture of a token from outside become the user's.

        Raises UnauthenticatedError (no token), TokenInvalidError, TokenExpiredError, TokenRevokedError.
        """
        if not token:
            raise UnauthenticatedError("a token is needed: log in")
        claims = self._tokens.read_access(token, now=self._clock() / 1000)
        user = await (self._built_in_user(claims) if claims.is_built_in else self._outside_user(claims))
        if follows_profile and not claims.is_built_in:
            user = await self._follow_profile(user, claims)
        return Identity(
            user=user,
            login_id=claims.login_id,
            expires_at=claims.expires_at,
            issued_at=claims.issued_at,
            is_built_in=claims.is_built_in,
        )

    async def has_ended(self, identity: Identity) -> bool:
        """Whether its login was ended since it was accepted."""
        login = await self._store.find_login(identity.login_id)
        if identity.is_built_in or (login is not None and login.is_revoked):
            return login is None or login.is_revoked
        user = (await self._store.find_users([identity.user.id])).get(identity.user.id)
        return user is None or _was_revoked(user, identity.issued_at)

    async def register(self, username: str, password: str, display_name: str | None) -> Signed:
        """Create an account and sign it in. Raises ConflictError when the username is taken.

        Who was answered `unavailable` may repeat it here, with the same password.
        """
        self._require_accounts()
        name = checked_username(username)
        shown = checked_display_name(display_name if display_name is not None else username)
        user = User(
            id=BUILT_IN_USER_PREFIX + uuid4().hex, username=name, display_name=shown, created_at=self._clock()
        )
        try:
            user = await self._create_or_find(user, password)
            return await self._sign_in(user)
        except UnavailableError:
            self._unanswered[user.id] = None
            if len(self._unanswered) > _MOST_UNANSWERED:
                del self._unanswered[next(iter(self._unanswered))]
            raise

    async def login(self, username: str, password: str) -> Signed:
        """Sign in. Raises UnauthenticatedError, the same for an unknown name and a wrong password."""
        self._require_accounts()
        found = await self._store.find_credentials(username.lower())
        user, password_hash = found if found is not None else (None, None)
        if not await self._passwords.verify(password, password_hash) or user is None:
            raise UnauthenticatedError("the username or the password is wrong")
        return await self._sign_in(user)

    async def refresh(self, refresh_token: str) -> Signed:
        """The next tokens of a login: the same ones again for a while, so that two tabs may ask.

        A token that was used longer ago, or an older one, has been stolen or lost: it ends the login.

        Raises TokenInvalidError, TokenExpiredError, TokenRevokedError.
        """
        self._require_accounts()
        login_id, n = self._tokens.read_refresh(refresh_token)
        now = self._clock()
        login = await self._store.rotate_login(login_id, n, now, now + self._refresh_ttl_ms)
        if login is None or login.expires_at <= now:
            raise TokenExpiredError("the refresh token has expired: log in")
        if login.is_revoked:
            raise TokenRevokedError("this login was ended")
        if login.n != n + 1 or now - login.rotated_at > self._refresh_grace_ms:
            await self._completion.run(self._end(login))
            raise TokenRevokedError("an old refresh token was used again: the login was ended")
        user = (await self._store.find_users([login.user_id])).get(login.user_id)
        if user is None:
            raise TokenInvalidError("the account is gone")
        return await self._signed(user, login)

    async def logout(self, identity: Identity, *, everywhere: bool) -> None:
        """End this login, or all of the user's: their sockets end and their tokens are refused."""
        user_id = identity.user.id
        if not everywhere:
            now = self._clock()
            login = await self._store.find_login(identity.login_id) or Login(
                id=identity.login_id,
                user_id=user_id,
                n=0,
                rotated_at=now,
                expires_at=(identity.expires_at + self._tokens.leeway_s) * 1000,
            )
            await self._completion.run(self._end(login))
            return
        await self._completion.run(self._end_all(user_id))

    async def update_profile(
        self, user_id: str, display_name: str | UnsetType, avatar_url: str | UnsetType | None
    ) -> UserView:
        """Set what is given. Raises InvalidError."""
        shown = checked_display_name(display_name) if isinstance(display_name, str) else UNSET
        if isinstance(avatar_url, str) and _usable_avatar(avatar_url) is None:
            raise InvalidError("avatar_url is an http(s) URL of at most 2048 characters", field="avatar_url")
        view, _ = await self._completion.run(self._change_profile(user_id, shown, avatar_url))
        return view

    async def me(self, user_id: str) -> UserView:
        """The user as others see them."""
        found = await self._views.users([user_id])
        if user_id not in found:
            raise NotFoundError("there is no such user")
        return found[user_id]

    async def search(self, query: str, after: str, limit: int) -> tuple[list[UserView], str | None]:
        """People whose username or display name begins with `query`; the cursor of the next page."""
        users = await self._store.search_users(query, after, limit + 1)
        shown = first_that_fit(await self._views.of_users(users[:limit]))
        return shown, shown[-1].username if len(users) > len(shown) else None

    def _require_accounts(self) -> None:
        if not self._has_accounts:
            raise ForbiddenError("this site signs people in elsewhere")

    async def _create_or_find(self, user: User, password: str) -> User:
        """The new account, or the one that an unanswered registration made."""
        password_hash = await self._passwords.hash(password)
        try:
            return await self._store.create_user(user, password_hash)
        except UsernameTakenError:
            found = await self._store.find_credentials(user.username)
        # The password is tried once, and only for such an account: or guessing would have a second door.
        if found is not None and found[0].id in self._unanswered:
            del self._unanswered[found[0].id]
            if await self._passwords.verify(password, found[1]):
                return found[0]
        raise ConflictError("this username is taken", field="username")

    async def _built_in_user(self, claims: Claims) -> User:
        if not self._has_accounts:
            raise TokenInvalidError("this site signs people in elsewhere")
        login = await self._store.find_login(claims.login_id)
        if login is None or login.user_id != claims.subject:
            raise TokenInvalidError("the token cannot be accepted")
        if login.is_revoked:
            raise TokenRevokedError("this login was ended")
        user = (await self._store.find_users([claims.subject])).get(claims.subject)
        if user is None:
            raise TokenInvalidError("the account is gone")
        return user

    async def _outside_user(self, claims: Claims) -> User:
        login = await self._store.find_login(claims.login_id)
        if login is not None and login.is_revoked:
            raise TokenRevokedError("this login was ended")
        user_id = user_id_of_subject(claims.subject)
        user = (await self._store.find_users([user_id])).get(user_id)
        if user is None:
            user = await self._create_outside(user_id, claims)
        if _was_revoked(user, claims.issued_at):
            raise TokenRevokedError("this login was ended")
        return user

    async def _create_outside(self, user_id: str, claims: Claims) -> User:
        username = username_from(claims.username, claims.display_name, claims.subject)
        wanted = User(
            id=user_id,
            username=username,
            display_name=_usable_display_name(claims.display_name) or username,
            avatar_url=_usable_avatar(claims.avatar_url),
            created_at=self._clock(),
        )
        for _ in range(_USERNAME_TRIES):
            try:
                return await self._store.create_user(wanted, None)
            except UsernameTakenError:
                suffixed = with_suffix(username, secrets.token_hex(3))
                wanted = msgspec.structs.replace(wanted, username=suffixed)
        raise ConflictError("no free username was found for this account")

    async def _follow_profile(self, user: User, claims: Claims) -> User:
        display_name = _usable_display_name(claims.display_name) or user.display_name
        avatar_url = _usable_avatar(claims.avatar_url) or user.avatar_url
        if (display_name, avatar_url) == (user.display_name, user.avatar_url):
            return user
        change = self._change_profile(user.id, display_name, avatar_url)
        return (await self._completion.run(change))[1]

    async def _change_profile(
        self, user_id: str, display_name: str | UnsetType, avatar_url: str | UnsetType | None
    ) -> tuple[UserView, User]:
        changed = ProfileChanged(user_id=user_id)
        write = self._store.update_user(user_id, display_name=display_name, avatar_url=avatar_url)
        updated = await self._completion.written(write, lambda: self._publisher.publish(changed))
        if updated is None:
            raise NotFoundError("there is no such user")
        await self._publisher.publish(changed)
        return await self._announce(updated), updated

    async def _announce(self, user: User) -> UserView:
        shown = (await self._views.of_users([user]))[0]
        rooms = frozenset(each.room.id for each in await self._rooms.memberships(user.id))
        told = Tell(
            event="user_updated", data=UserUpdated(user=shown), rooms=rooms, users=frozenset([user.id])
        )
        await self._publisher.publish(told)
        return shown

    async def _sign_in(self, user: User) -> Signed:
        now = self._clock()
        login = Login(
            id=uuid4().hex, user_id=user.id, n=0, rotated_at=now, expires_at=now + self._refresh_ttl_ms
        )
        await self._store.create_login(login)
        return await self._signed(user, login)

    async def _signed(self, user: User, login: Login) -> Signed:
        return Signed(
            user=(await self._views.of_users([user]))[0],
            access_token=self._tokens.make_access(user.id, login.id, now=self._clock() // 1000),
            expires_in=self._tokens.access_ttl_s,
            refresh_token=self._tokens.make_refresh(login.id, login.n),
        )

    async def _end(self, login: Login) -> None:
        ended = LoginEnded(user_id=login.user_id, login_id=login.id)
        await self._revoked(ended, self._store.revoke_login(login))
        await self._publisher.publish(ended)

    async def _end_all(self, user_id: str) -> None:
        ended = LoginEnded(user_id=user_id, login_id=None)
        from_now_on = (self._clock() // 1000 + 1) * 1000
        await self._revoked(ended, self._store.update_user(user_id, revoked_before=from_now_on))
        await self._revoked(ended, self._store.revoke_logins(user_id))
        await self._publisher.publish(ended)

    async def _revoked(self, ended: LoginEnded, write: Awaitable[object]) -> None:
        """When it is unknown whether the write was done, the sockets end all the same: it was asked for."""
        await self._completion.written(write, lambda: self._publisher.publish(ended))


def _was_revoked(user: User, issued_at: int | None) -> bool:
    issued_ms = None if issued_at is None else issued_at * 1000
    return user.revoked_before is not None and (issued_ms is None or issued_ms < user.revoked_before)


def _usable_display_name(name: str | None) -> str | None:
    return name.strip()[:64].strip() or None if name is not None else None


def _usable_avatar(url: str | None) -> str | None:
    if url is None or len(url) > _MOST_AVATAR_CHARS or not url.startswith(("https://", "http://")):
        return None
    return url if url.isascii() and url.isprintable() and " " not in url else None
