"""Runs the native trainer on a tiny SD3 once for each golden case and returns the losses of its steps.

The optimizer is plain SGD: its step is linear in the gradient, so that rounding, which differs between processors,
stays as small as it is in one step. Adam divides by the size of the gradient and would make it larger. With the kernels
for the oldest processors (ATEN_CPU_CAPABILITY=default) the losses differ from those of AVX-512 by 6e-7 at most.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from danceopd_ext.method import METHODS
from danceopd_ext.method.objectives import RULES
from danceopd_ext.toolkits.run import main
from tests.tiny.families.sd3 import sd3_transformer
from tests.tiny.loras import write_random_lora
from tests.tiny.pipelines import PIPELINES
from tests.tiny.presets import write_preset

STEPS = 20
FILE = Path(__file__).with_name("losses.json")

#: what every case has
KEYS = {
    "max_train_steps": STEPS,
    "optimizer_type": "torch.optim.SGD",
    "learning_rate": 0.1,
    "rollout_steps": 3,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "routes": {"one": 1.0, "two": 2.0},
}

#: case -> its keys; each method has a case of its own name, and the others vary what a preset can ask of a method
CASES: dict[str, dict] = {
    **{name: {"method": name} for name in METHODS},
    **{name: {"method": name, "query": "mid_noise"} for name in RULES},
    "flowopd": {"method": "flowopd", "flowopd_group_size": 2},
    "offpolicy_random_ends": {"method": "offpolicy", "pictures": False},
    "query_mid_noise": {"query": "mid_noise"},
    "query_high_noise": {"query": "high_noise"},
    "query_uniform": {"query": "uniform", "num_queries": 2},
    "query_stratified": {"query": "stratified", "num_queries": 2},
    "kl_two_queries": {"method": "kl", "query": "uniform", "num_queries": 2},
    "guidance": {"teacher_guidance": 1.2, "student_guidance_scale": 1.1},
    "soft_guidance": {"method": "soft", "teacher_guidance": 1.2},
    "small_batches": {"rollout_batch_size": 1, "match_batch_size": 1, "gradient_accumulation_steps": 2},
    "dropout": {"network_dropout": 0.2},
    "checkpoint": {"checkpoint": True},
    "start_of_merge": {"student_init": "merge_average"},
}


class World:
    """The models, teachers and data of all cases, in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        torch.manual_seed(0)
        self.model = save_model(folder / "sd3", seed=0)
        self.other = save_model(folder / "other", seed=1)
        self.loras = {
            name: write_random_lora(folder / f"{name}.safetensors", self.model, seed, size=1.4)
            for seed, name in enumerate(("one", "two"), start=1)
        }

    def losses(self, case: str) -> list[float]:
        """Run the case and return the loss of each step."""
        keys = {**KEYS, **CASES[case]}
        guidance, checkpoint = keys.pop("teacher_guidance", 1.0), keys.pop("checkpoint", False)
        teachers = {name: {"lora": str(file), "guidance_scale": guidance} for name, file in self.loras.items()}
        if checkpoint:
            teachers["two"] = {"checkpoint": str(self.other)}
        folder = self.folder / case
        folder.mkdir()
        prompts = {name: write_data(folder, name, level) for level, name in enumerate(teachers)}
        if not keys.pop("pictures", True):
            prompts = None
        preset = write_preset(folder, self.model, teachers, prompts=prompts, **keys)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        main(["--config", str(preset)])
        lines = (folder / "output" / "fused.log.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["loss"] for line in lines]


def save_model(folder: Path, seed: int) -> Path:
    """A tiny SD3 of one block: a forward takes a few milliseconds."""
    pipeline = PIPELINES["sd3"](seed)
    pipeline.register_modules(transformer=sd3_transformer(seed, layers=1))
    pipeline.save_pretrained(folder)
    return folder


def write_data(folder: Path, name: str, level: int) -> str:
    """A prompt file of a route with a picture for each prompt; return its path."""
    words = ("red cat", "blue river")[level]
    ramp = np.linspace(0, 255, 24 * 20 * 3).reshape(20, 24, 3)
    lines = ["prompt,target"]
    for number, pixels in enumerate((255 - ramp, ramp)):
        Image.fromarray((pixels * (0.4 + 0.6 * level)).astype(np.uint8)).save(folder / f"{name}{number}.png")
        lines.append(f"{words} {number},{name}{number}.png")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def read() -> dict[str, list[float]]:
    """Case -> the stored losses."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(losses: dict[str, list[float]]) -> None:
    """Store the losses, one case a line."""
    lines = [f"{json.dumps(case)}: [{', '.join(f'{loss:.9g}' for loss in found)}]" for case, found in losses.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
