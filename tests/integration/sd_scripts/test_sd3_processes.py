"""Two processes learn one student: each from noise of its own."""

import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

from tests.integration.sd_scripts.world import world  # noqa: F401 - a fixture


def test_two_processes(world, tmp_path):  # noqa: F811
    preset = world.preset(tmp_path, "base", "ink", "glow", training={"train_batch_size": 1, "max_train_steps": 3})
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m",
        "tests.integration.sd_scripts.run_preset", "tiny_sd3,ranks", str(preset),
    ]  # fmt: skip
    environment = {**os.environ, "SEEN": str(tmp_path / "rank"), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    first, second = (torch.load(f"{tmp_path / 'rank'}{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["indices"] == [[0]] * 3
    assert second["indices"] == [[1]] * 3
    assert not torch.equal(first["noise"], second["noise"])
    assert first["loss"] != second["loss"]
    assert first["student"].keys() == second["student"].keys()
    for name, weight in first["student"].items():
        assert torch.equal(weight, second["student"][name]), name
    saved = load_file(tmp_path / "out" / "fused.safetensors")
    assert all(torch.equal(saved[name], first["student"][name]) for name in first["student"])
    assert any(float(weight.abs().max()) > 0 for name, weight in saved.items() if "lora_up" in name)
    assert done.stdout.count("DanceOPD: one student from 3 teachers") == 1
