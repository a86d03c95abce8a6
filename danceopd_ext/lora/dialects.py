"""Parses the keys of a LoRA file, whichever tool wrote them.

A key is prefix + layer + part, such as `lora_unet_` + `joint_blocks_0_x_block_mlp_fc1` + `.lora_down.weight`. Tools
differ in the prefix, in the name of the part, and in whether dots or underscores divide the layer's name. All keys get
one form: prefix and part are removed, dots become underscores, and the rest is looked up in a table that is made from
the family's layout.

Besides changes of linear layers, files contain other things: `Parsed.not_linear` sorts them by kind.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from danceopd_ext.models.layout import Layout

#: removed one after the other; a longer prefix stands before its own beginning
PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet__",
    "lora_unet_",
    "lora_prior_unet_",
    "lora_transformer_",
    "lycoris_",
    "pipe.dit.",
    "unet.",
    "module.",
    "oft_unet_",
)

TEXT_ENCODER = re.compile(
    r"^(base_model\.model\.)?(lora_te\d?_|lora_prior_te_|lora_text_encoder|lycoris_text_model_|text_encoders?(_\d)?[._]"
    r"|clip_[lg]\.|t5(xxl)?\.|text_model\.)"
)

_PARTS = {
    "down": r"\.lora_down\.weight|\.lora_A(\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight"
    r"|(?<=_lora[12])\.down\.weight",
    "up": r"\.lora_up\.weight|\.lora_B(\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight"
    r"|(?<=_lora[12])\.up\.weight",
    "alpha": r"\.alpha|[._]lora\.alpha|\.lora_alpha",
    **{part: rf"\.{part}" for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{part: rf"\.{part}" for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")},
    "DoRA": r"\.dora_scale|\.magnitude|\.lora_magnitude_vector(\.\w+)?(\.weight)?",
    "Tucker": r"\.hada_t[12]|\.lokr_t[12]|\.lora_mid\.weight",
    "diff": r"\.diff",
    # parts of `_NOT_LINEAR`
    "bias": r"\.diff_b|\.b_norm|\.lora_B(\.\w+)?\.bias|\.lora_up\.bias",
    "norm": r"\.w_norm",
    "replaced": r"\.set_weight|\.reshape_weight|(\.modules_to_save(\.\w+)?)\.(weight|bias)",
    # parts of `METHODS`
    "OFT": r"\.oft_(blocks|diag)(\.\d+)?|\.oft_[rR](\.\w+)*",
    "BOFT": r"\.boft_[A-Za-z](\.\w+)*",
    "HRA": r"\.hra_u(\.\w+)*",
    "IA3": r"\.ia3_l(\.\w+)*|\.on_input",
    "GLoRA": r"\.[ab][12]\.weight|\.bm\.weight|\.glora_\w+(\.\w+)*",
    "T-LoRA": r"\.[qp]_layer\.weight|\.lambda_layer|\.base_(q|p|lambda)",
    "AdaLoRA": r"\.lora_E(\.\w+)*",
    "VeRA": r"\.vera_lambda_[bd](\.\w+)*|\.vera_[AB](\.\w+)*",
    "FourierFT": r"\.fourierft_spectrum(\.\w+)*",
}
_KEY = re.compile(
    r"^(?P<layer>.+?)(?:"
    + "|".join(f"(?P<p{number}>{pattern})" for number, pattern in enumerate(_PARTS.values()))
    + r")$"
)

REFUSED = ("Tucker",)

_MULTIPLIES = "it multiplies the base's weights; a LoRA adds to them"
#: methods whose changes are not low-rank -> the reason
METHODS = {
    "OFT": _MULTIPLIES,
    "BOFT": _MULTIPLIES,
    "HRA": _MULTIPLIES,
    "IA3": "it scales the outputs of the base's layers; a LoRA adds to their weights",
    "GLoRA": "its change depends on the base's own weights",
    "T-LoRA": "its rank depends on the noise level",
    "AdaLoRA": "its ranks have weights of their own",
    "VeRA": "its factors are random numbers that only the program that made it can regenerate",
    "FourierFT": "it changes the spectrum of the weights",
}
#: these cannot be merged into a model
_UNMERGED = ("T-LoRA",)

#: kinds in `Parsed.not_linear` that change the transformer -> what messages call one and several
OTHER_PARTS = {
    "bias": ("a bias", "biases"),
    "norm": ("a norm", "norms"),
    "replaced": ("a whole weight", "whole weights"),
}
#: kinds in `Parsed.not_linear` without an effect on the transformer's linear layers
_BESIDE_KEYS = (
    ("embedding", re.compile(r"^bundle_emb\.")),
    ("auxiliary", re.compile(r"^_aux\.")),
    ("marker", re.compile(r"(^|\.)scaled_fp8$")),
)


@dataclass
class Group:
    """All parts of one layer's change. `layer` is the layer as the file writes it, with its prefix.

    `base_layers`: the diffusers layers that it changes (several if the native layer is fused); empty if the family has
    no such layer. `native`: it is written in the native names.
    """

    layer: str
    parts: dict[str, str] = field(default_factory=dict)
    base_layers: tuple[str, ...] = ()
    native: bool = False

    @property
    def kind(self) -> str:
        """Return what the parts are: LoRA, LoHa, LoKr, difference or a name of `REFUSED`."""
        for refused in REFUSED:
            if refused in self.parts:
                return refused
        if any(part.startswith("hada") for part in self.parts):
            return "LoHa"
        if any(part.startswith("lokr") for part in self.parts):
            return "LoKr"
        return "difference" if "diff" in self.parts else "LoRA"


@dataclass
class Parsed:
    """A file's keys, sorted: layers of the family, unknown layers, text encoder keys, all other keys.

    `methods`: keys of methods that are not LoRAs, by their names in `METHODS`. `not_linear`: keys that change no linear
    layer, by kind: those of `OTHER_PARTS`, "convolution", "zero" (changes without an effect, all entries zero),
    "embedding" (of the text encoder), "auxiliary" (notes of a tool) and "marker" (of a number format).
    """

    groups: list[Group]
    unknown_layers: list[Group]
    text_encoder: list[str]
    other: list[str]
    methods: dict[str, list[str]] = field(default_factory=dict)
    not_linear: dict[str, list[str]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Return whether the file has no LoRA key."""
        changes = any(kind in self.not_linear for kind in (*OTHER_PARTS, "convolution", "zero"))
        return not (self.groups or self.unknown_layers or self.text_encoder or self.methods or changes)


@functools.lru_cache(maxsize=16384)
def split_key(key: str) -> tuple[str, str] | None:
    """Return (layer with prefix, part), or None if the key is not part of a LoRA."""
    match = _KEY.match(key)
    if match is None:
        return None
    part = next(part for number, part in enumerate(_PARTS) if match[f"p{number}"] is not None)
    return match["layer"], part


def plain(layer: str) -> str:
    """Remove the prefixes and turn dots into underscores.

    Attention processors of old diffusers files (`attn.processor.to_q`) are the layers themselves, and so are compiled
    modules (`_orig_mod`).
    """
    layer, found = layer.replace("_orig_mod.", ""), True
    while found:
        found = next((prefix for prefix in PREFIXES if layer.startswith(prefix)), "")
        layer = layer[len(found) :]
    return layer.replace(".processor.", ".").replace(".", "_")


def name_table(layout: Layout) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Plain name -> (diffusers layers, is a native name), for every name the family knows.

    The parts of a fused native layer are also known by their number (`qkv.0` is q), as OneTrainer's OMI files have it.
    """
    table = {
        f"{name}.{number}".replace(".", "_"): ((part,), False)
        for name, parts in layout.native.items()
        if len(parts) > 1
        for number, part in enumerate(parts)
    }
    for names in (layout.aliases, layout.native):
        table.update({name.replace(".", "_"): (tuple(base_layers), True) for name, base_layers in names.items()})
    table.update({name.replace(".", "_"): ((name,), False) for name in layout.shapes})
    return table


def parse(tensors: Mapping[str, torch.Tensor], layout: Layout) -> Parsed:
    """Sort a file's keys into layers of `layout` and the rest."""
    table = name_table(layout)
    convolutions = {name.replace(".", "_") for name in layout.convolutions}
    groups: dict[str, Group] = {}
    parsed = Parsed([], [], [], [])
    apart: set[str] = set()  # layers with a part of another kind: a lone alpha belongs to them
    for key, tensor in tensors.items():
        split = split_key(key)
        if TEXT_ENCODER.match(key):
            parsed.text_encoder.append(key)
        elif kind := _kind_not_linear(key, split, tensor, convolutions):
            parsed.not_linear.setdefault(kind, []).append(key)
            apart.update(split[:1] if split else ())
        elif split is None:
            parsed.other.append(key)
        elif split[1] in METHODS:
            name = "BOFT" if split[1] == "OFT" and tensor.ndim == 4 else split[1]
            parsed.methods.setdefault(name, []).append(key)
            apart.add(split[0])
        else:
            layer, part = split
            base_layers, native = table.get(plain(layer), ((), False))
            groups.setdefault(layer, Group(layer, base_layers=base_layers, native=native)).parts[part] = key
    if parsed.methods:  # such as the weight of IA3 and the rescale of OFT
        parsed.other = [key for key in parsed.other if key.rpartition(".")[0] not in apart]
    if groups:  # weights beside a LoRA are layers that were trained whole (PEFT's modules_to_save and bias="all")
        for key in [key for key in parsed.other if _names_a_weight(key, table)]:
            parsed.other.remove(key)
            parsed.not_linear.setdefault("replaced", []).append(key)
    whole = [group for group in groups.values() if group.layer not in apart or set(group.parts) != {"alpha"}]
    parsed.groups = [group for group in whole if group.base_layers]
    parsed.unknown_layers = [group for group in whole if not group.base_layers]
    return parsed


def _names_a_weight(key: str, table: Mapping[str, object]) -> bool:
    """Return whether the key is the weight or bias itself of a layer that the family has."""
    layer, _, part = key.rpartition(".")
    return part in ("weight", "bias") and plain(layer) in table


def _kind_not_linear(
    key: str, split: tuple[str, str] | None, tensor: torch.Tensor, convolutions: set[str]
) -> str | None:
    """Return the kind of a key in `Parsed.not_linear`, None for all other keys."""
    if split is None:
        return next((kind for kind, sign in _BESIDE_KEYS if sign.search(key)), None)
    layer, part = split
    if part == "diff" and tensor.ndim < 2:
        part = "norm"
    if part in ("diff", "bias", "norm") and is_zero(tensor):
        return "zero"
    if part in OTHER_PARTS:
        return part
    return "convolution" if plain(layer) in convolutions else None


def is_zero(tensor: torch.Tensor) -> bool:
    """Return whether all entries are zero; torch has no `any` for float8 and some integer dtypes."""
    usual = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return not bool((tensor if usual else tensor.float()).any())


def not_a_lora(name: str) -> str:
    """Return why a method of `METHODS` cannot be used, and the remedy."""
    remedy = "Use a plain LoRA."
    if name not in _UNMERGED:
        remedy = (
            f"Merge it into its base model with a program that supports {name}, and use the merged model as checkpoint"
            " (extract_rank makes a LoRA of it), or use a plain LoRA."
        )
    return f"{name} is not low-rank: {METHODS[name]}. {remedy}"
