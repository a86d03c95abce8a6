"""Files that hold more than changes of linear layers, and files of methods that are no LoRA."""

from __future__ import annotations

import pytest
import torch
from tiny_lora import block_lora, deltas_equal, keyed, layout, save, shared

from danceopd_ext.cli import main, run
from danceopd_ext.errors import UserError
from danceopd_ext.lora.read import read_lora

KOHYA = (".lora_down.weight", ".lora_up.weight")
Q = "layers.0.attention.to_q"


def plain_file() -> dict[str, torch.Tensor]:
    return keyed(block_lora("z_image").modules, "diffusion_model.{dots}", *KOHYA)


def refusal(path, tensors: dict, **ignored) -> str:
    with pytest.raises(UserError) as caught:
        read_lora(save(path / "x.safetensors", tensors), layout("z_image"), **ignored)
    return str(caught.value)


# --- differences, as ComfyUI's extractor and trainer write them


def test_differences_of_zeros_are_dropped_and_told(tmp_path):
    tensors = plain_file()
    tensors |= {f"diffusion_model.{Q}.diff_b": torch.zeros(32), "diffusion_model.layers.0.ffn_norm1.diff": torch.zeros(32)}  # fmt: skip  # noqa: E501
    tensors |= {"diffusion_model.cap_embedder.0.w_norm": torch.zeros(32), "diffusion_model.layers.1.attention.to_q.diff_b": torch.zeros(32, dtype=torch.float8_e4m3fn)}  # fmt: skip  # noqa: E501
    read = read_lora(save(tmp_path / "x.safetensors", tensors), layout("z_image"))
    assert deltas_equal(read, block_lora("z_image"))
    assert len(read.notes) == 1 and "all zero" in read.notes[0] and "(4 in all)" in read.notes[0]


@pytest.mark.parametrize("layer", ["layers.0.attention.to_q", "layers.1.feed_forward.w1", "layers.0.feed_forward.w2"])
def test_a_difference_of_a_linear_layer_is_applied_as_it_is(layer, tmp_path):
    """The sizes go both ways: more outputs than inputs and fewer."""
    weight = shared("z_image").get_submodule(layer).weight
    delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    read = read_lora(save(tmp_path / "x.safetensors", {f"diffusion_model.{layer}.diff": delta}), layout("z_image"))
    torch.testing.assert_close(read.modules[layer].delta(), delta, rtol=0, atol=0)
    assert read.notes == ()


def test_a_difference_of_a_fused_layer_reaches_its_parts(tmp_path):
    delta = torch.randn(96, 32, generator=torch.Generator().manual_seed(2))
    file = save(tmp_path / "x.safetensors", {"diffusion_model.layers.0.attention.qkv.diff": delta})
    read = read_lora(file, layout("z_image")).modules
    for part, rows in zip("qkv", delta.chunk(3), strict=True):
        torch.testing.assert_close(read[f"layers.0.attention.to_{part}"].delta(), rows)


OTHERS = {
    f"diffusion_model.{Q}.diff_b": "a bias",
    "diffusion_model.layers.0.attention_norm1.diff": "a norm",
    "diffusion_model.layers.0.attention_norm1.w_norm": "a norm",
    "diffusion_model.layers.0.attention_norm1.b_norm": "a bias",
    f"diffusion_model.{Q}.lora_B.bias": "a bias",
    f"diffusion_model.{Q}.set_weight": "a whole weight",
    f"base_model.model.{Q}.modules_to_save.default.weight": "a whole weight",
    f"base_model.model.{Q}.bias": "a whole weight",
}


@pytest.mark.parametrize("key, what", OTHERS.items())
def test_other_parts_are_refused_with_the_key_that_leaves_them_out(key, what, tmp_path):
    tensors = plain_file() | {key: torch.ones(32)}
    message = refusal(tmp_path, tensors)
    assert f"also changes {what} ({key})" in message and "not low-rank" in message
    assert "ignore_other_parts = true" in message and "--ignore_other_parts" in message
    read = read_lora(tmp_path / "x.safetensors", layout("z_image"), ignore_other_parts=True)
    assert deltas_equal(read, block_lora("z_image"))
    assert len(read.notes) == 1 and key in read.notes[0] and "ignored" in read.notes[0]


def test_both_kinds_of_parts_are_asked_for_at_once(tmp_path):
    tensors = plain_file() | {f"diffusion_model.{Q}.diff_b": torch.ones(32)}
    tensors |= {"text_encoders.qwen3_4b.layers.0.lora_up.weight": torch.ones(2, 2)}
    message = refusal(tmp_path, tensors)
    assert "ignore_text_encoder = true" in message and "ignore_other_parts = true" in message
    read = read_lora(tmp_path / "x.safetensors", layout("z_image"), ignore_text_encoder=True, ignore_other_parts=True)
    assert deltas_equal(read, block_lora("z_image")) and len(read.notes) == 2


def test_a_file_of_norms_alone(tmp_path):
    message = refusal(tmp_path, {"layers.0.attention_norm1.w_norm": torch.ones(32)}, ignore_other_parts=True)
    assert "changes no linear layer" in message and "nothing to learn" in message


def test_inspect_and_convert_say_what_is_left_out(tmp_path, capsys):
    key = f"diffusion_model.{Q}.diff_b"
    file, out = save(tmp_path / "x.safetensors", plain_file() | {key: torch.ones(32)}), tmp_path / "y.safetensors"
    assert run(main, ["inspect", str(file)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "usable yes, with ignore_other_parts = true" in told and f"a bias ({key})" in told
    assert run(main, ["convert", str(file), str(out), "--to", "diffusers"]) == 2
    assert "--ignore_other_parts" in capsys.readouterr().err and not out.exists()
    assert run(main, ["convert", str(file), str(out), "--to", "diffusers", "--ignore_other_parts"]) == 0
    assert key in capsys.readouterr().out
    assert deltas_equal(read_lora(out, layout("z_image")), block_lora("z_image"))


# --- methods that are no LoRA

BARS = Q.replace(".", "_")
LYCORIS, KOHYA_OFT, PEFT = f"lycoris_{BARS}", f"oft_unet_{BARS}", f"base_model.model.{Q}"
#: who writes it -> (method, its keys with the shapes of their tensors)
METHODS = {
    "OFT, kohya": ("OFT", {f"{KOHYA_OFT}.oft_blocks": (2, 4, 4), f"{KOHYA_OFT}.alpha": ()}),
    "OFT, kohya's FLUX": ("OFT", {f"{KOHYA_OFT}.oft_blocks.{i}": (2, 4, 4) for i in range(3)}),
    "OFT, LyCORIS": ("OFT", {f"{LYCORIS}.oft_blocks": (2, 4, 4), f"{LYCORIS}.rescale": (32, 1)}),
    "OFT, OneTrainer": ("OFT", {f"transformer.{Q}.oft_R.weight": (2, 6)}),
    "OFT, PEFT": ("OFT", {f"{PEFT}.oft_R.default.weight": (2, 6)}),
    "BOFT, LyCORIS": ("BOFT", {f"{LYCORIS}.oft_blocks": (2, 2, 4, 4)}),
    "BOFT, PEFT": ("BOFT", {f"{PEFT}.boft_R": (2, 2, 4, 4), f"{PEFT}.boft_s": (32, 1)}),
    "IA3, LyCORIS": ("IA3", {f"{LYCORIS}.weight": (32,), f"{LYCORIS}.on_input": ()}),
    "IA3, PEFT": ("IA3", {f"{PEFT}.ia3_l": (32, 1)}),
    "GLoRA": ("GLoRA", {f"{LYCORIS}.{part}.weight": (4, 32) for part in ("a1", "a2", "b1", "b2")}),
    "T-LoRA": (
        "T-LoRA",
        {
            f"{LYCORIS}.q_layer.weight": (4, 32),
            f"{LYCORIS}.p_layer.weight": (32, 4),
            f"{LYCORIS}.lambda_layer": (1, 4),
            f"{LYCORIS}.alpha": (),
        },
    ),
    "HRA": ("HRA", {f"{PEFT}.hra_u": (32, 4)}),
    "AdaLoRA": (
        "AdaLoRA",
        {f"{PEFT}.lora_A.weight": (4, 32), f"{PEFT}.lora_B.weight": (32, 4), f"{PEFT}.lora_E": (4, 1)},
    ),
    "VeRA": ("VeRA", {f"{PEFT}.vera_lambda_b": (32,)}),
}


@pytest.mark.parametrize("maker", METHODS)
def test_methods_that_are_no_lora_are_named_with_the_reason(maker, tmp_path, capsys):
    name, shapes = METHODS[maker]
    message = refusal(tmp_path, {key: torch.ones(shape) for key, shape in shapes.items()})
    assert f"made with {name} (" in message and f"{name} is not low-rank: " in message and "a plain LoRA" in message
    assert "If it is a whole model" not in message
    assert ("merged model" in message) == (name != "T-LoRA")
    assert run(main, ["inspect", str(tmp_path / "x.safetensors")]) == 0
    assert f"made with {name} (" in capsys.readouterr().out
    assert (
        run(main, ["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors"), "--to", "kohya"]) == 2
    )
    assert f"made with {name} (" in capsys.readouterr().err


def test_a_method_of_peft_that_is_not_known_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "MISS"}')
    save(tmp_path / "adapter_model.safetensors", {f"base_model.model.{Q}.miss_block": torch.ones(4, 32)})
    with pytest.raises(UserError, match="PEFT's method MISS is not supported"):
        read_lora(tmp_path, layout("z_image"))


@pytest.mark.parametrize("key", ["emb_params", "clip_l", "decoder.conv_in.weight", "token"])
def test_a_file_that_is_no_model_is_not_recommended_as_checkpoint(key, tmp_path):
    message = refusal(tmp_path, {key: torch.ones(2, 2)})
    assert "not a LoRA" in message and "checkpoint" not in message
