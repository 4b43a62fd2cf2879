"""How the server is asked: concerns, bounds, and errors that give nothing away."""

import asyncio
import gc
from typing import Any

import bson
import pytest
from bson.timestamp import Timestamp
from msgspec.structs import replace
from pymongo.asynchronous.database import AsyncDatabase

from server.domain.errors import UnavailableError
from server.storage.base import StoreRefusedError
from server.storage.mongo import log as mongo_log
from server.storage.mongo.database import Database, Driver
from server.storage.mongo.store import MongoStorage
from tests.builders import message_change, react_change
from tests.unit.storage.mongo.posing import posing
from tests.unit.storage.mongo.wire import Wire, use

DRIVERS: tuple[Driver, ...] = ("pymongo", "motor")
PASSWORD = "hunter2-secret"
READS = ("find", "aggregate")
WRITES = ("insert", "update", "delete")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_what_is_read_and_written_is_the_majoritys_and_journaled_whatever_the_url_says(
    url: str, wire: Wire, driver: Driver
) -> None:
    less = "readPreference=secondary&readConcernLevel=local&w=1&journal=false&retryWrites=true"
    storage = MongoStorage(f"{url}{'&' if '?' in url else '?'}{less}", driver=driver, timeout_s=10)
    await storage.open()
    wire.commands.clear()
    await use(storage)
    await storage.close()
    reads = [each for each in wire.commands if next(iter(each)) in READS]
    writes = [each for each in wire.commands if next(iter(each)) in WRITES]
    assert len(reads) > 10
    assert {next(iter(each)) for each in writes} == set(WRITES)
    for each in reads:
        assert each["readConcern"]["level"] == "majority"
        assert each.get("$readPreference", {"mode": "primary"})["mode"] in ("primary", "primaryPreferred")
    for each in writes:
        assert each["writeConcern"] == {"w": "majority", "j": True, "wtimeout": 10_000}
        assert "txnNumber" not in each
    assert all("lsid" in each for each in (*reads, *writes))


async def test_a_batch_is_one_ordered_insert(url: str, wire: Wire, storage: MongoStorage) -> None:
    await storage.close()  # it has the lease, and was not listened to
    second = MongoStorage(url, is_alone=False, timeout_s=10)
    await second.open()
    wire.commands.clear()
    await second.append([message_change("room", rev, content="x" * 16_000) for rev in range(1, 501)])
    await second.close()
    (insert,) = (each for each in wire.commands if "insert" in each)
    assert insert["ordered"] is True


async def test_no_insert_is_over_the_limit_whatever_the_changes_weigh(
    url: str, wire: Wire, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mongo_log._MOST_BYTES == 8 * 2**20
    monkeypatch.setattr(mongo_log, "_MOST_BYTES", 2**20)
    await storage.close()  # it has the lease, and was not listened to
    second = MongoStorage(url, is_alone=False, timeout_s=60)
    await second.open()
    wire.commands.clear()
    who = tuple(f"{number:064d}" for number in range(20))
    busy = replace(message_change("room", 1).message, reactions={f"reaction-{n}": who for n in range(40)})
    busy = replace(busy, reaction_counts=dict.fromkeys(busy.reactions, 20))
    changes = [
        replace(react_change(busy, rev, by=f"user-{rev}"), message=replace(busy, rev=rev))
        for rev in range(1, 41)
    ]
    await second.append(changes)
    sizes = [sum(len(bson.encode(dict(d))) for d in c["documents"]) for c in wire.commands if "insert" in c]
    assert sum(sizes) > max(sizes) > 0.9 * 2**20
    assert max(sizes) <= 2**20
    assert (await second.heads(["room"]))["room"].rev == 40
    await second.close()


# The drivers leave a socket that never connected to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "url",
    [
        f"mongodb://juan:{PASSWORD}@127.0.0.1:1/chat",
        f"mongodb://juan:{PASSWORD}@nowhere.invalid:1/chat",
    ],
)
async def test_a_server_that_is_not_there_is_reported_in_time_without_the_password(
    url: str, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MongoStorage(url, driver=driver, timeout_s=0.5)
    async with asyncio.timeout(5):
        with pytest.raises(UnavailableError, match=r"cannot be reached within 0\.5 s") as raised:
            await storage.open()
    assert PASSWORD not in str(raised.value) + caplog.text
    assert raised.value.__cause__ is None
    gc.collect()


@pytest.mark.parametrize(
    "url",
    [
        f"mongodb://juan:{PASSWORD}/x@127.0.0.1:27017/chat",
        f"mongodb://juan:{PASSWORD}@127.0.0.1:port/chat",
        f"mongodb://juan:{PASSWORD}@/chat",
        f"http://juan:{PASSWORD}@127.0.0.1/chat",
    ],
)
async def test_a_url_that_is_none_is_refused_without_showing_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StoreRefusedError, match="expected mongodb://USER") as raised:
        await MongoStorage(url, timeout_s=0.5).open()
    assert PASSWORD not in str(raised.value) + caplog.text


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_file_of_the_url_that_cannot_be_read_is_named_without_its_password(driver: Driver) -> None:
    options = f"tls=true&tlsCertificateKeyFile=/nowhere&tlsCertificateKeyFilePassword={PASSWORD}"
    with pytest.raises(StoreRefusedError, match="tlsCertificateKeyFile") as raised:
        await MongoStorage(f"mongodb://127.0.0.1:1/?{options}", driver=driver, timeout_s=0.5).open()
    assert PASSWORD not in str(raised.value)


async def test_a_wrong_password_is_refused_with_the_reason(url: str) -> None:
    head, _, rest = url.partition("://")
    with pytest.raises(StoreRefusedError, match="the user or the password") as raised:
        await MongoStorage(f"{head}://juan:{PASSWORD}@{rest}", timeout_s=5).open()
    assert PASSWORD not in str(raised.value)


async def test_a_caller_that_goes_away_leaves_its_write_to_its_end(
    storage: MongoStorage, inside: AsyncDatabase[dict[str, Any]]
) -> None:
    task = asyncio.create_task(storage.append([message_change("room", 1)]))
    await asyncio.sleep(0)  # it begins
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await storage.close()
    assert await inside.changes.count_documents({}) == 1


class Session:
    """What a session of a replica set reports."""

    def __init__(self, seconds: int) -> None:
        self.operation_time = Timestamp(seconds, 1)
        self.cluster_time = {"clusterTime": self.operation_time}
        self.begun_at: list[object] = []

    def advance_operation_time(self, time: Timestamp) -> None:
        self.begun_at.append(time)

    def advance_cluster_time(self, time: object) -> None:
        self.begun_at.append(time)


def test_each_call_begins_where_the_furthest_one_before_it_ended() -> None:
    database: Any = Database("mongodb://x", driver="pymongo", timeout_s=1)
    first = Session(1)
    database._go_on_in(first)
    assert first.begun_at == []
    for session in (first, Session(5), Session(3)):
        database._remember(session)
    last = Session(9)
    database._go_on_in(last)
    assert last.begun_at == [{"clusterTime": Timestamp(5, 1)}, Timestamp(5, 1)]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_one_server_of_several_is_not_asked_directly(driver: Driver) -> None:
    hosts = ["one:27017", "two:27017"]
    said = {"setName": "chat", "hosts": hosts, "secondary": True, "isWritablePrimary": False, "me": hosts[0]}
    async with posing(lambda _: said) as port:
        storage = MongoStorage(f"mongodb://127.0.0.1:{port}/chat?directConnection=true", driver=driver)
        with pytest.raises(StoreRefusedError, match="directConnection"):
            await storage.open()


async def test_a_server_that_tells_operation_times_alone_is_used() -> None:
    """Such are said to speak the protocol, and to have no clusters."""
    asked = []

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        asked.append(command)
        cursor = {"id": 0, "ns": "chat.meta", "firstBatch": [{"_id": "schema", "epoch": "x"}]}
        time = {"operationTime": Timestamp(5, 1)}
        session = {"logicalSessionTimeoutMinutes": 30, "isWritablePrimary": True, "setName": "chat"}
        return session | time | {"hosts": ["one:27017"], "me": "one:27017", "cursor": cursor}

    async with posing(answer) as port:
        url = f"mongodb://127.0.0.1:{port}/chat?directConnection=true"
        database = Database(url, driver="pymongo", timeout_s=5)
        await database.open()
        for _ in range(2):
            assert await database.find_one("meta", {"_id": "schema"}) is not None
        await database.close()
    (_, second) = (each["readConcern"] for each in asked if "find" in each)
    assert second == {"level": "majority", "afterClusterTime": Timestamp(5, 1)}
