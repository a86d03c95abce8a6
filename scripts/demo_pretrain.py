"""Makes the demo's models from nothing on a CPU, and the tables of their scores.

    python scripts/demo_pretrain.py                     # everything, into outputs/demo_pretrain
    python scripts/demo_pretrain.py --stage omni_edit   # one stage; earlier ones are read from --out

Stages: `vae` (of 32-pixel pictures), `omni_vae` (made of it, for 64), the base in three stages (`omni_words`,
`omni_able`, `omni_base`), a stage `omni_NAME` for each LoRA teacher (hollow, checkered, edit, local_edit,
global_edit), `omni_style` (a whole checkpoint), `omni_evaluate`. Embedded are the base and hollow, checkered and edit.

A stage that is already in --out is not made again unless it is named with --stage. A training that was stopped goes
on where it was.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.demo.pretrain.omni_stages import Sizes, Stages
from danceopd_ext.demo.pretrain.omni_teachers import LORA_TEACHERS
from danceopd_ext.demo.pretrain.vae import train_vae

STAGES = (
    "vae",
    "omni_vae",
    "omni_words",
    "omni_able",
    "omni_base",
    *(f"omni_{name}" for name in LORA_TEACHERS),
    "omni_style",
    "omni_evaluate",
)


def make_vae(args: argparse.Namespace) -> None:
    vae = train_vae(args.vae_steps, seed=args.seed)
    vae.save_pretrained(args.out / "vae")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo_pretrain"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; the shipped files were made with 1; 0 leaves the choice to PyTorch",
    )
    parser.add_argument("--vae_steps", type=int, default=4000)
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--omni_{field.name}", type=int, default=field.default)
    return parser.parse_args()


def stages_of(args: argparse.Namespace) -> dict[str, tuple[Callable[[], None], Path]]:
    """Stage -> what makes it, and a file that exists when it is made; in the order in which they need each other."""
    sizes = {field.name: getattr(args, f"omni_{field.name}") for field in dataclasses.fields(Sizes)}
    omni = Stages(args.out, args.seed, Sizes(**sizes))
    return {
        "vae": (partial(make_vae, args), args.out / "vae" / "config.json"),
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
    for name, (make, product) in stages.items():
        due = not product.exists() or name == "omni_evaluate"
        if args.stage == name or (args.stage == "all" and due):
            started = time.monotonic()
            make()
            print(f"stage {name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
