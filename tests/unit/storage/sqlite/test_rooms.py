"""What only SQLite promises of rooms."""

import pytest

from server.domain.errors import UnavailableError
from server.storage.sqlite.database import Connection
from server.storage.sqlite.store import SqliteStorage
from tests.builders import member, room


async def test_a_room_is_made_with_all_its_members_or_not_at_all(storage: SqliteStorage) -> None:
    with pytest.raises(UnavailableError):  # a membership of another room breaks the foreign key
        await storage.create_room(room("room"), [member("room", "juan"), member("nowhere", "ana")])
    assert await storage.find_rooms(["room"]) == {}
    assert await storage.memberships("juan") == []


async def test_no_row_of_a_deleted_rooms_members_is_left(storage: SqliteStorage) -> None:
    await storage.create_room(room("room"), [member("room", "juan", role="owner"), member("room", "ana")])
    await storage.update_room("room", deleted_at=1)

    def count(connection: Connection) -> int:
        (members,) = connection.execute("SELECT count(*) FROM members").fetchone()
        return int(members)

    assert await storage._database.write(count) == 0
