"""Tests the checks of `kinds` and `edits` on pictures that are right and on pictures that are nearly right.

Run as `python -m danceopd_ext.demo.check_report [--samples N] [--seed N] [--out FOLDER]`. Prints how many right
pictures are rejected (must be none) and how many near misses are accepted (must be none), and at which strength a
disturbance begins to be rejected; writes pictures with examples of every kind.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from danceopd_ext.demo.check_pictures import draw_edits, draw_kinds
from danceopd_ext.demo.disturbances import blended, blurred, half_edited, noisy, shifted, spotted, tinted
from danceopd_ext.demo.edit_check import score_edits
from danceopd_ext.demo.edits import EDIT_KINDS, Edit
from danceopd_ext.demo.kinds import Prompt, check_all, kinds
from danceopd_ext.demo.near_misses import other_changes, wrong_changes, wrong_scenes
from danceopd_ext.demo.scene import Scene
from danceopd_ext.demo.world import render
from danceopd_ext.files import whole_file
from danceopd_ext.ranges import SEED, Range
from danceopd_ext.whole_numbers import whole


class Trial(NamedTuple):
    """A picture to be judged; `name` says what is wrong with it."""

    asked: Prompt | Edit
    name: str
    picture: np.ndarray


@dataclass
class Tally:
    """Counts of one kind: right pictures and near misses, and which of them were judged wrongly."""

    truths: int = 0
    rejected: int = 0
    misses: dict[str, list[bool]] = field(default_factory=dict)
    """name -> for each near miss, whether it was accepted"""

    @property
    def accepted(self) -> int:
        return sum(map(sum, self.misses.values()))


def judge(trials: Sequence[Trial]) -> list[bool]:
    """Whether each picture passes: the prompt's check, or both scores of an edit are 1."""
    pictures = np.stack([trial.picture for trial in trials])
    asked = [trial.asked for trial in trials]
    if isinstance(asked[0], Prompt):
        return check_all(pictures, asked)
    return [score.exact for score in score_edits(asked, pictures)]


def prompt_trials(name: str, samples: int, seed: int) -> tuple[list[Trial], list[Trial]]:
    """Right pictures and near misses of a text-to-image kind, from prompts of both splits."""
    random = np.random.default_rng(seed)
    truths, misses = [], []
    for number in range(samples):
        prompt, scene = kinds()[name].sample(random, "test" if number % 2 else "train")
        truths += [Trial(prompt, "", render(prompt.scene(random, extras))) for extras in (0, 1, 2)]
        wrong = wrong_scenes(prompt, scene, random)
        misses += [Trial(prompt, what, render(miss)) for what, miss in wrong.items()]
        half = blended(render(scene), render(wrong["wrong shape"]), 0.5)
        misses += [Trial(prompt, "half way to the wrong shape", half), *_spoilt(prompt, scene, random)]
    return truths, misses


def edit_trials(name: str, samples: int, seed: int) -> tuple[list[Trial], list[Trial]]:
    """Right pictures and near misses of an edit kind, from edits of both splits."""
    random = np.random.default_rng(seed)
    truths, misses = [], []
    for edit in (e for split in ("train", "test") for e in EDIT_KINDS[name].sample_many(-(-samples // 2), split, seed)):
        truths += [Trial(edit, "", render(target)) for target in edit.targets]
        wrong = wrong_changes(edit, random) | other_changes(edit, random)
        misses += [Trial(edit, what, render(scene)) for what, scene in wrong.items()]
        half_way = blended(render(edit.target), render(edit.source), 0.5)
        misses += [Trial(edit, "half edited", half_edited(edit)), Trial(edit, "half way to the source", half_way)]
        misses += _spoilt(edit, edit.target, random)
    return truths, misses


def _spoilt(asked: Prompt | Edit, scene: Scene, random: np.random.Generator) -> Iterator[Trial]:
    picture = render(scene)
    for pixels in (1, 2):
        for right, down in ((pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)):
            moved = shifted(picture, right, down)
            if (moved != picture).any():  # an empty plain picture is the same wherever it is
                yield Trial(asked, f"shifted by {pixels} pixel{'s' * (pixels > 1)}", moved)
    yield Trial(asked, "near background", tinted(scene, 0.12))
    if scene.objects or scene.checkered:
        yield Trial(asked, "strong blur", blurred(picture, 1.5))
    yield Trial(asked, "a spot of 2 x 2 pixels", spotted(picture, 1.0, random))
    yield Trial(asked, "strong noise", noisy(picture, 0.12, random))


def tally(truths: Sequence[Trial], misses: Sequence[Trial]) -> Tally:
    """Judges all, and counts."""
    result = Tally(len(truths), judge(truths).count(False))
    for trial, accepted in zip(misses, judge(misses), strict=True):
        result.misses.setdefault(trial.name, []).append(accepted)
    return result


# ----------------------------------------------------------------------------- strength


LADDERS: dict[str, tuple[float, ...]] = {
    "noise (standard deviation)": (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08),
    "blur (pixels)": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0),
    "background nearer to grey": (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.1),
    "2 x 2 pixels to the other end": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0),
    "part of the way to a miss": (0.05, 0.1, 0.14, 0.16, 0.2, 0.3, 0.4, 0.5),
}
"""Disturbance -> its strengths, in units of the full range 0..1 where nothing else is said."""


def ladder(name: str, cases: Sequence[tuple[Prompt | Edit, Scene, Scene]], seed: int) -> list[float]:
    """The share of right pictures that are still accepted, per strength, for (asked, right scene, miss)."""
    random = np.random.default_rng(seed)
    disturb: dict[str, Callable[[Scene, Scene, float], np.ndarray]] = {
        "noise (standard deviation)": lambda scene, miss, strength: noisy(render(scene), strength, random),
        "blur (pixels)": lambda scene, miss, strength: blurred(render(scene), strength),
        "background nearer to grey": lambda scene, miss, strength: tinted(scene, strength),
        "2 x 2 pixels to the other end": lambda scene, miss, strength: spotted(render(scene), strength, random),
        "part of the way to a miss": lambda scene, miss, strength: blended(render(scene), render(miss), strength),
    }
    return [
        float(np.mean(judge([Trial(asked, "", disturb[name](right, miss, strength)) for asked, right, miss in cases])))
        for strength in LADDERS[name]
    ]


def prompt_cases(samples: int, seed: int) -> list[tuple[Prompt, Scene, Scene]]:
    """Return (prompt, right scene, wrong scene) for `samples` held-out prompts of each kind."""
    random = np.random.default_rng(seed)
    pairs = [kind.sample(random, "test") for kind in kinds().values() for _ in range(samples)]
    return [(prompt, scene, wrong_scenes(prompt, scene, random)["wrong shape"]) for prompt, scene in pairs]


def edit_cases(samples: int, seed: int) -> list[tuple[Edit, Scene, Scene]]:
    """Return (edit, its target, its source) for `samples` held-out edits of each kind."""
    edits = [edit for kind in EDIT_KINDS.values() for edit in kind.sample_many(samples, "test", seed)]
    return [(edit, edit.target, edit.source) for edit in edits]


CASES = (prompt_cases, edit_cases)

# ----------------------------------------------------------------------------- the report


def report(samples: int, seed: int) -> Iterator[str]:
    """The lines of the report, as they become known."""
    tallies: dict[str, Tally] = {}
    yield f"{'kind':22}{'right':>8}{'false rejects':>18}{'near misses':>13}{'false accepts':>18}"
    for names, trials in ((kinds(), prompt_trials), (EDIT_KINDS, edit_trials)):
        for name in names:
            counts = tallies[name] = tally(*trials(name, samples, seed))
            tried = sum(map(len, counts.misses.values()))
            rejects, accepts = rate(counts.rejected, counts.truths), rate(counts.accepted, tried)
            yield f"{name:22}{counts.truths:8}{rejects:>18}{tried:13}{accepts:>18}"
    yield from _by_miss(tallies.values())
    yield "\nshare of correct pictures that are still accepted, by strength of the disturbance (text to image / edits)"
    for name, strengths in LADDERS.items():
        yield f"{name:28}" + "".join(f"{strength:>12g}" for strength in strengths)
        shares = zip(*(ladder(name, cases(samples // 10 + 1, seed), seed) for cases in CASES), strict=True)
        yield " " * 28 + "".join(f"{f'{drawn:.2f}/{edited:.2f}':>12}" for drawn, edited in shares)


def rate(wrong: int, tried: int) -> str:
    """A count and the rate that it is.

    >>> rate(3, 200)
    '3 (1.50 %)'
    """
    return f"{wrong} ({100 * wrong / tried:.2f} %)"


def _by_miss(tallies: Iterable[Tally]) -> Iterator[str]:
    """A line per kind of near miss, over all kinds of tasks."""
    names: dict[str, list[bool]] = {}
    for counts in tallies:
        for name, marks in counts.misses.items():
            names.setdefault(name, []).extend(marks)
    yield f"\n{'near miss':34}{'tried':>8}{'false accepts':>18}"
    for name, marks in sorted(names.items()):
        yield f"{name:34}{len(marks):8}{rate(sum(marks), len(marks)):>18}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=whole(Range(minimum=1, maximum=100_000)), default=200, help="prompts or edits per kind"
    )
    parser.add_argument("--seed", type=whole(SEED), default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/world_check"), help="folder for the pictures")
    args = parser.parse_args(arguments)
    for line in report(args.samples, args.seed):
        print(line, flush=True)
    for name, picture in (("text_to_image.png", draw_kinds(args.seed)), ("edits.png", draw_edits(args.seed))):
        with whole_file(args.out / name) as part:
            picture.save(part, format="PNG")
        print(args.out / name)


if __name__ == "__main__":
    main()
