"""Calls of scripts/evaluate.py on small benchmarks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from tests.evaluation.benchmarks import write_gedit, write_geneval

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
SIZE = ("--width", "64", "--height", "64", "--steps", "2")


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def geneval_arguments(folder: Path, model: Path, *more: str) -> list[str]:
    """Two prompts, two samples each, into folder/out."""
    prompts = folder / "evaluation_metadata.jsonl"
    prompts = prompts if prompts.exists() else write_geneval(folder)
    common = ["geneval", "--prompts", str(prompts), "--model", str(model), "--samples", "2"]
    return [*common, "--out", str(folder / "out"), *SIZE, *more]


def geneval(evaluate: ModuleType, folder: Path, sd3: tuple[Path, Path], *more: str) -> None:
    """With the base and the LoRA as `style`."""
    evaluate.main(geneval_arguments(folder, sd3[0], "--lora", f"style={sd3[1]}", *more))


def gedit_arguments(folder: Path, model: Path, *more: str) -> list[str]:
    """Three edits, one of them Chinese, into folder/out."""
    prompts = folder / "prompts.jsonl"
    prompts = prompts if prompts.exists() else write_gedit(folder)
    return ["gedit", "--prompts", str(prompts), "--model", str(model), "--out", str(folder / "out"), *SIZE, *more]


def gedit(evaluate: ModuleType, folder: Path, model: Path, *more: str) -> Path:
    """Draw and return the base's folder of tasks."""
    evaluate.main(gedit_arguments(folder, model, *more))
    return folder / "out" / "base" / "fullset"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)
