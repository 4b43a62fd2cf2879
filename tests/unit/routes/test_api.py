from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import InvalidError
from server.domain.ratelimit import Rate
from server.events import CLIENT_EVENTS, History
from server.routes.api import ListQuery, RoomsQuery, _member_cursor, _query
from tests.harness import SECRET
from tests.services import Site
from tests.unit.routes.world import Client, answer, error, open_backend, open_client

PASSWORD = "correct horse"


@pytest.fixture
async def client(site: Site, tmp_path: Path) -> AsyncIterator[Client]:
    async with open_client(site, tmp_path) as opened:
        yield opened


async def signed_up(client: Client, username: str) -> tuple[str, dict[str, str]]:
    """(user id, the header that signs in)."""
    status, body = await answer(
        client, "POST", "/api/auth/register", json={"username": username, "password": PASSWORD}
    )
    assert status == 200
    return body["user"]["id"], {"Authorization": f"Bearer {body['access_token']}"}


async def test_only_signing_in_needs_no_token(site: Site, tmp_path: Path) -> None:
    async with open_backend(site, tmp_path) as (backend, client):
        for route in backend.api.routes():
            path = route.path.format(room_id="room", user_id="ana")
            is_open = path in {f"/api/auth/{each}" for each in ("register", "login", "refresh")}
            refused = await error(client, route.method, path)
            assert refused[1] == ("invalid" if is_open else "unauthenticated"), path


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Bearer ", "unauthenticated"),
        ("Basic abc", "unauthenticated"),
        ("TOKEN", "unauthenticated"),
        ("Bearer TOKEN x", "token_invalid"),
        ("Bearer abc", "token_invalid"),
        ("bearer  TOKEN", None),
    ],
)
async def test_a_token_comes_as_bearer(client: Client, header: str, code: str | None) -> None:
    _, signed_in = await signed_up(client, "juan")
    given_header = header.replace("TOKEN", signed_in["Authorization"].removeprefix("Bearer "))
    status, body = await answer(client, "GET", "/api/me", headers={"Authorization": given_header})
    assert (body.get("error", {}).get("code"), status == 200) == (code, code is None)


async def test_a_request_does_not_make_the_profile_follow_its_token(site: Site, client: Client) -> None:
    now = int(site.clock.now_s)
    claims = {"sub": "ana", "iat": now, "exp": now + 900}
    tokens = [jwt.encode({**claims, "name": name}, SECRET, algorithm="HS256") for name in ("Ana", "Anita")]
    headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
    for header, shown in ((headers[0], "Ana"), (headers[1], "Ana")):
        _, body = await answer(client, "GET", "/api/me", headers=header)
        assert body["user"]["display_name"] == shown
    assert site.publisher.notices == []
    await answer(client, "PATCH", "/api/me", headers=headers[0], json={"display_name": "Ana María"})
    _, body = await answer(client, "GET", "/api/me", headers=headers[0])
    assert body["user"]["display_name"] == "Ana María"


async def test_every_route_does_what_the_event_of_its_name_does(client: Client) -> None:
    juan_id, juan = await signed_up(client, "juan")
    ana_id, ana = await signed_up(client, "ana")

    async def done(method: str, path: str, who: dict[str, str] = juan, **given: Any) -> dict[str, Any]:
        status, body = await answer(client, method, path, headers=who, **given)
        assert status == 200, body
        return body

    room = (await done("POST", "/api/rooms", json={"kind": "public", "name": "Friends"}))["room"]
    path = f"/api/rooms/{room['id']}"
    assert (await done("POST", f"{path}/members", json={"user_id": ana_id}))["room"]["member_count"] == 2
    sent = await done("POST", f"{path}/messages", ana, json={"content": "Hola!", "client_msg_id": "1"})
    again = await done("POST", f"{path}/messages", ana, json={"content": "Hola!", "client_msg_id": "1"})
    assert (sent["duplicate"], again["duplicate"]) == (False, True)
    assert again["message"] == sent["message"]
    page = await done("GET", f"{path}/messages?after_seq=0&limit=1")
    assert ([each["seq"] for each in page["messages"]], page["has_more"]) == ([1], False)
    assert (await done("PATCH", path, json={"name": "New"}))["room"]["name"] == "New"
    assert (await done("GET", path, ana))["room"]["unread"] == 0
    members = await done("GET", f"{path}/members?limit=1", ana)
    assert [each["user"]["id"] for each in members["members"]] == [min(juan_id, ana_id)]
    following = await done("GET", f"{path}/members?cursor={members['next']}")
    assert (len(following["members"]), following["next"]) == (1, None)
    assert [each["id"] for each in (await done("GET", "/api/rooms"))["rooms"]] == [room["id"]]
    assert (await done("GET", "/api/rooms?scope=public&query=NEW", ana))["rooms"][0]["role"] == "member"
    assert (await done("DELETE", f"{path}/members/{ana_id}", ana)) == {}
    assert (await done("DELETE", f"{path}/members/{juan_id}")) == {}
    assert (await done("PATCH", "/api/me", json={"display_name": "Juan P."}))["user"][
        "display_name"
    ] == "Juan P."
    assert (await done("GET", "/api/me"))["user"]["id"] == juan_id
    found = await done("GET", "/api/users?query=a&limit=1")
    assert ([each["username"] for each in found["users"]], found["next"]) == (["ana"], None)
    assert await done("POST", "/api/auth/logout", json={"everywhere": True}) == {}
    assert (await error(client, "GET", "/api/me", headers=juan))[1] == "token_revoked"


async def test_an_owner_deletes_a_room(client: Client) -> None:
    _, juan = await signed_up(client, "juan")
    body = {"kind": "group", "name": "Friends"}
    _, made = await answer(client, "POST", "/api/rooms", headers=juan, json=body)
    path = f"/api/rooms/{made['room']['id']}"
    assert await answer(client, "DELETE", path, headers=juan) == (200, {})
    assert (await error(client, "GET", path, headers=juan))[:2] == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "username"),
        (b"{}", "username"),
        (b"[]", None),
        (b"null", None),
        (b'"text"', None),
        (b"{", None),
        (b"\xff", None),
        (b'{"username": "\xff"}', None),
        (b'{"username": "\\ud800"}', "username"),
        (b'{"username": {"a": ["", "\\uDC00"]}}', "username.a"),
        (b'{"\\ud800": 1}', "payload"),
        (b'["\\ud800"]', None),
        (b'{"username": NaN}', None),
        (b'{"username": "\\ud800', None),
        (b"[" * 60_000, None),
        (b'{"username": "juan", "password": "a\\u0000b12345"}', "password"),
        (b'{"username": 7, "password": "12345678"}', "username"),
        (b'{"username": "juan", "password": "12345678", "other": 1}', "other"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_body_that_breaks_the_contract_is_refused_by_its_field(
    client: Client, body: bytes, field: str | None
) -> None:
    assert await error(client, "POST", "/api/auth/login", data=body) == (422, "invalid", field)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "/messages?limit=0", None, "limit"),
        ("GET", "/messages?limit=101", None, "limit"),
        ("GET", "/messages?limit=a", None, "limit"),
        ("GET", "/messages?limit=-1", None, "limit"),
        ("GET", "/messages?limit=%C2%B2", None, "limit"),
        ("GET", f"/messages?limit={'9' * 6_000}", None, "limit"),
        ("GET", f"/messages?before_seq={2**53}", None, "before_seq"),
        ("GET", "/messages?other=1", None, "other"),
        ("GET", "/messages?room_id=another", None, "room_id"),
        ("GET", "/members?cursor=x", None, "cursor"),
        ("GET", "/members?cursor=%C2%B2.a", None, "cursor"),
        ("GET", f"/members?cursor={'9' * 150}.a", None, "cursor"),
        ("POST", "/messages", {"content": "a", "room_id": "another"}, "room_id"),
        ("POST", "/messages", {"content": "a", "to_user_id": "ana"}, "room_id"),
        ("POST", "/members", {"user_id": "ana", "room_id": "another"}, "room_id"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_request_that_breaks_the_contract_is_refused_by_its_field(
    client: Client, method: str, path: str, body: object, field: str
) -> None:
    _, juan = await signed_up(client, "juan")
    _, made = await answer(client, "POST", "/api/rooms", headers=juan, json={"kind": "group", "name": "a"})
    given_path = f"/api/rooms/{made['room']['id']}{path}"
    assert await error(client, method, given_path, headers=juan, json=body) == (422, "invalid", field)


async def test_each_class_of_requests_has_a_bucket_for_each_user(site: Site, tmp_path: Path) -> None:
    rates = {event.rate: Rate(0.001, 2) for event in CLIENT_EVENTS.values()}
    async with open_client(site, tmp_path, rates=rates) as client:
        _, juan = await signed_up(client, "juan")
        _, ana = await signed_up(client, "ana")
        statuses = [(await answer(client, "GET", "/api/me", headers=juan))[0] for _ in range(3)]
        assert statuses == [200, 200, 429]
        async with client.get("/api/rooms", headers=juan) as response:
            assert int(response.headers["Retry-After"]) > 900
        assert (await answer(client, "GET", "/api/me", headers=ana))[0] == 200
        assert (await answer(client, "PATCH", "/api/me", headers=juan, json={}))[0] == 200


async def test_logins_are_limited_by_address_and_by_name(site: Site, tmp_path: Path) -> None:
    rules: dict[str, Any] = {"logins_per_min": 2, "trusted_proxies": ("127.0.0.0/8",)}
    async with open_client(site, tmp_path, **rules) as client:

        async def status(address: str, username: str) -> int:
            body, headers = {"username": username, "password": "wrong"}, {"X-Forwarded-For": address}
            return (await error(client, "POST", "/api/auth/login", json=body, headers=headers))[0]

        assert [await status("198.51.100.1", name) for name in ("a", "b", "c")] == [401, 401, 429]
        addresses = [f"198.51.100.{n}" for n in (2, 3, 4)]
        assert [await status(each, "JUAN" if each.endswith("2") else "juan") for each in addresses] == [
            401,
            401,
            429,
        ]


async def test_refreshes_are_limited_by_login_and_not_by_address(site: Site, tmp_path: Path) -> None:
    rules: dict[str, Any] = {"logins_per_min": 1, "rates": {"auth": Rate(0.001, 2)}}
    async with open_client(site, tmp_path, **rules) as client:

        async def status(token: str) -> int:
            return (await error(client, "POST", "/api/auth/refresh", json={"refresh_token": token}))[0]

        assert [await status(f"one.{n}.forged") for n in range(3)] == [401, 401, 429]
        assert [await status("other.1.forged"), await status("x" * 10_000)] == [401, 401]


def test_a_query_is_read_as_its_shape() -> None:
    made = make_mocked_request("GET", "/?before_seq=7&limit=3")
    assert _query(made, History, room_id="room") == History(room_id="room", before_seq=7, limit=3)
    assert _query(make_mocked_request("GET", "/"), RoomsQuery) == RoomsQuery()
    digits = make_mocked_request("GET", "/?query=123&cursor=456")
    assert _query(digits, ListQuery) == ListQuery(query="123", cursor="456")


@given(st.integers(0, 2**53), st.from_regex("[A-Za-z0-9_~-]{1,64}", fullmatch=True))
def test_a_cursor_of_members_is_read_as_it_was_given(joined_at: int, user_id: str) -> None:
    assert _member_cursor(f"{joined_at}.{user_id}") == (joined_at, user_id)


@given(st.text(max_size=200))
def test_a_cursor_of_members_is_invalid_or_fits_the_store(cursor: str) -> None:
    try:
        joined_at, _ = _member_cursor(cursor)
    except InvalidError:
        return
    assert 0 <= joined_at < 2**63
