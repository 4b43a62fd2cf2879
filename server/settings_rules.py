"""What must hold of the settings beyond the type of each key."""

import ipaddress
import re
from collections.abc import Iterable, Iterator

from server.settings import AuthSettings, ChatSettings, RealtimeSettings, ServerSettings, Settings

BrokenRule = tuple[tuple[str, ...], str]

SECRET_BYTES = 32
# A code point may take twelve bytes of a packet ("\\ud83d\\ude00"); the rest is what surrounds the content.
_CHAR_BYTES = 12
_EVENT_BYTES = 4_096

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)
_ORIGIN = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[(?P<ipv6>[0-9a-f:.]+)\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_LAST_PORT = 65_535
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_MONGODB = re.compile(
    r"(?:(?:[^@:/?#%]|%[0-9A-Fa-f]{2})+(?::(?:[^@:/?#%]|%[0-9A-Fa-f]{2})*)?@)?(?P<hosts>[^@/?#]+)"
    r"(?:/[^/?#\\. \"$\0]*)?(?:\?[^#\s]*)?"
)
_HOST_PORT = re.compile(r"(?P<host>[^:\[\]]+|\[[^\[\]]+\])(?::(?P<port>[0-9]{1,5}))?")
_CREDENTIALS = r"(?:(?:[^@:/?#%]|%[0-9A-Fa-f]{2})*(?::(?:[^@:/?#%]|%[0-9A-Fa-f]{2})*)?@)?"
_REDIS = re.compile(_CREDENTIALS + r"(?P<hosts>[^@/?#,]+)(?:/[0-9]{0,5})?")
_SENTINEL = re.compile(_CREDENTIALS + r"(?P<hosts>[^@/?#]+)/[A-Za-z0-9._-]+(?:/[0-9]{0,5})?")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)


def broken_rules(settings: Settings) -> Iterator[BrokenRule]:
    """Each rule that does not hold: its keys, the one to report first, and a sentence that shows no value."""
    yield from _server(settings.server)
    yield from _realtime(settings.realtime, settings.chat)
    yield from _auth(settings.auth)
    has_secret = settings.auth.secret is not None
    yield from _urls(settings.database.url, settings.cluster.url, has_secret=has_secret)
    if not settings.database.is_sqlite and settings.database.timeout_s >= settings.realtime.event_deadline_s:
        message = "must be less than realtime.event_deadline_s, or nothing is left of it for a second try"
        yield ("database.timeout_s", "realtime.event_deadline_s"), message
    yield from _unique("chat.reactions", settings.chat.reactions)


def _server(server: ServerSettings) -> Iterator[BrokenRule]:
    if not _is_host(server.host):
        yield ("server.host",), "expected an IP address or a host name, without port, scheme and brackets"
    elif server.development and not _is_loopback(server.host):
        message = "server.development with a host that others reach: use 127.0.0.1, or switch development off"
        yield ("server.development", "server.host"), message
    for number, origin in enumerate(server.allowed_origins, 1):
        if not _is_origin(origin):
            message = (
                f"entry {number}: expected an origin such as https://chat.example.org or https://*.example.org"
                " (lower case; no path, password or default port)"
            )
            yield ("server.allowed_origins",), message
    for number, network in enumerate(server.trusted_proxies, 1):
        if not _is_network(network):
            message = (
                f"entry {number}: expected an IP network such as 10.0.0.0/8 or fd00::/8, without host bits"
            )
            yield ("server.trusted_proxies",), message


def _realtime(realtime: RealtimeSettings, chat: ChatSettings) -> Iterator[BrokenRule]:
    yield from _unique("realtime.transports", realtime.transports)
    if realtime.max_queued_bytes < realtime.max_packet_bytes:
        message = "must be at least realtime.max_packet_bytes, or the largest packet would never be read"
        yield ("realtime.max_queued_bytes", "realtime.max_packet_bytes"), message
    needed = chat.max_content_chars * _CHAR_BYTES + _EVENT_BYTES
    if needed > realtime.max_packet_bytes:
        message = f"messages this long need realtime.max_packet_bytes of at least {needed}"
        yield ("chat.max_content_chars", "realtime.max_packet_bytes"), message


def _auth(auth: AuthSettings) -> Iterator[BrokenRule]:
    if auth.secret is not None and len(auth.secret.reveal().encode()) < SECRET_BYTES:
        yield ("auth.secret",), f"must have at least {SECRET_BYTES} bytes (try: openssl rand -base64 48)"
    if auth.refresh_ttl_s <= auth.access_ttl_s:
        yield ("auth.refresh_ttl_s", "auth.access_ttl_s"), "must be more than auth.access_ttl_s"
    if auth.expiring_notice_s >= auth.access_ttl_s:
        yield ("auth.expiring_notice_s", "auth.access_ttl_s"), "must be less than auth.access_ttl_s"
    if auth.refresh_grace_s >= auth.refresh_ttl_s:
        yield ("auth.refresh_grace_s", "auth.refresh_ttl_s"), "must be less than auth.refresh_ttl_s"


def _urls(database: str, cluster: str, *, has_secret: bool) -> Iterator[BrokenRule]:
    store, path = _split(database)
    if store in ("mongodb", "mongodb+srv"):
        if not _is_mongodb(path, has_port=store == "mongodb"):
            message = (
                f"expected {store}://USER:PASSWORD@HOST/DATABASE?OPTIONS (all but HOST may be left out); "
                "in user and password / ? # @ : % stand as %2F %3F %23 %40 %3A %25"
            )
            yield ("database.url",), message
    elif store != "sqlite" or not path.startswith("/"):
        yield (
            ("database.url",),
            "expected sqlite:///PATH (three slashes; four for an absolute path) or mongodb://HOST",
        )
    elif path in ("/", "/:memory:") or path.endswith("/") or set(path) & set("?#\0"):
        yield ("database.url",), "expected the path of a file after sqlite:///, without options"
    yield from _cluster(cluster, store, has_secret=has_secret)


def _cluster(cluster: str, store: str, *, has_secret: bool) -> Iterator[BrokenRule]:
    bus, rest = _split(cluster)
    if bus in ("redis", "rediss", "redis+sentinel", "rediss+sentinel"):
        is_sentinel = bus.endswith("+sentinel")
        if not _is_redis(rest, is_sentinel=is_sentinel):
            path = "HOST:PORT,HOST:PORT/SERVICE/DB" if is_sentinel else "HOST:PORT/DB"
            message = (
                f"expected {bus}://USER:PASSWORD@{path} (what is not needed may be left out); in user and "
                "password / ? # @ : % stand as %2F %3F %23 %40 %3A %25"
            )
            yield ("cluster.url",), message
        if not has_secret:
            message = "must be given where there are several nodes: each would make one of its own"
            yield ("auth.secret", "cluster.url"), message
        if store == "sqlite":
            message = f"{bus}:// with sqlite:// is refused: an SQLite file serves one process alone"
            yield ("cluster.url", "database.url"), message
    elif bus != "memory" or rest:
        expected = "redis://, redis+sentinel://, or with TLS rediss:// or rediss+sentinel://"
        yield ("cluster.url",), f"expected memory:// (one process), {expected}"


def _is_redis(rest: str, *, is_sentinel: bool) -> bool:
    """Whether this, after the scheme, names one Redis, or Sentinels and the service they watch."""
    match = (_SENTINEL if is_sentinel else _REDIS).fullmatch(rest)
    if match is None:
        return False
    hosts = match["hosts"].split(",")
    return (is_sentinel or len(hosts) == 1) and all(_is_host_port(host, has_port=True) for host in hosts)


def _is_mongodb(rest: str, *, has_port: bool) -> bool:
    """Whether this, after the scheme, names a server; what its options mean the driver knows."""
    match = _MONGODB.fullmatch(rest)
    return match is not None and all(
        _is_host_port(host, has_port=has_port) for host in match["hosts"].split(",")
    )


def _is_host_port(text: str, *, has_port: bool) -> bool:
    match = _HOST_PORT.fullmatch(text)
    if match is None or not _is_host(match["host"].strip("[]")):
        return False
    return match["port"] is None or (has_port and 0 < int(match["port"]) <= _LAST_PORT)


def _unique(key: str, values: Iterable[str]) -> Iterator[BrokenRule]:
    listed = list(values)
    if len(set(listed)) < len(listed):
        yield (key,), "holds an entry twice"


def _split(url: str) -> tuple[str, str]:
    match = _URL.fullmatch(url)
    return (match[1], match[2]) if match else ("", "")


def _is_host(host: str) -> bool:
    # A last label of digits alone is an IP address typed wrong.
    is_name = _HOST_NAME.fullmatch(host) is not None and not host.rpartition(".")[2].isdigit()
    return is_name or _find_address(host) is not None


def _is_loopback(host: str) -> bool:
    address = _find_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _find_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_network(network: str) -> bool:
    try:
        ipaddress.ip_network(network)
    except ValueError:
        return False
    return True


def _is_origin(origin: str) -> bool:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    ipv6, port = match["ipv6"], match["port"]
    if ipv6 is not None and _find_address(ipv6) is None:
        return False
    return port is None or (int(port) <= _LAST_PORT and port != _DEFAULT_PORTS.get(match["scheme"]))
