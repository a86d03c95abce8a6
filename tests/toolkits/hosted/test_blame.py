"""A hosted loss that is not a number is blamed on the part that broke."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from danceopd_ext.config.schema import Teacher
from danceopd_ext.errors import TrainingError
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT
from danceopd_ext.toolkits.hosted.nan_search import blame
from tests.toolkits.hosted.toys import SHAPE, Toys

NAN = float("nan")


def told(toys: Toys, *routes: str, condition=None) -> str:
    with pytest.raises(TrainingError) as error:
        toys.distiller.loss(toys.transformer, condition or toys.condition(*routes), SHAPE)
    assert (toys.switch.active, toys.switch.training) == (STUDENT, True)
    return str(error.value)


@pytest.mark.parametrize("captions", [(), ["a cat", "a dog"]])
def test_an_encoded_text(captions):
    toys = Toys()
    condition = replace(toys.condition("a", "b"), captions=captions)
    condition.entries["text"][1] = NAN
    message, named = told(toys, condition=condition), '"a dog"' if captions else "sample 2"
    assert f"the encoded data of {named} holds NaN" in message
    assert "cache file" in message and "learning_rate" not in message


def test_texts_of_different_lengths():
    toys = Toys()
    condition = toys.condition("a", "b")
    entries = {**condition.entries, "list": [torch.zeros(3), torch.tensor([1.0, NAN])]}
    condition = replace(condition, entries=entries)
    said = blame(toys.distiller, toys.transformer, condition, toys.distiller.batch(condition, SHAPE))
    assert said.startswith("the encoded data of sample 2 holds NaN or infinite numbers (list)")


def test_the_empty_prompt():
    toys = Toys({"a": Teacher(lora="a", guidance_scale=2.0)})
    condition = toys.condition("a")
    condition.empty["text"].fill_(NAN)
    assert "the encoded empty prompt holds NaN" in told(toys, condition=condition)


def test_the_noise_levels():
    toys = Toys()
    toys.distiller.adapter.sigmas = lambda steps, shape: torch.full((steps + 1,), NAN)
    assert "the noise levels of the toolkit's sampler" in told(toys, "a")


def test_the_base():
    toys = Toys()
    toys.weight.data[0, 0] = NAN
    message = told(toys, "a", "b")
    assert "the base model's weight weight holds NaN" in message and "Download the model again" in message
    assert "learning_rate" not in message


def test_a_base_that_overflows_in_fp16():
    toys = Toys()
    toys.accelerator.mixed_precision = "fp16"
    velocity = toys.distiller.adapter.velocity
    toys.distiller.adapter.velocity = lambda *asked: velocity(*asked) * float("inf")
    message = told(toys, "a")
    assert "the base model gives NaN" in message and 'set mixed_precision = "bf16"' in message


def test_a_teacher():
    toys = Toys({"a": Teacher(lora="a.safetensors", strength=2.0), "b": Teacher(lora="b"), "base": Teacher()})
    toys.teachers["a"].up.data[0, 0] = NAN
    message = told(toys, "a", "b")
    assert "teacher a gives NaN or infinite numbers, and the base does not" in message
    assert "Check its LoRA a.safetensors (strength 2): use less strength" in message
    assert "learning_rate" not in message


def test_guidance_that_is_too_strong():
    toys = Toys({"a": Teacher(lora="a", guidance_scale=9.0)})
    toys.distiller.adapter.guided = lambda field, scale: lambda *asked: field(*asked) * (NAN if scale > 1 else 1)
    assert "its guidance_scale = 9 is too strong" in told(toys, "a")


def test_the_students_weights():
    toys = Toys()
    toys.student.up.data.fill_(float("inf"))
    message = told(toys, "a")
    assert "the student's own weights are NaN or infinite" in message and "lower learning_rate" in message


def test_a_student_that_has_grown_too_large():
    toys = Toys()
    toys.student.up.data.fill_(1e30)
    toys.student.down.data.fill_(1e30)
    message = told(toys, "a")
    assert "the student's weights have grown up to 1e+30" in message and "lower learning_rate" in message


def test_a_student_whose_loss_alone_overflows():
    """Each velocity is finite, its square is not, and the base alone answers as usual."""
    toys = Toys()
    toys.student.up.data.fill_(3e5)
    toys.student.down.data.fill_(3e15)
    message = told(toys, "a")
    assert "the student gives numbers above 1e+06, and the base alone does not" in message


def test_the_prompt_is_named_where_one_of_several_breaks():
    toys = Toys()
    condition = replace(toys.condition("a", "a", "a"), captions=["one", "two", "three"])
    velocity, bad = toys.distiller.adapter.velocity, condition.entries["text"][1].clone()

    def breaks(transformer, z, sigma, given):
        answer = velocity(transformer, z, sigma, given)
        rows = [row for row, text in enumerate(given["text"]) if text.equal(bad)]
        return answer.index_fill(0, torch.tensor(rows, dtype=torch.long), NAN)

    toys.distiller.adapter.velocity = breaks
    assert 'for the prompt "two"' in told(toys, condition=condition)


def test_the_search_itself_may_fail(monkeypatch):
    toys = Toys()
    toys.weight.data[0, 0] = NAN
    first = type(toys.distiller).stop_for_nan

    def with_little_memory(distiller, *given):
        def fails(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        distiller.adapter.velocity = fails
        first(distiller, *given)

    monkeypatch.setattr(type(toys.distiller), "stop_for_nan", with_little_memory)
    message = told(toys, "a")
    assert "the search for the part that broke failed (CUDA out of memory)" in message and "check teacher a" in message
