"""HunyuanImage-2.1 of the checkout, small: 2 + 2 blocks of 32 channels. Its class has no sizes to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import nn

from danceopd_ext.toolkits.sd_scripts.adapters.hunyuan_image import HunyuanImageAdapter
from tests.integration.sd_scripts.tiny_models import (
    ACCELERATOR,
    Architecture,
    Texts,
    noisy_input,
    randomise,
    trainer_arguments,
)

SHAPE = (64, 4, 6)
WIDTH, HEADS, TEXT, BYT5 = 32, 2, 24, 1472  # the last is written into the toolkit
TOKENS, BYT5_TOKENS = 8, 5


def make_model(attn_mode: str = "torch", split_attn: bool = False, **_) -> nn.Module:
    """The checkout's own forward and blocks, in a class whose constructor takes smaller numbers."""
    from library import hunyuan_image_models as models

    class TinyTransformer(models.HYImageDiffusionTransformer):
        def __init__(self):
            nn.Module.__init__(self)
            self.attn_mode, self.split_attn = attn_mode, split_attn
            self.patch_size, self.rope_dim_list, self.rope_theta = [1, 1], [8, 8], 256
            self.in_channels = self.out_channels = self.unpatchify_channels = SHAPE[0]
            self.hidden_size, self.heads_num = WIDTH, HEADS
            self.byt5_in = models.ByT5Mapper(BYT5, WIDTH, WIDTH, WIDTH, use_residual=False)
            self.img_in = models.PatchEmbed2D(self.patch_size, self.in_channels, WIDTH)
            self.txt_in = models.SingleTokenRefiner(TEXT, WIDTH, HEADS, depth=1)
            self.time_in = models.TimestepEmbedder(WIDTH, nn.SiLU)
            block = {"mlp_width_ratio": 2, "mlp_act_type": "gelu_tanh", "qk_norm": True, "qk_norm_type": "rms"}
            double = [models.MMDoubleStreamBlock(WIDTH, HEADS, qkv_bias=True, **block) for _ in range(2)]
            single = [models.MMSingleStreamBlock(WIDTH, HEADS, **block) for _ in range(2)]
            self.double_blocks, self.single_blocks = nn.ModuleList(double), nn.ModuleList(single)
            self.final_layer = models.FinalLayer(WIDTH, self.patch_size, self.out_channels, nn.SiLU)
            self.gradient_checkpointing = self.cpu_offload_checkpointing = False
            self.blocks_to_swap = self.offloader_double = self.offloader_single = None
            self.num_double_blocks, self.num_single_blocks = len(double), len(single)

    return TinyTransformer()


def make_texts(lengths: list[int], letters: list[int], seed: int) -> Texts:
    """As the toolkit caches them; the last says whether there are letters to draw."""
    rng = torch.Generator().manual_seed(seed)
    count = len(lengths)
    mask = (torch.arange(TOKENS)[None] < torch.tensor(lengths)[:, None]).float()
    byt5_mask = (torch.arange(BYT5_TOKENS)[None] < torch.tensor(letters)[:, None]).float()
    embeds = torch.randn(count, TOKENS, TEXT, generator=rng)
    byt5 = torch.randn(count, BYT5_TOKENS, BYT5, generator=rng)
    return [embeds, mask, byt5, byt5_mask, torch.tensor(letters) > 0]


@contextmanager
def exact_sampler() -> Iterator:
    """The toolkit's sampling function without its rounding: it computes in bfloat16, at whole numbers of time."""
    import hunyuan_image_minimal_inference as inference

    names = {name: getattr(torch, name) for name in dir(torch) if not name.startswith("__")}
    original, inference.torch = (
        inference.torch,
        SimpleNamespace(**{**names, "bfloat16": torch.float32, "int64": torch.float32}),
    )
    try:
        yield inference
    finally:
        inference.torch = original


def make() -> Architecture:
    import hunyuan_image_train_network
    from library import flux_train_utils

    model = randomise(make_model())

    def predict(z: torch.Tensor, sigma: torch.Tensor, texts: Texts) -> torch.Tensor:
        with noisy_input(flux_train_utils, z, sigma):
            return hunyuan_image_train_network.HunyuanImageNetworkTrainer().get_noise_pred_and_target(
                trainer_arguments(), ACCELERATOR, None, z, {}, texts, model, None, torch.float32, True, is_train=False
            )[0]

    def sample(noise: torch.Tensor, steps: int, texts: Texts, empty: Texts, scale: float) -> torch.Tensor:
        def context(entries: Texts) -> dict:
            names = ("embed", "mask", "embed_byt5", "mask_byt5", "ocr_mask")
            return {**dict(zip(names, entries, strict=True)), "prompt": ""}

        args = SimpleNamespace(
            image_size=(noise.shape[2] * 32, noise.shape[3] * 32), infer_steps=steps, flow_shift=5.0,
            guidance_scale=scale, fp8=False, apg_start_step_ocr=38, apg_start_step_general=38, guidance_rescale=0.0,
            guidance_rescale_apg=0.0,
        )  # fmt: skip
        with exact_sampler() as inference:
            inference.randn_tensor = lambda *_, **__: noise
            return inference.generate_body(args, model, context(texts), context(empty), noise.device, 0)

    texts, empty = make_texts([6, 3], [3, 0], 1), make_texts([2], [0], 2)
    return Architecture(HunyuanImageAdapter(), model, SHAPE, texts, empty, predict, sample)
