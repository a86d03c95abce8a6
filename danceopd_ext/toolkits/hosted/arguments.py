"""Turns a hosted preset into the arguments of the toolkit's trainer, and checks them with the toolkit's own parser.

The toolkits do not check a preset: they keep unknown keys, and a wrong type fails in the middle of the run. Here every
key is compared with the parser's own action, so the same keys are right or wrong as on its command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danceopd_ext.config.hosted_preset import HostedPreset, danceopd_keys
from danceopd_ext.config.learning_rate import check_own_rate, check_warmup
from danceopd_ext.config.load import flat_keys
from danceopd_ext.config.name_value_pairs import parse_pairs, python_pairs
from danceopd_ext.config.paths import at_home
from danceopd_ext.errors import UserError, nearest
from danceopd_ext.toolkits.hosted.argument_values import WrongValue, can_be_given, from_toml, from_words, shown

#: arguments that a toolkit's parser has and a preset cannot set
NOT_HERE = {
    "config_file": "a preset cannot read another preset. Write its keys here.",
    "output_config": "the toolkit would write a preset and stop without training. Remove it.",
}


@dataclass(frozen=True)
class Arguments:
    """What the toolkit's trainer gets as `args`, and what the user wrote.

    given: each argument that the user gave (also if it equals the default), and how the user wrote it. defaults: the
    parser's values for the others.
    """

    namespace: argparse.Namespace
    given: Mapping[str, str]
    defaults: Mapping[str, Any]
    path: Path


def build_arguments(parser: argparse.ArgumentParser, preset: HostedPreset, ours: Collection[str] = ()) -> Arguments:
    """Return the arguments: flags win over the preset's values, these over the parser's defaults. sys.argv is not read.

    `ours`: keys that our trainer reads from the preset itself. The toolkit's parser need not know them; those that it
    knows are checked and set like all others. Raises UserError that names the key and the remedy.
    """
    known, defaults = _actions(parser), _defaults(parser)
    written = [(name, name) for name in preset.values] + [(name, f"--{name}") for name in preset.flags]
    actions = _find_all(written, known, preset, ours)
    values, given = dict(defaults), {}
    for name, value in preset.values.items():
        action = actions[name]
        if action is None or _left_open(name, value):
            continue
        if action.dest in given:
            raise UserError(f"{preset.path}: {given[action.dest]} and {name} are the same argument. Remove one.")
        given[action.dest] = f"{name} = {shown(value)}"
        values[action.dest] = _checked(f"{preset.path}: {given[action.dest]}", from_toml, action, name, value)
    for name, words in preset.flags.items():
        action = actions[f"--{name}"]
        if action is not None:
            given[action.dest] = " ".join([f"--{name}", *words])
            values[action.dest] = _checked(given[action.dest], from_words, action, name, words)
    _check_optimizer(values, given, preset.path)
    for action in parser._actions:
        if action.required and action.dest not in given and action.dest not in ours:
            raise UserError(f'{preset.path}: "{action.dest}" is missing: {preset.toolkit} needs it.')
    return Arguments(argparse.Namespace(**values), given, defaults, preset.path)


def _find_all(
    written: Iterable[tuple[str, str]],
    known: Mapping[str, argparse.Action],
    preset: HostedPreset,
    ours: Collection[str],
) -> dict[str, argparse.Action | None]:
    """Return the argument of each name, by how it is written. Raises UserError, one message for all wrong names."""
    found, problems = {}, []
    for name, one in written:
        try:
            found[one] = _action(known, name, preset, ours, one)
        except UserError as problem:
            problems.append(str(problem))
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("\n- ".join([f"{preset.path}: these cannot be used here:", *problems]))
    return found


def _check_optimizer(values: dict[str, Any], given: Collection[str], path: Path) -> None:
    """Check what the toolkits refuse, or evaluate as Python, only when they load the model. Raises UserError."""
    try:
        for name in ("optimizer_args", "lr_scheduler_args"):
            if values.get(name) and name in given:
                values[name] = python_pairs(values[name], name)
        if not values.get("lr_scheduler_type"):
            check_warmup(values.get("lr_scheduler") or "", values.get("lr_warmup_steps") or 0)
        if "learning_rate" in given:
            arguments = parse_pairs(values.get("optimizer_args") or [], "optimizer_args")
            check_own_rate(values.get("optimizer_type") or "", values["learning_rate"], arguments)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None


def _left_open(name: str, value: Any) -> bool:
    """Return whether a GUI wrote "not set": an empty text, or 0 for how often something is saved or drawn."""
    rhythm = "_every_n_" in name or "_last_n_" in name
    return value == "" or (rhythm and value == 0 and not isinstance(value, bool))


def _checked(where: str, read: Callable[..., Any], action: argparse.Action, name: str, value: Any) -> Any:
    try:
        return _at_home(read(action, name, value))
    except WrongValue as problem:
        raise UserError(f"{where}: {problem}") from None


def _at_home(value: Any) -> Any:
    """Return the value with `~/` at its start replaced by the home folder, as a shell does."""
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    return at_home(value) if isinstance(value, str) and value.startswith(("~/", "~\\")) else value


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the actions by every name that a preset can write: destination and option strings."""
    names = {}
    for action in parser._actions:
        for option in action.option_strings:
            names[option.lstrip("-").replace("-", "_")] = action
    by_destination = {action.dest: action for action in parser._actions if action.dest != argparse.SUPPRESS}
    return {**by_destination, **names}


def _defaults(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the parser's values for an empty command line, also if it has required arguments."""
    required = [action for action in parser._actions if action.required]
    try:
        for action in required:
            action.required = False
        return vars(parser.parse_args([]))
    finally:
        for action in required:
            action.required = True


def _action(
    known: Mapping[str, argparse.Action], name: str, preset: HostedPreset, ours: Collection[str], written: str
) -> argparse.Action | None:
    """Return the argument of this name; None if only we know it. `written`: name, or --name on the command line."""
    action = known.get(name)
    if action is None and name in ours:
        return None
    flag = written.startswith("--")
    if action is None:
        what = "unknown argument" if flag else f"{preset.path}: unknown key"
        if name in flat_keys():
            raise UserError(f'{what} {written}: only toolkit = "native" has it. Remove it.')
        close = nearest(name, [*known, *ours, *danceopd_keys(), "model_type"])
        raise UserError(f"{what} {written}: {preset.toolkit} has no such argument.{close}")
    if name in NOT_HERE or not can_be_given(action):
        reason = NOT_HERE.get(name, "it only works on the toolkit's own command line. Remove it.")
        raise UserError(f"{'' if flag else f'{preset.path}: '}{written} cannot be given here: {reason}")
    return action
