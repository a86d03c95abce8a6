"""A run of the native trainer on ComfyUI's files, with a folder of configurations that has no weights at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from danceopd_ext.models.registry import FAMILIES
from tests.tiny.loras import write_random_lora
from tests.tiny.pipelines import ALL
from tests.tiny.presets import write_preset
from tests.tiny.single_file import to_single_file
from tests.tiny.split_files import save_both, write
from tests.toolkits.runs import BASE, QUICK, log_of, says


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """The tiny Z-Image: its diffusers folder, the same without weights, and ComfyUI's files by preset key."""
    return save_both("z_image", tmp_path_factory.mktemp("z_image"))


def test_split_files_train_the_same_lora_as_the_folder(written, launch, tmp_path: Path) -> None:
    whole, small, files = written
    (tmp_path / "sample.txt").write_text("a red cat --w 32 --h 32 --d 1 --s 2\n")
    teachers = {
        "style": {"lora": str(write_random_lora(tmp_path / "style.safetensors", whole, 1, "comfyui"))},
        "tuned": {
            "checkpoint": str(to_single_file("z_image", ALL["z_image"](5).transformer, tmp_path / "tuned.safetensors"))
        },
    }
    keys = {
        **QUICK,
        "sample_every_n_steps": 2,
        "sample_prompts": str(tmp_path / "sample.txt"),
        "optimizer_type": "SGDNesterov",
    }
    parts = {key: path for key, path in files.items() if key != "pretrained_model_name_or_path"}
    split = write_preset(
        tmp_path / "split", Path(files["pretrained_model_name_or_path"]), teachers, components_from=str(small), **parts,
        **keys,
    )  # fmt: skip
    folders = [launch(write_preset(tmp_path / "folder", whole, teachers, **keys)), launch(split)]
    ours, theirs = (load_file(folder / "fused.safetensors") for folder in folders)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-6
    assert any(bool(tensor.any()) for name, tensor in ours.items() if "lora_B" in name), "something was learnt"
    assert all(list((folder / "sample").glob("*.png")) for folder in folders)


def test_a_file_of_the_wrong_kind_ends_the_run_before_it_begins(written, refused, tmp_path: Path) -> None:
    _, small, files = written
    wrong = {**files, "vae": files["text_encoder"], "text_encoder": files["text_encoder"]}
    model = Path(wrong.pop("pretrained_model_name_or_path"))
    message = refused(write_preset(tmp_path / "run", model, BASE, components_from=str(small), **wrong))
    says(message, "(vae) is not the VAE of Z-Image", "It is the Qwen3 4B text encoder: give it as text_encoder.")


@pytest.mark.parametrize("family", ["sd3", "qwen_image"])
def test_one_checkpoint_with_all_parts_is_enough(family: str, launch, tmp_path: Path) -> None:
    _, small, files = save_both(family, tmp_path)
    tensors = load_file(files["pretrained_model_name_or_path"])
    for spec in FAMILIES[family].part_files:
        tensors |= {spec.inside[0] + name: tensor for name, tensor in load_file(files[spec.key]).items()}
    checkpoint = write(tmp_path / "all_in_one.safetensors", tensors)
    (tmp_path / "sample.txt").write_text("a red cat --w 32 --h 32 --d 1 --s 2\n")
    keys = {**QUICK, "sample_every_n_steps": 2, "sample_prompts": str(tmp_path / "sample.txt")}
    teachers = {"guided": {"guidance_scale": 3.0}}
    output = launch(write_preset(tmp_path / "run", checkpoint, teachers, components_from=str(small), **keys))
    assert log_of(output)[-1]["step"] == 2
    assert list((output / "sample").glob("*.png"))
