"""Whole runs of presets on the real checkout with tiny SD3.5 models, each in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toml
import torch

HERE = "tests.integration.sd_scripts"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([f"{HERE}.preload"])


@dataclass(frozen=True)
class Run:
    """What became of a run. code: its exit code. log: all that it printed. seen: what its probe wrote."""

    code: int
    log: str
    seen: Any
    folder: Path

    @property
    def lora(self) -> Path:
        return self.folder / "out" / "fused.safetensors"


def run(preset: Path, *words: str, probe: str = "nothing") -> Run:
    """`preset --key value ...`, watched by a function of probes.py."""
    log, seen = preset.with_suffix(".log"), preset.with_suffix(".pt")
    seen.unlink(missing_ok=True)
    child = CONTEXT.Process(target=_child, args=(str(preset), words, probe, str(log), str(seen)))
    child.start()
    child.join(timeout=300)
    if child.exitcode is None:
        child.kill()
        raise TimeoutError(f"{preset} hangs:\n{log.read_text(encoding='utf-8')[-3000:]}")
    text = log.read_text(encoding="utf-8", errors="replace")
    watched = torch.load(seen, weights_only=True) if seen.exists() else None
    return Run(child.exitcode, text, watched, preset.parent)


def trained(preset: Path, *words: str, probe: str = "nothing") -> Run:
    """A run that must succeed."""
    done = run(preset, *words, probe=probe)
    assert done.code == 0, done.log[-4000:]
    return done


def refused(preset: Path, *words: str) -> str:
    """The message of a run that must be refused: one, without a traceback."""
    done = run(preset, *words)
    assert done.code == 2, done.log[-4000:]
    assert "Traceback" not in done.log
    return done.log.partition("error: ")[2]


def _child(preset: str, words: Sequence[str], probe: str, log: str, seen: str) -> None:
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in ("tiny_sd3", "probes"):
        importlib.import_module(f"{HERE}.{name}")
    sys.modules[f"{HERE}.tiny_sd3"].shrink()
    report = getattr(sys.modules[f"{HERE}.probes"], probe)()
    from danceopd_ext.cli import run as run_command
    from tests.integration.sd_scripts.run_preset import command

    code = run_command(command, [preset, *words])
    if report is not None:
        torch.save(report, seen)
    sys.stdout.flush()
    sys.exit(code)


def write_preset(path: Path, model: dict[str, str], **sections: dict[str, Any]) -> Path:
    """A small preset: 64 x 64 pixels, 4 rollout steps, float32. Sections' keys win; a key that is None is left out."""
    preset = {
        "model": {"model_type": "sd3", **model},
        "dataset": {"resolution": "64,64"},
        "network": {"network_dim": 8},
        "optimizer": {"learning_rate": 2e-3, "optimizer_type": "AdamW"},
        "training": {
            "max_train_steps": 4, "train_batch_size": 2, "gradient_accumulation_steps": 1, "mixed_precision": "no",
            "t5xxl_max_token_length": 16, "seed": 3,
        },
        "saving": {"output_dir": str(path.parent / "out"), "output_name": "fused", "save_precision": "float"},
        "danceopd": {"toolkit": "sd-scripts", "rollout_steps": 4, "overwrite": True},  # runs may share a folder
    }  # fmt: skip
    for name, section in sections.items():
        merged = {**preset.get(name, {}), **section}
        preset[name] = {key: value for key, value in merged.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(toml.dumps(preset), encoding="utf-8")
    return path
