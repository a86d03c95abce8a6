"""Models from split files for tests: found, loaded whole, and compared to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danceopd_ext.engine.model import Model, find_model
from danceopd_ext.errors import UserError

CPU = torch.device("cpu")
#: diffusers reads the fused layers of their transformers in the released size only
RELEASED_SIZE_ONLY = ("flux", "flux_kontext")


def from_files(family: str, small: Path, files: dict[str, str], **more) -> Model:
    parts = {key: path for key, path in files.items() if path}
    return find_model(parts.pop("pretrained_model_name_or_path"), family, str(small), device=CPU, parts=parts, **more)


def refused(family: str, small: Path, files: dict[str, str], **wrong: str) -> str:
    with pytest.raises(UserError) as caught:
        from_files(family, small, {**files, **wrong})
    return str(caught.value)


def states(model: Model) -> dict[str, torch.Tensor]:
    """Every tensor of transformer, VAE and text encoders that pictures depend on."""
    encoders = model.load_text_encoders().components
    modules = {"vae": model.load_vae()}
    if model.family.name not in RELEASED_SIZE_ONLY:
        modules["transformer"] = model.load_transformer()
    modules |= {
        name: encoders[name] for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if name in encoders
    }
    named = {
        f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()
    }
    return {name.replace("text_encoder.model.", "text_encoder."): tensor for name, tensor in named.items()}


def same(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> bool:
    """Whether the same tensors are equal to the bit, apart from those that no picture depends on."""
    unused = ("lm_head", "vision_tower", "multi_modal_projector")
    used = {name: tensor for name, tensor in expected.items() if not any(word in name for word in unused)}
    assert used.keys() == found.keys()
    return all(torch.equal(tensor, found[name]) for name, tensor in used.items())
