"""Makes the demos' models from nothing on a CPU, and the tables of their scores.

    python scripts/demo_pretrain.py                     # everything, into outputs/demo_pretrain
    python scripts/demo_pretrain.py --stage teachers    # one stage; earlier ones are read from --out

The embedded demo: `vae`, `base`, two LoRA `teachers`, `evaluate`. With --edits the demo that edits too, whose VAE is
made of the first one's: `omni_vae`, the base in three stages (`omni_words`, `omni_able`, `omni_base`), a stage
`omni_NAME` for each LoRA teacher (hollow, checkered, edit, local_edit, global_edit), `omni_style` (a whole
checkpoint), `omni_evaluate`.

A stage that is already in --out is not made again unless it is named with --stage. A training of the second demo that
was stopped goes on where it was.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffusers import AutoencoderKL, ZImagePipeline

from danceopd_ext.demo import LORAS
from danceopd_ext.demo.pretrain.flow import encode_skills, train_flow
from danceopd_ext.demo.pretrain.omni_stages import Sizes, Stages
from danceopd_ext.demo.pretrain.omni_teachers import LORA_TEACHERS
from danceopd_ext.demo.pretrain.pipeline import build_pipeline, save_pipeline
from danceopd_ext.demo.pretrain.teachers import train_teacher, use_loras
from danceopd_ext.demo.pretrain.vae import train_vae
from danceopd_ext.demo.score import score
from danceopd_ext.demo.world import SKILLS

TEACHERS = tuple(LORAS)
STAGES = ("vae", "base", "teachers", "evaluate")
EDIT_STAGES = (
    "omni_vae",
    "omni_words",
    "omni_able",
    "omni_base",
    *(f"omni_{name}" for name in LORA_TEACHERS),
    "omni_style",
    "omni_evaluate",
)
MODELS: dict[str, dict[str, float]] = {
    "base": {},
    "teacher:hollow": {"hollow": 1.0},
    "teacher:checkered": {"checkered": 1.0},
    "merge_average": {"hollow": 0.5, "checkered": 0.5},
    "merge_sum": {"hollow": 1.0, "checkered": 1.0},
}


def make_vae(args: argparse.Namespace) -> None:
    vae = train_vae(args.vae_steps, seed=args.seed)
    vae.save_pretrained(args.out / "vae")


def make_base(args: argparse.Namespace) -> None:
    pipeline = build_pipeline(AutoencoderKL.from_pretrained(args.out / "vae"), seed=args.seed)
    owned = [name for name, skill in SKILLS.items() if skill.owner == "base"]

    def checkpoint(step: int) -> str:
        save_pipeline(pipeline, args.out / "unfinished_pipeline")
        return _line(score(pipeline, limit=48))

    examples = encode_skills(pipeline, owned)
    train_flow(pipeline.transformer, examples, args.base_steps, seed=args.seed, on_checkpoint=checkpoint)
    save_pipeline(pipeline, args.out / "pipeline")


def make_teachers(args: argparse.Namespace) -> None:
    for index, name in enumerate(TEACHERS):
        pipeline = _load_pipeline(args)
        train_teacher(
            pipeline,
            name,
            args.out / "loras" / f"{name}.safetensors",
            seed=args.seed + index + 1,
            steps=args.teacher_steps,
            learning_rate=args.teacher_learning_rate,
            on_checkpoint=lambda step, pipeline=pipeline: _line(score(pipeline, limit=48)),
        )


def evaluate(args: argparse.Namespace) -> None:
    pipeline = _load_pipeline(args)
    files = {name: args.out / "loras" / f"{name}.safetensors" for name in TEACHERS}
    table = {}
    for model, strengths in MODELS.items():
        use_loras(pipeline, files, strengths)
        rounds = [score(pipeline, seed=seed) for seed in range(args.seeds)]
        table[model] = {skill: sum(row[skill] for row in rounds) / len(rounds) for skill in SKILLS}
        print(f"{model:18} {_line(table[model])}", flush=True)
    counts = {name: len(skill.prompts("test")) * args.seeds for name, skill in SKILLS.items()}
    report = {"images": counts, "scores": table}
    (args.out / "scores.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"images per model:  {counts}")


def _load_pipeline(args: argparse.Namespace) -> ZImagePipeline:
    return ZImagePipeline.from_pretrained(args.out / "pipeline")


def _line(scores: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in scores.items())


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, *EDIT_STAGES, "all"), default="all")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo_pretrain"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; the shipped files were made with 1; 0 leaves the choice to PyTorch",
    )
    parser.add_argument("--seeds", type=int, default=4, help="pictures per test prompt in the evaluation")
    parser.add_argument("--vae_steps", type=int, default=4000)
    parser.add_argument("--base_steps", type=int, default=3000)
    parser.add_argument("--teacher_steps", type=int, default=500)
    parser.add_argument("--teacher_learning_rate", type=float, default=5e-4)
    parser.add_argument("--edits", action="store_true", help="with --stage all: the demo that edits, after its VAE")
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--omni_{field.name}", type=int, default=field.default)
    return parser.parse_args()


def stages_of(args: argparse.Namespace) -> dict[str, tuple[Callable[[], None], Path]]:
    """Stage -> what makes it, and a file that exists when it is made; in the order in which they need each other."""
    sizes = {field.name: getattr(args, f"omni_{field.name}") for field in dataclasses.fields(Sizes)}
    omni = Stages(args.out, args.seed, Sizes(**sizes))
    return {
        "vae": (partial(make_vae, args), args.out / "vae" / "config.json"),
        "base": (partial(make_base, args), args.out / "pipeline" / "model_index.json"),
        "teachers": (partial(make_teachers, args), args.out / "loras" / f"{TEACHERS[-1]}.safetensors"),
        "evaluate": (partial(evaluate, args), args.out / "scores.json"),
        "omni_vae": (omni.vae, args.out / "omni_vae" / "config.json"),
        "omni_words": (omni.words, args.out / "omni_words" / "model_index.json"),
        "omni_able": (omni.able, args.out / "omni_able" / "model_index.json"),
        "omni_base": (omni.base, args.out / "omni_pipeline" / "model_index.json"),
        **{f"omni_{name}": (partial(omni.teacher, name), omni.lora(name)) for name in LORA_TEACHERS},
        "omni_style": (omni.style, args.out / "omni_style" / "config.json"),
        "omni_evaluate": (omni.evaluate, args.out / "omni_scores.json"),
    }


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    stages = stages_of(args)
    wanted = ("vae", *EDIT_STAGES) if args.edits else STAGES
    for name, (make, product) in stages.items():
        due = name in wanted and (not product.exists() or name.endswith("evaluate"))
        if args.stage == name or (args.stage == "all" and due):
            started = time.monotonic()
            make()
            print(f"stage {name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
