"""Reading the settings: the environment, and every error at once, each with its key."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from server.settings import Secret, Settings
from server.settings_load import (
    OPTIONS,
    Problem,
    SettingsError,
    describe,
    find_environment_warning,
    load,
)

SECRET = "correct horse battery staple 0123456789"
# A text for each option that is not its default, and what it stands for.
TEXTS: dict[str, tuple[str, object]] = {
    "server.host": ("127.0.0.2", "127.0.0.2"),
    "server.port": ("0", 0),
    "server.development": ("Yes", True),
    "server.allowed_origins": ("https://a.org, https://*.b.org", ("https://a.org", "https://*.b.org")),
    "server.trusted_proxies": ("10.0.0.0/8,fd00::/8", ("10.0.0.0/8", "fd00::/8")),
    "server.drain_delay_s": ("0", 0.0),
    "database.driver": ("motor", "motor"),
    "realtime.transports": ("websocket", ("websocket",)),
    "realtime.ping_interval_s": ("0.5", 0.5),
    "realtime.ping_timeout_s": ("3", 3.0),
    "realtime.connect_timeout_s": ("2.", 2.0),
    "realtime.max_packet_bytes": ("131072", 131_072),
    "realtime.event_deadline_s": ("1", 1.0),
    "realtime.max_queued_events": ("+1", 1),
    "realtime.max_queued_bytes": ("262145", 262_145),
    "realtime.max_buffer_bytes": ("2097152", 2_097_152),
    "realtime.recovery_s": ("0", 0.0),
    "realtime.recovery_log_bytes": ("1048576", 1_048_576),
    "auth.secret": (SECRET, Secret(SECRET)),
    "auth.accounts": ("off", False),
    "auth.access_ttl_s": ("600", 600),
    "auth.refresh_ttl_s": ("86400", 86_400),
    "auth.refresh_grace_s": ("0", 0),
    "auth.expiring_notice_s": ("30", 30),
    "auth.leeway_s": ("0", 0),
    "auth.allow_query_token": ("1", True),
    "auth.issuer": ("https://login.example.org/", "https://login.example.org/"),
    "auth.audience": ("chat,web", ("chat", "web")),
    "auth.claims.id": ("uid", "uid"),
    "auth.claims.username": ("nick", "nick"),
    "auth.claims.display_name": ("https://example.org/name", "https://example.org/name"),
    "auth.claims.avatar_url": ("avatar", "avatar"),
    "database.url": ("sqlite:////srv/x.db", "sqlite:////srv/x.db"),
    "database.timeout_s": ("1.25", 1.25),
    "database.readers": ("8", 8),
    "chat.max_content_chars": ("100", 100),
    "chat.reactions": ("like, 🎉", ("like", "🎉")),
    "presence.grace_s": ("0", 0.0),
    "presence.typing_ttl_s": ("5", 5.0),
    "presence.max_room_size": ("1", 1),
    "presence.max_typing_shown": ("1", 1),
    "limits.enabled": ("FALSE", False),
    "log.level": ("debug", "debug"),
    "log.format": ("json", "json"),
}
TEXTS |= {
    key: ("7", 7.0 if key.endswith("_per_s") else 7)
    for key in OPTIONS
    if key.startswith("limits.") and key != "limits.enabled"
}
WRONG_TEXTS: dict[type[inspect.Type], list[str]] = {
    inspect.IntType: ["", "x", "1.5", "1e3", "-1", "1_000", "٣", "9" * 20, "9" * 5_000, "true", "null"],
    inspect.FloatType: ["", "x", "nan", "inf", "-1", "1e999", "1_0", "9" * 20, "1,5", "0x10"],
    inspect.BoolType: ["", "2", "maybe", "null", "ja"],
    inspect.StrType: [""],
    inspect.LiteralType: ["", "loud", "INFO"],
    inspect.CustomType: ["short"],
}


def value_of(settings: Settings, key: str) -> object:
    value: object = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def problems_of(env: Mapping[str, str], path: Path | None = None) -> list[Problem]:
    """Empty where the settings can be used."""
    try:
        load(path, env)
    except SettingsError as error:
        return error.problems
    return []


def write(directory: Path, text: str) -> Path:
    path = directory / "chat.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the project's own settings.yaml."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("key", [key for key in OPTIONS if key != "cluster.url"])
def test_the_environment_sets_every_option(key: str) -> None:
    """cluster.url has one value in this version."""
    text, value = TEXTS[key]
    settings = load(None, {OPTIONS[key].variable: text})
    assert value_of(settings, key) == value
    assert value_of(settings, key) != OPTIONS[key].default
    assert type(value_of(settings, key)) is type(value)


def test_the_environment_sets_all_options_together() -> None:
    settings = load(None, {OPTIONS[key].variable: text for key, (text, _) in TEXTS.items()})
    assert {key: value_of(settings, key) for key in TEXTS} == {
        key: value for key, (_, value) in TEXTS.items()
    }


def test_what_the_environment_says_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {port: 1, host: 127.0.0.3}\nchat: {reactions: [yay]}\n")
    settings = load(path, {"TERTULIA_SERVER__PORT": "2"})
    assert (settings.server.port, settings.server.host, settings.chat.reactions) == (2, "127.0.0.3", ("yay",))


@pytest.mark.parametrize("key", ["auth.secret", "auth.accounts", "auth.issuer"])
def test_an_empty_text_is_null_where_null_may_be(key: str) -> None:
    assert value_of(load(None, {OPTIONS[key].variable: ""}), key) is None


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_is_an_empty_list(text: str) -> None:
    assert load(None, {"TERTULIA_SERVER__ALLOWED_ORIGINS": text}).server.allowed_origins == ()


def wrong_texts(kind: inspect.Type) -> list[str]:
    match kind:
        case inspect.UnionType(types=members):
            return [text for text in wrong_texts(members[0]) if text]
        case inspect.VarTupleType():
            return [",", "websocket,,polling"]
        case _:
            return WRONG_TEXTS[type(kind)]


@pytest.mark.parametrize("key", OPTIONS)
def test_every_wrong_value_is_an_error_with_its_key(key: str) -> None:
    option = OPTIONS[key]
    for text in wrong_texts(option.kind):
        (problem,) = problems_of({option.variable: text})
        assert problem.key == key, text
        assert problem.message.startswith(("expected ", "must ")), text


def test_a_wrong_value_is_told_what_was_expected() -> None:
    env = {
        "SERVER__PORT": "70000",
        "LOG__LEVEL": "loud",
        "AUTH__ACCOUNTS": "x",
        "REALTIME__TRANSPORTS": "tcp",
    }
    problems = problems_of({f"TERTULIA_{name}": text for name, text in env.items()})
    assert {problem.key: problem.message for problem in problems} == {
        "server.port": "expected a whole number (at least 0, at most 65535) (TERTULIA_SERVER__PORT)",
        "log.level": "expected one of debug, error, info, warning (TERTULIA_LOG__LEVEL)",
        "auth.accounts": (
            "expected true or false, or null (in the environment: empty) (TERTULIA_AUTH__ACCOUNTS)"
        ),
        "realtime.transports": (
            "expected a list (entries: at least 1), each one of polling, websocket"
            " (TERTULIA_REALTIME__TRANSPORTS)"
        ),
    }


@pytest.mark.parametrize("key", ["auth.secret", "auth.issuer", "database.url", "chat.reactions"])
def test_bytes_that_are_no_text_are_an_error(key: str) -> None:
    """Python hands them on as lone surrogates."""
    variable = OPTIONS[key].variable
    assert problems_of({variable: "\udcff" * 40}) == [
        Problem(key=key, message=f"is not UTF-8 text ({variable})")
    ]


@given(
    st.dictionaries(
        st.sampled_from(list(OPTIONS)), st.text().map(lambda text: f"hunter2:{text}"), min_size=1, max_size=5
    )
)
def test_no_text_of_the_environment_breaks_the_loader_or_is_shown(texts: dict[str, str]) -> None:
    problems = problems_of({OPTIONS[key].variable: text for key, text in texts.items()})
    assert {problem.key for problem in problems} <= set(texts)
    assert "hunter2" not in describe(problems)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TERTULIA_SERVER__PROT", "TERTULIA_SERVER__PORT"),
        ("TERTULIA_server__port", None),
        ("TERTULIA_SERVR__HOST", "TERTULIA_SERVER__HOST"),
        ("TERTULIA_AUTH__SECRETS_FILE", "TERTULIA_AUTH__SECRET_FILE"),
        ("TERTULIA_SERVER__", None),
        ("TERTULIA__PORT", None),
        ("TERTULIA_X__Y__Z", None),
    ],
)
def test_an_unknown_variable_is_an_error_and_its_neighbour_is_named(name: str, meant: str | None) -> None:
    (problem,) = problems_of({name: "hunter2"})
    assert problem.key == name
    assert "hunter2" not in problem.message
    assert meant is None or problem.message == f"unknown variable; did you mean {meant}?"


def test_variables_of_others_are_one_warning_without_values() -> None:
    env = {"TERTULIA_SERVICE_PORT": "hunter2", "TERTULIA_PORT": "hunter2", "PATH": "x"}
    load(None, env)
    warning = find_environment_warning(env)
    assert warning is not None
    assert warning.endswith(": TERTULIA_PORT, TERTULIA_SERVICE_PORT")
    assert "hunter2" not in warning


def test_variables_of_the_tests_and_settings_are_no_warning() -> None:
    env = {"TERTULIA_TEST_REQUIRE": "all", "TERTULIA_TEST_X__Y": "1", "TERTULIA_SERVER__PORT": "1"}
    load(None, env)
    assert find_environment_warning(env) is None


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_is_read_from_a_file_without_the_line_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(f" {SECRET}{ending}".encode())
    settings = load(None, {"TERTULIA_AUTH__SECRET_FILE": str(path)})
    assert settings.auth.secret == Secret(f" {SECRET}")


def test_every_option_can_come_from_a_file(tmp_path: Path) -> None:
    env = {}
    for key, (text, _) in TEXTS.items():
        (tmp_path / key).write_text(text, encoding="utf-8")
        env[f"{OPTIONS[key].variable}_FILE"] = str(tmp_path / key)
    settings = load(None, env)
    assert {key: value_of(settings, key) for key in TEXTS} == {
        key: value for key, (_, value) in TEXTS.items()
    }


def test_a_value_and_its_file_together_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    env = {"TERTULIA_AUTH__SECRET": SECRET, "TERTULIA_AUTH__SECRET_FILE": str(tmp_path / "secret")}
    (problem,) = problems_of(env)
    assert problem.key == "auth.secret"
    assert "TERTULIA_AUTH__SECRET is set too" in problem.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff" * 40, "is not UTF-8 text"),
        (b"x" * 70_000, "is too large"),
    ],
)
def test_a_file_that_holds_no_value_is_an_error_with_its_path(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    (problem,) = problems_of({"TERTULIA_AUTH__SECRET_FILE": str(path)})
    assert problem.key == "auth.secret"
    assert words in problem.message
    assert "TERTULIA_AUTH__SECRET_FILE" in problem.message
    assert "xxx" not in problem.message


def test_a_wrong_value_in_a_file_of_its_own_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("hunter2")
    (problem,) = problems_of({"TERTULIA_SERVER__PORT_FILE": str(tmp_path / "port")})
    assert problem.key == "server.port"
    assert "hunter2" not in problem.message


def test_every_error_comes_at_once(tmp_path: Path) -> None:
    """Of the file, of the environment, and of the rules between keys that are right in themselves."""
    path = write(tmp_path, "server: {port: x, prot: 1, host: a b}\nauth: {secret: hunter2}\n")
    env = {"TERTULIA_LOG__LEVEL": "loud", "TERTULIA_NO__SUCH": "1", "TERTULIA_CLUSTER__URL": "redis://h"}
    assert sorted(problem.key for problem in problems_of(env, path)) == [
        "TERTULIA_NO__SUCH",
        "auth.secret",
        "cluster.url",
        "log.level",
        "server.host",
        "server.port",
        "server.prot",
    ]


def test_a_value_is_checked_where_the_other_source_has_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "auth: {secret: hunter2}")
    problems = problems_of({"TERTULIA_AUTH__SECRET": "short"}, path)
    assert [problem.key for problem in problems] == ["auth.secret", "auth.secret"]


def test_a_rule_is_silent_about_a_value_that_could_not_be_read() -> None:
    """The default that stands in for it may break the rule by itself."""
    env = {"TERTULIA_AUTH__ACCESS_TTL_S": "x", "TERTULIA_AUTH__REFRESH_TTL_S": "100"}
    assert [problem.key for problem in problems_of(env)] == ["auth.access_ttl_s"]


def test_problems_are_described_a_line_each() -> None:
    problems = [Problem(key="server.port", message="is wrong"), Problem(key="log.level", message="too")]
    assert describe(problems) == "server.port: is wrong\nlog.level: too"
    assert str(SettingsError(problems)) == describe(problems)


def test_nothing_is_waited_for_in_development() -> None:
    env = {"TERTULIA_SERVER__DEVELOPMENT": "true", "TERTULIA_SERVER__DRAIN_DELAY_S": "9"}
    assert load(None, env).server.drain_delay_s == 0
    assert load(None, env | {"TERTULIA_SERVER__DEVELOPMENT": "false"}).server.drain_delay_s == 9
