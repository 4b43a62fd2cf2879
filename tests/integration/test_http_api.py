"""The HTTP API: every route with its shapes, pages and refusals."""

import gzip
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.harness import Api, Json, ServerProcess, connected, http_api, running_server, site_token

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"id", "username", "display_name", "avatar_url", "status", "last_seen"}
SIGNED = {"user", "access_token", "expires_in", "refresh_token"}
MEMBER = {"user", "role", "joined_at", "last_read_seq"}
ROOM = {
    *("id", "kind", "name", "peer", "created_at", "member_count", "rev", "first_seq", "last_seq"),
    *("last_message", "role", "last_read_seq", "unread"),
}
MESSAGE = {
    *("id", "room_id", "seq", "rev", "client_msg_id", "message_type", "content", "sender", "reply_to"),
    *("attachments", "reactions", "reaction_counts", "created_at", "edited_at", "deleted_at", "my_reaction"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all of this file; none of it may cost it a stack trace."""
    env = {"TERTULIA_LIMITS__ENABLED": "false"}
    async with running_server(tmp_path_factory.mktemp("http"), env) as running:
        yield running
        assert running.faults() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with http_api(server) as opened:
        yield opened


async def ok(api: Api, method: str, path: str, body: object = None, *, user: str) -> Json:
    """The answer of a call that must be accepted."""
    status, answer = await api.call(method, path, body, token=site_token(user))
    assert status == 200, answer
    return answer


async def refused(
    api: Api, method: str, path: str, body: object = None, *, user: str | None = None
) -> tuple[int, str, str | None]:
    """(status, code, field) of a call that must not be."""
    token = site_token(user) if user is not None else None
    status, answer = await api.call(method, path, body, token=token)
    assert set(answer) == {"error"}, answer
    return status, answer["error"]["code"], answer["error"].get("field")


async def pages(api: Api, path: str, key: str, *, user: str, limit: int) -> list[list[Json]]:
    """Every page of a list, by its cursors."""
    found: list[list[Json]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await ok(api, "GET", f"{path}&limit={limit}&cursor={quote(cursor)}", user=user)
        assert set(page) == {key, "next"}
        found.append(page[key])
        cursor = page["next"]
    return found


async def make_room(api: Api, user: str, **wanted: object) -> str:
    body = {"kind": "group", "name": "Tapas", **wanted}
    room_id: str = (await ok(api, "POST", "/api/rooms", body, user=user))["room"]["id"]
    return room_id


async def test_registering_and_logging_in_answer_the_account_and_its_tokens(api: Api) -> None:
    body = {"username": "Juan.Perez_1", "password": "a good password", "display_name": "  Juan Pérez "}
    status, signed = await api.call("POST", "/api/auth/register", body)
    assert (status, set(signed), set(signed["user"])) == (200, SIGNED, USER)
    assert signed["expires_in"] == 900
    user = signed["user"]
    assert (user["username"], user["display_name"], user["status"]) == (
        "juan.perez_1",
        "Juan Pérez",
        "offline",
    )
    again = {**body, "username": "JUAN.PEREZ_1"}
    assert await refused(api, "POST", "/api/auth/register", again) == (409, "conflict", "username")
    login = {"username": "jUAN.perez_1", "password": body["password"]}
    status, second = await api.call("POST", "/api/auth/login", login)
    assert (status, set(second), second["user"]) == (200, SIGNED, user)
    assert second["refresh_token"] != signed["refresh_token"]
    status, me = await api.call("GET", "/api/me", token=second["access_token"])
    assert (status, me) == (200, {"user": user})


async def test_a_wrong_password_and_an_unknown_name_are_answered_alike(api: Api) -> None:
    await api.register("ana")
    body = {"username": "ana", "password": "not her password"}
    wrong = await api.call("POST", "/api/auth/login", body)
    unknown = await api.call("POST", "/api/auth/login", {**body, "username": "nobody"})
    assert wrong == unknown
    assert (wrong[0], wrong[1]["error"]["code"]) == (401, "unauthenticated")


BAD_ACCOUNTS: dict[str, tuple[object, ...]] = {
    "username": ("", "ab", "a" * 33, "a b", "ñandú", "a/b", "a\n", 7, None),
    "password": ("", "7 chars", "x" * 129, "a\0bcdefgh", 12345678, None),
    "display_name": ("", "  ", "x" * 65, "a\0", 7, []),
    "is_admin": (True,),
    "id": ("~u1",),
}


async def test_what_registration_refuses_is_named_and_makes_no_account(api: Api) -> None:
    good = {"username": "rosa", "password": "a good password"}
    for field, values in BAD_ACCOUNTS.items():
        for value in values:
            answer = await refused(api, "POST", "/api/auth/register", {**good, field: value})
            assert answer == (422, "invalid", field), value
    for field in good:
        rest = {name: value for name, value in good.items() if name != field}
        assert await refused(api, "POST", "/api/auth/register", rest) == (422, "invalid", field)
    assert (await refused(api, "POST", "/api/auth/login", good))[:2] == (401, "unauthenticated")
    for number, password in enumerate(("8 chars.", "x" * 128, "contraseña 🔑")):
        status, _ = await api.call(
            "POST", "/api/auth/register", {"username": f"rosa{number}", "password": password}
        )
        assert status == 200


async def test_a_refresh_token_answers_its_successor_twice_and_an_older_one_ends_the_login(api: Api) -> None:
    tokens = [(await api.register("paz"))["refresh_token"]]
    for _ in range(2):
        for _ in range(2):
            status, signed = await api.call("POST", "/api/auth/refresh", {"refresh_token": tokens[-1]})
            assert (status, set(signed)) == (200, SIGNED)
            successor = signed["refresh_token"]
        assert successor not in tokens
        tokens.append(successor)
    for token in (tokens[0], tokens[-1]):
        answer = await refused(api, "POST", "/api/auth/refresh", {"refresh_token": token})
        assert answer == (401, "token_revoked", None)
    status, body = await api.call("GET", "/api/me", token=signed["access_token"])
    assert (status, body["error"]["code"]) == (401, "token_revoked")


async def test_a_refresh_token_used_again_after_the_grace_ends_the_login(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = {"TERTULIA_AUTH__REFRESH_GRACE_S": "0"}
    async with running_server(tmp_path_factory.mktemp("grace"), env) as server, http_api(server) as api:
        signed = await api.register("paz")
        used = {"refresh_token": signed["refresh_token"]}
        status, successor = await api.call("POST", "/api/auth/refresh", used)
        assert status == 200
        async with connected(server.url, successor["access_token"]) as (paz,):
            assert await refused(api, "POST", "/api/auth/refresh", used) == (401, "token_revoked", None)
            assert (await paz.heard("session_ended"))["code"] == "token_revoked"


async def test_a_profile_is_changed_field_by_field(api: Api) -> None:
    before = (await ok(api, "GET", "/api/me", user="eva"))["user"]
    assert set(before) == USER
    changed = await ok(
        api, "PATCH", "/api/me", {"display_name": "Eva", "avatar_url": "https://e.org/a.png"}, user="eva"
    )
    assert changed == {"user": {**before, "display_name": "Eva", "avatar_url": "https://e.org/a.png"}}
    assert await ok(api, "PATCH", "/api/me", {}, user="eva") == changed
    cleared = await ok(api, "PATCH", "/api/me", {"avatar_url": None}, user="eva")
    assert cleared["user"]["avatar_url"] is None
    for body, field in (
        ({"display_name": ""}, "display_name"),
        ({"display_name": None}, "display_name"),
        ({"avatar_url": "javascript:alert(1)"}, "avatar_url"),
        ({"avatar_url": "https://e.org/" + "x" * 2048}, "avatar_url"),
        ({"username": "admin"}, "username"),
    ):
        answer = await refused(api, "PATCH", "/api/me", body, user="eva")
        assert answer == (422, "invalid", field)
    assert await ok(api, "GET", "/api/me", user="eva") == cleared


async def test_people_are_found_by_how_their_names_begin_page_by_page(api: Api) -> None:
    names = [f"zoe{number}" for number in range(5)]
    for name in names:
        await ok(api, "GET", "/api/me", user=name)
    await ok(api, "PATCH", "/api/me", {"display_name": "Élodie 100%_"}, user="zoe3")
    found = await pages(api, "/api/users?query=ZOE", "users", user="eva", limit=2)
    assert [[each["username"] for each in page] for page in found] == [names[:2], names[2:4], names[4:]]
    assert all(set(each) == USER for page in found for each in page)
    for query, expected in (("éLOD", ["zoe3"]), ("%", []), ("_oe", []), ("oe", []), ("' OR 1=1 --", [])):
        page = await ok(api, "GET", f"/api/users?query={quote(query)}", user="eva")
        assert [each["username"] for each in page["users"]] == expected, query


async def test_rooms_are_listed_by_scope_and_name_page_by_page(api: Api) -> None:
    made = {await make_room(api, "luz", name=f"Tapas {number} 100%") for number in range(5)}
    public = {await make_room(api, "sol", name=f"Plaza_{number}", kind="public") for number in range(3)}
    mine = await pages(api, "/api/rooms?scope=mine", "rooms", user="luz", limit=2)
    assert [len(page) for page in mine] == [2, 2, 1]
    assert {each["id"] for page in mine for each in page} == made
    assert all(set(each) == ROOM for page in mine for each in page)
    seen = await pages(api, "/api/rooms?scope=public&query=pLAZA", "rooms", user="luz", limit=2)
    assert [len(page) for page in seen] == [2, 1]
    assert {each["id"] for page in seen for each in page} == public
    assert {each["role"] for page in seen for each in page} == {None}
    for query, count in (("tapas", 5), ("0%", 5), ("3 1", 1), ("%3", 0), ("_", 0)):
        page = await ok(api, "GET", f"/api/rooms?query={quote(query)}", user="luz")
        assert len(page["rooms"]) == count, query


async def test_a_room_from_its_making_to_its_end(api: Api) -> None:
    for name in ("gil", "pia"):
        await ok(api, "GET", "/api/me", user=name)
    room_id = await make_room(api, "eva", member_ids=["gil"])
    path = f"/api/rooms/{room_id}"
    room = (await ok(api, "GET", path, user="gil"))["room"]
    assert (set(room), room["role"], room["member_count"]) == (ROOM, "member", 2)
    renamed = await ok(api, "PATCH", path, {"name": " Cena "}, user="eva")
    assert (renamed["room"]["name"], renamed["room"]["role"]) == ("Cena", "owner")
    added = await ok(api, "POST", f"{path}/members", {"user_id": "pia"}, user="eva")
    assert (set(added["room"]), added["room"]["member_count"]) == (ROOM, 3)
    found = await pages(api, f"{path}/members?", "members", user="pia", limit=2)
    assert [len(page) for page in found] == [2, 1]
    assert {(each["user"]["id"], each["role"]) for page in found for each in page} == {
        ("eva", "owner"),
        ("gil", "member"),
        ("pia", "member"),
    }
    assert all(set(each) == MEMBER and set(each["user"]) == USER for page in found for each in page)
    removed = await ok(api, "DELETE", f"{path}/members/pia", user="eva")
    assert removed["room"]["member_count"] == 2
    assert await ok(api, "DELETE", f"{path}/members/gil", user="gil") == {}
    assert await refused(api, "GET", path, user="gil") == (404, "not_found", "room_id")
    assert await ok(api, "DELETE", path, user="eva") == {}
    assert await refused(api, "GET", path, user="eva") == (404, "not_found", "room_id")


PAGES: list[tuple[dict[str, int], list[int], bool]] = [
    ({}, [1, 2, 3, 4, 5, 6, 7], False),
    ({"limit": 3}, [5, 6, 7], True),
    ({"before_seq": 3, "limit": 5}, [1, 2], False),
    ({"before_seq": 3, "limit": 1}, [2], True),
    ({"after_seq": 4, "limit": 2}, [5, 6], True),
    ({"after_seq": 5}, [6, 7], False),
    ({"around_seq": 4, "limit": 3}, [3, 4, 5], True),
    ({"after_seq": 2**53 - 1}, [], False),
]


async def test_messages_are_sent_and_paged_as_by_the_events(api: Api, server: ServerProcess) -> None:
    room_id = await make_room(api, "eva")
    path = f"/api/rooms/{room_id}/messages"
    assert await ok(api, "GET", path, user="eva") == {"messages": [], "has_more": False}
    body: Json = {}
    for number in range(1, 8):
        body = {"content": f"{number}", "client_msg_id": f"{number}"}
        sent = await ok(api, "POST", path, body, user="eva")
        assert (set(sent), set(sent["message"])) == ({"message", "duplicate"}, MESSAGE)
        assert (sent["message"]["seq"], sent["duplicate"]) == (number, False)
    assert await ok(api, "POST", path, body, user="eva") == {**sent, "duplicate": True}
    other = {**body, "content": "other"}
    assert await refused(api, "POST", path, other, user="eva") == (409, "conflict", "client_msg_id")
    async with connected(server.url, site_token("eva")) as (eva,):
        for asked, seqs, has_more in PAGES:
            query = "&".join(f"{name}={value}" for name, value in asked.items())
            page = await ok(api, "GET", f"{path}?{query}", user="eva")
            assert ([each["seq"] for each in page["messages"]], page["has_more"]) == (seqs, has_more), query
            assert await eva.call("history", {"room_id": room_id, **asked}) == page


QUERIES: list[tuple[str, str]] = [
    *(
        (f"/api/users?limit={limit}", "limit")
        for limit in ("0", "101", "-1", "1.5", "ten", "", "9" * 5000, "²")
    ),
    ("/api/users?query=" + "x" * 101, "query"),
    ("/api/users?query=a%00b", "query"),
    ("/api/users?cursor=" + "x" * 201, "cursor"),
    ("/api/users?name=eva", "name"),
    ("/api/rooms?scope=all", "scope"),
    ("/api/rooms?limit=101", "limit"),
    *(("{room}/members?cursor=" + cursor, "cursor") for cursor in ("x", "-1.a", ".eva", "²", "9" * 100)),
    ("{room}/members?scope=mine", "scope"),
    *((f"{{room}}/messages?{name}=x", name) for name in ("before_seq", "after_seq", "around_seq", "limit")),
    ("{room}/messages?before_seq=" + "9" * 5000, "before_seq"),
    ("{room}/messages?before_seq=9007199254740992", "before_seq"),
    ("{room}/messages?before_seq=1&after_seq=1", "before_seq"),
    ("{room}/messages?room_id=other", "room_id"),
    ("{room}/messages?cursor=1", "cursor"),
]


async def test_a_query_that_a_list_does_not_take_is_named(api: Api) -> None:
    room = f"/api/rooms/{await make_room(api, 'eva')}"
    for query, field in QUERIES:
        answer = await refused(api, "GET", query.replace("{room}", room), user="eva")
        assert answer == (422, "invalid", field), query


BODIES: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b"name=Tapas", 422, "invalid"),
    "half of it": (b'{"kind":"group"', 422, "invalid"),
    "two objects": (b"{}{}", 422, "invalid"),
    "no UTF-8": (b'{"kind":"\xff"}', 422, "invalid"),
    "an array": (b"[]", 422, "invalid"),
    "a string": (b'"group"', 422, "invalid"),
    "null": (b"null", 422, "invalid"),
    "NaN": (b'{"kind":NaN}', 422, "invalid"),
    "a number out of range": (b'{"kind":1e400}', 422, "invalid"),
    "a number of thousands of digits": (b'{"kind":' + b"9" * 5000 + b"}", 422, "invalid"),
    "half a surrogate pair": (rb'{"kind":"group","name":"\ud800"}', 422, "invalid"),
    "nothing": (b"", 422, "invalid"),
    "64 KiB": (b"{" + b" " * 65_534 + b"}", 422, "invalid"),
    "64 KiB and a byte": (b"{" + b" " * 65_535 + b"}", 413, "too_large"),
    "a megabyte": (b" " * 1_000_000, 413, "too_large"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_no_good_object_is_refused(name: str, api: Api) -> None:
    body, status, code = BODIES[name]
    assert await _post(api, body) == (status, code)


@pytest.mark.parametrize("depth", [100, *range(940, 1010), 30_000])
async def test_a_nest_of_any_depth_is_only_invalid(depth: int, api: Api) -> None:
    assert await _post(api, b'{"kind":' + b"[" * depth + b"]" * depth + b"}") == (422, "invalid")


async def test_no_way_of_sending_it_gets_a_large_body_in(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 8192

    assert await _post(api, chunks()) == (413, "too_large")
    bomb = gzip.compress(b" " * 10_000_000)
    assert await _post(api, bomb, {"Content-Encoding": "gzip"}) == (415, "invalid")


async def test_a_body_that_is_not_what_its_encoding_says_is_refused_without_a_stack_trace(
    server: ServerProcess,
) -> None:
    # A session of its own: the connection is of no use afterwards.
    async with http_api(server) as once:
        assert await _post(once, b"{}", {"Content-Encoding": "gzip"}) == (415, "invalid")


async def _post(api: Api, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    signed = {"Authorization": f"Bearer {site_token('eva')}", **(headers or {})}
    async with api.session.post(f"{api.url}/api/rooms", data=body, headers=signed) as response:
        return response.status, (await response.json())["error"]["code"]


async def test_unknown_fields_and_a_body_that_contradicts_the_path_are_invalid(api: Api) -> None:
    path = f"/api/rooms/{await make_room(api, 'eva')}"
    for method, where, body, field in (
        ("POST", "/api/auth/login", {"username": "a", "password": "b", "remember": True}, "remember"),
        ("POST", "/api/auth/login", {"username": "a", "password": "b" * 1025}, "password"),
        ("POST", "/api/auth/refresh", {"refresh_token": "a", "access_token": "b"}, "access_token"),
        ("POST", "/api/auth/refresh", {"refresh_token": 7}, "refresh_token"),
        ("POST", "/api/auth/logout", {"everywhere": "yes"}, "everywhere"),
        ("POST", "/api/rooms", {"kind": "group", "name": "a", "owner": "eva"}, "owner"),
        ("PATCH", path, {"name": "a", "kind": "public"}, "kind"),
        ("PATCH", path, {}, "name"),
        ("POST", f"{path}/members", {"user_id": "gil", "role": "owner"}, "role"),
        ("POST", f"{path}/messages", {"content": "a", "room_id": "other"}, "room_id"),
        ("POST", f"{path}/messages", {"content": "a", "to_user_id": "gil"}, "room_id"),
        ("POST", f"{path}/messages", {"content": ""}, "content"),
        ("POST", f"{path}/messages", {"content": "\ud800"}, "content"),
    ):
        assert await refused(api, method, where, body, user="eva") == (422, "invalid", field), (where, body)
    assert (await ok(api, "GET", f"{path}/messages", user="eva"))["messages"] == []


async def test_where_accounts_are_off_nobody_registers_and_no_account_counts(
    tmp_path_factory: pytest.TempPathFactory, api: Api
) -> None:
    elsewhere = await api.register("mia")
    env = {"TERTULIA_AUTH__ACCOUNTS": "false"}
    async with running_server(tmp_path_factory.mktemp("off"), env) as server, http_api(server) as off:
        body = {"username": "mia", "password": "a good password", "refresh_token": None}
        for path, names in (
            ("register", ("username", "password")),
            ("login", ("username", "password")),
        ):
            given = {name: body[name] for name in names}
            assert (await refused(off, "POST", f"/api/auth/{path}", given))[:2] == (403, "forbidden")
        status, answer = await off.call("GET", "/api/me", token=elsewhere["access_token"])
        assert (status, answer["error"]["code"]) == (401, "token_invalid")
        await ok(off, "GET", "/api/me", user="eva")
