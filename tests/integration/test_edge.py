"""Limits, proxies, origins, transports and namespaces: who gets in, and how often."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import WSServerHandshakeError

from server import events
from tests.harness import (
    Api,
    Client,
    ServerProcess,
    connected,
    http_api,
    raw_socket,
    refusal,
    running_server,
    site_token,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

BURST = 2
PER_MIN = 3
CLASSES = {event.rate for event in events.CLIENT_EVENTS.values()}
POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """Two events at once of each class and one a second; two sockets a user; no proxy is trusted."""
    env = {"TERTULIA_LIMITS__SOCKETS_PER_USER": "2", "TERTULIA_LIMITS__CONNECTIONS_PER_MIN": "1000"}
    for each in CLASSES:
        env |= {f"TERTULIA_LIMITS__{each.upper()}_PER_S": "1", f"TERTULIA_LIMITS__{each.upper()}_BURST": "2"}
    async with running_server(tmp_path_factory.mktemp("limited"), env) as running:
        yield running
        assert running.faults() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxied(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """What comes from 127.0.0.1 comes through a proxy; three connections and three logins a minute."""
    env = {
        "TERTULIA_SERVER__TRUSTED_PROXIES": "127.0.0.1/32,10.0.0.0/8",
        "TERTULIA_SERVER__DEVELOPMENT": "false",
        "TERTULIA_LIMITS__CONNECTIONS_PER_MIN": str(PER_MIN),
        "TERTULIA_LIMITS__LOGINS_PER_MIN": str(PER_MIN),
    }
    async with running_server(tmp_path_factory.mktemp("proxied"), env) as running, http_api(running) as api:
        yield api
        assert running.faults() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """In production, with origins of its own and websockets alone."""
    env = {
        "TERTULIA_SERVER__ALLOWED_ORIGINS": "https://app.example.com,https://*.example.org,http://[::1]:3000",
        "TERTULIA_SERVER__DEVELOPMENT": "false",
    }
    async with running_server(tmp_path_factory.mktemp("guarded"), env) as running:
        yield running
        assert running.faults() == []


async def flood(client: Client, event: str, count: int) -> list[str]:
    """Send the event so many times at once; the code of each answer, "ok" where there is none."""
    answers = await asyncio.gather(*(client.ask(event, {}) for _ in range(count)))
    return [answer["error"]["code"] if "error" in answer else "ok" for answer in answers]


async def test_each_event_is_limited_and_works_again_after_the_time_it_is_told(
    limited: ServerProcess,
) -> None:
    async def exhaust(event: str) -> None:
        async with connected(limited.url, site_token(f"eva-{event}")) as (eva,):
            taken = await flood(eva, event, BURST)
            assert "rate_limited" not in taken
            error = (await eva.ask(event, {}))["error"]
            assert error["code"] == "rate_limited"
            assert 0 < error["retry_after_ms"] <= 1001
            await asyncio.sleep(error["retry_after_ms"] / 1000)
            assert await flood(eva, event, 1) == taken[:1]

    await asyncio.gather(*map(exhaust, events.CLIENT_EVENTS))


async def test_a_bucket_is_of_one_user_and_one_class_over_both_ways(limited: ServerProcess) -> None:
    tokens = [site_token("luz"), site_token("luz"), site_token("sol")]
    async with connected(limited.url, *tokens) as (phone, laptop, sol), http_api(limited) as api:
        assert await flood(phone, "sync", BURST) == ["ok", "ok"]
        assert await flood(laptop, "history", 1) == ["rate_limited"]
        async with api.session.get(
            f"{api.url}/api/me", headers={"Authorization": f"Bearer {tokens[0]}"}
        ) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "1")
            error = (await response.json())["error"]
        assert error["code"] == "rate_limited"
        assert 0 < error["retry_after_ms"] <= 1001
        assert await flood(laptop, "join_room", 1) == ["invalid"]
        assert await flood(sol, "sync", BURST) == ["ok", "ok"]


async def test_one_socket_too_many_ends_the_oldest(limited: ServerProcess) -> None:
    token = site_token("gil")
    async with connected(limited.url, token, token, token) as (first, *others):
        told = await first.heard("session_ended")
        assert (told["code"], told["retry"]) == ("rate_limited", "never")
        await first.ended.wait()
        for other in others:
            assert (await other.call("sync"))["me"]["id"] == "gil"


async def test_another_namespace_is_refused_with_the_name_of_the_right_one(limited: ServerProcess) -> None:
    auth = {"token": site_token("pia")}
    for namespace in ("/", "/admin", "/Chat", "/chat/"):
        refused = await refusal(limited.url, auth, namespace=namespace)
        assert "/chat" in refused["message"]
        assert refused["data"] == {"code": "not_found", "retry": "never"}
    async with http_api(limited) as api, raw_socket(api) as socket:
        await socket.send("40")
        assert "/chat" in (await socket.receive_packet("44"))["message"]
        await socket.connect("/chat", auth)


async def websocket_status(api: Api, headers: Mapping[str, str]) -> tuple[int, Any]:
    """(status, headers) of the answer to a websocket's handshake; 200 for one that is open."""
    try:
        async with raw_socket(api, headers=headers):
            return 200, {}
    except WSServerHandshakeError as error:
        return error.status, error.headers


async def handshakes(api: Api, forwarded: Iterable[str]) -> list[int]:
    """The status of one handshake for each X-Forwarded-For, by each transport in turn."""
    found = []
    for number, hops in enumerate(forwarded):
        given = {"X-Forwarded-For": hops}
        if number % 2:
            status, headers = await websocket_status(api, given)
        else:
            async with api.session.get(api.url + POLLING, headers=given) as response:
                status, headers = response.status, response.headers
                if status == 429:
                    assert (await response.json())["error"]["code"] == "rate_limited"
        if status == 429:
            assert 1 <= int(headers["Retry-After"]) <= 20
        found.append(status)
    return found


LET_IN_THRICE: dict[str, tuple[list[str], list[str]]] = {
    "one address": (["1.1.1.1"] * 5, ["1.1.1.2"]),
    "an address behind two proxies": (["2.1.1.1, 10.1.1.1"] * 5, ["2.1.1.2, 10.1.1.1"]),
    "hops that the client made up": ([f"9.9.9.{n}, 3.1.1.1" for n in range(5)], ["3.1.1.1, 3.1.1.2"]),
    "proxies that the client made up": ([f"9.9.9.{n}, 10.0.0.1, 4.1.1.1" for n in range(5)], ["4.1.1.2"]),
    "an address of IPv6": (["2001:db8::1"] * 5, ["2001:db8::2"]),
    "hops that are no address": ([f"9.9.9.{n}, nonsense" for n in range(5)], ["5.1.1.1"]),
}


@pytest.mark.parametrize("name", LET_IN_THRICE)
async def test_an_address_is_the_last_hop_that_no_trusted_proxy_is(name: str, proxied: Api) -> None:
    same, other = LET_IN_THRICE[name]
    assert await handshakes(proxied, same) == [200, 200, 200, 429, 429]
    assert await handshakes(proxied, other) == [200]


async def test_without_trusted_proxies_no_header_makes_another_address(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = {"TERTULIA_LIMITS__CONNECTIONS_PER_MIN": str(PER_MIN)}
    async with running_server(tmp_path_factory.mktemp("direct"), env) as server, http_api(server) as api:
        assert await handshakes(api, [f"9.9.9.{number}" for number in range(5)]) == [200, 200, 200, 429, 429]
        lines = [line for line in server.log_lines() if line["event"] == "conn.refused"]
        assert {(line["code"], line["address"]) for line in lines} == {("rate_limited", "127.0.0.1")}


async def login(api: Api, username: str, address: str) -> int:
    body = {"username": username, "password": "a wrong password"}
    headers = {"X-Forwarded-For": address}
    async with api.session.post(f"{api.url}/api/auth/login", json=body, headers=headers) as response:
        if response.status == 429:
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "rate_limited"
        return response.status


async def test_logins_are_throttled_by_address_and_by_username(proxied: Api) -> None:
    by_address = [await login(proxied, f"nobody{number}", "6.1.1.1") for number in range(5)]
    assert by_address == [401, 401, 401, 429, 429]
    by_name = [
        await login(proxied, name, f"6.2.1.{n}") for n, name in enumerate(["Ana", "ana", "ANA", "ana"])
    ]
    assert by_name == [401, 401, 401, 429]
    assert await login(proxied, "rosa", "6.2.1.9") == 401


async def test_registrations_count_too_and_refreshes_do_not(proxied: Api) -> None:
    for path, body, expected in (
        ("register", {"username": "x", "password": "a good password"}, [422, 422, 422, 429]),
        ("refresh", {"refresh_token": "none"}, [401] * 4),
    ):
        found = []
        for _ in range(4):
            status, _ = await proxied.call(
                "POST", f"/api/auth/{path}", body, **{"X-Forwarded-For": f"7.1.1.{len(path)}"}
            )
            found.append(status)
        assert found == expected


async def try_origin(api: Api, origin: str, **more: str) -> set[bool]:
    """Whether a page of this origin gets in, by each way there is."""
    headers = {"Origin": origin, **more}
    preflight = {**headers, "Access-Control-Request-Method": "PATCH"}
    found = set()
    for method, path, given in (
        ("GET", "/api/me", headers),
        ("OPTIONS", "/api/me", preflight),
        ("GET", POLLING, headers),
        ("OPTIONS", POLLING, preflight),
    ):
        async with api.session.request(method, api.url + path, headers=given) as response:
            assert response.headers["Vary"] == "Origin"
            is_in = response.status != 403
            assert response.headers.get("Access-Control-Allow-Origin") == (origin if is_in else None)
            if is_in and method == "OPTIONS":
                assert {"GET", "POST", "PATCH", "DELETE"} <= _listed(response.headers, "Methods")
                assert {"Authorization", "Content-Type"} <= _listed(response.headers, "Headers")
            if not is_in:
                error = (await response.json())["error"]
                assert (error["code"], "server.allowed_origins" in error["message"]) == ("forbidden", True)
        found.add(is_in)
    status, _ = await websocket_status(api, headers)
    assert status in (200, 403)
    return found | {status == 200}


def _listed(headers: Any, name: str) -> set[str]:
    return set(headers[f"Access-Control-Allow-{name}"].split(", "))


@pytest.mark.parametrize(
    "origin",
    [
        *("{own}", "https://app.example.com", "https://a.example.org", "https://a.b-c.example.org"),
        "http://[::1]:3000",
    ],
)
async def test_a_page_of_the_server_or_of_a_listed_origin_gets_in(
    origin: str, guarded: ServerProcess
) -> None:
    async with http_api(guarded) as api:
        assert await try_origin(api, origin.replace("{own}", guarded.url)) == {True}


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evilexample.org", "https://example.org", "https://a.example.org.evil.com", "null", ""),
        *("https://evil.com/.example.org", "https://evil.com#.example.org", "https://evil.com?.example.org"),
        *(
            "http://a.example.org",
            "https://a.example.org:8443",
            "https://a.example.org/",
            "https://.example.org",
        ),
        *("https://app.example.com.evil.org", "https://appxexample.com", "https://evil@a.example.org"),
        *("http://localhost:3000", "http://127.0.0.1:1", "http://127.0.0.1", "file://", "ws://127.0.0.1"),
        *("{own}.evil.org", "{own}/", "http://evil.org", "https://a.example.org, https://evil.org"),
    ],
)
async def test_a_page_of_any_other_origin_is_kept_out(origin: str, guarded: ServerProcess) -> None:
    origin = origin.replace("{own}", guarded.url)
    async with http_api(guarded) as api:
        assert await try_origin(api, origin, **{"X-Forwarded-Host": "evil.org"}) == {False}
    refused = [line for line in guarded.log_lines() if line["event"] == "origin.refused"]
    assert (refused[-1]["origin"], refused[-1]["add_to"]) == (origin, "server.allowed_origins")


async def test_who_says_no_origin_gets_in(guarded: ServerProcess) -> None:
    async with connected(guarded.url, site_token("eva")) as (eva,):
        assert (await eva.call("sync"))["me"]["id"] == "eva"


async def test_localhost_is_an_origin_in_development_alone(limited: ServerProcess) -> None:
    async with http_api(limited) as api:
        for origin in ("http://localhost", "http://localhost:3000", "http://127.0.0.1:5173"):
            assert await try_origin(api, origin) == {True}
        for origin in ("http://localhost.evil.org", "http://localhost:3000.evil.org", "https://evil.org"):
            assert await try_origin(api, origin) == {False}


async def test_behind_a_trusted_proxy_the_own_origin_is_that_of_the_proxy(proxied: Api) -> None:
    for number, (proto, origin, is_in) in enumerate(
        (
            ({}, "https://chat.example.org", True),
            ({}, "https://evil.example.org", False),
            ({}, "http://chat.example.org", True),
            ({"X-Forwarded-Proto": "https"}, "https://chat.example.org", True),
            ({"X-Forwarded-Proto": "https"}, "http://chat.example.org", False),
        )
    ):
        headers = {"X-Forwarded-Host": "chat.example.org", "X-Forwarded-For": f"8.1.1.{number}", **proto}
        assert await try_origin(proxied, origin, **headers) == {is_in}


async def test_polling_can_be_switched_off(
    tmp_path_factory: pytest.TempPathFactory, limited: ServerProcess
) -> None:
    env = {"TERTULIA_REALTIME__TRANSPORTS": "websocket"}
    async with running_server(tmp_path_factory.mktemp("websocket"), env) as server, http_api(server) as api:
        async with api.session.get(api.url + POLLING) as response:
            assert (response.status, (await response.json())["message"]) == (400, "Transport unknown")
        _, version = await api.call("GET", "/version")
        assert "polling" not in version["features"]
        async with connected(server.url, site_token("eva")) as (eva,):
            assert (await eva.call("sync"))["me"]["id"] == "eva"
    both = await Client().connect(
        limited.url, {"token": site_token("eva")}, transports=["polling", "websocket"]
    )
    assert (await both.call("sync"))["me"]["id"] == "eva"
    assert both.sio.transport() == "websocket"
    await both.close()
