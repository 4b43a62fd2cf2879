"""Durability, bounds and the lease, on real files, threads and processes."""

import asyncio
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server.domain.errors import UnavailableError
from server.storage.base import StoreRefusedError
from server.storage.sqlite import database as module
from server.storage.sqlite.database import MAX_WAITING, Connection, Database, TakenError

ROOT = Path(__file__).parents[4]


def make_table(connection: Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS things (name TEXT UNIQUE)")


def add(*names: str) -> Callable[[Connection], None]:
    def insert(connection: Connection) -> None:
        for name in names:
            connection.execute("INSERT INTO things VALUES (?)", (name,))

    return insert


async def names(database: Database) -> str:
    found = await database.read("SELECT group_concat(name) FROM (SELECT name FROM things ORDER BY name)")
    return found or ""


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    opened = Database(path, readers=2, timeout_s=30)
    await opened.open(make_table)
    yield opened
    await opened.close()


@pytest.fixture
async def hasty(path: Path) -> AsyncIterator[Database]:
    """One that waits for half a second."""
    opened = Database(path, readers=2, timeout_s=0.5)
    await opened.open(make_table)
    yield opened
    await opened.close()


class Gate:
    """Holds a thread until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _: Connection) -> None:
        self.reached.set()
        self.opened.wait(10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


async def test_the_writer_syncs_each_commit_of_a_write_ahead_log(database: Database) -> None:
    def pragmas(connection: Connection) -> dict[str, object]:
        asked = ("synchronous", "journal_mode", "foreign_keys", "secure_delete", "query_only")
        return {each: connection.execute(f"PRAGMA {each}").fetchone()[0] for each in asked}

    assert await database.write(pragmas) == {
        "synchronous": 2,  # FULL
        "journal_mode": "wal",
        "foreign_keys": 1,
        "secure_delete": 1,
        "query_only": 0,
    }


async def test_a_file_that_cannot_be_written_durably_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pragma in ("PRAGMA journal_mode = DELETE", "PRAGMA synchronous = NORMAL"):
        monkeypatch.setattr(module, "_WRITER_PRAGMAS", ("PRAGMA journal_mode = WAL", pragma))
        with pytest.raises(StoreRefusedError, match="durably"):
            await Database(path, readers=1, timeout_s=1).open(make_table)


async def test_a_read_sees_every_write_before_it(database: Database) -> None:
    for index in range(50):
        await database.write(add(f"{index:02}"))
        assert (await names(database)).endswith(f"{index:02}")


async def test_a_reader_writes_nothing(database: Database) -> None:
    with pytest.raises(UnavailableError):
        await database.read("INSERT INTO things VALUES (?) RETURNING name", "x")
    assert await names(database) == ""


async def test_a_function_that_fails_stores_nothing(database: Database) -> None:
    def fail(connection: Connection) -> None:
        add("one")(connection)
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        await database.write(fail)
    assert await names(database) == ""
    await database.write(add("two"))
    assert await names(database) == "two"


async def test_a_taken_value_undoes_the_whole_function(database: Database) -> None:
    await database.write(add("one"))
    with pytest.raises(TakenError):
        await database.write(add("two", "one"))
    assert await names(database) == "one"


@pytest.mark.parametrize(
    "statement", ["SELECT * FROM nowhere", "no statement", "SELECT 1; SELECT 2", "SELECT ?", "ROLLBACK"]
)
async def test_no_error_of_sqlite_comes_out(
    database: Database, statement: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnavailableError) as raised:
        await database.read(statement)
    assert "store" in raised.value.message
    assert not any(word in raised.value.message.lower() for word in ("sql", "nowhere", "syntax"))
    with pytest.raises(UnavailableError):
        await database.write(lambda connection: connection.execute(statement).fetchall())
    capfd.readouterr()


async def test_a_full_disk_is_unavailable_until_there_is_room(database: Database) -> None:
    def limit(pages: int) -> Callable[[Connection], None]:
        def set_limit(connection: Connection) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

        return set_limit

    await database.write(limit(1))
    with pytest.raises(UnavailableError):
        await database.write(add("x" * 1_000_000))
    await database.write(limit(1_000_000))
    await database.write(add("now it fits"))
    assert await names(database) == "now it fits"


async def test_a_file_locked_by_another_program_is_unavailable_until_it_is_free(
    hasty: Database, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError):
            await hasty.write(add("one"))
        assert await names(hasty) == ""  # readers go on
        other.execute("ROLLBACK")
    await hasty.write(add("two"))
    assert (await names(hasty)).endswith("two")


async def test_a_call_that_takes_too_long_is_unavailable_and_may_still_be_done(
    hasty: Database, gate: Gate
) -> None:
    def slow(connection: Connection) -> None:
        gate(connection)
        add("slow")(connection)

    with pytest.raises(UnavailableError, match="in time"):
        await hasty.write(slow)
    gate.opened.set()
    await hasty.write(add("next"))
    assert await names(hasty) == "next,slow"


async def test_a_call_whose_caller_left_before_its_turn_is_not_done(database: Database, gate: Gate) -> None:
    first = asyncio.create_task(database.write(gate))
    second = asyncio.create_task(database.write(add("left")))
    await asyncio.to_thread(gate.reached.wait)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.opened.set()
    await first
    await database.write(add("stayed"))
    assert await names(database) == "stayed"


async def test_a_call_whose_caller_left_after_it_began_is_done_whole(database: Database, gate: Gate) -> None:
    def begun(connection: Connection) -> None:
        add("one")(connection)
        gate(connection)
        add("two")(connection)

    task = asyncio.create_task(database.write(begun))
    await asyncio.to_thread(gate.reached.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    await database.write(add("three"))
    assert await names(database) == "one,three,two"


async def test_a_call_beyond_the_bound_is_refused_at_once(database: Database, gate: Gate) -> None:
    running = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.reached.wait)
    waiting = [asyncio.create_task(database.write(add(str(index)))) for index in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="too much"):
        await database.write(add("one more"))
    assert await names(database) == ""  # readers have a queue of their own
    assert not any(task.done() for task in waiting)
    for task in waiting[1:]:
        task.cancel()
    await asyncio.gather(*waiting[1:], return_exceptions=True)
    gate.opened.set()
    await asyncio.gather(running, waiting[0])
    await database.write(add("more"))
    assert await names(database) == "0,more"


async def test_one_slow_read_does_not_hold_up_the_others(database: Database, gate: Gate) -> None:
    assert database._readers is not None
    slow = database._readers.submit(gate)
    await asyncio.to_thread(gate.reached.wait)
    assert await names(database) == ""
    gate.opened.set()
    await asyncio.wrap_future(slow)


async def test_closing_finishes_what_was_begun_and_what_waits(database: Database, path: Path) -> None:
    writes = [asyncio.create_task(database.write(add(str(index)))) for index in range(50)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM things").fetchone() == (50,)


async def test_closing_does_not_wait_for_ever_and_still_lets_the_writer_finish(
    database: Database, path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(connection: Connection) -> None:
        gate(connection)
        add("slow")(connection)

    task = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(gate.reached.wait)
    with monkeypatch.context() as hasty:
        hasty.setattr(module, "STOP_TIMEOUT_S", 0.05)
        for _ in range(3):
            with pytest.raises(UnavailableError, match="finish"):
                await database.close()
    gate.opened.set()
    await task
    await database.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM things").fetchall() == [("slow",)]


async def test_nobody_else_may_read_the_files(database: Database, path: Path) -> None:
    await database.write(add("one"))
    files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert files == {
        "tertulia.db": 0o600,
        "tertulia.db-wal": 0o600,
        "tertulia.db-shm": 0o600,
        "tertulia.db.lease": 0o600,
    }
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("Dear diary, this is not a database. " * 100)
    with pytest.raises(StoreRefusedError, match="not a SQLite database"):
        asyncio.run(Database(path, readers=1, timeout_s=1).open(make_table))


async def test_a_sqlite_that_is_too_old_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 32, 9))
    with pytest.raises(StoreRefusedError, match=r"at least 3\.33"):
        await Database(path, readers=1, timeout_s=1).open(make_table)


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreRefusedError, match="cannot use"):
        await Database(tmp_path / "file" / "tertulia.db", readers=1, timeout_s=1).open(make_table)


async def test_an_opening_that_fails_gives_everything_back(path: Path) -> None:
    def fail(_: Connection) -> None:
        raise StoreRefusedError("not today")

    database = Database(path, readers=1, timeout_s=1)
    with pytest.raises(StoreRefusedError, match="not today"):
        await database.open(fail)
    await database.open(make_table)
    await database.write(add("one"))
    await database.close()


HOLDER = """
import asyncio, pathlib, sys
from server.storage.base import StoreRefusedError
from server.storage.sqlite.store import SqliteStorage
from tests.builders import message_change

async def main():
    storage = SqliteStorage(pathlib.Path(sys.argv[1]))
    await storage.open()
    await storage.append([message_change("room", 1)])
    try:
        await SqliteStorage(pathlib.Path(sys.argv[1])).open()
    except StoreRefusedError:
        print("open", flush=True)  # and holds the lease as before
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_server_leaves_no_lease_and_loses_nothing(path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert await asyncio.wait_for(child.stdout.readline(), 20) == b"open\n"
        database = Database(path, readers=1, timeout_s=5)
        with pytest.raises(StoreRefusedError, match="another server"):
            await database.open(lambda _: None)
    finally:
        child.kill()
        await child.wait()
    await database.open(lambda _: None)
    assert await database.read("SELECT max(rev) FROM changes WHERE room_id = ?", "room") == 1
    await database.close()
