"""Which family and size a file is made for, where names alone do not tell."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_lora import layout, save

from danceopd_ext.cli import main, run
from danceopd_ext.lora.families import architecture_of, candidates
from danceopd_ext.lora.lora_file import open_lora_file
from danceopd_ext.models.registry import FAMILIES, NAMES, names_of

PEFT = (".lora_A.weight", ".lora_B.weight")
LAYOUTS = [names.reference_layout() for names in NAMES.values()]


def attention(width: int, blocks: int, parts: tuple[str, ...] = ("to_q", "to_k", "add_q_proj", "to_out.0")) -> dict:
    """The attention of so many blocks in diffusers' names, rank 1."""
    tensors = {}
    for block in range(blocks):
        for part in parts:
            layer = f"transformer.transformer_blocks.{block}.attn.{part}"
            tensors[layer + PEFT[0]], tensors[layer + PEFT[1]] = torch.ones(1, width), torch.ones(width, 1)
    return tensors


WIDTHS = {
    (1536, 24): "sd3",
    (2432, 38): "sd3",
    (2432, 3): "sd3",
    (3072, 19): "flux",
    (3072, 60): "qwen_image",
    (3072, 5): "flux_2",
    (6144, 8): "flux_2",
    (4096, 8): "flux_2",
    (4096, 2): "flux_2",
}


@pytest.mark.parametrize("size, family", WIDTHS.items())
def test_widths_and_the_number_of_blocks_tell_the_family(size, family):
    assert [found.family for found in candidates(attention(*size), LAYOUTS)] == [family]


def test_the_number_of_blocks_decides_where_the_width_is_unknown():
    assert [found.family for found in candidates(attention(8, 19), LAYOUTS)] == ["flux"]
    assert [found.family for found in candidates(attention(8, 24), LAYOUTS)] == ["sd3"]


def test_a_family_that_has_the_layers_of_an_earlier_one_and_more_makes_no_tie():
    """Z-Image-Omni has Z-Image's layers: nothing depends on which of the two is meant."""
    tensors = {f"layers.0.attention.to_q{part}": torch.ones(2, 2) for part in PEFT}
    assert [found.family for found in candidates(tensors, LAYOUTS)] == ["z_image"]


@pytest.fixture
def tied(tmp_path):
    """A few double blocks of width 3072: FLUX.1, FLUX.2 Klein 4B or Qwen-Image."""
    return save(tmp_path / "x.safetensors", attention(3072, 3))


def test_inspect_names_the_families_of_a_tie(tied, capsys):
    assert run(main, ["inspect", str(tied)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "family FLUX.1 or FLUX.2 or Qwen-Image: their layers have the same names" in told
    assert "usable yes, if you choose --family flux or --family qwen_image" in told  # FLUX.1 and 2 write these alike
    assert run(main, ["inspect", str(tied), "--family", "flux"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "family FLUX.1 dialect" in told and "usable yes" in told


def test_convert_asks_on_a_tie_and_obeys_the_answer(tied, tmp_path, capsys):
    out = tmp_path / "y.safetensors"
    assert run(main, ["convert", str(tied), str(out), "--to", "kohya"]) == 2
    told = capsys.readouterr().err
    assert "FLUX.1 or Qwen-Image" in told and "--family qwen_image" in told and not out.exists()
    assert run(main, ["convert", str(tied), str(out), "--to", "kohya", "--family", "qwen_image"]) == 0
    assert "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight" in load_file(out)
    assert run(main, ["convert", str(tied), str(out), "--to", "kohya", "--family", "flux_kontext"]) == 0
    assert "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight" in load_file(out)


def test_a_family_that_does_not_fit_or_does_not_exist(tied, tmp_path, capsys):
    arguments = ["convert", str(tied), str(tmp_path / "y.safetensors"), "--to", "kohya", "--family"]
    assert run(main, [*arguments, "z_image"]) == 2
    assert "no key fits Z-Image" in capsys.readouterr().err
    assert run(main, [*arguments, "qwen_imag"]) == 2
    assert '"qwen_imag" is unknown. Did you mean "qwen_image"?' in capsys.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_type_names_a_family_of_files(family):
    assert names_of(family).lora_targets == FAMILIES[family].lora_targets


TITLES = {
    (6144, 8): "FLUX.2 dev",
    (4096, 8): "FLUX.2 Klein 9B",
    (3072, 5): "FLUX.2 Klein 4B",
    (2432, 38): "Stable Diffusion 3.5 large",
    (1536, 24): "Stable Diffusion 3 medium or Stable Diffusion 3.5 medium",
}


@pytest.mark.parametrize("size, title", TITLES.items())
def test_inspect_names_the_published_size(size, title, tmp_path, capsys):
    assert run(main, ["inspect", str(save(tmp_path / "x.safetensors", attention(*size)))]) == 0
    assert f"family        {title}\n" in capsys.readouterr().out


def test_a_layer_of_one_size_alone_tells_it(tmp_path, capsys):
    layer = "transformer.transformer_blocks.0.attn2.to_q"
    more = {layer + PEFT[0]: torch.ones(1, 1536), layer + PEFT[1]: torch.ones(1536, 1)}
    file = save(tmp_path / "x.safetensors", attention(1536, 24) | more)
    assert run(main, ["inspect", str(file)]) == 0
    assert "family        Stable Diffusion 3.5 medium\n" in capsys.readouterr().out


def model(family: str, width: int, attn2: bool = False, **depths: int):
    blocks = [f"{kind}.{i}" for kind, depth in depths.items() for i in range(depth)]
    names = {f"{block}.attn.{part}": (width, width) for block in blocks for part in ("to_q", "to_k")}
    names |= {"transformer_blocks.0.attn2.to_q": (width, width)} if attn2 else {}
    return FAMILIES[family].layout_of(names)


MODELS = {
    "Flux.2-klein-9b": ("flux_2_klein", 4096, {"transformer_blocks": 8, "single_transformer_blocks": 24}),
    "Flux.2-klein-4b": ("flux_2_klein", 3072, {"transformer_blocks": 5, "single_transformer_blocks": 20}),
    "Flux.2-dev": ("flux_2", 6144, {"transformer_blocks": 8, "single_transformer_blocks": 48}),
    "stable-diffusion-v3-medium": ("sd3", 1536, {"transformer_blocks": 24}),
    "stable-diffusion-v3.5-medium": ("sd3", 1536, {"transformer_blocks": 24, "attn2": True}),
    "stable-diffusion-v3.5-large": ("sd3", 2432, {"transformer_blocks": 38}),
    "qwen-image-edit": ("qwen_image_edit", 3072, {"transformer_blocks": 60}),
    "flux-1-dev": ("flux_kontext", 3072, {"transformer_blocks": 19, "single_transformer_blocks": 38}),
}


@pytest.mark.parametrize("word, made", MODELS.items())
def test_the_architecture_in_the_metadata_is_that_of_the_models_size(word, made):
    family, width, depths = made
    assert architecture_of(model(family, width, **depths), FAMILIES[family].architecture) == word


def test_a_size_that_was_never_published_keeps_the_familys_word():
    assert architecture_of(layout("sd3"), "stable-diffusion-v3") == "stable-diffusion-v3"


@pytest.mark.parametrize(
    "before, after",
    [
        (None, "Flux.2-klein-9b/lora"),
        ("Flux.2-klein-4b/lora", "Flux.2-klein-9b/lora"),
        ("my-own-model/lora", "my-own-model/lora"),
    ],
)
def test_convert_labels_the_size(before, after, tmp_path):
    metadata = {"modelspec.architecture": before} if before else None
    file, out = save(tmp_path / "x.safetensors", attention(4096, 8), metadata), tmp_path / "y.safetensors"
    assert run(main, ["convert", str(file), str(out), "--to", "kohya", "--family", "flux_2"]) == 0
    assert open_lora_file(out).metadata["modelspec.architecture"] == after
