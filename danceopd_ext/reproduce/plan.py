"""Plans a table with its seeds: the runs that it needs, the models that are drawn, and its entries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from danceopd_ext.foreign.json import read_object
from danceopd_ext.reproduce.budgets import Budget
from danceopd_ext.reproduce.entries import Entry
from danceopd_ext.reproduce.evaluate import SEED, TUNING_SEED, Job
from danceopd_ext.reproduce.presets import Run, plan_run
from danceopd_ext.reproduce.pretrained import BASE, STYLE, Pretrained
from danceopd_ext.reproduce.runner import cost_of
from danceopd_ext.reproduce.summary import GAP, HEADLINES, with_worst
from danceopd_ext.reproduce.tables import Row, Table


@dataclass(frozen=True)
class Drawn:
    """A model that is drawn and scored: a row, with a seed if it is trained. `run`: makes its LoRA."""

    row: Row
    seed: int | None
    beta: float
    job: Job
    run: Run | None


@dataclass(frozen=True)
class Plan:
    """A table's models."""

    table: Table
    drawn: list[Drawn]

    @property
    def runs(self) -> list[Run]:
        return [one.run for one in self.drawn if one.run]


def training_seeds(table: Table, count: int) -> list[int]:
    """The tables' trainings count from 1; those that settings are chosen by from 0 downwards."""
    return list(range(0, -count, -1) if table.tuning else range(1, count + 1))


def drawing_seed(table: Table) -> int:
    """Of the noise of drawings, and of the choice of edits."""
    return TUNING_SEED if table.tuning else SEED


def plan_table(table: Table, budget: Budget, seeds: Iterable[int], pretrained: Pretrained, out: Path) -> Plan:
    """Return all models of a table; make the routes' data if it is missing."""
    drawn = []
    for row in table.rows:
        for seed in seeds if row.trained else (None,):
            run = plan_run(row, seed or 0, budget, pretrained, out) if row.teachers else None
            for beta in row.betas:
                drawn.append(Drawn(row, seed, beta, plan_job(row, run, beta, table, budget, pretrained, out), run))
    return Plan(table, drawn)


def plan_job(
    row: Row, run: Run | None, beta: float, table: Table, budget: Budget, pretrained: Pretrained, out: Path
) -> Job:
    """Return how a model is drawn. The result's name has a digest of all inputs: if they change, it is made again."""
    lora = str(run.lora) if run else None if row.pretrained in (BASE, STYLE) else str(pretrained.file(row.pretrained))
    job = Job(
        result="",
        pipeline=str(pretrained.pipeline),
        measures=table.measures,
        tested=budget.tested,
        steps=budget.rollout,
        seed=drawing_seed(table),
        guidance_scale=beta,
        lora=lora,
        checkpoint=str(pretrained.style) if row.pretrained == STYLE else None,
    )
    what = run.folder.name if run else f"{row.pretrained} {pretrained.digest(row.pretrained)} {pretrained.digest(BASE)}"
    decides = {**asdict(job), "pipeline": "", "lora": "", "checkpoint": "", "what": what}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    place = run.folder if run else out / "scores" / str(row.pretrained)
    return replace(job, result=str(place / f"scores-{digest}.json"))


def entries_of(plan: Plan) -> list[Entry]:
    """Return the raw numbers of a plan that was trained and scored, in the order of the table."""
    entries = with_worst([_entry(one) for one in plan.drawn])
    return with_gap(entries) if "style" in plan.table.measures else entries


def _entry(one: Drawn) -> Entry:
    scores = read_object(Path(one.job.result), "file of scores")["scores"]
    values = {f"{measure} {column}": value for measure, row in scores.items() for column, value in row.items()}
    cost = cost_of(one.run) if one.run else None
    return Entry(
        one.row.label,
        values,
        one.row.group,
        one.seed,
        one.row.alpha,
        one.beta,
        cost.forwards if cost else 0,
        cost.backwards if cost else 0,
        round(cost.seconds, 3) if cost else 0.0,
    )


def marks_of(plan: Plan) -> list[dict[str, np.ndarray]]:
    """Return the scores of all drawings, for each entry."""
    found = []
    for one in plan.drawn:
        with np.load(one.job.pictures) as arrays:
            found.append({measure: arrays[f"{measure}_marks"] for measure in plan.table.measures})
    return found


def with_gap(entries: list[Entry]) -> list[Entry]:
    """Adds how much of the gap between base (the first entry) and teacher (the second) is closed, as a fraction.

    Nothing is added if the teacher is not better than the base.
    """
    column = HEADLINES["style"]
    base, teacher = (entry.values[column] for entry in entries[:2])
    if teacher <= base:
        return entries
    return [replace(e, values={**e.values, GAP: (e.values[column] - base) / (teacher - base)}) for e in entries]


def pictures_of(plan: Plan) -> Mapping[str, Path]:
    """Return model -> the pictures of its first seed.

    Of the guidance scales at inference, only the smallest and the largest are shown; of rows that are one model, the
    first.
    """
    first: dict[str, Path] = {}
    for one in plan.drawn:
        if one.beta in (one.row.betas[0], one.row.betas[-1]):
            name = one.row.label if one.beta == 1 else f"{one.row.label}, beta {one.beta:g}"
            first.setdefault(name, one.job.pictures)
    found: dict[str, Path] = {}
    for name, place in first.items():
        if place not in found.values():
            found[name] = place
    return found
