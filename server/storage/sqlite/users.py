"""People and their logins in SQLite."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from server.domain.models import Login, User
from server.storage.base import UsernameTakenError, UserStore
from server.storage.sqlite.database import Connection, Database, to_json

LONG_PAST_MS = 24 * 3600 * 1000
"""A login may be forgotten this long after it expired."""

_LAST_CODE_POINT = "\U0010ffff"

_INSERT_USER = """INSERT INTO users (id, username, display_name, folded_name, avatar_url, created_at,
        last_seen, revoked_before, password_hash)
    VALUES (:id, :username, :display_name, :folded_name, :avatar_url, :created_at,
        :last_seen, :revoked_before, :password_hash)"""
_USER = "SELECT document FROM user_documents WHERE id = ?"
_USERS = """SELECT '[' || group_concat(u.document) || ']'
    FROM json_each(?) AS wanted CROSS JOIN user_documents AS u ON u.id = wanted.value"""
_CREDENTIALS = """SELECT '[' || document || ',' || coalesce(json_quote(password_hash), 'null') || ']'
    FROM user_documents WHERE username = ?"""
# Two ranges, each of an index; one condition with OR would scan.
_SEARCH = """SELECT '[' || group_concat(document) || ']' FROM (
        SELECT username, document FROM user_documents WHERE username > ?1 AND username >= ?2 AND username < ?3
        UNION
        SELECT username, document FROM user_documents
            WHERE folded_name >= ?2 AND folded_name < ?3 AND username > ?1
        ORDER BY username LIMIT ?4)"""
_UPDATE_USER = """UPDATE users SET display_name = ?, folded_name = ?, avatar_url = ?, revoked_before = ?
    WHERE id = ?"""
_SET_LAST_SEEN = "UPDATE users SET last_seen = max(coalesce(last_seen, 0), ?) WHERE id = ?"
_INSERT_LOGIN = """INSERT INTO logins (id, user_id, n, rotated_at, expires_at, is_revoked)
    VALUES (:id, :user_id, :n, :rotated_at, :expires_at, :is_revoked)"""
_REVOKE_LOGIN = """INSERT INTO logins (id, user_id, n, rotated_at, expires_at, is_revoked)
    VALUES (:id, :user_id, :n, :rotated_at, :expires_at, 1)
    ON CONFLICT (id) DO UPDATE SET is_revoked = 1, expires_at = max(expires_at, excluded.expires_at)"""
_REVOKE_LOGINS = "UPDATE logins SET is_revoked = 1 WHERE user_id = ?"
_LOGIN = """SELECT json_object('id', id, 'user_id', user_id, 'n', n, 'rotated_at', rotated_at,
        'expires_at', expires_at, 'is_revoked', is_revoked)
    FROM logins WHERE id = ?"""
_ROTATE = """UPDATE logins SET n = n + 1, rotated_at = ?, expires_at = ?
    WHERE id = ? AND n = ? AND is_revoked = 0 AND expires_at > ?"""
_FORGET = "DELETE FROM logins WHERE id IN (SELECT id FROM logins WHERE expires_at < ? LIMIT 100)"

_decode_user = msgspec.json.Decoder(User).decode
_decode_users = msgspec.json.Decoder(list[User]).decode
_decode_credentials = msgspec.json.Decoder(tuple[User, str | None]).decode
_decode_login = msgspec.json.Decoder(Login, strict=False).decode  # SQLite's booleans are numbers


class SqliteUsers(UserStore):
    """The part of `SqliteStorage` that keeps people, their password hashes and their logins."""

    _database: Database

    async def create_user(self, user: User, password_hash: str | None) -> User:
        def create(connection: Connection) -> User:
            present = _find_user(connection, user.id)
            if present is not None:
                return present
            if connection.execute(_CREDENTIALS, (user.username,)).fetchone():
                raise UsernameTakenError(user.username)
            row = {"folded_name": user.display_name.casefold(), "password_hash": password_hash}
            connection.execute(_INSERT_USER, asdict(user) | row)
            return user

        return await self._database.write(create)

    async def find_users(self, user_ids: Sequence[str]) -> dict[str, User]:
        found = await self._database.read(_USERS, to_json(user_ids))
        return {user.id: user for user in _decode_users(found or "[]")}

    async def find_credentials(self, username: str) -> tuple[User, str | None] | None:
        found = await self._database.read(_CREDENTIALS, username)
        return _decode_credentials(found) if found else None

    async def update_user(
        self,
        user_id: str,
        *,
        display_name: str | UnsetType = UNSET,
        avatar_url: str | UnsetType | None = UNSET,
        revoked_before: int | UnsetType = UNSET,
    ) -> User | None:
        def update(connection: Connection) -> User | None:
            user = _find_user(connection, user_id)
            if user is None:
                return None
            if display_name is not UNSET:
                user = replace(user, display_name=display_name)
            if avatar_url is not UNSET:
                user = replace(user, avatar_url=avatar_url)
            if revoked_before is not UNSET:
                user = replace(user, revoked_before=max(user.revoked_before or 0, revoked_before))
            folded_name = user.display_name.casefold()
            connection.execute(
                _UPDATE_USER,
                (user.display_name, folded_name, user.avatar_url, user.revoked_before, user_id),
            )
            return user

        return await self._database.write(update)

    async def search_users(self, query: str, after: str, limit: int) -> list[User]:
        prefix = query.casefold()
        found = await self._database.read(_SEARCH, after, prefix, prefix + _LAST_CODE_POINT, limit)
        return _decode_users(found or "[]")

    async def set_last_seen(self, seen: Sequence[tuple[str, int]]) -> None:
        if not seen:
            return
        rows = [(at, user_id) for user_id, at in seen]

        def record(connection: Connection) -> None:
            connection.executemany(_SET_LAST_SEEN, rows)

        await self._database.write(record)

    async def create_login(self, login: Login) -> None:
        def create(connection: Connection) -> None:
            connection.execute(_FORGET, (login.rotated_at - LONG_PAST_MS,))
            connection.execute(_INSERT_LOGIN, asdict(login))

        await self._database.write(create)

    async def find_login(self, login_id: str) -> Login | None:
        found = await self._database.read(_LOGIN, login_id)
        return _decode_login(found) if found else None

    async def rotate_login(self, login_id: str, n: int, at: int, expires_at: int) -> Login | None:
        def rotate(connection: Connection) -> Login | None:
            connection.execute(_ROTATE, (at, expires_at, login_id, n, at))
            row = connection.execute(_LOGIN, (login_id,)).fetchone()
            return _decode_login(row[0]) if row else None

        return await self._database.write(rotate)

    async def revoke_login(self, login: Login) -> None:
        def revoke(connection: Connection) -> None:
            connection.execute(_FORGET, (login.rotated_at - LONG_PAST_MS,))
            connection.execute(_REVOKE_LOGIN, asdict(login))

        await self._database.write(revoke)

    async def revoke_logins(self, user_id: str) -> None:
        def revoke(connection: Connection) -> None:
            connection.execute(_REVOKE_LOGINS, (user_id,))

        await self._database.write(revoke)


def _find_user(connection: Connection, user_id: str) -> User | None:
    row = connection.execute(_USER, (user_id,)).fetchone()
    return _decode_user(row[0]) if row else None
