"""The tables, and how a file of an earlier version becomes one of this version."""

import uuid

from server.storage.base import StoreRefusedError
from server.storage.sqlite.database import Connection

SWEPT_DELETIONS = 10_000
"""How many of the newest deletions are looked at when the store is opened."""

_V1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # One row a change, never moved or removed. `state` is the message after it; the text stands only in rows
    # of kind message and edit, and `content_rev` names the row that holds it.
    """CREATE TABLE changes (
        id INTEGER PRIMARY KEY,
        room_id TEXT NOT NULL, rev INTEGER NOT NULL, kind TEXT NOT NULL, message_id TEXT NOT NULL,
        seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL,
        by_id TEXT NOT NULL, node TEXT NOT NULL, at INTEGER NOT NULL, reaction_type TEXT,
        content_rev INTEGER NOT NULL, content TEXT, attachments TEXT, state TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX changes_rev ON changes (room_id, rev)",
    "CREATE UNIQUE INDEX changes_key ON changes (room_id, key)",
    "CREATE INDEX changes_seq ON changes (room_id, seq, rev)",
    "CREATE INDEX changes_own ON changes (room_id, by_id, seq, rev) WHERE kind = 'react'",
    "CREATE INDEX changes_deletions ON changes (kind) WHERE kind = 'delete'",
    """CREATE TABLE rooms (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT, folded_name TEXT, key TEXT NOT NULL UNIQUE,
        created_by TEXT NOT NULL, created_at INTEGER NOT NULL, first_seq INTEGER NOT NULL,
        deleted_at INTEGER) WITHOUT ROWID""",
    "CREATE INDEX rooms_public ON rooms (id) WHERE kind = 'public' AND deleted_at IS NULL",
    """CREATE TABLE members (
        room_id TEXT NOT NULL REFERENCES rooms (id), user_id TEXT NOT NULL, role TEXT NOT NULL,
        joined_at INTEGER NOT NULL, incarnation TEXT NOT NULL, last_read_seq INTEGER NOT NULL,
        PRIMARY KEY (room_id, user_id)) WITHOUT ROWID""",
    "CREATE INDEX members_user ON members (user_id)",
    "CREATE INDEX members_joined ON members (room_id, joined_at, user_id)",
    """CREATE TABLE users (
        id TEXT PRIMARY KEY, username TEXT NOT NULL COLLATE NOCASE UNIQUE, display_name TEXT NOT NULL,
        folded_name TEXT NOT NULL, avatar_url TEXT, created_at INTEGER NOT NULL, last_seen INTEGER,
        revoked_before INTEGER, password_hash TEXT) WITHOUT ROWID""",
    "CREATE INDEX users_folded_name ON users (folded_name)",
    """CREATE TABLE logins (
        id TEXT PRIMARY KEY, user_id TEXT NOT NULL, n INTEGER NOT NULL, rotated_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL, is_revoked INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX logins_user ON logins (user_id)",
    "CREATE INDEX logins_expires_at ON logins (expires_at)",
)

_V2 = ("ALTER TABLE rooms ADD COLUMN digest TEXT NOT NULL DEFAULT ''",)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_V1, _V2)
"""What makes version n of version n - 1, by n; `PRAGMA user_version` says which one a file has."""

# What reads answer with, made anew at each start: they belong to the code that decodes them.
_VIEWS = {
    # [room_id, rev, columns] with the text of the message after the change; `entries.Entry` decodes it.
    "entries": """SELECT c.room_id, c.rev, c.seq, c.key,
            json_array(c.room_id, c.rev, json_array(
                c.kind, c.message_id, c.seq, c.last_seq, c.key, c.digest, c.by_id, c.node, c.at,
                c.reaction_type, c.content_rev, c.state, body.rev, body.content, body.attachments)) AS entry
        FROM changes AS c
        LEFT JOIN changes AS body ON body.room_id = c.room_id AND body.rev = c.content_rev""",
    "room_documents": """SELECT id, kind, folded_name, key, deleted_at,
            json_object('id', id, 'kind', kind, 'name', name, 'key', key, 'digest', digest,
                'created_by', created_by, 'created_at', created_at, 'first_seq', first_seq,
                'deleted_at', deleted_at) AS document
        FROM rooms""",
    "member_documents": """SELECT room_id, user_id, joined_at,
            json_object('room_id', room_id, 'user_id', user_id, 'role', role, 'joined_at', joined_at,
                'incarnation', incarnation, 'last_read_seq', last_read_seq) AS document
        FROM members""",
    "user_documents": """SELECT id, username, folded_name, password_hash,
            json_object('id', id, 'username', username, 'display_name', display_name,
                'avatar_url', avatar_url, 'created_at', created_at, 'last_seen', last_seen,
                'revoked_before', revoked_before) AS document
        FROM users""",
}


def prepare(connection: Connection) -> None:
    """Bring the file to this version, in one transaction. Raises StoreRefusedError where it cannot."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    _check_version(connection, version)
    for migration in MIGRATIONS[version:]:
        for statement in migration:
            connection.execute(statement)
    for name, select in _VIEWS.items():
        connection.execute(f"DROP VIEW IF EXISTS {name}")
        connection.execute(f"CREATE VIEW {name} AS {select}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('epoch', ?)", (uuid.uuid4().hex,))
    _blank_deleted(connection)
    connection.execute("COMMIT")


def _check_version(connection: Connection, version: int) -> None:
    newest = len(MIGRATIONS)
    if version > newest:
        raise StoreRefusedError(
            f"the database has schema version {version}, made by a newer Tertulia; this one knows {newest}. "
            "Run the newer version, or restore a backup made before the upgrade."
        )
    if version == 0 and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise StoreRefusedError(
            "the database holds tables of another program, or lost its schema version. "
            "Set another database.url, or restore a backup."
        )


def _blank_deleted(connection: Connection) -> None:
    """Blank what an append should have blanked: rows may have come in by other ways, such as an import."""
    connection.execute(
        """UPDATE changes SET content = NULL, attachments = NULL WHERE id IN (
            SELECT body.id FROM (
                SELECT room_id, seq FROM changes WHERE kind = 'delete' ORDER BY id DESC LIMIT ?) AS gone
            CROSS JOIN changes AS body ON body.room_id = gone.room_id AND body.seq = gone.seq
            WHERE body.content IS NOT NULL OR body.attachments IS NOT NULL)""",
        (SWEPT_DELETIONS,),
    )
