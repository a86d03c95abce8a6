"""Measures a step of each row on an otherwise idle machine: `scripts/reproduce.py seconds TABLE`.

The seconds in the tables come from trainings that shared the machine, where rows of equal work differ by half. Here
each row trains alone for a few steps, one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

from danceopd_ext.ranges import STEPS
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.command import only
from danceopd_ext.reproduce.presets import Run, plan_run
from danceopd_ext.reproduce.pretrained import find_pretrained
from danceopd_ext.reproduce.runner import Start, costs_of_steps, train_missing
from danceopd_ext.reproduce.tables import TABLES
from danceopd_ext.whole_numbers import whole

HEADS = ("model", "forwards a step", "with backward", "seconds a step")
#: steps at the beginning that do not count: memory is taken, caches are filled
WARM_UP = 5


@dataclass(frozen=True)
class StepCost:
    """Means over steps: samples through the transformer, and those with a backward.

    `seconds` is the median, which one disturbed step does not change.
    """

    forwards: float
    backwards: float
    seconds: float


def step_cost(run: Run) -> StepCost:
    """Of a finished run, from its log."""
    steps = costs_of_steps(run)[WARM_UP:]
    forwards, backwards = (mean(getattr(step, name) for step in steps) for name in ("forwards", "backwards"))
    return StepCost(forwards, backwards, median(step.seconds for step in steps))


def main(argv: Sequence[str] | None = None, start: Start | None = None) -> None:
    """Train, print the table and write it as TABLE-seconds.md. `start` as in `command.main`. Raises UserError."""
    parser = argparse.ArgumentParser(prog="scripts/reproduce.py seconds", description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--budget", choices=BUDGETS, default="quick", help="samples per step (default: quick)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to time (default: all trained rows)")
    parser.add_argument(
        "--steps", type=whole(STEPS), default=40, help=f"measured steps, after {WARM_UP} others (default: 40)"
    )
    parser.add_argument("--sources", type=Path, help="folder of the base and the teachers")
    parser.add_argument("--out", type=Path, default=Path("outputs/reproduce"), help="folder for the runs")
    args = parser.parse_args(argv)
    budget = replace(BUDGETS[args.budget], steps=WARM_UP + args.steps)
    table = only(TABLES[args.table](budget), args.only)
    pretrained = find_pretrained(args.sources, table.needed)
    costs: dict[Path, StepCost] = {}
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    for row in (row for row in table.rows if row.trained):
        run = plan_run(row, 1, budget, pretrained, args.out / "seconds")
        if run.folder not in costs:
            train_missing([run], 1, start)
            costs[run.folder] = step_cost(run)
        cost = costs[run.folder]
        lines.append(f"| {row.label} | {cost.forwards:.1f} | {cost.backwards:.1f} | {cost.seconds:.3f} |")
    text = "\n".join(lines) + "\n"
    page = args.out / "seconds" / f"{args.table}-seconds.md"
    page.write_text(text, encoding="utf-8")
    print(f"{text}\n{page}")
