import json
import shutil

import diffusers
import pytest
import torch
from diffusers import Flux2Pipeline
from safetensors.torch import load_file, save_file

from danceopd_ext.errors import UserError
from danceopd_ext.models import loading, model_files
from danceopd_ext.models.decoding import decode, encode
from danceopd_ext.models.loading import load_layout, load_scheduler, load_transformer, load_vae
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.registry import FAMILIES, family_of_checkpoint
from danceopd_ext.models.text_pipeline import load_text_pipeline
from tests.tiny.calls import noise_for
from tests.tiny.pipelines import ALL, save_any
from tests.tiny.single_file import to_single_file


def family_of(folder):
    return find_model_files(str(folder)).family


def same_weights(one, other):
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_folder_gives_every_part(folder):
    source = find_model_files(str(folder))
    assert source.name == "model"
    assert source.vae_scale_factor == 2
    transformer = load_transformer(source, torch.float32)
    expected = ALL[source.family.name]()
    assert same_weights(transformer, expected.transformer)
    assert not transformer.training
    assert not any(p.requires_grad for p in transformer.parameters())
    assert load_scheduler(source).config.shift == 3.0
    assert {path.name for path in source.text_files} >= {"tokenizer", "text_encoder"}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_text_encoders_of_a_folder(name, tmp_path, processors):
    source, expected = find_model_files(str(save_any(name, tmp_path / "model"))), ALL[name]()
    pipeline = load_text_pipeline(source, torch.float32, "cpu")
    assert pipeline.transformer is None
    assert pipeline.vae is None
    found, wanted = (source.family.encode_prompts(p, ["a cat"])[0] for p in (pipeline, expected))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision(folder, dtype):
    assert load_transformer(find_model_files(str(folder)), dtype).dtype == dtype


#: diffusers reads FLUX.1's fused layers in the released size only
SINGLE_FILES = [name for name in FAMILIES if name not in ("flux", "flux_kontext")]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("name", SINGLE_FILES)
def test_single_file_gives_the_same_transformer(name, tmp_path, prefix):
    family, folder = FAMILIES[name], save_any(name, tmp_path / "folder")
    original = ALL[family.name](seed=5).transformer
    file = to_single_file(family.name, original, tmp_path / "my_model.safetensors", prefix)
    source = find_model_files(str(file), family.name, components_from=str(folder))
    assert (source.family, source.name) == (family, "my_model")
    loaded = load_transformer(source, torch.float32)
    state, expected = loaded.state_dict(), original.state_dict()
    assert state.keys() == expected.keys()
    worst = max(float((state[k] - expected[k]).abs().max()) for k in state)
    assert worst == 0


def test_a_file_with_more_than_the_transformer(tmp_path):
    """What UIs call a checkpoint: VAE and text encoders beside it."""
    folder = save_any("qwen_image", tmp_path / "folder")
    original = ALL["qwen_image"](seed=5).transformer
    tensors = {f"model.diffusion_model.{k}": v for k, v in original.state_dict().items()}
    save_file({**tensors, "vae.conv1.weight": torch.zeros(1)}, tmp_path / "all.safetensors")
    source = find_model_files(str(tmp_path / "all.safetensors"), components_from=str(folder))
    assert same_weights(load_transformer(source, torch.float32), original)
    assert loading._own_names(source.transformer).keys() == original.state_dict().keys()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_checkpoints_tell_their_family(name):
    """By the names of either kind; a model that edits is meant where the preset says so."""
    family, transformer = FAMILIES[name], ALL[name]().transformer
    drawing = {
        "flux_kontext": "flux", "qwen_image_edit": "qwen_image", "qwen_image_edit_plus": "qwen_image"
    }.get(name, name)  # fmt: skip
    diffusers_names = list(transformer.state_dict())
    native = [f"model.diffusion_model.{layer}.weight" for layer in family.layout(transformer).native]
    native += [own for own in diffusers_names if "siglip" in own or "pad_token" in own]
    for names in (diffusers_names, native):
        assert family_of_checkpoint(names).name == drawing
        assert family_of_checkpoint(names, name) is family
        assert family_of_checkpoint(names, "no such family").name == drawing


def test_a_class_that_diffusers_lacks_is_named(monkeypatch, folder):
    source = find_model_files(str(folder))
    monkeypatch.setattr(type(source.family), "transformer_class", "TransformerOfTomorrow")
    with pytest.raises(UserError, match=r"does not include TransformerOfTomorrow\. Install a newer version"):
        load_transformer(source, torch.float32)


def test_a_text_encoder_that_needs_another_library(monkeypatch, folder):
    source = find_model_files(str(folder))

    def refuse(*arguments, **more):
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library")

    monkeypatch.setattr(getattr(diffusers, source.family.pipeline_class), "from_pretrained", refuse)
    with pytest.raises(UserError, match="requires the Torchvision library"):
        load_text_pipeline(source, torch.float32, "cpu")


def test_layout_knows_shapes_without_weights(folder):
    layout, config = load_layout(find_model_files(str(folder)))
    transformer = ALL[family_of(folder).name]().transformer
    assert dict(layout.shapes) == dict(family_of(folder).layout(transformer).shapes)
    assert config["in_channels"] == transformer.config.in_channels


def test_pictures_are_decoded_as_the_pipeline_does(folder):
    source = find_model_files(str(folder))
    family, pipeline = source.family, ALL[source.family.name]()
    latents = noise_for(family, pipeline, (32, 32))
    found = decode(load_vae(source, torch.float32), latents)
    expected = pipeline.image_processor.postprocess(vae_output(family, pipeline.vae, latents), "np")
    assert found.shape == (1, 32, 32, 3)
    assert abs(found / 255.0 - expected).max() < 0.5 / 255 + 1e-6


@torch.no_grad()
def vae_output(family, vae, latents):
    """What the pipelines do between their last step and the picture."""
    if family.vae_class == "AutoencoderKLQwenImage":
        mean, deviation = (
            torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std)
        )
        return vae.decode(latents.unsqueeze(2) * deviation + mean, return_dict=False)[0][:, :, 0]
    if family.vae_class == "AutoencoderKLFlux2":
        mean, variance = (v.view(1, -1, 1, 1) for v in (vae.bn.running_mean, vae.bn.running_var))
        latents = latents * torch.sqrt(variance + vae.config.batch_norm_eps) + mean
        return vae.decode(Flux2Pipeline._unpatchify_latents(latents), return_dict=False)[0]
    return vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]


def test_latents_of_a_picture_become_that_picture(folder):
    """encode is the inverse of decode's scale: the VAE alone stands between them."""
    source = find_model_files(str(folder))
    vae = load_vae(source, torch.float32)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        frames = pixels.unsqueeze(2) if source.family.vae_class == "AutoencoderKLQwenImage" else pixels
        through = vae.decode(vae.encode(frames).latent_dist.mode(), return_dict=False)[0].reshape(pixels.shape)
    expected = ((through.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert abs(decode(vae, encode(vae, pixels)).astype(int) - expected).max() <= 1


def error(where, *arguments, **more):
    with pytest.raises(UserError) as caught:
        find_model_files(str(where), *arguments, **more)
    return str(caught.value)


def test_wrong_model_type_is_named(folder):
    wrong = next(name for name in FAMILIES if name != family_of(folder).name)
    assert family_of(folder).name in error(folder, wrong)


def test_missing_and_foreign_models(tmp_path, folder):
    assert "not found" in error(tmp_path / "nothing" / "here" / "model")
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in error(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    assert "StableDiffusionXLPipeline" in error(tmp_path / "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    assert "model_index.json" in error(tmp_path / "broken")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "unknown.safetensors")
    assert "conv.weight" in error(tmp_path / "unknown.safetensors", components_from=str(folder))


def test_damaged_and_dangerous_files(tmp_path, folder):
    file = to_single_file(family_of(folder).name, ALL[family_of(folder).name]().transformer, tmp_path / "m.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert "m.safetensors" in error(file, components_from=str(folder))
    (tmp_path / "old.ckpt").write_bytes(b"anything")
    assert ".ckpt" in error(tmp_path / "old.ckpt", components_from=str(folder))


def test_half_a_transformer_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights = next((tmp_path / "model" / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="transformer"):
        load_transformer(find_model_files(str(tmp_path / "model")), torch.float32)


def test_a_transformer_without_one_of_its_layers_is_refused(folder, tmp_path):
    """diffusers would go on with whatever is in memory in its place."""
    shutil.copytree(folder, tmp_path / "model")
    weights = next((tmp_path / "model" / "transformer").glob("*.safetensors"))
    tensors = load_file(weights)
    lost = next(name for name in tensors if (name.endswith(".weight") and "block" in name) or "layers" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights)
    with pytest.raises(UserError, match="missing tensors of the transformer: 1,") as caught:
        load_transformer(find_model_files(str(tmp_path / "model")), torch.float32)
    assert lost in str(caught.value)


@pytest.mark.parametrize("name", ["sd3", "z_image", "qwen_image"])
def test_a_single_file_without_one_of_its_layers_is_refused(name, tmp_path):
    components = save_any(name, tmp_path / "model")
    file = to_single_file(name, ALL[name]().transformer, tmp_path / "one.safetensors")
    tensors = load_file(file)
    lost = next(key for key in tensors if key.endswith((".mlp.fc2.weight", "feed_forward.w2.weight", "net.2.weight")))
    save_file({key: tensor for key, tensor in tensors.items() if key != lost}, file)
    with pytest.raises(UserError, match=r"one\.safetensors"):
        load_transformer(find_model_files(str(file), name, str(components)), torch.float32)


def test_hub_id_that_cannot_be_reached(monkeypatch):
    def refuse(*arguments, **more):
        raise OSError("no connection")

    monkeypatch.setattr(model_files, "snapshot_download", refuse)
    message = error("someone/some-model")
    assert "someone/some-model (pretrained_model_name_or_path) is not a local file or folder" in message
    assert "(no connection)" in message
    assert "a gated model needs `hf auth login` first" in message


@pytest.mark.parametrize("name", ["a red ball on a table, " * 20, "~nobody_at_all/models/x", "a\0b"])
def test_what_cannot_be_the_name_of_a_file_was_not_found(name):
    with pytest.raises(UserError, match=r"\(pretrained_model_name_or_path\) was not found. Give a hub id"):
        find_model_files(name)


def test_a_folder_with_the_transformer_alone_has_a_layout(pipelines, tmp_path):
    """As a teacher that was tuned from the same base may be kept."""
    whole, alone = pipelines["sd3"], tmp_path / "alone"
    shutil.copytree(whole / "transformer", alone / "transformer")
    shutil.copy(whole / "model_index.json", alone)
    layouts = [load_layout(find_model_files(str(place)))[0] for place in (whole, alone)]
    assert layouts[0].shapes == layouts[1].shapes
