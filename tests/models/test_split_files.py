"""Parts of a model from ComfyUI's and kohya's files give what the diffusers folder gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from danceopd_ext.engine.model import Model, find_model
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.text_pipeline import encode_prompts
from tests.tiny.split_files import save_both

CPU = torch.device("cpu")
SPLIT = tuple(name for name in FAMILIES if name != "z_image_omni")
PROMPTS = ["red cat on the big house", "a dog"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, dict[str, str]]]:
    """family -> its diffusers folder, the same without weights, and ComfyUI's files by preset key."""
    made: dict[str, tuple] = {}

    def of(family: str):
        if family not in made:
            made[family] = save_both(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


def from_files(family: str, small: Path, files: dict[str, str], **more) -> Model:
    parts = dict(files)
    return find_model(parts.pop("pretrained_model_name_or_path"), family, str(small), device=CPU, parts=parts, **more)


@pytest.mark.parametrize("family", SPLIT)
def test_split_files_give_what_the_folder_gives(family: str, written, monkeypatch) -> None:
    from tests.tiny.families.qwen_image import hand_processors_over

    if FAMILIES[family].text_sees_sources:
        hand_processors_over(monkeypatch)
    whole, small, files = written(family)
    assert not list(small.rglob("*.safetensors"))
    theirs, ours = find_model(str(whole), family, None, device=CPU), from_files(family, small, files)
    said = [encode_prompts(model.files, model.load_text_encoders(), PROMPTS) for model in (theirs, ours)]
    for expected, found in zip(*said, strict=True):
        assert expected.keys() == found.keys()
        for name in expected:
            assert torch.equal(expected[name], found[name])
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = []
    for model in (theirs, ours):
        vae = model.load_vae()
        latents = model.family.encode(vae, pixels)
        drawn.append((latents, vae.latent_scale.decode(vae, latents)))
    for expected, found in zip(*drawn, strict=True):
        assert torch.equal(expected, found)
        assert expected.std() > 0
