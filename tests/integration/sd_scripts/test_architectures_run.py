"""A whole preset for every architecture beside SD3: prompt files only, two picture sizes, texts cached on disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.integration.sd_scripts.stand_ins import HERE

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("model_type", HERE)
def test_a_preset_runs_and_saves_a_student(model_type, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.sd_scripts.run_tiny", model_type, tmp_path], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert f"saved: {tmp_path / 'fused.safetensors'}" in done.stdout
    tensors = load_file(tmp_path / "fused.safetensors")
    ups = [tensor for name, tensor in tensors.items() if name.endswith("lora_up.weight")]
    assert any(bool(up.any()) for up in ups)  # it has learnt something
    assert not any(bool(tensor.isnan().any()) for tensor in tensors.values())
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 4  # each of the four captions once, whatever its sizes
