"""Writes a side experiment (a table with other settings) as one page, with its numbers and its command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.reproduce.budgets import Budget
from danceopd_ext.reproduce.entries import Entry, write_entries
from danceopd_ext.reproduce.markdown import table_page
from danceopd_ext.reproduce.summary import summarise
from danceopd_ext.reproduce.tables import Table

SIDE = "side"
#: options that change no number: folders, and the number of runs at a time
WHERE = ("--sources", "--out", "--results", "--jobs")


def check_name(name: str) -> str:
    """The name of a side experiment, which is that of its files. Raises UserError."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UserError(
            f"--side {name}: write a name of lower-case letters, digits and hyphens, such as style-few-steps."
        )
    return name


def command_of(argv: Sequence[str]) -> str:
    """The command line that makes the same numbers on any machine.

    >>> command_of(["style", "--jobs", "2", "--only", "joint training", "--side", "style-alone"])
    'python scripts/reproduce.py style --only "joint training" --side style-alone'
    """
    words, skip = [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        if not skip and name not in WHERE:
            words.append(f'"{word}"' if " " in word else word)
        skip = name in WHERE and not equals
    return " ".join(["python", "scripts/reproduce.py", *words])


def write_side(
    names: tuple[str, str],
    table: Table,
    budget: Budget,
    entries: Sequence[Entry],
    facts: Mapping[str, Any],
    folder: Path,
    command: str,
) -> Path:
    """Write NAME.csv and NAME.md into `folder`; the page's path. `names`: of the table, and of the experiment."""
    of_table, name = names
    write_entries(folder / f"{name}.csv", entries)
    page = folder / f"{name}.md"
    with whole_file(page) as part:
        lines = summarise(entries, budget.tested)
        part.write_text(table_page(of_table, table, lines, budget, facts, command), encoding="utf-8")
    return page
