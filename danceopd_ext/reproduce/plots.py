"""Plots a table: scores with their spread, their cost, and the guidance grid."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.reproduce.summary import HEADLINES, Line


def check_libraries() -> None:
    """Raise UserError if a package for plots or verdicts is missing, before anything is trained."""
    for name in ("matplotlib", "scipy"):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f'the tables need {name}. Install it: pip install -c scripts/constraints.txt -e ".[native,reproduce]"'
            )


def draw_plot(name: str, lines: Sequence[Line], measures: Sequence[str], file: Path) -> None:
    """Write the plot of a table as PNG."""
    from matplotlib.figure import Figure  # imported here: scores and claims need no plots

    if name == "guidance":
        figure = Figure((5.2 * len(measures), 4.2), layout="constrained")
        for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            _heat(figure, axes, lines, HEADLINES[measure])
    else:
        figure = Figure((11, 1.6 + 0.32 * len(lines)), layout="constrained")
        if any(line.group for line in lines):  # so many rows that names beside dots would cover each other
            _bars(figure.subplots(), lines, measures)
        else:
            bars, dots = figure.subplots(1, 2, width_ratios=(3, 2))
            _bars(bars, lines, measures)
            _costs(dots, lines, measures)
    with whole_file(file) as part, open(part, "wb") as handle:
        figure.savefig(handle, format="png", dpi=90, metadata={"Software": None})


def _bars(axes, lines: Sequence[Line], measures: Sequence[str]) -> None:
    """One bar for each model and average, the first model on top."""
    height = 0.8 / len(measures)
    for number, measure in enumerate(measures):
        stats = [line.scores[HEADLINES[measure]] for line in lines]
        places = [place + number * height for place in range(len(lines))]
        spread = [one.std or 0.0 for one in stats]
        axes.barh(places, [one.mean for one in stats], height, xerr=spread, label=HEADLINES[measure])
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(lines))], [line.label for line in lines])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("score, mean and standard deviation")
    axes.legend(fontsize="small", ncols=len(measures), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def _costs(axes, lines: Sequence[Line], measures: Sequence[str]) -> None:
    """Plot the score against its cost."""
    trained = sorted((line for line in lines if line.forwards.mean), key=lambda line: line.forwards.mean)
    for measure in measures:
        for place, line in enumerate(trained):
            score = line.scores[HEADLINES[measure]].mean
            axes.plot(line.forwards.mean, score, "o", color=f"C{list(measures).index(measure)}")
            if measure == measures[0]:  # below and above in turn: neighbours in cost do not cover each other
                axes.annotate(line.label, (line.forwards.mean, score), fontsize=7, xytext=(0, 6 if place % 2 else -12),
                              textcoords="offset points", ha="center")  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.08)
    axes.margins(x=0.25)
    axes.set_xlabel("forwards during training")


def _heat(figure, axes, lines: Sequence[Line], column: str) -> None:
    """The score for every pair of guidance scales."""
    labels = list(dict.fromkeys(line.label for line in lines))
    betas = list(dict.fromkeys(line.beta for line in lines))
    found = {(line.label, line.beta): line.scores[column].mean for line in lines}
    values = [[found.get((label, beta), float("nan")) for beta in betas] for label in labels]
    image = axes.imshow(values, vmin=0, vmax=1, aspect="auto")
    for row, some in enumerate(values):
        for place, value in enumerate(some):
            axes.text(place, row, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("guidance at inference (beta)")
    axes.set_title(column)
    figure.colorbar(image, ax=axes)
