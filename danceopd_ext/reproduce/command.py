"""Trains what is missing, draws, scores, and writes a table: `scripts/reproduce.py TABLE`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from danceopd_ext.config.load import parse_flag
from danceopd_ext.errors import UserError
from danceopd_ext.machine import versions
from danceopd_ext.ranges import STEPS, Range
from danceopd_ext.reproduce.budgets import BUDGETS, Budget
from danceopd_ext.reproduce.evaluate import evaluate_missing
from danceopd_ext.reproduce.grids import draw_pictures
from danceopd_ext.reproduce.page import write_page
from danceopd_ext.reproduce.plan import (
    Plan,
    drawing_seed,
    entries_of,
    marks_of,
    pictures_of,
    plan_table,
    training_seeds,
)
from danceopd_ext.reproduce.plots import check_libraries
from danceopd_ext.reproduce.presets import fixed_keys
from danceopd_ext.reproduce.pretrained import find_pretrained
from danceopd_ext.reproduce.runner import Start, cost_of, train_missing
from danceopd_ext.reproduce.side_experiments import SIDE, check_name, command_of, write_side
from danceopd_ext.reproduce.table_files import write_files
from danceopd_ext.reproduce.tables import TABLES, Table

OTHERS = """\
other commands, each with --help:
  join TABLE RESULTS MORE   join rows that were made separately into one table
  repeats                   draw edits again with other noise: how many of a model's errors are chance
  seconds TABLE             measure a step of each row on an otherwise idle machine
"""
#: option -> the numbers that it takes
LIMITS = {
    "seeds": Range(minimum=1, maximum=1000),
    "jobs": Range(minimum=1, maximum=1024),
    "examples": Range(minimum=1, maximum=1_000_000),
    "steps": STEPS,
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; argparse ends the program if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce.py",
        description=__doc__,
        epilog=OTHERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=3, help="trainings per method (default: 3)")
    parser.add_argument("--budget", choices=BUDGETS, default="quick", help="how much is trained and drawn")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="the trained rows to make (default: all)")
    parser.add_argument("--examples", type=int, help="training examples of each kind (default: the budget's)")
    parser.add_argument(
        "--targets", choices=("world", "teacher"), help="who draws the target pictures of the data (default: world)"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps per training (default: the budget's)")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", help="keys of the preset, for every training")
    parser.add_argument("--base_route", action="store_true", help="add a route of the base, which keeps its skills")
    parser.add_argument("--sources", type=Path, help="folder of the base and the teachers")
    parser.add_argument("--out", type=Path, default=Path("outputs/reproduce"), help="folder for the runs")
    parser.add_argument("--results", type=Path, help="folder for the tables (default: results in --out)")
    parser.add_argument(
        "--side", metavar="NAME", help="a side experiment: only its page and numbers, as NAME in the folder side"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="number of runs at the same time, one thread each"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, start: Start | None = None) -> None:
    """Reproduce one table. Raises UserError for missing models and TrainingError for runs that did not finish.

    `start` replaces the process that a run is trained in.
    """
    args = parse(argv)
    changed = ("examples", "steps", "targets")
    others = {name: value for name in changed if (value := getattr(args, name)) is not None}
    budget = replace(BUDGETS[args.budget], **others)
    for name in ("seeds", "jobs", "examples", "steps"):
        value = getattr(args, name)
        if value is not None and (wrong := LIMITS[name].wrong(value)):
            raise UserError(f"--{name} {value}: the value {wrong}.")
    side = None if args.side is None else check_name(args.side)
    check_libraries()
    table, keys = only(TABLES[args.table](budget), args.only), keys_of(args.set)
    if fixed := sorted(fixed_keys(table, budget) & set(keys)):
        raise UserError(f"--set {fixed[0]}: this table sets the key itself. Leave it out.")
    table = with_keys(table, keys)
    table = with_base_route(table) if args.base_route else table
    pretrained = find_pretrained(args.sources, table.needed)
    plan = plan_table(table, budget, training_seeds(table, args.seeds), pretrained, args.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # like Ctrl+C: end the trainings too
    train_missing(plan.runs, args.jobs, start)
    evaluate_missing([one.job for one in plan.drawn], args.jobs)
    facts, results = facts_of(args.budget, budget, plan, keys), args.results or args.out / "results"
    if side:
        command = command_of(sys.argv[1:] if argv is None else argv)
        page = write_side((args.table, side), plan.table, budget, entries_of(plan), facts, results / SIDE, command)
        print(f"{page.read_text(encoding='utf-8')}\ntable    {page}")
        return
    page = write_table(args.table, budget, plan, results, facts)
    print(f"{page.read_text(encoding='utf-8')}\ntable    {page}\nclaims   {write_page(page.parent)}")


def only(table: Table, labels: Sequence[str] | None) -> Table:
    """Return the table with some of its trained rows and all others. Raises UserError for an unknown label."""
    trained = [row.label for row in table.rows if row.pretrained is None]
    unknown = [label for label in labels or [] if label not in trained]
    if unknown:
        raise UserError(f"--only {unknown[0]}: unknown row. The table has the rows {', '.join(trained)}.")
    rows = tuple(row for row in table.rows if not labels or row.pretrained is not None or row.label in labels)
    return replace(table, rows=rows)


def keys_of(texts: Sequence[str] | None) -> dict[str, object]:
    """Return the keys and values of --set. Raises UserError for an unknown key or a wrong value."""
    found = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: write KEY=VALUE with a key of the preset, such as learning_rate=3e-3.")
        try:
            found[name] = parse_flag(name, value)
        except UserError as error:
            raise UserError(f"--set {text}: {error}") from None
    return found


def with_keys(table: Table, keys: Mapping[str, object]) -> Table:
    """Return the table with the same keys for all of its trainings; they override a method's own."""
    return replace(
        table, rows=tuple(replace(row, keys={**row.keys, **keys}) if row.teachers else row for row in table.rows)
    )


def with_base_route(table: Table) -> Table:
    """Return the table with a route of the base, which draws from text. Raises UserError if it has one."""
    if any({} in row.teachers.values() for row in table.rows):
        raise UserError(f"--base_route: this table already has a route of the base ({table.title}).")
    rows = tuple(replace(row, teachers={"t2i": {}, **row.teachers}) if row.teachers else row for row in table.rows)
    return replace(table, title=f"{table.title}, with a route of the base", rows=rows)


def facts_of(name: str, budget: Budget, plan: Plan, keys: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of a table; `name`: of the budget."""
    return {
        "budget": name,
        "sizes": asdict(budget),
        **({"set": keys} if keys else {}),
        "seeds": sorted({one.seed for one in plan.drawn if one.seed is not None}),
        "drawing_seed": drawing_seed(plan.table),
        "training_hours": sum(cost_of(run).seconds for run in {run.folder: run for run in plan.runs}.values()) / 3600,
        "versions": versions(),
    }


def write_table(name: str, budget: Budget, plan: Plan, results: Path, facts: Mapping[str, Any]) -> Path:
    """Write TABLE.csv, .md, .json, -marks.npz, -plot.png and -grid.png into `results`; the page's path."""
    grid, seed = results / f"{name}-grid.png", facts["drawing_seed"]
    draw_pictures(pictures_of(plan), plan.table.measures, budget.tested, seed, grid, plan.table.title)
    return write_files(name, plan.table, budget, entries_of(plan), marks_of(plan), facts, results)
