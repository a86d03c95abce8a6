"""Lists the paper's claims as differences that a table can show, and computes the verdicts from the tables.

The paper's figures are GEditBench-EN averages (0 to 10), GenEval overall scores (0 to 1), and shares of a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from danceopd_ext.reproduce.stats import OPEN, Stat, combined, greater, margin, perfect, within
from danceopd_ext.reproduce.summary import WORST, Line
from danceopd_ext.reproduce.tables import DANCEOPD, OBJECTIVES

EDIT, T2I, STYLE = "edit average", "t2i overall", "style overall"
#: the largest difference of scores that count as about the same
BAND = 0.05
AT_THE_TOP = f"{OPEN}: no room above"
Part = tuple[float, str, str]


@dataclass(frozen=True)
class Claim:
    """One claim.

    `parts`: (factor, model, column), whose sum is above 0 according to the claim. With `same`, the claim is that the
    models' scores are less than `BAND` apart; factors do not count then.
    """

    table: str
    text: str
    paper: str
    parts: tuple[Part, ...]
    same: bool = False


@dataclass(frozen=True)
class Verdict:
    """A claim and its result: our figures in words, and the verdict."""

    claim: Claim
    ours: str
    verdict: str


def judge(claim: Claim, lines: Sequence[Line]) -> Verdict:
    """Return the verdict of a table's lines on a claim; not resolved if a model or column is missing."""
    found: dict[tuple[str, str], Stat] = {}
    for line in lines:
        columns: Mapping[str, Stat] = {**line.scores, "forwards": line.forwards}
        found |= {(line.name, column): one for column, one in columns.items()}
    keys = [(label, column) for _, label, column in claim.parts]
    missing = [label for label, column in keys if (label, column) not in found]
    if missing:
        return Verdict(claim, f"not run: {', '.join(dict.fromkeys(missing))}", OPEN)
    ours = "; ".join(f"{label}: {figure(found[label, column])}" for label, column in dict.fromkeys(keys))
    if claim.same:
        return Verdict(claim, ours, within({label: found[label, column] for label, column in keys}, BAND))
    parts = [(factor, found[label, column]) for factor, label, column in claim.parts]
    verdict = greater(parts)
    return Verdict(claim, ours, AT_THE_TOP if verdict == OPEN and nothing_above(parts) else verdict)


def nothing_above(parts: Sequence[tuple[float, Stat]]) -> bool:
    """Return whether the claim could not hold even if the better models had a score of 1."""
    if any(one.pictures is None for _, one in parts):
        return False
    best = [(factor, perfect(one) if factor > 0 else one) for factor, one in parts]
    half = margin(best)
    return half is not None and combined(best)[0] <= half


def figure(one: Stat) -> str:
    """Return a number with its spread, as short as possible."""
    text = f"{one.mean:,.0f}" if one.mean > 100 else f"{one.mean:.3f}"
    return text if one.std is None else f"{text} ± {one.std:.3g}"


def better(table: str, one: str, other: str, column: str, paper: str, than: str = "") -> Claim:
    """One model is better than another."""
    what = {EDIT: "edits", T2I: "draws from text"}[column]
    return Claim(table, f"{one} {what} better than {than or other}", paper, ((1.0, one, column), (-1.0, other, column)))


def _of_methods(table: str, ours: tuple[float, float], theirs: Mapping[str, tuple[float, float]]) -> list[Claim]:
    """DanceOPD against every row of a composition: (GEdit, GenEval)."""
    claims = []
    for column, place, digits in ((EDIT, 0, 3), (T2I, 1, 3)):
        for label, figures in theirs.items():
            if figures[place]:
                paper = f"{ours[place]:.{digits}f} against {figures[place]:.{digits}f}"
                claims.append(better(table, DANCEOPD, label, column, paper))
    return claims


COMPOSITION = _of_methods("composition", (5.347, 0.849), {
    "T2I source": (0.0, 0.832), "edit source": (4.930, 0.711), "joint training": (4.617, 0.808),
    "weight merge": (0.0, 0.836), "off-policy": (4.528, 0.818), "DiffusionOPD": (4.947, 0.833),
    "Flow-OPD": (4.854, 0.814),
})  # fmt: skip
COMPOSITION.append(
    Claim("composition", "the weight merge collapses: less than half of the edit source's score", "collapses against "
          "4.930", ((0.5, "edit source", EDIT), (-1.0, "weight merge", EDIT)))
)  # fmt: skip
LOCAL_GLOBAL = _of_methods("local-global", (5.498, 0.848), {
    "local source": (5.095, 0.793), "global source": (3.750, 0.808), "joint training": (4.546, 0.821),
    "weight merge": (4.715, 0.811), "off-policy": (4.736, 0.798), "DiffusionOPD": (4.661, 0.822),
    "Flow-OPD": (4.679, 0.827),
})  # fmt: skip


def _keeps(table: str, source: str, column: str) -> Claim:
    """DanceOPD keeps at least 0.95 of a source's score."""
    text = f"(ours) {DANCEOPD} keeps at least 0.95 of the {source}'s {column}"
    return Claim(table, text, "-", ((1.0, DANCEOPD, column), (-0.95, source, column)))


def _worst(table: str) -> list[Claim]:
    """DanceOPD's worst kind is better than that of what a creator would do otherwise."""
    others = ("weight merge", "weight merge, sum", "joint training", "off-policy")
    text = f"(ours) the worst kind of all is better with {DANCEOPD} than with"
    return [Claim(table, f"{text} {o}", "-", ((1.0, DANCEOPD, WORST), (-1.0, o, WORST))) for o in others]


COMPOSITION += [
    _keeps("composition", "edit source", EDIT),
    _keeps("composition", "T2I source", T2I),
    *_worst("composition"),
]
LOCAL_GLOBAL += [
    _keeps("local-global", "local source", "edit local average"),
    _keeps("local-global", "global source", "edit global average"),
    *(_keeps("local-global", source, T2I) for source in ("local source", "global source")),
    *_worst("local-global"),
]
ABSORPTION = [
    Claim("style", f"{DANCEOPD} closes more than 85.3 % of the gap between base and teacher", "85.3 % closed",
          ((1.0, DANCEOPD, STYLE), (-0.147, "base", STYLE), (-0.853, "style teacher", STYLE))),
]  # fmt: skip


def guidance_claims(scales: Sequence[float]) -> list[Claim]:
    """Absorbed guidance helps, one pass is as good as two, and guidance twice is too much."""
    plain, middle, most = (f"student of alpha {scales[place]:g}" for place in (0, len(scales) // 2, -1))
    chosen, twice = scales[len(scales) // 2], f"{most}, beta {scales[-1]:g}"
    return [
        better("guidance", middle, plain, EDIT, "best composition 5.833, against 5.751"),
        Claim("guidance", f"one pass behaves like two: {middle} edits as edit source, beta {chosen:g} (within {BAND})",
              "-", ((1.0, middle, EDIT), (1.0, f"edit source, beta {chosen:g}", EDIT)), same=True),
        *(
            Claim("guidance", f"strengths multiply: alpha {scale:g} edits as beta {scale:g} does (within {BAND})",
                  "about alpha * beta",
                  ((1.0, f"student of alpha {scale:g}", EDIT), (1.0, f"{plain}, beta {scale:g}", EDIT)), same=True)
            for scale in dict.fromkeys((chosen, scales[-1]))
        ),
        Claim("guidance", f"guided twice (alpha * beta = {scales[-1] ** 2:g}) edits worse than {middle}",
              "4.015 (alpha * beta = 49) against 5.833", ((1.0, middle, EDIT), (-1.0, twice, EDIT))),
    ]  # fmt: skip


def ablation_claims(queries: Sequence[int], rollouts: Sequence[int]) -> list[Claim]:
    """Return the claims of the ablations. `queries`: the K that were trained. `rollouts`: the rollout steps."""
    table = "ablations"
    claims = [better(table, "routing: hard", "routing: soft", EDIT, "5.751 against 4.994")]
    for query, paper in (("mid_noise", "4.649"), ("high_noise", "4.813")):
        claims.append(better(table, "query: low_noise", f"query: {query}", EDIT, f"5.751 against {paper}"))
    papers = {4: "5.330", 16: "5.127"}
    for count in queries[1:]:
        paper = f"5.751 against {papers[count]}" if count in papers else "-"
        claims.append(better(table, f"K: {queries[0]}", f"K: {count}", EDIT, paper))
    claims.append(
        Claim(table, f"the length of the rollout hardly matters (less than {BAND} apart)", "8 to 28 are practical",
              tuple((1.0, f"rollout steps: {steps}", EDIT) for steps in rollouts if steps >= 8 or len(rollouts) < 3),
              same=True)
    )  # fmt: skip
    claims += [
        better(table, "start: strongest teacher", "start: base", EDIT, "starting from the strongest weights helps"),
        better(table, "objective: plain MSE", "objective: every state by dt^2", EDIT, "plain MSE is best"),
        better(table, "objective: plain MSE", "objective: policy gradient", EDIT, "plain MSE is best"),
        *(better(table, "objective: plain MSE", f"objective: {o}", EDIT, "plain MSE is best") for o in OBJECTIVES),
        Claim(table, f"(ours) the early stop changes no score (less than {BAND} apart)", "-",
              ((1.0, "early stop: on", EDIT), (1.0, "early stop: off", EDIT)), same=True),
        Claim(table, "(ours) the early stop saves forwards", "-",
              ((1.0, "early stop: off", "forwards"), (-1.0, "early stop: on", "forwards"))),
    ]  # fmt: skip
    return claims
