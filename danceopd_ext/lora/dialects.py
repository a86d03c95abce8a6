"""What the keys of a LoRA file say, without asking which tool wrote them.

A key is prefix + layer + part, such as `lora_unet_` + `joint_blocks_0_x_block_mlp_fc1` + `.lora_down.weight`. Tools
differ in the prefix, in the name of the part, and in whether dots or underscores divide the layer's name. All of them
become one form: prefix and part are taken off and dots become underscores, and what is left is looked up in one table
made from the family's layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from danceopd_ext.lora.layout import Layout

PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)

TEXT_ENCODER = re.compile(r"^(base_model\.model\.)?(lora_te\d?_|lora_prior_te_|text_encoders?(_\d)?\.)")

_PARTS = {
    "down": r"\.lora_down\.weight|\.lora_A(\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight",
    "up": r"\.lora_up\.weight|\.lora_B(\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight",
    "alpha": r"\.alpha",
    **{part: rf"\.{part}" for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{part: rf"\.{part}" for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")},
    "DoRA": r"\.dora_scale|\.magnitude|\.lora_magnitude_vector(\.\w+)?(\.weight)?",
    "full difference": r"\.diff|\.diff_b|\.w_norm|\.b_norm|\.set_weight",
    "bias": r"\.lora_B(\.\w+)?\.bias|\.lora_up\.bias",
    "Tucker": r"\.hada_t[12]|\.lokr_t[12]|\.lora_mid\.weight",
}
_KEY = re.compile(
    r"^(?P<layer>.+?)(?:"
    + "|".join(f"(?P<p{number}>{pattern})" for number, pattern in enumerate(_PARTS.values()))
    + r")$"
)

REFUSED = ("full difference", "bias", "Tucker")

_FAMILY_SIGNS = (
    ("FLUX.2", r"to_qkv_mlp_proj|ff(_context)?[._]linear_(in|out)|(double|single)_stream_modulation"),
    ("FLUX", r"double_blocks|single_blocks|single_transformer_blocks"),
    ("Qwen-Image", r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp|img_mod|txt_mod)"),
    ("SD 1.5 or SDXL", r"(down|up)_blocks[._]\d|mid_block|input_blocks|output_blocks"),
    ("Stable Diffusion 3", r"joint_blocks|transformer_blocks[._]\d+[._](attn|ff|norm1|ff_context|norm1_context)"),
    ("Z-Image", r"noise_refiner|context_refiner|(^|[._])layers[._]\d+[._](attention|feed_forward|adaLN)"),
    ("Wan", r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)"),
)

OUR_NAMES = {
    "sd3": "Stable Diffusion 3",
    "z_image": "Z-Image",
    "z_image_omni": "Z-Image-Omni",
    "flux": "FLUX.1",
    "flux_kontext": "FLUX.1",
    "flux_2": "FLUX.2",
    "flux_2_klein": "FLUX.2",
    "qwen_image": "Qwen-Image",
    "qwen_image_edit": "Qwen-Image",
    "qwen_image_edit_plus": "Qwen-Image",
}


@dataclass
class Group:
    """All parts of one layer's change. `layer` is the layer as the file writes it, with its prefix.

    `targets`: the diffusers layers that it changes (several where the native layer is fused), empty when the family
    has no such layer. `native`: it is written in the native names.
    """

    layer: str
    parts: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    native: bool = False

    @property
    def kind(self) -> str:
        """What the parts are: LoRA, LoHa, LoKr or a name of `REFUSED`."""
        for refused in REFUSED:
            if refused in self.parts:
                return refused
        if any(part.startswith("hada") for part in self.parts):
            return "LoHa"
        return "LoKr" if any(part.startswith("lokr") for part in self.parts) else "LoRA"


@dataclass
class Parsed:
    """A file's keys sorted out: layers of the family, layers that are not, text encoder keys, all other keys."""

    groups: list[Group]
    strangers: list[Group]
    text_encoder: list[str]
    other: list[str]

    @property
    def empty(self) -> bool:
        """Whether no key ends like a LoRA's."""
        return not (self.groups or self.strangers or self.text_encoder)


def split_key(key: str) -> tuple[str, str] | None:
    """Return (layer with prefix, part), or None when the key is no part of any LoRA."""
    match = _KEY.match(key)
    if match is None:
        return None
    part = next(part for number, part in enumerate(_PARTS) if match[f"p{number}"] is not None)
    return match["layer"], part


def plain(layer: str) -> str:
    """Take the prefixes off and turn dots into underscores.

    Attention processors of old diffusers files (`attn.processor.to_q`) are the layers themselves.
    """
    found = True
    while found:
        found = next((prefix for prefix in PREFIXES if layer.startswith(prefix)), "")
        layer = layer[len(found) :]
    return layer.replace(".processor.", ".").replace(".", "_")


def name_table(layout: Layout) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Plain name -> (diffusers layers, is a native name), for every name the family knows."""
    table = {name.replace(".", "_"): (tuple(targets), True) for name, targets in layout.native.items()}
    table.update({name.replace(".", "_"): ((name,), False) for name in layout.shapes})
    return table


def parse(keys: Iterable[str], layout: Layout) -> Parsed:
    """Sort a file's keys into layers of `layout` and the rest."""
    table = name_table(layout)
    groups: dict[str, Group] = {}
    text_encoder, other = [], []
    for key in keys:
        split = split_key(key)
        if TEXT_ENCODER.match(key):
            text_encoder.append(key)
        elif split is None:
            other.append(key)
        else:
            layer, part = split
            targets, native = table.get(plain(layer), ((), False))
            group = groups.setdefault(layer, Group(layer, targets=targets, native=native))
            group.parts[part] = key
    known = [group for group in groups.values() if group.targets]
    return Parsed(known, [group for group in groups.values() if not group.targets], text_encoder, other)


def guess_family(keys: Iterable[str]) -> str | None:
    """Name the model family that the keys look like, for messages; None when they look like none we know."""
    keys = list(keys)
    for family, sign in _FAMILY_SIGNS:
        if any(re.search(sign, key) for key in keys):
            return family
    return None


def best_layout(tensors: Mapping[str, torch.Tensor], layouts: Mapping[str, Layout]) -> Layout | None:
    """Return the layout that most of the file's layers fit, None when no layer fits any."""

    def fits(layout: Layout) -> int:
        return sum(_in_proportion(group, tensors, layout) for group in parse(tensors, layout).groups)

    best = max(layouts.values(), key=fits, default=None)
    return best if best is not None and fits(best) else None


def _in_proportion(group: Group, tensors: Mapping[str, torch.Tensor], layout: Layout) -> bool:
    """Whether the layer has as many outputs per input as the layout says, where it says and the file shows it."""
    if not {"down", "up"} <= set(group.parts) or not any(target in layout.ratios for target in group.targets):
        return True
    inputs, outputs = tensors[group.parts["down"]].shape[1], tensors[group.parts["up"]].shape[0]
    return outputs == inputs * sum(layout.ratios.get(target, 1) for target in group.targets)
