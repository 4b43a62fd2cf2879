"""The options that every comparison has."""

import argparse
from collections.abc import Callable, Collection, Sequence

_MOST_ROUNDS = 20
_MOST_SECONDS = 60.0


def make_parser(
    program: str,
    description: str | None,
    *,
    members: range,
    default_members: Sequence[int],
    default_rounds: int,
    default_seconds: float,
    names: Collection[str],
    results: str,
) -> argparse.ArgumentParser:
    """`members`: how many there may be; `names`: of the servers; `results`: the file that is written."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)

    def add(option: str, kind: Callable[[str], object], default: Collection[object]) -> None:
        shown = f"default: {','.join(map(str, default))}"
        parser.add_argument(option, type=kind, default=list(default), help=shown)

    def counts(text: str) -> list[int]:
        found = [int(count) for count in text.split(",")]
        if not set(found) <= set(members):
            raise argparse.ArgumentTypeError(f"from {members[0]} to {members[-1]} members")
        return found

    def some_names(text: str) -> list[str]:
        found = text.split(",")
        if not set(found) <= set(names):
            raise argparse.ArgumentTypeError(f"of {', '.join(names)}")
        return found

    def seconds(text: str) -> float:
        found = float(text)
        if not 0 < found <= _MOST_SECONDS:
            raise argparse.ArgumentTypeError(f"at most {_MOST_SECONDS:.0f} seconds")
        return found

    rounds = range(1, _MOST_ROUNDS + 1)
    about_seconds = f"of load, each; default: {default_seconds:g}"
    add("--members", counts, default_members)
    add("--servers", some_names, names)
    parser.add_argument("--rounds", type=int, choices=rounds, default=default_rounds, metavar="N")
    parser.add_argument("--seconds", type=seconds, default=default_seconds, help=about_seconds)
    parser.add_argument("--no-write", action="store_true", help=f"leave {results} as it is")
    return parser
