"""Parts of a model from ComfyUI's and kohya's files give what the diffusers folder gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danceopd_ext.config.foreign_keys import FOREIGN_KEYS
from danceopd_ext.config.schema import PART_KEYS
from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.engine.digests import components_digest
from danceopd_ext.engine.model import find_model
from danceopd_ext.errors import UserError
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.scaled_weights import dequantised
from danceopd_ext.models.text_pipeline import encode_prompts
from tests.models.splits import CPU, RELEASED_SIZE_ONLY, from_files, same, states
from tests.tiny.families.qwen_image import hand_processors_over
from tests.tiny.hub import Hub, put_up
from tests.tiny.split_files import write
from tests.toolkits.runs import says

SPLIT = tuple(name for name in FAMILIES if name != "z_image_omni")
PROMPTS = ["red cat on the big house", "a dog"]


@pytest.mark.parametrize("family", SPLIT)
def test_split_files_give_what_the_folder_gives(family: str, written, monkeypatch) -> None:
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
    if family not in RELEASED_SIZE_ONLY:
        weights = [model.load_transformer().state_dict() for model in (theirs, ours)]
        assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("family", ["sd3", "z_image"])
def test_a_checkpoint_that_includes_its_parts_needs_no_others(family: str, written, tmp_path: Path) -> None:
    """As the original release has them (first_stage_model), or as ComfyUI saves them (vae)."""
    whole, small, files = written(family)
    tensors, place = dict(load_file(files["pretrained_model_name_or_path"])), 0 if family == "sd3" else -1
    for spec in FAMILIES[family].part_files:
        tensors |= {spec.inside[place] + name: tensor for name, tensor in load_file(files[spec.key]).items()}
    path = write(tmp_path / "all_in_one.safetensors", tensors)
    theirs = find_model(str(whole), family, None, device=CPU)
    ours = from_files(family, small, {"pretrained_model_name_or_path": str(path)})
    assert {part.spec for part in ours.files.parts} == set(FAMILIES[family].part_files)
    assert same(states(theirs), states(ours))


def test_layers_that_the_pipeline_does_not_read_may_be_missing(written, tmp_path: Path) -> None:
    """ComfyUI's Mistral for FLUX.2 has 30 of its 40 layers, and no norm after them."""
    family, layers = "flux_2", 30
    whole, small, files = written(family)
    cut = {
        name: tensor
        for name, tensor in load_file(files["text_encoder"]).items()
        if name != "model.norm.weight" and not (name.startswith("model.layers.") and int(name.split(".")[2]) >= layers)
    }
    path = write(tmp_path / "cut.safetensors", cut)
    theirs = find_model(str(whole), family, None, device=CPU)
    ours = from_files(family, small, {**files, "text_encoder": str(path)})
    said = [encode_prompts(model.files, model.load_text_encoders(), PROMPTS) for model in (theirs, ours)]
    assert all(torch.equal(a["embeds"], b["embeds"]) for a, b in zip(*said, strict=True))
    short = {name: tensor for name, tensor in cut.items() if not name.startswith(f"model.layers.{layers - 1}.")}
    with pytest.raises(UserError, match=r"tensors are missing, such as .*layers\."):
        from_files(family, small, {**files, "text_encoder": str(write(tmp_path / "short.safetensors", short))})


def test_a_text_encoder_in_pieces_is_read_whole(written, tmp_path: Path) -> None:
    whole, small, files = written("z_image")
    tensors = load_file(files["text_encoder"])
    names = sorted(tensors)
    first = write(tmp_path / "model-00001-of-00002.safetensors", {name: tensors[name] for name in names[::2]})
    with pytest.raises(
        UserError, match=r"model-00002-of-00002\.safetensors: Qwen3 4B text encoder .text_encoder. not fou"
    ):
        from_files("z_image", small, {**files, "text_encoder": str(first)})
    write(tmp_path / "model-00002-of-00002.safetensors", {name: tensors[name] for name in names[1::2]})
    theirs, ours = (
        find_model(str(whole), None, None, device=CPU),
        from_files("z_image", small, {**files, "qwen3": str(first), "text_encoder": ""}),
    )
    assert same(states(theirs), states(ours))


@pytest.mark.parametrize("dialect", ["plain", "scale_weight", "weight_scale"])
def test_text_encoders_in_fp8(dialect: str, written, tmp_path: Path) -> None:
    """Plain fp8 is cast; scaled fp8 is multiplied out, as ComfyUI's files of 2025 and those since have it."""
    _, small, files = written("z_image")
    stored, expected = {}, {}
    for name, weight in load_file(files["text_encoder"]).items():
        scale = weight.abs().max() / 300 if dialect != "plain" else torch.tensor(1.0)
        if weight.ndim < 2:
            stored[name] = expected[name] = weight
            continue
        stored[name] = (weight / scale).to(torch.float8_e4m3fn)
        expected[name] = (stored[name].float() * scale).to(torch.bfloat16)
        layer = name.removesuffix(".weight")
        if dialect != "plain":
            stored[f"{layer}.{dialect}"] = scale
        if dialect == "scale_weight":
            stored |= {f"{layer}.scale_input": torch.ones(()), "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
        if dialect == "weight_scale":
            stored[f"{layer}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    path = write(tmp_path / "fp8.safetensors", stored)
    model = from_files("z_image", small, {**files, "text_encoder": str(path)}, precision="bf16")
    found = model.load_text_encoders().text_encoder.state_dict()
    assert all(torch.equal(tensor.bfloat16(), found[name.removeprefix("model.")]) for name, tensor in expected.items())


@pytest.mark.parametrize("shape", [(), (6, 1), (6, 2, 1)])
def test_scales_are_one_number_or_one_for_each_row_or_block(shape: tuple[int, ...]) -> None:
    """ComfyUI's, and those of sd-scripts and musubi."""
    weight, scale = torch.arange(24).reshape(6, 4).to(torch.float8_e4m3fn), 1 + torch.rand(shape)
    found = dequantised(Path("w"), {"a.weight": weight, "a.scale_weight": scale}, torch.float32)
    wide = scale.reshape(6, 2, 1).expand(6, 2, 2).reshape(6, 4) if len(shape) == 3 else scale
    assert found.keys() == {"a.weight"}
    assert torch.equal(found["a.weight"], weight.float() * wide)


def test_files_that_end_in_sft_are_read(written, tmp_path: Path) -> None:
    """As kohya's guides call FLUX.1's."""
    _, small, files = written("z_image")
    renamed = {key: shutil.copy(path, tmp_path / f"{Path(path).stem}.sft") for key, path in files.items()}
    assert same(states(from_files("z_image", small, files)), states(from_files("z_image", small, renamed)))


def test_float8_in_a_text_encoder_is_not_the_transformers(written, tmp_path: Path) -> None:
    """SD3's checkpoint with T5 in fp8 has its transformer in fp16."""
    _, small, files = written("sd3")
    tensors = dict(load_file(files["pretrained_model_name_or_path"]))
    t5 = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(files["t5xxl"]).items()}
    tensors |= {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in t5.items()}
    path = str(write(tmp_path / "all_in_one.safetensors", tensors))
    model = from_files("sd3", small, {**files, "pretrained_model_name_or_path": path, "t5xxl": ""})
    assert not model.files.is_quantised
    found = model.load_text_encoders().text_encoder_3.state_dict()
    assert torch.equal(found["shared.weight"], t5["shared.weight"].float())


def test_other_names_of_a_part(written) -> None:
    """sd-scripts' and musubi's."""
    _, small, files = written("flux")
    names = {"clip_l": "text_encoder2", "t5xxl": "text_encoder1", "vae": "ae"}
    renamed = {names.get(key, key): path for key, path in files.items()}
    same_parts = [
        {part.spec: part.path for part in from_files("flux", small, given).files.parts} for given in (files, renamed)
    ]
    assert same_parts[0] == same_parts[1]


def test_every_key_of_a_part_is_a_key_of_a_preset() -> None:
    assert set(PART_KEYS) == {key for family in FAMILIES.values() for spec in family.part_files for key in spec.keys}
    assert not set(PART_KEYS) & set(FOREIGN_KEYS)


# --- caches


def test_caches_are_keyed_by_the_content_of_the_files(written, tmp_path: Path) -> None:
    _, small, files = written("z_image")
    model = from_files("z_image", small, files)
    digest = components_digest(model.files, ["vae"])
    for key in ("text_encoder", "vae"):
        tensors = load_file(files[key])
        first = next(iter(tensors))
        path = write(tmp_path / key / Path(files[key]).name, tensors | {first: tensors[first] + 1})
        other = from_files("z_image", small, {**files, key: str(path)})
        assert components_digest(other.files, ["vae"]) != digest
        assert (fingerprint(other.files.text_files) == fingerprint(model.files.text_files)) == (key == "vae")
    again = from_files("z_image", small, {**files, "vae": shutil.copy(files["vae"], tmp_path)})
    assert components_digest(again.files, ["vae"]) == digest


# --- the hub


def test_only_what_is_not_here_is_downloaded(written, monkeypatch, tmp_path: Path) -> None:
    whole, _, files = written("flux")
    where = FAMILIES["flux"].default_components
    hub = put_up(monkeypatch, Hub({where: whole}, tmp_path / "cache"))
    parts = {key: path for key, path in files.items() if key in ("clip_l", "vae")}
    model = find_model(files["pretrained_model_name_or_path"], "flux", None, device=CPU, parts=parts)
    assert hub.downloaded == []
    model = model.fetched()
    weights = {path.parent.name for path in model.files.components.rglob("*.safetensors")}
    assert weights == {"text_encoder_2"}, "the other parts are here already"
    theirs = find_model(str(whole), None, None, device=CPU)
    assert same(states(theirs), states(model))


def test_without_the_hub_the_missing_files_are_named(written, monkeypatch, tmp_path: Path) -> None:
    _, _, files = written("flux")
    put_up(monkeypatch, Hub({}, tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        find_model(files["pretrained_model_name_or_path"], "flux", None, device=CPU, parts={"vae": files["vae"]})
    says(
        str(caught.value), "could not be downloaded", "name them: clip_l (in ComfyUI models/text_encoders/clip_l.saf",
        "t5xxl (in ComfyUI models/text_encoders/t5xxl_fp16.safetensors)",
    )  # fmt: skip
    assert "vae (" not in str(caught.value)
    parts = {key: path for key, path in files.items() if not key.startswith("pretrained")}
    with pytest.raises(UserError, match="Only its small files are needed, once: configurations, tokenizers"):
        find_model(files["pretrained_model_name_or_path"], "flux", None, device=CPU, parts=parts)
