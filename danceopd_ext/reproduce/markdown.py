"""Writes tables in Markdown, laid out as in the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.demo.omni_score import held_out_prompts
from danceopd_ext.reproduce.budgets import Budget
from danceopd_ext.reproduce.stats import Stat
from danceopd_ext.reproduce.summary import GAP, HEADLINES, MEASURES, WORST, Line, columns_of
from danceopd_ext.reproduce.tables import Table, longest_rollout

TARGETS = {"world": "the true ones", "teacher": "as the route's teacher draws them"}
COST_HEADS = ("forwards", "with backward", "seconds")


def table_page(
    name: str, table: Table, lines: Sequence[Line], budget: Budget, facts: Mapping[str, Any], command: str = ""
) -> str:
    """The page of one table: what it compares, its numbers, and what they were made with.

    `command`: what makes a side experiment, which has no pictures.
    """
    parts = [f"# {table.title}", f"The paper's {table.paper}, in the demo world."]
    parts += [f"    {command}"] if command else []
    parts.append(settings(budget, facts))
    if name == "ablations":
        parts.append(
            f"Solver steps are {budget.rollout} where the row does not say otherwise; rows of K have "
            f"{longest_rollout(budget)}, for there to be as many states. All are drawn with {budget.rollout}."
        )
    if name == "guidance":
        parts += [guidance_grid(lines, measure) for measure in table.measures]
    elif name in ("ablations", "tuning"):
        parts.append(headlines(lines, [HEADLINES[measure] for measure in table.measures]))
    else:
        parts += [per_kind(lines, measure) for measure in table.measures]
        parts.append(f"## All kinds: the worst\n\n{headlines(lines, [WORST])}")
    if not command:
        parts += [f"![The scores]({name}-plot.png)", f"![The first drawing of each kind]({name}-grid.png)"]
    return "\n\n".join(parts) + "\n"


def settings(budget: Budget, facts: Mapping[str, Any]) -> str:
    """Return what all rows have in common."""
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    seeds = ", ".join(map(str, facts["seeds"]))
    own = "".join(f"{key} = {toml_text(value)}, " for key, value in facts.get("set", {}).items())
    return (
        f"All rows: {own}{budget.steps} optimizer steps of {budget.samples} samples, student of rank {budget.rank}, "
        f"{budget.rollout} solver steps, the same {budget.examples} training examples of each kind, whose "
        f"target pictures are {TARGETS[budget.targets]}. A step's samples are those of all its routes (DiffusionOPD, "
        f"rounded up to as many for each) and of all trajectories (Flow-OPD, groups of {budget.group}). Optimizer "
        "steps are equal, compute is not: forwards are samples through the transformer (one with a backward costs "
        "about three), seconds are those of training on one thread. Scores are on held-out prompts (the fraction of "
        "right drawings) and edits (0 to 1, the mean of semantic and preservation scores' "
        f"geometric means); drawings of each kind: {budget.tested}, the mean over training seeds {seeds}, ± their "
        "standard deviation where there are several; the drawings' noise and the choice of edits have seed "
        f"{facts['drawing_seed']}. Prompts are few, and repeated with other noise: {captions(budget.tested)}.\n\n"
        f"Training took {facts['training_hours']:.2f} core hours; {versions}."
    )


def captions(tested: int) -> str:
    """How many different held-out captions there are of each kind."""
    kinds = Counter(kind for kind, _ in {(prompt.kind, prompt.caption) for prompt in held_out_prompts(tested)})
    return ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items(), key=lambda item: item[::-1]))


def per_kind(lines: Sequence[Line], measure: str) -> str:
    """The per-kind columns, the averages and the cost of every model."""
    title = MEASURES[measure].title
    columns = [column for column in columns_of(measure) if any(column in line.scores for line in lines)]
    heads = [column.removeprefix(f"{measure} ") for column in columns]
    rows = [[*(cell(line.scores.get(column), column == GAP) for column in columns), *cost(line)] for line in lines]
    return f"## {title}\n\n" + grid(["model", *heads, *COST_HEADS], lines, rows)


def headlines(lines: Sequence[Line], columns: Sequence[str]) -> str:
    """A few columns and the cost alone."""
    rows = [[*(cell(line.scores.get(column)) for column in columns), *cost(line)] for line in lines]
    return grid(["model", *columns, *COST_HEADS], lines, rows)


def guidance_grid(lines: Sequence[Line], measure: str) -> str:
    """The average for every guidance of the teacher (rows) and at inference (columns)."""
    betas = list(dict.fromkeys(line.beta for line in lines))
    firsts = [line for line in lines if line.beta == betas[0]]
    found = {(line.label, line.beta): line.scores[HEADLINES[measure]] for line in lines}
    rows = [[cell(found.get((line.label, beta))) for beta in betas] for line in firsts]
    return f"## {MEASURES[measure].title}: {HEADLINES[measure]}\n\n" + grid(
        ["model", *(f"beta {beta:g}" for beta in betas)], firsts, rows
    )


def grid(heads: Sequence[str], lines: Sequence[Line], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is the lines' labels."""
    text = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    text += ["| " + " | ".join((line.label, *row)) + " |" for line, row in zip(lines, rows, strict=True)]
    return "\n".join(text)


def cell(one: Stat | None, percent: bool = False) -> str:
    """`0.812 ± 0.013`, or without the spread where there is none.

    >>> cell(Stat(0.5, 0.25, 3)), cell(Stat(0.5, None, 0)), cell(Stat(0.853, None, 1), percent=True)
    ('0.500 ± 0.250', '0.500', '85.3 %')
    """
    if one is None:
        return "-"
    shown = (lambda value: f"{value:.1%}".replace("%", " %")) if percent else (lambda value: f"{value:.3f}")
    return shown(one.mean) if one.std is None else f"{shown(one.mean)} ± {shown(one.std)}"


def cost(line: Line) -> list[str]:
    """Forwards and seconds; of models that were not trained, none."""
    if not line.forwards.mean:
        return ["-"] * len(COST_HEADS)
    return [f"{line.forwards.mean:,.0f}", f"{line.backwards.mean:,.0f}", f"{line.seconds.mean:.0f}"]
