"""Draw a benchmark's prompts with one or several LoRAs, where the benchmark's own scorer looks for the pictures.

    python scripts/evaluate.py geneval --prompts evaluation_metadata.jsonl --model Tongyi-MAI/Z-Image \\
        --lora fused=output/fused.safetensors --lora merge=a.safetensors,b.safetensors@0.5 --out results
    python scripts/evaluate.py gedit --prompts GEdit-Bench/ --model black-forest-labs/FLUX.1-Kontext-dev ...

Then, with the benchmarks' own code: GenEval's `evaluate_images.py results/fused ...`, GEdit-Bench's scorer on
`results/`. A run that was cut off goes on where it stopped. With --clip it also writes CLIP scores, and for edits what
share of the source stayed as it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from danceopd_ext import machine
from danceopd_ext.cli import run
from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.jobs import LANGUAGES, Job, gedit_jobs, geneval_jobs
from danceopd_ext.evaluation.painter import BASE, Drawing, Painter
from danceopd_ext.evaluation.report import check_settings, draw_examples, markdown
from danceopd_ext.evaluation.scores import ClipScore, score_folder
from danceopd_ext.files import whole_file
from danceopd_ext.models.loading import find_source
from danceopd_ext.quiet import quieten
from danceopd_ext.toolkits.native.processes import has_accelerator

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main(argv: Sequence[str]) -> None:
    """Draw, score and report. Raises UserError."""
    arguments = parser().parse_args(argv)
    quieten()
    path = Path(arguments.prompts)
    if arguments.benchmark == "geneval":
        jobs = geneval_jobs(path, arguments.samples)
    else:
        jobs = gedit_jobs(path, None if arguments.language == "all" else arguments.language)
    jobs = jobs[: arguments.limit]
    drawing = Drawing(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Drawing)})
    loras = dict(parse_lora(text) for text in arguments.lora)
    if not loras and arguments.no_base:
        raise UserError("nothing to draw with: give --lora NAME=FILE, or leave --no_base out.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.mixed_precision == "fp16" and not has_accelerator():
        raise UserError('--mixed_precision fp16 needs a GPU; without one use "no" or "bf16".')
    source = find_source(arguments.model, arguments.model_type, arguments.components_from)
    out = Path(arguments.out)
    painter = Painter(source, loras, drawing, out / "cache", device, DTYPES[arguments.mixed_precision])
    painter.check(jobs)
    clip = ClipScore(arguments.clip, device) if arguments.clip else None
    names = ([] if arguments.no_base else [BASE]) + list(loras)
    check_settings(out, arguments.benchmark, source.name, drawing, loras, names)
    painter.encode(jobs)
    folders = {name: out / name for name in names}
    drawn = painter.paint(jobs, folders)
    print(f"{drawn} pictures drawn; {sum(len(job.pictures) for job in jobs) * len(names) - drawn} were there already")
    report(out, jobs, folders, clip)


def report(out: Path, jobs: list[Job], folders: dict[str, Path], clip: ClipScore | None) -> None:
    """Write `grid.png`, and `scores.json` and `scores.md` where there is something to score; print the table."""
    draw_examples(jobs, folders, out / "grid.png")
    print(f"side by side: {out / 'grid.png'}")
    if not clip and jobs[0].source is None:
        return
    scores = {name: score_folder(folder, jobs, clip) for name, folder in folders.items()}
    table = markdown(scores)
    with whole_file(out / "scores.json") as part:
        part.write_text(json.dumps({"scores": scores, "versions": machine.versions()}, indent=2), encoding="utf-8")
    with whole_file(out / "scores.md") as part:
        part.write_text(table, encoding="utf-8")
    print(table, end="")


def parse_lora(text: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """`NAME=FILE[@strength][,FILE[@strength]...]`. Raises UserError."""
    name, _, files = text.partition("=")
    if not files or not name or name == BASE or any(mark in name for mark in '/\\:*?"<>|.'):
        raise UserError(f"--lora {text}: write NAME=FILE.safetensors, NAME a plain word other than {BASE}.")
    parts = []
    for file in files.split(","):
        place, _, strength = file.rpartition("@")
        try:
            parts.append((place, float(strength)) if place else (file, 1.0))
        except ValueError:
            parts.append((file, 1.0))  # an @ in the name
    return name, tuple(parts)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("benchmark", choices=("geneval", "gedit"))
    made.add_argument("--prompts", required=True, help="the benchmark's own prompt file (GEdit-Bench: also a folder)")
    made.add_argument("--model", required=True, help="hub id, diffusers folder or .safetensors file of the base model")
    made.add_argument("--model_type", help="model family, where it cannot be seen from the model")
    made.add_argument("--components_from", help="text encoders and VAE for a single file")
    made.add_argument("--lora", action="append", default=[], help="NAME=FILE[@strength][,FILE...]; may be repeated")
    made.add_argument("--no_base", action="store_true", help="do not draw with the base alone")
    made.add_argument("--out", required=True, help="folder of the results")
    made.add_argument("--samples", type=positive, default=4, help="GenEval: pictures a prompt")
    made.add_argument("--language", choices=(*LANGUAGES, "all"), default="en", help="GEdit-Bench: of the instructions")
    made.add_argument("--limit", type=positive, help="only the first prompts")
    for field in dataclasses.fields(Drawing):
        made.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    made.add_argument("--mixed_precision", choices=tuple(DTYPES), default="bf16" if torch.cuda.is_available() else "no")
    made.add_argument("--clip", help="hub id or folder of a CLIP model, such as openai/clip-vit-large-patch14")
    return made


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(run(main))
