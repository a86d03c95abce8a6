"""NaN and infinite numbers that are there before training: which file or tensor holds them, and what to do.

Found here, they are not blamed on the learning rate hours later. Weights are read once, at the speed of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.data.text_cache import BrokenEncoding
from danceopd_ext.errors import UserError
from danceopd_ext.finite import broken_weight, first_broken
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.models.loading import Source
from danceopd_ext.toolkits.native.state import OPTIMIZER_FILE, STUDENT_FILE

BF16 = 'fp16 is too narrow for these numbers: set mixed_precision = "bf16" (or "no")'
AGAIN = "the file is damaged, or the training that made it broke down: download it again, or use another one"


@contextmanager
def naming_encoders(source: Source, modules: Mapping[str, Any], precision: str) -> Iterator[None]:
    """Encode inside; an encoding that is not finite ends with a UserError that names the encoder and the remedy."""
    try:
        yield
    except BrokenEncoding as error:
        for name, module in modules.items():
            if isinstance(module, torch.nn.Module) and (weight := broken_weight(module)):
                raise UserError(
                    f"{error.said}: {weight} of {source.components / name} holds NaN or infinite numbers: {AGAIN}."
                ) from error
        remedy = BF16 if precision == "fp16" else f"check what it shows or says, and {_names(modules)} of the model"
        raise UserError(f"{error.said}: the weights of {_names(modules)} are finite; {remedy}.") from error


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


def check_state(folder: Path, student: Mapping[str, torch.Tensor], entries: Mapping[int, Mapping[str, Any]]) -> None:
    """Raise UserError for a state whose weights or optimizer hold NaN: what goes on from there is lost.

    `folder`: the state's. `entries`: number of a weight -> what the optimizer keeps of it.
    """
    if broken := first_broken(student):
        file = folder / STUDENT_FILE
        raise UserError(f"{file} (resume): {broken} holds NaN or infinite numbers: use an earlier state.")
    file = folder / OPTIMIZER_FILE
    for number, entry in entries.items():
        if broken := first_broken(entry):
            of = f"{broken} of parameter {number}"
            raise UserError(f"{file} (resume): {of} holds NaN or infinite numbers: use an earlier state.")
