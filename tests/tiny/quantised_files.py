"""Single files with quantised weights, made of a tiny transformer's original file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file, save_file

FLOAT8 = torch.float8_e4m3fn
#: the largest number of float8
LARGEST = 448.0


def to_float8_file(source: Path, path: Path, names: tuple[str, str] = ("scale_weight", "scale_input")) -> Path:
    """Write a file's matrices in float8 with one scale each, as ComfyUI does. `names`: of the scales; none: unscaled.

    The first are those of its older files, which have a marker; newer ones write weight_scale and input_scale.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source).items():
        if tensor.ndim != 2 or not name.endswith(".weight") or ("block" not in name and "layers" not in name):
            tensors[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        scale = tensor.abs().max() / LARGEST if names else torch.tensor(1.0)
        tensors[name] = (tensor / scale).to(FLOAT8)
        if names:
            tensors |= {f"{layer}.{names[0]}": scale, f"{layer}.{names[1]}": torch.tensor(1.0)}
    if names and names[0] == "scale_weight":
        tensors["scaled_fp8"] = torch.zeros(2, dtype=FLOAT8)
    save_file(tensors, path)
    return path


def to_gguf(source: Path, path: Path, kind: str = "Q8_0", change: Callable[[str], str] = str) -> Path:
    """Write a file as GGUF, its matrices of whole blocks in this format. `change`: of names."""
    writer = gguf.GGUFWriter(path, "image")
    form = gguf.GGMLQuantizationType[kind]
    for name, tensor in load_file(source).items():
        values = tensor.float().numpy()
        whole = values.ndim == 2 and values.shape[1] % gguf.GGML_QUANT_SIZES[form][0] == 0
        if whole:
            writer.add_tensor(change(name), gguf.quantize(values, form), raw_dtype=form)
        else:
            writer.add_tensor(change(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
