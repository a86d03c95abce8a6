"""SD3.5-medium, as small as its classes allow: a checkpoint, its text encoders, tokenizers, VAE and LoRAs."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from danceopd_ext.toolkits.sd_scripts.adapters.sd3 import Sd3Adapter, _joined, mend_second_attention
from tests.integration.sd_scripts.tiny_models import (
    ACCELERATOR,
    Architecture,
    Texts,
    noisy_input,
    randomise,
    trainer_arguments,
)

HIDDEN = 128
#: widths of the two CLIP encoders; their pooled outputs together are the model's vector
CLIP = {"l": 32, "g": 64}
#: of the text encoders' vocabulary: bytes and a few marks
WORDS = 600


def shrink() -> None:
    """Let the toolkit build small text encoders and a small VAE where it has fixed sizes."""
    from library import flux_utils, sd3_models, sd3_utils

    clip, t5 = sd3_utils.CLIPTextConfig, flux_utils.T5Config

    def small_clip(**config):
        width = CLIP["l"] if config["hidden_size"] == 768 else CLIP["g"]
        sizes = {"hidden_size": width, "projection_dim": width, "intermediate_size": 2 * width}
        return clip(**{**config, **sizes, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": WORDS})

    def small_t5(**config):
        sizes = {"num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "vocab_size": WORDS}
        return t5(**{**config, **sizes})

    sd3_utils.CLIPTextConfig, flux_utils.T5Config = small_clip, small_t5
    small = {"ch": 32, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1}
    sd3_models.VAEEncoder = functools.partial(sd3_models.VAEEncoder, **small)
    sd3_models.VAEDecoder = functools.partial(sd3_models.VAEDecoder, **small)


def model(depth: int = 2, seed: int = 0) -> torch.nn.Module:
    """The transformer, randomised: as its class initialises it, it answers 0 to everything."""
    from library.sd3_models import SD3Params, create_sd3_mmdit

    params = SD3Params(
        patch_size=2, depth=depth, num_patches=256, pos_embed_max_size=16, adm_in_channels=sum(CLIP.values()),
        qk_norm="rms", x_block_self_attn_layers=[0], context_embedder_in_features=4096,
        context_embedder_out_features=64 * depth, model_type="5-medium",
    )  # fmt: skip
    transformer = create_sd3_mmdit(params)
    transformer.initialize_weights()
    transformer.set_pos_emb_random_crop_rate(0.0)
    for name, weight in transformer.named_parameters():
        if ".ln_" in name:
            torch.nn.init.ones_(weight)  # the class leaves them empty
    return randomise(transformer, seed)


def write(folder: Path, depth: int = 2) -> dict[str, str]:
    """Write everything that a run needs; returns the toolkit's arguments that name it. Call `shrink` first."""
    from library import flux_utils, sd3_models, sd3_utils
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    encoders = {
        name: CLIPTextModelWithProjection(sd3_utils.CLIPTextConfig(hidden_size=size, eos_token_id=WORDS - 1))
        for name, size in (("clip_l", 768), ("clip_g", 1280))
    }
    encoders["t5xxl"] = T5EncoderModel(flux_utils.T5Config(d_model=4096, feed_forward_proj="gated-gelu"))
    for name, encoder in encoders.items():
        save(encoder, folder / f"{name}.safetensors")
    save(sd3_models.SDVAE(), folder / "vae.safetensors")
    save(model(depth), folder / "sd35.safetensors", "model.diffusion_model.")
    tokenizers(folder / "tokenizers")
    files = {name: str(folder / f"{name}.safetensors") for name in ("clip_l", "clip_g", "t5xxl", "vae")}
    return {
        "pretrained_model_name_or_path": str(folder / "sd35.safetensors"),
        "tokenizer_cache_dir": str(folder / "tokenizers"),
        **files,
    }


def save(module: torch.nn.Module, path: Path, prefix: str = "") -> None:
    save_file({prefix + name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}, path)


def tokenizers(folder: Path) -> None:
    """Byte-level tokenizers under the names that the toolkit looks for."""
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5TokenizerFast
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    clip = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    for name in ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"):
        clip.save_pretrained(folder / name)
    _t5_tokenizer(T5TokenizerFast, PreTrainedTokenizerFast).save_pretrained(folder / "google_t5-v1_1-xxl")


def _t5_tokenizer(kind: type, plain: type):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    marks = ["<pad>", "</s>", "<unk>"]
    words = [(mark, 0.0) for mark in marks] + [(chr(n), -1.0) for n in range(32, 127)]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="never")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return kind(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_ids=0)


def lora(path: Path, rank=4, seed=1, scale=0.6, depth=2, layers: tuple[str, ...] = (".attn",)) -> Path:
    """A LoRA in kohya's format, strong enough to be seen, by default on the attention of both streams.

    `layers`: parts of the names of the blocks' linear layers that it changes.
    """
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in model(depth).named_modules():
        inside = "joint_blocks" in name and any(part in name for part in layers)
        if not isinstance(layer, torch.nn.Linear) or not inside:
            continue
        key = "lora_unet_" + name.replace(".", "_")
        down = torch.randn(rank, layer.in_features, generator=rng) / layer.in_features**0.5
        up = torch.randn(layer.out_features, rank, generator=rng) * scale / rank**0.5
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(rank)}
    save_file(tensors, path)
    return path


def make() -> Architecture:
    """The tiny model and how the toolkit itself uses it; its text encoding strategy must be set."""
    from library import sd3_train_utils
    from sd3_train_network import Sd3NetworkTrainer

    transformer = model()
    mend_second_attention(transformer)
    rng = torch.Generator().manual_seed(4)

    def texts(count: int) -> Texts:
        lengths = torch.ones(count, 7)
        return [
            torch.randn(count, 7, 96, generator=rng), torch.randn(count, 9, 4096, generator=rng),
            torch.randn(count, 96, generator=rng), lengths, lengths, torch.ones(count, 9),
        ]  # fmt: skip

    def predict(z: torch.Tensor, sigma: torch.Tensor, given: Texts) -> torch.Tensor:
        """The trainer turns its velocity into a clean picture; turned back."""
        args = trainer_arguments(apply_lg_attn_mask=False, apply_t5_attn_mask=False)
        with noisy_input(sd3_train_utils, z, sigma):
            clean, *_ = Sd3NetworkTrainer().get_noise_pred_and_target(
                args, ACCELERATOR, None, z, {}, given, transformer, None, torch.float32, True, is_train=False
            )
        return (z - clean) / sigma.view(-1, 1, 1, 1)

    def sample(noise: torch.Tensor, steps: int, given: Texts, empty: Texts, scale: float) -> torch.Tensor:
        pairs = [(pair["context"], pair["pooled"]) for pair in (_joined(given), _joined(empty))]
        draw, torch.randn = torch.randn, lambda *_, **__: noise
        try:
            return sd3_train_utils.do_sample(
                64, 64, 1, *pairs, transformer, steps, scale, torch.float32, torch.device("cpu")
            )
        finally:
            torch.randn = draw

    return Architecture(Sd3Adapter(), transformer, (16, 8, 8), texts(2), texts(1), predict, sample)
