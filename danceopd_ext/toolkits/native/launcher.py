"""Reports options of `accelerate launch`, or of accelerate's configuration file, that this trainer does not use.

accelerate's launcher passes them on as environment variables (accelerate/utils/launch.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from danceopd_ext.config.schema import TrainingSection
from danceopd_ext.errors import UserError

#: environment variables of engines that divide a model among GPUs -> the engine's usual name
ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}


def refuse_engines() -> None:
    """Raise UserError if accelerate was told to divide the model among processes: here each process holds all of it."""
    asked = [name for variable, name in ENGINES.items() if _value(variable).lower() in ("1", "true", "yes")]
    if asked:
        raise UserError(
            f"accelerate was told to use {' and '.join(asked)}, which the native trainer does not use: each process "
            "holds the whole model and trains on its share of the batch. Leave the option out, and choose no "
            "distributed engine in `accelerate config`: `accelerate launch --multi_gpu --num_processes N "
            'train_danceopd.py ...`. For less memory, see "Less memory" in presets/README.md.'
        )


def unused_options(training: TrainingSection) -> Iterator[str]:
    """Return notes on other options of the launcher that have no effect or differ from the preset."""
    precision = _value("ACCELERATE_MIXED_PRECISION").lower()
    if precision not in ("", "no", training.mixed_precision):
        yield (
            f'accelerate\'s mixed_precision = "{precision}" is ignored: the preset\'s "{training.mixed_precision}" is '
            "used. Set mixed_precision in the preset"
        )
    backend = _value("ACCELERATE_DYNAMO_BACKEND").lower()
    if backend not in ("", "no"):
        yield f'accelerate\'s dynamo_backend = "{backend}" is ignored. Set torch_compile in the preset'
    count, own = _value("ACCELERATE_GRADIENT_ACCUMULATION_STEPS"), training.gradient_accumulation_steps
    if count not in ("", str(own)):
        yield f"accelerate's gradient_accumulation_steps = {count} is ignored: the preset's {own} is used"
    machines = _machines()
    if machines > 1:
        yield (
            f"{machines} machines train together: output_dir and text_encoder_cache_dir must be folders that all of "
            "them share, because only the first process encodes and saves"
        )


def _machines() -> int:
    """Return on how many machines the run's processes are, from the variables that torchrun sets."""
    world, local = _value("WORLD_SIZE"), _value("LOCAL_WORLD_SIZE")
    if not (world.isdecimal() and local.isdecimal() and int(local)):
        return 1
    return -(-int(world) // int(local))


def _value(variable: str) -> str:
    return os.environ.get(variable, "").strip()
