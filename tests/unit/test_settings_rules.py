"""The rules between the settings: which values break which, and how it is said."""

import msgspec
import pytest

from server.settings import Secret, Settings
from server.settings_rules import broken_rules


def broken(**changes: object) -> list[tuple[str, str]]:
    """The first key and the message of each rule that the changed defaults break (`server__port=1`)."""
    sections: dict[str, dict[str, object]] = {}
    for key, value in changes.items():
        section, name = key.split("__")
        sections.setdefault(section, {})[name] = value
    defaults = Settings()
    parts = {
        name: msgspec.structs.replace(getattr(defaults, name), **keys) for name, keys in sections.items()
    }
    return [(keys[0], message) for keys, message in broken_rules(msgspec.structs.replace(defaults, **parts))]


def keys_of(problems: list[tuple[str, str]]) -> list[str]:
    return [key for key, _ in problems]


def test_the_defaults_break_no_rule() -> None:
    assert broken() == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::", "::1", "fe80::1%eth0", "localhost", "chat.example.org", "a_b"]
)
def test_a_host_is_an_address_or_a_name(host: str) -> None:
    assert broken(server__host=host) == []


@pytest.mark.parametrize(
    "host", ["http://h", "h:80", "[::1]", "10.0.0.256", "a b", "-a", "a..b", "h/", "h\n"]
)
def test_a_host_is_nothing_else(host: str) -> None:
    assert keys_of(broken(server__host=host)) == ["server.host"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "LocalHost"])
def test_development_is_for_loopback(host: str) -> None:
    assert broken(server__host=host, server__development=True) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "chat.example.org"])  # noqa: S104 - refused here
def test_development_is_for_nothing_but_loopback(host: str) -> None:
    ((key, message),) = broken(server__host=host, server__development=True)
    assert key == "server.development"
    assert "with a host that others reach" in message


@pytest.mark.parametrize(
    "origin",
    [
        "https://chat.example.org",
        "https://*.example.org",
        "http://localhost:3000",
        "http://[::1]:3000",
        "http://h:443",
        "https://xn--caf-dma.example",
        "capacitor://localhost",
    ],
)
def test_an_origin_is_a_scheme_a_host_and_perhaps_a_port(origin: str) -> None:
    assert broken(server__allowed_origins=("https://a.example", origin)) == []


@pytest.mark.parametrize(
    "origin", ["", "*", "null", "a.org", "https://", "https://a.org\n", "https://a https://b"]
)
@pytest.mark.parametrize("second", [False, True])
def test_an_origin_needs_a_scheme_and_one_host(origin: str, *, second: bool) -> None:
    """The entry is named by its number: it may hold a password."""
    origins = ("https://a.example", origin) if second else (origin,)
    ((key, message),) = broken(server__allowed_origins=origins)
    assert key == "server.allowed_origins"
    assert message.startswith("entry 2: " if second else "entry 1: ")


@pytest.mark.parametrize(
    "host", ["*", "a.*.org", "*a.org", "A.org", "é.org", ".org", "a..org", "[::g]", "u:hunter2@a"]
)
def test_an_origin_has_a_star_for_the_first_label_alone_and_a_lower_case_host(host: str) -> None:
    ((key, message),) = broken(server__allowed_origins=(f"https://{host}",))
    assert key == "server.allowed_origins"
    assert "hunter2" not in message


@pytest.mark.parametrize("rest", ["/", "?x", ":", ":0", ":443", ":65536", ":x"])
def test_an_origin_has_no_path_and_no_port_that_browsers_leave_out(rest: str) -> None:
    assert keys_of(broken(server__allowed_origins=(f"https://a.org{rest}",))) == ["server.allowed_origins"]


def test_trusted_proxies_are_networks() -> None:
    assert broken(server__trusted_proxies=("10.0.0.0/8", "127.0.0.1", "fd00::/8")) == []
    problems = broken(server__trusted_proxies=("10.0.0.1/8", "10.0.0.0/33", "proxy.example.org", ""))
    assert set(keys_of(problems)) == {"server.trusted_proxies"}
    assert [message.partition(":")[0] for _, message in problems] == [
        "entry 1",
        "entry 2",
        "entry 3",
        "entry 4",
    ]


@pytest.mark.parametrize(
    ("key", "holds", "breaks"),
    [
        ("realtime.transports", ("websocket",), ("websocket", "websocket")),
        ("chat.reactions", ("like", "love"), ("like", "love", "like")),
        ("realtime.max_queued_bytes", 65_536, 65_535),
        ("chat.max_content_chars", 5_120, 5_121),
        ("auth.secret", Secret("x" * 32), Secret("x" * 31)),
        ("auth.secret", Secret("é" * 16), Secret("é" * 15)),
        ("auth.refresh_ttl_s", 901, 900),
        ("auth.expiring_notice_s", 899, 900),
    ],
)
def test_values_fit_together(key: str, holds: object, breaks: object) -> None:
    name = key.replace(".", "__")
    assert broken(**{name: holds}) == []
    assert keys_of(broken(**{name: breaks})) == [key]


def test_a_refresh_token_outlives_its_grace() -> None:
    times = {"auth__access_ttl_s": 2, "auth__expiring_notice_s": 1, "auth__refresh_ttl_s": 10}
    assert broken(**times, auth__refresh_grace_s=9) == []
    assert keys_of(broken(**times, auth__refresh_grace_s=10)) == ["auth.refresh_grace_s"]


@pytest.mark.parametrize("url", ["sqlite:///var/x.db", "sqlite:////srv/a b/x.db", "sqlite:///x"])
def test_sqlite_urls_are_taken(url: str) -> None:
    assert broken(database__url=url) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgres://u:hunter2@h/db", "expected sqlite:///PATH"),
        ("sqlite://var/x.db", "three slashes"),
        ("var/x.db", "expected sqlite:///PATH"),
        ("sqlite:///", "path of a file"),
        ("sqlite:///var/", "path of a file"),
        ("sqlite:///:memory:", "path of a file"),
        ("sqlite:///x.db?mode=ro", "without options"),
    ],
)
def test_other_database_urls_are_refused_with_what_there_is(url: str, words: str) -> None:
    ((key, message),) = broken(database__url=url)
    assert key == "database.url"
    assert words in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://localhost",
        "mongodb://127.0.0.1:27017/chat",
        "mongodb://[::1]:27017/",
        "mongodb://juan:p%40ss%2Fword!$&'()*+,;=@a.example.org:27017,b.example.org/chat?replicaSet=rs0&tls=true",
        "mongodb://juan:@h/chat-2_x",
        "mongodb://h?directConnection=true",
        "mongodb+srv://juan:hunter2@cluster0.example.org/chat",
    ],
)
def test_mongodb_urls_are_taken(url: str) -> None:
    assert broken(database__url=url) == []


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb:///chat",
        "mongodb://juan:hunter2@/chat",
        "mongodb://juan:hunter2/x@h/chat",
        "mongodb://juan:hunter2@x@h/chat",
        "mongodb://juan:hunter2:x@h/chat",
        "mongodb://juan:hunter2%zz@h/chat",
        "mongodb://juan:hunter2#x@h/chat",
        "mongodb://:hunter2@h/chat",
        "mongodb://h:port/chat",
        "mongodb://h:0/chat",
        "mongodb://h:70000/chat",
        "mongodb://h,/chat",
        "mongodb://[::1/chat",
        "mongodb://h/two/parts",
        "mongodb://h/with.dot",
        "mongodb+srv://juan:hunter2@h:27017/chat",
    ],
)
def test_broken_mongodb_urls_are_refused_with_the_shape_expected(url: str) -> None:
    ((key, message),) = broken(database__url=url)
    assert key == "database.url"
    assert message.startswith(f"expected {url.partition(':')[0]}://USER:PASSWORD@HOST/DATABASE")
    assert "hunter2" not in message


def test_a_store_on_the_network_must_answer_within_the_deadline_of_an_event() -> None:
    late = {"database__timeout_s": 10.0, "realtime__event_deadline_s": 10.0}
    assert broken(**late) == []
    assert keys_of(broken(**late, database__url="mongodb://h")) == ["database.timeout_s"]


MONGODB = "mongodb://h/db"
SECRET = Secret("x" * 32)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize(
    "rest", ["h", "h:6379", "h/1", ":hunter2@h:1/0", "juan:p%40@[::1]:6379/15", "10.0.0.1/"]
)
def test_redis_is_taken_with_mongodb_and_a_secret(scheme: str, rest: str) -> None:
    urls = {"cluster__url": f"{scheme}://{rest}", "database__url": MONGODB}
    assert broken(**urls, auth__secret=SECRET) == []
    assert keys_of(broken(**urls)) == ["auth.secret"]
    with_sqlite = broken(cluster__url=urls["cluster__url"], auth__secret=SECRET)
    assert with_sqlite == [
        ("cluster.url", f"{scheme}:// with sqlite:// is refused: an SQLite file serves one process alone")
    ]


@pytest.mark.parametrize("scheme", ["redis+sentinel", "rediss+sentinel"])
@pytest.mark.parametrize("rest", ["h/mymaster", "a:1,b:2,c/mymaster/3", "juan:hunter2@a,b:26379/my-master"])
def test_sentinels_are_taken_with_the_service_they_watch(scheme: str, rest: str) -> None:
    url = f"{scheme}://{rest}"
    assert broken(cluster__url=url, database__url=MONGODB, auth__secret=SECRET) == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://h:0",
        "redis://h:99999",
        "redis://a,b",
        "redis://h/db",
        "redis://:hunter2:h",
        "redis://:hun/ter2@h",
        "redis://h?ssl=1",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+sentinel://a,,b/m",
        "rediss+sentinel://h",
    ],
)
def test_broken_redis_urls_are_refused_with_the_shape_expected(url: str) -> None:
    ((key, message),) = broken(cluster__url=url, database__url=MONGODB, auth__secret=SECRET)
    assert key == "cluster.url"
    assert message.startswith(f"expected {url.partition(':')[0]}://USER:PASSWORD@HOST:PORT")
    assert "hunter2" not in message


@pytest.mark.parametrize("url", ["memory", "memory://x", "nats://h", "memory:///"])
def test_other_cluster_urls_are_refused(url: str) -> None:
    ((key, message),) = broken(cluster__url=url)
    assert key == "cluster.url"
    assert message.startswith("expected memory:// (one process), redis://")


def test_all_broken_rules_come_at_once() -> None:
    problems = broken(server__host="a b", chat__reactions=("x", "x"), database__url="x", cluster__url="x")
    assert keys_of(problems) == ["server.host", "database.url", "cluster.url", "chat.reactions"]
