"""Scores what a quantised base costs in the demo world: `scripts/quantised_scores.py FOLDER`.

The demo's base and teachers are scored on the base in each number format, by the quickstart's unseen prompts and edits.
With --students a student is trained on each, and scored on the base as it is. What FOLDER has already is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ZImageOmniPipeline

from danceopd_ext.demo import LORAS, PIPELINE
from danceopd_ext.demo.omni_draw import draw
from danceopd_ext.demo.report import SEED, use
from danceopd_ext.demo.report_tasks import OWNERS, tasks
from danceopd_ext.files import whole_file
from danceopd_ext.library_logging import silence_libraries
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.number_formats import NUMBER_FORMATS
from danceopd_ext.whole_numbers import positive

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "presets" / "quickstart.toml"
#: the base as it is, and in each number format
BASES = ("float32", *reversed(NUMBER_FORMATS))

#: skill -> score 0..1
Scores = dict[str, float]


def pipeline_on(base: str) -> ZImageOmniPipeline:
    """Return the demo's pipeline with its base in a number format, and its teachers as LoRAs on it."""
    pipeline = ZImageOmniPipeline.from_pretrained(PIPELINE, use_safetensors=True, trust_remote_code=False)
    if base != BASES[0]:
        pipeline.transformer = load_transformer(find_model_files(str(PIPELINE)), torch.float32, base)
    for name, file in LORAS.items():
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    return pipeline


def scores_of(pipeline: ZImageOmniPipeline, models: dict[str, dict[str, float]], own: bool) -> Scores:
    """Return the score of each skill: of the model that teaches it, or of the only one of `models`."""
    found = {}
    for skill, task in tasks().items():
        (model,) = (OWNERS[skill],) if own else models
        use(pipeline, models[model])
        found[skill] = float(np.mean(task.marks(draw(pipeline, task.encode(pipeline), seed=SEED))))
    return found


def teachers_on(base: str) -> Scores:
    """Return each skill's score of its own teacher on this base."""
    models = {"base": {}, **{f"teacher:{name}": {name: 1.0} for name in LORAS}}
    return scores_of(pipeline_on(base), models, own=True)


def student_of(base: str, folder: Path, steps: int | None) -> Scores:
    """Train a student on this base, unless it is there, and return its scores on the base as it is."""
    output = folder / f"student-{base}"
    if not (output / "fused.safetensors").is_file():
        words = ["--output_dir", str(output), *(["--max_train_steps", str(steps)] if steps else [])]
        words += ["--quantize", base] if base != BASES[0] else []
        command = [sys.executable, str(ROOT / "train_danceopd.py"), "--config", str(PRESET), *words]
        data = [sys.executable, "-m", "danceopd_ext.demo.quickstart_data"]  # the source images of the edits
        for part in (data, command):
            subprocess.run(part, cwd=ROOT, check=True)
    pipeline = pipeline_on(BASES[0])
    pipeline.load_lora_weights(str(output), weight_name="fused.safetensors", adapter_name="student")
    return scores_of(pipeline, {"student": {"student": 1.0}}, own=False)


def kept(file: Path, make) -> Scores:
    """Return the scores in the file; make and write them first if there is none."""
    if not file.is_file():
        scores = make()
        with whole_file(file) as part:
            part.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def table(columns: dict[str, Scores]) -> str:
    """Return the scores as Markdown: a line for each skill, their mean and the worst, a column for each base."""
    lines = ["| skill | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    rows = {skill: [scores[skill] for scores in columns.values()] for skill in next(iter(columns.values()))}
    rows["mean"] = [float(np.mean(list(scores.values()))) for scores in columns.values()]
    rows["worst"] = [min(scores.values()) for scores in columns.values()]
    return "\n".join([*lines, *(f"| {n} | " + " | ".join(f"{s:.3f}" for s in row) + " |" for n, row in rows.items())])


def main(argv: Sequence[str]) -> None:
    """Score what FOLDER lacks, and write its table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", action="store_true", help="also train a student on each base (10 minutes each)")
    parser.add_argument("--max_train_steps", type=positive, help="of the students (default: the quickstart's)")
    arguments = parser.parse_args(argv)
    silence_libraries()
    torch.set_num_threads(1)
    folder, parts = arguments.folder, []
    found = {base: kept(folder / f"teachers-{base}.json", lambda base=base: teachers_on(base)) for base in BASES}
    parts.append(f"Each skill's teacher, on the base in\n\n{table(found)}")
    if arguments.students:
        steps = arguments.max_train_steps
        found = {
            base: kept(folder / f"student-{base}.json", lambda base=base: student_of(base, folder, steps))
            for base in BASES
        }
        parts.append(f"A student trained on the base in this format, drawn on the base as it is\n\n{table(found)}")
    with whole_file(folder / "table.md") as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts))
