"""Every statement of the store finds its rows by an index, and every index serves a statement."""

import asyncio
import re

import pytest

from server.domain.models import Login
from server.storage.sqlite.database import Connection
from server.storage.sqlite.store import SqliteStorage
from tests.builders import (
    CREATED_AT,
    delete_change,
    edit_change,
    member,
    message_change,
    react_change,
    room,
    user,
)


async def call_everything(storage: SqliteStorage) -> None:
    """Each method at least once, the writing ones with something to write."""
    await storage.create_user(user("juan"), "hash")
    await storage.create_user(user("ana"), None)
    await storage.find_users(["juan"])
    await storage.find_credentials("juan")
    await storage.update_user("juan", display_name="Juan", avatar_url=None, revoked_before=1)
    await storage.search_users("j", "", 10)
    await storage.set_last_seen([("juan", 1)])
    login = Login(id="login", user_id="juan", n=0, rotated_at=CREATED_AT, expires_at=CREATED_AT)
    await storage.create_login(login)
    await storage.find_login("login")
    await storage.rotate_login("login", 0, CREATED_AT, CREATED_AT)
    await storage.revoke_login(login)
    await storage.revoke_logins("juan")
    await storage.create_room(room("room"), [member("room", "juan", role="owner")])
    await storage.find_rooms(["room"])
    await storage.public_rooms("a", "", 10)
    await storage.update_room("room", name="Another")
    await storage.add_member(member("room", "ana"))
    await storage.find_member("room", "ana")
    await storage.members("room", (0, ""), 10)
    await storage.memberships("ana")
    await storage.member_counts(["room"])
    await storage.set_role("room", "ana", "admin")
    await storage.set_role("room", "juan", "member")
    message = message_change("room", 1, by="juan")
    like = react_change(message.message, 2, by="ana")
    edit = edit_change(like.message, 3, "uno")
    await storage.append([message, like, edit, delete_change(edit.message, 4)])
    await storage.heads(["room"])
    await storage.find_by_keys([("room", message.key)])
    await storage.find_messages([("room", message.key)])
    await storage.messages_between("room", 1, 50)
    await storage.messages_at([("room", 1)])
    await storage.changes_after("room", 0, 50)
    await storage.own_reactions([("room", "ana", 1)])
    await storage.advance_cursors([("room", "ana", 1)])
    await storage.remove_member("room", "juan")
    await storage.update_room("room", deleted_at=1)
    await storage.epoch()
    await storage.ping()


@pytest.fixture
async def plans(storage: SqliteStorage) -> dict[str, list[str]]:
    """SQLite's plan of each statement that the store runs."""
    traced: list[str] = []
    workers = (storage._database._writer, storage._database._readers)
    for each in workers:
        assert each is not None
        await asyncio.wrap_future(
            each.submit(lambda connection: connection.set_trace_callback(traced.append))
        )
    await call_everything(storage)
    for each in workers:
        assert each is not None
        await asyncio.wrap_future(each.submit(lambda connection: connection.set_trace_callback(None)))
    statements = {each for each in traced if re.match("SELECT|WITH|INSERT|UPDATE|DELETE", each)}
    assert len(statements) > 40

    def explain(connection: Connection) -> dict[str, list[str]]:
        return {
            each: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {each}")] for each in statements
        }

    return await storage._database.write(explain)


def test_no_statement_reads_a_whole_table(plans: dict[str, list[str]]) -> None:
    """What is read through is what was asked for and what was found, never a table."""
    allowed = ("SCAN wanted", "SCAN seen", "SCAN json_each", "SCAN head", "SCAN (subquery-")
    scans = {step for plan in plans.values() for step in plan if step.startswith("SCAN")}
    assert [
        step for step in scans if not (step.startswith(allowed) or step.endswith(("CONSTANT ROW", "ROWS")))
    ] == []
    assert any(step.startswith("SEARCH c USING INDEX") for plan in plans.values() for step in plan)


def test_no_statement_sorts_but_the_search_for_users(plans: dict[str, list[str]]) -> None:
    """It joins two ranges; what it sorts is what begins with the query."""
    sorting = [statement for statement, plan in plans.items() if any("TEMP B-TREE" in step for step in plan)]
    assert all("FROM user_documents" in statement and "UNION" in statement for statement in sorting)


async def test_every_index_serves_a_statement(storage: SqliteStorage, plans: dict[str, list[str]]) -> None:
    steps = " ".join(step for plan in plans.values() for step in plan)
    found = await storage._database.read(
        "SELECT group_concat(name) FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    )
    unused = {name for name in found.split(",") if f"INDEX {name} " not in steps}
    assert unused == {"changes_deletions"}  # which serves the sweep of a start
