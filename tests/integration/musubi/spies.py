"""What a process that drive.py started is told to watch: each process writes to the folder that WATCH names."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.integration import endings


class OnlyWhatLearns(torch.nn.parallel.DistributedDataParallel):
    """accelerate wraps models on CPUs also where nothing in them learns, which torch refuses; on GPUs it does not."""

    def __new__(cls, module: torch.nn.Module, **_keywords):
        return super().__new__(cls) if any(p.requires_grad for p in module.parameters()) else module


def noise_and_weights() -> None:
    """Each process: the first number of every noise that it drew, the routes of its batches, its student's course."""
    from danceopd_ext.toolkits.musubi import trainer

    torch.nn.parallel.DistributedDataParallel = OnlyWhatLearns

    update = importlib.import_module("danceopd_ext.method.update")  # `method.update` is the function in it

    drawn, routes, sample_noise = [], [], update.sample_noise

    def watched_noise(seed, step, indices, shape):
        noise = sample_noise(seed, step, indices, shape)
        drawn.append([step, indices, float(noise.flatten()[0])])
        return noise

    update.sample_noise = watched_noise
    batch, train_start = trainer.DanceOPDMixin.process_batch, trainer.DanceOPDMixin.on_train_start

    def watched_batch(self, *arguments):
        answer = batch(self, *arguments)
        routes.append(arguments[4]["danceopd_route"])
        step = len(routes)
        folder, rank = Path(os.environ["WATCH"]), os.environ.get("RANK", "0")
        save_file(
            {n: t.detach().clone() for n, t in self.student.state_dict().items()}, folder / f"{rank}-{step}.safetensors"
        )
        (folder / f"{rank}.json").write_text(json.dumps({"noise": drawn, "routes": routes}))
        return answer

    def watched_start(self, args, accelerator, network, *others):
        self.student = accelerator.unwrap_model(network)
        assert accelerator.num_processes == int(os.environ.get("WORLD_SIZE", "1"))
        assert not torch.cuda.is_available()
        return train_start(self, args, accelerator, network, *others)

    trainer.DanceOPDMixin.process_batch, trainer.DanceOPDMixin.on_train_start = watched_batch, watched_start


def ctrl_c_in_step_3() -> None:
    """See endings.py."""
    torch.nn.parallel.DistributedDataParallel = OnlyWhatLearns
    endings.ctrl_c()


def full_in_step_3() -> None:
    """See endings.py."""
    endings.full_memory()


def full_disk() -> None:
    """See endings.py."""
    endings.full_disk()
