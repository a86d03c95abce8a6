"""Defines every table of the reproduction as data: its rows, and what each row trains.

The rows of a table differ only in what is defined here: data, student, optimizer, steps and samples of a
step are the same (see `presets`), and the learning rate but for `TUNED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from danceopd_ext.reproduce.budgets import Budget
from danceopd_ext.reproduce.pretrained import BASE, STYLE

#: a teacher's settings, with names of pretrained models for files
Teacher = Mapping[str, object]
DANCEOPD = "DanceOPD"


@dataclass(frozen=True)
class Row:
    """One line of a table: a pretrained model, or the result of a run."""

    label: str
    pretrained: str | None = None
    """the base, a LoRA on it, or a whole checkpoint; nothing is trained"""
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    """route -> its teacher; a run where there are any"""
    keys: Mapping[str, object] = field(default_factory=dict)
    """keys of the preset that are this row's own"""
    start: str | None = None
    """the LoRA that the student starts from"""
    full_rollout: bool = False
    """roll out to the end, as if there were no early stop"""
    group: str = ""
    """the ablation that the row belongs to"""
    alpha: float | None = None
    betas: tuple[float, ...] = (1.0,)
    """guidance scales at inference that the row is drawn with"""

    @property
    def trained(self) -> bool:
        """Whether the seed of a training is in the row."""
        return bool(self.teachers) and not str(self.keys.get("method", "")).startswith("merge_")


@dataclass(frozen=True)
class Table:
    """One table. `measures`: of "edit", "t2i" and "style", which it scores. `paper`: where the paper has it."""

    title: str
    paper: str
    measures: tuple[str, ...]
    rows: tuple[Row, ...]
    tuning: bool = False
    """settings are chosen by it, so its trainings and drawings are no other table's"""

    @property
    def needed(self) -> list[str]:
        """Return the names of the pretrained models other than the base."""
        found = [row.pretrained for row in self.rows] + [row.start for row in self.rows]
        for row in self.rows:
            found += [teacher.get("lora") or teacher.get("checkpoint") for teacher in row.teachers.values()]
        return list(dict.fromkeys(str(name) for name in found if name and name != BASE))


T2I_EDIT: dict[str, Teacher] = {"t2i": {}, "edit": {"lora": "edit"}}
LOCAL_GLOBAL: dict[str, Teacher] = {"local": {"lora": "local_edit"}, "global": {"lora": "global_edit"}}
ABSORB: dict[str, Teacher] = {"style": {"checkpoint": STYLE}}
OBJECTIVES = {
    "weighted by noise level": "timestep",
    "weighted as KL": "kl",
    "score distillation": "sds",
    "distribution matching": "dmd",
    "consistency": "consistency",
}
#: settings that are not those of all runs (see `presets`): each was the method's best of four in the table `tuning`;
#: DiffusionOPD and Flow-OPD, which take long, were not tried
TUNED: dict[str, Mapping[str, object]] = {
    "joint training": {"learning_rate": 3e-3},
    "off-policy": {"learning_rate": 3e-3},
}
LEARNERS = {
    "joint training": "joint",
    "off-policy": "offpolicy",
    "DiffusionOPD": "diffusionopd",
    "Flow-OPD": "flowopd",
    DANCEOPD: "danceopd",
}


def methods(teachers: Mapping[str, Teacher], merge: bool = True) -> tuple[Row, ...]:
    """Every method of the paper on the same routes; the merge has nothing to train."""
    merges = {"weight merge": "merge_average", "weight merge, sum": "merge_sum"} if merge else {}
    trained = [Row(label, teachers=teachers, keys=own_keys(label)) for label in LEARNERS]
    return (
        trained[0],
        *(Row(label, teachers=teachers, keys={"method": method}) for label, method in merges.items()),
        *trained[1:],
    )


def own_keys(label: str) -> dict[str, object]:
    """The keys of a method, with what was chosen for it by `tuning`."""
    return {"method": LEARNERS[label], **TUNED.get(label, {})}


def tuning(budget: Budget) -> Table:
    """The same few settings of the optimizer for every method."""
    rows = [
        Row(
            f"{label}: rate {rate:g}, beta2 {beta:g}",
            teachers=T2I_EDIT,
            keys={"method": method, "learning_rate": rate, "optimizer_args": [f"betas=0.9,{beta:g}"]},
            group=label,
        )
        for label, method in LEARNERS.items()
        for rate in (3e-3, 6e-3)
        for beta in (0.999, 0.98)
    ]
    return Table("Settings that were tried", "composition, T2I + Edit", ("edit", "t2i"), tuple(rows), tuning=True)


def composition(budget: Budget) -> Table:
    """Methods that join text-to-image with editing."""
    rows = (Row("T2I source", BASE), Row("edit source", "edit"), *methods(T2I_EDIT))
    return Table("Text to image and editing", "composition, T2I + Edit", ("edit", "t2i"), rows)


def local_global(budget: Budget) -> Table:
    """Methods that join local with global editing."""
    rows = (Row("local source", "local_edit"), Row("global source", "global_edit"), *methods(LOCAL_GLOBAL))
    return Table("Local and global editing", "composition, Local + Global edit", ("edit", "t2i"), rows)


def style(budget: Budget) -> Table:
    """Methods that absorb the style of a checkpoint."""
    rows = (Row("base", BASE), Row("style teacher", STYLE), *methods(ABSORB, merge=False))
    return Table("Absorbing a style from a whole checkpoint", "realism absorption", ("style",), rows)


def guidance(budget: Budget) -> Table:
    """Students of teachers with guidance alpha, each drawn with guidance beta."""
    rows = [Row("edit source", "edit", betas=budget.scales)]
    for alpha in budget.scales:
        own = {"guidance_scale": alpha} if alpha != 1 else {}
        guided: dict[str, Teacher] = {name: {**one, **own} for name, one in T2I_EDIT.items()}
        rows.append(Row(f"student of alpha {alpha:g}", teachers=guided, alpha=alpha, betas=budget.scales))
    return Table("Guidance: in the teacher and at inference", "CFG absorption", ("edit", "t2i"), tuple(rows))


def longest_rollout(budget: Budget) -> int:
    """Solver steps of the rows that compare K: as many as the greatest."""
    return max(budget.rollout, *budget.queries)


def ablations(budget: Budget) -> Table:
    """One change of the method at a time: routing, query, K, rollout steps, start."""
    longest = longest_rollout(budget)

    def row(group: str, label: str, start: str | None = None, full: bool = False, **keys: object) -> Row:
        return Row(f"{group}: {label}", teachers=T2I_EDIT, keys=keys, start=start, full_rollout=full, group=group)

    rows = [row("routing", "hard"), row("routing", "soft", method="soft")]
    for query in ("low_noise", "mid_noise", "high_noise", "uniform"):
        rows.append(row("query", query, query=query))
    rows += [row("K", str(count), num_queries=count, rollout_steps=longest) for count in budget.queries]
    rows += [row("rollout steps", str(steps), rollout_steps=steps) for steps in budget.rollouts]
    rows += [
        row("start", "base"),
        row("start", "merge", student_init="merge_average"),
        row("start", "strongest teacher", start="edit"),
        row("objective", "plain MSE"),
        row("objective", "every state by dt^2", method="diffusionopd"),
        row("objective", "policy gradient", method="flowopd"),
        *(row("objective", label, method=method) for label, method in OBJECTIVES.items()),
        row("early stop", "on"),
        row("early stop", "off", full=True),
    ]
    return Table("Ablations, on text to image and editing", "ablations", ("edit", "t2i"), tuple(rows))


TABLES = {
    "composition": composition,
    "local-global": local_global,
    "style": style,
    "guidance": guidance,
    "ablations": ablations,
    "tuning": tuning,
}
"""Table -> what it consists of at a budget."""
