"""This project's engine beside others: what a delivery and a connection cost."""

import argparse
import resource
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.frames import FrameError
from bench.member import LoadError
from bench.options import make_parser
from bench.process import NODE_MODULES, ServerError, find_node
from bench.report import LABELS, make_report
from bench.rounds import Round, rotated, run_round

RESULTS = Path(__file__).parent / "RESULTS.md"
# What a process has open besides its connections.
_OTHER_FILES = 100


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    options = _parser().parse_args(arguments)
    commands = _commands(options.servers)
    environment = {"BENCH_SECRET": secrets.token_urlsafe(32), "NODE_ENV": "production"}
    rounds: dict[int, list[Round]] = {}
    try:
        for members in _allowed(options.members, servers=len(commands)):
            rounds[members] = []
            for number in range(options.rounds):
                print(f"{members} members, round {number + 1} of {options.rounds}", file=sys.stderr)
                turn = rotated(commands, number)
                rounds[members].append(
                    run_round(turn, environment, members=members, duration_s=options.seconds)
                )
    except (FrameError, LoadError, ServerError, OSError) as error:
        print(f"given up: {error}", file=sys.stderr)
        return 1
    if not rounds:
        return 1
    report = make_report(rounds, duration_s=options.seconds, node=commands.get("node"))
    print(report)
    if not options.no_write:
        RESULTS.write_text(report, encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    return make_parser(
        "bench.fanout",
        __doc__,
        members=range(10, 10_001),
        default_members=[100, 500, 2000],
        default_rounds=3,
        default_seconds=3.0,
        names=LABELS,
        results=RESULTS.name,
    )


def _commands(names: Sequence[str]) -> dict[str, list[str]]:
    """How to start each server; without Node where there is none."""
    commands = {name: [sys.executable, "-m", f"bench.servers.{name}"] for name in names}
    if "node" in commands:
        node = find_node()
        if node is None or not (NODE_MODULES / "socket.io").is_dir():
            print("node is left out: it or its packages are not installed", file=sys.stderr)
            del commands["node"]
        else:
            commands["node"] = [node, "bench/servers/node.mjs"]
    return commands


def _allowed(counts: Sequence[int], *, servers: int) -> list[int]:
    """The numbers of members for which this process may have enough sockets open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed = [count for count in counts if count * servers + _OTHER_FILES <= most]
    for count in set(counts).difference(allowed):
        print(f"{count} members are left out: the limit of open files is {most}", file=sys.stderr)
    return allowed


if __name__ == "__main__":
    sys.exit(main())
