"""The tables of the figures, in Markdown."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.process import NODE_MODULES
from bench.rounds import Figures, Round

LABELS = {
    "bare": "a bare loop on uvloop",
    "ours": "Tertulia's engine",
    "node": "Socket.IO on Node",
    "plain": "python-socketio as it comes",
}
GOALS_MEMBERS = 500
_PYTHON_PACKAGES = ("uvloop", "aiohttp", "python-socketio", "python-engineio", "msgspec", "PyJWT")
_NODE_PACKAGES = ("socket.io", "engine.io", "ws", "jsonwebtoken")


class _Column(NamedTuple):
    title: str
    value: Callable[[Figures], float]
    digits: int = 0


class _Goal(NamedTuple):
    title: str
    value: Callable[[Figures], float]
    against: str
    at_most: float


_COLUMNS = (
    _Column("CPU a delivery, µs", lambda figures: figures.delivery_cpu_s * 1e6, 1),
    _Column("deliveries/s", lambda figures: figures.deliveries_per_s),
    _Column("p50, ms", lambda figures: figures.p50_s * 1e3, 1),
    _Column("p99, ms", lambda figures: figures.p99_s * 1e3, 1),
    _Column("CPU a connection, µs", lambda figures: figures.connection_cpu_s * 1e6),
    _Column("connections/s", lambda figures: figures.connections_per_s),
    _Column("memory a connection, KiB", lambda figures: figures.connection_bytes / 1024, 1),
    _Column("load: a delivery, µs", lambda figures: figures.load_delivery_cpu_s * 1e6, 1),
    _Column("load: a connection, µs", lambda figures: figures.load_connection_cpu_s * 1e6),
)

_GOALS = (
    _Goal("CPU a delivery", lambda figures: figures.delivery_cpu_s, "node", 0.55),
    _Goal("CPU a delivery", lambda figures: figures.delivery_cpu_s, "bare", 1.6),
    _Goal("memory a connection", lambda figures: figures.connection_bytes, "node", 1.0),
    _Goal("CPU a connection", lambda figures: figures.connection_cpu_s, "node", 1.0),
)

_METHOD = """\
## How it is measured

A round starts every server in a fresh process, connects the members of one room to each, and then lets the
servers take turns of 0.2 s, so that what else the machine does hits all alike. The order of the servers
changes from round to round. A figure is the median of the rounds, with the least and the greatest behind it;
a ratio is taken within each round first.

- Event: one member says something, the server sends all members an event of 330 bytes, and only then comes
  the next.
- CPU: user and system time of the server's process, all threads, by the kernel's clock of that process.
- p50 and p99: from the sending of the event to its arrival, at ten members spread over the order of sending.
- Connection: websocket handshake, CONNECT, check of a JWT (HS256), the room; no store. A fifth of the members
  connects before that is measured. Memory: growth of the process's resident memory a connection. The bare
  loop checks no token; Tertulia's engine stands without the server's origins, limits and admission; Node has
  its key as an object, because its library takes half a millisecond longer with a string.
- Load: one thread, raw sockets, epoll; it compares the bytes received with those expected. Its own CPU time
  is in the last two columns. No compression is offered, which favours python-socketio: it would compress for
  each browser anew.
- Server and load share the machine, over the loopback interface: the kernel's part of a delivery is in every
  figure.
"""


def make_report(
    rounds: Mapping[int, Sequence[Round]], *, duration_s: float, node: Sequence[str] | None
) -> str:
    """All of it. `rounds`: by the number of members; `node`: how its server was started."""
    shares = [one.others_share for group in rounds.values() for one in group]
    count = max(map(len, rounds.values()))
    lines = [
        "# Fan-out and connecting: the figures",
        "",
        f"Written by `make bench-fanout` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        f"{count} rounds, in each {duration_s:g} s of broadcasting a server.",
        f"Other processes took {min(shares):.0%} to {max(shares):.0%} of the processors meanwhile.",
        "",
        f"- Machine: {machine()}",
        f"- Versions: {versions(node, _NODE_PACKAGES)}",
        "",
        *_table(rounds),
        "",
    ]
    goals = _goals(rounds.get(GOALS_MEMBERS, ()))
    if goals:
        lines += [f"## Goals, at {GOALS_MEMBERS} members", "", *goals, ""]
    return "\n".join([*lines, _METHOD])


def _table(rounds: Mapping[int, Sequence[Round]]) -> list[str]:
    titles = ["members", "server", *(column.title for column in _COLUMNS)]
    rows = [row(titles), row(["---"] * len(titles))]
    for members, group in rounds.items():
        for name in (name for name in LABELS if name in group[0].figures):
            figures = [one.figures[name] for one in group]
            cells = (spread([column.value(one) for one in figures], column.digits) for column in _COLUMNS)
            rows.append(row([f"{members:,}", LABELS[name], *cells]))
    return rows


def _goals(group: Sequence[Round]) -> list[str]:
    """Empty where this project's engine, or what it is compared with, was not measured."""
    rows = []
    for goal in _GOALS:
        if not group or not {"ours", goal.against} <= group[0].figures.keys():
            continue
        ratios = [goal.value(one.figures["ours"]) / goal.value(one.figures[goal.against]) for one in group]
        verdict = "reached" if median(ratios) <= goal.at_most else "missed"
        title = f"{goal.title}, against {LABELS[goal.against]}"
        rows.append(row([title, spread(ratios, 2), f"≤ {goal.at_most}", verdict]))
    return [row(["Tertulia's engine", "ratio", "goal", ""]), row(["---"] * 4), *rows] if rows else []


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], digits: int) -> str:
    """The median, with the least and the greatest behind it."""
    middle, least, most = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({least}–{most})" if len(values) > 1 else middle


def machine() -> str:
    """What it was measured on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next(
        (line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), "?"
    )
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kernel = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} × {model}, {memory_bytes / 2**30:.0f} GiB, {kernel}"


def versions(node: Sequence[str] | None, node_packages: Sequence[str]) -> str:
    """Of what was measured; `node`: how its servers were started, if they were."""
    found = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PYTHON_PACKAGES)]
    if node is not None:
        answer = subprocess.run(
            [node[0], "--version"], capture_output=True, text=True, check=True, timeout=30
        )
        found.append(f"Node {answer.stdout.strip().removeprefix('v')}")
        for name in node_packages:
            package = json.loads((NODE_MODULES / name / "package.json").read_text(encoding="utf-8"))
            found.append(f"{name} {package['version']}")
    return ", ".join(found)
