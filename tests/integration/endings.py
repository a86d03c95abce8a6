"""Runs in a toolkit that end before their time: what makes them end, and what must then be told."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

#: a run ends in its third step
STEP = 3


def ctrl_c() -> None:
    """As from a console: the signal goes to all processes of the run, to those that load data as well."""
    from danceopd_ext.toolkits.hosted.distiller import Distiller

    loss = Distiller.loss

    def interrupted(self, *arguments):
        first = self.progress.step == STEP - 1 and self.progress.micro_batch == 0
        if first and os.environ.get("RANK", "0") == "0":
            os.killpg(os.getpgrp(), signal.SIGINT)
        return loss(self, *arguments)

    Distiller.loss = interrupted


def full_memory() -> None:
    """Memory runs out."""
    from danceopd_ext.toolkits.hosted.distiller import Distiller

    loss = Distiller.loss

    def full(self, *arguments):
        if self.progress.step == STEP - 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(self, *arguments)

    Distiller.loss = full


def full_disk() -> None:
    """No LoRA and no state fits into the folder `out`; the folder that FREE names has room."""
    from danceopd_ext import fallback_folders

    replace = os.replace

    def full(source, target):
        if Path(target).parent.name == "out" and str(target).endswith((".safetensors", "-state")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return replace(source, target)

    os.replace = full
    fallback_folders._other_folders = lambda: iter([Path(os.environ["FREE"])])


def check_saved_elsewhere(result: subprocess.CompletedProcess, out: Path, free: Path) -> None:
    """The run went on to its end, and said where the LoRA and the state are."""
    assert result.returncode == 0, result.stderr[-3000:]
    for name in (f"fused-step{STEP - 1:08d}.safetensors", f"fused-step{STEP - 1:08d}-state"):
        assert f"no space is left on the disk for {name}: it is not saved, and training continues" in result.stdout
    for name in ("fused.safetensors", "fused-state"):
        assert f"saved {free / name}, not in {out}: no space is left on the disk" in result.stdout
    assert f"done: {free / 'fused.safetensors'}" in result.stdout
    assert any(tensor.any() for name, tensor in load_file(free / "fused.safetensors").items() if "lora_up" in name)
    assert (free / "fused-state" / "optimizer.bin").is_file()
    assert {path.name for path in out.iterdir() if "safetensors" in path.name or "part" in path.name} == set()


def check_stopped(result: subprocess.CompletedProcess, out: Path, routes: Sequence[str]) -> Path:
    """The run ended well after its step, and said where the state is, which is returned."""
    assert result.returncode == 130, result.stderr[-3000:]
    name = out / f"fused-step{STEP:08d}"
    told = result.stdout.strip().splitlines()[-1]
    assert told == f"stopped after step {STEP}, saved {name}.safetensors. Resume with: --resume {name}-state"
    assert "done:" not in result.stdout
    assert all(f"{route}=" in result.stderr for route in routes)  # in the toolkit's own progress bar
    return Path(f"{name}-state")


def check_out_of_memory(
    result: subprocess.CompletedProcess, out: Path, remedies: Sequence[str], save_every_n_steps: int
) -> None:
    """One message with these remedies, and what was saved."""
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("stopped: ")]
    assert f"out of memory in step {STEP}" in line
    assert all(remedy in line for remedy in remedies)
    saved = out / f"fused-step{STEP - 1:08d}"
    due = save_every_n_steps < STEP
    assert (f"{saved}.safetensors" in line and f"--resume {saved}-state" in line) == due
    assert ("Nothing was saved yet" in line) != due
