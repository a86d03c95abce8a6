"""The files that runs share: a tiny SD3.5 checkpoint, two teachers, prompts. A fixture to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.sd_scripts import tiny_sd3
from tests.integration.sd_scripts.runs import CONTEXT, write_preset

PROMPTS = {"base": "a cat\na dog\na red house\n", "ink": "ink boat\nink tree\n", "glow": "glowing pear\nglowing ox\n"}


@dataclass(frozen=True)
class World:
    """folder: of everything. model: the toolkit's arguments that name the model's files."""

    folder: Path
    model: dict[str, str]

    def teacher(self, name: str) -> dict[str, str]:
        return {"lora": str(self.folder / f"{name}.safetensors")}

    def preset(self, folder: Path, *routes: str, model: dict[str, str] | None = None, **sections) -> Path:
        """A preset whose routes have prompts; "base" is the bare base, others are LoRAs."""
        danceopd = {
            "teachers": {name: {} if name == "base" else self.teacher(name) for name in routes},
            "prompts": {name: str(self.folder / f"{name}.txt") for name in routes},
            **sections.pop("danceopd", {}),
        }
        return write_preset(folder / "preset.toml", model or self.model, danceopd=danceopd, **sections)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("sd3")
    model = make_model(folder / "model")
    for number, name in enumerate(("ink", "glow"), 1):
        tiny_sd3.lora(folder / f"{name}.safetensors", seed=number)
    for name, text in PROMPTS.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return World(folder, model)


def make_model(folder: Path, depth: int = 2) -> dict[str, str]:
    """Write a tiny SD3.5 in a process of its own, since its classes are shrunk there."""
    with CONTEXT.Pool(1) as maker:
        return maker.apply(_make, (str(folder), depth))


def _make(folder: str, depth: int) -> dict[str, str]:
    tiny_sd3.shrink()
    return tiny_sd3.write(Path(folder), depth)
