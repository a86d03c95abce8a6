"""Words for runs of the real entry point, and what a run left."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

BASE = {"base": {}}
QUICK = {"max_train_steps": 2, "rollout_steps": 2, "gradient_accumulation_steps": 1}


def two_processes() -> list[str]:
    """The launcher's words, on a port of their own: tests beside this one start processes too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return ["-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--main_process_port", port]


def forget_accelerate() -> None:
    """accelerate keeps precision and device for the whole process; every run here is as in a fresh one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def log_of(output: Path, name: str = "fused") -> list[dict]:
    """The run's JSONL log."""
    return [json.loads(line) for line in (output / f"{name}.log.jsonl").read_text(encoding="utf-8").splitlines()]


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two safetensors files hold the same tensors, bit for bit."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def says(message: str, *parts: object) -> None:
    """The message holds all these parts."""
    for part in parts:
        assert str(part) in message
