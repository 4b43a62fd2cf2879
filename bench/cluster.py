"""Two nodes of this project's engine joined by Redis beside two of Socket.IO on Node with its adapters."""

import argparse
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cluster_report import LABELS, PACKAGES, make_report
from bench.cluster_rounds import Round, Start, run_returns, run_round
from bench.frames import FrameError
from bench.member import LoadError
from bench.options import make_parser
from bench.process import NODE_MODULES, ServerError, find_node
from bench.reconnects import Returns
from bench.rounds import rotated

RESULTS = Path(__file__).parent / "RESULTS-cluster.md"
_MESSAGES = range(1, 100_001)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    options = _parser().parse_args(arguments)
    secret = secrets.token_urlsafe(32)
    redis, starts = shutil.which("redis-server"), _starts(options.servers, secret)
    if redis is None or not starts:
        print("given up: no redis-server on the PATH" if redis is None else "given up", file=sys.stderr)
        return 1
    rounds: dict[int, list[Round]] = {members: [] for members in options.members}
    returns: dict[str, list[Returns]] = {name: [] for name in starts}
    try:
        for number in range(options.rounds):
            turn = rotated(starts, number)
            for members, group in rounds.items():
                print(f"{members} members, round {number + 1} of {options.rounds}", file=sys.stderr)
                group.append(run_round(turn, redis, secret, members=members, duration_s=options.seconds))
            for name, start in turn.items():
                print(f"{name}: clients come and go, round {number + 1}", file=sys.stderr)
                returns[name].append(run_returns(start, redis, secret, messages=options.messages))
    except (FrameError, LoadError, ServerError, OSError) as error:
        print(f"given up: {error}", file=sys.stderr)
        return 1
    node = next((start.command for name, start in starts.items() if name != "ours"), None)
    report = make_report(
        rounds, returns, duration_s=options.seconds, messages=options.messages, redis=redis, node=node
    )
    print(report)
    if not options.no_write:
        RESULTS.write_text(report, encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench.cluster",
        __doc__,
        members=range(2, 1_001),
        default_members=[2, 10, 50],
        default_rounds=5,
        default_seconds=2.0,
        names=LABELS,
        results=RESULTS.name,
    )
    parser.add_argument(
        "--messages", type=_count, default=800, help="while clients come and go; default: 800"
    )
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count not in _MESSAGES:
        raise argparse.ArgumentTypeError(f"from {_MESSAGES[0]} to {_MESSAGES[-1]} messages")
    return count


def _starts(names: Sequence[str], secret: str) -> dict[str, Start]:
    """How to start a node of each cluster; without Node where there is none."""
    environment = {"BENCH_SECRET": secret, "NODE_ENV": "production"}
    node = find_node()
    has_node = node is not None and all((NODE_MODULES / name).is_dir() for name in PACKAGES)
    starts: dict[str, Start] = {}
    for name in names:
        if name == "ours":
            command = [sys.executable, "-m", "bench.servers.ours_cluster"]
            starts[name] = Start(command=command, environment=environment)
        elif node is not None and has_node:
            command = [node, "bench/servers/node.mjs"]
            starts[name] = Start(command=command, environment={**environment, "BENCH_ADAPTER": name})
        else:
            print(f"{name} is left out: node or its packages are not installed", file=sys.stderr)
    return starts


if __name__ == "__main__":
    sys.exit(main())
