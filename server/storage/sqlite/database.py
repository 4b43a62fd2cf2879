"""One SQLite file: a writer thread, reader threads, and the lease that keeps a second server out.

For each row it steps to, the sqlite3 module gives up the interpreter's lock and must get it back from a busy
event loop, which may take 5 ms. So what is read comes as one value, a JSON text that SQLite puts together,
and rows are inserted many at a time: beside a loop that never rests a page of 50 takes 11 ms, not 98.
"""

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from server.domain.errors import UnavailableError
from server.storage.base import StoreRefusedError
from server.telemetry import get_logger

Connection = sqlite3.Connection

OLDEST_SQLITE = (3, 33)
"""The first that knows UPDATE ... FROM."""

MAX_WAITING = 1_000
"""Calls that may wait for the writer, and for the readers; one more is refused at once."""

STOP_TIMEOUT_S = 30.0
"""How long `close` waits for what is being written."""

_WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",  # a deleted text leaves no trace in the file's free space
    "PRAGMA cache_size = -32768",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
)
_READER_PRAGMAS = (
    "PRAGMA query_only = ON",
    "PRAGMA cache_size = -16384",
    "PRAGMA mmap_size = 268435456",
)
_SYNCHRONOUS_FULL = 2

_T = TypeVar("_T")
_Run = tuple[Future[Any], Callable[[Connection], Any]]

_log = get_logger(__name__)


def to_json(value: object) -> str:
    """A parameter for the functions of SQLite that take JSON."""
    return msgspec.json.encode(value).decode()


class TakenError(Exception):
    """A row with the same unique value stands already; nothing of the transaction was stored."""


class Database:
    """Reads values and runs transactions; knows no table.

    `write` and `read` raise UnavailableError when the answer takes longer than `timeout_s`, when too many
    wait, when the file cannot be used, and when the database is not open. No error of SQLite leaves here.
    """

    def __init__(self, path: Path, *, readers: int, timeout_s: float) -> None:
        self._path = path
        self._reader_count = readers
        self._timeout_s = timeout_s
        self._writer: _Workers | None = None
        self._readers: _Workers | None = None
        self._held = ExitStack()
        self._closing = threading.Lock()

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Take the lease, open the file and run `prepare` on the writer's connection before anything else.

        Not bounded in time, for a migration must be finished. Raises StoreRefusedError, UnavailableError and
        what `prepare` raises.
        """
        await asyncio.to_thread(self._open, prepare)

    def _open(self, prepare: Callable[[Connection], None]) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreRefusedError(
                f"this Python has SQLite {sqlite3.sqlite_version}; at least "
                f"{'.'.join(map(str, OLDEST_SQLITE))} is needed. Use a newer Python or system library."
            )
        with ExitStack() as stack:
            try:
                _create_private(self._path)
                stack.enter_context(closing(_take_lease(self._path)))
                writer = stack.enter_context(closing(_connect(self._path, self._timeout_s, _WRITER_PRAGMAS)))
                _check_durable(writer, self._path)
                prepare(writer)
                readers = [
                    stack.enter_context(closing(_connect(self._path, self._timeout_s, _READER_PRAGMAS)))
                    for _ in range(self._reader_count)
                ]
            except OSError as error:
                raise StoreRefusedError(
                    f"cannot use {self._path}: {error.strerror}. Give the server a directory it may write to."
                ) from error
            except sqlite3.DatabaseError as error:
                raise _refusal(error, self._path) from error
            self._writer = _Workers("sqlite-writer", [writer])
            stack.callback(self._writer.stop)
            self._readers = _Workers("sqlite-reader", readers)
            stack.callback(self._readers.stop)
            self._held = stack.pop_all()

    async def close(self) -> None:
        """Finish what is being read and written, close the file, give the lease back. May be called twice."""
        self._writer = self._readers = None
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.to_thread(self._close)
        except TimeoutError:
            raise UnavailableError("the store does not finish what it is writing") from None

    def _close(self) -> None:
        # A second call waits for the first, which waits for the threads, before files are closed under them.
        with self._closing:
            self._held.close()

    async def write(self, fn: Callable[[Connection], _T]) -> _T:
        """Run `fn` as one transaction, synced to disk when this returns; nothing is stored when `fn` raises.

        One function on the writer's thread: a caller that goes away cannot split it. Raises TakenError.
        """
        return await self._run(self._writer, partial(_transact, fn))

    async def read(self, statement: str, *parameters: str | int) -> Any:
        """The first value of the first row, None without one; sees every write that was answered before."""
        return await self._run(self._readers, partial(_first_value, statement, parameters))

    async def _run(self, workers: "_Workers | None", fn: Callable[[Connection], _T]) -> _T:
        if workers is None:
            raise UnavailableError("the store is not open")
        future = workers.submit(fn)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise UnavailableError("the store does not answer in time") from None


class _Workers:
    """Threads that take functions from one bounded queue, each with a connection of its own.

    A function whose caller has left before its turn is dropped; one that has begun is finished.
    """

    def __init__(self, name: str, connections: list[Connection]) -> None:
        self._queue: queue.Queue[_Run | None] = queue.Queue(MAX_WAITING)
        # Daemons: a disk that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, args=(each,), name=f"{name}-{index}", daemon=True)
            for index, each in enumerate(connections)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[[Connection], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        try:
            self._queue.put_nowait((future, fn))
        except queue.Full:
            raise UnavailableError("the store has too much to do") from None
        return future

    def stop(self) -> None:
        """Blocks until everything that waits is done."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, connection: Connection) -> None:
        while (run := self._queue.get()) is not None:
            future, fn = run
            if future.set_running_or_notify_cancel():
                _settle(future, fn, connection)
            del run, future, fn  # waiting for the next one must not keep this one's data


def _settle(future: Future[_T], fn: Callable[[Connection], _T], connection: Connection) -> None:
    try:
        result = fn(connection)
    except sqlite3.Error as error:
        future.set_exception(_translate(error))
    except BaseException as error:  # noqa: BLE001 - it is the caller's, who waits for it
        future.set_exception(error)
    else:
        future.set_result(result)


def _transact(fn: Callable[[Connection], _T], connection: Connection) -> _T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = fn(connection)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return result


def _first_value(statement: str, parameters: Sequence[str | int], connection: Connection) -> Any:
    row = connection.execute(statement, parameters).fetchone()
    return row[0] if row else None


def _translate(error: sqlite3.Error) -> Exception:
    name = _name(error)
    if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
        return TakenError()
    # What SQLite says names tables and columns, never values.
    _log.error("store.failed", reason=f"{name}: {error}")
    return UnavailableError("the store cannot be used now")


def _name(error: sqlite3.Error) -> str:
    """SQLite's name of it; the module's own errors have none."""
    return getattr(error, "sqlite_errorname", type(error).__name__)


def _refusal(error: sqlite3.DatabaseError, path: Path) -> Exception:
    if _name(error) in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return StoreRefusedError(
            f"{path} is not a SQLite database or is damaged. Restore a backup, or set another database.url."
        )
    return _translate(error)


def _create_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never opens a file that exists: closing it again would give up all locks this process holds on it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _take_lease(path: Path) -> Connection:
    """Hold a lock that the operating system lets go when this process ends, however it ends."""
    file = path.with_name(f"{path.name}.lease")
    _create_private(file)
    lease = _connect(file, timeout_s=0, pragmas=())
    try:
        lease.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written to it
        lease.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lease.close()
        if _name(error) != "SQLITE_BUSY":
            raise
        raise StoreRefusedError(
            f"another server uses {path}. Stop it, or give this one another database.url; "
            "several servers on one store need mongodb:// and redis://."
        ) from None
    return lease


def _connect(path: Path, timeout_s: float, pragmas: tuple[str, ...]) -> Connection:
    # Opened and closed on other threads than the one that uses it, never used by two at a time.
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    with ExitStack() as stack:
        stack.callback(connection.close)
        for pragma in pragmas:
            connection.execute(pragma)
        stack.pop_all()
    return connection


def _check_durable(writer: Connection, path: Path) -> None:
    (mode,) = writer.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = writer.execute("PRAGMA synchronous").fetchone()
    if mode != "wal" or synchronous != _SYNCHRONOUS_FULL:
        raise StoreRefusedError(
            f"{path} cannot be written durably (journal_mode {mode}, synchronous {synchronous}). "
            "Put it on a local file system."
        )
