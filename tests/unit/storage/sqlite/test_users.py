"""What only SQLite promises of users: logins long past are forgotten, a bounded number at a time."""

from server.domain.models import Login
from server.storage.sqlite.store import SqliteStorage
from server.storage.sqlite.users import LONG_PAST_MS
from tests.builders import CREATED_AT, user


def login(login_id: str, *, rotated_at: int, expires_at: int) -> Login:
    return Login(id=login_id, user_id="juan", n=0, rotated_at=rotated_at, expires_at=expires_at)


async def test_a_new_login_forgets_those_long_past_alone(storage: SqliteStorage) -> None:
    limit = CREATED_AT - LONG_PAST_MS
    await storage.create_login(login("long past", rotated_at=0, expires_at=limit - 1))
    await storage.revoke_login(login("revoked", rotated_at=0, expires_at=limit - 1))
    await storage.create_login(login("past", rotated_at=0, expires_at=limit))
    await storage.create_login(login("new", rotated_at=CREATED_AT, expires_at=CREATED_AT + 5))
    found = {
        each: await storage.find_login(each) is not None for each in ("long past", "revoked", "past", "new")
    }
    assert found == {"long past": False, "revoked": False, "past": True, "new": True}


async def test_a_revocation_forgets_those_long_past_too(storage: SqliteStorage) -> None:
    await storage.revoke_login(login("long past", rotated_at=0, expires_at=1))
    await storage.revoke_login(login("new", rotated_at=CREATED_AT, expires_at=CREATED_AT + 5))
    assert await storage.find_login("long past") is None
    assert await storage.find_login("new") is not None


async def test_what_one_login_forgets_is_bounded(storage: SqliteStorage) -> None:
    for index in range(150):
        await storage.create_login(login(f"{index}", rotated_at=0, expires_at=1))
    for left in (50, 0):
        await storage.create_login(login(f"new-{left}", rotated_at=CREATED_AT, expires_at=CREATED_AT))
        assert await storage._database.read("SELECT count(*) FROM logins WHERE expires_at = 1") == left


async def test_a_revocation_is_remembered_until_the_later_of_two_ends(storage: SqliteStorage) -> None:
    for expires_at in (9, 12, 5):
        await storage.revoke_login(login("outside", rotated_at=0, expires_at=expires_at))
    found = await storage.find_login("outside")
    assert found is not None
    assert found.expires_at == 12


async def test_a_name_that_begins_with_the_last_character_is_found(storage: SqliteStorage) -> None:
    await storage.create_user(user("juan", display_name="a\U0010fffe"), None)
    assert [each.id for each in await storage.search_users("a", "", 5)] == ["juan"]
