"""Lets several processes share a step, and starts them on a machine without a GPU.

`accelerate launch --num_processes N` starts N processes on GPUs, but only one on a CPU (it leaves the rest to MPI).
That process then starts the others itself, with the environment variables that accelerate expects.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psutil
import torch
from accelerate import Accelerator

from danceopd_ext.engine.devices import has_accelerator
from danceopd_ext.errors import Stopped, UserError
from danceopd_ext.method import Report
from danceopd_ext.toolkits.launched import STARTED_BY, words_of

#: seconds that a process has to end after a request
PATIENCE = 10.0


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Return whether the flag is set on any process."""
    if accelerator.num_processes == 1:
        return flag
    mine = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(mine, "sum") > 0)


def average_gradients(accelerator: Accelerator, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Average the gradient over the processes once per step, without DDP, so that adapters can switch freely.

    Layers that see source images have no gradient without them, and an optimizer then leaves them unchanged. The same
    holds here if no process has a gradient for a layer.
    """
    if accelerator.num_processes == 1:
        return
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=accelerator.device)
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = accelerator.reduce(torch.cat([used, *(grad.flatten() for grad in own)]), "mean")
    used, *means = flat.split([len(own), *(p.numel() for p in parameters)])
    for p, share, mean in zip(parameters, used.tolist(), means, strict=True):
        p.grad = mean.view_as(p).clone() if share else None


def whole_report(accelerator: Accelerator, report: Report) -> Report:
    """Return the report of the whole step: means and sums over all processes."""
    if accelerator.num_processes == 1:
        return report
    names = ("samples", "rollout_forwards", "teacher_forwards", "student_forwards")
    values = [report.loss, report.mean_query_sigma, *(float(getattr(report, name)) for name in names)]
    total = accelerator.reduce(torch.tensor(values, device=accelerator.device), "sum").tolist()
    counts = {name: int(value) for name, value in zip(names, total[2:], strict=True)}
    loss, sigma = (value / accelerator.num_processes for value in total[:2])
    return replace(report, loss=loss, mean_query_sigma=sigma, **counts)


def asked_for(command: Sequence[str], option: str = "num_processes") -> int:
    """Return N of `--num_processes N` in accelerate's command line; 1 if it is missing."""
    for place, word in enumerate(command):
        flag, _, value = word.replace("-", "_").partition("=")
        if flag == f"__{option}":
            value = value or (command[place + 1] if place + 1 < len(command) else "")
            return int(value) if value.isdigit() else 1
    return 1


def missing_processes() -> int:
    """Return how many processes accelerate was asked for and did not start: 0 under torchrun, on GPUs and in most runs.

    Raises UserError if it was asked for several machines, whose processes it does not start on a CPU either.
    """
    launched = "MASTER_ADDR" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ
    if not launched or "LOCAL_RANK" in os.environ or has_accelerator():
        return 0
    # the launcher, or on Windows the virtual environment's python.exe, which starts another python
    commands = [words_of(parent) for parent in psutil.Process().parents()[:2]]
    if any(asked_for(command, "num_machines") > 1 for command in commands):
        raise UserError(
            "--num_machines: without a GPU accelerate does not connect several machines. Train on one "
            "(--num_machines 1), or start the processes with torchrun."
        )
    return max((asked_for(command) for command in commands), default=1) - 1


@contextmanager
def all_processes() -> Iterator[None]:
    """Start the missing processes, with this one as rank 0, and wait for them at the end."""
    missing = missing_processes()
    if missing <= 0:
        yield
        return
    world = missing + 1
    os.environ |= _ranks(0, world)
    more = {STARTED_BY: str(os.getpid())}
    workers = [
        subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, **_ranks(rank, world), **more})
        for rank in range(1, world)
    ]
    try:
        yield
        for worker in workers:
            worker.wait()
    except BaseException as problem:
        end(workers, asked=not isinstance(problem, Stopped))
        raise


def end(workers: Sequence[subprocess.Popen], asked: bool = True) -> None:
    """End processes whose main process has failed: they may wait for it for ever and ignore a polite request.

    asked: whether they must be asked; after a request to stop they end by themselves.
    """
    for worker in workers if asked else ():
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _ranks(rank: int, world: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
