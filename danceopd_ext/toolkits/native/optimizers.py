"""Makes optimizers, under sd-scripts' names, and learning-rate schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from danceopd_ext.config.name_value_pairs import parse_pairs
from danceopd_ext.config.schema import OptimizerSection
from danceopd_ext.errors import UserError, nearest
from danceopd_ext.machine import why_no_gpu
from danceopd_ext.toolkits.installed_packages import Refused, class_at
from danceopd_ext.toolkits.native.rates import check_rate, is_relative, specific, warmup_of

if TYPE_CHECKING:
    from danceopd_ext.config import Preset


@dataclass(frozen=True)
class Known:
    """The dotted path of an optimizer, and the pip package that contains it."""

    path: str
    package: str = "torch"


KNOWN = {
    "AdamW": Known("torch.optim.AdamW"),
    "SGDNesterov": Known("torch.optim.SGD"),
    "AdamW8bit": Known("bitsandbytes.optim.AdamW8bit", "bitsandbytes"),
    "PagedAdamW8bit": Known("bitsandbytes.optim.PagedAdamW8bit", "bitsandbytes"),
    "PagedAdamW": Known("bitsandbytes.optim.PagedAdamW", "bitsandbytes"),
    "PagedAdamW32bit": Known("bitsandbytes.optim.PagedAdamW32bit", "bitsandbytes"),
    "Lion8bit": Known("bitsandbytes.optim.Lion8bit", "bitsandbytes"),
    "PagedLion8bit": Known("bitsandbytes.optim.PagedLion8bit", "bitsandbytes"),
    "Lion": Known("lion_pytorch.Lion", "lion-pytorch"),
    "Adafactor": Known("transformers.optimization.Adafactor", "transformers"),
    "Prodigy": Known("prodigyopt.Prodigy", "prodigyopt"),
    "SGDNesterov8bit": Known("bitsandbytes.optim.SGD8bit", "bitsandbytes"),
    "DAdaptation": Known("dadaptation.experimental.DAdaptAdamPreprint", "dadaptation"),
    "DAdaptAdam": Known("dadaptation.DAdaptAdam", "dadaptation"),
    "DAdaptAdaGrad": Known("dadaptation.DAdaptAdaGrad", "dadaptation"),
    "DAdaptAdan": Known("dadaptation.DAdaptAdan", "dadaptation"),
    "DAdaptAdanIP": Known("dadaptation.experimental.DAdaptAdanIP", "dadaptation"),
    "DAdaptLion": Known("dadaptation.DAdaptLion", "dadaptation"),
    "DAdaptSGD": Known("dadaptation.DAdaptSGD", "dadaptation"),
    "AdamWScheduleFree": Known("schedulefree.AdamWScheduleFree", "schedulefree"),
    "RAdamScheduleFree": Known("schedulefree.RAdamScheduleFree", "schedulefree"),
    "SGDScheduleFree": Known("schedulefree.SGDScheduleFree", "schedulefree"),
}

#: modules of optimizers -> the pip package that contains them, which often has another name
PACKAGES = {
    **{known.path.partition(".")[0]: known.package for known in KNOWN.values() if known.package != "torch"},
    "came_pytorch": "came-pytorch",
    "optimi": "torch-optimi",
    "prodigyplus": "prodigy-plus-schedule-free",
    "pytorch_optimizer": "pytorch-optimizer",
}


def default_optimizer(device: torch.device) -> str:
    """Return AdamW8bit if bitsandbytes works (it needs a CUDA GPU and its wheel), else AdamW."""
    if device.type != "cuda":
        return "AdamW"
    try:
        class_at(KNOWN["AdamW8bit"].path, torch.optim.Optimizer)
    except (ImportError, AttributeError, RuntimeError, OSError, Refused):
        return "AdamW"
    return "AdamW8bit"


def optimizer_class(name: str, device: torch.device, local: bool = False) -> type[torch.optim.Optimizer]:
    """Return the class for an sd-scripts name (any case) or a dotted path. Raises UserError with the remedy.

    local: whether code that is not an installed package may run (see installed_packages.py).
    """
    by_case = {known.lower(): known for known in KNOWN}
    known = KNOWN.get(by_case.get(name.lower(), ""))
    if known is None and "." not in name:
        raise UserError(f'optimizer_type = "{name}" is unknown.{nearest(name, KNOWN)} Known: {", ".join(KNOWN)}.')
    path, package = (known.path, known.package) if known else (name, PACKAGES.get(name.partition(".")[0], ""))
    if package == "bitsandbytes" and device.type == "cpu":
        raise UserError(f'optimizer_type = "{name}" needs a GPU; without one use "AdamW". {why_no_gpu()}'.strip())
    module, _, cls = path.rpartition(".")
    try:
        return class_at(path, torch.optim.Optimizer, local)
    except Refused as problem:
        raise UserError(f'optimizer_type = "{name}": {problem}') from None
    except AttributeError:
        raise UserError(f'optimizer_type = "{name}": {module} has no {cls}.') from None
    except Exception as error:  # a module may raise anything while it is imported
        raise UserError(
            f'optimizer_type = "{name}": {module or "its module"} does not import ({error}). {_remedy(package)}, '
            'or use optimizer_type = "AdamW".'
        ) from error


def _remedy(package: str) -> str:
    if package:
        return f"Install the package {package} with `pip install {package}`"
    return "Check the path, or find out which package has this module (its name may differ) and `pip install` it"


def make_optimizer(
    section: OptimizerSection, parameters: list[torch.nn.Parameter], device: torch.device, local: bool = False
):
    """Return the optimizer that the preset asks for; `local`: see optimizer_class.

    Raises UserError for an unknown one or wrong arguments.
    """
    name = section.optimizer_type or default_optimizer(device)
    cls = optimizer_class(name, device, local)
    given, taken = parse_pairs(section.optimizer_args, "optimizer_args"), inspect.signature(cls).parameters
    if "lr" in given:
        raise UserError(f"optimizer_args: lr is a separate key: write learning_rate = {given['lr']}.")
    _check_types(given, taken)
    arguments: dict[str, Any] = {"lr": section.learning_rate}
    if "weight_decay" in taken:
        arguments["weight_decay"] = 0.0
    if name.lower() == "adafactor":
        arguments |= {"relative_step": False, "scale_parameter": False}
    if name.lower() in ("sgdnesterov", "sgdnesterov8bit"):
        arguments |= {"nesterov": True, "momentum": 0.9}
    arguments |= given
    if is_relative(section):
        arguments["lr"] = None
    try:
        return cls(parameters, **arguments)
    except Exception as error:  # an optimizer may raise anything
        raise UserError(f"optimizer_args = {section.optimizer_args} do not fit {name}: {error}.") from error


def _check_types(given: Mapping[str, Any], taken: Mapping[str, inspect.Parameter]) -> None:
    """Raise UserError if the optimizer's own default is of another kind: text, list or number."""
    for name, value in given.items():
        default = taken[name].default if name in taken else None
        if type(default) is bool and value not in (True, False):
            raise UserError(f"optimizer_args: {name}={value}: takes true or false.")
        if type(default) in (int, float) and isinstance(value, tuple) and len(value) == 2:
            decimal = ".".join(map(str, value))
            raise UserError(f"optimizer_args: {name}={value[0]},{value[1]} has a comma: write {name}={decimal}.")
        if type(default) in (int, float) and (
            isinstance(value, bool) or not isinstance(value, (int, float, type(None)))
        ):
            raise UserError(f"optimizer_args: {name}={value}: takes a number.")
        if isinstance(default, tuple) and (not isinstance(value, (tuple, list)) or len(value) != len(default)):
            numbers = ",".join(map(str, default))
            raise UserError(f"optimizer_args: {name}={value}: takes {len(default)} numbers, such as {name}={numbers}.")


def make_schedule(section: OptimizerSection, optimizer: torch.optim.Optimizer, steps: int):
    """Return the learning-rate schedule, stepped once per optimizer step. Raises UserError if it cannot be used."""
    if optimizer.param_groups[0]["lr"] is None:  # Adafactor with relative_step finds its own
        return transformers.optimization.AdafactorSchedule(optimizer)
    check_rate(section)
    arguments = specific(section)
    try:
        return transformers.get_scheduler(
            section.lr_scheduler, optimizer, warmup_of(section, steps), steps, scheduler_specific_kwargs=arguments
        )
    except (ValueError, TypeError) as error:
        raise UserError(f'lr_scheduler = "{section.lr_scheduler}": {error}.') from error


def optimizer_of(preset: Preset, device: torch.device) -> Callable[[list[torch.nn.Parameter]], tuple[Any, Any]]:
    """Return a function that makes the run's optimizer and schedule for a list of weights."""

    def make(weights: list[torch.nn.Parameter]) -> tuple[Any, Any]:
        optimizer = make_optimizer(preset.optimizer, weights, device, preset.allow_local_code)
        return optimizer, make_schedule(preset.optimizer, optimizer, preset.training.max_train_steps)

    return make


def set_learning_rate(schedule: Any, learning_rate: float) -> None:
    """Let a loaded schedule go on with this learning rate from wherever it is."""
    for group, factor in zip(schedule.optimizer.param_groups, getattr(schedule, "lr_lambdas", []), strict=False):
        if group["lr"] is not None and not isinstance(schedule, transformers.optimization.AdafactorSchedule):
            group["initial_lr"] = learning_rate
            group["lr"] = learning_rate * factor(schedule.last_epoch)
            schedule.base_lrs = [learning_rate] * len(schedule.base_lrs)


def learning_rate(optimizer: Any) -> float:
    """Return the learning rate of the next step, times what Prodigy and D-Adaptation found (their `d`)."""
    group = optimizer.param_groups[0]
    return float(group["lr"] or 0.0) * float(group.get("d", 1.0))


def is_schedule_free(optimizer: Any) -> bool:
    """Return whether the optimizer keeps two sets of weights and must be told which are wanted (schedulefree)."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return hasattr(inner, "train") and hasattr(inner, "eval")
