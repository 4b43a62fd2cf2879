"""What only SQLite promises of the log: whole batches, blanking, pages that are full."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from server.domain.models import Change
from server.storage.base import CollisionError
from server.storage.sqlite.database import Connection
from server.storage.sqlite.store import SqliteStorage
from tests.builders import delete_change, edit_change, message_change, react_change


async def change_rows(storage: SqliteStorage, statement: str) -> None:
    def run(connection: Connection) -> None:
        connection.execute(statement)

    await storage._database.write(run)


async def count_instructions(storage: SqliteStorage, room_id: str) -> int:
    """How many steps (in tens) SQLite takes for a page of 50 messages."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    readers = storage._database._readers
    assert readers is not None
    await storage.messages_between(room_id, 1, 50)
    await asyncio.wrap_future(readers.submit(lambda connection: connection.set_progress_handler(count, 10)))
    assert len(await storage.messages_between(room_id, 1, 50)) == 50
    await asyncio.wrap_future(readers.submit(lambda connection: connection.set_progress_handler(None, 10)))
    return steps


async def test_a_refused_batch_leaves_nothing(storage: SqliteStorage) -> None:
    await storage.append([message_change("room", 1)])
    with pytest.raises(CollisionError):
        await storage.append(
            [message_change("other", rev) for rev in range(1, 100)] + [message_change("room", 1, key="late")]
        )
    assert (await storage.heads(["other"]))["other"].rev == 0


async def test_a_writer_that_goes_away_leaves_its_whole_batch_or_nothing(storage: SqliteStorage) -> None:
    rev, outcomes = 0, set()
    for turns in range(60):
        batch = [message_change("room", rev + 1 + index, key=f"{turns}-{index}") for index in range(40)]
        task = asyncio.create_task(storage.append(batch))
        for _ in range(turns % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await storage.set_last_seen([("nobody", 1)])  # the writer has gone past it
        head = (await storage.heads(["room"]))["room"].rev
        assert head in (rev, rev + 40)
        outcomes.add(head - rev)
        rev = head
    assert outcomes == {0, 40}
    log = await storage.changes_after("room", 0, 10_000)
    assert [change.rev for change in log] == list(range(1, rev + 1))


async def test_a_deleted_text_stands_nowhere_in_the_file(storage: SqliteStorage, path: Path) -> None:
    texts = ["a long secret \U0001f92b " * 400, "a short secret", "said by another"]
    log: list[Change] = [message_change("room", rev, content=text) for rev, text in enumerate(texts, start=1)]
    log.append(edit_change(log[1].message, 4, "an edited secret", last_seq=3))
    log.append(react_change(log[3].message, 5, by="ana", last_seq=3))
    await storage.append(log)
    await storage.append([delete_change(log[0].message, 6, last_seq=3)])
    await storage.append([delete_change(log[4].message, 7, last_seq=3)])
    await storage.close()
    with closing(sqlite3.connect(path)) as other:
        rows = other.execute("SELECT * FROM changes").fetchall()
    assert len(rows) == 7
    assert "secret" not in str(rows)
    assert "said by another" in str(rows)
    assert b"secret" not in await asyncio.to_thread(path.read_bytes)


async def test_a_message_deleted_in_the_batch_that_makes_it_is_blanked(storage: SqliteStorage) -> None:
    made = message_change("room", 1, content="a secret")
    await storage.append([made, delete_change(made.message, 2)])
    found = await storage._database.read("SELECT count(*) FROM changes WHERE content IS NOT NULL")
    assert found == 0


async def test_entries_that_do_not_decode_are_skipped_and_counted_once(storage: SqliteStorage) -> None:
    await storage.append([message_change("room", rev) for rev in range(1, 11)])
    await change_rows(storage, "UPDATE changes SET state = '{' WHERE rev IN (3, 4, 8)")
    assert [each.seq for each in await storage.messages_between("room", 1, 10)] == [1, 2, 5, 6, 7, 9, 10]
    assert await storage.count_undecodable() == 3
    assert list(await storage.messages_at([("room", 3), ("room", 5)])) == [("room", 5)]
    assert list(await storage.find_messages([("room", "room-3"), ("room", "room-5")])) == [("room", "room-5")]
    assert list(await storage.find_by_keys([("room", "room-3"), ("room", "room-5")])) == [("room", "room-5")]
    assert await storage.count_undecodable() == 3


async def test_a_page_is_full_although_entries_of_it_were_skipped(storage: SqliteStorage) -> None:
    await storage.append([message_change("room", rev) for rev in range(1, 11)])
    await change_rows(storage, "UPDATE changes SET state = '{' WHERE rev IN (2, 3, 5)")
    assert [each.rev for each in await storage.changes_after("room", 0, 4)] == [1, 4, 6, 7]
    assert [each.rev for each in await storage.changes_after("room", 7, 4)] == [8, 9, 10]
    await change_rows(storage, "UPDATE changes SET state = '{'")
    assert await storage.changes_after("room", 0, 4) == []


async def test_reading_a_page_costs_the_same_however_much_was_reacted(storage: SqliteStorage) -> None:
    for room_id, reactions in (("quiet", 0), ("loud", 200)):
        batch = [message_change(room_id, rev) for rev in range(1, 51)]
        rev = 50
        for message in [change.message for change in batch]:
            for index in range(reactions):
                rev += 1
                batch.append(react_change(message, rev, by=f"user-{index}", last_seq=50))
        await storage.append(batch)
    quiet, loud = await count_instructions(storage, "quiet"), await count_instructions(storage, "loud")
    assert quiet > 50
    assert loud < 1.2 * quiet
