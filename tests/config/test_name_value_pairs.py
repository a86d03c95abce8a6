"""The texts of optimizer_args and lr_scheduler_args are read as they are meant, or refused with the remedy."""

from __future__ import annotations

import ast

import pytest

from danceopd_ext.config.name_value_pairs import parse_pairs, python_pairs
from danceopd_ext.errors import UserError


def test_values():
    texts = ["betas=0.9, 0.99", "eps=1e-8", "d0 = 1e-6", "decay_type='cosine'", "n=-3", "none=None", "", " "]
    assert parse_pairs(texts, "optimizer_args") == {
        "betas": (0.9, 0.99), "eps": 1e-8, "d0": 1e-6, "decay_type": "cosine", "n": -3, "none": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [("false", False), ("False", False), ("FALSE", False), (" false ", False), ("true", True), ("TRUE", True)],
)
def test_true_and_false_in_any_case(text, value):
    assert parse_pairs([f"relative_step={text}"], "optimizer_args") == {"relative_step": value}


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["weight_decay=0.5,", "a=1", "decouple=True,"],
         ['"weight_decay=0.5," and "decouple=True,"', "comma", '["weight_decay=0.5", "decouple=True"]']),
        (["weight_decay=0.5, decouple=True"], ["more than one argument", '["weight_decay=0.5", "decouple=True"]']),
        (["weight_decay=0.5 decouple=True"], ["more than one argument", '["weight_decay=0.5", "decouple=True"]']),
        (["decouple=yes"], ['"decouple=yes"', "true, false", "decouple='yes'"]),
        (["eps=1e-8f"], ['"eps=1e-8f"', "not a number"]),
        (["eps="], ['"eps="', "no value"]),
        (["eps"], ["name=value"]),
        (["eps=1", "eps=2"], ["eps is given twice"]),
    ],
)  # fmt: skip
def test_slips_are_named(texts, parts):
    with pytest.raises(UserError) as error:
        parse_pairs(texts, "optimizer_args")
    assert str(error.value).startswith("optimizer_args: ")
    for part in parts:
        assert part in str(error.value)


def test_a_toolkit_gets_what_python_reads():
    texts = ["relative_step=false", "warmup_init=TRUE", "betas=0.9,0.99", "beta1=null"]
    found = python_pairs(texts, "optimizer_args")
    assert found == ["relative_step=False", "warmup_init=True", "betas=0.9,0.99", "beta1=None"]
    assert [ast.literal_eval(one.partition("=")[2]) for one in found] == [False, True, (0.9, 0.99), None]


@pytest.mark.parametrize(
    "value", ["(" * 10**5, "-" * 10**6 + "1", "1+" * 10**5 + "1", "9" * 5000, "[" * 900 + "]" * 900]
)
def test_a_value_that_is_hard_to_parse_is_a_message(value):
    with pytest.raises(UserError, match="optimizer_args: ") as error:
        parse_pairs([f"eps={value}"], "optimizer_args")
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("value", ["(" * 900, "[" * 400 + "]" * 400, "9" * 900])
def test_a_value_within_the_limit_is_parsed_or_a_message(value):
    try:
        parse_pairs([f"eps={value}"], "optimizer_args")
    except UserError as error:
        assert str(error).startswith("optimizer_args: ")
