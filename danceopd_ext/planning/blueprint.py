"""What a model's configuration files say: its parts without weights, on torch's meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from danceopd_ext.foreign.json import read_object
from danceopd_ext.models.configuration import built_from, library_class, read_configuration
from danceopd_ext.models.family import Family
from danceopd_ext.models.model_folder import INDEX
from danceopd_ext.models.published import PublishedModel
from danceopd_ext.models.registry import FAMILIES

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Blueprint:
    """A model on paper. `encoders`: part -> (class of transformers, configuration). `where`: for messages.

    `downloads`: whether its files have to be downloaded first.
    """

    name: str
    family: Family
    transformer_config: Config
    vae_config: Config
    encoders: Mapping[str, tuple[str, Config]]
    where: Path
    downloads: bool = False

    @cached_property
    def pixels_per_latent(self) -> int:
        return self.family.latent_scale.pixels_per_latent(self.vae().config)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the latents of a picture of width x height pixels."""
        return self.family.latent_shape(self.whole_config, self.pixels_per_latent, width, height)

    @cached_property
    def whole_config(self) -> Config:
        """The transformer's configuration with its class's defaults."""
        return dict(self.transformer().config)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """The transformer's linear layers: name -> (outputs, inputs)."""
        return self.family.layout(self.transformer()).shapes

    def transformer(self) -> torch.nn.Module:
        """Return the transformer on the meta device. Raises UserError that names its configuration."""
        return self._built(library_class(self.family.transformer_class), self.transformer_config, "transformer")

    def vae(self) -> torch.nn.Module:
        """Return the VAE on the meta device. Raises UserError that names its configuration."""
        return self._built(library_class(self.family.vae_class), self.vae_config, "vae")

    def encoder(self, part: str) -> torch.nn.Module:
        """Return a text encoder on the meta device. Raises UserError that names its configuration."""
        name, config = self.encoders[part]
        with built_from(self.where / part / "config.json"), torch.device("meta"):
            cls = getattr(transformers, name)
            settings = cls.config_class.from_dict(dict(config))
            return cls(settings)

    def _built(self, cls: Any, config: Config, part: str) -> torch.nn.Module:
        with built_from(self.where / part / "config.json"), torch.device("meta"):
            return cls.from_config(dict(config)).eval().requires_grad_(False)


def blueprint_of_folder(family: Family, folder: Path, name: str, downloads: bool = False) -> Blueprint:
    """Read a diffusers folder, of which only the configuration files are needed.

    A text encoder whose configuration is not there is left out. Raises UserError.
    """
    index = read_object(folder / INDEX, "model index")
    encoders = {}
    for part in family.text_parts:
        file, names = folder / part / "config.json", index.get(part)
        if file.is_file() and isinstance(names, list) and hasattr(transformers, str(names[-1])):
            cls = getattr(transformers, names[-1])
            if isinstance(cls, type) and issubclass(cls, torch.nn.Module):
                encoders[part] = (names[-1], read_object(file, f"configuration of the {part}"))
    parts = {"transformer": family.transformer_class, "vae": family.vae_class}
    configs = {part: read_configuration(folder, part, library_class(cls)) for part, cls in parts.items()}
    return Blueprint(name, family, configs["transformer"], configs["vae"], encoders, folder, downloads)


def blueprint_of_published(model: PublishedModel) -> Blueprint:
    """Return the blueprint of a model whose configurations this package knows."""
    family = FAMILIES[model.model_type]
    where = Path(model.hub)
    return Blueprint(model.hub, family, model.transformer, model.vae, model.text_encoders, where, downloads=True)


def bytes_of(module: torch.nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of a module's weights and buffers in this dtype; whole numbers keep theirs."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}.values()
    return sum(t.numel() * (dtype.itemsize if t.is_floating_point() else t.element_size()) for t in tensors)
