"""A run that was killed or stopped, and then resumed, is the run that was not interrupted."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny.presets import write_preset
from tests.toolkits.runs import log_of, same_tensors

STEPS = 8
KEYS = {
    "max_train_steps": STEPS,
    "save_every_n_steps": 2,
    "save_state": True,
    "optimizer_type": "AdamW",
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 3,
    "network_dropout": 0.2,
    "rollout_steps": 2,
}


DRIVER = "tests/toolkits/native/driver.py"


@pytest.fixture(scope="module")
def whole(pipelines, two_teachers, tmp_path_factory):
    """The output of a run that nobody interrupts, and the preset's keys for others like it."""
    from danceopd_ext.toolkits.run import main
    from tests.toolkits.runs import forget_accelerate

    folder = tmp_path_factory.mktemp("whole")
    forget_accelerate()
    main(["--config", str(write_preset(folder, pipelines["sd3"], two_teachers["sd3"], **KEYS))])
    return folder / "output"


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    return write_preset(tmp_path, pipelines["sd3"], two_teachers["sd3"], **KEYS)


def check_nothing_is_half_written(output: Path) -> None:
    """Every file under a final name is whole; what was in the making has a name of its own."""
    for file in output.rglob("*"):
        if any(part.endswith(".part") for part in file.parts):
            continue
        if file.suffix == ".safetensors":
            load_file(file)
        elif file.name == "optimizer.pt":
            torch.load(file, weights_only=True)
        elif file.name == "state.json":
            facts = json.loads(file.read_text(encoding="utf-8"))
            assert all((file.parent / name).is_file() for name in facts["sha256"])


def newest_state(output: Path) -> Path | None:
    return max(output.glob("fused-step*-state"), default=None)


def moments() -> list[str]:
    """Between saves and in the middle of a save; which of them is drawn, once for all."""
    rng = random.Random(20260)
    return [
        f"step:{rng.randint(3, STEPS - 1)}",
        f"weights:{rng.randint(2, 3)}",
        "state:2",
        f"rename:{rng.randint(14, 16)}",
    ]


@pytest.mark.parametrize("moment", moments())
def test_killed_and_resumed(preset, launch, forked, whole, moment):
    done = forked.run(DRIVER, moment, preset)
    assert done.returncode == -signal.SIGKILL, done.stderr
    output = preset.parent / "output"
    assert not (output / "fused.safetensors").exists()
    check_nothing_is_half_written(output)
    if not moment.startswith("step"):
        assert [*output.rglob("*.part")], "it was not killed in the middle of a save"
    state = newest_state(output)
    assert state is not None

    launch(preset, "--resume", state)

    assert same_tensors(output / "fused.safetensors", whole / "fused.safetensors")
    assert [entry["step"] for entry in log_of(output)] == list(range(1, STEPS + 1))
    drop = ("seconds", "stage_seconds", "peak_memory_mb")
    assert [{k: v for k, v in e.items() if k not in drop} for e in log_of(output)] == [
        {k: v for k, v in e.items() if k not in drop} for e in log_of(whole)
    ]


def test_ctrl_c(preset, launch, forked, whole):
    """The step is finished, everything is saved, and the way on is told."""
    done = forked.run(DRIVER, "interrupt:3", preset)
    assert done.returncode == 130, done.stderr
    output = preset.parent / "output"
    state = output / "fused-step00000003-state"
    saved = output / "fused-step00000003.safetensors"
    assert done.stdout.splitlines()[-1] == f"stopped after step 3, saved {saved}. Resume with: --resume {state}"
    assert "done" not in done.stdout
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3]
    assert (output / "fused-step00000003.safetensors").exists()

    launch(preset, "--resume", state)

    assert same_tensors(output / "fused.safetensors", whole / "fused.safetensors")
    assert [entry["step"] for entry in log_of(output)] == list(range(1, STEPS + 1))


def test_ctrl_c_in_the_last_step(preset, forked, whole):
    """Then the run is done, not stopped: there is nothing to go on with."""
    done = forked.run(DRIVER, f"interrupt:{STEPS}", preset)
    assert done.returncode == 0, done.stderr
    assert "--resume" not in done.stdout
    assert same_tensors(preset.parent / "output" / "fused.safetensors", whole / "fused.safetensors")


def test_two_processes_are_one(pipelines, two_teachers, launch, forked, tmp_path):
    """Two with a batch of two each learn what one with a batch of four learns."""
    keys = {"max_train_steps": 10, "gradient_accumulation_steps": 2, "rollout_steps": 2}
    alone = write_preset(tmp_path / "alone", pipelines["sd3"], two_teachers["sd3"], train_batch_size=4, **keys)
    together = write_preset(tmp_path / "together", pipelines["sd3"], two_teachers["sd3"], train_batch_size=2, **keys)
    first, second = forked.run_ranks(2, "train_danceopd.py", "--config", together)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "2 process(es)" in first.stdout and "process(es)" not in second.stdout

    one = load_file(launch(alone) / "fused.safetensors")
    two = load_file(together.parent / "output" / "fused.safetensors")
    assert one.keys() == two.keys()
    difference = sum(float((change(one, key) - change(two, key)).norm() ** 2) for key in one if "lora_A" in key)
    size = sum(float(change(one, key).norm() ** 2) for key in one if "lora_A" in key)
    assert size > 0
    assert difference**0.5 / size**0.5 < 1e-3
    samples, forwards = (
        [[e[k] for e in log_of(p.parent / "output")] for p in (alone, together)]
        for k in ("samples", "rollout_forwards_per_sample")
    )
    assert samples[0] == samples[1] == [8] * 10, "each process has its own half of the samples"
    assert forwards[0] == pytest.approx(forwards[1])
    losses = [[entry["loss"] for entry in log_of(p.parent / "output")] for p in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def change(tensors: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """What a layer's LoRA adds to its weight."""
    return tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
