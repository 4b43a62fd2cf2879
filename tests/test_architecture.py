"""The shape of the code: who imports whom, who owns a library, how long things are, what is tested where."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("server", "namespaces")

# From the lowest: a part imports itself and the parts of lower rows.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("domain", "settings"),
    ("views",),
    ("events", "redis_client"),
    ("storage", "ephemeral", "asyncapi", "realtime"),
    ("services",),
    ("namespaces", "routes"),
    ("app",),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# Everything above settings may log and count, and telemetry needs nothing but its settings.
TELEMETRY = "telemetry"
# Modules beside the one whose part they are.
PARTS = {
    "backends": "app",
    "composition": "app",
    "redaction": "telemetry",
    "runtime": "__main__",
    "settings_load": "settings",
    "settings_rules": "settings",
    "settings_secret": "settings",
}

OWNERS: dict[str, tuple[str, ...]] = {
    "socketio": ("server/realtime/*", "namespaces/*", "server/app.py"),
    "engineio": ("server/realtime/*", "namespaces/*", "server/app.py"),
    "aiohttp": ("server/routes/*", "server/app.py", "server/realtime/transport.py", "server/__main__.py"),
    "sqlite3": ("server/storage/sqlite*",),
    "jwt": ("server/services/tokens.py",),
    "argon2": ("server/services/accounts.py", "server/services/passwords.py"),
    "pymongo": ("server/storage/mongo*",),
    "motor": ("server/storage/mongo*",),
    "bson": ("server/storage/mongo*",),
    "redis": ("server/redis_client.py", "server/realtime/redis_streams/line.py"),
    "hiredis": ("server/realtime/redis_streams/line.py",),
    "structlog": ("server/telemetry.py",),
    "yaml": ("server/settings*",),
}
IMPURE = {"asyncio", "os", "random", "secrets", "threading", "time"}
CLOCK_CALLS = {"now", "today", "utcnow"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MEASURED = (*CODE, "tests", "bench", "deploy", "examples", "static")

# Modules without a unit test of their own, and what holds them instead.
HELD_ELSEWHERE = {
    "server/__main__.py": "its commands run as real processes in tests/integration",
    "server/app.py": "composition only: tests/integration runs what it builds",
    "server/backends.py": "composition only: tests/integration and tests/cluster run what it chooses",
    "server/composition.py": "composition only: tests/integration runs what it builds",
    "server/domain/models.py": "structs alone: nothing to run",
    "server/ephemeral/base.py": "protocols: tests/contract holds every implementation to them",
    "server/ephemeral/redis_scripts.py": "text alone: what Redis makes of it is in tests of redis.py",
    "server/realtime/application.py": "a protocol: tests/conformance runs what the engine calls",
    "server/storage/base.py": "protocols: tests/contract holds every implementation to them",
    "server/views.py": "structs alone: nothing to run",
}


def files(*directories: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    return sorted(
        path
        for directory in directories
        for path in (ROOT / directory).rglob("*")
        if path.suffix in suffixes and not {"node_modules", "vendor"} & set(path.parts)
    )


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that `module` (dotted) imports, inside functions and conditions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def module_of(path: Path) -> str:
    """The dotted name; of a package `package.__init__`, so that a relative import counts from the package."""
    return name_of(path).removesuffix(".py").replace("/", ".")


def part_of(name: str) -> str | None:
    """The architecture's name for a module or something in one; None for what is not ours."""
    match name.split("."):
        case ["namespaces", *_]:
            return "namespaces"
        case ["server", part, *_]:
            return PARTS.get(part, part)
        case _:
            return None


def may_import(source: str, target: str) -> bool:
    if source == target:
        return True
    if source == TELEMETRY:
        return target == "settings"
    if target == TELEMETRY:
        return RANK[source] > RANK["settings"]
    return RANK[target] < RANK[source]


def forbidden_imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Of the parts that have a place; another is reported by its own test."""
    source = part_of(module)
    placed = {*RANK, TELEMETRY}
    for line, name in imports(tree, module):
        target = part_of(name)
        if source in placed and target in placed and not may_import(source, target):
            yield line, name


def borrowed_libraries(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    for line, name in imports(tree, module_of(ROOT / path)):
        owners = OWNERS.get(name.partition(".")[0], ("*",))
        if not any(fnmatch(path, owner) for owner in owners):
            yield line, name


def impurities(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    for line, name in imports(tree, module):
        if name.partition(".")[0] in IMPURE:
            yield line, name
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield node.lineno, "async code"
        elif isinstance(node, ast.Attribute) and node.attr in CLOCK_CALLS:
            yield node.lineno, f"a clock: {node.attr}"


def dynamic_imports(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="import_module" | "__import__")):
                yield node.lineno
            case ast.Call(func=ast.Attribute(attr="import_module")):
                yield node.lineno


def long_functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines"


def unit_test_of(path: str) -> str:
    directory, _, file = path.removeprefix("server/").rpartition("/")
    return "/".join(filter(None, ["tests/unit", directory, f"test_{file}"]))


def report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_the_code_is_there() -> None:
    """An empty walk would pass everything below."""
    assert files("server")
    assert files("namespaces")


def test_every_module_has_its_place() -> None:
    known = {*RANK, TELEMETRY, "__init__"}
    report([f"{name_of(path)}: no layer" for path in files(*CODE) if part_of(module_of(path)) not in known])


def test_imports_go_one_way() -> None:
    report(
        [
            f"{name_of(path)}:{line}: {part_of(module_of(path))} may not import {name}"
            for path in files(*CODE)
            for line, name in forbidden_imports(parse(path), module_of(path))
        ]
    )


def test_importing_a_package_imports_nothing() -> None:
    """One import there makes the graph circular."""
    assert (ROOT / "server" / "__init__.py").read_text(encoding="utf-8") == ""


def test_each_library_has_its_owner() -> None:
    report(
        [
            f"{name_of(path)}:{line}: {name} belongs to {', '.join(OWNERS[name.partition('.')[0]])}"
            for path in files(*CODE)
            for line, name in borrowed_libraries(parse(path), name_of(path))
        ]
    )


def test_nothing_is_imported_by_its_name_as_a_string() -> None:
    """The walks above would not see it."""
    report([f"{name_of(path)}:{line}" for path in files(*CODE) for line in dynamic_imports(parse(path))])


def test_the_domain_is_pure() -> None:
    """No await, no clock, no chance: its rules are tables to test."""
    report(
        [
            f"{name_of(path)}:{line}: {what}"
            for path in files("server/domain")
            for line, what in impurities(parse(path), module_of(path))
        ]
    )


def test_no_file_is_too_long() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in files(*MEASURED, suffixes=(".py", ".js"))
    }
    report([f"{name_of(path)}: {lines} lines" for path, lines in lengths.items() if lines > MAX_FILE_LINES])


def test_no_function_is_too_long() -> None:
    report(
        [
            f"{name_of(path)}:{line}: {what}"
            for path in files(*MEASURED)
            for line, what in long_functions(parse(path))
        ]
    )


def test_unit_tests_mirror_the_code() -> None:
    """The test of a module is found without searching."""
    modules = [name_of(path) for path in files(*CODE) if path.name != "__init__.py"]
    report(
        [
            f"{module}: {unit_test_of(module)} is missing"
            for module in modules
            if module not in HELD_ELSEWHERE and not (ROOT / unit_test_of(module)).is_file()
        ]
    )


@pytest.mark.parametrize(
    ("module", "source", "forbidden"),
    [
        ("server.storage.base", "from server.domain.models import Message", False),
        ("server.storage.base", "from server.storage import commit", False),
        ("server.storage.base", "from server.realtime.bus import Bus", True),
        ("server.storage.base", "from server import services", True),
        ("server.storage.base", "from ..services import rooms", True),
        ("server.storage.base", "from . import commit", False),
        ("server.storage.__init__", "from .base import Log", False),
        ("server.domain.rules", "import server.settings", True),
        ("server.domain.rules", "from server.telemetry import log", True),
        ("server.realtime.server", "def f():\n    from server.telemetry import log", False),
        ("server.telemetry", "from server.events import EVENTS", True),
        ("server.routes.rooms", "def f():\n    import namespaces.chat", True),
        ("namespaces.chat", "from server.services.messages import Messages", False),
        ("server.services.rooms", "import server.app", True),
    ],
)
def test_the_walk_sees_every_kind_of_import(module: str, source: str, *, forbidden: bool) -> None:
    assert bool(list(forbidden_imports(ast.parse(source), module))) is forbidden


@pytest.mark.parametrize(
    ("path", "source", "borrowed"),
    [
        ("server/realtime/server.py", "from engineio.packet import Packet", False),
        ("server/services/rooms.py", "def f():\n    import socketio.packet", True),
        ("server/storage/sqlite/writer.py", "import sqlite3", False),
        ("server/storage/commit.py", "if True:\n    from sqlite3 import connect", True),
        ("server/storage/mongo/log.py", "from bson.raw_bson import RawBSONDocument", False),
        ("server/app.py", "def f():\n    from pymongo import AsyncMongoClient", True),
        ("server/storage/commit.py", "import json, yaml", True),
        ("server/storage/commit.py", "import json", False),
    ],
)
def test_the_walk_sees_every_use_of_a_library(path: str, source: str, *, borrowed: bool) -> None:
    assert bool(list(borrowed_libraries(ast.parse(source), path))) is borrowed


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("server/events.py", "tests/unit/test_events.py"),
        ("server/storage/sqlite.py", "tests/unit/storage/test_sqlite.py"),
        ("namespaces/chat.py", "tests/unit/namespaces/test_chat.py"),
    ],
)
def test_a_module_names_its_test(path: str, test: str) -> None:
    assert unit_test_of(path) == test
