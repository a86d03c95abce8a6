"""Writes the results page from the tables' files: every claim of the paper and the result in this world."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.json import read_object
from danceopd_ext.foreign.text import read_text
from danceopd_ext.reproduce.budgets import BUDGETS, Budget
from danceopd_ext.reproduce.claims import (
    ABSORPTION,
    COMPOSITION,
    LOCAL_GLOBAL,
    Claim,
    Verdict,
    ablation_claims,
    guidance_claims,
    judge,
)
from danceopd_ext.reproduce.drawing_scores import TIMES, read_marks, redrawn
from danceopd_ext.reproduce.entries import read_entries
from danceopd_ext.reproduce.side_experiments import SIDE
from danceopd_ext.reproduce.summary import summarise
from danceopd_ext.reproduce.tables import TABLES

RULE = f"""A claim says that one number is greater than another (or that some are about the same). It **holds** if it is
so in all of the difference's 95 % confidence interval, **does not hold** if the opposite is, and is **not resolved**
otherwise; **no room above** says that the other model's score leaves less than half of the interval up to 1. The
standard error joins the spread over training seeds (standard deviation / root of the number of seeds) with the spread
over drawings: {TIMES:,} other choices of drawings are tried, the same for all models (bootstrap). The interval is
Student's, with the degrees of freedom of Welch and Satterthwaite: 2 errors to each side where the drawings are most
of it, up to 4.3 where three trainings are. With one seed the first spread is not known, and nothing about a trained
model is resolved. Each interval misses in one case of twenty, and there are many claims. The scores are of another
world than the paper's benchmarks: compare differences, not sizes. The paper gives no formulas for the objectives of
its ablation; `danceopd_ext/method/objectives.py` says which are taken, and the other files there where a baseline
differs from the paper's."""

CLAIMS_HEAD = "| claim | paper | here | verdict |"


def claims_of(table: str, budget: Budget) -> list[Claim]:
    """Return the claims that a table can show at a budget."""
    if table == "guidance":
        return guidance_claims(budget.scales)
    if table == "ablations":
        return ablation_claims(budget.queries, budget.rollouts)
    return {"composition": COMPOSITION, "local-global": LOCAL_GLOBAL, "style": ABSORPTION, "tuning": []}[table]


def verdicts_of(table: str, results: Path) -> list[Verdict]:
    """Return the verdicts of a table's files in `results`."""
    budget = BUDGETS[facts_of(table, results)["budget"]]
    entries = read_entries(results / f"{table}.csv")
    lines = summarise(entries, budget.tested, redrawn(entries, read_marks(results / f"{table}-marks.npz")))
    return [judge(claim, lines) for claim in claims_of(table, budget)]


def facts_of(table: str, results: Path) -> Mapping[str, Any]:
    """Return a table's settings. Raises UserError for a file that is missing or incomplete."""
    file = results / f"{table}.json"
    facts = read_object(file, "table's facts")
    kinds = {"budget": str, "seeds": list, "sizes": dict, "versions": dict, "training_hours": int | float}
    wrong = [name for name, kind in kinds.items() if not isinstance(facts.get(name), kind)]
    if wrong or facts["budget"] not in BUDGETS:
        raise UserError(f"{file}: {(wrong or ['budget'])[0]} is missing or wrong. Make the table again.")
    return facts


def write_page(results: Path) -> Path:
    """Write `results`/README.md from the tables that are there.

    What was written by hand behind a table's claims stays. A table without the facts or the marks of single drawings,
    which published tables do not have, keeps its whole section. Tables of another budget in a folder of its name get
    a link.
    """
    page = results / "README.md"
    before = sections_of(read_text(page, "page of the claims")) if page.is_file() else {}
    there = [table for table in TABLES if (results / f"{table}.csv").is_file()]
    kept = {table for table in there if table in before and not _can_be_judged(table, results)}
    made_here = {table: facts_of(table, results) for table in there if table not in kept}
    others = [name for name in BUDGETS if (results / name / "README.md").is_file()]
    parts = ["# The paper's claims in the demo world", RULE]
    parts += [f"Tables of budget {name}: [{name}]({name}/README.md)." for name in others]
    if (results / SIDE / "README.md").is_file():
        parts.append(f"Side experiments: [{SIDE}]({SIDE}/README.md).")
    told = [re.search(r"Budget (\w+), ", before[table]) for table in kept]
    budgets = {facts["budget"] for facts in made_here.values()} | {match[1] for match in told if match}
    flag = f" --budget {budgets.pop()}" if len(budgets) == 1 else ""
    missing = "Not run yet: `python scripts/reproduce.py {}" + flag + "`."
    for table in TABLES:
        if table in kept:
            text = before[table]
        else:
            text = section(table, made_here[table], results) if table in made_here else missing.format(table)
            text = "\n\n".join([text, *by_hand(before.get(table, ""))])
        parts.append(f"## {table}\n\n{text}")
    with whole_file(page) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def section(table: str, facts: Mapping[str, Any], results: Path) -> str:
    """Return the page's section on one table."""
    title = TABLES[table](BUDGETS[facts["budget"]]).title
    parts = [
        f"[{title}]({table}.md), [numbers]({table}.csv). Budget {facts['budget']}, {len(facts['seeds'])} seed(s), "
        f"{facts['training_hours']:.2f} core hours of training."
    ]
    if verdicts := verdicts_of(table, results):
        parts.append(claims_table(verdicts))
    return "\n\n".join(parts)


def _can_be_judged(table: str, results: Path) -> bool:
    """Return whether all files for the verdicts exist."""
    return all((results / f"{table}{end}").is_file() for end in (".json", "-marks.npz"))


def sections_of(page: str) -> dict[str, str]:
    """Table -> the text of its section on a page."""
    parts = re.split(rf"^## ({'|'.join(map(re.escape, TABLES))})$", page, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def by_hand(section: str) -> list[str]:
    """The paragraphs of a section but for the first, which says how the table was made, and the claims."""
    return [text for text in section.split("\n\n")[1:] if not text.startswith(CLAIMS_HEAD)]


def claims_table(verdicts: Sequence[Verdict]) -> str:
    """Return one line per claim."""
    lines = [CLAIMS_HEAD, "|---|---|---|---|"]
    lines += [f"| {one.claim.text} | {one.claim.paper} | {one.ours} | **{one.verdict}** |" for one in verdicts]
    return "\n".join(lines)
