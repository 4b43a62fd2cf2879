"""What stands in a row, and what becomes of one that cannot be read."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from server.storage.sqlite.database import Connection
from server.storage.sqlite.entries import EntryReader, insert, split
from server.storage.sqlite.schema import prepare
from tests.builders import delete_change, edit_change, message_change, react_change


@pytest.fixture
def connection() -> Iterator[Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        prepare(opened)
        yield opened


def read(connection: Connection) -> bytes:
    (found,) = connection.execute(
        "SELECT CAST('[' || group_concat(entry) || ']' AS BLOB) FROM entries"
    ).fetchone()
    assert isinstance(found, bytes)
    return found


MESSAGE = message_change("room", 1, content="one", attachments=({"id": "a"},))
LIKE = react_change(MESSAGE.message, 2, by="ana")
EDIT = edit_change(LIKE.message, 3, "uno")


def test_the_text_stands_only_in_messages_and_edits(connection: Connection) -> None:
    insert(connection, [MESSAGE, LIKE, EDIT, delete_change(EDIT.message, 4)])
    rows = connection.execute("SELECT kind, content, attachments FROM changes ORDER BY rev").fetchall()
    assert rows == [
        ("message", "one", '[{"id":"a"}]'),
        ("react", None, None),
        ("edit", "uno", '[{"id":"a"}]'),
        ("delete", None, None),
    ]
    states = [state for (state,) in connection.execute("SELECT state FROM changes")]
    assert not any("one" in state or "uno" in state or "attachments" in state for state in states)


def test_an_entry_is_read_with_the_text_of_its_own_time(connection: Connection) -> None:
    insert(connection, [MESSAGE, LIKE, EDIT])
    reader = EntryReader()
    assert reader.changes(split(read(connection))) == [MESSAGE, LIKE, EDIT]
    assert reader.messages(split(read(connection))) == [MESSAGE.message, LIKE.message, EDIT.message]
    assert reader.skipped == 0


def test_nothing_is_an_empty_list() -> None:
    assert split(None) == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE changes SET state = '{' WHERE rev = 1", "truncated"),
        ("UPDATE changes SET state = '{}' WHERE rev = 1", "sender_id"),
        ("""UPDATE changes SET state = '{"sender_id":7,"created_at":1}' WHERE rev = 1""", "Expected `str`"),
        ("UPDATE changes SET state = CAST(x'ff' AS TEXT) WHERE rev = 1", "utf-8"),
        ("UPDATE changes SET kind = 'of the future' WHERE rev = 1", "Invalid enum value"),
        ("UPDATE changes SET at = 'noon' WHERE rev = 1", "Expected `int`"),
        ("UPDATE changes SET content_rev = 99 WHERE rev = 1", "Expected `int`, got `null`"),
        ("UPDATE changes SET content = CAST(x'ff' AS TEXT) WHERE rev = 1", "utf-8"),
        ("UPDATE changes SET attachments = 'x' WHERE rev = 1", "malformed"),
    ],
)
def test_a_damaged_row_is_left_out_reported_and_counted(
    connection: Connection, caplog: pytest.LogCaptureFixture, damage: str, reason: str
) -> None:
    insert(connection, [message_change("before", 8), MESSAGE, message_change("after", 9)])
    connection.execute(damage)
    reader = EntryReader()
    assert [each.room_id for each in reader.changes(split(read(connection)))] == ["before", "after"]
    assert reader.skipped == 1
    (record,) = caplog.records
    report = str(record.msg)
    assert "store.undecodable" in report
    assert reason in report
    assert "'room': 'room', 'rev': 1" in report


def test_a_tombstone_shows_nothing_of_a_text_that_was_not_blanked(connection: Connection) -> None:
    gone = delete_change(MESSAGE.message, 2)
    insert(connection, [MESSAGE, gone])
    assert EntryReader().changes(split(read(connection)))[1] == gone


def test_a_state_written_by_a_later_version_is_read(connection: Connection) -> None:
    insert(connection, [MESSAGE])
    (state,) = connection.execute("SELECT state FROM changes").fetchone()
    later = msgspec.json.decode(state) | {"of_the_future": [1]}
    connection.execute("UPDATE changes SET state = ?", (msgspec.json.encode(later).decode(),))
    assert EntryReader().changes(split(read(connection))) == [MESSAGE]
