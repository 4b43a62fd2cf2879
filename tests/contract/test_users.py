"""The laws of people and their logins."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from server.domain.models import Login, User
from server.storage.base import Storage, UsernameTakenError
from tests.builders import CREATED_AT, user

DAY_MS = 24 * 3600 * 1000


def login(
    login_id: str = "login", *, user_id: str = "juan", n: int = 0, rotated_at: int = CREATED_AT
) -> Login:
    return Login(
        id=login_id, user_id=user_id, n=n, rotated_at=rotated_at, expires_at=rotated_at + 30 * DAY_MS
    )


async def test_a_user_is_created_once(storage: Storage) -> None:
    first = replace(user("juan"), avatar_url="https://example.org/a?b=1&c='2'", last_seen=5)
    assert await storage.create_user(first, "hash") == first
    again = user("juan", username="another", display_name="Another")
    assert await storage.create_user(again, "another hash") == first
    assert await storage.find_users(["juan", "nobody"]) == {"juan": first}
    assert await storage.find_credentials("juan") == (first, "hash")
    assert await storage.find_credentials("another") is None


async def test_asking_for_nobody_answers_nobody(storage: Storage) -> None:
    assert await storage.find_users([]) == {}
    await storage.set_last_seen([])


@pytest.mark.parametrize("username", ["juan", "JUAN", "Juan"])
async def test_a_username_is_taken_without_case(storage: Storage, username: str) -> None:
    await storage.create_user(user("first", username="juan"), None)
    with pytest.raises(UsernameTakenError):
        await storage.create_user(user("second", username=username), None)
    assert list(await storage.find_users(["first", "second"])) == ["first"]
    assert await storage.find_credentials(username) == (user("first", username="juan"), None)


async def test_a_username_asked_for_by_many_at_once_goes_to_one(storage: Storage) -> None:
    answers = await asyncio.gather(
        *(storage.create_user(user(f"user-{index}", username="same"), None) for index in range(10)),
        return_exceptions=True,
    )
    (winner,) = (each for each in answers if isinstance(each, User))
    assert sum(isinstance(each, UsernameTakenError) for each in answers) == 9
    assert await storage.find_credentials("same") == (winner, None)


@pytest.mark.parametrize("username", ["' OR '1'='1", "%", "_uan", "", "juan\x00"])
async def test_credentials_are_found_by_the_whole_username_alone(storage: Storage, username: str) -> None:
    await storage.create_user(user("juan"), "hash")
    assert await storage.find_credentials(username) is None


@pytest.mark.parametrize("password_hash", ['$argon2id$v=19$"quoted"\\', None])
async def test_a_password_hash_comes_back_as_it_was(storage: Storage, password_hash: str | None) -> None:
    await storage.create_user(user("juan"), password_hash)
    assert await storage.find_credentials("juan") == (user("juan"), password_hash)


async def test_what_is_given_of_a_profile_is_set_and_the_rest_stays(storage: Storage) -> None:
    await storage.create_user(user("juan"), "hash")
    named = await storage.update_user("juan", display_name="Ñandú \u202e👍")
    assert named == replace(user("juan"), display_name="Ñandú \u202e👍")
    pictured = await storage.update_user("juan", avatar_url="https://example.org/a.png")
    assert pictured == replace(named, avatar_url="https://example.org/a.png")
    bare = await storage.update_user("juan", avatar_url=None)
    assert bare == named
    assert await storage.update_user("juan") == named
    assert await storage.find_credentials("juan") == (named, "hash")
    assert await storage.update_user("nobody", display_name="X") is None


async def test_revoked_before_never_moves_back(storage: Storage) -> None:
    await storage.create_user(user("juan"), None)
    answers = [await storage.update_user("juan", revoked_before=at) for at in (5, 9, 7)]
    assert [each.revoked_before for each in answers if each] == [5, 9, 9]
    found = await storage.find_users(["juan"])
    assert found["juan"].revoked_before == 9


async def test_last_seen_is_recorded_for_those_who_exist(storage: Storage) -> None:
    await storage.create_user(user("juan"), None)
    await storage.create_user(user("ana"), None)
    await storage.set_last_seen([("juan", CREATED_AT + 5), ("nobody", 7)])
    found = await storage.find_users(["juan", "ana", "nobody"])
    assert {each.id: each.last_seen for each in found.values()} == {"juan": CREATED_AT + 5, "ana": None}


PEOPLE = [
    user("1", username="ana", display_name="Zoë Ágil"),
    user("2", username="anabel", display_name="Straße"),
    user("3", username="b_c", display_name="100% Ana"),
    user("4", username="bxc", display_name="ÁGIL"),
    user("5", username="juan", display_name="Ana 👍 Ruiz"),
]


@pytest.mark.parametrize(
    ("query", "usernames"),
    [
        ("", ["ana", "anabel", "b_c", "bxc", "juan"]),
        ("ana", ["ana", "anabel", "juan"]),
        ("ANA", ["ana", "anabel", "juan"]),
        ("ana 👍", ["juan"]),
        ("b_", ["b_c"]),
        ("100%", ["b_c"]),
        ("%", []),
        ("ág", ["bxc"]),
        ("STRASS", ["anabel"]),
        ("zoë á", ["ana"]),
        ("' OR 1=1 --", []),
    ],
)
async def test_users_are_found_by_the_beginning_of_a_name(
    storage: Storage, query: str, usernames: Sequence[str]
) -> None:
    for each in PEOPLE:
        await storage.create_user(each, None)
    assert [each.username for each in await storage.search_users(query, "", 10)] == list(usernames)


async def test_found_users_come_in_pages(storage: Storage) -> None:
    for each in PEOPLE:
        await storage.create_user(each, None)
    first = await storage.search_users("ana", "", 2)
    assert first == [PEOPLE[0], PEOPLE[1]]
    assert await storage.search_users("ana", "anabel", 2) == [PEOPLE[4]]
    assert await storage.search_users("ana", "juan", 2) == []


async def test_a_user_is_found_by_the_present_display_name_alone(storage: Storage) -> None:
    await storage.create_user(user("juan", display_name="Old"), None)
    await storage.update_user("juan", display_name="NEW")
    assert await storage.search_users("old", "", 10) == []
    assert [each.id for each in await storage.search_users("new", "", 10)] == ["juan"]


async def test_a_login_begins_unrevoked(storage: Storage) -> None:
    await storage.create_login(login())
    assert await storage.find_login("login") == login()
    assert await storage.find_login("unknown") is None


async def test_a_login_rotates_exactly_once(storage: Storage) -> None:
    await storage.create_login(login(n=3))
    answers = await asyncio.gather(
        *(storage.rotate_login("login", 3, CREATED_AT + 5, CREATED_AT + 99) for _ in range(20))
    )
    rotated = replace(login(n=4), rotated_at=CREATED_AT + 5, expires_at=CREATED_AT + 99)
    assert answers == [rotated] * 20
    assert await storage.find_login("login") == rotated


async def test_a_login_at_another_rotation_stays(storage: Storage) -> None:
    await storage.create_login(login(n=3))
    for n in (2, 4):
        assert await storage.rotate_login("login", n, CREATED_AT + 5, CREATED_AT + 99) == login(n=3)
    assert await storage.rotate_login("unknown", 0, CREATED_AT, CREATED_AT) is None


async def test_a_login_rotates_until_it_expires(storage: Storage) -> None:
    end = login().expires_at
    for login_id, at, n in (("early", end - 1, 1), ("late", end, 0), ("later", end + 1, 0)):
        await storage.create_login(login(login_id))
        found = await storage.rotate_login(login_id, 0, at, end + DAY_MS)
        assert found is not None
        assert found.n == n
        assert await storage.find_login(login_id) == found


async def test_a_revoked_login_stays_revoked(storage: Storage) -> None:
    await storage.create_login(login())
    await storage.revoke_login(login())
    revoked = replace(login(), is_revoked=True)
    assert await storage.rotate_login("login", 0, CREATED_AT + 5, CREATED_AT + 99) == revoked
    await storage.revoke_login(login())
    assert await storage.find_login("login") == revoked


async def test_revoking_beside_a_rotation_ends_revoked(storage: Storage) -> None:
    await storage.create_login(login())
    await asyncio.gather(
        *(storage.rotate_login("login", n, CREATED_AT, CREATED_AT + DAY_MS) for n in range(5)),
        storage.revoke_login(login()),
        *(storage.rotate_login("login", n, CREATED_AT, CREATED_AT + DAY_MS) for n in range(5)),
    )
    found = await storage.find_login("login")
    assert found is not None
    assert found.is_revoked


async def test_an_unknown_login_is_remembered_as_revoked(storage: Storage) -> None:
    await storage.revoke_login(login("from outside"))
    assert await storage.find_login("from outside") == replace(login("from outside"), is_revoked=True)


async def test_all_logins_of_one_user_are_revoked(storage: Storage) -> None:
    for each in (login("a"), login("b"), login("c", user_id="ana")):
        await storage.create_login(each)
    await storage.revoke_logins("juan")
    found = [await storage.find_login(login_id) for login_id in "abc"]
    assert [each.is_revoked for each in found if each] == [True, True, False]


async def test_a_login_that_was_revoked_stays_so_for_as_long_as_its_last_rotation_would_have_lasted(
    make_storage: Callable[[], Storage],
) -> None:
    before = make_storage()
    await before.open()
    first = login("a")
    await before.create_login(first)
    rotated = await before.rotate_login("a", first.n, CREATED_AT + 29 * DAY_MS, CREATED_AT + 59 * DAY_MS)
    assert rotated is not None
    await before.revoke_logins("juan")
    await before.close()
    after = make_storage()
    await after.open()
    await after.create_login(login("new", rotated_at=CREATED_AT + 32 * DAY_MS))  # forgets what is long past
    found = await after.find_login("a")
    assert found is not None
    assert found.is_revoked
    await after.close()


async def test_a_login_that_has_not_expired_outlives_new_ones(storage: Storage) -> None:
    await storage.create_login(login("old", rotated_at=CREATED_AT - 29 * DAY_MS))
    await storage.revoke_login(login("revoked", rotated_at=CREATED_AT - 29 * DAY_MS))
    for index in range(3):
        await storage.create_login(login(f"new-{index}"))
    assert await storage.find_login("old") is not None
    assert await storage.find_login("revoked") is not None
