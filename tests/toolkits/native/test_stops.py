"""A run that cannot go on says why, and what it has learnt so far is kept."""

from __future__ import annotations

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

from danceopd_ext.cli import run
from danceopd_ext.errors import TrainingError
from danceopd_ext.toolkits.native import loop
from danceopd_ext.toolkits.native import train as train_module
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import write_preset
from tests.toolkits.runs import forget_accelerate, log_of


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    return write_preset(tmp_path, pipelines["sd3"], two_teachers["sd3"], max_train_steps=6, rollout_steps=2)


@pytest.fixture
def broken_at(monkeypatch):
    """Let the teachers do something else from the third update on, or after so many questions."""

    def broken_at(change, after=2):
        def build(*arguments):
            fields = original(*arguments)
            asked = [0]

            def wrap(teacher):
                def field(*arguments):
                    asked[0] += 1
                    return change(teacher(*arguments)) if asked[0] > after else teacher(*arguments)

                return field

            fields.teachers = {name: wrap(teacher) for name, teacher in fields.teachers.items()}
            return fields

        original = train_module.build_fields
        monkeypatch.setattr(train_module, "build_fields", build)

    return broken_at


def stopped(preset, *arguments) -> str:
    forget_accelerate()
    with pytest.raises(TrainingError) as error:
        main(["--config", str(preset), *arguments])
    return str(error.value)


def check_step_two_is_kept(output, message):
    assert "step 3" in message
    file, state = output / "fused-step00000002.safetensors", output / "fused-step00000002-state"
    assert str(file) in message and f"--resume {state}" in message
    tensors = [*load_file(file).values(), *load_file(state / "student.safetensors").values()]
    assert all(bool(t.isfinite().all()) for t in tensors)
    assert [entry["step"] for entry in log_of(output)] == [1, 2]


def test_loss_that_is_not_a_number(preset, broken_at):
    broken_at(lambda velocity: velocity * float("nan"))
    message = stopped(preset)
    assert "gives NaN or infinite numbers, and the base does not. Check its LoRA" in message
    assert "learning_rate" not in message
    check_step_two_is_kept(preset.parent / "output", message)


def test_gradient_that_is_not_a_number(preset, monkeypatch):
    """The loss is still finite; one more step would put the gradient into the weights."""
    real, calls = loop.average_gradients, [0]

    def average(accelerator, parameters):
        real(accelerator, parameters)
        calls[0] += 1
        if calls[0] == 3:
            parameters[0].grad[0, 0] = float("inf")

    monkeypatch.setattr(loop, "average_gradients", average)
    message = stopped(preset)
    assert "the gradient of step 3" in message
    check_step_two_is_kept(preset.parent / "output", message)


def test_weights_that_broke_down_are_not_saved(preset, monkeypatch):
    def spoil(_, parameters):
        parameters[0].data[0, 0] = float("inf")

    monkeypatch.setattr(loop, "average_gradients", spoil)
    message = stopped(preset)
    assert "earlier state" in message
    assert not [*(preset.parent / "output").glob("*.safetensors")]


def test_the_resumed_run_goes_on(preset, broken_at, monkeypatch, launch):
    broken_at(lambda velocity: velocity * float("nan"))
    stopped(preset)
    monkeypatch.undo()
    output = launch(preset, "--resume", preset.parent / "output" / "fused-step00000002-state")
    assert [entry["step"] for entry in log_of(output)] == list(range(1, 7))


def out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_out_of_memory_in_a_step(preset, broken_at):
    broken_at(out_of_memory)
    message = stopped(preset)
    for remedy in ("gradient_checkpointing = true", "train_batch_size = 1", "resolution"):
        assert remedy in message
    check_step_two_is_kept(preset.parent / "output", message)


def test_out_of_memory_in_the_optimizer(preset, monkeypatch):
    """Its change is half done: step 2 was good, and neither it nor anything half changed is written over a file."""
    real, calls = AcceleratedOptimizer.step, [0]

    def step(self, *arguments):
        calls[0] += 1
        return out_of_memory() if calls[0] == 3 else real(self, *arguments)

    monkeypatch.setattr(AcceleratedOptimizer, "step", step)
    message = stopped(preset)
    for part in ("for the optimizer in step 3", "AdamW8bit", "gradient_checkpointing = true", "earlier state"):
        assert part in message
    assert not [*(preset.parent / "output").glob("*.safetensors")]


def test_out_of_memory_while_loading(preset, monkeypatch):
    monkeypatch.setattr(train_module, "build_fields", out_of_memory)
    assert "do not fit" in stopped(preset)


@pytest.mark.parametrize("change", [lambda _: out_of_memory(), lambda velocity: velocity * float("nan")])
def test_nothing_is_saved_of_a_first_step(preset, broken_at, change):
    """A file of zeros is not a result, and nobody is told to go on from it; what to change is told."""
    broken_at(change, after=0)
    message = stopped(preset)
    assert "step 1" in message and "nothing to save" in message and "--resume" not in message
    assert "resolution" in message or "use less strength" in message
    output = preset.parent / "output"
    assert not [*output.glob("*.safetensors"), *output.glob("*-state")]


def test_nothing_is_saved_of_the_first_step_after_a_resume(preset, broken_at, launch, monkeypatch):
    output = launch(preset, "--max_train_steps", "2", "--save_state")
    before = sorted(path.name for path in output.iterdir())
    broken_at(lambda _: out_of_memory(), after=0)
    message = stopped(preset, "--resume", str(output / "fused-state"))
    assert "step 3" in message and "nothing to save" in message
    assert sorted(path.name for path in output.iterdir()) == before


def test_a_run_that_learns_nothing_says_so(preset, launch, capsys):
    """The only step is the first of the warm-up, whose learning rate is 0."""
    launch(preset, "--max_train_steps", "1", "--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", "1")
    assert "note: fused.safetensors changes nothing, because the student has learnt nothing" in capsys.readouterr().out


def test_exit_code_of_a_stopped_run(preset, broken_at, capsys):
    broken_at(out_of_memory)
    forget_accelerate()
    assert run(main, ["--config", str(preset)]) == 1
    errors = capsys.readouterr().err
    assert "stopped: out of GPU memory in step 3" in errors
    assert "Traceback" not in errors


def test_exit_code_of_an_interrupted_start(preset, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "prepare", interrupt)
    assert run(main, ["--config", str(preset)]) == 130
    assert "Traceback" not in capsys.readouterr().err
