"""People and their logins in MongoDB.

A login is never changed: that it rotated is a document of its own, whose `_id` can be taken once, and so is
that it was revoked. The last rotation counts, and a revocation ends it whatever else there is.
"""

import asyncio
import time
from collections.abc import Sequence

from bson.raw_bson import RawBSONDocument
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict, replace

from server.domain.errors import UnavailableError
from server.domain.models import Login, User
from server.storage.base import UsernameTakenError, UserStore
from server.storage.mongo.database import Database, TakenError
from server.storage.mongo.entries import Reader
from server.storage.mongo.pages import every_page, find_page

LONG_PAST_MS = 24 * 3600 * 1000
"""A login may be forgotten this long after it expired."""

_FORGET_AFTER_S = 3600.0
_ATTEMPTS = 10
_LAST_CODE_POINT = "\U0010ffff"


class _Rotation(Struct, frozen=True, kw_only=True):
    n: int
    rotated_at: int
    expires_at: int


class MongoUsers(UserStore):
    """The part of `MongoStorage` that keeps people, their password hashes and their logins."""

    _database: Database
    _reader: Reader
    _forgot_s: float | None = None

    async def create_user(self, user: User, password_hash: str | None) -> User:
        fields = asdict(user) | {
            "_id": user.id,
            "folded_username": user.username.casefold(),
            "folded_name": user.display_name.casefold(),
            "password_hash": password_hash,
        }
        del fields["id"]
        if await self._database.insert("users", fields):
            return user
        present = await self._database.find_one("users", {"_id": user.id})
        if present is None:
            named = {"folded_username": fields["folded_username"]}
            if await self._database.find_one("users", named) is None:
                # It stands on the primary, and most of the others do not have it yet.
                raise UnavailableError("who has this name cannot be read yet", retry_after_ms=1000)
        known = self._reader.find(User, present, id="_id")
        if known is None:
            raise UsernameTakenError(user.username)
        return known

    async def find_users(self, user_ids: Sequence[str]) -> dict[str, User]:
        found = await self._database.find("users", {"_id": {"$in": list(user_ids)}}, limit=len(user_ids))
        return {user.id: user for user in self._reader.each(User, found, id="_id")}

    async def find_credentials(self, username: str) -> tuple[User, str | None] | None:
        found = await self._database.find_one("users", {"folded_username": username.casefold()})
        user = self._reader.find(User, found, id="_id")
        password_hash = found.get("password_hash") if found else None
        return (user, password_hash if isinstance(password_hash, str) else None) if user else None

    async def update_user(
        self,
        user_id: str,
        *,
        display_name: str | UnsetType = UNSET,
        avatar_url: str | UnsetType | None = UNSET,
        revoked_before: int | UnsetType = UNSET,
    ) -> User | None:
        update: dict[str, dict[str, object]] = {}
        if display_name is not UNSET:
            update["$set"] = {"display_name": display_name, "folded_name": display_name.casefold()}
        if avatar_url is not UNSET:
            update["$set"] = update.get("$set", {}) | {"avatar_url": avatar_url}
        if revoked_before is not UNSET:
            update["$max"] = {"revoked_before": revoked_before}
        if update:
            await self._database.update("users", {"_id": user_id}, update)
        return (await self.find_users([user_id])).get(user_id)

    async def search_users(self, query: str, after: str, limit: int) -> list[User]:
        prefix = query.casefold()
        begins = {"$gte": prefix, "$lt": prefix + _LAST_CODE_POINT}
        wanted = {
            "username": {"$gt": after},
            "$or": [{"folded_username": begins}, {"folded_name": begins}],
        }
        order = [("username", 1)]
        return await find_page(
            self._database, self._reader, User, "users", wanted, sort=order, limit=limit, id="_id"
        )

    async def set_last_seen(self, seen: Sequence[tuple[str, int]]) -> None:
        if seen:
            updates = [({"_id": user_id}, {"$max": {"last_seen": at}}) for user_id, at in seen]
            await self._database.update_each("users", updates)

    async def create_login(self, login: Login) -> None:
        await self._forget(login.rotated_at - LONG_PAST_MS)
        await self._database.insert("logins", _to_document(login) | {"kept_until": login.expires_at})

    async def find_login(self, login_id: str) -> Login | None:
        found, rotations, revocation = await asyncio.gather(
            self._database.find_one("logins", {"_id": login_id}),
            self._database.find("rotations", {"login_id": login_id}, sort=[("n", -1)], limit=1),
            self._database.find_one("revocations", {"_id": login_id}),
        )
        login = self._reader.find(Login, found or revocation, id="_id")
        if login is None:
            return None
        if rotations:
            rotation = self._reader.find(_Rotation, rotations[0])
            if rotation is None:  # by the one before it the login could be rotated a second time
                return None
            if rotation.n > login.n:
                login = replace(login, **asdict(rotation))
        if revocation is None:
            return login
        revoked = self._reader.find(Login, revocation, id="_id") or login
        return replace(login, is_revoked=True, expires_at=max(login.expires_at, revoked.expires_at))

    async def rotate_login(self, login_id: str, n: int, at: int, expires_at: int) -> Login | None:
        login = await self.find_login(login_id)
        if login is None or login.is_revoked or login.n != n or login.expires_at <= at:
            return login
        await self._database.update("logins", {"_id": login_id}, {"$max": {"kept_until": expires_at}})
        rotation = {"login_id": login_id, "n": n + 1, "rotated_at": at, "expires_at": expires_at}
        id_ = f"{login_id}:{n + 1}"
        if await self._database.insert("rotations", {"_id": id_} | rotation):
            await self._database.delete("rotations", {"login_id": login_id, "n": {"$lte": n}}, is_many=True)
        moved = await self.find_login(login_id)
        if moved == login and await self._database.find_one("rotations", {"_id": id_}) is None:
            # One stands on the primary, and most of the others do not have it yet.
            raise UnavailableError("the login cannot be read yet", retry_after_ms=1000)
        if moved is not None and moved.is_revoked:  # meanwhile: for as long as this rotation lasts
            await self._revoke(moved)
        return moved

    async def revoke_login(self, login: Login) -> None:
        await self._forget(login.rotated_at - LONG_PAST_MS)
        await self._revoke(login)

    async def revoke_logins(self, user_id: str) -> None:
        async for page in every_page(self._database, "logins", {"user_id": user_id}):
            await self._revoke_each(
                {
                    login.id: _to_revocation(login, _kept_until(document, login))
                    for document in page
                    if (login := self._reader.find(Login, document, id="_id"))
                }
            )

    async def _revoke_each(self, revocations: dict[str, dict[str, object]]) -> None:
        for _ in range(_ATTEMPTS):
            known = {"_id": {"$in": list(revocations)}}
            present = await self._database.find("revocations", known, limit=len(revocations), fields=("_id",))
            for each in present:
                del revocations[each["_id"]]
            if not revocations:
                return
            try:
                await self._database.insert_in_order("revocations", list(revocations.values()))
            except TakenError:  # somebody else revokes them, too
                continue
            return
        raise UnavailableError("others are changing this", retry_after_ms=1000)

    async def _revoke(self, login: Login) -> None:
        # It has to outlast the newest rotation: what revokes is not to be forgotten before what it revokes.
        known = await self.find_login(login.id)
        expires_at = max(login.expires_at, known.expires_at if known is not None else 0)
        if not await self._database.insert("revocations", _to_revocation(login, expires_at)):
            update = {"$max": {"expires_at": expires_at}}
            await self._database.update("revocations", {"_id": login.id}, update)

    async def _forget(self, before: int) -> None:
        """Remove what is long past, now and then."""
        now_s = time.monotonic()
        if self._forgot_s is not None and now_s - self._forgot_s < _FORGET_AFTER_S:
            return
        self._forgot_s = now_s
        await self._database.delete("logins", {"kept_until": {"$lt": before}}, is_many=True)
        await self._database.delete("rotations", {"expires_at": {"$lt": before}}, is_many=True)
        await self._database.delete("revocations", {"expires_at": {"$lt": before}}, is_many=True)


def _to_document(login: Login) -> dict[str, object]:
    fields = asdict(login) | {"_id": login.id}
    del fields["id"]
    return fields


def _to_revocation(login: Login, expires_at: int) -> dict[str, object]:
    return _to_document(replace(login, is_revoked=True, expires_at=expires_at))


def _kept_until(document: RawBSONDocument, login: Login) -> int:
    """When the newest rotation of a login expires."""
    kept_until = document.get("kept_until")
    return max(kept_until, login.expires_at) if isinstance(kept_until, int) else login.expires_at
