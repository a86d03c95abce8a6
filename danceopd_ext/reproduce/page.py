"""The results page: every claim of the paper beside what this world shows. Filled by the tables' files alone."""

from __future__ import annotations

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
from danceopd_ext.reproduce.entries import read_entries
from danceopd_ext.reproduce.marks import TIMES, read_marks, redrawn
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


def claims_of(table: str, budget: Budget) -> list[Claim]:
    """The claims that a table can show at a budget."""
    if table == "guidance":
        return guidance_claims(budget.scales)
    if table == "ablations":
        return ablation_claims(budget.queries, budget.rollouts)
    return {"composition": COMPOSITION, "local-global": LOCAL_GLOBAL, "style": ABSORPTION, "tuning": []}[table]


def verdicts_of(table: str, results: Path) -> list[Verdict]:
    """The verdicts of a table's files in `results`."""
    budget = BUDGETS[facts_of(table, results)["budget"]]
    entries = read_entries(results / f"{table}.csv")
    lines = summarise(entries, budget.tested, redrawn(entries, read_marks(results / f"{table}-marks.npz")))
    return [judge(claim, lines) for claim in claims_of(table, budget)]


def facts_of(table: str, results: Path) -> Mapping[str, Any]:
    """What a table was made with. Raises UserError for a file that is missing or does not say it."""
    file = results / f"{table}.json"
    facts = read_object(file, "table's facts")
    kinds = {"budget": str, "seeds": list, "sizes": dict, "versions": dict, "training_hours": int | float}
    wrong = [name for name, kind in kinds.items() if not isinstance(facts.get(name), kind)]
    if wrong or facts["budget"] not in BUDGETS:
        raise UserError(f"{file}: {(wrong or ['budget'])[0]} is missing or wrong. Make the table again.")
    return facts


def write_page(results: Path) -> Path:
    """Write `results`/README.md from the tables that are there; what was found out about one, and written by hand
    into TABLE-notes.md, follows its claims. Tables of another budget in a folder of its name get a link."""
    made_here = {table: facts_of(table, results) for table in TABLES if (results / f"{table}.csv").is_file()}
    others = [name for name in BUDGETS if (results / name / "README.md").is_file()]
    parts = ["# The paper's claims in the demo world", RULE]
    parts += [f"Tables of budget {name}: [{name}]({name}/README.md)." for name in others]
    budgets = {facts["budget"] for facts in made_here.values()}
    flag = f" --budget {budgets.pop()}" if len(budgets) == 1 else ""
    missing = "Not run yet: `python scripts/reproduce.py {}" + flag + "`."
    for table in TABLES:
        text = section(table, made_here[table], results) if table in made_here else missing.format(table)
        parts.append(f"## {table}\n\n{text}")
    page = results / "README.md"
    with whole_file(page) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def section(table: str, facts: Mapping[str, Any], results: Path) -> str:
    """What the page says of one table."""
    title = TABLES[table](BUDGETS[facts["budget"]]).title
    parts = [
        f"[{title}]({table}.md), [numbers]({table}.csv). Budget {facts['budget']}, {len(facts['seeds'])} seed(s), "
        f"{facts['training_hours']:.2f} core hours of training."
    ]
    if verdicts := verdicts_of(table, results):
        parts.append(claims_table(verdicts))
    notes = results / f"{table}-notes.md"
    if notes.is_file():
        parts.append(read_text(notes, "notes of a table").strip())
    return "\n\n".join(parts)


def claims_table(verdicts: Sequence[Verdict]) -> str:
    """A line for each claim."""
    lines = ["| claim | paper | here | verdict |", "|---|---|---|---|"]
    lines += [f"| {one.claim.text} | {one.claim.paper} | {one.ours} | **{one.verdict}** |" for one in verdicts]
    return "\n".join(lines)
