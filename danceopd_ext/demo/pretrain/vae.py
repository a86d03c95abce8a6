"""Trains the demo's small VAE on random pictures of the world: any content in any cell, on any background."""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm import trange

from danceopd_ext.demo.world import CELL_SIZE, IMAGE_SIZE, cell_templates

KL_WEIGHT = 3e-4


def build_vae(channels: tuple[int, ...] = (16, 32, 48), latent_channels: int = 8) -> AutoencoderKL:
    """A fresh VAE; every entry of `channels` after the first halves the resolution once."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def random_pictures(count: int, generator: torch.Generator) -> torch.Tensor:
    """float32 [N, 3, 32, 32] in -1..1, from crowded to empty; in half of them all objects are equal.

    Equal objects matter: the VAE normalises over the whole picture, so four red squares are not four times one.
    """
    templates = torch.from_numpy(cell_templates())
    n_backgrounds, n_contents = templates.shape[:2]
    background = torch.randint(n_backgrounds, (count, 1), generator=generator)
    content = torch.randint(n_contents, (count, 4), generator=generator)
    equal = torch.rand(count, 1, generator=generator) < 0.5
    content = torch.where(equal, content[:, :1], content)
    crowd = torch.rand(count, 1, generator=generator)
    content *= torch.rand(count, 4, generator=generator) < crowd
    cells = templates[background, content, torch.arange(4)]
    grid = cells.view(count, 2, 2, CELL_SIZE, CELL_SIZE, 3).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(count, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1


def train_vae(steps: int, batch: int = 32, learning_rate: float = 3e-3, seed: int = 0, **build) -> AutoencoderKL:
    """Trains from scratch, then sets scaling_factor and shift_factor so that latents have mean 0 and variance 1."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = build_vae(**build).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    bar = trange(steps, desc="vae", mininterval=5)
    for step in bar:
        pictures = random_pictures(batch, generator).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        error = F.mse_loss(vae.decode(posterior.mean + posterior.std * noise).sample, pictures)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        optimizer.zero_grad(set_to_none=True)
        (error + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(rmse=f"{error.item() ** 0.5 / 2:.4f}", kl=f"{kl.item():.3f}")
    vae = vae.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    _normalise_latents(vae, random_pictures(1024, generator))
    return vae


@torch.no_grad()
def _normalise_latents(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    means = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(128)])
    vae.register_to_config(scaling_factor=float(1 / means.std()), shift_factor=float(means.mean()))


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """uint8 [N, 32, 32, 3] through the VAE and back."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
