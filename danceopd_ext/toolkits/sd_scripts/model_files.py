"""Checks the files that a preset for sd-scripts names, before any of them is loaded.

The toolkit loads any file, encodes the texts for minutes, and then fails.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.config.toolkits import hosted_toolkits
from danceopd_ext.errors import UserError
from danceopd_ext.models.registry import NAMES
from danceopd_ext.toolkits.hosted.architecture import MODEL, Architecture
from danceopd_ext.toolkits.hosted.preflight import check_teachers
from danceopd_ext.toolkits.hosted.teacher_files import Linears
from danceopd_ext.toolkits.hosted.weights_header import (
    Header,
    Kind,
    check_kind,
    count_blocks,
    is_lora,
    linear_shapes,
    read_header,
)
from danceopd_ext.toolkits.sd_scripts.adapters.sd3 import SD3
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES

_CLIP, _CLIP_WIDTH = "text_model.encoder.layers.0.", "token_embedding.weight"
#: names of layers of Stable Diffusion 3, whose whole checkpoints hold these parts too
_SD3 = f"{SD3.blocks[0]}."
_T5 = "encoder.block.0.layer.0.SelfAttention.q.weight"
#: argument -> what its file contains
PARTS: dict[str, Kind] = {
    "clip_l": Kind("CLIP-L", (_CLIP,), (_SD3,), (_CLIP_WIDTH, 1280)),
    "clip_g": Kind("CLIP-G", (_CLIP,), (_SD3,), (_CLIP_WIDTH, 768)),
    "t5xxl": Kind("T5-XXL", (_T5,), (_SD3,), (_T5, 1472)),
    "byt5": Kind("ByT5", (_T5,), (), (_T5, 4096)),
    "gemma2": Kind("Gemma 2", ("layers.0.pre_feedforward_layernorm.",)),
    "qwen3": Kind("Qwen3", ("layers.0.self_attn.q_norm.",)),
    "text_encoder": Kind("Qwen2.5-VL", ("layers.0.self_attn.q_proj.bias",), ("text_model.",)),
    "ae": Kind("a VAE", ("decoder.", "encoder."), (".SelfAttention.", "text_model.", _SD3, "double_blocks.")),
    "vae": Kind("a VAE", ("decoder.", "encoder."), (".SelfAttention.", "text_model.", _SD3, "double_blocks.")),
}
#: models that people confuse with these, and that no toolkit here trains
OTHERS = (Kind("Stable Diffusion 1 or XL, which is not a flow model", ("input_blocks.0.", "output_blocks.0.")),)
#: prefixes that the names of a model's layers may have
PREFIXES = ("model.diffusion_model.", "net.")


def known_kinds() -> Iterator[Kind]:
    """Yield what a file can be, for messages: this toolkit's models, families that other toolkits train, and others."""
    for architecture in ARCHITECTURES.values():
        yield from architecture.kinds
    yield from PARTS.values()
    for architecture in ARCHITECTURES.values():
        yield from architecture.mistaken
    yield from _families_of_others()
    yield from OTHERS


def _families_of_others() -> Iterator[Kind]:
    """Yield a kind for each sign of families that this toolkit does not train; later families come first."""
    strangers = [family for name, family in NAMES.items() if name not in ARCHITECTURES]
    for sign, family in {family.sign: family for family in reversed(strangers)}.items():
        places = [toolkit for toolkit, row in hosted_toolkits().items() if family.name in row.models]
        who = f", which {places[0]} trains" if places else ""
        yield Kind(f"{family.sign_title or family.title}{who}", (), sign=sign)


def check_files(args: Namespace, options: DanceOPDSection, architecture: Architecture, preset: Path) -> None:
    """Raise UserError if a file does not match its argument, or a teacher does not fit the model."""
    headers = {}
    for name in architecture.files:
        wanted = architecture.kinds if name == MODEL else [PARTS[name]]
        if getattr(args, name):
            others = name in architecture.folders
            place = Path(getattr(args, name))
            headers[name] = check_kind(_named(name, args, preset), place, wanted, known_kinds(), others)
        elif headers[MODEL] is not None and name not in architecture.required:
            _check_inside(name, headers[MODEL], architecture, args, preset)
    header = headers[MODEL]
    linears = _layers(header, architecture)
    if linears:
        _check_swap(args, architecture, linears, preset)
    check_teachers(options, architecture.names, architecture.title, linears)
    _check_start(args, linears, preset)


def _model(args: Namespace) -> Path:
    return Path(args.pretrained_model_name_or_path)


def _named(name: str, args: Namespace, preset: Path) -> str:
    return f'{preset}: {name} = "{getattr(args, name)}"'


def _check_inside(name: str, header: Header, architecture: Architecture, args: Namespace, preset: Path) -> None:
    """Raise UserError if a part is not given and the checkpoint does not contain it."""
    if not any(key.startswith(architecture.inside[name]) for key in header):
        raise UserError(
            f"{preset}: {name} is missing: {_model(args)} does not contain {PARTS[name].title}. Name its file with "
            f"{name}."
        )


def _layers(header: Header | None, architecture: Architecture) -> Linears | None:
    """Return the layers of the model's file under the toolkit's own names; None if the file has other names."""
    if header is None:
        return None
    linears = linear_shapes(header, PREFIXES)
    return linears if all(count_blocks(linears, name) for name in architecture.blocks) else None


def most_swapped(counts: list[int]) -> int:
    """Return how many blocks can be swapped: two of each list stay; with two lists, two single blocks count as one."""
    if len(counts) == 1:
        return max(counts[0] - 2, 0)
    double, single = (max(count - 2, 0) for count in counts)
    possible = (n for n in range(2 * double + 2) if n // 2 <= double and (n - n // 2) * 2 <= single)
    return max(possible, default=0)


def _check_swap(args: Namespace, architecture: Architecture, linears: Linears, preset: Path) -> None:
    swapped = getattr(args, "blocks_to_swap", None) or 0
    most = most_swapped([count_blocks(linears, name) for name in architecture.blocks])
    if not 0 <= swapped <= most:
        raise UserError(
            f"{preset}: blocks_to_swap = {swapped}: 0 to {most} blocks of this {architecture.title} can be swapped. "
            + (f"Write {most} or less." if most else "Remove it.")
        )


def _check_start(args: Namespace, linears: Linears | None, preset: Path) -> None:
    """Raise UserError if the toolkit cannot start from network_weights or base_weights.

    It only reads its own names, and silently leaves out layers that it does not know.
    """
    for place in args.base_weights or []:
        _lora_layers(f'{preset}: base_weights = "{place}"', Path(place), linears)
    if not args.network_weights:
        return
    where = f'{preset}: network_weights = "{args.network_weights}"'
    ranks = sorted(set(_lora_layers(where, Path(args.network_weights), linears).values()))
    by_layer = any("_dim" in entry.partition("=")[0] for entry in args.network_args or [])
    if ranks and ranks != [args.network_dim] and not args.dim_from_weights and not by_layer:
        found = ", ".join(map(str, ranks))
        raise UserError(
            f"{where}: its rank is {found}, but network_dim = {args.network_dim}. Write "
            + (f"network_dim = {found}." if len(ranks) == 1 else "dim_from_weights = true.")
        )


def _lora_layers(where: str, path: Path, linears: Linears | None) -> dict[str, int]:
    """Return layer -> rank of a LoRA with the toolkit's own names. Raises UserError."""
    header = read_header(path)
    if header is None:
        return {}
    down = {name.partition(".lora_down.")[0]: shape[0] for name, shape in header.items() if ".lora_down." in name}
    layers = {name: rank for name, rank in down.items() if name.startswith("lora_unet_")}
    if not layers:
        convert = f"python -m danceopd_ext convert {path} {path.with_suffix('')}-kohya.safetensors --to kohya"
        raise UserError(
            f"{where}: this is not a LoRA of the transformer with sd-scripts' own layer names (lora_unet_...)."
            + (f" Convert it: {convert}" if is_lora(header) else " Name a LoRA.")
        )
    known = {"lora_unet_" + layer.replace(".", "_") for layer in linears or ()}
    if known and (foreign := sorted(set(layers) - known)):
        raise UserError(
            f"{where}: {len(foreign)} of its {len(layers)} layers are not in the model, such as {foreign[0]}."
        )
    return layers
