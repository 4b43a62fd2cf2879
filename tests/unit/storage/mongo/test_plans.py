"""How MongoDB finds what it is asked for: by an index, in the order of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from server.storage.mongo.store import MongoStorage
from tests.unit.storage.mongo.wire import Wire, use

Inside = AsyncDatabase[dict[str, Any]]
KINDS = ("find", "aggregate", "update", "delete")
# Of the connection, not of the query.
OF_THE_CALL = {"$db", "$readPreference", "$clusterTime", "lsid", "maxTimeMS", "readConcern", "writeConcern"}


def queries(commands: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What to explain of these commands: of those that write many things, one after the other."""
    for command in commands:
        kind = next(iter(command))
        if kind in KINDS:
            plain = {name: value for name, value in command.items() if name not in OF_THE_CALL}
            batch = f"{kind}s"
            for each in plain.pop(batch, [None]):
                yield plain if each is None else plain | {batch: [each]}


def stages(plan: object) -> Iterator[str]:
    """The names of all stages in an explanation."""
    if isinstance(plan, dict):
        if isinstance(plan.get("stage"), str):
            yield plan["stage"]
        for name, part in plan.items():
            if name != "rejectedPlans":
                yield from stages(part)
    elif isinstance(plan, list):
        for part in plan:
            yield from stages(part)


@pytest.mark.real_mongod
async def test_every_read_goes_by_an_index_and_those_of_the_log_need_no_sorting(
    url: str, wire: Wire, inside: Inside
) -> None:
    storage = MongoStorage(url, timeout_s=10)
    await storage.open()
    await use(storage)
    await storage.close()
    asked = list(queries(wire.commands))
    assert {next(iter(each)) for each in asked} == set(KINDS)
    for query in asked:
        found = set(stages(await inside.command("explain", query, verbosity="queryPlanner")))
        assert found, query
        assert "COLLSCAN" not in found, query
        assert "SORT" not in found or "changes" not in query.values(), query
