"""A loss that is not a number is blamed on the part that broke, not on the learning rate."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.errors import TrainingError, UserError
from danceopd_ext.toolkits.native import loop
from danceopd_ext.toolkits.native import output as output_module
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import write_preset
from tests.toolkits.runs import forget_accelerate, says

NAN = float("nan")


@pytest.fixture
def told(pipelines, two_teachers, tmp_path, monkeypatch):
    """Run a preset, let `spoil(run)` break something after the first step, and return the message of the end."""

    def told(spoil, teachers=None, **keys) -> str:
        forget_accelerate()
        keys = {"max_train_steps": 4, "rollout_steps": 2, **keys}
        preset = write_preset(tmp_path / "run", pipelines["sd3"], teachers or two_teachers["sd3"], **keys)
        one_step = loop.Run.one_step

        def step(run):
            if run.step == 1:
                spoil(run)
            one_step(run)

        monkeypatch.setattr(loop.Run, "one_step", step)
        with pytest.raises(TrainingError) as error:
            main(["--config", str(preset)])
        return str(error.value)

    return told


def fill(tensor: torch.Tensor, value: float = NAN) -> None:
    tensor.data.view(-1)[0] = value


def test_an_encoded_prompt(told):
    def spoil(run):
        cache = run.data.encodings.prompts.entries
        for text, tensors in cache._memory.items():
            if text:
                fill(next(iter(tensors.values())))

    message = told(spoil)
    says(
        message,
        "the loss of step",
        'the encoded prompt of "',
        "holds NaN",
        "the next start encodes it again",
        "cache",
    )
    assert "learning_rate" not in message
    assert "fused-step0000000" in message


def test_the_encoded_empty_prompt(told):
    def spoil(run):
        fill(next(iter(run.data.encodings.prompts.get("").values())))

    assert "the encoded empty prompt holds NaN" in told(spoil, {"a": {"guidance_scale": 2.0}})


def test_the_scheduler(told):
    def spoil(run):
        for sigmas in run.data.model._grids.values():
            fill(sigmas)

    assert "the noise levels of the model's scheduler are NaN" in told(spoil)


def test_an_encoded_picture(told, pictures):
    def spoil(run):
        for tensors in run.data.encodings.pictures._entries._memory.values():
            fill(tensors["latents"])

    message = told(spoil, {"one": {}, "two": {}}, method="joint", prompts=pictures)
    says(message, "the encoded picture of", "holds NaN", "the next start encodes it again")


def test_the_base(told):
    def spoil(run):
        fill(run.fields.adapters.transformer.pos_embed.proj.weight)

    message = told(spoil)
    says(
        message,
        "the base model's weight pos_embed.proj.weight holds NaN",
        "without any LoRA",
        "Download the model",
    )
    assert "learning_rate" not in message and "strength" not in message


def test_a_base_that_overflows(told, monkeypatch):
    """Its weights are finite, and its answer is not."""

    def spoil(run):
        velocity = type(run.fields.base.family).velocity
        monkeypatch.setattr(type(run.fields.base.family), "velocity", lambda *given: velocity(*given) * float("inf"))

    message = told(spoil)
    says(message, "the base model gives NaN or infinite numbers, without any LoRA", 'mixed_precision = "no"')


def test_a_teachers_lora(told):
    def spoil(run):
        for name in run.fields.teachers:
            fill(next(iter(run.fields.adapters.state_dict(f"teacher_{name}").values())))

    message = told(spoil)
    says(
        message, "teacher ", "and the base does not", "Check its LoRA", ".safetensors (strength 1)", "use less strength"
    )
    assert "learning_rate" not in message


def test_guidance_that_is_too_strong(told):
    def spoil(run):
        run.fields.teachers = {name: too_strong(field) for name, field in run.fields.teachers.items()}

    def too_strong(field):
        return lambda *asked: field(*asked) * 1e38 * 1e38

    message = told(spoil, {"a": {"guidance_scale": 7.0}})
    says(message, "teacher a gives NaN", "its guidance_scale = 7 is too strong")


@pytest.mark.parametrize("method", ["danceopd", "diffusionopd", "flowopd", "offpolicy"])
def test_the_students_weights(told, method):
    def spoil(run):
        fill(run.parameters[3])

    message = told(spoil, method=method)
    says(message, "the student's own weights are NaN or infinite", "lower learning_rate", "earlier state")
    assert "check teacher" not in message


def test_a_student_that_grows_beyond_all_numbers(told):
    def spoil(run):
        for parameter in run.parameters:
            parameter.data.fill_(1e30)

    message = told(spoil)
    says(message, "the student", "lower learning_rate")
    assert "Check its LoRA" not in message and "the base model gives" not in message


def test_a_gradient(told, monkeypatch):
    real = loop.average_gradients

    def average(accelerator, parameters):
        real(accelerator, parameters)
        if parameters[0].grad.isfinite().all() and average.due:
            fill(parameters[0].grad)

    average.due = False

    def spoil(run):
        average.due = True

    monkeypatch.setattr(loop, "average_gradients", average)
    message = told(spoil)
    says(message, "the gradient of step 2", "the loss is finite and its gradient is not", "lower learning_rate")


def test_one_prompt_among_several_is_named(told, monkeypatch):
    def spoil(run):
        family = type(run.fields.base.family)
        velocity = family.velocity
        bad = run.data.encodings.prompts.get("red cat red cat red cat big")

        def breaks(self, transformer, z, sigma, condition):
            answer = velocity(self, transformer, z, sigma, condition)
            for row, item in enumerate(condition.items):
                if all(item[name].data_ptr() == tensor.data_ptr() for name, tensor in bad.items()):
                    answer = answer.index_fill(0, torch.tensor([row]), NAN)
            return answer

        monkeypatch.setattr(family, "velocity", breaks)

    message = told(spoil, {"a": {}}, train_batch_size=4, gradient_accumulation_steps=1)
    assert 'for the prompt "red cat red cat red cat big"' in message


# --- saves that fail while something else is told


def test_a_save_that_fails_does_not_hide_what_broke(told, monkeypatch):
    def spoil(run):
        for name in run.fields.teachers:
            fill(next(iter(run.fields.adapters.state_dict(f"teacher_{name}").values())))

    def fails(*_):
        raise UserError("this file cannot be written")

    monkeypatch.setattr(output_module, "write_lora", fails)
    message = told(spoil)
    says(message, "the loss of step 2", "Check its LoRA", "are lost: this file cannot be written")


def test_weights_that_a_step_has_broken_are_not_saved_as_a_result(pipelines, two_teachers, tmp_path, monkeypatch):
    """The last step: no further loss would show it."""

    def spoil(self, *given):
        step(self, *given)
        if self.step == self.total:
            fill(self.parameters[0])

    step = loop.Run.one_step
    monkeypatch.setattr(loop.Run, "one_step", spoil)
    preset = write_preset(tmp_path / "run", pipelines["sd3"], two_teachers["sd3"], max_train_steps=2, rollout_steps=2)
    with pytest.raises(TrainingError, match=r"the student's weights are NaN or infinite after step 2.*are not saved"):
        main(["--config", str(preset)])
    assert not [*(tmp_path / "run" / "output").glob("*.safetensors")]


def test_the_search_itself_may_fail(told, monkeypatch):
    """Then the usual causes are told, and what is good is saved."""
    original = loop.blame

    def with_little_memory(run, report):
        def fails(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(run, "update", fails)
        return original(run, report)

    def spoil(run):
        fill(run.fields.adapters.transformer.pos_embed.proj.weight)
        monkeypatch.setattr(loop, "blame", with_little_memory)

    message = told(spoil)
    says(
        message,
        "the search for the part that broke failed (CUDA out of memory)",
        "lower learning_rate",
        "check teacher",
        "are saved in",
    )
