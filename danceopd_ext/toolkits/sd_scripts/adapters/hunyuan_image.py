"""Runs the method on HunyuanImage-2.1 in sd-scripts.

Shape suffixes: B samples, C latent channels, H and W latent height and width, N solver steps.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import torch

from danceopd_ext.models.hunyuan_image_names import HunyuanImageNames
from danceopd_ext.toolkits.hosted.architecture import Architecture, with_files
from danceopd_ext.toolkits.hosted.argument_rules import rules, switched_on
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.hosted.seams import Call, unpacked
from danceopd_ext.toolkits.hosted.weights_header import Kind
from danceopd_ext.toolkits.sd_scripts.argument_rules import NO_FP8
from danceopd_ext.toolkits.sd_scripts.text_adapter import TextAdapter

#: shift of the toolkit's sampler, unless a sample prompt sets another
SHIFT = 5.0
#: functions of the toolkit that the adapter uses
CALLS = (
    Call(
        "library.strategy_hunyuan_image:HunyuanImageTextEncodingStrategy.encode_tokens",
        ("", "tokenize_strategy", "models", "tokens"),
        returns=5,
    ),
    Call("library.strategy_hunyuan_image:HunyuanImageTokenizeStrategy.tokenize", ("", "text")),
    Call(
        "library.hunyuan_image_models:HYImageDiffusionTransformer.forward",
        (
            "",
            "hidden_states",
            "timestep",
            "text_states",
            "encoder_attention_mask",
            "byt5_text_states",
            "byt5_text_mask",
        ),
    ),
    Call("library.hunyuan_image_utils:get_timesteps_sigmas", ("sampling_steps", "shift", "device"), returns=2),
)


@dataclass(frozen=True)
class HunyuanImageAdapter(TextAdapter):
    """The transformer takes 1000 * sigma as its time and returns dz/dsigma directly.

    The toolkit truncates the time to an integer. Here it stays exact, because the velocity is needed at this sigma.
    """

    texts = ("embeds", "mask", "byt5_embeds", "byt5_mask", "ocr")  # only the sampler's own guidance reads the last one

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        return transformer(
            z_BCHW,
            sigma_B * 1000,
            condition["embeds"],
            condition["mask"],
            condition["byt5_embeds"],
            condition["byt5_mask"],
        )

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        utils = importlib.import_module("library.hunyuan_image_utils")
        made = utils.get_timesteps_sigmas(steps, SHIFT, torch.device("cpu"))
        return unpacked(made, 2, "get_timesteps_sigmas")[1]


HUNYUAN_IMAGE = Architecture(
    model_type="hunyuan_image",
    names=HunyuanImageNames(),
    script="hunyuan_image_train_network",
    trainer="HunyuanImageNetworkTrainer",
    network_module="networks.lora_hunyuan_image",
    adapter=lambda trainer, args: HunyuanImageAdapter(),
    **with_files("text_encoder", "byt5", "vae"),
    refused=rules("fp8_base fp8_base_unet", switched_on, NO_FP8, "Write fp8_scaled = true instead."),
    latent_channels=64,
    latent_scale=32,
    size_multiple=32,
    kinds=(Kind(HunyuanImageNames.title, ("double_blocks.0.", "byt5_in.")),),
    blocks=("double_blocks", "single_blocks"),
    calls=CALLS,
)
