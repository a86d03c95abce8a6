"""Parts that the tiny pipelines of several families have: words, a tokenizer, a VAE, sizes."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["a", "the", "red", "blue", "green", "cat", "dog", "house", "tree", "river", "photo", "of", "on", "big", "old"]
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}assistant"
#: two heads of 16 features
HEADS = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
SCHEDULER = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
TEXT = {
    "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer(max_length: int = 77) -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<unk>", "<s>", "</s>", "user", "assistant", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=max_length,
    )  # fmt: skip
    made.chat_template = CHAT
    return made


def randomise(module: torch.nn.Module, seed: int, scale: float = 0.05) -> None:
    """Make every parameter non-zero: fresh transformers end in zeros, and a zero velocity tests nothing."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=rng) * scale
        parameter.data = (parameter.data + noise if parameter.ndim > 1 else parameter.data + noise / 2).contiguous()


def made(model: type, seed: int, **sizes: object) -> torch.nn.Module:
    """A model of these sizes with every parameter random."""
    torch.manual_seed(seed)
    built = model(**sizes)
    randomise(built, seed, scale=0.1)
    return built.eval()


def vae(channels: int, seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=channels,
        sample_size=32, scaling_factor=1.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
    ).eval()  # fmt: skip
