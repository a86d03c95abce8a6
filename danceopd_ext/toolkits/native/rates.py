"""Describes the learning rate that an optimizer and its schedule really use, and reports settings without effect."""

from __future__ import annotations

import inspect
from typing import Any

import transformers

from danceopd_ext.config.learning_rate import check_own_rate, check_warmup, finds_its_rate
from danceopd_ext.config.name_value_pairs import parse_pairs
from danceopd_ext.config.schema import OptimizerSection
from danceopd_ext.errors import UserError

#: learning rates outside these bounds are unusual for an optimizer that finds its own rate
LOW, HIGH = 0.1, 10.0


def warmup_of(section: OptimizerSection, steps: int) -> int:
    """Return the warm-up steps of a run of `steps` steps."""
    warmup = section.lr_warmup_steps
    return int(warmup * steps) if warmup < 1 else int(warmup)


def takes(section: OptimizerSection) -> set[str]:
    """Return the names of the schedule's arguments, such as num_warmup_steps; empty if there is no such schedule."""
    try:
        name = transformers.SchedulerType(section.lr_scheduler)
    except ValueError:
        return set()
    return set(inspect.signature(transformers.optimization.TYPE_TO_SCHEDULER_FUNCTION[name]).parameters)


def is_relative(section: OptimizerSection) -> bool:
    """Return whether this is Adafactor with a rate and schedule of its own."""
    adafactor = section.optimizer_type.rpartition(".")[2].lower() == "adafactor"
    return adafactor and bool(parse_pairs(section.optimizer_args, "optimizer_args").get("relative_step"))


def check_rate(section: OptimizerSection) -> None:
    """Raise UserError for a warm-up that the schedule does not support, and for a rate at which nothing is learned."""
    if is_relative(section):
        return
    check_warmup(section.lr_scheduler, section.lr_warmup_steps)
    given = parse_pairs(section.optimizer_args, "optimizer_args")
    check_own_rate(section.optimizer_type, section.learning_rate, given)


def rate_notes(section: OptimizerSection, steps: int) -> list[str]:
    """Return a note for each value that has no effect, or an unexpected one, with this optimizer and schedule."""
    kind, schedule = section.optimizer_type, section.lr_scheduler
    if is_relative(section):
        unused = "learning_rate, lr_scheduler and lr_warmup_steps are not used"
        return [f"{kind} with relative_step finds its own rate: {unused}"]
    notes, rate = [], section.learning_rate
    if finds_its_rate(kind) and not LOW <= rate <= HIGH:
        notes.append(f"learning_rate = {rate:g} is far from 1, and {kind} multiplies the rate that it finds by it")
    if parse_pairs(section.optimizer_args, "optimizer_args").get("scale_parameter"):
        notes.append(
            f"learning_rate = {rate:g} is multiplied by the size of the weights, because scale_parameter is on"
        )
    if "schedulefree" in kind.lower() and schedule != "constant":
        notes.append(f'{kind} needs no schedule, but lr_scheduler = "{schedule}" changes its rate')
    cycles, power = section.lr_scheduler_num_cycles, section.lr_scheduler_power
    if cycles != 1 and schedule != "cosine_with_restarts":
        notes.append(f"lr_scheduler_num_cycles = {cycles} has no effect: only cosine_with_restarts uses it")
    if power != 1 and schedule != "polynomial":
        notes.append(f"lr_scheduler_power = {power:g} has no effect: only polynomial uses it")
    if (warmup := warmup_of(section, steps)) >= steps and warmup:
        notes.append(
            f"the run ends before the learning rate reaches {rate:g}: lr_warmup_steps = {section.lr_warmup_steps:g}, "
            f"max_train_steps = {steps}"
        )
    return notes


def used(section: OptimizerSection, steps: int) -> str:
    """Describe optimizer, learning rate and schedule as they are really used."""
    if is_relative(section):
        return f"{section.optimizer_type} with its own rate (relative_step)"
    rate = f"{section.learning_rate:g}"
    if finds_its_rate(section.optimizer_type):
        rate += " x the rate that it finds"
    warmup = warmup_of(section, steps)
    return f"{section.optimizer_type} at {rate}, {section.lr_scheduler}" + (
        f", {warmup} steps of warm-up" if warmup else ""
    )


def specific(section: OptimizerSection) -> dict[str, Any]:
    """Return the schedule's own arguments. Raises UserError for one that it does not take."""
    given, known = parse_pairs(section.lr_scheduler_args, "lr_scheduler_args"), takes(section)
    own = sorted(known - {"optimizer", "last_epoch", "num_warmup_steps", "num_training_steps"})
    wrong = next((name for name in given if name not in own), None)
    if known and "kwargs" not in known and wrong:
        what = ", ".join(own) or "no arguments"
        raise UserError(f'lr_scheduler_args: lr_scheduler = "{section.lr_scheduler}" takes {what}, not {wrong}.')
    if section.lr_scheduler == "cosine_with_restarts":
        given.setdefault("num_cycles", section.lr_scheduler_num_cycles)
    if section.lr_scheduler == "polynomial":
        given.setdefault("power", section.lr_scheduler_power)
    return given
