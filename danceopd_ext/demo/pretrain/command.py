"""Makes the demo's models from nothing on a CPU, and the tables of their scores.

    python scripts/demo_pretrain.py                     # everything, into outputs/demo_pretrain
    python scripts/demo_pretrain.py --stage edit        # one stage; earlier ones are read from --out

Stages: `vae_32` (of 32-pixel pictures), `vae` (made of it, for 64), the base in three stages (`words`, `able`,
`base`), one for each LoRA teacher (`hollow`, `checkered`, `edit`, `local_edit`, `global_edit`), `style` (a whole
checkpoint), `evaluate`. `pipeline/`, `loras/` and `style/` are what is embedded.

A stage that is already in --out is not made again unless it is named with --stage. A training that was stopped
continues where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from danceopd_ext.demo.pretrain.omni_stages import Sizes, Stages
from danceopd_ext.demo.pretrain.omni_teachers import LORA_TEACHERS
from danceopd_ext.ranges import SEED, STEPS, Range
from danceopd_ext.whole_numbers import whole

#: stage -> a file in --out that is there when it is made; in the order in which they need each other
STAGES = {
    "vae_32": "vae_32/config.json",
    "vae": "vae/config.json",
    "words": "words/model_index.json",
    "able": "able/model_index.json",
    "base": "pipeline/model_index.json",
    **{name: f"loras/{name}.safetensors" for name in LORA_TEACHERS},
    "style": "style/config.json",
    "evaluate": "scores.json",
}


#: steps of a stage, or how many of something are made
COUNT = Range(minimum=0, maximum=STEPS.maximum)


def flag(size: str) -> str:
    """The option of one of `Sizes`: most are steps of a stage."""
    return f"--{size}" if size in ("per_kind", "scored") else f"--{size}_steps"


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; argparse ends the program if it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo_pretrain"))
    parser.add_argument("--seed", type=whole(SEED), default=0)
    parser.add_argument(
        "--threads",
        type=whole(Range(minimum=0, maximum=1024)),
        default=1,
        help="CPU threads; the shipped files were made with 1; 0 leaves the choice to PyTorch",
    )
    for field in dataclasses.fields(Sizes):
        parser.add_argument(flag(field.name), dest=field.name, type=whole(COUNT), default=field.default)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Make the stages that are due, one after the other."""
    args = parse(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    sizes = {field.name: getattr(args, field.name) for field in dataclasses.fields(Sizes)}
    stages = Stages(args.out, args.seed, Sizes(**sizes))
    for name, product in STAGES.items():
        due = not (args.out / product).exists() or name == "evaluate"
        if args.stage == name or (args.stage == "all" and due):
            started = time.monotonic()
            stages.make(name)
            print(f"stage {name}: {time.monotonic() - started:.0f} s", flush=True)
