"""Whole training runs of the toolkit, one process each, for every architecture beside SD3.

Text encoders, tokenizers, and where they are large the VAEs, are tiny stand-ins of the same interface (stand_ins.py);
the transformer is the toolkit's own class, small.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.integration.sd_scripts.stand_ins import HERE
from tests.integration.sd_scripts.train_tiny import WEIGHTS

ROOT = Path(__file__).parents[3]


def train(folder: Path, model_type: str, steps: int, rate: float, guidance: float, *more: str) -> dict:
    folder.mkdir()
    words = ["-m", "tests.integration.sd_scripts.train_tiny", model_type, folder, steps, rate, guidance, *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def mean_loss(losses: dict[str, float]) -> float:
    return sum(WEIGHTS[route] * loss for route, loss in losses.items()) / sum(WEIGHTS.values())


#: updates until the loss has clearly fallen; texts hardly tell these small models the two routes apart
UPDATES = {"flux": 60, "chroma": 60, "lumina": 120, "hunyuan_image": 120, "anima": 60}


@pytest.mark.parametrize("model_type", HERE)
def test_the_student_learns_and_only_by_its_learning_rate(model_type, tmp_path):
    result = train(tmp_path / "learns", model_type, UPDATES[model_type], 6e-3, 1.0, "--gradient_checkpointing")
    assert result["steps"] == UPDATES[model_type]
    assert result["before"]["base"] == 0  # the base's own velocity, and the student starts as the base
    assert mean_loss(result["after"]) < 0.5 * mean_loss(result["before"])
    stays = train(tmp_path / "stays", model_type, 24, 1e-12, 1.0)
    assert stays["captions"] == result["captions"] == 4
    assert stays["before"] == result["before"]
    assert mean_loss(stays["after"]) == pytest.approx(mean_loss(stays["before"]), rel=1e-4)


BF16 = ("--mixed_precision", "bf16")
#: pictures are drawn where there is a VAE to draw them with
GUIDED = {
    "flux": (*BF16, "--sample_every_n_steps", "4"),
    "chroma": (*BF16, "--sample_every_n_steps", "4"),
    "lumina": (*BF16, "--sample_every_n_steps", "4", "--system_prompt", "You draw."),
    "hunyuan_image": (),  # its own layer norms do not run in bfloat16 on a CPU
    "anima": BF16,
}


@pytest.mark.parametrize("model_type", HERE)
def test_guidance_uses_the_toolkits_own_empty_prompt(model_type, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red fox --w 64 --h 64 --s 2 --d 1 --l 2.0\n", encoding="utf-8")
    more = GUIDED[model_type]
    result = train(tmp_path / "run", model_type, 4, 1e-3, 2.0, "--sample_prompts", prompts, *more)
    assert result["steps"] == 4
    assert result["empty_prompt_difference"] == 0
    if "--sample_every_n_steps" in more:
        assert list((tmp_path / "run" / "sample").glob("*.png"))
    with safe_open(tmp_path / "run" / "fused.safetensors", "pt") as file:
        metadata = file.metadata()
        assert all(key.startswith("lora_unet_") for key in file.keys())  # noqa: SIM118 (not a dict)
    assert json.loads(metadata["ss_danceopd_teachers"]) == {"base": "base", "style": "style + guidance 2"}
    assert str(tmp_path) not in json.dumps(metadata)
