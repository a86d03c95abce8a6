"""Writes the files of a table except its grid: raw numbers, scores of single drawings, facts, plot and page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danceopd_ext.files import whole_file
from danceopd_ext.reproduce.budgets import Budget
from danceopd_ext.reproduce.drawing_scores import Marks, write_marks
from danceopd_ext.reproduce.entries import Entry, write_entries
from danceopd_ext.reproduce.markdown import table_page
from danceopd_ext.reproduce.plots import draw_plot
from danceopd_ext.reproduce.summary import summarise
from danceopd_ext.reproduce.tables import Table


def write_files(
    name: str,
    table: Table,
    budget: Budget,
    entries: Sequence[Entry],
    marks: Sequence[Marks],
    facts: Mapping[str, Any],
    results: Path,
) -> Path:
    """Write TABLE.csv, -marks.npz, .json, -plot.png and .md into `results`; the page's path.

    `marks`: those of the entries, in their order. `facts`: what the table was made with.
    """
    lines = summarise(entries, budget.tested)
    write_entries(results / f"{name}.csv", entries)
    write_marks(results / f"{name}-marks.npz", marks)
    with whole_file(results / f"{name}.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    draw_plot(name, lines, table.measures, results / f"{name}-plot.png")
    page = results / f"{name}.md"
    with whole_file(page) as part:
        part.write_text(table_page(name, table, lines, budget, facts), encoding="utf-8")
    return page
