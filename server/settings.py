"""The settings: every key with its type, default and description. Durations end in `_s`, sizes in `_bytes`.

`settings_load` reads them from file and environment; `settings_rules` has what must hold between them.
"""

import hmac
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MASK = "********"
_AUTHORITY = re.compile(r"://(?=[^/])")
_SEPARATOR = re.compile("([&;])")
# MongoDB's authMechanismProperties may hold the token of a session.
_SECRET_OPTIONS = ("password", "passphrase", "passwd", "secret", "token", "authmechanismproperties")

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
PauseSeconds = Annotated[float, Meta(ge=0, le=3_600)]
TokenSeconds = Annotated[int, Meta(ge=1, le=315_360_000)]
PerSecond = Annotated[float, Meta(gt=0, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1_024, le=1_073_741_824)]
Transport = Literal["polling", "websocket"]
Reaction = Annotated[str, Meta(min_length=1, max_length=32)]


class Secret:
    """Text that shows itself as `********` wherever it is printed; `reveal` gives it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for signing and verifying only."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._text), _bytes(other._text))

    def __hash__(self) -> int:
        return hash((Secret, self._text))


def mask_passwords(text: str) -> str:
    """Put `********` for the passwords of URLs: before the `@`, and in their options.

    Takes time linear in the text.
    """
    if "://" not in text or ("@" not in text and "?" not in text):
        return text
    return re.sub(r"\S+", lambda run: _mask_options(_mask_url(run[0])), text)


def _mask_url(url: str) -> str:
    start = _AUTHORITY.search(url)
    if start is None:
        return url
    # Up to the last "@": a password typed in without percent-encoding may hold "/", "?" and "@" itself.
    credentials, at, tail = url[start.end() :].rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{url[: start.end()]}{user}:{MASK}{at}{tail}" if colon else url


def _mask_options(url: str) -> str:
    head, question, tail = url.partition("?")
    if not question or "://" not in head:
        return url
    shown: list[str] = []
    is_secret = False
    for part in _SEPARATOR.split(tail):
        name, equals, _ = part.partition("=")
        if equals:
            is_secret = any(each in name.lower() for each in _SECRET_OPTIONS)
        if not is_secret or part in ("&", ";", ""):
            shown.append(part)
        else:  # what has no name goes on with the secret before it
            shown.append(f"{name}={MASK}" if equals else MASK)
    return f"{head}?{''.join(shown)}"


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One section of the settings. Its `repr` is masked."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in masked(self).items())})"
        )


class ServerSettings(Section, frozen=True, kw_only=True):
    """Where the server listens, and whom it trusts."""

    host: Annotated[
        Text,
        Meta(description="Address to listen on; 0.0.0.0 for every IPv4 interface, :: for every IPv6 one."),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="TCP port; 0 takes a free one.")] = 8080
    development: Annotated[
        bool,
        Meta(
            description="Opens /test-chat, the token command and localhost origins; on a loopback host only."
        ),
    ] = False
    allowed_origins: Annotated[
        tuple[Text, ...],
        Meta(description="Origins let in, such as https://*.example.org; empty: the server's own."),
    ] = ()
    trusted_proxies: Annotated[
        tuple[Text, ...],
        Meta(description="IP networks whose X-Forwarded-For, -Host and -Proto are believed."),
    ] = ()
    drain_delay_s: Annotated[
        PauseSeconds,
        Meta(
            description="Time between going unready and closing, for load balancers; always 0 in development."
        ),
    ] = 5.0

    def url(self, port: int) -> str:
        """Where a browser finds the server that listens on `port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"


class RealtimeSettings(Section, frozen=True, kw_only=True):
    """The Socket.IO connections."""

    transports: Annotated[
        tuple[Transport, ...],
        Meta(min_length=1, description="Transports offered; websocket alone needs no sticky sessions."),
    ] = ("polling", "websocket")
    ping_interval_s: Annotated[Seconds, Meta(description="Time between two pings of the server.")] = 25.0
    ping_timeout_s: Annotated[
        Seconds, Meta(description="Time for the answer, after which a connection is dead.")
    ] = 20.0
    connect_timeout_s: Annotated[Seconds, Meta(description="Time in which a connection must join /chat.")] = (
        10.0
    )
    max_packet_bytes: Annotated[Bytes, Meta(description="Largest packet taken from a client.")] = 65_536
    event_deadline_s: Annotated[
        Seconds, Meta(description="Time after which an event is answered `unavailable`.")
    ] = 10.0
    max_queued_events: Annotated[
        Count, Meta(description="Events of a connection that may wait before it is read no further.")
    ] = 64
    max_queued_bytes: Annotated[Bytes, Meta(description="Their total size; at least one packet.")] = 262_144
    max_buffer_bytes: Annotated[
        Bytes, Meta(description="Unsent bytes of a connection past which it is cut off as too slow.")
    ] = 1_048_576
    recovery_s: Annotated[
        PauseSeconds, Meta(description="How long a connection may be away and be recovered; 0: never.")
    ] = 120.0
    recovery_log_bytes: Annotated[
        Bytes, Meta(description="Memory for the events that recovered connections are sent again.")
    ] = 67_108_864


class ClaimsSettings(Section, frozen=True, kw_only=True):
    """Which claim of a token holds what of the user."""

    id: Annotated[Text, Meta(description="The user's id.")] = "sub"
    username: Annotated[Text, Meta(description="The username.")] = "preferred_username"
    display_name: Annotated[Text, Meta(description="The name shown.")] = "name"
    avatar_url: Annotated[Text, Meta(description="The URL of the picture.")] = "picture"


class AuthSettings(Section, frozen=True, kw_only=True):
    """Who may connect."""

    secret: Annotated[
        Secret | None,
        Meta(
            description="Signs tokens, 32 bytes or more; by environment only; null: one is made once in var/."
        ),
    ] = None
    accounts: Annotated[bool | None, Meta(description="Built-in accounts (register, login); null: on.")] = (
        None
    )
    access_ttl_s: Annotated[TokenSeconds, Meta(description="Life of an access token.")] = 900
    refresh_ttl_s: Annotated[TokenSeconds, Meta(description="Life of a refresh token.")] = 2_592_000
    refresh_grace_s: Annotated[
        int,
        Meta(
            ge=0, le=3_600, description="Time in which a refresh token just used answers the same successor."
        ),
    ] = 60
    expiring_notice_s: Annotated[
        int, Meta(ge=0, le=86_400, description="How long before the end of a token `auth_expiring` is sent.")
    ] = 60
    leeway_s: Annotated[
        int, Meta(ge=0, le=300, description="Difference of clocks allowed for in tokens.")
    ] = 5
    allow_query_token: Annotated[
        bool, Meta(description="Take ?token= too; URLs end up in the logs of proxies and browsers.")
    ] = False
    issuer: Annotated[Text | None, Meta(description="The only `iss` taken; null: any.")] = None
    audience: Annotated[tuple[Text, ...], Meta(description="`aud` values taken; empty: any.")] = ()
    claims: ClaimsSettings = ClaimsSettings()

    @property
    def accounts_enabled(self) -> bool:
        """Whether people can register and log in here."""
        return self.accounts is not False


class DatabaseSettings(Section, frozen=True, kw_only=True):
    """Where messages, rooms and users are stored."""

    url: Annotated[
        Text,
        Meta(
            description="sqlite:///PATH (four slashes: absolute) or mongodb://USER:PASSWORD@HOST:PORT/DATABASE."
        ),
    ] = "sqlite:///var/tertulia.db"
    driver: Annotated[
        Literal["pymongo", "motor"], Meta(description="Driver of mongodb://: pymongo, or motor (slower).")
    ] = "pymongo"
    timeout_s: Annotated[Seconds, Meta(description="Longest time one operation may take.")] = 5.0
    readers: Annotated[
        int, Meta(ge=1, le=64, description="SQLite: connections that read beside the one that writes.")
    ] = 4

    @property
    def is_sqlite(self) -> bool:
        """Whether the store is a file."""
        return self.url.startswith("sqlite:///")

    @property
    def path(self) -> Path:
        """The database file that a `sqlite:///` URL names."""
        return Path(self.url.removeprefix("sqlite:///"))

    @property
    def folder(self) -> Path:
        """Where the server keeps files of its own: beside the database file, else `var/`."""
        return self.path.parent if self.is_sqlite else Path("var")


class ClusterSettings(Section, frozen=True, kw_only=True):
    """How the nodes of a cluster reach each other."""

    url: Annotated[
        Text, Meta(description="memory:// (one process), redis[s]:// or redis[s]+sentinel:// (s: TLS).")
    ] = "memory://"

    @property
    def is_memory(self) -> bool:
        """Whether there is one process alone."""
        return self.url.startswith("memory:")


class ChatSettings(Section, frozen=True, kw_only=True):
    """What a message may be."""

    max_content_chars: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Longest message in code points; must fit into a packet.")
    ] = 4_000
    reactions: Annotated[
        tuple[Reaction, ...], Meta(min_length=1, max_length=100, description="The reactions there are.")
    ] = ("like", "love", "haha", "wow", "sad", "angry")


class PresenceSettings(Section, frozen=True, kw_only=True):
    """Who is online and who is typing."""

    grace_s: Annotated[
        PauseSeconds, Meta(description="Time without a connection before a user is offline.")
    ] = 5.0
    typing_ttl_s: Annotated[
        Seconds, Meta(description="Time after which the last `typing` no longer holds.")
    ] = 6.0
    max_room_size: Annotated[
        Count, Meta(description="Members above which a room has no presence, joins or read marks of others.")
    ] = 200
    max_typing_shown: Annotated[Count, Meta(description="People shown typing at a time in such a room.")] = 5


class LimitsSettings(Section, frozen=True, kw_only=True):
    """Limits against floods: buckets a user and node, filled at `_per_s` up to `_burst` events."""

    enabled: Annotated[bool, Meta(description="Off switches all of this section off.")] = True
    message_per_s: Annotated[PerSecond, Meta(description="Messages.")] = 10.0
    message_burst: Annotated[Count, Meta(description="Messages at once.")] = 40
    change_per_s: Annotated[PerSecond, Meta(description="Edits, deletions and reactions.")] = 10.0
    change_burst: Annotated[Count, Meta(description="Edits, deletions and reactions at once.")] = 40
    read_per_s: Annotated[PerSecond, Meta(description="Read marks.")] = 20.0
    read_burst: Annotated[Count, Meta(description="Read marks at once.")] = 60
    typing_per_s: Annotated[PerSecond, Meta(description="Typing notices.")] = 5.0
    typing_burst: Annotated[Count, Meta(description="Typing notices at once.")] = 20
    room_per_s: Annotated[PerSecond, Meta(description="Changes of rooms and members.")] = 5.0
    room_burst: Annotated[Count, Meta(description="Changes of rooms and members at once.")] = 30
    query_per_s: Annotated[PerSecond, Meta(description="Reads: sync, history, lists.")] = 10.0
    query_burst: Annotated[Count, Meta(description="Reads at once.")] = 60
    auth_per_s: Annotated[PerSecond, Meta(description="Renewals of tokens.")] = 1.0
    auth_burst: Annotated[Count, Meta(description="Renewals of tokens at once.")] = 10
    connections_per_min: Annotated[Count, Meta(description="New connections a minute from an address.")] = 240
    logins_per_min: Annotated[
        Count, Meta(description="Logins a minute from an address, and for a username.")
    ] = 20
    sockets_per_user: Annotated[Count, Meta(description="Sockets of a user; one more ends the oldest.")] = 20
    rooms_per_user: Annotated[Count, Meta(description="Rooms a user may be in.")] = 1_000
    members_per_room: Annotated[Count, Meta(description="Members a room may have.")] = 5_000


class LogSettings(Section, frozen=True, kw_only=True):
    """What the server writes to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least level written: debug to error."),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"], Meta(description="console or json; auto: console on a terminal.")
    ] = "auto"


class Settings(Section, frozen=True, kw_only=True):
    """All settings of one server."""

    server: ServerSettings = ServerSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    auth: AuthSettings = AuthSettings()
    database: DatabaseSettings = DatabaseSettings()
    cluster: ClusterSettings = ClusterSettings()
    chat: ChatSettings = ChatSettings()
    presence: PresenceSettings = PresenceSettings()
    limits: LimitsSettings = LimitsSettings()
    log: LogSettings = LogSettings()


def masked(section: Section) -> dict[str, object]:
    """Everything in a section (`Settings` too) as JSON types; secrets and URL passwords are `********`."""
    return {name: _shown(getattr(section, name)) for name in section.__struct_fields__}


def _shown(value: object) -> object:
    match value:
        case Section():
            return masked(value)
        case Secret():
            return MASK
        case str():
            return mask_passwords(value)
        case tuple():
            return [_shown(item) for item in value]
        case _:
            return value


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
