"""Sets musubi's arguments that a preset leaves out: the method's defaults, and those with only one correct value."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Collection

import torch

from danceopd_ext.config.learning_rate import default_rate
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.defaults import DEFAULTS, without_decay

#: one of these must be on; the first is the default
ATTENTION = ("sdpa", "flash_attn", "xformers", "flash3")

#: musubi's networks that a multiplier of 0 turns off exactly
SILENT = ("networks.loha", "networks.lokr")


def complete(args: argparse.Namespace, architecture: Architecture, given: Collection[str] = ()) -> None:
    """Set the arguments that the user left out. `given`: those that the user wrote. Raises UserError."""
    for name, value in DEFAULTS.items():
        if name not in given:
            setattr(args, name, value)
    if "network_alpha" not in given:
        args.network_alpha = args.network_dim
    _complete_optimizer(args, given)
    if not any(getattr(args, name) for name in ATTENTION):
        setattr(args, ATTENTION[0], True)
    if not args.max_data_loader_n_workers:
        args.persistent_data_loader_workers = False
    args.network_module = args.network_module or architecture.network_module
    _check_student(args.network_module, architecture)
    architecture.adapter.complete(args)
    _complete_guidance(args, architecture, given)


def _complete_guidance(args: argparse.Namespace, architecture: Architecture, given: Collection[str]) -> None:
    """Set the transformer's guidance as musubi's own argument, which its metadata also names."""
    usual = architecture.adapter.usual_guidance(args)
    if usual is not None and "guidance_scale" not in given:
        args.guidance_scale = usual
    elif usual is None and args.guidance_scale != 1.0:
        raise UserError(
            f"guidance_scale = {args.guidance_scale:g} has no effect: {_title(args, architecture)} has no guidance "
            "embedding. Remove it. To set a teacher's guidance, use guidance_scale in [danceopd.teachers.NAME]."
        )


def _title(args: argparse.Namespace, architecture: Architecture) -> str:
    version = getattr(args, "model_version", None)
    return f"{architecture.title} ({version})" if version else architecture.title


def _complete_optimizer(args: argparse.Namespace, given: Collection[str]) -> None:
    if not args.optimizer_type:
        small = torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes")
        args.optimizer_type = "AdamW8bit" if small else "AdamW"
    if "learning_rate" not in given:
        args.learning_rate = default_rate(args.optimizer_type)
    if "optimizer_args" not in given:
        args.optimizer_args = without_decay(args.optimizer_type)


def _check_student(module: str, architecture: Architecture) -> None:
    known = [architecture.network_module, *SILENT]
    if module not in [*known, *(f"musubi_tuner.{name}" for name in known)]:
        raise UserError(
            f'network_module = "{module}": the student is turned off while a teacher is active, which is exact only '
            "with "
            f"{', '.join(known)}. Remove network_module, or use one of these."
        )
