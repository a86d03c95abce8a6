"""Every number that a person can write has a limit at both ends, and what is past it is refused by its name."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import typing
from pathlib import Path

import pytest

from danceopd_ext.config import name_value_pairs
from danceopd_ext.config.danceopd import Teacher
from danceopd_ext.config.fields import check_ranges, key_types
from danceopd_ext.config.load import build_preset, parse_flag
from danceopd_ext.config.schema import SECTIONS
from danceopd_ext.data.dataset_schema import DATASET_KEYS, INHERITED_KEYS, NUMBERS, check_table
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.data.route_weights import check_weights
from danceopd_ext.errors import UserError
from danceopd_ext.ranges import PIXELS, Range, shown, written
from danceopd_ext.toolkits.hosted.number_limits import ANY, LIMITS
from danceopd_ext.toolkits.native.prompt_lines import parse_line
from danceopd_ext.whole_numbers import positive, whole

#: no float, no index and no allocator holds them; Python itself does not write the last one down
HUGE = (10**18, 10**40, 10**400, 10**5000)


def holds_numbers(annotation: object) -> bool:
    arguments = typing.get_args(annotation)
    return annotation in (int, float) or any(map(holds_numbers, arguments))


def numeric_keys() -> list[tuple[type, dataclasses.Field]]:
    """Every key of every section, and of a teacher, that takes a number or a list of numbers."""
    return [
        (cls, field)
        for cls in (*SECTIONS.values(), Teacher)
        for field in dataclasses.fields(cls)
        if holds_numbers(key_types(cls)[field.name]) and typing.get_origin(key_types(cls)[field.name]) is not dict
    ]


KEYS = [pytest.param(cls, field, id=field.name) for cls, field in numeric_keys()]


def test_there_are_numbers_in_the_schema():
    names = {field.name for _, field in numeric_keys()}
    assert {"network_dim", "strength", "resolution", "lr_warmup_steps", "seed", "extract_rank"} <= names


@pytest.mark.parametrize(("cls", "field"), KEYS)
def test_every_number_of_a_preset_has_two_limits(cls, field):
    assert field.metadata["within"].is_closed


def past(within: Range) -> list[float]:
    """Numbers on the wrong side of each limit."""
    low = within.minimum - 1 if within.minimum is not None else within.above - 1
    high = within.maximum if within.maximum is not None else within.below
    return [low, high + 1, -(10**400), *(number for number in HUGE if number > high)]


@pytest.mark.parametrize(("cls", "field"), KEYS)
def test_a_number_past_a_limit_is_refused_by_its_name(cls, field):
    """Where a section is checked, whatever its other keys are."""
    for number in past(field.metadata["within"]):
        section = object.__new__(cls)
        vars(section).update({one.name: None for one in dataclasses.fields(cls)} | {field.name: number})
        with pytest.raises(UserError, match=rf"^{field.name} = .*must be"):
            check_ranges(section)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max_train_steps", 10**18, ["1,000,000 or less", "usual values are 500 to 20,000"]),
        ("network_dim", 10**6, ["4096 or less", "usual values are 4 to 128"]),
        ("rollout_steps", 10**7, ["1000 or less"]),
        ("network_alpha", 1e300, ["100000 or less"]),
        ("network_alpha", 10**400, ["must be a finite number"]),
        ("learning_rate", 1e6, ["100 or less"]),
        ("network_dropout", 1, ["below 1"]),
        ("max_grad_norm", 1e30, ["0 turns clipping off"]),
        ("seed", 2**64, ["18,446,744,073,709,551,615 or less"]),
        ("resolution", [64, 10**9], ["16,384 or less"]),
        ("resolution", "64,1000000", ["16,384 or less"]),
        ("save_every_n_steps", 10**9, ["leave it out"]),
    ],
)
def test_what_is_said_of_a_number_that_is_too_large(key, value, words):
    with pytest.raises(UserError) as error:
        preset = build_preset({"pretrained_model_name_or_path": "m", "teachers": {"a": {}}, key: value}, Path())
        parse_resolution(preset.dataset.resolution, "resolution")
    assert str(error.value).startswith(key)
    assert all(word.replace("100000", "100,000") in str(error.value) for word in words)


@pytest.mark.parametrize("key", ["strength", "guidance_scale", "extract_rank"])
def test_a_teachers_numbers(key):
    given = {"checkpoint": "b"} if key == "extract_rank" else {"lora": "a"}
    values = {"teachers": {"one": {**given, key: 10**9}}}
    with pytest.raises(UserError, match=rf"\[danceopd.teachers.one\]: {key} = "):
        build_preset({"pretrained_model_name_or_path": "m", **values}, Path())


def test_the_samples_of_a_step():
    """Each factor is allowed, and their product would never end."""
    keys = {"train_batch_size": 1000, "gradient_accumulation_steps": 1000}
    with pytest.raises(UserError, match=r"train_batch_size = 1000 times gradient_accumulation_steps = 1000.*4096"):
        build_preset({"pretrained_model_name_or_path": "m", "teachers": {"a": {}}, **keys}, Path())


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_flag_with_thousands_of_digits(digits):
    """It is read as infinity, or as a text that is no number."""
    try:
        value = parse_flag("max_grad_norm", "9" * digits)
    except UserError as error:
        assert "--max_grad_norm" in str(error)
    else:
        assert math.isinf(value)


# --- datasets and prompts


def test_every_number_of_a_dataset_file_has_two_limits():
    keys = DATASET_KEYS | INHERITED_KEYS
    switches = [name for name, check in keys.items() if check(True) is None and name != "resolution"]
    takes_numbers = [name for name, check in keys.items() if name not in switches and check(1) is None]
    assert sorted([*NUMBERS, "resolution"]) == sorted(takes_numbers)
    assert all(within.is_closed for within in NUMBERS.values())


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_a_dataset_file_past_a_limit(name):
    for number in past(NUMBERS[name]):
        _, wrong = check_table({name: number}, "[general]")
        assert len(wrong) == 1 and wrong[0].startswith(f"{name} = ")


@pytest.mark.parametrize("value", [10**9, "64,99999999", "9" * 5000, [64, 10**400], [10**5000]])
def test_a_side_of_too_many_pixels(value):
    with pytest.raises(UserError, match=r"resolution: .*(pixels|size)"):
        parse_resolution(value, "resolution")


@pytest.mark.parametrize("line", ["a cat --w 999999", "a cat --h 100000"])
def test_a_prompt_with_too_many_pixels(tmp_path, line):
    (tmp_path / "a.txt").write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match=r"a.txt, line 1: --[wh] = \d+: must be 16,384 or less"):
        read_prompts(tmp_path / "a.txt", [(64, 64)])


@pytest.mark.parametrize(
    "line", ["--s 1000000", "--w 99999999", "--h 99999999", f"--d {10**30}", "--l 1e30", "--s " + "9" * 5000]
)
def test_a_sample_prompt_past_a_limit(line):
    with pytest.raises(ValueError, match=re.escape(line.split()[0])):
        parse_line(f"a cat {line}")


@pytest.mark.parametrize("weight", [1e300, math.inf, math.nan, 1e-300, 10**400])
def test_a_weight_that_no_route_can_have(weight):
    with pytest.raises(UserError, match=r"\[danceopd.routes\]: a = "):
        check_weights({"a": weight}, ["a", "b"])


def test_a_dataset_number_that_no_file_has():
    values = {"teachers": {"a": {}}, "datasets": {"a": 10**9}}
    with pytest.raises(UserError, match=r"\[danceopd.datasets\] a = 1000000000: no dataset file"):
        build_preset({"pretrained_model_name_or_path": "m", "toolkit": "musubi-tuner", **values}, Path())


# --- arguments of optimizers, toolkits and commands


@pytest.mark.parametrize(
    "pair",
    [
        "weight_decay=1e300",
        "weight_decay=-1",
        "betas=0.9,7",
        "eps=1e9",
        "momentum=2",
        "anything=1e300",
        "k=1" + "0" * 30,
    ],
)
def test_arguments_of_an_optimizer_past_a_limit(pair):
    with pytest.raises(UserError, match=rf"optimizer_args: {pair.partition('=')[0]} = .*must be"):
        name_value_pairs.parse_pairs([pair], "optimizer_args")


def test_every_limit_of_a_toolkit_has_two_ends():
    assert all(
        within.is_closed for within in (*LIMITS.values(), ANY, *name_value_pairs.LIMITS.values(), name_value_pairs.ANY)
    )


@pytest.mark.parametrize("text", ["0", "-3", "two", "16385", "9" * 5000, "1e3", "²"])
def test_an_option_past_a_limit(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"whole number|must be 16,384 or less"):
        whole(PIXELS)(text)


def test_an_option_within_its_limits():
    assert whole(PIXELS)("64") == 64
    assert positive("7") == 7


# --- the range itself


def test_both_ends_of_a_range():
    within = Range(minimum=1, maximum=4, lowest="1 is none", usual="the usual value is 2")
    assert [bool(within.wrong(n)) for n in (0, 1, 4, 5)] == [True, False, False, True]
    assert within.wrong(0) == "must be 1 or more; 1 is none"
    assert within.wrong(5) == "must be 4 or less; the usual value is 2"
    assert within.wrong(math.nan) == within.wrong(math.inf) == "must be a finite number"
    outside = Range(above=0, below=1)
    assert [bool(outside.wrong(n)) for n in (0, 0.5, 1)] == [True, False, True]
    assert not Range(minimum=1).is_closed and not Range(below=1).is_closed and outside.is_closed


@pytest.mark.parametrize(
    ("number", "text"),
    [(4096, "4096"), (16384, "16,384"), (1e5, "100,000"), (0.5, "0.5"), (10**40, "a number of about 41 digits")],
)
def test_how_numbers_are_shown(number, text):
    assert shown(number) == text


def test_a_number_that_python_does_not_write():
    assert written([1, 10**5000]) == "[1, a number of about 5,001 digits]"
    assert written({"a": 10**5000}) == "a value that contains a number with thousands of digits"
