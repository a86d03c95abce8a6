r"""Draws a benchmark's prompts with one or several LoRAs, into the folders that the benchmark's own scorer reads.

    python scripts/evaluate.py geneval --prompts evaluation_metadata.jsonl --model Tongyi-MAI/Z-Image \
        --lora fused=output/fused.safetensors --lora merge=a.safetensors,b.safetensors@0.5 --out results
    python scripts/evaluate.py gedit --prompts GEdit-Bench/ --model black-forest-labs/FLUX.1-Kontext-dev ...

Then, with the benchmarks' own code: GenEval's `evaluate_images.py results/fused ...`, GEdit-Bench's scorer on
`results/`. An interrupted run continues where it stopped; a folder of pictures that were drawn with other weights,
settings or prompts is refused. With --clip it also writes CLIP scores and, for edits, how much of the source image was
kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from danceopd_ext import machine
from danceopd_ext.cli import run
from danceopd_ext.config.schema import PART_KEYS
from danceopd_ext.engine.devices import best_device
from danceopd_ext.engine.digests import lora_digest
from danceopd_ext.engine.model import find_model
from danceopd_ext.errors import TrainingError, UserError
from danceopd_ext.evaluation.conditions import JobConditions
from danceopd_ext.evaluation.folders import check_folders, model_contents, write_notes
from danceopd_ext.evaluation.jobs import LANGUAGES, Job, gedit_jobs, geneval_jobs
from danceopd_ext.evaluation.loras import BASE, CACHE, Parts, parse_loras, read_loras
from danceopd_ext.evaluation.painter import Drawing, Painter
from danceopd_ext.evaluation.report import draw_examples, markdown
from danceopd_ext.evaluation.scores import ClipScore, score_folder
from danceopd_ext.files import check_writable, whole_file
from danceopd_ext.library_logging import silence_libraries
from danceopd_ext.lora.metadata import stem
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.models.number_formats import NUMBER_FORMATS
from danceopd_ext.ranges import GUIDANCE, PIXELS, SEED, SOLVER_STEPS, Range
from danceopd_ext.whole_numbers import positive, whole

PRECISIONS = ("no", "fp16", "bf16")


def main(argv: Sequence[str]) -> None:
    """Draw, score and report. Raises UserError, before anything is written, and TrainingError."""
    arguments = parser().parse_args(argv)
    silence_libraries()
    try:
        evaluate(arguments)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "out of GPU memory: the model and its pictures do not fit. Close other programs that use the GPU, or "
            "use --mixed_precision bf16, a smaller --width and --height, or a smaller model."
        ) from error


def evaluate(arguments: argparse.Namespace) -> None:
    """Draw all pictures of a benchmark with all models.

    All input is checked before the first file is written, and as much as possible before the weights of a hub model are
    downloaded.
    """
    loras = parse_loras(arguments.lora)
    if not loras and arguments.no_base:
        raise UserError("there is no model to draw with: give --lora NAME=FILE, or remove --no_base.")
    out = Path(arguments.out)
    folders = {name: out / name for name in ([] if arguments.no_base else [BASE]) + list(loras)}
    for folder in (out, out / CACHE, *folders.values()):
        check_writable(folder, "--out")
    device = best_device()
    if arguments.mixed_precision == "fp16" and device.type == "cpu":
        raise UserError('--mixed_precision fp16 needs a GPU; without one use "no" or "bf16".')
    jobs = read_jobs(arguments)
    model = find_model(
        arguments.model,
        arguments.model_type,
        arguments.components_from,
        device=device,
        precision=arguments.mixed_precision,
        blocks_to_swap=arguments.blocks_to_swap,
        quantize=arguments.quantize,
        quantize_text_encoders=arguments.quantize_text_encoders,
        vae_tiling=arguments.vae_tiling,
        key="--model",
        parts={name: place for name in PART_KEYS if (place := getattr(arguments, name))},
    )
    read = read_loras(
        loras,
        model.layout,
        ignore_text_encoder=arguments.ignore_text_encoder,
        ignore_other_parts=arguments.ignore_other_parts,
    )
    for name, lora in read.items():
        for note in lora.notes:
            print(f"note: --lora {name}: {note}")
    drawing = drawing_of(arguments)
    Painter(model, read, drawing).check(jobs)
    settings = settings_of(arguments, model.files, drawing, loras, read, folders)
    check_folders(settings, jobs)
    clip = ClipScore(arguments.clip, device) if arguments.clip else None
    model = model.fetched()
    painter = Painter(model, read, drawing)
    settings = {folder: {**how, **model_contents(model.files)} for folder, how in settings.items()}
    check_folders(settings, jobs)
    conditions = JobConditions(model, jobs, painter.size, out / CACHE, guided=drawing.guidance_scale != 1)
    conditions.encode()
    write_notes(settings, jobs)
    drawn = painter.paint(jobs, folders, conditions)
    print(f"{drawn} pictures drawn; {sum(len(job.pictures) for job in jobs) * len(folders) - drawn} already existed")
    report(out, jobs, folders, clip)


def read_jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return what is drawn, from the benchmark's own prompt files. Raises UserError."""
    path = Path(arguments.prompts)
    if arguments.benchmark == "geneval":
        return geneval_jobs(path, arguments.samples, arguments.limit)
    return gedit_jobs(path, None if arguments.language == "all" else arguments.language, arguments.limit)


def drawing_of(arguments: argparse.Namespace) -> Drawing:
    """Return how pictures are drawn, from the flags of the same names."""
    return Drawing(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Drawing)})


def settings_of(
    arguments: argparse.Namespace,
    source: ModelFiles,
    drawing: Drawing,
    loras: Mapping[str, Parts],
    read: Mapping[str, Lora],
    folders: Mapping[str, Path],
) -> dict[Path, dict[str, object]]:
    """Return a model's folder -> how its pictures are drawn.

    This must be equal to keep a picture, as must `model_contents`, which is added later.
    """
    common = {
        "benchmark": arguments.benchmark,
        "model": source.name,
        "mixed_precision": arguments.mixed_precision,
        "quantize": arguments.quantize,
        "quantize_text_encoders": arguments.quantize_text_encoders,
        "vae_tiling": arguments.vae_tiling or None,
        **dataclasses.asdict(drawing),
    }
    return {
        folder: {
            **common,
            "lora": [[stem(place), strength] for place, strength in loras.get(name, ())],
            "lora_content": lora_digest(read[name]) if name in read else None,
        }
        for name, folder in folders.items()
    }


def report(out: Path, jobs: list[Job], folders: dict[str, Path], clip: ClipScore | None) -> None:
    """Write `grid.png`, and `scores.json` and `scores.md` if there is something to score; print the table."""
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


def parser() -> argparse.ArgumentParser:
    """Return the arguments. Every default is in the help; an option without one has none."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("benchmark", choices=("geneval", "gedit"))
    made.add_argument("--prompts", required=True, help="the benchmark's own prompt file (GEdit-Bench: also a folder)")
    made.add_argument("--model", required=True, help="hub id, diffusers folder or .safetensors file of the base model")
    made.add_argument("--model_type", help="model family, if it cannot be detected from the model")
    made.add_argument("--components_from", help="text encoders and VAE for a single file")
    for name in PART_KEYS:
        made.add_argument(f"--{name}", metavar="FILE", help=f"the model's {name}, as in a preset")
    made.add_argument("--lora", action="append", default=[], help="NAME=FILE[@strength][,FILE...]; may be repeated")
    made.add_argument("--ignore_text_encoder", action="store_true", help="use only the transformer's part of the LoRAs")
    made.add_argument(
        "--ignore_other_parts", action="store_true", help="leave out the LoRAs' changes to biases and norms"
    )
    made.add_argument("--no_base", action="store_true", help="do not draw with the base model alone")
    made.add_argument("--out", required=True, help="folder for the results")
    made.add_argument(
        "--samples",
        type=whole(Range(minimum=1, maximum=10_000, usual="GenEval has 4")),
        default=4,
        help="GenEval: pictures per prompt (default: %(default)s)",
    )
    of = "GEdit-Bench: of the instructions (default: %(default)s)"
    made.add_argument("--language", choices=(*LANGUAGES, "all"), default="en", help=of)
    made.add_argument("--limit", type=positive, help="only the first prompts (default: all)")
    for field in dataclasses.fields(Drawing):
        kind, text = DRAWING[field.name]
        shown = f"{text} (default: %(default)s)"
        made.add_argument(f"--{field.name}", type=kind, default=field.default, help=shown)
    precision = "bf16" if torch.cuda.is_available() else "no"
    shown = "precision of the computation; no means float32 (default: bf16 with a CUDA GPU, else no; here %(default)s)"
    made.add_argument("--mixed_precision", choices=PRECISIONS, default=precision, help=shown)
    made.add_argument(
        "--blocks_to_swap",
        type=whole(Range(minimum=0, maximum=1000)),
        default=0,
        help="transformer blocks whose weights stay in main memory and travel to the GPU (default: %(default)s)",
    )
    held = "hold the weights of the {} in 4 or 8 bits, which saves memory (default: in --mixed_precision)"
    made.add_argument("--quantize", choices=NUMBER_FORMATS, help=held.format("transformer"))
    same = "the same as --quantize fp8"
    made.add_argument("--fp8_base", dest="quantize", action="store_const", const="fp8", help=same)
    made.add_argument("--quantize_text_encoders", choices=NUMBER_FORMATS, help=held.format("text encoders"))
    tiles = "decode pictures in tiles of 512 pixels, with a quarter of the memory and small differences at their edges"
    made.add_argument("--vae_tiling", action="store_true", help=tiles)
    made.add_argument("--clip", help="hub id or folder of a CLIP model, such as openai/clip-vit-large-patch14")
    return made


def scale(text: str) -> float:
    """Return a guidance scale of 1 (none) or more. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not GUIDANCE.minimum <= number <= GUIDANCE.maximum:
        raise argparse.ArgumentTypeError(
            f"{text} is not a guidance scale: give a number from 1 (none) to {GUIDANCE.maximum}, such as 3.5."
        )
    return number


#: option of a Drawing -> its type and its help
DRAWING = {
    "width": (whole(PIXELS, 1024), "of the picture, in pixels; an edit keeps the proportions of its source image"),
    "height": (whole(PIXELS, 1024), "of the picture, in pixels; an edit has about width x height pixels"),
    "steps": (whole(SOLVER_STEPS, 28), "of the sampler"),
    "guidance_scale": (
        scale,
        "classifier-free guidance, which doubles the time; 1 means none. Give the scale that you draw with; for "
        "Z-Image its "
        "pipeline's number plus one (that pipeline counts one less); for FLUX.1 and FLUX.2 dev leave 1, because they "
        "always get their pipelines' own guidance",
    ),
    "seed": (whole(SEED, 42), "of the noise, which is the same for every model"),
}


if __name__ == "__main__":
    sys.exit(run(main))
