"""What stands in a document, and what becomes of one that cannot be read."""

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from msgspec.structs import replace

from server.domain.models import Change
from server.storage.mongo.database import AS_STORED
from server.storage.mongo.entries import Entry, Reader, to_document
from tests.builders import delete_change, edit_change, message_change, react_change

MESSAGE = message_change("room", 1, content="one", attachments=({"a.b": 2**70, "$c": "\0"},))
LIKE = react_change(MESSAGE.message, 2, by="ana", reaction_type="$odd.name")
EDIT = edit_change(LIKE.message, 3, "uno")
DELETION = delete_change(EDIT.message, 4)
LOG = [MESSAGE, LIKE, EDIT, DELETION]


def stored(change: Change) -> RawBSONDocument:
    return RawBSONDocument(bson.encode(to_document(change)))


def test_a_log_reads_back_as_it_was_with_the_text_of_each_time() -> None:
    reader = Reader()
    entries = reader.each(Entry, [stored(change) for change in LOG])
    assert reader.changes(entries, {(each.room_id, each.rev): each for each in entries}) == LOG
    assert reader.skipped == 0


def test_the_text_stands_only_in_messages_and_edits() -> None:
    documents = [to_document(change) for change in LOG]
    assert [each.get("content") for each in documents] == ["one", None, "uno", None]
    assert ["attachments" in each for each in documents] == [True, False, True, False]
    assert not any("uno" in str(each["state"]) for each in documents)


def test_a_key_is_always_there_and_only_deletions_are_marked() -> None:
    documents = [to_document(change) for change in LOG]
    assert all(each["key"] for each in documents)
    assert [each["_id"] for each in documents] == ["room:1", "room:2", "room:3", "room:4"]
    assert ["is_unblanked" in each for each in documents] == [False, False, False, True]


@pytest.mark.parametrize(
    "broken",
    [
        {"state": 5},
        {"rev": "two"},
        {"kind": "unknown"},
        {"content": 1},
        {"seq": None},
        {"at": DatetimeMS(2**62)},
        {"state": {"created_at": DatetimeMS(-(2**62))}},
    ],
)
def test_a_document_of_another_shape_is_skipped_reported_and_counted(
    broken: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader()
    document = RawBSONDocument(bson.encode(to_document(MESSAGE) | broken), AS_STORED)
    assert [each.rev for each in reader.each(Entry, [document, stored(LIKE)])] == [2]
    assert reader.skipped == 1
    assert "room:1" in caplog.text


def test_text_that_is_no_unicode_is_skipped_and_does_not_spoil_its_page() -> None:
    reader = Reader()
    bad = RawBSONDocument(bytes(stored(MESSAGE).raw).replace(b"one", b"\xff\xfee"), AS_STORED)
    assert [each.rev for each in reader.each(Entry, [bad, stored(EDIT)])] == [3]
    assert reader.skipped == 1


def test_an_entry_whose_text_is_gone_is_skipped_but_a_tombstone_needs_none() -> None:
    reader = Reader()
    entries = reader.each(Entry, [stored(LIKE), stored(replace(DELETION, rev=2))])
    assert [each.kind for each in reader.changes(entries, {})] == ["delete"]
    assert reader.skipped == 1
