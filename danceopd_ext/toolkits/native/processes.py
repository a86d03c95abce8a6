"""Several processes on a machine without a GPU.

`accelerate launch --num_processes N` starts N processes on GPUs, but only one on a CPU (it leaves the rest to MPI).
The one process then starts the others itself, with the environment that accelerate expects of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch


def has_accelerator() -> bool:
    """Whether there is a GPU or another device than the CPU to train on."""
    return torch.cuda.is_available() or torch.backends.mps.is_available() or _has("xpu")


def _has(kind: str) -> bool:
    backend = getattr(torch, kind, None)
    return backend is not None and backend.is_available()


def asked_for(command: Sequence[str]) -> int:
    """N of `--num_processes N` in accelerate's command line; 1 where it does not say."""
    for place, word in enumerate(command):
        flag, _, value = word.replace("-", "_").partition("=")
        if flag == "__num_processes":
            value = value or (command[place + 1] if place + 1 < len(command) else "")
            return int(value) if value.isdigit() else 1
    return 1


def missing_processes() -> int:
    """How many processes accelerate was asked for and did not start. 0 under torchrun, on GPUs, and in most runs."""
    launched = "MASTER_ADDR" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ
    if not launched or "LOCAL_RANK" in os.environ or has_accelerator():
        return 0
    return asked_for(psutil.Process(os.getppid()).cmdline()) - 1


@contextmanager
def all_processes() -> Iterator[None]:
    """Start the missing processes, with this one as rank 0, and wait for them at the end."""
    missing = missing_processes()
    if missing <= 0:
        yield
        return
    world = missing + 1
    os.environ |= _ranks(0, world)
    workers = [
        subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, **_ranks(rank, world)})
        for rank in range(1, world)
    ]
    try:
        yield
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for worker in workers:
            worker.wait()


def _ranks(rank: int, world: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
