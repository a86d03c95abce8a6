"""Presets for tiny runs, and their trainers under watch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent

DEFAULTS: dict[str, Any] = {
    "sdpa": True, "network_dim": 4, "network_alpha": 4, "optimizer_type": "AdamW", "learning_rate": 3e-3,
    "max_train_steps": 2, "mixed_precision": "no", "seed": 1, "max_data_loader_n_workers": 0, "output_name": "fused",
    "resolution": 64, "discrete_flow_shift": 3.0, "lr_scheduler": "constant",
    "gradient_accumulation_steps": 1, "save_precision": "float",
}  # fmt: skip


def write_preset(path: Path, danceopd: str, model_type: str = "z_image", **values: Any) -> Path:
    """A preset with our section given as TOML, and the toolkit's arguments as values; None leaves one out."""
    from danceopd_ext.toolkits.hosted.argument_values import shown

    values = {**DEFAULTS, "output_dir": path.parent / "out", **values}
    lines = [f"{name} = {shown(value)}" for name, value in values.items() if value is not None]
    # runs of one test may share a folder
    method = f'[danceopd]\ntoolkit = "musubi-tuner"\nrollout_steps = 4\noverwrite = true\n{danceopd}'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'model_type = "{model_type}"\n' + "\n".join(lines) + "\n" + method + "\n")
    return path


def apart(case: str, preset: Path, *flags: str, processes: int = 1, **environment: str) -> subprocess.CompletedProcess:
    """Run the preset in a process of its own (see drive.py), or in several; `rc` and the output are for the test.

    It is a process group of its own, so that a spy can send signals to all of the run and to nobody else.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, str(HERE / "drive.py"), case, str(preset), *flags]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=240, start_new_session=True)


class Recorder:
    """In front of our trainer: what happened in a run, and the loss of a fixed evaluation before and after."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.seen: list[dict[str, Any]] = []
        self.gradients: list[torch.Tensor] = []

    def _build_dataset(self, args):
        made = super()._build_dataset(args)
        self.group = made[0]
        return made

    def on_train_start(self, args, accelerator, network, transformer, optimizer):
        super().on_train_start(args, accelerator, network, transformer, optimizer)
        self.network, self.transformer = network, transformer
        batches = [dataset.batch_manager[0] for dataset in self.group.datasets]  # musubi shuffles them later
        self.fixed = list(zip(batches, self.group.routes, strict=True))
        self.before = self.evaluate(transformer)
        step = optimizer.step

        def watched_step(*arguments, **keywords):
            grads = [p.grad.flatten().clone() for p in network.parameters() if p.grad is not None]
            self.gradients.append(torch.cat(grads) if grads else torch.zeros(0))
            return step(*arguments, **keywords)

        optimizer.step = watched_step

    def process_batch(self, args, accelerator, transformer, network, batch, latents, *others):
        adapters = self.adapters = []
        loss, metrics = super().process_batch(args, accelerator, transformer, network, batch, latents, *others)
        self.seen.append({"batch": batch, "metrics": metrics, "loss": float(loss.detach()), "adapters": list(adapters)})
        assert self.distiller.switch.active == "student"
        return loss, metrics

    def call_dit(self, args, accelerator, transformer, latents, batch, *others, **more):
        if hasattr(self, "adapters"):
            on = [n for n, t in self.teachers.items() if any(module.enabled for module in t.unet_loras)]
            self.adapters.append((*on, *(["student"] if self.distiller.switch.student.multiplier else [])))
        return super().call_dit(args, accelerator, transformer, latents, batch, *others, **more)

    def on_post_save(self, args, accelerator, network, transformer, *others):
        super().on_post_save(args, accelerator, network, transformer, *others)
        self.after = self.evaluate(transformer)

    def evaluate(self, transformer) -> float:
        """The mean loss at fixed noise and fixed noise levels, over the first batch of each dataset."""
        losses = []
        names = list(self.settings.options.teachers)
        for batch, route in self.fixed:
            condition = self.adapter.condition(batch, [names[route]] * len(batch["latents"]))
            for seed in (101, 102):
                for sigma in (0.9, 0.5):
                    shape = batch["latents"].shape[1:]
                    losses.append(self.distiller.validation_loss(transformer, condition, shape, seed, sigma))
        return float(torch.stack(losses).mean())


def here(preset: Path, *extra: type) -> Any:
    """Run the preset in this process under watch and return its trainer. extra: classes in front of the recorder."""
    from accelerate.state import AcceleratorState, GradientState

    from danceopd_ext.config.hosted_preset import split_preset
    from danceopd_ext.toolkits.musubi import run
    from danceopd_ext.toolkits.musubi.trainer import trainer_class

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    made: list[Any] = []

    def watched(theirs: type) -> Any:
        cls = type("Watched", (*extra, Recorder, trainer_class(theirs)), {})
        return lambda settings: made.append(cls(settings)) or made[0]

    run.trainer_class, kept = watched, run.trainer_class
    try:
        path = run.train(split_preset(preset))
    finally:
        run.trainer_class = kept
    made[0].saved = path
    return made[0]
