"""Runs of the real entry point inside this process, for all toolkits."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from danceopd_ext import fallback_folders, files
from danceopd_ext.toolkits.run import main
from tests.tiny.loras import write_random_lora
from tests.toolkits.runs import forget_accelerate


@pytest.fixture(autouse=True)
def fresh_accelerate():
    forget_accelerate()
    yield
    forget_accelerate()


@pytest.fixture(scope="session")
def loras(pipelines, tmp_path_factory):
    """(family, place) -> a random LoRA file; the first in kohya's names, the second in diffusers'."""
    folder = tmp_path_factory.mktemp("loras")
    formats = ("kohya", "diffusers", "comfyui")
    return {
        (family, place): write_random_lora(folder / f"{family}_{place}.safetensors", model, place, format, size=0.15)
        for family, model in pipelines.items()
        for place, format in enumerate(formats)
    }


@pytest.fixture
def launch():
    """Run a preset to its end and return its output folder."""

    def launch(preset: Path, *arguments: object) -> Path:
        forget_accelerate()
        main(["--config", str(preset), *map(str, arguments)])
        return preset.parent / "output"

    return launch


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The folders that a result may go to; nobody waits."""
    for name in ("working", "temporary", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(fallback_folders, "LONGEST_WAIT", 0.0)
    return tmp_path


@pytest.fixture
def refusing(monkeypatch):
    """`refusing(problem, ending, folders)`: files and folders with this ending cannot get their names there."""

    def refusing(problem: Exception, ending: str, folders=("out", "output", "sample")):
        def replace(source, target):
            if str(target).endswith(ending) and Path(target).parent.name in folders:
                raise problem
            return real(source, target)

        real = os.replace
        monkeypatch.setattr(files.os, "replace", replace)

    return refusing
