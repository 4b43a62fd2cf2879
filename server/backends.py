"""The store, the bus and what is losable, as the two URLs of the settings choose them."""

from dataclasses import dataclass
from typing import Any

from server import events
from server.ephemeral.base import Ephemeral
from server.ephemeral.memory import MemoryEphemeral
from server.realtime.bus import Bus, BusRefusedError, MemoryBus, Source
from server.realtime.recovery import Recovery
from server.realtime.server import Server
from server.settings import DatabaseSettings, Settings
from server.storage.base import NodeStore, Storage
from server.telemetry import new_error_id

# A reader waits for an answer on purpose; nobody else waits for so long.
_WRITE_TIMEOUT_S = 1.0
_READ_TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Backends:
    """What one server works with. `node` is its name among the others.

    `recovery` goes with the namespace (None: of this process alone). `nodes` is where servers of a cluster
    report (None: there is one server alone).
    """

    node: str
    storage: Storage
    ephemeral: Ephemeral
    bus: Bus
    recovery: Recovery | None = None
    nodes: NodeStore | None = None


def make_backends(settings: Settings, engine: Server, source: Source) -> Backends:
    """By a local import each: what is not chosen need not be installed. Raises BusRefusedError (the URL)."""
    if settings.cluster.is_memory:
        storage, _ = _make_storage(settings.database, is_alone=True)
        bus = MemoryBus(engine, namespace=events.NAMESPACE)
        return Backends(node=new_error_id(), storage=storage, ephemeral=MemoryEphemeral(), bus=bus)
    from server.ephemeral.redis import RedisEphemeral
    from server.realtime.redis_streams.bus import RedisBus
    from server.realtime.redis_streams.recovery import make_recovery
    from server.redis_client import RedisRefusedError, make_client

    url = settings.cluster.url
    try:
        writing, reading = (make_client(url, timeout_s=each) for each in (_WRITE_TIMEOUT_S, _READ_TIMEOUT_S))
    except RedisRefusedError as error:
        raise BusRefusedError(str(error)) from None
    recovery = make_recovery(writing, engine.options)
    redis_bus = RedisBus(engine, source, recovery, (writing, reading), namespace=events.NAMESPACE)
    storage, nodes = _make_storage(settings.database, is_alone=False)
    return Backends(
        node=redis_bus.node,
        storage=storage,
        ephemeral=RedisEphemeral(url, node=redis_bus.node),
        bus=redis_bus,
        recovery=recovery,
        nodes=nodes,
    )


def _make_storage(database: DatabaseSettings, *, is_alone: bool) -> tuple[Storage, NodeStore | None]:
    if database.is_sqlite:
        from server.storage.sqlite.store import SqliteStorage

        return SqliteStorage(database.path, readers=database.readers, timeout_s=database.timeout_s), None
    from server.storage.mongo.store import MongoStorage

    options: dict[str, Any] = {"driver": database.driver, "timeout_s": database.timeout_s}
    storage = MongoStorage(database.url, is_alone=is_alone, **options)
    return storage, storage
