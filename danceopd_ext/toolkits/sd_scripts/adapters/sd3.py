"""Runs the method on Stable Diffusion 3 and 3.5 in sd-scripts.

Shape suffixes: B samples, C latent channels, H and W latent height and width, N solver steps.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.architecture import MODEL, Architecture
from danceopd_ext.toolkits.hosted.conditions import Conditions, Entry
from danceopd_ext.toolkits.hosted.seams import Call
from danceopd_ext.toolkits.hosted.weights_header import Kind
from danceopd_ext.toolkits.sd_scripts.text_adapter import named_entries

#: shift of the toolkit's sampler
SHIFT = 3.0
#: entries of the toolkit's encoding
TEXTS = ("clip", "t5", "pooled", "clip_l_mask", "clip_g_mask", "t5_mask")
#: functions of the toolkit that the adapter uses
CALLS = (
    Call(
        "library.strategy_sd3:Sd3TextEncodingStrategy.concat_encodings",
        ("", "lg_out", "t5_out", "lg_pooled"),
        returns=2,
    ),
    Call(
        "library.strategy_sd3:Sd3TextEncodingStrategy.encode_tokens",
        ("", "tokenize_strategy", "models", "tokens"),
        returns=6,
    ),
    Call("library.strategy_sd3:Sd3TokenizeStrategy.tokenize", ("", "text")),
    Call("library.sd3_models:MMDiT.forward", ("", "x", "t"), ("context", "y")),
    Call("library.sd3_utils:ModelSamplingDiscreteFlow", named=("shift",)),
    Call("library.sd3_train_utils:get_all_sigmas", ("sampling", "steps")),
)


@dataclass(frozen=True)
class Sd3Adapter:
    """The transformer takes 1000 * sigma as its time and returns dz/dsigma directly.

    The toolkit applies attention masks, if the user asks for them, when it encodes the texts; its transformer takes
    none.
    """

    def condition(self, texts: Sequence[Entry], routes: list[str], empty: Sequence[Entry] | None = None) -> Conditions:
        return Conditions(_joined(texts), routes, _joined(empty) if empty else None)

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        return transformer(z_BCHW, sigma_B * 1000, context=condition["context"], y=condition["pooled"])

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        schedule = importlib.import_module("library.sd3_train_utils").get_all_sigmas
        sampling = importlib.import_module("library.sd3_utils").ModelSamplingDiscreteFlow
        return schedule(sampling(shift=SHIFT), steps)


def _joined(texts: Sequence[Entry]) -> dict[str, Entry]:
    """Return the three encoders' outputs for the transformer; `texts`: from the toolkit's encoding strategy."""
    strategy = importlib.import_module("library.strategy_base").TextEncodingStrategy.get_strategy()
    named = named_entries(texts, TEXTS)
    context, pooled = strategy.concat_encodings(named["clip"], named["t5"], named["pooled"])
    return {"context": context, "pooled": pooled}


def mend_second_attention(transformer: torch.nn.Module) -> str | None:
    """Correct the heads of the second attention in SD3.5-medium's blocks; return a note if they were wrong.

    Its call passes the number of heads, but the toolkit's `attention` expects their size. Other programs, for which
    teachers and student are meant, split the heads as in the first attention.
    """
    takes = list(inspect.signature(importlib.import_module("library.sd3_models").attention).parameters)
    second = [block.x_block.attn2 for block in transformer.joint_blocks if block.x_block.x_block_self_attn]
    wrong = [attention for attention in second if attention.num_heads != attention.head_dim]
    if takes[3] != "head_dim" or not wrong:
        return None
    for attention in wrong:
        attention.num_heads = attention.head_dim  # only that call reads it
    return (
        "note: this version of sd-scripts splits the second attention of SD3.5-medium into wrong heads (it passes "
        "their "
        "number as their size); this run corrects that"
    )


_TRANSFORMER = "joint_blocks.0."

SD3 = Architecture(
    model_type="sd3",
    names=FAMILIES["sd3"],
    script="sd3_train_network",
    trainer="Sd3NetworkTrainer",
    network_module="networks.lora_sd3",
    adapter=lambda trainer, args: Sd3Adapter(),
    files=(MODEL, "clip_l", "clip_g", "t5xxl", "vae"),
    kinds=(Kind(FAMILIES["sd3"].title, (f"model.diffusion_model.{_TRANSFORMER}",)),),
    mistaken=(
        Kind("the transformer of Stable Diffusion 3 alone, but sd-scripts needs the whole checkpoint", (_TRANSFORMER,)),
    ),
    inside={
        "clip_l": "text_encoders.clip_l.",
        "clip_g": "text_encoders.clip_g.",
        "t5xxl": "text_encoders.t5xxl.",
        "vae": "first_stage_model.",
    },
    blocks=("joint_blocks",),
    mend=mend_second_attention,
    calls=CALLS,
    needs_conversion=("diffusers", "diffusers"),
)
