"""The settings file: what stands in the one that is shipped, and what is wrong in others."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from server.settings import Settings, masked
from server.settings_load import OPTIONS, Problem, SettingsError, default_file, load

ROOT = Path(__file__).parents[2]


def problems_of(path: Path) -> list[Problem]:
    """Empty where the settings can be used."""
    try:
        load(path, {})
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


def test_the_shipped_file_is_every_option_with_its_default_and_description() -> None:
    """After a change: `python -c "from server.settings_load import *; print(default_file(), end='')"`."""
    text = (ROOT / "settings.yaml").read_text(encoding="utf-8")
    assert text == default_file()
    assert yaml.safe_load(text) == masked(Settings())
    assert load(ROOT / "settings.yaml", {}) == Settings()
    lines = text.splitlines()
    keys = [number for number, line in enumerate(lines) if line and not line.lstrip().startswith("#")]
    assert [lines[number] for number in keys if not lines[number - 1].lstrip().startswith("# ")] == []
    assert all(option.doc.endswith(".") for option in OPTIONS.values())


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null", "server:\n", "auth: {claims: }\n"])
def test_a_file_that_says_nothing_leaves_the_defaults(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text), {}) == Settings()


def test_settings_yaml_of_the_working_directory_is_read_unless_another_is_named(tmp_path: Path) -> None:
    assert load(None, {}) == Settings()
    (tmp_path / "settings.yaml").write_text("server: {port: 1}")
    assert load(None, {}).server.port == 1
    assert load(write(tmp_path, "server: {port: 2}"), {}).server.port == 2


def test_a_named_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "nope.yaml") == [
        Problem(key=str(tmp_path / "nope.yaml"), message="there is no such file")
    ]
    assert problems_of(tmp_path)[0].message.startswith("cannot be read")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("server: {prot: 1}", ["server.prot"]),
        ("sever: {port: 1}", ["sever"]),
        ("port: 1", ["port"]),
        ("8080: 1", ["8080"]),
        ("auth: {claims: {sub: x}}", ["auth.claims.sub"]),
        ("server: 1", ["server"]),
        ("auth: {claims: sub}", ["auth.claims"]),
        ("server: {port: '8080'}", ["server.port"]),
        ("server: {port: 80.0}", ["server.port"]),
        ("server: {port: true}", ["server.port"]),
        ("server: {port: null}", ["server.port"]),
        ("server: {port: {x: 1}}", ["server.port"]),
        ("server: {development: 1}", ["server.development"]),
        ("server: {allowed_origins: https://a.org}", ["server.allowed_origins"]),
        ("chat: {reactions: [yes]}", ["chat.reactions"]),
        ("chat: {reactions: []}", ["chat.reactions"]),
        ("auth: {issuer: 5}", ["auth.issuer"]),
        (
            "realtime: {ping_interval_s: .nan, ping_timeout_s: .inf}",
            ["realtime.ping_interval_s", "realtime.ping_timeout_s"],
        ),
        ("server: {port: 1, port: 2}", ["server.port"]),
        ("server: {port: 1}\nchat: {}\nserver: {host: x}", ["server"]),
        ("auth: {claims: {id: a, id: b}}", ["auth.claims.id"]),
    ],
)
def test_what_is_wrong_in_the_file_is_an_error_with_its_key(
    tmp_path: Path, text: str, keys: list[str]
) -> None:
    assert [problem.key for problem in problems_of(write(tmp_path, text))] == keys


def test_an_unknown_key_names_its_neighbour(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path, "realtime: {ping_intervall_s: 1}"))
    assert "did you mean realtime.ping_interval_s?" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "server: [hunter2",
        "hunter2: 'x",
        "\thunter2: x",
        "a: !hunter2 x",
        "a: *hunter2",
        "a: !!python/object/apply:os.system [hunter2]",
        "a: 2001-99-99 # hunter2",
        "{hunter2}: x\n? [a]\n: b\n",
        "- hunter2",
        "hunter2",
        "[" * 500,
        "a: 1\n---\nb: hunter2",
    ],
)
def test_what_is_no_yaml_of_ours_is_one_error_that_quotes_nothing(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    (problem,) = problems_of(path)
    assert problem.key == str(path)
    assert "hunter2" not in problem.message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"auth: {{secret: hunter2{'x' * 40}}}", "auth.secret"),
        ("auth: {secret: hunter2}", "auth.secret"),
        ("auth: {secret: ''}", "auth.secret"),
        ("auth: {secret: [hunter2]}", "auth.secret"),
        ("database: {url: 'mongodb://u:hunter2@h/x'}", "database.url"),
        ("cluster: {url: 'redis://:hunter2@h'}", "cluster.url"),
    ],
)
def test_secrets_never_stand_in_the_file(tmp_path: Path, text: str, key: str) -> None:
    (problem,) = problems_of(write(tmp_path, text))
    assert problem.key == key
    assert "secrets never stand in the file" in problem.message
    assert f"{OPTIONS[key].variable}_FILE" in problem.message
    assert "hunter2" not in problem.message


@given(st.binary())
def test_no_bytes_break_the_loader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    problems_of(path)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(
            st.sampled_from([*"abc", "server", "port", "auth", "claims", "id"]), values, max_size=4
        )
    ),
)


@given(tree=TREES)
@example(tree={"server": {"port": "\U00010000"}})  # JSON escapes it as two halves, which YAML takes for two
def test_no_tree_breaks_the_loader(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    problems_of(path)
