"""Who is not let in, over the socket and over HTTP, and what is never written down."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from server.services.tokens import ClaimNames, Tokens
from tests.harness import (
    SECRET,
    Api,
    Client,
    Json,
    ServerProcess,
    connected,
    http_api,
    raw_socket,
    receive_until,
    refusal,
    running_server,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEEWAY_S = 60
RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
RSA_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
BUILT_IN = {"kid": "tertulia"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all of this file."""
    env = {"TERTULIA_LIMITS__ENABLED": "false", "TERTULIA_AUTH__LEEWAY_S": str(LEEWAY_S)}
    async with running_server(tmp_path_factory.mktemp("tokens"), env) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with http_api(server) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def juan(api: Api) -> Json:
    """A built-in account, signed in."""
    return await api.register("juan")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(*, without: str = "", **changed: Any) -> Json:
    """What a good token of a site says, with changes."""
    now = int(time.time())
    good = {"sub": "eva", "iat": now, "exp": now + 3600, **changed}
    return {name: value for name, value in good.items() if name != without}


def forge(
    payload: Json | str, *, header: Json | None = None, key: str | bytes = SECRET, digest: str = "sha256"
) -> str:
    """A JWT put together by hand: it may hold what no library would write."""
    head = json.dumps({"alg": "HS256", "typ": "JWT", **(header or {})})
    body = payload if isinstance(payload, str) else json.dumps(payload)
    signed = f"{b64(head.encode())}.{b64(body.encode())}"
    raw_key = key if isinstance(key, bytes) else key.encode()
    return f"{signed}.{b64(hmac.digest(raw_key, signed.encode(), digest)) if digest else ''}"


def with_exp(number: str) -> str:
    return forge(json.dumps(claims(exp="EXP")).replace('"EXP"', number))


def built_in_key() -> bytes:
    return Tokens(SECRET, claim_names=ClaimNames())._access_key


BAD: dict[str, Callable[[], str]] = {
    "no JWT": lambda: "garbage",
    "three dots": lambda: "...",
    "no signature": lambda: forge(claims(), digest=""),
    "a wrong signature": lambda: forge(claims(), key=SECRET + "?"),
    "half a signature": lambda: forge(claims())[:-20],
    "a header that is no JSON": lambda: "bm9wZQ.e30." + b64(b"signature"),
    "a header that is a list": lambda: b64(b"[]") + ".e30." + b64(b"signature"),
    "a payload that is no JSON": lambda: forge("{"),
    "a payload that is a list": lambda: forge("[]"),
    "alg none": lambda: forge(claims(), header={"alg": "none"}, digest=""),
    "alg nOnE": lambda: forge(claims(), header={"alg": "nOnE"}, digest=""),
    "no alg": lambda: forge(claims(), header={"alg": None}),
    "HS512": lambda: forge(claims(), header={"alg": "HS512"}, digest="sha512"),
    "HS512 with the signature of HS256": lambda: forge(claims(), header={"alg": "HS512"}),
    "RS256 with the signature of HS256": lambda: forge(claims(), header={"alg": "RS256"}),
    "RS256": lambda: jwt.encode(claims(), RSA_KEY, algorithm="RS256"),
    "a public key for an HMAC key": lambda: forge(claims(), key=RSA_PEM),
    "a key in the token": lambda: forge(claims(), key="k", header={"jwk": {"kty": "oct", "k": "aw"}}),
    "the built-in kid with the outside key": lambda: forge(claims(), header=BUILT_IN),
    "the built-in key without its kid": lambda: forge(claims(), key=built_in_key()),
    "the built-in key with another kid": lambda: forge(claims(), key=built_in_key(), header={"kid": "x"}),
    "a kid that is a path": lambda: forge(claims(), key="", header={"kid": "/dev/null"}),
    "a kid that is a number": lambda: forge(claims(), header={"kid": 7}),
    "an extension that must be understood": lambda: forge(claims(), header={"crit": ["x"], "x": 1}),
    "token_type refresh": lambda: forge(claims(token_type="refresh")),
    "typ Refresh": lambda: forge(claims(typ="Refresh")),
    "typ ID": lambda: forge(claims(typ="ID")),
    "typ null": lambda: forge(claims(typ=None)),
    "typ in a list": lambda: forge(claims(typ=["access"])),
    "typ refresh beside token_type access": lambda: forge(claims(token_type="access", typ="refresh")),
    "no exp": lambda: forge(claims(without="exp")),
    "exp null": lambda: with_exp("null"),
    "exp true": lambda: with_exp("true"),
    "exp in a string": lambda: with_exp('"9999999999"'),
    "exp in a list": lambda: with_exp("[9999999999]"),
    "a negative exp": lambda: with_exp("-1"),
    "a huge exp": lambda: with_exp("9" * 30),
    "an exp of thousands of digits": lambda: with_exp("9" * 5000),
    "an infinite exp": lambda: with_exp("1e400"),
    "exp Infinity": lambda: with_exp("Infinity"),
    "exp NaN": lambda: with_exp("NaN"),
    "not valid yet": lambda: forge(claims(nbf=int(time.time()) + LEEWAY_S + 600)),
    "an infinite nbf": lambda: forge(json.dumps(claims(nbf="N")).replace('"N"', "1e400")),
    "no subject": lambda: forge(claims(without="sub")),
    "an empty subject": lambda: forge(claims(sub="")),
    "a subject null": lambda: forge(claims(sub=None)),
    "a subject true": lambda: forge(claims(sub=True)),
    "a subject with a fraction": lambda: forge(claims(sub=1.5)),
    "a subject that is a list": lambda: forge(claims(sub=["eva"])),
    "a subject with a NUL": lambda: forge(claims(sub="e\0va")),
    "a subject with a lone surrogate": lambda: forge(claims(sub="\ud800")),
    "a subject of 1025 characters": lambda: forge(claims(sub="e" * 1025)),
    "20,000 characters": lambda: forge(claims(padding="x" * 14_900))[:20_000],
    "a good token of 20,000 characters": lambda: forge(claims(padding="x" * 14_850)),
}

EXPIRED: dict[str, Callable[[], str]] = {
    "long ago": lambda: forge(claims(exp=1)),
    "just past the leeway": lambda: forge(claims(exp=int(time.time()) - LEEWAY_S - 1)),
    "with a fraction": lambda: forge(claims(exp=time.time() - LEEWAY_S - 1.5)),
}

GOOD: dict[str, tuple[Callable[[], str], str]] = {
    "a token of the site": (lambda: forge(claims()), "eva"),
    "the bare minimum": (lambda: forge(claims(without="iat")), "eva"),
    "expired within the leeway": (lambda: forge(claims(exp=int(time.time()) - LEEWAY_S + 30)), "eva"),
    "exp with a fraction": (lambda: with_exp("9999999999.5"), "eva"),
    "token_type access": (lambda: forge(claims(token_type="access")), "eva"),
    "typ Bearer": (lambda: forge(claims(typ="Bearer")), "eva"),
    "typ at+jwt": (lambda: forge(claims(typ="at+jwt")), "eva"),
    "another kid": (lambda: forge(claims(), header={"kid": "2026-02"}), "eva"),
    "a numeric subject": (lambda: forge(claims(sub=12345)), "12345"),
    "a subject of 64 characters": (lambda: forge(claims(sub="e" * 64)), "e" * 64),
}

ODD_SUBJECTS = (
    "eva@example.org",
    "auth0|5f7c8",
    "~u0123",
    "~s",
    "e" * 65,
    "Evá",
    "🦊",
    "a b",
    "../x",
    "' OR 1=1",
)


async def assert_refused(server: ServerProcess, api: Api, token: str, code: str, retry: str) -> None:
    refused = await refusal(server.url, {"token": token})
    assert refused["data"] == {"code": code, "retry": retry}
    assert isinstance(refused["message"], str)
    status, body = await api.call("GET", "/api/me", token=token)
    assert (status, body["error"]["code"]) == (401, code)
    assert_unwritten(server, token)
    assert server.faults() == []


def assert_unwritten(server: ServerProcess, *secrets: str) -> None:
    log = server.log_path.read_text()
    for secret in secrets:
        assert not [part for part in (secret, *secret.split(".")) if len(part) > 20 and part in log]


async def user_of(api: Api, token: str) -> Json:
    status, body = await api.call("GET", "/api/me", token=token)
    assert status == 200, body
    user: Json = body["user"]
    return user


@pytest.mark.parametrize("name", BAD)
async def test_a_token_that_cannot_be_accepted_is_refused(name: str, server: ServerProcess, api: Api) -> None:
    await assert_refused(server, api, BAD[name](), "token_invalid", "never")


@pytest.mark.parametrize("name", EXPIRED)
async def test_only_an_expired_token_is_to_be_refreshed(name: str, server: ServerProcess, api: Api) -> None:
    await assert_refused(server, api, EXPIRED[name](), "token_expired", "refresh")


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_token_is_accepted_everywhere(name: str, server: ServerProcess, api: Api) -> None:
    make, user_id = GOOD[name]
    token = make()
    assert (await user_of(api, token))["id"] == user_id
    async with connected(server.url, token) as (client,):
        assert (await client.call("sync"))["me"]["id"] == user_id
    header = {"Authorization": f"bearer {token}"}
    async with raw_socket(api, {}, headers=header) as socket:
        await socket.send('42/chat,1["sync"]')
        (answer,) = await receive_until(socket, "43/chat,1")
    assert answer["data"]["me"]["id"] == user_id
    assert_unwritten(server, token)


@pytest.mark.parametrize("auth", [None, {}, {"token": None}, {"token": ""}], ids=str)
async def test_who_brings_no_token_is_unauthenticated(
    auth: Json | None, server: ServerProcess, api: Api
) -> None:
    refused = await refusal(server.url, auth)
    assert refused["data"] == {"code": "unauthenticated", "retry": "never"}
    for header in ({}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Basic YTpi"}):
        status, body = await api.call("GET", "/api/me", **header)
        assert (status, body["error"]["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "token", [7, 0, 1.5, True, False, [], ["a"], {}, {"token": "a"}, "\ud800", "a\0b"], ids=str
)
async def test_a_token_that_is_no_text_is_invalid(token: object, server: ServerProcess, api: Api) -> None:
    good = {"Authorization": f"Bearer {forge(claims())}"}
    async with raw_socket(api, headers=good) as socket:
        await socket.send(f"40/chat,{json.dumps({'token': token})}")
        refused = await receive_until(socket, "44/chat,")
    assert refused["data"] == {"code": "token_invalid", "retry": "never"}
    assert server.faults() == []


@pytest.mark.parametrize("subject", ODD_SUBJECTS)
async def test_an_odd_subject_is_known_by_its_hash_and_never_a_built_in_account(
    subject: str, api: Api
) -> None:
    user = await user_of(api, forge(claims(sub=subject)))
    assert user["id"] == "~s" + b64(hashlib.sha256(subject.encode()).digest())


async def test_a_token_of_the_site_never_becomes_a_built_in_account(api: Api, juan: Json) -> None:
    account = juan["user"]
    assert account["id"].startswith("~u")
    taken = claims(sub=account["id"], preferred_username=account["username"], name=account["display_name"])
    user = await user_of(api, forge(taken))
    assert user["id"].startswith("~s")
    assert user["username"].startswith("juan-")


async def test_a_built_in_token_holds_only_as_it_was_signed(
    server: ServerProcess, api: Api, juan: Json
) -> None:
    access = juan["access_token"]
    said = jwt.decode(access, options={"verify_signature": False})
    assert forge(said, key=built_in_key(), header=BUILT_IN) != access
    assert (await user_of(api, forge(said, key=built_in_key(), header=BUILT_IN)))["id"] == said["sub"]
    for forged in (
        forge(said, header=BUILT_IN),
        forge(said, key=built_in_key()),
        forge({**said, "sub": "~u" + "0" * 32}, key=built_in_key(), header=BUILT_IN),
        forge({**said, "fam": "0" * 32}, key=built_in_key(), header=BUILT_IN),
        juan["refresh_token"],
    ):
        await assert_refused(server, api, forged, "token_invalid", "never")


@pytest.mark.parametrize("name", ["access", *BAD])
async def test_only_a_refresh_token_refreshes(name: str, server: ServerProcess, api: Api, juan: Json) -> None:
    token = juan["access_token"] if name == "access" else BAD[name]()
    status, body = await api.call("POST", "/api/auth/refresh", {"refresh_token": token})
    assert (status, body["error"]["code"]) == (401, "token_invalid")
    assert_unwritten(server, token)
    assert server.faults() == []


async def test_a_live_socket_is_renewed_by_a_good_token_of_its_user_alone(server: ServerProcess) -> None:
    async with connected(server.url, forge(claims())) as (eva,):
        for token, code in (
            (BAD["a wrong signature"](), "token_invalid"),
            (EXPIRED["long ago"](), "token_expired"),
            (forge(claims(sub="ana")), "forbidden"),
            ("x" * 16_385, "invalid"),
        ):
            error = (await eva.ask("auth_refresh", {"token": token}))["error"]
            assert (error["code"], error.get("field", "token")) == (code, "token")
            assert_unwritten(server, token)
        renewed = await eva.call("auth_refresh", {"token": forge(claims(exp=int(time.time()) + 7200))})
        assert 7190 <= renewed["expires_in"] <= 7200


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_logout_ends_the_sockets_and_the_tokens(
    everywhere: bool,  # noqa: FBT001 - the two cases of a table
    server: ServerProcess,
    api: Api,
) -> None:
    name = f"revoked-{everywhere}".lower()
    phone = await api.register(name)
    body = {"username": name, "password": f"{name} has a password"}
    _, laptop = await api.call("POST", "/api/auth/login", body)
    async with connected(server.url, phone["access_token"], laptop["access_token"]) as clients:
        wanted = {"everywhere": everywhere}
        assert (await api.call("POST", "/api/auth/logout", wanted, token=phone["access_token"]))[0] == 200
        ended = clients if everywhere else clients[:1]
        for client in ended:
            told = await client.heard("session_ended")
            assert (told["code"], told["retry"]) == ("token_revoked", "never")
            await client.ended.wait()
        for client in clients[len(ended) :]:
            await client.call("sync")
    for signed in (phone, laptop)[: len(ended)]:
        await assert_refused(server, api, signed["access_token"], "token_revoked", "never")
        refresh = {"refresh_token": signed["refresh_token"]}
        status, answer = await api.call("POST", "/api/auth/refresh", refresh)
        assert (status, answer["error"]["code"]) == (401, "token_revoked")
    assert_unwritten(server, body["password"], phone["refresh_token"], laptop["access_token"])


async def test_a_logout_ends_that_token_of_a_site_or_all_that_were_issued(
    server: ServerProcess, api: Api
) -> None:
    one, other = forge(claims(sub="paz", jti="1")), forge(claims(sub="paz", jti="2"))
    assert (await api.call("POST", "/api/auth/logout", {}, token=one))[0] == 200
    await assert_refused(server, api, one, "token_revoked", "never")
    assert (await api.call("POST", "/api/auth/logout", {"everywhere": True}, token=other))[0] == 200
    await assert_refused(server, api, other, "token_revoked", "never")
    await user_of(api, forge(claims(sub="paz", iat=int(time.time()) + 2)))


async def test_a_token_in_the_url_is_refused_and_never_written_down(server: ServerProcess, api: Api) -> None:
    token = forge(claims())
    async with raw_socket(api, query=f"&token={token}") as socket:
        await socket.send("40/chat,")
        refused = await receive_until(socket, "44/chat,")
    assert refused["data"] == {"code": "unauthenticated", "retry": "never"}
    status, body = await api.call("GET", f"/api/me?token={token}")
    assert (status, body["error"]["code"]) == (401, "unauthenticated")
    assert_unwritten(server, token)


async def test_no_password_is_ever_written_down(server: ServerProcess, api: Api) -> None:
    password = "a password that nobody should ever read"
    for body in (
        {"username": "rosa", "password": password},
        {"username": "rosa", "password": password},
        {"username": "rosa", "password": password, password: password},
        {"username": password, "password": password},
        {"username": "rosa", "password": {"password": password}},
    ):
        for path in ("/api/auth/register", "/api/auth/login"):
            await api.call("POST", path, body)
    assert_unwritten(server, password)
    assert server.faults() == []


async def test_where_the_site_asks_for_it_the_url_may_hold_the_token_and_the_issuer_and_audience_count(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = {
        "TERTULIA_AUTH__ALLOW_QUERY_TOKEN": "true",
        "TERTULIA_AUTH__ISSUER": "https://id.example.org",
        "TERTULIA_AUTH__AUDIENCE": "chat,mobile",
    }
    good = claims(iss="https://id.example.org", aud="chat")
    async with running_server(tmp_path_factory.mktemp("site"), env) as server, http_api(server) as api:
        for audience in ("chat", "mobile", ["other", "mobile"]):
            token = forge({**good, "aud": audience})
            async with raw_socket(api, {}, query=f"&token={token}"):
                assert (await user_of(api, token))["id"] == "eva"
            assert_unwritten(server, token)
        for issuer in ("https://id.example.com", "https://id.example.org/", ["https://id.example.org"], None):
            await assert_refused(server, api, forge({**good, "iss": issuer}), "token_invalid", "never")
        for wrong in ("other", ["other"], {"chat": 1}, None):
            await assert_refused(server, api, forge({**good, "aud": wrong}), "token_invalid", "never")
        await assert_refused(server, api, forge(claims()), "token_invalid", "never")
        signed = await api.register("juan")
        client = await Client().connect(server.url, {"token": signed["access_token"]})
        await client.close()
