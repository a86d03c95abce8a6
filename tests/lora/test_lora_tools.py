"""Files as single tools write them, built with their true keys: what is read is the change that they encode."""

from __future__ import annotations

import pytest
import torch
from tiny_lora import block_lora, deltas_equal, keyed, layout, random_lora, save

from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.models.registry import NAMES

KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")
FAMILIES = ("sd3", "z_image", "flux", "flux_2", "qwen_image")
#: more prefixes and endings around diffusers' names: who writes them
AROUND = {
    "VideoX-Fun": ("lora_unet__{bars}", *KOHYA),
    "DiffSynth": ("pipe.dit.{dots}", ".lora_A.default.weight", ".lora_B.default.weight"),
    "compiled": ("transformer._orig_mod.{dots}", *PEFT),
    "DDP": ("module.{dots}", *PEFT),
    "diffusers' older scripts": ("unet.{dots}", ".lora.down.weight", ".lora.up.weight"),
}


def both_layouts(family: str) -> tuple:
    return layout(family), NAMES[family].reference_layout()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tool", AROUND)
def test_names_around_a_layer(family, tool, tmp_path):
    lora = random_lora(family)
    file = save(tmp_path / "x.safetensors", keyed(lora.modules, *AROUND[tool], alpha=1.5))
    for known in both_layouts(family):
        read = read_lora(file, known)
        assert deltas_equal(read, lora, 0.5) and not read.notes


@pytest.mark.parametrize("family", ["sd3", "flux", "flux_2", "z_image"])
def test_one_trainers_numbered_parts_of_fused_layers(family, tmp_path):
    """OneTrainer's OMI files: native names; q, k, v (and FLUX.1's MLP) are .0, .1, .2 (and .3) of the fused layer."""
    lora, changes = block_lora(family), {}
    for native, parts in layout(family).native.items():
        for number, part in enumerate(parts):
            if part in lora.modules and "norm1_context" not in part:  # its halves trade places natively
                changes[f"{native}.{number}" if len(parts) > 1 else native] = lora.modules[part]
    file = save(tmp_path / "x.safetensors", keyed(changes, "transformer.{dots}", *KOHYA, alpha=3.0))
    expected = Lora({name: change for name, change in lora.modules.items() if "norm1_context" not in name})
    for known in both_layouts(family):
        assert deltas_equal(read_lora(file, known), expected)


def test_xlabs_attention_processors(tmp_path):
    """`lora1` is the image's stream and `lora2` the text's; in single blocks qkv leaves the MLP's rows alone."""
    truth, tensors = {}, {}
    generator = torch.Generator().manual_seed(5)

    def pair(key: str, outputs: int, inputs: int) -> torch.Tensor:
        down, up = torch.randn(2, inputs, generator=generator), torch.randn(outputs, 2, generator=generator)
        tensors[f"{key}.down.weight"], tensors[f"{key}.up.weight"] = down, up
        return up @ down

    for i in (0, 1):
        block = f"transformer_blocks.{i}.attn."
        for number, q, k, v, out in ((1, "to_q", "to_k", "to_v", "to_out.0"), (2, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")):  # fmt: skip  # noqa: E501
            key = f"double_blocks.{i}.processor."
            truth |= dict(zip((block + q, block + k, block + v), pair(f"{key}qkv_lora{number}", 96, 32).chunk(3), strict=True))  # fmt: skip  # noqa: E501
            truth[block + out] = pair(f"{key}proj_lora{number}", 32, 32)
        single = f"single_transformer_blocks.{i}."
        parts = [f"{single}attn.to_{part}" for part in "qkv"]
        truth |= dict(zip(parts, pair(f"single_blocks.{i}.processor.qkv_lora", 96, 32).chunk(3), strict=True))
        truth[f"{single}proj_out"] = pair(f"single_blocks.{i}.processor.proj_lora", 32, 160)
    file = save(tmp_path / "x.safetensors", tensors)
    for known in both_layouts("flux"):
        read = read_lora(file, known)
        assert read.modules.keys() == truth.keys()
        for name, change in read.modules.items():
            torch.testing.assert_close(change.delta(), truth[name], msg=name)


def test_diffsynth_names_of_flux_1(tmp_path):
    """Its own names, without its option to write those of others; rows stand in the native order."""
    names = {
        "pipe.dit.blocks.1.attn.a_to_qkv": "double_blocks.1.img_attn.qkv",
        "pipe.dit.blocks.1.attn.b_to_out": "double_blocks.1.txt_attn.proj",
        "pipe.dit.blocks.0.ff_b.2": "double_blocks.0.txt_mlp.2",
        "pipe.dit.single_blocks.0.to_qkv_mlp": "single_blocks.0.linear1",
        "pipe.dit.single_blocks.1.proj_out": "single_blocks.1.linear2",
        "pipe.dit.single_blocks.1.norm.linear": "single_blocks.1.modulation.lin",
    }
    known, changes = layout("flux"), {}
    generator = torch.Generator().manual_seed(4)
    for theirs, native in names.items():
        parts = [known.shapes[part] for part in known.native[native]]
        up = torch.randn(sum(outputs for outputs, _ in parts), 2, generator=generator)
        changes[theirs] = LowRank(torch.randn(2, parts[0][1], generator=generator), up)
    endings = (".lora_A.default.weight", ".lora_B.default.weight")
    read = read_lora(save(tmp_path / "theirs.safetensors", keyed(changes, "{dots}", *endings)), known)
    natively = {names[theirs]: change for theirs, change in changes.items()}
    expected = read_lora(save(tmp_path / "native.safetensors", keyed(natively, "{dots}", *PEFT)), known)
    assert len(expected.modules) == 11 and deltas_equal(read, expected)


def test_uso_calls_the_first_rows_of_linear1_by_a_name_of_their_own(tmp_path):
    up = torch.arange(96.0)[:, None]
    change = {"single_blocks.1.linear1_qkv": LowRank(torch.ones(1, 32), up)}
    file = save(tmp_path / "x.safetensors", keyed(change, "diffusion_model.{dots}", *KOHYA))
    read = read_lora(file, layout("flux")).modules
    assert {name.rpartition(".")[2]: int(change.up_OR[0, 0]) for name, change in read.items()} == {
        "to_q": 0,
        "to_k": 32,
        "to_v": 64,
    }


@pytest.mark.parametrize("ending", [".alpha", ".lora.alpha", ".lora_alpha"])
def test_names_of_alpha(ending, tmp_path):
    lora = block_lora("qwen_image", only="attn.to_q")
    tensors = keyed(lora.modules, "transformer.{dots}", ".lora.down.weight", ".lora.up.weight")
    tensors |= {f"transformer.{name}{ending}": torch.tensor(1.5) for name in lora.modules}
    assert deltas_equal(read_lora(save(tmp_path / "x.safetensors", tensors), layout("qwen_image")), lora, 0.5)


@pytest.mark.parametrize(
    "more, told",
    [
        ({"bundle_emb.mydog.clip_l": torch.ones(1, 8), "bundle_emb.mydog.t5": torch.ones(1, 9)}, "mydog"),
        ({"_aux.3f2a": torch.ones(4)}, "_aux.3f2a"),
        ({"scaled_fp8": torch.zeros(2)}, "scaled_fp8"),
        ({"diffusion_model.scaled_fp8": torch.zeros(0)}, "scaled_fp8"),
    ],
)
def test_what_stands_beside_the_layers_is_left_out_and_told(more, told, tmp_path):
    lora = block_lora("qwen_image")
    file = save(tmp_path / "x.safetensors", keyed(lora.modules, "transformer.{dots}", *KOHYA) | more)
    read = read_lora(file, layout("qwen_image"))
    assert deltas_equal(read, lora)
    assert len(read.notes) == 1 and told in read.notes[0] and read.notes[0].startswith("x.safetensors: ")


def test_an_embedding_says_how_to_use_the_rest(tmp_path):
    tensors = keyed(block_lora("sd3").modules, "transformer.{dots}", *KOHYA)
    tensors["bundle_emb.mydog.clip_l"] = torch.ones(1, 8)
    (note,) = read_lora(save(tmp_path / "x.safetensors", tensors), layout("sd3")).notes
    assert "text encoder embedding (mydog), which is ignored" in note and "Leave that word out" in note


def test_the_patch_convolution_of_sd3_is_left_out_and_told(tmp_path):
    """sd-scripts' emb_dims: a change of the 2x2 convolution, natively and in diffusers' names."""
    lora = block_lora("sd3", only="attn.to_out")
    for key in ("lora_unet_x_embedder_proj", "transformer.pos_embed.proj"):
        conv = {
            f"{key}.lora_down.weight": torch.ones(2, 4, 2, 2),
            f"{key}.lora_up.weight": torch.ones(32, 2, 1, 1),
            f"{key}.alpha": torch.tensor(1.0),
        }
        file = save(tmp_path / "x.safetensors", keyed(lora.modules, "lora_unet_{bars}", *KOHYA) | conv)
        for known in both_layouts("sd3"):
            read = read_lora(file, known)
            assert deltas_equal(read, lora)
            assert len(read.notes) == 1 and "convolution" in read.notes[0] and key in read.notes[0]
