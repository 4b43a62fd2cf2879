"""How MongoDB finds what it is asked for: by an index, in the order of it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from server.storage.mongo import store
from server.storage.mongo.database import Database
from server.storage.mongo.schema import INDEXES
from server.storage.mongo.store import MongoStorage
from tests.builders import CREATED_AT
from tests.unit.storage.mongo.wire import Wire, use

Inside = AsyncDatabase[dict[str, Any]]
ASKING = ("find", "find_one", "update", "update_each", "delete", "count_by")
READ_WHOLE = ("nodes",)
"""A document for each server: all of them are wanted."""

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


async def used(url: str, wire: Wire) -> list[dict[str, Any]]:
    """What to explain of a first start, a use of everything, and a start over what each start sees to."""
    joined = MongoStorage(url, is_alone=False, timeout_s=10)
    await joined.open()
    await use(joined)
    await joined.report("dead", at=CREATED_AT, is_heard=True)
    await joined.close()
    commands = list(wire.commands)
    await prepare_a_start(url)
    wire.commands[:] = commands
    alone = MongoStorage(url, timeout_s=10, lease_s=1.5)
    await alone.open()
    await alone.close()
    return list(queries(wire.commands))


async def prepare_a_start(url: str) -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url)
    inside = client.get_default_database()
    await inside.rooms.update_one({"_id": "plaza"}, {"$set": {"is_emptying": True}})
    await inside.rooms.update_one({"_id": "room"}, {"$set": {"vacated": "x"}})
    await inside.changes.update_one({"kind": "delete"}, {"$set": {"is_unblanked": True}})
    await client.close()


def asking_places() -> dict[Path, list[range]]:
    """The lines of every call that asks the database for something, but for what `_id`s alone find."""
    places: dict[Path, list[range]] = {}
    for path in Path(store.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        attr=attr, value=ast.Attribute(attr="_database") | ast.Name("database")
                    ),
                    args=[ast.Constant(value=str(collection)), *_],
                ) if attr in ASKING and collection != "meta":
                    assert node.end_lineno is not None
                    places.setdefault(path, []).append(range(node.lineno, node.end_lineno + 1))
    return places


def listen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """Where the database was asked from: files and lines."""
    asked: set[tuple[str, int]] = set()
    for name in ASKING:
        given = getattr(Database, name)

        def ask(*args: Any, given: Any = given, **options: Any) -> Any:
            frame = sys._getframe(1)
            asked.add((frame.f_code.co_filename, frame.f_lineno))
            return given(*args, **options)

        monkeypatch.setattr(Database, name, ask)
    return asked


def has_index(collection: str, query: dict[str, Any]) -> bool:
    """Whether the first field of some index is bound by the query, or by each of its alternatives."""
    firsts = {"_id", *(next(iter(index.document["key"])) for index in INDEXES[collection])}
    bound = {
        name
        for name, what in query.items()
        if not (isinstance(what, dict) and what.keys() <= {"$ne", "$nin", "$regex"})
    }
    others = query.get("$or", [])
    return bool(bound & firsts) or bool(others and all(has_index(collection, each) for each in others))


def condition(query: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The collection, and what is to hold of its documents."""
    kind = next(iter(query))
    if kind == "aggregate":
        return query[kind], query["pipeline"][0]["$match"]
    return query[kind], query["filter"] if kind == "find" else query[f"{kind}s"][0]["q"]


async def test_what_is_explained_is_everything_that_the_code_asks(
    url: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = listen(monkeypatch)
    await used(url, wire)
    places = asking_places()
    assert sum(map(len, places.values())) > 40
    missing = [
        f"{path.name}:{lines.start}"
        for path, found in places.items()
        for lines in found
        if not any(file == str(path) and line in lines for file, line in asked)
    ]
    assert missing == []


async def test_every_query_binds_the_first_field_of_an_index(url: str, wire: Wire) -> None:
    asked = await used(url, wire)
    assert {next(iter(each)) for each in asked} == set(KINDS)
    for query in asked:
        collection, wanted = condition(query)
        assert collection in READ_WHOLE or has_index(collection, wanted), query


@pytest.mark.real_mongod
async def test_every_read_goes_by_an_index_and_those_of_the_log_need_no_sorting(
    url: str, wire: Wire, inside: Inside
) -> None:
    for query in await used(url, wire):
        found = set(stages(await inside.command("explain", query, verbosity="queryPlanner")))
        assert found, query
        assert "COLLSCAN" not in found or condition(query)[0] in READ_WHOLE, query
        assert "SORT" not in found or condition(query)[0] != "changes", query
