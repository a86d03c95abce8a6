"""Checks that a run can go on from a saved state before any of it is used.

The digests in a state reveal a damaged file, but not one that somebody else made. So the student's tensors are compared
with the run's, and the optimizer and its schedule take a trial step with the saved state, for one weight of each kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import UserError, counted, printable, shorten
from danceopd_ext.lora.layer_tensors import LARGEST_VALUE
from danceopd_ext.toolkits.native.broken import check_state
from danceopd_ext.toolkits.native.optimizers import is_schedule_free, learning_rate, set_learning_rate
from danceopd_ext.toolkits.native.state import OPTIMIZER_FILE, STUDENT_FILE, SavedState

#: weights -> the run's own optimizer and schedule for them
Make = Callable[[list[torch.nn.Parameter]], tuple[Any, Any]]

_REMEDY = "Use an earlier state, or start a new run from the LoRA with network_weights."


@dataclass(frozen=True)
class Continued:
    """What a run continues with: the student's tensors by name, and the states of optimizer, schedule and scaler."""

    student: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    forwards: int


def student_sizes(shapes: Mapping[str, tuple[int, int]], layers: list[str], rank: int) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the student's tensors, in the order of the optimizer's weights.

    `shapes`: layer -> (outputs, inputs).
    """
    found: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        outputs, inputs = shapes[layer]
        found |= {f"{layer}.down": (rank, inputs), f"{layer}.up": (outputs, rank)}
    return found


def read_state(saved: SavedState, sizes: Mapping[str, tuple[int, ...]], make: Make, device: torch.device) -> Continued:
    """Return what the state holds, after trying it out. Raises UserError naming the file.

    `sizes`: of the run's student (see `student_sizes`). `make`: is called with a few small weights.
    """
    student = _student(saved, sizes)
    file, content = saved.folder / OPTIMIZER_FILE, saved.optimizer()
    missing = [key for key in ("optimizer", "schedule", "scaler", "forwards") if key not in content]
    if missing:
        raise _unfit(file, f"it has no {missing[0]}")
    for key in ("optimizer", "schedule", "scaler"):
        if not isinstance(content[key], dict):
            raise _unfit(file, f"{key} is a {type(content[key]).__name__}")
    forwards = content["forwards"]
    if not isinstance(forwards, int) or isinstance(forwards, bool) or forwards < 0:
        raise _unfit(file, "forwards is not a whole number of 0 or more")
    _check_optimizer(file, content["optimizer"], len(sizes))
    check_state(saved.folder, student, content["optimizer"]["state"])
    schedule = _try_out(file, content, list(sizes.values()), make, device)
    return Continued(student, content["optimizer"], schedule, content["scaler"], forwards)


def _unfit(file: Path, why: str) -> UserError:
    return UserError(f"{file} (resume) does not fit this run: {why}. {_REMEDY}")


def _student(saved: SavedState, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    file, own = saved.folder / STUDENT_FILE, saved.sizes()
    if wrong := sorted(set(own) ^ set(sizes)):
        name = shorten(printable(wrong[0]), 120)
        raise _unfit(file, f"{counted(len(wrong), 'tensor')} are missing or not the run's, such as {name}")
    for name, size in sizes.items():
        if own[name] != size:
            raise _unfit(file, f"{name} is {own[name]} in it and {size} in the run")
    tensors = saved.student()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise _unfit(file, f"{name} is {tensor.dtype}".replace("torch.", ""))
        if tensor.numel() and float(tensor.float().abs().max()) > LARGEST_VALUE:  # NaN is reported below
            raise _unfit(file, f"{name} has values above {LARGEST_VALUE:g}")
    return {name: tensors[name] for name in sizes}


def _check_optimizer(file: Path, saved: Mapping[str, Any], count: int) -> None:
    """Raise UserError unless this is the state of an optimizer with one group of `count` weights."""
    state, groups = saved.get("state"), saved.get("param_groups")
    if not (isinstance(groups, list) and len(groups) == 1 and isinstance(groups[0], dict)):
        raise _unfit(file, "the optimizer has other groups of weights")
    if groups[0].get("params") != list(range(count)):
        raise _unfit(file, f"the optimizer's weights are not the student's {count}")
    if not isinstance(state, dict) or not set(state) <= set(range(count)):  # a weight without a gradient has no entry
        raise _unfit(file, "the optimizer has entries for weights that are not the student's")
    for number, entry in state.items():
        if not isinstance(entry, dict) or not all(isinstance(name, str) for name in entry):
            raise _unfit(file, f"the optimizer's entry {number} is not a dictionary")
        if not entry and any(state.values()):
            raise _unfit(file, f"the optimizer's entry {number} is empty")


def _try_out(
    file: Path, content: Mapping[str, Any], shapes: list[tuple[int, ...]], make: Make, device: torch.device
) -> dict[str, Any]:
    """Take a step with the saved state, for one weight of each kind. Returns the schedule's state, checked."""
    state, (group,) = content["optimizer"]["state"], content["optimizer"]["param_groups"]
    kinds: dict[tuple, int] = {}
    for number, shape in enumerate(shapes):
        kinds.setdefault((shape, _kind(state.get(number))), number)
    chosen = list(kinds.values())
    weights = [torch.nn.Parameter(torch.zeros(shapes[number], device=device)) for number in chosen]
    optimizer, schedule = make(weights)
    own = _schedule_state(file, content["schedule"], schedule.state_dict())
    entries = {place: _copied(state[number]) for place, number in enumerate(chosen) if number in state}
    rate = learning_rate(optimizer)
    try:
        optimizer.load_state_dict({"state": entries, "param_groups": [{**group, "params": list(range(len(chosen)))}]})
        schedule.load_state_dict(own)
        set_learning_rate(schedule, rate)
        if is_schedule_free(optimizer):
            optimizer.train()
        for weight in weights:
            weight.grad = torch.full_like(weight, 1e-3)
        optimizer.step()
        schedule.step()
        finite = math.isfinite(learning_rate(optimizer)) and all(bool(weight.isfinite().all()) for weight in weights)
    except Exception as error:  # an optimizer may raise anything if its state is wrong
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unfit(file, f"the optimizer cannot take a step with it ({shorten(printable(reason), 160)})") from error
    if not finite:
        raise _unfit(file, "a step of the optimizer with it gives NaN")
    return own


def _kind(entry: Mapping[str, Any] | None) -> tuple:
    """What a weight's state is made of: its numbers, and the dtypes and shapes of its larger tensors."""
    return tuple(
        (name, value.dtype, tuple(value.shape), value.item() if value.numel() == 1 else None)
        if isinstance(value, torch.Tensor)
        else (name, type(value).__name__, shorten(repr(value)))
        for name, value in sorted((entry or {}).items())
    )


def _copied(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in entry.items()}


def _schedule_state(file: Path, saved: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that the run's own schedule has as well: a schedule would turn any entry into an attribute."""
    for name, value in fresh.items():
        if name in saved and not _is_alike(saved[name], value):
            raise _unfit(file, f"{name} of the schedule is {shorten(repr(saved[name]))}")
        if name not in saved and not name.startswith("_"):
            raise _unfit(file, f"the schedule has no {name}: it belongs to another lr_scheduler")
    return {name: saved[name] for name in fresh if name in saved}


def _is_alike(value: Any, fresh: Any) -> bool:
    """Whether the value has the kind of the schedule's own entry: a number, or a list of equal length."""
    if isinstance(fresh, bool):
        return isinstance(value, bool)
    if isinstance(fresh, int):
        return isinstance(value, int) and not isinstance(value, bool) and value >= -1
    if isinstance(fresh, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(fresh, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(fresh) and all(map(_is_alike, value, fresh))
    if isinstance(fresh, dict):
        return (
            isinstance(value, dict) and set(value) == set(fresh) and all(_is_alike(value[k], fresh[k]) for k in fresh)
        )
    return fresh is None or type(value) is type(fresh)
