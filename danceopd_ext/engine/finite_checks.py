"""NaN and infinite numbers that are there before a model is asked: which file or tensor holds them, and the remedy.

Found here, they are not blamed on the learning rate hours later. Weights are read once, at the speed of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from danceopd_ext.data.text_cache import BrokenEncoding
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.finite import broken_weight, first_broken
from danceopd_ext.lora.adapters import Adapters

BF16 = 'fp16 is too narrow for these numbers: set mixed_precision = "bf16" (or "no")'
AGAIN = "the file is damaged, or the training that made it broke down: download it again, or use another one"


@contextmanager
def naming_encoders(model: Model, encoders: Mapping[str, Any], precision: str) -> Iterator[None]:
    """Encode inside; an encoding that is not finite ends with a UserError that names the encoder and the remedy.

    `encoders`: part of the model -> its module. `precision`: the word for what they compute in.
    """
    try:
        yield
    except BrokenEncoding as error:
        for name, module in encoders.items():
            if isinstance(module, torch.nn.Module) and (weight := broken_weight(module)):
                part = model.files.part(name)
                where = part.path if part else model.files.components / name
                raise UserError(f"{error.said}: {weight} of {where} holds NaN or infinite numbers: {AGAIN}.") from error
        remedy = BF16 if precision == "fp16" else f"check what it shows or says, and {_names(encoders)} of the model"
        raise UserError(f"{error.said}: the weights of {_names(encoders)} are finite; {remedy}.") from error


def _names(modules: Mapping[str, Any]) -> str:
    return ", ".join(name for name, module in modules.items() if isinstance(module, torch.nn.Module))


def check_adapters(adapters: Adapters, names: Mapping[str, str], precision: str) -> None:
    """Raise UserError for a LoRA that is not finite in the model's number format. names: adapter -> what it is called.

    Files with such numbers were refused when they were read, so these are finite there and too large here.
    """
    for name in (name for name in adapters.names if name in names):
        if broken := first_broken(adapters.state_dict(name)):
            layer = broken.rpartition(".")[0]
            remedy = BF16 if precision == "fp16" else "use less strength, or another file"
            raise UserError(f"{names[name]}: its change of {layer} is infinite in {precision} precision: {remedy}.")
