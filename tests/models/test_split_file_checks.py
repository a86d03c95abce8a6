"""Files of the wrong kind, and missing ones, end in one message before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danceopd_ext.data.text_cache import BrokenEncoding
from danceopd_ext.engine.finite_checks import naming_encoders
from danceopd_ext.errors import UserError
from danceopd_ext.models.part_checks import check_part
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.split_files import find_parts
from tests.models.splits import from_files, refused
from tests.tiny.split_files import write
from tests.toolkits.runs import says


@pytest.mark.parametrize("family", ["sd3", "flux", "z_image", "flux_2", "flux_2_klein", "qwen_image"])
def test_a_file_of_the_wrong_kind_ends_in_one_message(family: str, written, tmp_path: Path) -> None:
    _, small, files = written(family)
    specs = {spec.key: spec for spec in FAMILIES[family].part_files}
    lora = {"lora_unet_layers_0_attention_qkv.lora_down.weight": torch.ones(4, 8)}
    others = {
        "a LoRA": str(write(tmp_path / "style.safetensors", lora)),
        f"the transformer of {FAMILIES[family].title}": files["pretrained_model_name_or_path"],
        "another kind of file": str(write(tmp_path / "odd.safetensors", {"something": torch.ones(2)})),
    }
    for key, spec in specs.items():
        for what, path in others.items():
            message = misfit_of(family, small, key, path)
            says(message, path, f"({key}) is not the {spec.title} of", "tensors are missing", what, spec.comfyui[0])
        for other, wrong in specs.items():
            if wrong.component != spec.component and other != "clip_g":  # like clip_l in the tiny model
                message = misfit_of(family, small, key, files[other])
                says(message, files[other], f"({key}) is not the", f"It is the {wrong.title}: give it as {other}.")


def misfit_of(family: str, small: Path, key: str, path: str) -> str:
    (part,) = find_parts(FAMILIES[family], {key: path}, None)
    with pytest.raises(UserError) as caught:
        check_part(FAMILIES[family], part, small)
    return str(caught.value)


@pytest.mark.parametrize(
    ("family", "key", "other", "what"),
    [
        ("z_image", "text_encoder", ("qwen_image", "text_encoder"), "a language model"),
        ("flux_2_klein", "text_encoder", ("z_image", "text_encoder"), "a language model"),
        ("qwen_image", "vae", ("z_image", "vae"), "a VAE"),
        ("z_image", "vae", ("qwen_image", "vae"), "a VAE"),
        ("flux_2", "vae", ("z_image", "vae"), "a VAE"),
        ("qwen_image", "text_encoder", ("sd3", "clip_l"), "a CLIP text encoder"),
        ("z_image", "text_encoder", ("sd3", "t5xxl"), "a T5 text encoder"),
    ],
)
def test_a_part_of_another_family_is_refused(family: str, key: str, other: tuple[str, str], what: str, written) -> None:
    _, small, _ = written(family)
    path = written(other[0])[2][other[1]]
    says(misfit_of(family, small, key, path), path, f"It seems to be {what}.")


def test_a_text_encoder_of_another_size_is_refused(written, tmp_path: Path) -> None:
    _, small, files = written("z_image")
    tensors = load_file(files["text_encoder"])
    wide = {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}
    message = misfit_of("z_image", small, "text_encoder", str(write(tmp_path / "wide.safetensors", wide)))
    says(message, "has the sizes (", "and its configuration says (")
    deep = tensors | {name.replace(".1.", ".2."): tensor.clone() for name, tensor in tensors.items()}
    message = misfit_of("z_image", small, "text_encoder", str(write(tmp_path / "deep.safetensors", deep)))
    says(message, "it has more layers than its configuration says, such as layers.2.")


def test_keys_and_files_that_cannot_be_used(written, tmp_path: Path) -> None:
    _, small, files = written("z_image")
    says(
        refused("z_image", small, files, clip_l="c.safetensors"), "clip_l", "Z-Image has no such part", "text_encoder ("
    )
    says(refused("z_image", small, files, ae=files["vae"]), "vae and ae both name the VAE of Z-Image: remove one.")
    missing = refused("z_image", small, files, vae=str(tmp_path / "no.safetensors"))
    says(missing, "no.safetensors: VAE (vae) not found", "ComfyUI keeps it as models/vae/ae.safetensors.")
    for name in ("qwen.gguf", "clip.pt", "folder"):
        says(refused("z_image", small, files, text_encoder=str(tmp_path / name)), name, "must be a .safetensors file")


def test_missing_parts_are_named_with_their_places_in_comfyui(written) -> None:
    _, small, files = written("flux")
    del files["t5xxl"]
    says(
        refused("flux", small, {key: path for key, path in files.items() if key != "vae"}),
        "has no weights of the T5-XXL text encoder and the VAE",
        "t5xxl (in ComfyUI models/text_encoders/t5xxl_fp16.safetensors)",
        "vae (in ComfyUI models/vae/ae.safetensors)",
    )  # fmt: skip


def test_a_part_that_the_components_do_not_have(written, tmp_path: Path) -> None:
    """SD3 without T5: a file for it is refused, and a checkpoint's own is left out."""
    _, small, files = written("sd3")
    small = Path(shutil.copytree(small, tmp_path / "small", ignore=shutil.ignore_patterns("*_3")))
    index = json.loads((small / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (small / "model_index.json").write_text(json.dumps(index))
    message = refused("sd3", small, files)
    says(message, files["t5xxl"], "(t5xxl)", "has no text_encoder_3", "components_from, or remove the key")
    tensors = dict(load_file(files["pretrained_model_name_or_path"]))
    tensors |= {f"text_encoders.t5xxl.transformer.{name}": one for name, one in load_file(files["t5xxl"]).items()}
    path = str(write(tmp_path / "all_in_one.safetensors", tensors))
    model = from_files("sd3", small, {**files, "pretrained_model_name_or_path": path, "t5xxl": ""})
    assert {part.spec.key for part in model.files.parts} == {"clip_l", "clip_g", "vae"}


def test_a_part_with_nan_is_named_by_its_file(written) -> None:
    _, small, files = written("z_image")
    model = from_files("z_image", small, files)
    vae = model.load_vae()
    vae.decoder.conv_in.weight.data[0] = torch.nan
    with pytest.raises(UserError) as caught, naming_encoders(model, {"vae": vae}, "no"):
        raise BrokenEncoding("a picture")
    says(str(caught.value), f"decoder.conv_in.weight of {files['vae']} holds NaN")


def test_a_part_as_the_base_model_is_told(written) -> None:
    _, small, files = written("z_image")
    message = refused("z_image", small, files, pretrained_model_name_or_path=files["vae"])
    says(message, "is not a checkpoint of", "It seems to be a VAE.")
    message = refused("z_image", small, files, pretrained_model_name_or_path="z_image_bf16.safetensors")
    says(message, "was not found", "ComfyUI keeps such files in models/diffusion_models, models/unet or")


def test_a_part_that_does_not_fit_its_checkpoint_is_refused(written, tmp_path: Path) -> None:
    _, small, files = written("z_image")
    tensors = load_file(files["pretrained_model_name_or_path"]) | {"vae.decoder.conv_in.weight": torch.ones(1)}
    path = write(tmp_path / "all_in_one.safetensors", tensors)
    del files["vae"]
    message = refused("z_image", small, files, pretrained_model_name_or_path=str(path))
    says(message, f"{path} includes another VAE than that of Z-Image", "vae (in ComfyUI models/vae/ae.safetensors)")


def test_a_text_encoder_in_4_bits_is_refused(written, tmp_path: Path) -> None:
    _, small, files = written("z_image")
    tensors = load_file(files["text_encoder"]) | {"model.layers.0.mlp.up_proj.weight_scale_2": torch.ones(())}
    path = write(tmp_path / "fp4.safetensors", tensors)
    with pytest.raises(
        UserError,
        match=r"fp4\.safetensors: model\.layers\.0\.mlp\.up_proj\.weight is in a number format that only.*bf16",
    ):
        from_files("z_image", small, {**files, "text_encoder": str(path)})
