"""Who is blamed, on fields of one line each."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.config.schema import Teacher
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.nan_search import Parties, Watched, do_again, explain, files_of

Z, SIGMA = torch.ones(2, 3), torch.full((2,), 0.5)
CONDITION = Conditions({"text": torch.zeros(2, 1)}, ["a", "a"], {"text": torch.ones(1, 1)})


def still(z, sigma, condition):
    return z * 0


def parties(base=still, teacher=still, scale=1.0, precision="bf16", weight=None, student=()) -> Parties:
    files = files_of({"a": Teacher(lora="a.safetensors")})
    return Parties(base, {"a": teacher}, {"a": scale}, files, precision, lambda: weight, student)


def found(who, field, z=Z):
    one = do_again(lambda watch: watch(who, field)(z, SIGMA, CONDITION))
    assert one is not None
    return one


def wrong(number):
    return lambda z, sigma, condition: z * number


def test_a_sound_step_has_nothing_to_find():
    assert do_again(lambda watch: watch("a", still)(Z, SIGMA, CONDITION)) is None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e9])
def test_whoever_answers_first_is_found(number):
    assert found("a", wrong(number)).who == "a"
    assert found("a", wrong(number)).rows == [0, 1]
    one = found(STUDENT, lambda z, *_: torch.stack([z[0], z[1] * number]))
    assert (one.who, one.rows, one.exploded) == (STUDENT, [1], False)
    assert one.one[0].shape == (1, 3) and one.one[2].routes == ["a"]


def test_a_rollout_that_grows_is_the_students():
    one = found("a", still, Z * 1e9)
    assert one.exploded
    assert "the student's rollout diverges; the base alone does not" in explain(one, parties())
    assert "the base model gives NaN" in explain(one, parties(base=wrong(float("inf"))))


def test_the_base_comes_before_teacher_and_student():
    broken = wrong(float("nan"))
    for who in ("a", STUDENT):
        assert "the base model's weight blocks.1 holds NaN" in explain(
            found(who, broken), parties(base=broken, weight="blocks.1")
        )
        assert "its weights are finite" in explain(found(who, broken), parties(base=broken))
        grown = parties(base=broken, student=[torch.ones(2), torch.full((2,), 1e8)])
        assert "the student's weights have grown up to 1e+08" in explain(found(who, broken), grown)


def test_what_a_teacher_has_of_its_own():
    said = explain(found("a", wrong(1e9)), parties(teacher=wrong(1e9)), "a cat")
    assert said.startswith('teacher a gives numbers above 1e+06 for the prompt "a cat", and the base does not. ')
    assert "Check its LoRA a.safetensors (strength 1): use less strength" in said and "bf16" not in said
    assert 'mixed_precision = "bf16"' in explain(found("a", wrong(1e9)), parties(precision="fp16"))


def test_guidance_or_the_empty_prompt():
    strong = found("a", wrong(float("inf")))
    assert "guidance_scale = 9 is too strong" in explain(strong, parties(scale=9.0))

    def breaks_for_nothing(z, sigma, condition):
        return z / (1 - condition["text"])  # the empty prompt's text is 1

    assert "it breaks for the empty prompt" in explain(strong, parties(teacher=breaks_for_nothing, scale=9.0))


def test_the_files_of_teachers():
    teachers = {"base": Teacher(), "two": Teacher(lora=["a", "b"], strength=[1, 0.5]), "real": Teacher(checkpoint="m")}
    assert files_of(teachers) == {"two": "its LoRA a, b (strength 1, 0.5)", "real": "its checkpoint m"}


def test_a_watched_field_costs_what_it_costs():
    assert Watched("a", still).forwards(CONDITION) == 2
