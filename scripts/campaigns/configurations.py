"""The runs that are interrupted: every kind of method, teacher, optimizer, precision, data and preview, all tiny."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny.edit_world import make_sources_small, write_edits
from tests.tiny.loras import write_random_lora
from tests.tiny.pipelines import save_any, save_listening
from tests.tiny.presets import write_preset

STEPS = 6
KEYS = {
    "max_train_steps": STEPS,
    "save_every_n_steps": 2,
    "save_state": True,
    "rollout_steps": 2,
    "gradient_accumulation_steps": 1,
}
METHODS = ("joint", "offpolicy", "diffusionopd", "flowopd", "soft", "timestep", "kl", "sds", "dmd", "consistency")
#: optimizer_type -> the package that it needs
OPTIMIZERS = {
    "Adafactor": "",
    "SGDNesterov": "",
    "Prodigy": "prodigyopt",
    "AdamWScheduleFree": "schedulefree",
    "Lion": "lion_pytorch",
    "AdamW8bit": "bitsandbytes",
}
EDITORS = ("flux_kontext", "qwen_image_edit", "z_image_omni")


@dataclass(frozen=True)
class Configuration:
    """keys: of the preset. processes: how many train."""

    name: str
    keys: dict[str, Any]
    family: str = "sd3"
    teachers: dict[str, dict] | None = None
    processes: int = 1


class World:
    """Tiny models, LoRAs and data in a folder; `preset` writes a preset of a configuration."""

    def __init__(self, folder: Path):
        make_sources_small(pytest.MonkeyPatch())
        self.folder = folder
        self.models = {family: save_any(family, folder / family) for family in ("sd3", "z_image")}
        self.models |= {family: save_listening(family, folder / family) for family in EDITORS}
        self.tuned = save_any("sd3", folder / "tuned", seed=1)
        self.pictures = write_pictures(folder)
        self.samples = write_samples(folder)

    def two_loras(self, family: str) -> dict[str, dict]:
        files = {name: self.folder / f"{family}_{name}.safetensors" for name in ("one", "two")}
        for seed, file in enumerate(files.values()):
            if not file.exists():
                write_random_lora(file, self.models[family], seed, size=0.15)
        return {name: {"lora": str(file)} for name, file in files.items()}

    def preset(self, folder: Path, configuration: Configuration) -> Path:
        family = configuration.family
        keys, teachers = {**KEYS, **configuration.keys}, configuration.teachers or self.two_loras(family)
        if family in EDITORS:
            edits = (("one", "red cat"), ("two", "blue river"))
            keys["prompts"] = {name: write_edits(self.folder / family, name, words) for name, words in edits}
        return write_preset(folder, self.models[family], teachers, **keys)

    def configurations(self) -> list[Configuration]:
        """All that there are, in a fixed order."""
        return [
            Configuration("AdamW", {"optimizer_type": "AdamW"}),
            Configuration("accumulation, dropout", {"gradient_accumulation_steps": 3, "network_dropout": 0.2}),
            Configuration("bf16", {"mixed_precision": "bf16", "save_precision": "bf16"}),
            Configuration("gradient checkpointing", {"gradient_checkpointing": True}),
            Configuration("cosine, warm-up", {"lr_scheduler": "cosine", "lr_warmup_steps": 3}),
            Configuration("restarts", {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2}),
            Configuration("previews", {**self.drawn(), "sample_at_first": True}),
            Configuration("previews, Z-Image", self.drawn(), "z_image"),
            Configuration("keeps the last steps", {"save_every_n_steps": 1, "save_last_n_steps": 2}),
            Configuration("TensorBoard", {"log_with": "tensorboard"}),
            *self.of_optimizers(),
            *self.of_methods(),
            *self.of_teachers(),
            *(Configuration(f"edits, {family}", {}, family) for family in EDITORS),
            Configuration("two processes", {}, processes=2),
        ]

    def drawn(self) -> dict[str, Any]:
        return {"sample_prompts": self.samples, "sample_every_n_steps": 2}

    def of_optimizers(self) -> list[Configuration]:
        found = [name for name, package in OPTIMIZERS.items() if not package or importlib.util.find_spec(package)]
        rates = {"Prodigy": 1.0}
        return [Configuration(name, {"optimizer_type": name, "learning_rate": rates.get(name, 1e-2)}) for name in found]

    def of_methods(self) -> list[Configuration]:
        small = {"flowopd": {"flowopd_group_size": 2}}
        pictures = {"joint": {"prompts": self.pictures}, "offpolicy": {"prompts": self.pictures}}
        return [
            Configuration(name, {"method": name, **small.get(name, {}), **pictures.get(name, {})}) for name in METHODS
        ]

    def of_teachers(self) -> list[Configuration]:
        loras = [entry["lora"] for entry in self.two_loras("sd3").values()]
        kinds = {
            "base and list of LoRAs": {"base": {}, "both": {"lora": loras, "strength": [0.7, 0.5]}},
            "guidance": {"base": {}, "guided": {"guidance_scale": 3.5}},
            "checkpoint": {"base": {}, "tuned": {"checkpoint": str(self.tuned)}},
            "extracted checkpoint": {"base": {}, "tuned": {"checkpoint": str(self.tuned), "extract_rank": 4}},
        }
        merged = Configuration("start from the merge", {"student_init": "merge_average"})
        return [merged, *(Configuration(f"teachers: {name}", {}, teachers=kind) for name, kind in kinds.items())]


def write_samples(folder: Path) -> str:
    """Write a file of two sample prompts and return its path."""
    path = folder / "samples.txt"
    path.write_text("a red cat --w 16 --h 16 --s 2\na blue river --w 16 --h 16 --s 2\n", encoding="utf-8")
    return str(path)


def write_pictures(folder: Path) -> dict[str, str]:
    """Prompt files of both routes with a column `target`, for the methods that start from pictures."""
    files: dict[str, str] = {}
    write: Callable[[Path, int], None] = lambda path, level: Image.fromarray(  # noqa: E731
        np.full((20, 24, 3), level, np.uint8)
    ).save(path)
    for place, (route, words) in enumerate((("one", "red cat"), ("two", "blue river"))):
        lines = ["prompt,target"]
        for number in range(2):
            write(folder / f"{route}{number}.png", 60 * (1 + place + 2 * number))
            lines.append(f"{words} {number},{route}{number}.png")
        files[route] = str(folder / f"{route}.csv")
        Path(files[route]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files
