"""Lists the LoRA names of HunyuanImage-2.1: sd-scripts' and ComfyUI's."""

from __future__ import annotations

from danceopd_ext.models.layer_names import Blocks, LayerNames

DOUBLE = {
    f"{stream}{own}": f"{stream}{theirs}"
    for stream in ("img_", "txt_")
    for own, theirs in {
        "attn_qkv": "attn.qkv",
        "attn_proj": "attn.proj",
        "mod.linear": "mod.lin",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
    }.items()
}
SINGLE = {"linear1": "linear1", "linear2": "linear2", "modulation.linear": "modulation.lin"}


class HunyuanImageNames(LayerNames):
    """Layers have sd-scripts' names; the native names are ComfyUI's, for the same layers."""

    name = "hunyuan_image"
    title = "HunyuanImage-2.1"
    architecture = "hunyuan-image-2.1"
    lora_targets = ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2", "linear1", "linear2")
    default_format = "kohya"
    blocks = {  # noqa: RUF012
        "double_blocks": Blocks("double_blocks", 20, DOUBLE),
        "single_blocks": Blocks("single_blocks", 40, SINGLE),
    }
    outer = {}  # noqa: RUF012
