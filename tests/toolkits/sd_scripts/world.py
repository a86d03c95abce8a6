"""Trains on the stand-in of sd-scripts: a fixture to import."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import save_file

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.sd_scripts.trainer import trainer_class
from tests.toolkits.sd_scripts import stand_in as sd
from tests.toolkits.sd_scripts.datasets import Dataset, DatasetGroup, Subset


class Adapter:
    def condition(self, texts, routes, empty=None):
        return Conditions({"embeds": texts[0]}, routes, {"embeds": empty[0]} if empty else None)

    def velocity(self, transformer, z, sigma, condition):
        return transformer(z * sigma.view(-1, 1, 1, 1) + condition["embeds"].view(len(z), 1, 1, sd.WIDTH))

    def sigmas(self, steps, latent_shape):
        return torch.linspace(1, 0, steps + 1)


ARCHITECTURE = Architecture(
    model_type="toy", title="Toy", script="none", trainer="none", adapter=lambda trainer, args: Adapter(),
    network_module="networks.toy", latent_channels=1,
)  # fmt: skip
ARGUMENTS = {
    "seed": 3, "gradient_accumulation_steps": 1, "max_train_steps": 4, "learning_rate": 0.05, "mixed_precision": "no",
    "gradient_checkpointing": False, "network_module": "networks.toy", "torch_compile": False, "resume": None,
    "resume_from_huggingface": False, "initial_epoch": None, "initial_step": None, "skip_until_initial_step": False,
    "max_train_epochs": None, "save_every_n_steps": None, "save_every_n_epochs": None, "validate_every_n_steps": None,
    "validate_every_n_epochs": None, "cache_text_encoder_outputs": True, "cache_text_encoder_outputs_to_disk": False,
    "validation_seed": None, "min_timestep": None, "max_timestep": None, "output_dir": "",
    "output_name": "fused", "max_grad_norm": 0.0, "save_state": True, "sample_every_n_steps": None,
    "sample_every_n_epochs": None,
}  # fmt: skip


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train on the stand-in: (our section, the toolkit's arguments, its datasets) -> the trainer."""
    sd.install(monkeypatch)

    def run(options: dict | None = None, datasets=None, validation=None, start=alone, **more):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        section = {"toolkit": "sd-scripts", "rollout_steps": 4, "teachers": teachers(tmp_path), **(options or {})}
        trainer = trainer_class(sd.StandInTrainer)(DanceOPDSection(**section), ARCHITECTURE)
        trainer.group = DatasetGroup(datasets or [both()])
        trainer.validation = DatasetGroup(validation) if validation else None
        monkeypatch.setattr(run, "trainer", trainer, raising=False)
        start(trainer, Namespace(**{**ARGUMENTS, "output_dir": str(tmp_path), **more}))
        return trainer

    return run


def alone(trainer, args) -> None:
    """The toolkit's own train(args), without what hosted.go puts around it."""
    try:
        trainer.train(args)
    finally:
        if trainer.session:
            trainer.session.close()


def teachers(folder: Path) -> dict[str, Teacher]:
    rng = torch.Generator().manual_seed(5)
    factors = {"lora_down": torch.randn(2, sd.WIDTH, generator=rng), "lora_up": torch.randn(sd.WIDTH, 2, generator=rng)}
    tensors = {f"{sd.MODULE}.{name}.weight": value for name, value in factors.items()}
    save_file({**tensors, f"{sd.MODULE}.alpha": torch.tensor(2.0)}, folder / "style.safetensors")
    return {"base": Teacher(), "style": Teacher(lora=str(folder / "style.safetensors"))}


def both(batch_size: int = 2, **more) -> Dataset:
    """A dataset with captions for both teachers; batches may mix them."""
    return Dataset(
        [
            (Subset({"teacher": "base"}, **more), ["a cat", "a dog", "a tree"]),
            (Subset({"teacher": "style"}, **more), ["ink cat"]),
        ],
        batch_size,
    )
