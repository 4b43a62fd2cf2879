"""How files of other versions are met, and what a start repairs."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server.storage.base import StoreRefusedError
from server.storage.sqlite import schema
from server.storage.sqlite.database import Connection
from server.storage.sqlite.schema import MIGRATIONS, prepare
from server.storage.sqlite.store import SqliteStorage
from tests.builders import delete_change, edit_change, message_change


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with closing(sqlite3.connect(tmp_path / "file.db", isolation_level=None)) as opened:
        yield opened


def version(connection: Connection) -> int:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


def tables(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in rows}


def epoch(connection: Connection) -> str:
    (found,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return str(found)


def test_an_empty_file_gets_the_tables_and_an_epoch_of_its_own(connection: Connection) -> None:
    prepare(connection)
    assert version(connection) == len(MIGRATIONS)
    assert tables(connection) == {"meta", "changes", "rooms", "members", "users", "logins"}
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as another:
        prepare(another)
        assert epoch(another) != epoch(connection)


def test_a_second_start_keeps_everything(connection: Connection) -> None:
    prepare(connection)
    made = epoch(connection)
    connection.execute("INSERT INTO meta VALUES ('mine', 'x')")
    prepare(connection)
    assert epoch(connection) == made
    assert connection.execute("SELECT value FROM meta WHERE key = 'mine'").fetchone() == ("x",)


def test_an_earlier_version_is_brought_up_with_its_data(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(connection)
    made = epoch(connection)
    later = (*MIGRATIONS, ("CREATE TABLE more (x)", "INSERT INTO more VALUES (1)"), ("DROP TABLE more",))
    monkeypatch.setattr(schema, "MIGRATIONS", later[:-1])
    prepare(connection)
    assert (version(connection), epoch(connection)) == (len(MIGRATIONS) + 1, made)
    assert connection.execute("SELECT x FROM more").fetchall() == [(1,)]
    prepare(connection)
    assert connection.execute("SELECT x FROM more").fetchall() == [(1,)]
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    prepare(connection)
    assert "more" not in tables(connection)


def test_a_migration_that_fails_changes_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(connection)
    before = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE more (x)", "CREATE TABLE changes (y)"))
    )
    with pytest.raises(sqlite3.OperationalError):
        prepare(connection)
    connection.execute("ROLLBACK")  # what closing the file does
    assert version(connection) == len(MIGRATIONS)
    assert connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall() == before


async def test_rooms_of_the_first_version_are_read(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as first:
        for statement in MIGRATIONS[0]:
            first.execute(statement)
        first.execute("PRAGMA user_version = 1")
        first.execute("INSERT INTO rooms VALUES ('room', 'group', 'A', 'a', 'key', 'juan', 1, 1, NULL)")
    storage = SqliteStorage(path)
    await storage.open()
    assert (await storage.find_rooms(["room"]))["room"].digest == ""
    await storage.close()


async def test_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    storage = SqliteStorage(path)
    await storage.open()
    await storage.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreRefusedError, match=r"newer Tertulia.*Run the newer version"):
        await storage.open()
    with closing(sqlite3.connect(path)) as other:
        assert version(other) == len(MIGRATIONS) + 1
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    await storage.open()
    await storage.close()


async def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE users (theirs)")
        other.commit()
    with pytest.raises(StoreRefusedError, match="another program"):
        await SqliteStorage(path).open()
    with closing(sqlite3.connect(path)) as other:
        assert tables(other) == {"users"}


async def test_a_start_blanks_what_a_deletion_left(path: Path) -> None:
    storage = SqliteStorage(path)
    await storage.open()
    kept, gone = message_change("room", 1, content="kept"), message_change("room", 2, content="secret")
    edit = edit_change(gone.message, 3, "secret too", last_seq=2)
    await storage.append([kept, gone, edit, delete_change(edit.message, 4, last_seq=2)])
    await storage.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE changes SET content = 'secret', attachments = '[{}]' WHERE rev IN (2, 3)")
        other.commit()
    await storage.open()
    await storage.close()
    with closing(sqlite3.connect(path)) as other:
        rows = other.execute("SELECT rev, content, attachments FROM changes ORDER BY rev").fetchall()
    assert rows == [(1, "kept", None), (2, None, None), (3, None, None), (4, None, None)]


def test_the_sweep_of_a_start_reads_no_more_than_the_newest_deletions(connection: Connection) -> None:
    traced: list[str] = []
    prepare(connection)
    connection.set_trace_callback(traced.append)
    prepare(connection)
    connection.set_trace_callback(None)
    (sweep,) = (statement for statement in traced if statement.startswith("UPDATE changes"))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sweep}")]
    assert any("INDEX changes_deletions (kind=?)" in step for step in plan)
    assert not any(step.startswith(("SCAN changes", "SCAN body")) for step in plan)
    assert not any("B-TREE FOR ORDER BY" in step for step in plan)
