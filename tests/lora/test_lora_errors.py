"""Every input that cannot be used is refused with a message that names the file and the remedy."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from tiny_lora import keyed, layout, random_lora, save

from danceopd_ext.errors import UserError
from danceopd_ext.lora.read import read_lora

KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")


def refusal(place, family: str = "sd3", **keywords) -> str:
    with pytest.raises(UserError) as caught:
        read_lora(place, layout(family), **keywords)
    return str(caught.value)


def good() -> dict[str, torch.Tensor]:
    return keyed(random_lora("sd3").modules, "transformer.{dots}", *PEFT)


def pair(layer: str, rank: int = 2, size: int = 8) -> dict[str, torch.Tensor]:
    return {f"{layer}.lora_down.weight": torch.ones(rank, size), f"{layer}.lora_up.weight": torch.ones(size, rank)}


def test_missing_file_names_the_nearest(tmp_path):
    save(tmp_path / "my_style_v1.safetensors", good())
    message = refusal(tmp_path / "my_style.safetensors")
    assert "my_style.safetensors" in message and 'Did you mean "my_style_v1.safetensors"?' in message


def test_missing_folder(tmp_path):
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere" / "x.safetensors")


def test_windows_path_is_not_taken_for_a_hub_id():
    assert "no such file" in refusal(r"loras\style.safetensors")
    assert "no such file" in refusal("Z:/loras/style.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", "truncated"])
def test_damaged_file(content, tmp_path):
    file = save(tmp_path / "x.safetensors", good())
    file.write_bytes(file.read_bytes()[:-100] if content == "truncated" else content)
    message = refusal(file)
    assert str(file) in message and "download or copy it again" in message


def test_other_file_type(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    assert ".safetensors" in refusal(tmp_path / "x.txt")


def test_no_tensors(tmp_path):
    assert "holds no tensors" in refusal(save(tmp_path / "x.safetensors", {}))


def test_checkpoint_is_not_a_lora(tmp_path):
    tensors = {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.ones(2, 2)}
    message = refusal(save(tmp_path / "model.safetensors", tensors))
    assert 'checkpoint = "' in message and "joint_blocks.0" in message


def test_model_folder_is_not_a_lora(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    assert "checkpoint =" in refusal(tmp_path)


def test_empty_folder(tmp_path):
    assert "no LoRA file in this folder" in refusal(tmp_path)


def test_folder_with_several_files_names_them(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save(tmp_path / name, good())
    assert "a.safetensors, b.safetensors" in refusal(tmp_path)


OTHER_FAMILIES = {
    "SD 1.5 or SDXL": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "FLUX": "lora_unet_double_blocks_0_img_attn_qkv",
    "Qwen-Image": "transformer.transformer_blocks.0.img_mlp.net.2",
    "Stable Diffusion 3": "lora_unet_joint_blocks_0_x_block_attn_qkv",
    "Z-Image": "diffusion_model.layers.0.attention.to_q",
    "Stable Diffusion 3, FLUX.1 or Qwen-Image": "transformer.transformer_blocks.0.attn.to_q",
}


@pytest.mark.parametrize("name, layer", OTHER_FAMILIES.items())
def test_other_family_is_named(name, layer, tmp_path):
    family = "z_image" if name.startswith("Stable Diffusion 3") else "sd3"
    message = refusal(save(tmp_path / "x.safetensors", pair(layer)), family)
    assert "no key fits" in message and f"a LoRA for {name}." in message and layer in message


def test_unknown_family(tmp_path):
    message = refusal(save(tmp_path / "x.safetensors", pair("some.layer")))
    assert "no key fits" in message and "some.layer" in message


def test_part_that_does_not_fit_is_counted_and_listed(tmp_path):
    tensors = good() | pair("transformer.transformer_blocks.30.attn.to_q") | {"odd_key": torch.ones(1)}
    message = refusal(save(tmp_path / "x.safetensors", tensors))
    assert "2 of 38 layers do not fit" in message and "blocks.30.attn.to_q" in message and "odd_key" in message


def test_flux_lora_that_fits_by_half_is_named(tmp_path):
    tensors = good() | pair("transformer.single_transformer_blocks.0.attn.to_q")
    assert "LoRA for FLUX" in refusal(save(tmp_path / "x.safetensors", tensors))


def test_other_size(tmp_path):
    message = refusal(save(tmp_path / "x.safetensors", pair("transformer.transformer_blocks.0.attn.to_q", size=64)))
    assert "another size" in message and "(64, 64)" in message and "(32, 32)" in message


@pytest.mark.parametrize("key", ["lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder.layers.0.fc1"])
def test_text_encoder_keys(key, tmp_path):
    file = save(tmp_path / "x.safetensors", good() | pair(key))
    message = refusal(file)
    assert "text encoders" in message and "ignore_text_encoder" in message and key in message
    assert len(read_lora(file, layout("sd3"), ignore_text_encoder=True).modules) == 36


def test_only_text_encoder_keys(tmp_path):
    file = save(tmp_path / "x.safetensors", pair("lora_te_text_model_encoder_layers_0_mlp_fc1"))
    assert "nothing to learn" in refusal(file, ignore_text_encoder=True)


@pytest.mark.parametrize("part, other", [("lora_A", "up"), ("lora_B", "down")])
def test_half_a_pair(part, other, tmp_path):
    tensors = good()
    del tensors[f"transformer.proj_out.{part}.weight"]
    message = refusal(save(tmp_path / "x.safetensors", tensors))
    assert "proj_out is incomplete" in message and f"lacks {'down' if other == 'up' else 'up'}" in message


def test_ranks_of_a_pair_differ(tmp_path):
    tensors = good()
    tensors["transformer.proj_out.lora_A.weight"] = torch.ones(5, 32)
    assert "do not fit together" in refusal(save(tmp_path / "x.safetensors", tensors))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value, tmp_path):
    tensors = good()
    tensors["transformer.proj_out.lora_A.weight"][0, 0] = value
    message = refusal(save(tmp_path / "x.safetensors", tensors))
    assert "NaN or infinite" in message and "proj_out.lora_A" in message


REFUSED = {
    "hada_t1": "Tucker",
}


@pytest.mark.parametrize("part, name", REFUSED.items())
def test_changes_that_are_not_low_rank(part, name, tmp_path):
    tensors = good() | {f"transformer.proj_out.{part}": torch.ones(16)}
    message = refusal(save(tmp_path / "x.safetensors", tensors))
    assert f"is a {name} change" in message and "proj_out" in message


def test_layer_given_twice(tmp_path):
    tensors = good() | {key: value + 1 for key, value in keyed(random_lora("sd3").modules, "{dots}", *PEFT).items()}
    assert "twice, with different values" in refusal(save(tmp_path / "x.safetensors", tensors))


class Bomb:
    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("how", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickle_bomb_is_not_run(suffix, how, tmp_path):
    file, mark = tmp_path / f"x{suffix}", tmp_path / "exploded"
    how({"a": Bomb(mark)}, file)
    message = refusal(file)
    assert "refused" in message and ".safetensors" in message and not mark.exists()


def test_damaged_adapter_config(tmp_path):
    save(tmp_path / "adapter_model.safetensors", good())
    (tmp_path / "adapter_config.json").write_text("{")
    assert "adapter_config.json" in refusal(tmp_path)


class FakeHub:
    """Stands in for huggingface_hub: a repository whose files lie in a folder."""

    def __init__(self, monkeypatch, folder) -> None:
        import huggingface_hub

        self.folder = folder
        monkeypatch.setattr(huggingface_hub, "list_repo_files", self.list_repo_files)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file: str(folder / file))

    def list_repo_files(self, repository: str) -> list[str]:
        if repository != "somebody/style":
            raise OSError("404 not found")
        return [file.name for file in self.folder.iterdir()]


def test_hub_repository(monkeypatch, tmp_path):
    FakeHub(monkeypatch, tmp_path)
    save(tmp_path / "a.safetensors", good())
    assert len(read_lora("somebody/style", layout("sd3")).modules) == 36
    save(tmp_path / "b.safetensors", good())
    assert "a.safetensors, b.safetensors" in refusal("somebody/style")
    assert len(read_lora("somebody/style/b.safetensors", layout("sd3")).modules) == 36
    assert 'Did you mean "b.safetensors"?' in refusal("somebody/style/bb.safetensors")
    assert "could not be downloaded" in refusal("nobody/nothing")
