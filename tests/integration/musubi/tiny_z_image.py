"""Z-Image at a few blocks of 64 channels: the same weights fit diffusers' model of tests/tiny/pipelines.py."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

DIM, CAPTION, CHANNELS = 64, 16, 4


def shrink(layers: int = 2) -> None:
    """Let musubi make and load tiny models from here on, with a text encoder and a VAE that need no files."""
    from musubi_tuner.zimage import zimage_autoencoder, zimage_config, zimage_utils

    sizes = {"DIM": DIM, "N_LAYERS": layers, "N_REFINER_LAYERS": 1, "N_HEADS": 2, "N_KV_HEADS": 2}
    sizes |= {"CAP_FEAT_DIM": CAPTION, "IN_CHANNELS": CHANNELS}
    for name, size in sizes.items():
        setattr(zimage_config, f"DEFAULT_TRANSFORMER_{name}", size)
    zimage_config.ROPE_AXES_DIMS, zimage_config.ROPE_AXES_LENS = [DIM // 2 - 8, 4, 4], [128, 32, 32]
    zimage_utils.load_qwen3 = lambda *_args, **_kwargs: (Tokenizer(), TextEncoder())
    zimage_autoencoder.load_autoencoder_kl = lambda *_args, **_kwargs: Vae()


def transformer(seed: int = 0, layers: int = 2) -> torch.nn.Module:
    """Random in every parameter: fresh ones end in zeros, and a zero velocity tests nothing."""
    from musubi_tuner.zimage import zimage_model

    shrink(layers)
    model = zimage_model.create_model("torch", False, torch.float32).to_empty(device="cpu")
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
        noise = torch.randn(parameter.shape, generator=rng)
        is_norm = "norm" in name and name.endswith("weight")
        parameter.data = 1 + 0.1 * noise if is_norm else noise * (0.7 / fan_in**0.5 if fan_in > 1 else 0.1)
    return model.requires_grad_(False).eval()


def write_model(path: Path, seed: int = 0, layers: int = 2) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in transformer(seed, layers).state_dict().items()}, path)
    return path


class Tokenizer:
    """A token a character."""

    def apply_chat_template(self, messages, **_kwargs) -> str:
        return messages[0]["content"] + "."  # as the real one's, it is never empty

    def __call__(self, texts, max_length, **_kwargs):
        ids = torch.zeros(len(texts), 64, dtype=torch.long)
        mask = torch.zeros(len(texts), 64, dtype=torch.long)
        for row, text in enumerate(texts):
            tokens = [1 + byte % 60 for byte in text.encode()][:64]
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        return SimpleNamespace(input_ids=ids, attention_mask=mask)


class TextEncoder(torch.nn.Module):
    """Random numbers that depend on the whole text. Counts in `calls` how often it was asked."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.embedding, self.second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask, output_hidden_states):
        TextEncoder.calls += 1
        rows = []
        for ids in input_ids:
            seed = int.from_bytes(hashlib.sha256(bytes(ids.tolist())).digest()[:4], "big")
            rows.append(torch.randn(len(ids), CAPTION, generator=torch.Generator().manual_seed(seed)))
        hidden = torch.stack(rows).to(torch.bfloat16)
        return SimpleNamespace(hidden_states=[hidden, hidden, hidden])


class Vae(torch.nn.Module):
    """Shows three of the latents' channels."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8).tanh()


def write_dataset(folder: Path, captions: list[str], side: int = 64, seed: int = 0) -> Path:
    """A dataset of pictures whose latents and texts are cached, by musubi's own functions."""
    from musubi_tuner import zimage_cache_text_encoder_outputs as cache
    from musubi_tuner.dataset.image_video_dataset import ItemInfo, save_latent_cache_z_image
    from PIL import Image

    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(seed)
    for number, caption in enumerate(captions):
        name = f"{folder.name}{number}"
        Image.new("RGB", (side, side)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
        item = ItemInfo(name, caption, (side, side), (side, side))
        item.latent_cache_path = str(folder / f"{name}_{side:04d}x{side:04d}_zi.safetensors")
        item.text_encoder_output_cache_path = str(folder / f"{name}_zi_te.safetensors")
        save_latent_cache_z_image(item, torch.randn(CHANNELS, side // 8, side // 8, generator=rng))
        cache.encode_and_save_batch(Tokenizer(), TextEncoder(), [item], torch.device("cpu"))
    return folder
