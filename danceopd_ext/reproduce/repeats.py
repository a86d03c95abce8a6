"""Draws each edit with other noise, to see how many of a model's errors are chance: `scripts/reproduce.py repeats`.

A model that learns from many pictures of a teacher can be better than the teacher if its errors are occasional and
different in each picture. So the median of a teacher's drawings of an edit is scored as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from danceopd_ext.demo.edit_check import score_edits
from danceopd_ext.demo.edits import EDIT_KINDS, Edit
from danceopd_ext.demo.omni_draw import draw
from danceopd_ext.demo.omni_score import encode_asked, held_out_edits
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.errors import UserError
from danceopd_ext.library_logging import silence_libraries
from danceopd_ext.ranges import SOLVER_STEPS
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.evaluate import SEED, load
from danceopd_ext.reproduce.pretrained import find_pretrained
from danceopd_ext.whole_numbers import positive, whole

TEACHER = "edit"
COLUMNS = ("one drawing", "median of them", "always right", "now and then", "never right")


@dataclass(frozen=True)
class Repeats:
    """Mean scores 0..1 and shares of the edits.

    Scores are of single drawings and of each edit's median picture; shares, of the edits that all, some or none of
    their drawings do exactly.
    """

    single: float
    median: float
    always: float
    sometimes: float
    never: float


def repeats_of(edits: Sequence[Edit], pictures: np.ndarray) -> Repeats:
    """Scores of drawings with other noise: uint8 [noises, edits, 32, 32, 3]."""
    scores = [score_edits(edits, one) for one in pictures]
    exact = np.array([[score.exact for score in one] for one in scores])
    middle = np.median(pictures, axis=0).round().astype(np.uint8)
    always, never = exact.all(axis=0), ~exact.any(axis=0)
    return Repeats(
        single=float(np.mean([[score.overall for score in one] for one in scores])),
        median=float(np.mean([score.overall for score in score_edits(edits, middle)])),
        always=float(always.mean()),
        sometimes=float((~always & ~never).mean()),
        never=float(never.mean()),
    )


def chosen_edits(split: str, per_kind: int) -> list[Edit]:
    """The first edits of each kind that the tables' models are tested on ("test") or trained on ("train")."""
    if split == "test":
        return held_out_edits(per_kind, SEED)
    examples = BUDGETS["full"].examples
    if per_kind > examples:
        raise UserError(f"--edits {per_kind}: only {examples} training examples of each kind exist.")
    return [edit for kind in EDIT_KINDS.values() for edit in kind.sample_many(examples, "train", 0)[:per_kind]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; argparse ends the program if it is wrong."""
    parser = argparse.ArgumentParser(prog="scripts/reproduce.py repeats", description=__doc__)
    parser.add_argument(
        "--lora", nargs="+", default=[], metavar="NAME=FILE", help="models to compare with the edit teacher"
    )
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="the edits that are drawn (default: test)"
    )
    parser.add_argument("--edits", type=positive, default=128, help="edits of each kind (default: 128)")
    parser.add_argument("--noises", type=positive, default=5, help="drawings per edit (default: 5)")
    parser.add_argument(
        "--steps", type=whole(SOLVER_STEPS), default=BUDGETS["full"].rollout, help="solver steps per drawing"
    )
    parser.add_argument("--sources", type=Path, help="folder of the base and the teachers")
    return parser.parse_args(argv)


def models_of(texts: Sequence[str]) -> dict[str, Path]:
    """Return name -> file. Raises UserError if a file is missing."""
    found = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not Path(file).is_file():
            raise UserError(f"--lora {text}: write NAME=FILE, where FILE is an existing .safetensors file.")
        found[name] = Path(file)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table. Raises UserError."""
    args = parse(argv)
    pretrained = find_pretrained(args.sources, [TEACHER])
    models = {"edit source": pretrained.file(TEACHER), **models_of(args.lora)}
    edits = chosen_edits(args.split, args.edits)
    silence_libraries()
    pipeline = load(str(pretrained.pipeline), None)
    items = encode_asked(pipeline, edits)
    print(f"{len(edits)} edits ({args.split}), {args.noises} drawings of each, {args.steps} solver steps\n")
    print("| model | " + " | ".join(COLUMNS) + " |\n|---" + "|---" * len(COLUMNS) + "|")
    for name, file in models.items():
        use_loras(pipeline, {"model": file}, {"model": 1.0})
        found = [draw(pipeline, items, seed=SEED + 1 + noise, steps=args.steps) for noise in range(args.noises)]
        row = repeats_of(edits, np.stack(found))
        numbers = (row.single, row.median, row.always, row.sometimes, row.never)
        print(f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |", flush=True)
    use_loras(pipeline, {}, {})
