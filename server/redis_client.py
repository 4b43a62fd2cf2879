"""A connection to Redis by its URL, for the bus and for what may be lost. Nothing is tried twice unasked."""

import errno
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

OLDEST = (6, 2)
"""The oldest version that serves: streams that are trimmed by id."""

_SENTINEL_PORT = 26_379
FAILURES = (RedisError, OSError, TimeoutError)
"""What a call raises when Redis does not do it: what became of a write is then unknown."""

Client = aioredis.Redis

_REFUSALS = {
    AuthenticationError: "Redis does not accept the user or the password of the URL.",
    NoPermissionError: "Redis refuses (NOPERM): give the URL a user that may use it; as in "
    "ACL SETUSER tertulia on >PASSWORD ~{tertulia}* &{tertulia}* +@all -@dangerous +info",
    ReadOnlyError: "Redis refuses (READONLY): the URL has to be that of a primary, not of a replica.",
    OutOfMemoryError: "Redis refuses (OOM): give it more memory (maxmemory).",
}


class RedisRefusedError(Exception):
    """This Redis cannot be used; the message names the remedy and shows nothing of the URL."""


def make_client(url: str, *, timeout_s: float) -> Client:
    """A client of `redis://` or `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE[/DB]`; `rediss…`: by TLS.

    It connects at its first call. Each call takes at most `timeout_s` and is tried once: a repeat could put
    the same entry into a stream twice. Of a Sentinel URL the user and the password are those of Redis, and
    TLS is spoken with both. Raises RedisRefusedError.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        scheme, _, rest = url.partition("://")
        if scheme in ("redis+sentinel", "rediss+sentinel"):
            return _by_sentinel(rest, {**options, "ssl": scheme.startswith("rediss")})
        return Client.from_url(url, **options)
    except (ValueError, TypeError) as error:
        # What the library says may show a part of the URL, and that of the password.
        raise RedisRefusedError(
            f"the URL is not one of Redis ({type(error).__name__}); expected "
            "redis://USER:PASSWORD@HOST:PORT/DB or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, rediss… for "
            "TLS, with percent-encoding in the password."
        ) from None


def _by_sentinel(rest: str, options: dict[str, Any]) -> Client:
    # By hand: many a version of urlsplit takes no more than one host where one is an IPv6 address.
    network, _, path = rest.partition("/")
    credentials, _, hosts = network.rpartition("@")
    user, _, password = credentials.partition(":")
    service, _, database = path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError("no service")
    addresses = []
    for each in hosts.split(","):
        address = urlsplit(f"//{each}")
        if not address.hostname:
            raise ValueError("no host")
        addresses.append((address.hostname, address.port or _SENTINEL_PORT))
    # Who is given so long to connect has asked them all by then, though the first ones are silent.
    timeout_s = options["socket_timeout"] / (len(addresses) + 1)
    asking = {**options, "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    sentinel = Sentinel(addresses, sentinel_kwargs=asking, **options)  # type: ignore[no-untyped-call]  # theirs
    client: Client = sentinel.master_for(
        service,
        db=int(database or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
    )
    return client


def refusal(error: BaseException) -> str | None:
    """What Redis, or its certificate, refuses, and what to do. None where it did not answer at all.

    Of an answer of Redis the first word is its code; the rest may show what was asked.
    """
    for kind, remedy in _REFUSALS.items():
        if isinstance(error, kind):
            return remedy
    if isinstance(error, ResponseError):
        if str(error).startswith("DB index"):
            return "Redis has no database of this number: correct what stands last in the URL."
        return f"Redis refuses ({str(error).partition(' ')[0]}): its documentation has this code."
    if isinstance(cause := error.__context__, ssl.SSLCertVerificationError):
        return (
            f"the certificate of Redis is not accepted ({cause.verify_message}). It has to be for the URL's "
            "host and by an authority that this machine trusts, or one in the file that SSL_CERT_FILE names."
        )
    return None


def unreachable(error: BaseException, waited_s: float) -> str:
    """Why there is no answer, by what a call raised after so long, and what to do."""
    remedy = "Start it, or correct the host and the port of the URL."
    if isinstance(error, MasterNotFoundError):
        return (
            "no Sentinel of the URL names a primary. Start them, or correct the hosts, the ports and the "
            "service of the URL; with TLS their certificates are checked, too."
        )
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return f"Redis cannot be reached within {waited_s:.1f} s. {remedy}"
    for each in (error, error.__context__):
        # Of a host with several addresses the library says it in words.
        if isinstance(each, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(each):
            return f"Redis refuses connections. {remedy}"
    return f"Redis cannot be reached ({type(error).__name__}). {remedy}"


async def check(client: Client) -> None:
    """Make sure that it answers and is recent enough. Raises RedisRefusedError, or one of FAILURES."""
    try:
        about = await client.info("server")
    except FAILURES as error:
        if refused := refusal(error):
            raise RedisRefusedError(refused) from None
        raise
    version = tuple(int(part) for part in str(about["redis_version"]).split(".")[:2])
    if version < OLDEST:
        found, needed = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        raise RedisRefusedError(
            f"Redis {found} is too old: its streams lack what is needed. Install {needed} or later."
        )
