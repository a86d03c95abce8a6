"""Makes a VAE of the world's 32-pixel pictures into one of 64 pixels, without training the whole again.

Z-Image's editing variant takes source images of 64 pixels or more, and a picture of the world has 32: there each
pixel is drawn as 2 x 2. The larger VAE has one more level at the outside. Its encoder gives a doubled picture exactly
the latents of the picture itself; its decoder's 2 x 2 squares have exactly the old decoder's pixels as their means,
and a short training of the outermost layers makes the four pixels of a square equal.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm import trange

from danceopd_ext.demo.omni_draw import PICTURE_SIZE
from danceopd_ext.demo.pretrain.vae import build_vae, random_pictures

#: per axis, a kernel over three pixels -> a kernel over doubled pixels whose pairs have its answers as their means
PAIR_MEANS = ((2.0, 0.0, 0.0), (-1.0, 1.0, -1.0), (0.0, 0.0, 2.0))


@torch.no_grad()
def double_vae(small: AutoencoderKL) -> AutoencoderKL:
    """The VAE of doubled pictures; see the module. `small` must come from `vae.build_vae`."""
    channels = small.config.block_out_channels
    large = build_vae((channels[0], *channels), small.config.latent_channels)
    large.register_to_config(
        sample_size=PICTURE_SIZE,
        scaling_factor=small.config.scaling_factor,
        shift_factor=small.config.shift_factor,
    )
    inner = len(channels) - 1
    state = large.state_dict()
    for name, weight in small.state_dict().items():
        state[_in_large(name)] = weight
    _shifts_then_old(state, small.encoder.conv_in)
    for block in ("encoder.down_blocks.0.resnets.0", f"decoder.up_blocks.{inner + 1}.resnets"):
        for name in state:
            if name.startswith(block) and ".conv2." in name:
                state[name] = torch.zeros_like(state[name])  # what a residual block adds
    straight = torch.zeros_like(state[f"decoder.up_blocks.{inner}.upsamplers.0.conv.weight"])
    straight[:, :, 1, 1] = torch.eye(len(straight))
    state[f"decoder.up_blocks.{inner}.upsamplers.0.conv.weight"] = straight
    state[f"decoder.up_blocks.{inner}.upsamplers.0.conv.bias"].zero_()
    axis = torch.tensor(PAIR_MEANS)
    state["decoder.conv_out.weight"] = torch.einsum("pi,qj,ocij->ocpq", axis, axis, small.decoder.conv_out.weight)
    large.load_state_dict(state)
    return large.eval().requires_grad_(False)


def _in_large(name: str) -> str:
    """Where the larger VAE has a weight of the smaller one: its encoder has a new first block."""
    head = "encoder.down_blocks."
    if not name.startswith(head):
        return name
    number, _, rest = name.removeprefix(head).partition(".")
    return f"{head}{int(number) + 1}.{rest}"


def _shifts_then_old(state: dict[str, torch.Tensor], old: torch.nn.Conv2d) -> None:
    """The old first convolution as two: four shifted copies of the picture, then one that halves.

    The one that halves sees the pixels 2i, 2i + 1 and 2i + 2; of a picture shifted by one to the right these are the
    doubled pixels i - 1, i, i, and to the left i, i + 1, i + 1.
    """
    first = torch.zeros_like(state["encoder.conv_in.weight"])
    second = torch.zeros_like(state["encoder.down_blocks.0.downsamplers.0.conv.weight"])
    for colour in range(3):
        for rows in range(2):
            for columns in range(2):
                channel = colour * 4 + rows * 2 + columns
                first[channel, colour, 2 * rows, 2 * columns] = 1.0
                part = second[:, channel]
                for i, p in _taken(rows):
                    for j, q in _taken(columns):
                        part[:, p, q] = old.weight[:, colour, i, j]
    state["encoder.conv_in.weight"], state["encoder.conv_in.bias"] = first, torch.zeros_like(old.bias)
    state["encoder.down_blocks.0.downsamplers.0.conv.weight"] = second
    state["encoder.down_blocks.0.downsamplers.0.conv.bias"] = old.bias.clone()


def _taken(shift: int) -> tuple[tuple[int, int], ...]:
    """(place in the old kernel, place in the new kernel) that a shift to the right (0) or left (1) gives."""
    return ((0, 0), (1, 1)) if shift == 0 else ((2, 2),)


def smooth_squares(vae: AutoencoderKL, steps: int, batch: int = 8, learning_rate: float = 2e-3, seed: int = 0) -> None:
    """Trains the outermost layers of the decoder, so that the four pixels of a square are equal."""
    if not steps:
        return
    generator = torch.Generator().manual_seed(seed)
    decoder = vae.decoder
    tail = [decoder.up_blocks[-2].upsamplers[0], decoder.up_blocks[-1], decoder.conv_norm_out, decoder.conv_out]
    weights = [weight.requires_grad_() for part in tail for weight in part.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    bar = trange(steps, desc="squares", mininterval=5)
    for step in bar:
        pictures = random_pictures(batch, generator).repeat_interleave(2, 2).repeat_interleave(2, 3)
        with torch.no_grad():
            posterior = vae.encode(pictures).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        error = F.mse_loss(vae.decode(latents).sample, pictures)
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(rmse=f"{error.item() ** 0.5 / 2:.4f}")
    vae.requires_grad_(False)
