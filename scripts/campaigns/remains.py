"""What an interrupted run left in its folder: whether it is whole, and whether two runs ended alike."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

#: what differs between two equal runs
TIMING = ("seconds", "stage_seconds", "peak_memory_mb")


def half_written(output: Path) -> list[str]:
    """The files under a final name that are not whole. What is in the making ends in .part."""
    broken = []
    for file in sorted(output.rglob("*")):
        if not file.is_file() or any(part.endswith(".part") for part in file.parts):
            continue
        try:
            _read(file)
        except Exception as problem:
            broken.append(f"{file.relative_to(output)} ({type(problem).__name__}: {problem})")
    return broken


def unfinished(output: Path) -> list[str]:
    """Temporary files, and the run's lock."""
    left = [*output.rglob("*.part"), *output.glob(".*.lock*")]
    return [str(path.relative_to(output)) for path in left]


def newest_state(output: Path, name: str = "fused") -> Path | None:
    """Return the state folder of the latest step; None if there is no state."""
    return max(output.glob(f"{name}-step*-state"), default=None)


def differences(one: Path, other: Path, name: str = "fused") -> list[str]:
    """Where the results of two runs differ: the LoRA, the last state, the log."""
    found = []
    files = [f"{name}.safetensors", f"{name}-state/student.safetensors"]
    for file in files:
        a, b = load_file(one / file), load_file(other / file)
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            found.append(file)
    states = [torch.load(folder / f"{name}-state" / "optimizer.pt", weights_only=True) for folder in (one, other)]
    if not _equal(*states):
        found.append("optimizer.pt")
    logs = [[{k: v for k, v in entry.items() if k not in TIMING} for entry in log_of(folder, name)]
            for folder in (one, other)]  # fmt: skip
    return found + ["log"] * (logs[0] != logs[1])


def log_of(output: Path, name: str = "fused") -> list[dict]:
    """Return the lines of a run's log."""
    return [json.loads(line) for line in (output / f"{name}.log.jsonl").read_text(encoding="utf-8").splitlines()]


def _read(file: Path) -> None:
    if file.suffix == ".safetensors":
        load_file(file)
    elif file.name == "optimizer.pt":
        torch.load(file, weights_only=True)
    elif file.name == "state.json":
        for name, digest in json.loads(file.read_text(encoding="utf-8"))["sha256"].items():
            if hashlib.sha256((file.parent / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name} has another digest")
    elif file.suffix == ".png":
        with Image.open(file) as picture:
            picture.load()
    elif file.name.endswith(".log.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines()[:-1]:
            json.loads(line)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b
