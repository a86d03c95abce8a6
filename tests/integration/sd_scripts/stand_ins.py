"""Let the toolkit's own loaders make the tiny models, for whole training runs in a process of their own.

Replaced are sizes, tokenizers' downloads, text encoders and VAEs; checkpoints are read, and everything else is done, by
the toolkit's own code.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.integration.sd_scripts import (
    tiny_anima,
    tiny_flux,
    tiny_hunyuan_image,
    tiny_lumina,
    tiny_models,
    tiny_texts,
)
from tests.integration.sd_scripts.checkout import has


def save(model: torch.nn.Module, path: Path) -> str:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return str(path)


def _read_letters() -> None:
    from library import strategy_base

    strategy_base.TokenizeStrategy._load_tokenizer = lambda *_, **__: tiny_texts.tokenizer()


def _small_autoencoder(folder: Path) -> str:
    from library import flux_models

    params = flux_models.AutoEncoderParams(
        resolution=64, in_channels=3, ch=32, out_ch=3, ch_mult=[1, 1, 1, 1], num_res_blocks=1, z_channels=16,
        scale_factor=0.36, shift_factor=0.12,
    )  # fmt: skip
    for config in flux_models.configs.values():
        config.ae_params = params
    return save(tiny_models.randomise(flux_models.AutoEncoder(params)), folder / "ae.safetensors")


def flux(folder: Path, kind: str = "dev") -> dict[str, str]:
    from library import chroma_models, flux_models, flux_utils

    _read_letters()
    arguments = {"ae": _small_autoencoder(folder), "clip_l": "unused", "t5xxl": "unused"}
    flux_models.configs["dev"].params = tiny_flux.flux_params()
    chroma_models.chroma_params = tiny_flux.chroma_params()
    flux_utils.load_clip_l = lambda path, dtype, *_, **__: tiny_texts.clip(16).to(dtype)
    flux_utils.load_t5xxl = lambda path, dtype, *_, **__: tiny_texts.t5(24).to(dtype)
    model = save(tiny_flux.make_model(kind), folder / "model.safetensors")
    return {**arguments, "pretrained_model_name_or_path": model, "t5xxl_max_token_length": "32"}


def chroma(folder: Path) -> dict[str, str]:
    return flux(folder, "chroma")


def lumina(folder: Path) -> dict[str, str]:
    from library import lumina_models, lumina_util, strategy_lumina

    strategy_lumina.AutoTokenizer = tiny_texts.from_pretrained()
    lumina_models.NextDiT_2B_GQA_patch2_Adaln_Refiner = tiny_lumina.make_model
    lumina_util.load_gemma2 = lambda path, dtype, *_, **__: tiny_texts.gemma2(24).to(dtype)
    model = save(tiny_models.randomise(tiny_lumina.make_model()), folder / "model.safetensors")
    return {
        "ae": _small_autoencoder(folder), "gemma2": "unused", "pretrained_model_name_or_path": model,
        "gemma2_max_token_length": "32",
    }  # fmt: skip


def hunyuan_image(folder: Path) -> dict[str, str]:
    from library import hunyuan_image_models, hunyuan_image_text_encoder, hunyuan_image_vae

    _read_letters()
    hunyuan_image_text_encoder.PROMPT_TEMPLATE_ENCODE_START_IDX = 160  # letters, not words
    encoder = tiny_texts.qwen2(tiny_hunyuan_image.TEXT).to(torch.bfloat16)
    letters = tiny_texts.t5(tiny_hunyuan_image.BYT5).encoder.to(torch.float16)
    hunyuan_image_text_encoder.load_qwen2_5_vl = lambda *_, **__: (None, encoder)
    hunyuan_image_text_encoder.load_byt5 = lambda *_, **__: (None, letters)
    hunyuan_image_vae.load_vae = lambda *_, **__: tiny_texts.NoAutoencoder()

    def create_model(attn_mode: str, split_attn: bool, dtype: torch.dtype) -> torch.nn.Module:
        return tiny_hunyuan_image.make_model(attn_mode, split_attn).to(dtype)

    hunyuan_image_models.create_model = create_model
    model = save(tiny_models.randomise(tiny_hunyuan_image.make_model()), folder / "model.safetensors")
    return {"text_encoder": "unused", "byt5": "unused", "vae": "unused", "pretrained_model_name_or_path": model}


def anima(folder: Path) -> dict[str, str]:
    from library import anima_utils, qwen_image_autoencoder_kl
    from safetensors.torch import load_file

    def load(device, path, attn_mode, split_attn, loading_device, dtype, *_) -> torch.nn.Module:
        model = tiny_anima.make_model(attn_mode, split_attn)
        model.load_state_dict(load_file(path))
        return model.to(loading_device, dtype)

    anima_utils.load_anima_model = load
    encoder = tiny_texts.qwen3(tiny_anima.TEXT)
    anima_utils.load_qwen3_text_encoder = lambda path, dtype, **__: (encoder.to(dtype), None)
    anima_utils.load_qwen3_tokenizer = lambda *_: tiny_texts.tokenizer(end=False)
    anima_utils.load_t5_tokenizer = lambda *_: tiny_texts.tokenizer()
    qwen_image_autoencoder_kl.load_vae = lambda *_, **__: tiny_texts.NoAutoencoder()
    model = save(tiny_models.randomise(tiny_anima.make_model()), folder / "model.safetensors")
    return {
        "qwen3": "unused", "vae": "unused", "pretrained_model_name_or_path": model, "qwen3_max_token_length": "32",
        "t5_max_token_length": "32",
    }  # fmt: skip


#: a name of a tensor by which a file is known, for files that the stand-ins do not read
MARKS = {
    "clip_l": "text_model.encoder.layers.0.weight", "t5xxl": "encoder.block.0.layer.0.SelfAttention.q.weight",
    "byt5": "encoder.block.0.layer.0.SelfAttention.q.weight", "gemma2": "layers.0.pre_feedforward_layernorm.weight",
    "qwen3": "layers.0.self_attn.q_norm.weight", "text_encoder": "layers.0.self_attn.q_proj.bias",
}  # fmt: skip


def write_unused(given: dict[str, str], folder: Path) -> None:
    """Put a file of the right kind where the arguments name one that no stand-in reads."""
    for name, value in given.items():
        if value == "unused":
            names = ["decoder.weight", "encoder.weight"] if name == "vae" else [MARKS[name]]
            given[name] = str(folder / f"{name}.safetensors")
            save_file({key: torch.zeros(2, 2) for key in names}, given[name])


#: model_type -> its tiny model
MODELS = {
    "flux": lambda: tiny_flux.make_model("dev"),
    "chroma": lambda: tiny_flux.make_model("chroma"),
    "lumina": tiny_lumina.make_model,
    "hunyuan_image": tiny_hunyuan_image.make_model,
    "anima": tiny_anima.make_model,
}
#: those that this version of the toolkit has, besides SD3
HERE = [name for name in MODELS if name == "chroma" or has(name)]
#: model_type -> prepares the process, writes the checkpoints into a folder and gives the arguments that name them
STAND_INS = {
    "flux": flux,
    "chroma": chroma,
    "lumina": lumina,
    "hunyuan_image": hunyuan_image,
    "anima": anima,
}
