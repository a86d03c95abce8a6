"""Files of tensors with odd headers, shapes, types, numbers, keys and metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch

from fuzzing.trees import as_json, changed, few
from fuzzing.values import NUMBERS, Raw, Twin, odd_key, odd_text, odd_value

#: dtype in a header -> bytes of a number
DTYPES = {
    "F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1,
    "F8_E5M2": 1, "C64": 8, "U16": 2, "U32": 4, "U64": 8, "F4": 1, "F8_E8M0": 1, "X99": 4,
}  # fmt: skip
TORCH = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64,
    "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "C64": torch.complex64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in TORCH.items()}
ENDINGS = (
    ".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".alpha", ".dora_scale",
    ".lora_mid.weight",
    ".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".hada_t1", ".lokr_w1", ".lokr_w2", ".lokr_w1_a",
    ".lokr_w1_b",
    ".lokr_w2_a", ".lokr_t2", ".diff", ".diff_b", ".bias", ".weight", ".oft_blocks", ".on_input", ".w_norm",
    ".set_weight",
    ".lora_magnitude_vector", ".reshape_weight", ".default.weight", "",
)  # fmt: skip

Entries = dict[str, torch.Tensor]


def with_odd_tensors(entries: Mapping[str, torch.Tensor], rng: Random) -> tuple[Entries, list[str]]:
    """The tensors with a few of them, or all, changed; what was changed, in words."""
    found, told = dict(entries), []
    everywhere = rng.random() < 0.1
    chosen = list(found) if everywhere else [rng.choice(list(found)) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    kind = rng.random()
    for key in chosen:
        if key in found:
            told.append(_change(found, key, rng, kind if everywhere else rng.random()))
    return found, [f"{told[0]} and so on everywhere"] if everywhere and told else told


def _change(found: Entries, key: str, rng: Random, kind: float) -> str:
    old = found[key]
    if kind < 0.10:
        del found[key]
        return f"without {key}"
    if kind < 0.28:
        name = odd_name(key, rng)
        found[name] = found.pop(key) if rng.random() < 0.7 else old
        return f"{key} is called {few(name)}"
    if kind < 0.62:
        found[key] = odd_shape(old, rng)
        return f"{key} has shape {tuple(found[key].shape)}"
    if kind < 0.78:
        dtype = rng.choice(list(TORCH.values()))
        found[key] = old.to(dtype)
        return f"{key} is {dtype}"
    found[key] = odd_numbers(old, rng)
    return f"{key} has other numbers"


def odd_name(key: str, rng: Random) -> str:
    """Another key: with another ending or beginning, in another place, with odd characters, or none of this world."""
    stem = next((key.removesuffix(end) for end in ENDINGS if end and key.endswith(end)), key)
    cut = rng.randint(0, len(key))
    return rng.choice(
        (
            stem + rng.choice(ENDINGS), stem + rng.choice(ENDINGS), stem + rng.choice(ENDINGS), key[:cut],
            rng.choice(("lora_unet_", "lora_te_", "transformer.", "diffusion_model.", "base_model.model.", "te1.",
            "x.")) + key,
            key.replace("0", str(rng.choice((1, 9, 999, 10**20))), 1),
            key[:cut] + rng.choice(odd_text(rng) or "x") + key[cut:],
            odd_key(rng), key.upper(), key + ".", "." + key, key.replace(".", "_"), key.replace("_", "."),
        )
    )  # fmt: skip


def odd_shape(old: torch.Tensor, rng: Random) -> torch.Tensor:
    """Numbers like the old ones in another shape, from no dimension to six."""
    shape = list(old.shape)
    choices: list[list[int]] = [
        [],
        [0],
        [1],
        [2],
        [1, 1],
        [0, 0],
        [1, 0],
        [0, 5],
        [7, 3],
        [3, 7, 1, 1],
        [1] * 6,
        [2, 2, 2],
    ]
    choices += [shape[::-1], [*shape, 1], [*shape, 1, 1], [1, *shape], shape[:-1], shape[1:], [math.prod(shape)]]
    for place in range(len(shape)):
        for size in (0, 1, shape[place] + 1, shape[place] * 2, 4096):
            choices.append([*shape[:place], size, *shape[place + 1 :]])
    wanted = rng.choice(choices)
    flat = old.flatten()
    if not flat.numel():
        return torch.ones(wanted, dtype=old.dtype)
    count = math.prod(wanted)
    return flat.repeat(-(-count // flat.numel()) if count else 1)[:count].reshape(wanted)


def odd_numbers(old: torch.Tensor, rng: Random) -> torch.Tensor:
    """NaN, infinity, the largest and the smallest numbers, in one place or everywhere."""
    new = old.clone()
    value = rng.choice((math.nan, math.inf, -math.inf, 0.0, 1e38, 65504.0, 1e-45, -1.0, 1e10, 3.0))
    if not new.is_floating_point() or new.element_size() == 1:
        return torch.zeros_like(new)
    value = value if not math.isfinite(value) else min(value, torch.finfo(new.dtype).max)
    if new.ndim == 0 or rng.random() < 0.5 or not new.numel():
        return torch.full_like(new, value)
    new.view(-1)[rng.randrange(new.numel())] = value
    return new


def bombs(rng: Random) -> tuple[Entries, str]:
    """A few megabytes whose products take gigabytes, or that say so."""
    wide = rng.choice((20_000, 40_000))
    layer = rng.choice(
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "transformer.transformer_blocks.0.attn.to_q", "lora_unet_x")
    )
    kind = rng.choice(("LoHa", "LoKr", "LoKr", "LoRA"))
    if kind == "LoHa":
        tall, flat = torch.ones(wide, 2), torch.ones(2, wide)
        return {
            f"{layer}.hada_w{i}_{end}": tensor.clone() for i in (1, 2) for end, tensor in (("a", tall), ("b", flat))
        }, kind
    if kind == "LoKr":
        sizes = rng.choice((((1, wide), (wide, 1)), ((200, 200), (200, 200)), ((wide, 2), (2, wide))))
        return {f"{layer}.lokr_w{i}": torch.ones(size) for i, size in enumerate(sizes, 1)}, f"{kind} of {sizes}"
    ends = (".lora_down.weight", ".lora_up.weight")
    return {layer + ends[0]: torch.ones(2, wide), layer + ends[1]: torch.ones(wide, 2)}, kind


def header_of(entries: Mapping[str, torch.Tensor], metadata: Any) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file as a table, and the bytes that follow it."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    parts, place = [], 0
    for key, tensor in entries.items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[key] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + len(data)],
        }
        parts.append(data)
        place += len(data)
    return header, b"".join(parts)


def as_file(header: Any, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file, right or wrong. `length`: what it says of its header."""
    text = as_json(header).encode("utf-8", "surrogatepass")
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def odd_header(header: dict[str, Any], rng: Random) -> tuple[dict[str, Any], str]:
    """The header with one tensor's facts changed: dtype, shape, place of its bytes."""
    header = {key: dict(facts) if isinstance(facts, dict) else facts for key, facts in header.items()}
    keys = [key for key in header if key != "__metadata__"]
    if not keys:
        return header, "nothing"
    key, kind = rng.choice(keys), rng.random()
    if kind < 0.3:
        header[key]["dtype"] = rng.choice((*DTYPES, None, 5, "f32", "\x1b[2J", ""))
    elif kind < 0.6:
        size = rng.choice((*NUMBERS, Raw("9" * 5000), "3", None, [1]))
        header[key]["shape"] = rng.choice(([size], [size, size], size, [1] * 100_000, [], None))
    elif kind < 0.8:
        header[key]["data_offsets"] = rng.choice(
            ([0, 0], [5, 1], [0, 2**63], [-4, 0], [0], None, [0, 10**30], [1, 5], "0")
        )
    elif kind < 0.9:
        header[Twin(key)] = header[key]
    else:
        changed_header, told = changed(header, rng, 1)
        return changed_header, "; ".join(told)
    return header, f"{key}: {few(header[key])}"


def odd_metadata(metadata: Mapping[str, str], rng: Random) -> tuple[Any, str]:
    """Metadata with odd entries: texts by rights, JSON in texts, and what is no text at all."""
    found: dict[str, Any] = dict(metadata)
    keys = ("ss_network_alpha", "ss_network_dim", "ss_tag_frequency", "modelspec.architecture", "modelspec.title",
    "format",
            "ss_base_model_version", "modelspec.thumbnail", "lora_adapter_metadata", "ss_network_args",
            "ss_network_module")  # fmt: skip
    for _ in range(rng.choice((1, 2, 5))):
        key = rng.choice((*keys, *found, odd_key(rng)))
        value = odd_value(rng)
        found[key] = odd_text(rng) if rng.random() < 0.5 else as_json(value) if rng.random() < 0.7 else value
    if rng.random() < 0.1:
        return odd_value(rng), "metadata is another value"
    return found, f"metadata {few(found)}"


def write_safetensors(
    path: Path, entries: Mapping[str, torch.Tensor], metadata: Any, rng: Random, odd: bool
) -> list[str]:
    """Write the file.

    If `odd`, something is wrong with its header, length or metadata, which is returned in words.
    """
    header, data = header_of(entries, metadata)
    if not odd:
        path.write_bytes(as_file(header, data))
        return []
    kind = rng.random()
    if kind < 0.45:
        header, told = odd_header(header, rng)
        path.write_bytes(as_file(header, data))
    elif kind < 0.85:
        metadata, told = odd_metadata(metadata or {}, rng)
        path.write_bytes(
            as_file({"__metadata__": metadata, **{k: v for k, v in header.items() if k != "__metadata__"}}, data)
        )
    elif kind < 0.95:
        length = rng.choice((0, 1, 7, 2**31, 2**63, 2**64 - 1, len(json.dumps(header)) + 1))
        told = f"says that its header has {length} bytes"
        path.write_bytes(as_file(header, data, length))
    else:
        value, told = odd_value(rng), "its header is another value"
        path.write_bytes(as_file(value, data))
    return [f"{path.name}: {told}"]
