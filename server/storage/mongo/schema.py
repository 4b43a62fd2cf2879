"""The collections with their indexes, and how an older database becomes one of this version."""

import uuid
from typing import Any

from pymongo import ASCENDING, IndexModel

from server.storage.base import StoreRefusedError
from server.storage.mongo.database import Database
from server.storage.mongo.lock import locked

VERSION = 1


def _index(*fields: str, is_unique: bool = False, is_sparse: bool = False) -> IndexModel:
    options: dict[str, Any] = {"unique": True} if is_unique else {}
    if is_sparse:
        options["sparse"] = True
    return IndexModel([(field, ASCENDING) for field in fields], name="_".join(fields), **options)


INDEXES: dict[str, list[IndexModel]] = {
    # `_id` "<room>:<rev>". One a change, never moved or removed; fields as in `entries.Entry`.
    "changes": [
        _index("room_id", "rev", is_unique=True),
        _index("room_id", "key", is_unique=True),
        _index("room_id", "seq", "rev"),
        _index("room_id", "by", "seq", "rev"),
        _index("node", "at"),
        _index("is_unblanked", is_sparse=True),
    ],
    # `_id` the room's id. A deleted one stays, and is `is_emptying` while it may have members. `vacated`: its
    # last owner left nobody behind.
    "rooms": [
        _index("key", is_unique=True),
        _index("kind", "deleted_at", "_id"),
        _index("is_emptying", is_sparse=True),
        _index("vacated", is_sparse=True),
    ],
    # `_id` "<room>:<user>". `leaving`: it is being removed, or was to be. Of who was removed only `gone` (the
    # incarnation) and `gone_at`, for a while.
    "members": [
        _index("user_id", "_id"),
        _index("room_id", "joined_at", "user_id"),
        _index("room_id", "role"),
        _index("gone_at", is_sparse=True),
    ],
    # `_id` the user's id.
    "users": [
        _index("folded_username", is_unique=True),
        _index("username"),
        _index("folded_name"),
    ],
    # `_id` the login's id: how it began. Then only inserts: "<login>:<n>" for each rotation, and its end.
    "logins": [_index("user_id", "_id"), _index("kept_until")],
    "rotations": [_index("login_id", "n"), _index("expires_at")],
    "revocations": [_index("expires_at")],
    # `_id` a server of the cluster, with its last report.
    "nodes": [],
    # "schema" with version and epoch, "lease", and the locks of rooms.
    "meta": [],
}


async def check(database: Database) -> None:
    """Make sure that this version may use the database. Raises StoreRefusedError."""
    # Listed before the version is read: another server may be making them, and writes the version first.
    present = await database.collection_names()
    schema = await database.find_one("meta", {"_id": "schema"})
    if schema is None:
        # A server may have announced itself, or taken its lease, and come no further.
        if others := sorted(INDEXES.keys() & set(present) - {"meta", "nodes"}):
            raise StoreRefusedError(
                f"the database holds collections of another program ({', '.join(others)}), or lost its "
                "schema version. Name another database in database.url, or restore a backup."
            )
    elif not isinstance(version := schema.get("version"), int) or not isinstance(schema.get("epoch"), str):
        raise StoreRefusedError(
            "the database's schema version cannot be read (in the collection meta). Restore a backup."
        )
    elif version > VERSION:
        raise StoreRefusedError(
            f"the database has schema version {version}, made by a newer Tertulia; this one knows "
            f"{VERSION}. Run the newer version, or restore a backup made before the upgrade."
        )


async def prepare(database: Database) -> None:
    """Bring the database to this version: one server at a time; each step may be done again."""
    # First of all, so that a start that was cut off is not taken for another program's data.
    await database.insert("meta", {"_id": "schema", "version": VERSION, "epoch": uuid.uuid4().hex})
    async with locked(database, "schema"):
        for collection, indexes in INDEXES.items():
            if indexes:
                await database.create_indexes(collection, indexes)
