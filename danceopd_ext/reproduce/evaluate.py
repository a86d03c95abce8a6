"""Draws held-out prompts and edits with a model, scores them exactly, and keeps the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import ZImageOmniPipeline
from tqdm import tqdm

from danceopd_ext.demo.edit_check import score_edits
from danceopd_ext.demo.kinds import check_all
from danceopd_ext.demo.omni_draw import draw, encode_texts
from danceopd_ext.demo.omni_score import encode_asked, held_out_edits, held_out_prompts, outlined
from danceopd_ext.demo.pretrain.omni import load_omni
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.files import whole_file
from danceopd_ext.library_logging import silence_libraries
from danceopd_ext.reproduce.summary import MEASURES, averages_of

#: seed of the drawings' noise and the choice of edits in the tables; nothing was tuned on this choice
SEED = 20261123
#: the same for drawings that settings are chosen by
TUNING_SEED = 20260801
#: processes that Windows can wait for
MOST = 61


@dataclass(frozen=True)
class Job:
    """One model, drawn in one way. `result`: the JSON file; pictures and drawings' scores are in the same folder.

    `lora` or `checkpoint` (the folder of a transformer) or neither: the base.
    """

    result: str
    pipeline: str
    measures: tuple[str, ...]
    tested: int
    steps: int
    seed: int = SEED
    guidance_scale: float = 1.0
    lora: str | None = None
    checkpoint: str | None = None

    @property
    def pictures(self) -> Path:
        return Path(self.result).with_suffix(".npz")


def evaluate_missing(jobs: Sequence[Job], processes: int) -> int:
    """Do every job that has no result yet, and return how many there were."""
    todo = [job for job in {job.result: job for job in jobs}.values() if not Path(job.result).is_file()]
    bar = tqdm(total=len(todo), desc="scoring", unit="model")
    if processes < 2 or len(todo) < 2:
        for job in todo:
            evaluate(job)
            bar.update()
    else:
        with ProcessPoolExecutor(min(processes, len(todo), MOST), get_context("spawn")) as pool:
            for _ in pool.map(evaluate, todo):
                bar.update()
    bar.close()
    return len(todo)


def evaluate(job: Job) -> None:
    """Write the scores {measure: {column: 0..1}}; and one picture of each kind, and the scores of all, as .npz."""
    silence_libraries()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads do not help such a small model
    try:
        pipeline = load(job.pipeline, job.checkpoint)
        use_loras(pipeline, {"model": Path(job.lora)} if job.lora else {}, {"model": 1.0} if job.lora else {})
        parts = {name: measure(pipeline, name, job) for name in MEASURES if name in job.measures}
        use_loras(pipeline, {}, {})
    finally:
        torch.set_num_threads(threads)
    with whole_file(job.pictures) as part, open(part, "wb") as file:
        np.savez_compressed(file, **{name: array for one in parts.values() for name, array in one.arrays.items()})
    with whole_file(job.result) as part:
        report = {"job": asdict(job), "scores": {name: one.row for name, one in parts.items()}}
        part.write_text(json.dumps(report, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Measured:
    """Scores by column, and arrays.

    The arrays are what the grid shows, uint8 [kinds, 32, 32, 3]; whether each of these is right; and the score of every
    drawing, float32 [kinds, drawings per kind].
    """

    row: dict[str, float]
    arrays: dict[str, np.ndarray]


def measure(pipeline: ZImageOmniPipeline, name: str, job: Job) -> Measured:
    """Draw and score one of `MEASURES`."""
    options = {"seed": job.seed, "steps": job.steps, "guidance_scale": job.guidance_scale}
    pictures = draw(pipeline, conditions(job.pipeline, name, job.tested, job.seed), **options)
    if name == "edit":
        scores = score_edits(held_out_edits(job.tested, job.seed), pictures)
        marks, right = [one.overall for one in scores], [one.exact for one in scores]
    else:
        prompts = held_out_prompts(job.tested)
        if name == "style":
            prompts = [outlined(prompt) for prompt in prompts]
        marks = right = check_all(pictures, prompts)
    by_kind = np.array(marks, float).reshape(-1, job.tested)
    kinds = dict(zip(MEASURES[name].kinds, by_kind.mean(axis=1).tolist(), strict=True))
    first = slice(None, None, job.tested)
    arrays = {"pictures": pictures[first], "right": np.array(right)[first], "marks": by_kind.astype(np.float32)}
    row = {**kinds, **averages_of(name, kinds)}
    return Measured(row, {f"{name}_{what}": array for what, array in arrays.items()})


@lru_cache(maxsize=2)
def load(pipeline: str, checkpoint: str | None) -> ZImageOmniPipeline:
    """Return the pipeline, with another transformer if one is given."""
    found = load_omni(pipeline)
    if checkpoint:
        found.transformer = type(found.transformer).from_pretrained(
            checkpoint, local_files_only=True, use_safetensors=True
        )
    return found


@lru_cache(maxsize=8)
def conditions(pipeline: str, name: str, tested: int, seed: int) -> list:
    """Return the conditions for all models, encoded once."""
    encoder = load(pipeline, None)
    if name == "edit":
        return encode_asked(encoder, held_out_edits(tested, seed))
    return encode_texts(encoder, [prompt.caption for prompt in held_out_prompts(tested)])
