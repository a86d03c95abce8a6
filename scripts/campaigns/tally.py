"""The counts of a campaign, and the file that keeps them."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ("killed", "resumed equal", "asked to stop", "ended with 130", "resumed equal after it", "done before")


@dataclass
class Tally:
    """What became of the runs of one configuration. problems: what must not be, each in a line."""

    name: str
    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def row(self) -> str:
        return "| " + " | ".join([self.name, *(str(self.counts[column]) for column in COLUMNS)]) + " |"


HEAD = """# What became of killed and stopped runs
Written by `scripts/campaigns/kills.py`, which says what the columns count ("done before": the moment never came).
"""


def add_to(file: Path, part: str, tally: Tally) -> None:
    """Put the counts of a configuration into the file, in the place of its former ones."""
    parts = _read(file)
    rows = parts.setdefault(part, {})
    problems = [f"- {tally.name}: {' '.join(problem.split())}" for problem in tally.problems]
    rows[tally.name] = [f"{tally.row()} {time.strftime('%Y-%m-%d')} |", *problems]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEAD + "".join(_section(name, parts[name]) for name in sorted(parts)), encoding="utf-8")


def _read(file: Path) -> dict[str, dict[str, list[str]]]:
    """Part -> configuration -> its row and its problems."""
    parts: dict[str, dict[str, list[str]]] = {}
    rows: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        if line.startswith("## "):
            rows = parts.setdefault(line[3:], {})
        elif re.fullmatch(r"\| [^|*]+ \|( \d+ \|)+ [\d-]+ \|", line):
            rows[line.split(" | ")[0].removeprefix("| ")] = [line]
        elif line.startswith("- "):
            rows[next(name for name in rows if line.startswith(f"- {name}: "))].append(line)
    return parts


def _section(part: str, rows: dict[str, list[str]]) -> str:
    columns = [[int(cell) for cell in lines[0].split(" | ")[1 : 1 + len(COLUMNS)]] for lines in rows.values()]
    total = Tally("**all**", Counter(dict(zip(COLUMNS, map(sum, zip(*columns, strict=True)), strict=True))))
    problems = [line for lines in rows.values() for line in lines[1:]]
    lines = [
        "",
        f"## {part}",
        f"{len(rows)} configurations, {len(problems)} problems.",
        "",
        "| configuration | " + " | ".join(COLUMNS) + " | last run |",
        "|---|" + "---|" * (len(COLUMNS) + 1),
        *(lines[0] for lines in rows.values()),
        f"{total.row()} |",
        *(["", *problems] if problems else []),
    ]
    return "\n".join(lines) + "\n"
