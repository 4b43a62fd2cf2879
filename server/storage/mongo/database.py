"""One MongoDB database: the connection, how it is asked, and what its errors mean.

Everything is read from the primary with read concern majority and written with write concern majority,
journaled. Each call runs in a causally consistent session that begins where the calls before it ended: what
this process has read or written is never unseen again. A server without clusters (a standalone one) reports
no times, and needs none.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient, ReadPreference, UpdateMany, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)
from pymongo.operations import IndexModel
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from server.domain.errors import UnavailableError
from server.storage.base import StoreRefusedError
from server.telemetry import Repeats, get_logger

Driver = Literal["pymongo", "motor"]
Document = Mapping[str, Any]
Sort = Sequence[tuple[str, int]]

DEFAULT_NAME = "tertulia"
"""The database of a URL that names none."""

AS_STORED = CodecOptions(
    document_class=RawBSONDocument,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""Documents come undecoded: one that is broken must not spoil its page, and its id can still be shown."""

_BAD_CREDENTIALS = (18, 8000)
_NOT_ALLOWED = 13
_DUPLICATE = 11000
_SELECTION_PART = 0.6

_T = TypeVar("_T")
_Client = AsyncMongoClient[RawBSONDocument]
_Database = AsyncDatabase[RawBSONDocument]
_Call = Callable[[_Database, AsyncClientSession], Awaitable[_T]]

_log = get_logger(__name__)


class TakenError(Exception):
    """A document with the same unique value stands already; of a batch, those before it were stored.

    `is_first`: it is for certain that none was.
    """

    def __init__(self, *, is_first: bool = False) -> None:
        super().__init__()
        self.is_first = is_first


class Database:
    """Runs single commands; knows no collection.

    Each raises UnavailableError when the answer takes longer than `timeout_s`, when the server cannot be
    reached or fails, and when the database is not open: what became of a write is then unknown. Nothing is
    written twice: a driver that repeats an insert by itself could take its own first try for somebody else's.
    `fence` is called before each write, and raises when this server may not write any more; not to `meta`.
    """

    def __init__(self, url: str, *, driver: Driver, timeout_s: float) -> None:
        self._url = url
        self._driver = driver
        self._timeout_s = timeout_s
        self._client: _Client | None = None
        self._database: _Database | None = None
        self._operation_time: Any = None
        self._cluster_time: Any = None
        self.fence: Callable[[], None] = lambda: None
        self._calls: set[asyncio.Task[Any]] = set()
        self._failures = Repeats()

    async def open(self) -> None:
        """Connect. Raises StoreRefusedError (the URL, the credentials) and UnavailableError (no answer)."""
        try:
            self._client = self._connect()
            self._database = self._client.get_default_database(DEFAULT_NAME).with_options(
                codec_options=AS_STORED,
                read_preference=ReadPreference.PRIMARY,
                read_concern=ReadConcern("majority"),
                write_concern=WriteConcern("majority", wtimeout=self._timeout_ms, j=True),
            )
            async with asyncio.timeout(self._timeout_s):
                hello = await self._client.admin.command("hello")
                # The first command that needs the credentials' rights.
                await self._database.command("listCollections", nameOnly=True)
        except (InvalidURI, ConfigurationError, ValueError) as error:
            await self.close()
            # What the driver says may show a part of the URL, and that of the password.
            raise StoreRefusedError(
                f"the URL is not one of MongoDB ({type(error).__name__}); expected "
                "mongodb://USER:PASSWORD@HOST:PORT/DATABASE, with percent-encoding in user and password."
            ) from None
        except (PyMongoError, TimeoutError) as error:
            await self.close()
            raise self._refusal(error) from None
        except OSError as error:
            await self.close()
            raise StoreRefusedError(
                f"a file that the URL names (tlsCAFile, tlsCertificateKeyFile) is not one to use "
                f"({type(error).__name__}), or its password is wrong."
            ) from None
        if self._client.options.direct_connection and members_of(hello) > 1:
            await self.close()
            # The driver would take whatever a member answers, also when another one is the primary.
            raise StoreRefusedError(
                "the URL has directConnection=true, and the server is one of a replica set: it would be read "
                "also when it is not the primary. Leave directConnection out, and add replicaSet=…"
            )
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            _log.warning(
                "store.not_replicated",
                detail="one server alone: what it stores is lost with it. Make it a replica set.",
            )

    def _connect(self) -> _Client:
        options: dict[str, Any] = {
            "appname": "tertulia",
            "retryWrites": False,
            "serverSelectionTimeoutMS": int(self._timeout_ms * _SELECTION_PART),
            "connectTimeoutMS": self._timeout_ms,
            "socketTimeoutMS": self._timeout_ms,
            "waitQueueTimeoutMS": self._timeout_ms,
        }
        if self._driver == "pymongo":
            return AsyncMongoClient(self._url, **options)
        from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - needed only where it is chosen

        # Motor has the same calls; what differs is in `_settled`.
        return cast("_Client", AsyncIOMotorClient(self._url, **options))

    @property
    def _timeout_ms(self) -> int:
        return int(self._timeout_s * 1000)

    def _refusal(self, error: PyMongoError | TimeoutError) -> Exception:
        code = error.code if isinstance(error, OperationFailure) else None
        if code in _BAD_CREDENTIALS:
            return StoreRefusedError("MongoDB does not accept the user or the password of the URL.")
        if code == _NOT_ALLOWED:
            return StoreRefusedError(
                "MongoDB does not let this user in: give it the role readWrite on the database of the URL, "
                "and add authSource=… where the user belongs to another one."
            )
        if isinstance(error, OperationFailure):
            _log.error("store.failed", reason=_describe(error))
            return StoreRefusedError(f"MongoDB refuses: error {code} ({type(error).__name__}).")
        return UnavailableError(
            f"MongoDB cannot be reached within {self._timeout_s:g} s. Start it, or correct the host, the "
            "port and the replicaSet of the URL."
        )

    async def close(self) -> None:
        """Finish what is being asked, then close the connections. May be called twice."""
        client, self._client, self._database = self._client, None, None
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._timeout_s)
        if client is not None:
            await _settled(client.close())

    async def insert(self, collection: str, document: Document) -> bool:
        """Store one document. False, and nothing done: one with the same unique value stands already."""
        self._require_allowed(collection)
        try:
            await self._run(lambda db, session: db[collection].insert_one(_plain(document), session=session))
        except TakenError:
            return False
        return True

    async def insert_in_order(self, collection: str, documents: Sequence[Document]) -> None:
        """Store them in order by one command. Raises TakenError: those before the taken one are stored."""
        self._require_allowed(collection)
        await self._run(
            lambda db, session: db[collection].insert_many(
                [_plain(each) for each in documents], ordered=True, session=session
            )
        )

    async def find(
        self,
        collection: str,
        query: Document,
        *,
        limit: int,
        sort: Sort | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[RawBSONDocument]:
        """The first `limit` documents, with these fields alone where given."""
        if limit <= 0:
            return []

        async def find(db: _Database, session: AsyncClientSession) -> list[RawBSONDocument]:
            cursor = db[collection].find(
                query,
                fields,
                sort=sort,
                limit=limit,
                batch_size=limit,
                max_time_ms=self._timeout_ms,
                session=session,
            )
            return await cursor.to_list(limit)

        return await self._run(find)

    async def find_one(self, collection: str, query: Document) -> RawBSONDocument | None:
        """One document."""
        found = await self.find(collection, query, limit=1)
        return found[0] if found else None

    async def update(
        self, collection: str, query: Document, update: Document, *, is_many: bool = False
    ) -> int:
        """How many documents the query found; `update` is done to the first, or to all of them."""
        self._require_allowed(collection)

        async def run(db: _Database, session: AsyncClientSession) -> int:
            call = db[collection].update_many if is_many else db[collection].update_one
            return (await call(query, update, session=session)).matched_count

        return await self._run(run)

    async def update_each(
        self, collection: str, updates: Sequence[tuple[Document, Document]], *, is_many: bool = False
    ) -> None:
        """Each update to what its query finds, by one command."""
        self._require_allowed(collection)
        kind = UpdateMany if is_many else UpdateOne
        writes = [kind(query, update) for query, update in updates]
        await self._run(lambda db, session: db[collection].bulk_write(writes, ordered=False, session=session))

    async def delete(self, collection: str, query: Document, *, is_many: bool = False) -> int:
        """How many documents were removed: at most one, or all that the query finds."""
        self._require_allowed(collection)

        async def run(db: _Database, session: AsyncClientSession) -> int:
            call = db[collection].delete_many if is_many else db[collection].delete_one
            return (await call(query, session=session)).deleted_count

        return await self._run(run)

    async def count_by(self, collection: str, query: Document, field: str) -> dict[str, int]:
        """How many of the documents there are for each value of the field."""
        stages: list[Document] = [{"$match": query}, {"$group": {"_id": f"${field}", "count": {"$sum": 1}}}]

        async def run(db: _Database, session: AsyncClientSession) -> list[RawBSONDocument]:
            cursor: AsyncCommandCursor[RawBSONDocument] = await _settled(
                db[collection].aggregate(stages, session=session)
            )
            return await cursor.to_list(None)

        return {each["_id"]: each["count"] for each in await self._run(run)}

    async def collection_names(self) -> list[str]:
        """The names of the collections there are."""
        return await self._run(lambda db, session: db.list_collection_names(session=session))

    async def create_indexes(self, collection: str, indexes: Sequence[IndexModel]) -> None:
        """Make those that are missing.

        Over much that is stored it may take longer than the time-out: the server goes on with them, and the
        next call finds those that are done.
        """
        if self._database is None:
            raise UnavailableError("the store is not open")
        name = ""
        try:
            present = await self._database[collection].index_information()
            missing = [index for index in indexes if index.document["name"] not in present]
            for index in missing:
                name = index.document["name"]
                await self._database[collection].create_indexes([index])
        except (ExecutionTimeout, WTimeoutError) as error:
            raise self._translate(error) from None
        except OperationFailure as error:
            _log.error("store.failed", reason=_describe(error))
            raise StoreRefusedError(
                f"MongoDB cannot make the index {name} of the collection {collection} (error {error.code}): "
                "documents break it, or another one has its name. Remove what does, or restore a backup."
            ) from None
        except PyMongoError as error:
            raise self._translate(error) from None

    def _require_allowed(self, collection: str) -> None:
        if collection != "meta":  # there is the lease itself
            self.fence()

    async def _run(self, call: _Call[_T]) -> _T:
        """Run it in a task of its own, which a caller that goes away leaves to its end.

        A connection whose command is cut off must be closed; and the driver may swallow a cancellation.
        """
        client, database = self._client, self._database
        if client is None or database is None:
            raise UnavailableError("the store is not open")
        task = asyncio.create_task(self._call(client, database, call), name="mongo.call")
        self._calls.add(task)
        task.add_done_callback(self._forget)
        ending = asyncio.get_running_loop().call_later(self._timeout_s, task.cancel)
        task.add_done_callback(lambda _: ending.cancel())
        await asyncio.wait([task], timeout=self._timeout_s)
        if not task.done() or task.cancelled():
            raise self._translate(TimeoutError())
        error = task.exception()
        if isinstance(error, PyMongoError | TimeoutError):
            raise self._translate(error) from None
        return task.result()

    async def _call(self, client: _Client, database: _Database, call: _Call[_T]) -> _T:
        session: AsyncClientSession = await _settled(client.start_session(causal_consistency=True))
        try:
            self._go_on_in(session)
            return await call(database, session)
        finally:
            self._remember(session)
            await session.end_session()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone

    def _go_on_in(self, session: AsyncClientSession) -> None:
        if self._cluster_time is not None:
            session.advance_cluster_time(self._cluster_time)
        if self._operation_time is not None:
            session.advance_operation_time(self._operation_time)

    def _remember(self, session: AsyncClientSession) -> None:
        reached = session.operation_time
        if reached is not None and (self._operation_time is None or reached > self._operation_time):
            self._operation_time = reached
            self._cluster_time = session.cluster_time or self._cluster_time

    def _translate(self, error: PyMongoError | TimeoutError) -> Exception:
        if isinstance(error, DuplicateKeyError):
            return TakenError()
        if isinstance(error, BulkWriteError) and _is_taken(error):
            return TakenError(is_first=_is_first_taken(error))
        if (left_out := self._failures.admit(type(error).__name__)) is not None:
            _log.error("store.failed", reason=_describe(error), left_out=left_out)
        if isinstance(error, TimeoutError | NetworkTimeout | ServerSelectionTimeoutError):
            return UnavailableError("the store does not answer in time")
        return UnavailableError("the store cannot be used now")


def members_of(hello: Document) -> int:
    """How many members the replica set has whose member gave this answer to `hello`; 0: it is of none."""
    return sum(len(hello.get(each, ())) for each in ("hosts", "passives", "arbiters"))


async def _settled(answer: Any) -> Any:
    """What a call answers that only one of the two drivers has as a coroutine."""
    return await answer if inspect.isawaitable(answer) else answer


def _plain(document: Document) -> Any:
    # The driver's types want documents of the class that reads give.
    return document if isinstance(document, RawBSONDocument) else dict(document)


def _is_taken(error: BulkWriteError) -> bool:
    return any(each.get("code") == _DUPLICATE for each in error.details.get("writeErrors", ()))


def _is_first_taken(error: BulkWriteError) -> bool:
    failed = [(each.get("index"), each.get("code")) for each in error.details.get("writeErrors", ())]
    return failed == [(0, _DUPLICATE)] and not error.details.get("writeConcernErrors")


def _describe(error: Exception) -> str:
    """What the log may have of it: the driver's text can hold the document that was refused."""
    code = error.code if isinstance(error, OperationFailure) else None
    return type(error).__name__ if code is None else f"{type(error).__name__} {code}"
