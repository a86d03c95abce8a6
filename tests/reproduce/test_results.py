"""The published tables: which files are kept, that their numbers agree, and that each can be made again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from danceopd_ext.reproduce import markdown
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.command import keys_of, only, parse
from danceopd_ext.reproduce.entries import read_entries
from danceopd_ext.reproduce.page import write_page
from danceopd_ext.reproduce.summary import HEADLINES, WORST, summarise
from danceopd_ext.reproduce.tables import TABLES

RESULTS = Path(__file__).parents[2] / "scripts" / "reproduce" / "results"
SIDE = sorted(path for path in (RESULTS / "side").glob("*.md") if path.name != "README.md")
FULL = sorted(path for path in (RESULTS / "full").glob("*.md") if path.name != "README.md")
MAIN = [RESULTS / f"{name}.md" for name in TABLES]


def command_of(page: Path) -> list[str]:
    """The words behind the script in the command that a side experiment names."""
    found = re.findall(r"^    python scripts/reproduce\.py (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1
    return shlex.split(found[0])


def table_of(page: Path) -> str:
    return command_of(page)[0] if page in SIDE else page.stem


def test_a_table_is_kept_with_one_plot_and_one_grid_and_a_side_experiment_without():
    found = {path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*") if path.is_file()}
    wanted = {"README.md", "full/README.md", "side/README.md", "repeats.md", "seconds.md"}
    wanted |= {f"{name}{end}" for name in TABLES for end in (".md", ".csv", "-plot.png", "-grid.png")}
    wanted |= {path.with_suffix(end).relative_to(RESULTS).as_posix() for path in SIDE + FULL for end in (".md", ".csv")}
    assert found == wanted
    listed = (RESULTS / "side" / "README.md").read_text(encoding="utf-8")
    assert SIDE and all(f"[{path.stem}]({path.name})" in listed for path in SIDE)


@pytest.mark.parametrize("page", MAIN + FULL + SIDE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_numbers_of_a_page_are_worked_out_again_from_its_csv(page):
    name, text = table_of(page), page.read_text(encoding="utf-8")
    budget = BUDGETS["full" if "full" in (page.parent.name, *command_words(page)) else "quick"]
    lines = summarise(read_entries(page.with_suffix(".csv")), budget.tested)
    measures = TABLES[name](budget).measures
    if name == "guidance":
        parts = [markdown.guidance_grid(lines, measure) for measure in measures]
    elif name in ("ablations", "tuning"):
        parts = [markdown.headlines(lines, [HEADLINES[measure] for measure in measures])]
    else:
        parts = [*(markdown.per_kind(lines, measure) for measure in measures), markdown.headlines(lines, [WORST])]
    assert all(part in text for part in parts)


def command_words(page: Path) -> list[str]:
    return command_of(page) if page in SIDE else []


@pytest.mark.parametrize("page", SIDE, ids=lambda path: path.stem)
def test_the_command_of_a_side_experiment_makes_its_rows(page):
    args = parse(command_of(page))
    assert args.side == page.stem
    table = only(TABLES[args.table](BUDGETS[args.budget]), args.only)
    entries = read_entries(page.with_suffix(".csv"))
    assert list(dict.fromkeys(entry.label for entry in entries)) == [row.label for row in table.rows]
    assert {entry.seed for entry in entries if entry.seed is not None} == set(range(1, args.seeds + 1))
    text = page.read_text(encoding="utf-8")
    steps = args.steps or BUDGETS[args.budget].steps
    assert f"{steps} optimizer steps" in text
    assert all(f"{key} = " in text for key in keys_of(args.set))
    assert markdown.TARGETS[args.targets or "world"] in text


@pytest.mark.parametrize("folder", [RESULTS, RESULTS / "full"], ids=lambda path: path.name)
def test_the_page_of_the_claims_stays_when_it_is_written_again(folder, tmp_path):
    """Published tables have no marks of single drawings, so their sections are kept."""
    kept = [path for path in folder.rglob("*.*") if path.suffix in (".md", ".csv")]
    for path in kept:
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert write_page(tmp_path).read_text(encoding="utf-8") == page
