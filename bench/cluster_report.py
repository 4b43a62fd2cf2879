"""The tables of a cluster's figures, in Markdown."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import NamedTuple

from bench.cluster_rounds import BURSTS, Figures, Round
from bench.reconnects import CLIENTS, Returns
from bench.report import machine, row, spread, versions

LABELS = {
    "ours": "Tertulia's engine, redis_streams",
    "streams": "Node, @socket.io/redis-streams-adapter",
    "pubsub": "Node, @socket.io/redis-adapter",
}
PACKAGES = ("socket.io", "@socket.io/redis-streams-adapter", "@socket.io/redis-adapter", "redis", "ws")


class _Column(NamedTuple):
    title: str
    value: Callable[[Figures], float]
    digits: int = 0


_COLUMNS = (
    _Column("CPU a message, sending node, µs", lambda figures: figures.sending_cpu_s * 1e6),
    _Column("receiving node, µs", lambda figures: figures.receiving_cpu_s * 1e6),
    _Column("both nodes, µs", lambda figures: figures.nodes_cpu_s * 1e6),
    _Column("Redis, µs", lambda figures: figures.redis_cpu_s * 1e6),
    _Column("p50, ms", lambda figures: figures.p50_s * 1e3, 1),
    _Column("p99, ms", lambda figures: figures.p99_s * 1e3, 1),
    _Column("load, µs", lambda figures: figures.load_cpu_s * 1e6),
)

_METHOD = f"""\
## How it is measured

A round starts a Redis and two nodes for every cluster, all in fresh processes, connects half of the members
of one room to each node, and then lets the clusters take turns of 0.2 s, so that what else the machine does
hits all alike. Their order changes from round to round. A figure is the median of the rounds, with the least
and the greatest behind it; a ratio is taken within each round first.

- Message: a member at the first node says something of 330 bytes, and both nodes send it to all members: one
  message, however many deliveries. Of a burst the messages are sent at once; the next burst comes when the
  last members of both nodes have all of it.
- CPU: user and system time of a process, all threads, by the kernel's clock of that process. What a cluster
  does all the time, heartbeats and the like, is in it.
- p50 and p99: from the sending of a burst to the arrival of each message at members of the second node.
- Tertulia's engine gives each message a gapless order, as the server does, checks it on both nodes, and keeps
  it for those who may come back. The adapters give none, and here their servers keep nothing: connection
  state recovery is off on Node but where clients come and go.
- Clients that come and go: one stays at the first node and says something every 8 ms; of {CLIENTS - 1}
  others one loses its connection every 50 ms and comes to the other node after 50 to 250 ms, with what it
  knows for recovery. Each should receive each message once. Recovery is on wherever there is one:
  `@socket.io/redis-adapter` has none.
- Load: one thread, raw sockets, epoll; its own CPU time is in the last column.
- Servers, Redis and load share the machine, over the loopback interface.
"""


def make_report(
    rounds: Mapping[int, Sequence[Round]],
    returns: Mapping[str, Sequence[Returns]],
    *,
    duration_s: float,
    messages: int,
    redis: str,
    node: Sequence[str] | None,
) -> str:
    """All of it. `rounds`: by the number of members; `redis`: the program; `node`: how it was started."""
    shares = [one.others_share for group in rounds.values() for one in group]
    lines = [
        "# A cluster of two nodes: the figures",
        "",
        f"Written by `make bench-cluster` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        f"{len(shares) // len(rounds)} rounds, in each {duration_s:g} s of saying for a cluster and burst.",
        f"Other processes took {min(shares):.0%} to {max(shares):.0%} of the processors meanwhile.",
        "",
        f"- Machine: {machine()}",
        f"- Versions: {versions(node, PACKAGES)}, redis-py {version('redis')}, {_redis_version(redis)}",
        "",
        *_table(rounds),
        "",
        f"## Clients that come and go, {messages:,} messages to {CLIENTS} of them a round",
        "",
        *_returns_table(returns),
        "",
        "## Goals",
        "",
        *_goals(rounds, returns),
        "",
    ]
    return "\n".join([*lines, _METHOD])


def _table(rounds: Mapping[int, Sequence[Round]]) -> list[str]:
    titles = ["members", "burst", "cluster", *(column.title for column in _COLUMNS)]
    rows = [row(titles), row(["---"] * len(titles))]
    for members, group in rounds.items():
        for burst in BURSTS:
            for name in (name for name in LABELS if name in group[0].figures[burst]):
                figures = [one.figures[burst][name] for one in group]
                cells = (spread(list(map(column.value, figures)), column.digits) for column in _COLUMNS)
                rows.append(row([f"{members:,}", f"{burst}", LABELS[name], *cells]))
    return rows


def _returns_table(returns: Mapping[str, Sequence[Returns]]) -> list[str]:
    titles = ["cluster", "expected", "received", "distinct", "lost", "doubled", "came back", "recovered"]
    rows = [row(titles), row(["---"] * len(titles))]
    for name in (name for name in LABELS if name in returns):
        group = returns[name]
        values = (
            [one.expected for one in group],
            [one.received for one in group],
            [one.distinct for one in group],
            [one.lost for one in group],
            [one.doubled for one in group],
            [one.returns for one in group],
            [one.recovered for one in group],
        )
        rows.append(row([LABELS[name], *(spread(each, 0) for each in values)]))
    return rows


def _goals(rounds: Mapping[int, Sequence[Round]], returns: Mapping[str, Sequence[Returns]]) -> list[str]:
    rows = [row(["Tertulia's engine", "ratio or count", "goal", ""]), row(["---"] * 4)]
    for members, group in rounds.items():
        for burst in BURSTS:
            if ratios := _ratios([one.figures[burst] for one in group]):
                title = (
                    f"CPU a cross-node message against the better adapter, {members:,} members, burst {burst}"
                )
                verdict = "reached" if median(ratios) <= 1 else "missed"
                rows.append(row([title, spread(ratios, 2), "≤ 1", verdict]))
    ours = returns.get("ours", ())
    for title, counts in (
        ("lost, in all rounds", [one.lost for one in ours]),
        ("doubled, in all rounds", [one.doubled for one in ours]),
    ):
        rows.append(row([title, f"{sum(counts)}", "0", "missed" if any(counts) else "reached"]))
    return rows


def _ratios(group: Sequence[Mapping[str, Figures]]) -> list[float]:
    """Of both nodes' CPU, a round; empty where there is nothing to compare with."""
    ratios = []
    for figures in group:
        others = [each.nodes_cpu_s for name, each in figures.items() if name != "ours"]
        if "ours" in figures and others:
            ratios.append(figures["ours"].nodes_cpu_s / min(others))
    return ratios


def _redis_version(program: str) -> str:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30)
    return f"redis-server {answer.stdout.partition('v=')[2].partition(' ')[0]}"
