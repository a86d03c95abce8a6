"""The toolkit's arguments are what its own command line would make of them, wherever they were given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from danceopd_ext.errors import UserError
from tests.toolkits.hosted.parser import build, int_or_float, make_parser


def test_the_defaults_are_those_of_the_parser(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--dim", "99", "--nonsense"])
    arguments = build()
    assert vars(arguments.namespace) == vars(make_parser().parse_args([]))
    assert arguments.namespace.hidden == 5 and arguments.namespace.default_text == 7
    assert arguments.given == {}
    assert arguments.defaults["dim"] == 4


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("output_name", "a", "a"),
        ("dataset_config", "a/b.toml", Path("a/b.toml")),
        ("untyped", "b", "b"),
        ("dim", 8, 8),
        ("alpha", 8, 8.0),
        ("alpha", 0.5, 0.5),
        ("warmup", 100, 100),
        ("warmup", 0.5, 0.5),
        ("warmup", "20", 20),
        ("flip", True, True),
        ("flip", False, False),
        ("flip", "true", True),
        ("plain_bool", True, True),
        ("plain_bool", False, False),
        ("precision", "bf16", "bf16"),
        ("stage", 2, 2),
        ("network_args", ["a=1", "b=2"], ["a=1", "b=2"]),
        ("network_args", "a=1", ["a=1"]),
        ("network_args", [], []),
        ("rates", 1, [1.0]),
        ("rates", [1, 0.5], [1.0, 0.5]),
        ("betas", [1, 2], [1.0, 2.0]),
        ("offload", "some", "some"),
        ("kinds", ["style"], ["style"]),
        ("sdpa", True, True),
        ("sdpa", False, False),
    ],
)
def test_values_of_the_preset(name, value, expected):
    arguments = build({name: value})
    found = getattr(arguments.namespace, name)
    assert (found, type(found)) == (expected, type(expected))
    if isinstance(found, list):
        assert [type(one) for one in found] == [type(one) for one in expected]
    assert set(arguments.given) == {name}
    others = {key: default for key, default in arguments.defaults.items() if key != name}
    assert others == {key: found for key, found in vars(arguments.namespace).items() if key != name}


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("output_name", ["a"], "a"),
        ("output_name", ["5"], "5"),
        ("dataset_config", ["a"], Path("a")),
        ("dim", ["8"], 8),
        ("alpha", ["8"], 8.0),
        ("warmup", ["100"], 100),
        ("flip", ["TRUE"], True),
        ("plain_bool", ["false"], False),
        ("precision", ["fp16"], "fp16"),
        ("stage", ["1"], 1),
        ("network_args", ["a=1", "b=2"], ["a=1", "b=2"]),
        ("network_args", [], []),
        ("rates", ["1", "2"], [1.0, 2.0]),
        ("offload", [], "all"),
        ("offload", ["some"], "some"),
        ("sdpa", [], True),
        ("sdpa", ["false"], False),
        ("sdpa", ["True"], True),
    ],
)
def test_words_of_the_command_line_win(name, words, expected):
    before = {"output_name": "old", "dim": 2, "sdpa": True, "network_args": ["old=1"]}
    arguments = build(before, {name: words})
    found = getattr(arguments.namespace, name)
    assert (found, type(found)) == (expected, type(expected))
    assert arguments.given[name] == " ".join([f"--{name}", *words])


def test_what_was_given_is_kept_as_it_was_written():
    arguments = build({"dim": 4, "network_args": ["a=1"], "sdpa": True, "alpha": 2}, {"alpha": ["3"]})
    assert arguments.given == {
        "dim": "dim = 4", "network_args": 'network_args = ["a=1"]', "sdpa": "sdpa = true", "alpha": "--alpha 3"
    }  # fmt: skip
    assert arguments.path == Path("p.toml")


@pytest.mark.parametrize(
    ("given", "half", "shuffle", "flash"),
    [
        ({}, True, True, False),
        ({"no_half": True}, False, True, False),
        ({"no_half": False}, True, True, False),
        ({"half": False}, False, True, False),
        ({"half": True}, True, True, False),
        ({"shuffle": False}, True, False, False),
        ({"no_shuffle": True}, True, False, False),
        ({"flash_attn": True}, True, True, True),
        ({"fa": True}, True, True, True),
        ({"attention_flash": True}, True, True, True),
    ],
)
def test_switches_under_all_their_names(given, half, shuffle, flash):
    flags = {name: [str(value).lower()] for name, value in given.items()}
    for arguments in (build(given), build({}, flags)):
        found = arguments.namespace
        assert (found.half, found.shuffle, found.attention_flash) == (half, shuffle, flash)
        assert len(arguments.given) == len(given)


def test_ours_need_not_be_known():
    arguments = build({"route_key": 1, "dim": 8}, {"other_key": ["x"]}, ours=("route_key", "other_key", "dim"))
    assert arguments.namespace.dim == 8, "what the parser knows is set all the same"
    assert not hasattr(arguments.namespace, "route_key")
    assert set(arguments.given) == {"dim"}


@pytest.fixture
def optimizer_parser():
    parser = make_parser()
    for name in ("optimizer_args", "lr_scheduler_args"):
        parser.add_argument(f"--{name}", nargs="*")
    parser.add_argument("--save_every_n_steps", type=int)
    parser.add_argument("--save_last_n_steps", type=int)
    parser.add_argument("--optimizer_type", default="")
    parser.add_argument("--learning_rate", type=float, default=2e-6)
    parser.add_argument("--lr_scheduler", default="constant")
    parser.add_argument("--lr_scheduler_type", default="")
    parser.add_argument("--lr_warmup_steps", type=int_or_float, default=0)
    return parser


@pytest.mark.parametrize("keys", [{}, {"lr_scheduler": "constant"}])
def test_a_warm_up_that_the_toolkit_would_refuse_is_found_before_the_run(optimizer_parser, keys):
    with pytest.raises(UserError, match=r'p.toml: lr_warmup_steps = 5: .*"constant_with_warmup"'):
        build({"lr_warmup_steps": 5, **keys}, parser=optimizer_parser)


@pytest.mark.parametrize("keys", [{"lr_scheduler": "cosine"}, {"lr_scheduler_type": "StepLR"}, {"lr_warmup_steps": 0}])
def test_a_warm_up_that_it_takes_is_left_to_it(optimizer_parser, keys):
    build({"lr_warmup_steps": 5, **keys}, parser=optimizer_parser)


def test_a_rate_at_which_nothing_is_learned_is_found_before_the_run(optimizer_parser):
    with pytest.raises(UserError, match=r"p.toml: learning_rate = 0.0001: Prodigy finds the rate itself"):
        build({"optimizer_type": "Prodigy", "learning_rate": 1e-4}, parser=optimizer_parser)
    build({"optimizer_type": "Prodigy"}, parser=optimizer_parser)
    build({"optimizer_type": "Prodigy", "learning_rate": 1e-4, "optimizer_args": ["d0=1"]}, parser=optimizer_parser)


def test_all_unknown_arguments_in_one_message():
    with pytest.raises(UserError) as error:
        build({"dimm": 4, "alpha": 1, "nonsense": True}, {"sdpaa": []})
    message = str(error.value)
    assert all(part in message for part in ("unknown key dimm", '"dim"', "unknown key nonsense", "argument --sdpaa"))
    assert message.startswith("p.toml: these cannot be used here:\n- ")


@pytest.mark.parametrize("name", ["optimizer_args", "lr_scheduler_args"])
@pytest.mark.parametrize("on_the_command_line", [False, True])
def test_pairs_are_what_the_toolkit_evaluates(optimizer_parser, name, on_the_command_line):
    pairs = {name: ["relative_step=false", "betas=0.9,0.99"]}
    arguments = build(*((None, pairs) if on_the_command_line else (pairs,)), parser=optimizer_parser)
    assert getattr(arguments.namespace, name) == ["relative_step=False", "betas=0.9,0.99"]


@pytest.mark.parametrize("name", ["optimizer_args", "lr_scheduler_args"])
def test_slips_in_pairs_are_found_before_the_run(optimizer_parser, name):
    with pytest.raises(UserError, match=rf'p.toml: {name}: "weight_decay=0.5,": remove the comma'):
        build({name: ["weight_decay=0.5,"]}, parser=optimizer_parser)


def test_what_a_gui_left_open_is_not_given(optimizer_parser):
    values = {"output_name": "", "dim": "", "sdpa": "", "save_every_n_steps": 0, "save_last_n_steps": 0, "alpha": 0}
    arguments = build(values, parser=optimizer_parser)
    assert set(arguments.given) == {"alpha"}
    assert vars(arguments.namespace) == {**arguments.defaults, "alpha": 0}


def test_the_home_folder(monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "/home/me")
    arguments = build({"output_name": "~/a", "network_args": ["~/b", "c~/d"]}, {"untyped": ["~/e"]})
    found = arguments.namespace
    assert (found.output_name, found.network_args, found.untyped) == (
        "/home/me/a",
        ["/home/me/b", "c~/d"],
        "/home/me/e",
    )
