"""A wrong argument of the toolkit is told with its place, what it takes and what was given."""

from __future__ import annotations

import argparse
import re

import pytest

from danceopd_ext.errors import UserError
from tests.toolkits.hosted.parser import build


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dims": 3}, 'p.toml: unknown key dims: sd-scripts has no such argument. Did you mean "dim"?'),
        ({"rollout_step": 3}, 'rollout_step: sd-scripts has no such argument. Did you mean "rollout_steps"?'),
        ({"components_from": "a"}, 'p.toml: unknown key components_from: only toolkit = "native" has it. Remove it.'),
        ({"dim": "8"}, 'p.toml: dim = "8": takes a whole number. Write it without quotes.'),
        ({"dim": "x"}, 'p.toml: dim = "x": takes a whole number.'),
        ({"dim": 8.0}, "p.toml: dim = 8.0: takes a whole number. Write 8."),
        ({"dim": 8.5}, "p.toml: dim = 8.5: takes a whole number."),
        ({"dim": True}, "p.toml: dim = true: takes a whole number."),
        ({"dim": [8]}, "p.toml: dim = [8]: takes a single value, not a list."),
        ({"alpha": "1e-4"}, 'p.toml: alpha = "1e-4": takes a number. Write it without quotes.'),
        ({"alpha": False}, "p.toml: alpha = false: takes a number."),
        ({"output_name": 5}, 'p.toml: output_name = 5: takes text: write "5".'),
        ({"output_name": True}, 'p.toml: output_name = true: takes text: write "true".'),
        ({"dataset_config": 1.5}, 'p.toml: dataset_config = 1.5: takes text: write "1.5".'),
        ({"network_args": [4]}, 'p.toml: network_args = [4]: takes text: write "4".'),
        ({"network_args": [["a=1"]]}, "takes text"),
        ({"warmup": "x"}, "p.toml: warmup = \"x\": cannot be read: 'x' is no number."),
        ({"warmup": True}, "p.toml: warmup = true: cannot be read: 'true' is no number."),
        ({"flip": 1}, "p.toml: flip = 1: takes true or false."),
        ({"plain_bool": 1}, "p.toml: plain_bool = 1: takes true or false."),
        ({"plain_bool": "true"}, 'p.toml: plain_bool = "true": takes true or false. Write it without quotes.'),
        ({"sdpa": 1}, "p.toml: sdpa = 1: takes true or false."),
        ({"sdpa": "true"}, 'p.toml: sdpa = "true": takes true or false. Write it without quotes.'),
        ({"precision": "bf"}, 'p.toml: precision = "bf": takes one of "no", "fp16", "bf16". Did you mean "bf16"?'),
        ({"stage": 5}, "p.toml: stage = 5: takes one of 0, 1, 2."),
        ({"kinds": ["style", "edits"]}, 'takes one of "style", "edit". Did you mean "edit"?'),
        ({"rates": []}, "p.toml: rates = []: needs at least one value."),
        ({"rates": ["1"]}, "takes a number. Write it without quotes."),
        ({"betas": [1]}, "p.toml: betas = [1]: takes 2 values, not 1."),
        ({"config_file": "a"}, "p.toml: config_file cannot be given here: a preset cannot read another preset"),
        ({"output_config": True}, "p.toml: output_config cannot be given here: the toolkit would write a preset"),
        ({"help": True}, "p.toml: help cannot be given here: it only works on the toolkit's own command line."),
        ({"version": True}, "p.toml: version cannot be given here"),
        ({"fa": True, "flash_attn": True}, "p.toml: fa = true and flash_attn are the same argument. Remove one."),
    ],
)  # fmt: skip
def test_wrong_values(values, message):
    with pytest.raises(UserError) as error:
        build(values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dims": ["3"]}, 'unknown argument --dims: sd-scripts has no such argument. Did you mean "dim"?'),
        ({"dim": ["x"]}, "--dim x: takes a whole number."),
        ({"dim": ["1.0"]}, "--dim 1.0: takes a whole number."),
        ({"alpha": ["x"]}, "--alpha x: takes a number."),
        ({"dim": []}, "--dim: needs a value: write --dim VALUE."),
        ({"output_name": ["a", "b"]}, "--output_name a b: takes one value, not 2: put a value with spaces in quotes."),
        ({"sdpa": ["1"]}, "--sdpa 1: is a switch: write --sdpa, or --sdpa false."),
        ({"sdpa": ["true", "false"]}, "--sdpa true false: is a switch"),
        ({"flip": ["maybe"]}, "--flip maybe: cannot be read."),
        ({"plain_bool": ["1"]}, "--plain_bool 1: takes true or false."),
        ({"warmup": ["x"]}, "--warmup x: cannot be read: 'x' is no number."),
        ({"precision": ["bf17"]}, '--precision bf17: takes one of "no", "fp16", "bf16". Did you mean "bf16"?'),
        ({"rates": []}, "--rates: needs at least one value."),
        ({"help": []}, "--help cannot be given here: it only works"),
        ({"config_file": ["a"]}, "--config_file cannot be given here: a preset cannot read another preset"),
    ],
)
def test_wrong_words(flags, message):
    with pytest.raises(UserError) as error:
        build({}, flags)
    assert str(error.value).startswith(message)


def test_the_path_is_named_where_the_preset_is_wrong_and_only_there():
    with pytest.raises(UserError, match=r"^--dim x"):
        build({"dim": 3}, {"dim": ["x"]})


def test_long_lists_of_choices_are_cut():
    parser = argparse.ArgumentParser()
    parser.add_argument("--many", choices=[f"choice{number}" for number in range(30)])
    with pytest.raises(UserError) as error:
        build({"many": "x"}, parser=parser)
    assert '"choice11", ...' in str(error.value) and "choice12" not in str(error.value)


def test_required_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dit", required=True)
    with pytest.raises(UserError, match=re.escape('p.toml: "dit" is missing: sd-scripts needs it.')):
        build(parser=parser)
    assert build({"dit": "a"}, parser=parser).namespace.dit == "a"
    assert build({}, {"dit": ["a"]}, parser=parser).namespace.dit == "a"
    assert build(parser=parser, ours=("dit",)).namespace.dit is None
    assert next(action for action in parser._actions if action.dest == "dit").required, "left as it was"
