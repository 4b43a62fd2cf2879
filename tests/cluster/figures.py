"""The figures of the scenarios, kept from run to run; `python -m tests.cluster.figures` prints them."""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "figures"


def keep(figures: dict[str, object]) -> None:
    """Put the figures of one scenario in place of its last ones."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = str(figures["scenario"]).replace(" ", "-")
    (FOLDER / f"{name}.json").write_text(json.dumps(figures))


def table(since_s: float = 0.0) -> str:
    """Those kept since that time, as Markdown; empty if there are none."""
    files = sorted(FOLDER.glob("*.json"), key=lambda each: each.stat().st_mtime)
    rows = [json.loads(each.read_text()) for each in files if each.stat().st_mtime >= since_s]
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
