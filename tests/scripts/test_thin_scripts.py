"""Scripts of which the package has the body only hand their arguments over."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
#: they stand alone, before anything is installed, or test and describe the project itself
OWN_BODY = {"environment", "evaluate", "fuzz", "quickstart", "test", "update_readme"}
THIN = sorted({path.stem for path in SCRIPTS.glob("*.py")} - OWN_BODY)


@pytest.mark.parametrize("name", THIN)
def test_a_script_defines_nothing_and_finds_the_package_beside_it(name):
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    body = ast.parse(text).body
    assert not [one for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef | ast.For | ast.With)]
    assert "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))" in text
    assert len(text.splitlines()) < 20


def test_a_script_runs_from_any_folder_and_the_one_that_measures_memory_stays_small(tmp_path):
    """A process counts its own memory to the peak of those that it starts, so this one must not import torch."""
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / "lora_memory.py"), "--help"]
    apart = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=apart, capture_output=True, text=True)
    assert done.returncode == 0 and "--kinds" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "danceopd_ext.benchmark.lora_memory" in imported
    assert "torch" not in imported
