"""The number formats that a model runs in and a file is saved in, by their words in presets and on command lines."""

from __future__ import annotations

import torch

#: words of mixed_precision and save_precision; "no" (of mixed_precision) and "float" (of save_precision) are float32
DTYPES = {"no": torch.float32, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype of a word of `DTYPES`. Raises KeyError for another."""
    return DTYPES[name]
