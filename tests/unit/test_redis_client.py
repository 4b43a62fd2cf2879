import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError

from server.redis_client import FAILURES, RedisRefusedError, check, make_client, unreachable
from tests.certificates import Authority
from tests.redis_server import RedisServer, make_redis, running_redis, shared_redis_url

SECRET = "s3cr3t-in-the-url"


@pytest.fixture
async def guarded() -> AsyncIterator[RedisServer]:
    """A server that wants a password."""
    redis = await asyncio.to_thread(make_redis, SECRET)
    yield redis
    await asyncio.to_thread(redis.stop)


async def refused(url: str) -> str:
    client = make_client(url, timeout_s=2)
    try:
        with pytest.raises(RedisRefusedError) as caught:
            await check(client)
    finally:
        await client.aclose()
    assert caught.value.__cause__ is None
    return str(caught.value)


async def test_a_server_that_serves_is_accepted() -> None:
    client = make_client(await asyncio.to_thread(shared_redis_url), timeout_s=2)
    await check(client)
    await client.aclose()


async def test_the_password_of_the_url_is_used_decoded(guarded: RedisServer) -> None:
    client = make_client(f"redis://:{SECRET.replace('-', '%2D')}@127.0.0.1:{guarded.port}", timeout_s=2)
    await check(client)
    await client.aclose()


@pytest.mark.parametrize("credentials", ["", ":wrong-one@", "nobody:wrong-one@"])
async def test_a_wrong_password_is_refused_without_showing_it(guarded: RedisServer, credentials: str) -> None:
    said = await refused(f"redis://{credentials}127.0.0.1:{guarded.port}")
    assert "password" in said or "user" in said
    assert "wrong-one" not in said
    assert "127.0.0.1" not in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:1", "Redis refuses connections. Start it, or correct the host and the port"),
        ("rediss://127.0.0.1:1", "Redis refuses connections."),
        ("redis+sentinel://127.0.0.1:1/main", "no Sentinel of the URL names a primary"),
    ],
)
async def test_who_does_not_answer_is_said_as_what_it_is(url: str, said: str) -> None:
    client = make_client(url, timeout_s=2)
    with pytest.raises(FAILURES) as caught:
        await check(client)
    await client.aclose()
    assert said in unreachable(caught.value, 0.1)


async def test_only_of_who_was_waited_for_it_is_said_for_how_long(guarded: RedisServer) -> None:
    guarded.freeze()
    client = make_client(guarded.url, timeout_s=0.1)
    with pytest.raises(FAILURES) as caught:
        await check(client)
    await client.aclose()
    guarded.thaw()
    for error in (caught.value, TimeoutError()):
        assert "Redis cannot be reached within 1.3 s. Start it" in unreachable(error, 1.26)
    both = OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect call failed")
    assert "refuses connections" in unreachable(both, 1)
    unknown = unreachable(OSError("a host nobody knows"), 1)
    assert "Redis cannot be reached (OSError)" in unknown
    assert "nobody" not in unknown


async def test_a_database_that_there_is_not_is_named_as_that(guarded: RedisServer) -> None:
    said = await refused(f"redis://:{SECRET}@127.0.0.1:{guarded.port}/9999")
    assert "no database of this number" in said


async def test_a_user_without_the_right_to_ask_is_refused(guarded: RedisServer) -> None:
    admin = make_client(f"redis://:{SECRET}@127.0.0.1:{guarded.port}", timeout_s=2)
    await admin.acl_setuser("eva", enabled=True, passwords=[f"+{SECRET}"], commands=["+get"])
    await admin.aclose()
    said = await refused(f"redis://eva:{SECRET}@127.0.0.1:{guarded.port}")
    assert "NOPERM" in said or "permission" in said or "may use it" in said
    assert SECRET not in said


async def test_a_server_with_tls_is_accepted_by_whom_its_authority_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other = Authority(tmp_path / "authority"), Authority(tmp_path / "other")
    with running_redis(tmp_path / "redis", password=SECRET, authority=authority) as redis:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.trusted))
        client = make_client(redis.url, timeout_s=2)
        await check(client)
        await client.aclose()
        assert "password" in await refused(f"rediss://:wrong-one@127.0.0.1:{redis.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(other.trusted))
        assert "the certificate of Redis is not accepted" in await refused(redis.url)


async def test_a_server_that_is_not_there_is_a_failure_that_shows_nothing_of_the_password() -> None:
    client = make_client(f"redis://:{SECRET}@127.0.0.1:1", timeout_s=1)
    with pytest.raises(FAILURES) as caught:
        await check(client)
    await client.aclose()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{SECRET}@host",
        f"{SECRET}",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host:99999999/0",
        f"redis://:{SECRET}@[host/0",
        f"redis+sentinel://:{SECRET}@host",
        f"redis+sentinel://:{SECRET}@/service",
        f"redis+sentinel://:{SECRET}@host:port/service",
        f"redis+sentinel://:{SECRET}@host,,other/service",
        f"redis+sentinel://:{SECRET}@host/service/database",
    ],
)
async def test_what_is_no_url_of_redis_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(RedisRefusedError) as caught:
        make_client(url, timeout_s=1)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_a_sentinel_url_names_sentinels_service_database_and_who_asks_redis() -> None:
    client = make_client(f"redis+sentinel://ana:{SECRET}%2Fx@one:1,two,[::1]:3/main/4", timeout_s=1)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("one", 1), ("two", 26_379), ("::1", 3)]
    assert [each.get("password") for each in asked] == [None] * 3
    assert sum(each["socket_timeout"] for each in asked) < 1, "the last one is asked in time"
    known = pool.connection_kwargs
    assert (pool.service_name, known["db"]) == ("main", 4)
    assert (known["username"], known["password"]) == ("ana", f"{SECRET}/x")
    await client.aclose()


async def test_a_sentinel_url_needs_nobody() -> None:
    client = make_client("redis+sentinel://one/main", timeout_s=1)
    known = client.connection_pool.connection_kwargs
    assert (known["db"], known["username"], known["password"]) == (0, None, None)
    await client.aclose()


@pytest.mark.parametrize(
    "url", ["redis://host", "rediss://host", "redis+sentinel://host/main", "rediss+sentinel://host/main"]
)
async def test_nothing_is_tried_twice(url: str) -> None:
    client = make_client(url, timeout_s=1.5)
    known = client.connection_pool.connection_kwargs
    assert known["retry"]._retries == 0
    assert (known["socket_timeout"], known["socket_connect_timeout"]) == (1.5, 1.5)
    await client.aclose()


class OldClient:
    """Says that it is older than it is: no such server is at hand."""

    def __init__(self, version: str) -> None:
        self.version = version

    async def info(self, _section: str) -> dict[str, str]:
        return {"redis_version": self.version}


@pytest.mark.parametrize(
    ("version", "is_old"), [("5.0.14", True), ("6.0.16", True), ("6.2.0", False), ("10.0", False)]
)
async def test_a_server_that_is_too_old_is_refused_with_what_is_needed(version: str, *, is_old: bool) -> None:
    checking = check(OldClient(version))  # type: ignore[arg-type]  # a fake of the one call
    if not is_old:
        await checking
        return
    with pytest.raises(RedisRefusedError, match=r"too old.* 6\.2 or later"):
        await checking


def test_failures_are_those_after_which_a_write_may_be_done() -> None:
    assert issubclass(TimeoutError, FAILURES)
    assert issubclass(ConnectionError, FAILURES)
    assert issubclass(RedisError, FAILURES)
