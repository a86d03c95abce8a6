"""The files that a preset for sd-scripts names are looked into before the toolkit loads any of them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.sd_scripts import network_args
from danceopd_ext.toolkits.sd_scripts.model_files import PARTS, check_files, most_swapped
from danceopd_ext.toolkits.sd_scripts.network_args import check_network_args
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES

PRESET = Path("p.toml")
INSIDE = ARCHITECTURES["sd3"].inside
OPTIONS = DanceOPDSection(toolkit="sd-scripts", teachers={"base": Teacher()})
T5 = "encoder.block.0.layer.0.SelfAttention.q.weight"
CLIP = {"text_model.encoder.layers.0.mlp.fc1.weight": (1,)}


def blocks(name: str, count: int, layer: str = "attn.qkv") -> dict:
    return {f"{name}.{index}.{layer}.weight": (12, 4) for index in range(count)}


def sd3(count: int = 4) -> dict:
    return {
        f"model.diffusion_model.{key}": shape
        for key, shape in blocks("joint_blocks", count, "x_block.attn.qkv").items()
    }


#: model_type -> argument -> tensors by which a file of it is known
RIGHT = {
    "sd3": {
        "pretrained_model_name_or_path": sd3(),
        "clip_l": {**CLIP, "token_embedding.weight": (2, 768)}, "clip_g": {**CLIP, "token_embedding.weight": (2, 1280)},
        "t5xxl": {T5: (8, 4096)}, "vae": {"decoder.conv_in.weight": (1,), "encoder.conv_in.weight": (1,)},
    },
    "flux": {
        "pretrained_model_name_or_path": {**blocks("double_blocks", 5, "img_attn.qkv"), **blocks("single_blocks", 8)},
        "clip_l": CLIP, "t5xxl": {T5: (8, 4096)}, "ae": {"decoder.conv_in.weight": (1,), "encoder.x": (1,)},
    },
    "chroma": {
        "pretrained_model_name_or_path": {
            **blocks("double_blocks", 5, "img_attn.qkv"), **blocks("single_blocks", 8),
            "distilled_guidance_layer.in_proj.weight": (1,),
        },
        "t5xxl": {T5: (8, 4096)}, "ae": {"decoder.conv_in.weight": (1,), "encoder.x": (1,)},
    },
    "lumina": {
        "pretrained_model_name_or_path": {
            "cap_embedder.0.weight": (1,), "noise_refiner.0.x": (1,), **blocks("layers", 4),
        },
        "gemma2": {"model.layers.0.pre_feedforward_layernorm.weight": (1,)},
        "ae": {"vae.decoder.conv_in.bias": (1,), "vae.encoder.x": (1,)},
    },
    "hunyuan_image": {
        "pretrained_model_name_or_path": {
            **blocks("double_blocks", 5, "img_attn_q"), **blocks("single_blocks", 8), "byt5_in.fc1.weight": (1,),
        },
        "text_encoder": {"model.layers.0.self_attn.q_proj.bias": (1,)}, "byt5": {T5: (8, 1472)},
        "vae": {"decoder.conv_in.weight": (1,), "encoder.conv_in.weight": (1,)},
    },
    "anima": {
        "pretrained_model_name_or_path": {
            **{f"net.{key}": shape for key, shape in blocks("blocks", 4).items()},
            "net.blocks.0.adaln_modulation_self_attn.1.weight": (1,), "net.llm_adapter.embed.weight": (1,),
        },
        "qwen3": {"layers.0.self_attn.q_norm.weight": (1,)}, "vae": {"decoder.conv1.weight": (1,), "encoder.x": (1,)},
    },
}  # fmt: skip


def write(path: Path, shapes: dict) -> str:
    save_file({name: torch.zeros(shape, dtype=torch.uint8) for name, shape in shapes.items()}, path)
    return str(path)


@pytest.fixture
def check(tmp_path):
    """Check a preset of this model_type whose files are right, but for those given: tensors, a path or None."""

    def check(model_type: str, options: DanceOPDSection = OPTIONS, **files) -> str | None:
        given = {**RIGHT[model_type], **{name: value for name, value in files.items() if name in RIGHT[model_type]}}
        args = Namespace(blocks_to_swap=None, network_weights=None, base_weights=None, network_args=None, network_dim=8)
        args.dim_from_weights = False
        for name, value in given.items():
            path = tmp_path / f"{name}.safetensors"
            setattr(args, name, write(path, value) if isinstance(value, dict) else value)
        vars(args).update({name: value for name, value in files.items() if name not in given})
        try:
            check_files(args, options, ARCHITECTURES[model_type], PRESET)
        except UserError as error:
            return str(error)
        return None

    return check


def test_every_architecture_and_every_file_is_known():
    assert set(RIGHT) == set(ARCHITECTURES)
    for name, architecture in ARCHITECTURES.items():
        assert architecture.kinds and architecture.blocks
        assert set(architecture.files) == set(RIGHT[name])
        assert set(architecture.files[1:]) <= set(PARTS)


@pytest.mark.parametrize("model_type", RIGHT)
def test_the_right_files_pass(check, model_type):
    assert check(model_type) is None


@pytest.mark.parametrize("model_type", RIGHT)
def test_the_model_of_another_architecture_is_named(check, model_type):
    for other, files in RIGHT.items():
        if other == model_type:
            continue
        message = check(model_type, pretrained_model_name_or_path=files["pretrained_model_name_or_path"])
        title = ARCHITECTURES[model_type].title
        assert message.startswith("p.toml: pretrained_model_name_or_path = ")
        assert f"this is not {title}; it looks like {ARCHITECTURES[other].title}" in message


@pytest.mark.parametrize("model_type", RIGHT)
def test_every_encoder_in_the_place_of_every_other(check, model_type):
    for name in ARCHITECTURES[model_type].files[1:]:
        for other in ARCHITECTURES[model_type].files:
            if other != name:
                message = check(model_type, **{name: RIGHT[model_type][other]})
                assert message.startswith(f"p.toml: {name} = "), (name, other)
                assert f"this is not {PARTS[name].title}; it looks like " in message


@pytest.mark.parametrize(
    ("shapes", "looks"),
    [
        ({"lora_unet_x.lora_down.weight": (1,)}, "a LoRA"),
        ({"diffusion_model.x.lora_A.weight": (1,)}, "a LoRA"),
        (blocks("joint_blocks", 2), "the transformer of Stable Diffusion 3 alone"),
        ({"input_blocks.0.x": (1,), "output_blocks.0.x": (1,)}, "Stable Diffusion 1 or XL"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,), "double_stream_modulation_img.lin.weight": (1,)}, "FLUX.2"),
        ({"noise_refiner.0.x": (1,), "cap_embedder.0.x": (1,), "cap_pad_token": (1,)}, "Z-Image"),
        (CLIP, "CLIP-L"),
    ],
)  # fmt: skip
def test_what_people_give_as_the_model(check, shapes, looks):
    assert f"it looks like {looks}" in check("sd3", pretrained_model_name_or_path=shapes)


@pytest.mark.parametrize("part", INSIDE)
def test_sd3s_parts_are_given_or_in_the_checkpoint(check, part):
    message = check("sd3", **{part: None})
    assert message.startswith(f"p.toml: {part} is missing: ")
    whole = {**sd3(), f"{INSIDE[part]}weight": (1,)}
    assert check("sd3", **{part: None}, pretrained_model_name_or_path=whole) is None


def test_folders_and_other_formats_only_where_the_toolkit_opens_them(check, tmp_path):
    (tmp_path / "vae.pth").write_bytes(b"not a header")
    assert check("flux", pretrained_model_name_or_path=str(tmp_path)) is None
    assert check("anima", qwen3=str(tmp_path)) is None
    assert check("anima", vae=str(tmp_path / "vae.pth")) is None
    assert "is a folder" in check("sd3", clip_l=str(tmp_path))
    assert "is not a .safetensors file" in check("sd3", vae=str(tmp_path / "vae.pth"))


# --- block swap


@pytest.mark.parametrize(
    ("counts", "most"),
    [
        ([24], 22),
        ([2], 0),
        ([1], 0),
        ([19, 38], 35),
        ([20, 40], 37),
        ([2, 2], 0),
        ([3, 3], 0),
        ([3, 4], 2),
        ([57, 4], 2),
    ],
)
def test_how_many_blocks_can_be_swapped(counts, most):
    """As the toolkit's own assertion has it, for one list of blocks and for two."""

    def allowed(swapped: int) -> bool:
        if len(counts) == 1:
            return swapped <= counts[0] - 2
        double = swapped // 2
        return double <= counts[0] - 2 and (swapped - double) * 2 <= counts[1] - 2

    assert most_swapped(counts) == most
    assert allowed(most) or most == 0
    assert not allowed(most + 1)


@pytest.mark.parametrize("model_type", RIGHT)
def test_too_many_swapped_blocks(check, model_type):
    most = 2 if len(ARCHITECTURES[model_type].blocks) == 1 else 6
    assert check(model_type, blocks_to_swap=most) is None
    assert f"blocks_to_swap = {most + 1}" in check(model_type, blocks_to_swap=most + 1)
    assert f"Write {most} or less." in check(model_type, blocks_to_swap=most + 1)


# --- LoRAs


LAYER = "lora_unet_joint_blocks_0_x_block_attn_qkv"


def lora(path: Path, layer: str = LAYER, rank: int = 8, outputs: int = 12) -> str:
    save_file(
        {f"{layer}.lora_down.weight": torch.ones(rank, 4), f"{layer}.lora_up.weight": torch.ones(outputs, rank)}, path
    )
    return str(path)


def test_a_teacher_that_does_not_fit_is_found_first(check, tmp_path):
    def with_teacher(place: str) -> str | None:
        return check("sd3", DanceOPDSection(toolkit="sd-scripts", teachers={"ink": Teacher(lora=place)}))

    assert with_teacher(lora(tmp_path / "ink.safetensors")) is None
    assert "no such file" in with_teacher(str(tmp_path / "gone.safetensors"))
    assert "no key fits" in with_teacher(lora(tmp_path / "f.safetensors", "lora_unet_double_blocks_0_img_attn_qkv"))
    for place in ("gone", "f"):
        assert with_teacher(str(tmp_path / f"{place}.safetensors")).startswith("[danceopd.teachers.ink]")


def test_the_student_starts_only_from_what_it_can_read(check, tmp_path):
    def start(place: str, **more) -> str | None:
        return check("sd3", network_weights=place, **more)

    good, rank4 = lora(tmp_path / "good.safetensors"), lora(tmp_path / "rank4.safetensors", rank=4)
    assert start(good) is None
    assert "its rank is 4, but network_dim = 8. Write network_dim = 4." in start(rank4)
    assert start(rank4, dim_from_weights=True) is None
    assert start(rank4, network_args=["x_attn_dim=4"]) is None
    foreign = lora(tmp_path / "f.safetensors", "lora_unet_double_blocks_0_img_attn_qkv")
    assert "1 of its 1 layers are not in the model" in start(foreign)
    other = write(tmp_path / "peft.safetensors", {"transformer.x.lora_A.weight": (8, 4)})
    assert "Convert it: python -m danceopd_ext convert" in start(other)
    assert "Name a LoRA." in start(write(tmp_path / "model.safetensors", sd3()))


def test_weights_that_are_merged_first(check, tmp_path):
    assert check("sd3", base_weights=[lora(tmp_path / "a.safetensors", rank=2)]) is None
    foreign = lora(tmp_path / "f.safetensors", "lora_unet_double_blocks_0_img_attn_qkv")
    assert check("sd3", base_weights=[foreign]).startswith(f'p.toml: base_weights = "{foreign}"')


# --- network_args


def test_network_args_that_the_network_module_reads(monkeypatch, tmp_path):
    (tmp_path / "lora_toy.py").write_text(
        "def create_network(a, **kwargs):\n    return kwargs.get('attn_dim', None), kwargs[\"verbose\"]\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert network_args.keys_of("lora_toy") == {"attn_dim", "verbose"}

    def told(*entries: str) -> str:
        with pytest.raises(UserError) as error:
            check_network_args(Namespace(network_module="lora_toy", network_args=list(entries)), PRESET)
        return str(error.value)

    check_network_args(Namespace(network_module="lora_toy", network_args=None), PRESET)
    check_network_args(Namespace(network_module="lora_toy", network_args=["attn_dim=4", "verbose=True"]), PRESET)
    assert told("verbose=1", "atn_dim=4") == (
        'p.toml: network_args: "atn_dim=4": lora_toy does not read atn_dim. Did you mean "attn_dim"?'
    )
    assert "write key=value" in told("attn_dim")
    assert "write key=value" in told("attn_dim=")
