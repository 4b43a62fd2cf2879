"""Reads the settings from a YAML file and the environment; everything wrong with them is reported at once."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from server.settings import Secret, Section, Settings, mask_passwords
from server.settings_rules import broken_rules

DEFAULT_PATH = Path("settings.yaml")

_PREFIX = "TERTULIA_"
_TEST_PREFIX = "TERTULIA_TEST_"
_FILE = "_FILE"
_MAX_VALUE_BYTES = 65_536
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?")
_BOOLEANS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_HEADER = """\
# Every option with its default. The environment beats this file: TERTULIA_<SECTION>__<KEY>, for example
# TERTULIA_SERVER__PORT=9000 or TERTULIA_AUTH__CLAIMS__ID=uid. Lists are separated by commas, null is an empty
# value, and TERTULIA_AUTH__SECRET_FILE=/run/secrets/chat reads the value from a file (so for every key).
# Secrets never stand here: they come from the environment.
"""
_S = TypeVar("_S", bound=Section)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong: the key (else the variable or the file) and a sentence that shows no value."""

    key: str
    message: str


class SettingsError(Exception):
    """The settings cannot be used; `problems` is everything that is wrong with them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(describe(problems))
        self.problems = problems


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One key, `section.name`: its type as annotated and as msgspec describes it, default, description."""

    key: str
    hint: Any
    kind: inspect.Type
    default: object
    doc: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return _PREFIX + self.key.replace(".", "__").upper()

    @property
    def is_secret(self) -> bool:
        """Whether it may come from the environment only."""
        members = self.kind.types if isinstance(self.kind, inspect.UnionType) else (self.kind,)
        return any(isinstance(kind, inspect.CustomType) for kind in members)


def load(path: Path | None, env: Mapping[str, str]) -> Settings:
    """Read the file, then the environment, which beats it.

    Without a path, `settings.yaml` of the working directory is read if it is there. Raises `SettingsError`.
    """
    problems: list[Problem] = []
    values = {**_from_file(path, problems), **_from_environment(env, problems)}
    settings = _replace(Settings(), values)
    wrong = {problem.key for problem in problems} - set(values)
    problems += [
        Problem(key=keys[0], message=message)
        for keys, message in broken_rules(settings)
        if not wrong & set(keys)
    ]
    if problems:
        raise SettingsError(problems)
    if settings.server.development:
        # Nobody waits for a load balancer on one's own machine.
        settings = _replace(settings, {"server.drain_delay_s": 0.0})
    return settings


def describe(problems: Iterable[Problem]) -> str:
    """One line `key: message` for each problem."""
    return "\n".join(f"{problem.key}: {problem.message}" for problem in problems)


def find_environment_warning(env: Mapping[str, str]) -> str | None:
    """One sentence naming the `TERTULIA_*` variables that set nothing (Kubernetes makes some); no values."""
    strays = [
        name
        for name in sorted(env)
        if name.startswith(_PREFIX) and not name.startswith(_TEST_PREFIX) and "__" not in name
    ]
    if not strays:
        return None
    return f"these variables set nothing (the settings are TERTULIA_<SECTION>__<KEY>): {', '.join(strays)}"


def default_file() -> str:
    """The text of `settings.yaml`: every option with its default and its description."""
    lines = [_HEADER.rstrip("\n")]
    lines += _section_lines(Settings(), "", "")
    return "\n".join(lines) + "\n"


def _section_lines(section: Section, prefix: str, indent: str) -> Iterator[str]:
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if not isinstance(value, Section):
            yield f"{indent}# {OPTIONS[prefix + name].doc}"
            yield f"{indent}{name}: {json.dumps(value)}"
            continue
        if not prefix:
            yield ""
        yield f"{indent}# {value.__doc__}"
        yield f"{indent}{name}:"
        yield from _section_lines(value, f"{prefix}{name}.", indent + "  ")


def _options(section: Section, prefix: str = "") -> Iterator[Option]:
    for field in msgspec.structs.fields(section):
        key, default = prefix + field.name, getattr(section, field.name)
        if isinstance(default, Section):
            yield from _options(default, f"{key}.")
            continue
        info = inspect.type_info(field.type)
        # Metadata is what `Annotated[…, Meta(description=…)]` becomes: every key has one.
        if isinstance(info, inspect.Metadata) and info.extra_json_schema:
            doc = info.extra_json_schema["description"]
            yield Option(key=key, hint=field.type, kind=info.type, default=default, doc=doc)


OPTIONS = {option.key: option for option in _options(Settings())}
_VARIABLES = {option.variable: option for option in OPTIONS.values()}
_SECTIONS = {key[: dot.start()] for key in OPTIONS for dot in re.finditer(r"\.", key)}


def _replace(section: _S, values: Mapping[str, object], prefix: str = "") -> _S:
    changes: dict[str, object] = {}
    for name in section.__struct_fields__:
        current = getattr(section, name)
        if isinstance(current, Section):
            changes[name] = _replace(current, values, f"{prefix}{name}.")
        elif prefix + name in values:
            changes[name] = values[prefix + name]
    return msgspec.structs.replace(section, **changes)


def _from_file(path: Path | None, problems: list[Problem]) -> dict[str, object]:
    source = path or DEFAULT_PATH
    try:
        text = source.read_bytes()
    except FileNotFoundError:
        if path is not None:
            problems.append(Problem(key=str(source), message="there is no such file"))
        return {}
    except OSError as error:
        problems.append(Problem(key=str(source), message=f"cannot be read: {error.strerror}"))
        return {}
    tree = _parse_yaml(text, str(source), problems)
    return dict(_file_values(tree, "", f" ({source})", problems))


def _parse_yaml(text: bytes, name: str, problems: list[Problem]) -> dict[object, object]:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        tree = {} if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # The error's own text quotes the file, and somebody may have put a secret there.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problems.append(Problem(key=name, message=f"is not valid YAML{where}"))
        return {}
    problems.extend(_duplicates(node, ""))
    if tree is not None and not isinstance(tree, dict):
        problems.append(Problem(key=name, message="expected sections, such as `server:` with keys below it"))
    return tree if isinstance(tree, dict) else {}


def _duplicates(node: yaml.Node | None, prefix: str) -> Iterator[Problem]:
    seen: set[str] = set()
    for key_node, value_node in node.value if isinstance(node, yaml.MappingNode) else ():
        key = f"{prefix}{key_node.value}"
        if key in seen:
            yield Problem(
                key=key, message=f"stands twice in the file (again in line {key_node.start_mark.line + 1})"
            )
        seen.add(key)
        if key in _SECTIONS:
            yield from _duplicates(value_node, f"{key}.")


def _file_values(
    tree: Mapping[object, object], prefix: str, source: str, problems: list[Problem]
) -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in OPTIONS:
            yield from _file_value(OPTIONS[key], value, source, problems)
        elif key not in _SECTIONS:
            problems.append(Problem(key=key, message=f"unknown key{_did_you_mean(key, OPTIONS)}{source}"))
        elif isinstance(value, dict):
            yield from _file_values(value, f"{key}.", source, problems)
        elif value is not None:
            problems.append(Problem(key=key, message=f"expected a section with keys below it{source}"))


def _file_value(
    option: Option, value: object, source: str, problems: list[Problem]
) -> Iterator[tuple[str, object]]:
    holds_password = isinstance(value, str) and mask_passwords(value) != value
    if holds_password or (option.is_secret and value is not None):
        message = (
            f"secrets never stand in the file{source}: set {option.variable} or {option.variable}{_FILE}"
        )
        problems.append(Problem(key=option.key, message=message))
    else:
        yield from _converted(option, value, source, problems)


def _from_environment(env: Mapping[str, str], problems: list[Problem]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in sorted(env):
        if not _is_ours(name):
            continue
        option = _VARIABLES.get(name) or _VARIABLES.get(name.removesuffix(_FILE))
        if option is None:
            candidates = [known + _FILE for known in _VARIABLES] if name.endswith(_FILE) else _VARIABLES
            problems.append(Problem(key=name, message=f"unknown variable{_did_you_mean(name, candidates)}"))
            continue
        try:
            text = env[name] if name == option.variable else _read_value(option, env, name)
            text.encode()
            value = _parse(text, option.kind)
        except UnicodeError:
            problems.append(Problem(key=option.key, message=f"is not UTF-8 text ({name})"))
        except ValueError as error:
            problems.append(Problem(key=option.key, message=f"{error} ({name})"))
        else:
            values.update(_converted(option, value, f" ({name})", problems))
    return values


def _is_ours(name: str) -> bool:
    return name.startswith(_PREFIX) and "__" in name and not name.startswith(_TEST_PREFIX)


def _read_value(option: Option, env: Mapping[str, str], name: str) -> str:
    if option.variable in env:
        raise ValueError(f"{option.variable} is set too: keep one of the two")
    try:
        with Path(env[name]).open("rb") as file:
            content = file.read(_MAX_VALUE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ValueError(f"cannot read the file {env[name]!r}: {reason}") from None
    text = content.decode().rstrip("\r\n")
    if not text or len(content) > _MAX_VALUE_BYTES:
        raise ValueError(f"the file {env[name]!r} is {'too large' if text else 'empty'}")
    return text


def _parse(text: str, kind: inspect.Type) -> object:
    """What a text of the environment stands for; a wrong one is returned as it is, and refused later."""
    match kind:
        case inspect.UnionType(types=members):
            return None if text == "" else _parse(text, members[0])
        case inspect.VarTupleType(item_type=item):
            return [_parse(part.strip(), item) for part in text.split(",")] if text.strip() else []
        case inspect.BoolType():
            return _BOOLEANS.get(text.strip().lower(), text)
        case inspect.IntType() if _WHOLE_NUMBER.fullmatch(text.strip()):
            return int(text)
        case inspect.FloatType() if _NUMBER.fullmatch(text.strip()):
            return float(text)
        case _:
            return text


def _converted(
    option: Option, value: object, source: str, problems: list[Problem]
) -> Iterator[tuple[str, object]]:
    try:
        yield option.key, msgspec.convert(value, option.hint, dec_hook=_to_secret)
    except msgspec.ValidationError:
        problems.append(Problem(key=option.key, message=f"expected {_expected(option.kind)}{source}"))
    except UnicodeError:
        problems.append(Problem(key=option.key, message=f"is not UTF-8 text{source}"))


def _to_secret(_type: type, value: object) -> Secret:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return Secret(value)


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=members):
            words = f"{_expected(members[0])}, or null (in the environment: empty)"
        case inspect.VarTupleType(item_type=item, min_length=least, max_length=most):
            words = f"a list{_bounds(least, None, most, 'entries: ')}, each {_expected(item)}"
        case inspect.StrType(min_length=least, max_length=most):
            words = f"text{_bounds(least, None, most, 'characters: ')}"
        case inspect.IntType(ge=least, gt=above, le=most):
            words = f"a whole number{_bounds(least, above, most, '')}"
        case inspect.FloatType(ge=least, gt=above, le=most):
            words = f"a number{_bounds(least, above, most, '')}"
        case inspect.LiteralType(values=values):
            words = f"one of {', '.join(map(str, values))}"
        case inspect.BoolType():
            words = "true or false"
        case _:
            words = "text"
    return words


def _bounds(least: float | None, above: float | None, most: float | None, unit: str) -> str:
    limits = (("at least", least), ("more than", above), ("at most", most))
    words = ", ".join(f"{word} {limit}" for word, limit in limits if limit is not None)
    return f" ({unit}{words})" if words else ""


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
