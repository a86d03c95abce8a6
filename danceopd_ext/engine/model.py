"""The model as everything else sees it: where its files are, what its configuration says, and how it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.engine.block_swap import BlockSwap
from danceopd_ext.engine.checks import (
    check_attention,
    check_quantised,
    check_swap,
    check_weights,
    select_attention,
)
from danceopd_ext.engine.movers import can_swap
from danceopd_ext.engine.precision import torch_dtype
from danceopd_ext.models.decoding import tile
from danceopd_ext.models.family import Family, SizeLimits
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.loading import load_layout, load_scheduler, load_transformer, load_vae
from danceopd_ext.models.model_files import ModelFiles, fetch, find_model_files
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.text_pipeline import load_text_pipeline


@dataclass(frozen=True)
class Model:
    """A model whose files were found and checked; its weights are loaded when one of the `load_` methods is called.

    `layout`: the layers that a LoRA can change. `config`: the transformer's configuration. `precision`: a word of
    mixed_precision. `attention`: the attention backend. `blocks_to_swap`: how many blocks' weights stay in main memory.
    `quantize` and `quantize_text_encoders`: the number format in which weights are held (models.held_linear), None for
    that of `precision`. `vae_tiling`: whether pictures are decoded in tiles.
    """

    files: ModelFiles
    layout: Layout
    config: Mapping[str, Any]
    device: torch.device
    precision: str = "no"
    attention: str = "sdpa"
    blocks_to_swap: int = 0
    quantize: str | None = None
    quantize_text_encoders: str | None = None
    vae_tiling: bool = False

    @property
    def family(self) -> Family:
        return self.files.family

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are loaded in, and velocities are computed in."""
        return torch_dtype(self.precision)

    @cached_property
    def pixels_per_latent(self) -> int:
        """How many pixels one latent is wide."""
        return self.files.vae_scale_factor

    @cached_property
    def size_limits(self) -> SizeLimits:
        """The sizes of picture that the model can make."""
        return self.family.size_limits(self.config, self.pixels_per_latent)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the latents of a picture of width x height pixels."""
        return self.family.latent_shape(self.config, self.pixels_per_latent, width, height)

    def sigmas(self, width: int, height: int, steps: int) -> torch.Tensor:
        """Return the pipeline's own sigma grid for this picture size: [steps + 1], falling to 0, on the CPU."""
        key = (width, height, steps)
        if key not in self._grids:
            latent_hw = self.latent_shape(width, height)[1:]
            self._grids[key] = self.family.sigmas(self._scheduler, self.config, steps, latent_hw)
        return self._grids[key]

    @cached_property
    def _grids(self) -> dict[tuple[int, int, int], torch.Tensor]:
        return {}

    @cached_property
    def _scheduler(self) -> Any:
        return load_scheduler(self.files)

    def source_images(self) -> SourceImages:
        """Return the model's rules for source images, with which data is checked before anything is loaded."""
        return source_rules(self.family, self.pixels_per_latent, self.size_limits.multiple)

    def load_transformer(self) -> torch.nn.Module:
        """Load the transformer on the CPU, quantised, with its attention backend. Raises UserError."""
        transformer = self.load_checkpoint(self.files)
        select_attention(self.family, transformer, self.attention)
        return transformer

    def load_checkpoint(self, files: ModelFiles) -> torch.nn.Module:
        """Load the transformer of a model of the same size, held as this one's is, on the CPU. Raises UserError."""
        return load_transformer(files, self.dtype, self.quantize, self.device)

    @property
    def swaps(self) -> bool:
        """Whether blocks travel to the device; a device without memory of its own would gain nothing."""
        return self.blocks_to_swap > 0 and can_swap(self.device)

    def place(self, transformer: torch.nn.Module) -> BlockSwap | None:
        """Put the transformer on the device; of the blocks that are swapped, only what travels with none of them.

        If the model `swaps`, its adapters must be on it already. Returns what brings the blocks, if any do travel.
        """
        swap = None
        if self.swaps:
            swap = BlockSwap(self.family.repeated_blocks(transformer), self.blocks_to_swap, self.device)
        transformer.to(self.device)
        return swap

    def load_text_encoders(self) -> Any:
        """Load the pipeline's text encoders and tokenizers, on the device or streamed to it. Raises UserError."""
        return load_text_pipeline(self.files, self.dtype, self.device, self.quantize_text_encoders)

    def load_vae(self, dtype: torch.dtype | None = None) -> Any:
        """Load the VAE on the CPU, in the model's dtype if none is given. Raises UserError."""
        return load_vae(self.files, dtype or self.dtype)

    def load_decoder(self) -> Any:
        """Load the VAE to decode pictures with, on the CPU, in the model's dtype. Raises UserError."""
        vae = self.load_vae()
        if self.vae_tiling:
            tile(vae)
        return vae

    def fetched(self, download=fetch) -> Model:
        """Return the same model with its files here: what is still on the hub is downloaded now. Raises UserError."""
        model = replace(self, files=download(self.files))
        check_weights(model.files)
        return model


def source_rules(family: Family, pixels_per_latent: int, multiple: int) -> SourceImages:
    """Return a family's rules for source images; `multiple`: of a picture's sides, in pixels."""
    return SourceImages(
        title=family.title,
        maximum=family.max_sources,
        fitted=lru_cache(maxsize=None)(lambda size, drawn: family.source_size(size, pixels_per_latent, drawn)),
        area=family.scaled_area,
        multiple=multiple,
        editors=tuple(name for name, other in FAMILIES.items() if other.can_edit),
    )


def find_model(
    where: str,
    model_type: str | None,
    components_from: str | None,
    *,
    device: torch.device,
    precision: str = "no",
    attention: str = "sdpa",
    blocks_to_swap: int = 0,
    quantize: str | None = None,
    quantize_text_encoders: str | None = None,
    vae_tiling: bool = False,
    key: str = "pretrained_model_name_or_path",
    parts: Mapping[str, str] | None = None,
    check: bool = True,
) -> Model:
    """Find and check a model; a hub model downloads a few small files only (see find_model_files).

    `key`: what the user calls `where`. `parts`: preset key of a part -> its file (see find_model_files). `check`:
    whether the model is going to be asked; a merge of LoRAs needs no more than its configuration. Raises UserError.
    """
    files = find_model_files(where, model_type, components_from, key=key, parts=parts)
    if check:
        check_weights(files)
    layout, config = load_layout(files)
    if check:
        check_attention(files.family, config, attention)
        check_swap(files.family, layout, blocks_to_swap)
        check_quantised(files, device, quantize, quantize_text_encoders)
    held = {"quantize": quantize, "quantize_text_encoders": quantize_text_encoders, "vae_tiling": vae_tiling}
    return Model(files, layout, config, device, precision, attention, blocks_to_swap, **held)
