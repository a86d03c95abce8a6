"""Each dialect's file, built by hand, gives the weight changes that it encodes."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
    convert_z_image_transformer_checkpoint_to_diffusers,
)
from tiny_lora import block_lora, deltas_equal, keyed, layout, random_lora, save

from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.models.registry import NAMES

FAMILY_NAMES = ("sd3", "z_image", "flux", "flux_2", "qwen_image")
PEFT = (".lora_A.weight", ".lora_B.weight")
KOHYA = (".lora_down.weight", ".lora_up.weight")
DIFFUSERS_NAMED = {
    "diffusers": ("transformer.{dots}", *PEFT),
    "peft": ("base_model.model.{dots}", *PEFT),
    "peft with adapter name": ("base_model.model.{dots}", ".lora_A.default.weight", ".lora_B.default.weight"),
    "bare": ("{dots}", *PEFT),
    "ai-toolkit": ("diffusion_model.{dots}", *PEFT),
    "old diffusers": ("transformer.{dots}", ".lora.down.weight", ".lora.up.weight"),
    "OneTrainer": ("lora_transformer_{bars}", *KOHYA),
    "kohya": ("lora_unet_{bars}", *KOHYA),
    "SimpleTuner": ("lycoris_{bars}", *KOHYA),
}
NATIVE_NAMED = {
    "kohya": ("lora_unet_{bars}", *KOHYA),
    "comfyui": ("diffusion_model.{dots}", *PEFT),
    "checkpoint prefix": ("model.diffusion_model.{dots}", *PEFT),
    "bare": ("{dots}", ".lora_down.weight", ".lora_up.weight"),
}


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("dialect", DIFFUSERS_NAMED)
def test_diffusers_names(family, dialect, tmp_path):
    lora = random_lora(family)
    file = save(tmp_path / "x.safetensors", keyed(lora.modules, *DIFFUSERS_NAMED[dialect]))
    for known in (layout(family), NAMES[family].reference_layout()):
        read = read_lora(file, known)
        assert read.modules.keys() == lora.modules.keys()
        assert deltas_equal(read, lora)


def native_lora(family: str, rank: int = 3) -> dict[str, LowRank]:
    """A random change of every native layer, by native name."""
    shapes, generator = layout(family).shapes, torch.Generator().manual_seed(3)
    changes = {}
    for native, parts in layout(family).native.items():
        outputs, inputs = sum(shapes[part][0] for part in parts), shapes[parts[0]][1]
        down, up = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
        changes[native] = LowRank(down, up)
    return changes


def converted(family: str, changes: dict[str, LowRank]) -> dict[str, torch.Tensor]:
    """The weight changes by diffusers name, as diffusers' own checkpoint converter maps them."""
    weights = {f"{name}.weight": change.delta() for name, change in changes.items()}
    if family == "z_image":
        return convert_z_image_transformer_checkpoint_to_diffusers(weights)
    if family == "flux_2":
        return convert_flux2_transformer_checkpoint_to_diffusers(weights)
    if family == "flux":
        return converted_flux(weights)
    if family == "qwen_image":
        return weights
    weights |= {f"{name}.bias": torch.zeros(change.shape[0]) for name, change in changes.items()}
    weights |= {"pos_embed": torch.zeros(1), "x_embedder.proj.weight": torch.zeros(1), "x_embedder.proj.bias": torch.zeros(1)}  # fmt: skip  # noqa: E501
    for block in (
        "0.x_block.attn",
        "0.context_block.attn",
        "0.x_block.attn2",
        "1.x_block.attn",
        "1.context_block.attn",
    ):
        weights |= {f"joint_blocks.{block}.{norm}.weight": torch.zeros(1) for norm in ("ln_q", "ln_k")}
    return convert_sd3_transformer_checkpoint_to_diffusers(weights)


def converted_flux(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The converter knows one size of linear1, so its four parts stand in the first rows of places of that size."""
    weights |= {name.replace(".weight", ".bias"): value[:, 0] for name, value in weights.items()}
    for name in [name for name in weights if "linear1" in name]:
        parts = weights[name].split([32, 32, 32, 128])
        weights[name] = torch.cat(
            [torch.cat([part, part.new_zeros(96 * len(part) - len(part), *part.shape[1:])]) for part in parts]
        )
    norms = [f"double_blocks.{i}.{kind}_attn.norm." for i in range(2) for kind in ("img", "txt")]
    norms += [f"single_blocks.{i}.norm." for i in range(2)]
    weights |= {f"{norm}{part}_norm.scale": torch.zeros(1) for norm in norms for part in ("query", "key")}
    made = convert_flux_transformer_checkpoint_to_diffusers(weights)
    return {name: value[: value.shape[0] // 96] if is_in_linear1(name) else value for name, value in made.items()}


def is_in_linear1(name: str) -> bool:
    return "single_" in name and any(f"{part}." in name for part in ("to_q", "to_k", "to_v", "proj_mlp"))


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("dialect", NATIVE_NAMED)
def test_native_names_agree_with_diffusers_checkpoint_converter(family, dialect, tmp_path):
    changes = native_lora(family)
    file = save(tmp_path / "x.safetensors", keyed(changes, *NATIVE_NAMED[dialect], alpha=6.0))
    expected = converted(family, changes)
    for known in (layout(family), NAMES[family].reference_layout()):
        read = read_lora(file, known)
        assert read.modules.keys() == layout(family).shapes.keys()
        for name, change in read.modules.items():
            torch.testing.assert_close(change.delta(), 2.0 * expected[f"{name}.weight"], msg=name)


def test_sd3_scale_and_shift_are_exchanged_only_where_they_are_natively():
    """The halves trade places in the final layer and the last context block, not in the others."""
    known = layout("sd3")
    changes = {name: change for name, change in native_lora("sd3").items() if "adaLN" in name}
    from danceopd_ext.lora.read import split_native  # the rule itself, on bare tensors

    def first_half_moved(native: str) -> bool:
        from danceopd_ext.lora.dialects import Group

        (part,) = split_native(
            changes[native], Group(native, base_layers=known.native[native], native=True), known, None
        )
        return torch.equal(part.up_OR, torch.cat(changes[native].up_OR.chunk(2)[::-1]))

    moved = {native for native in changes if first_half_moved(native)}
    assert moved == {"final_layer.adaLN_modulation.1", "joint_blocks.1.context_block.adaLN_modulation.1"}


@pytest.mark.parametrize("alpha, scale", [(None, 1.0), (3.0, 1.0), (1.5, 0.5), (0.0, 1.0)])
def test_alpha_key(alpha, scale, tmp_path):
    lora = random_lora("sd3")
    file = save(tmp_path / "x.safetensors", keyed(lora.modules, *DIFFUSERS_NAMED["kohya"], alpha=alpha))
    assert deltas_equal(read_lora(file, layout("sd3")), lora, scale)


@pytest.mark.parametrize("rslora, scale", [(False, 8 / 3), (True, 8 / 3**0.5)])
def test_peft_folder(rslora, scale, tmp_path):
    lora = random_lora("z_image", only="layers.")
    special = "layers.1.attention.to_k"
    config = {"r": 3, "lora_alpha": 8, "use_rslora": rslora, "rank_pattern": {}, "alpha_pattern": {special: 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save(tmp_path / "adapter_model.safetensors", keyed(lora.modules, *DIFFUSERS_NAMED["peft"]))
    read = read_lora(tmp_path, layout("z_image"))
    other = {name: change for name, change in lora.modules.items() if name != special}
    assert deltas_equal(Lora({name: read.modules[name] for name in other}), Lora(other), scale)
    own = Lora({special: lora.modules[special]})
    assert deltas_equal(Lora({special: read.modules[special]}), own, scale / 4)


def test_diffusers_folder_with_alpha_in_its_metadata(tmp_path):
    lora = random_lora("sd3")
    config = {"transformer.r": 3, "transformer.lora_alpha": 12, "transformer.alpha_pattern": {"proj_out": 3}}
    tensors = keyed(lora.modules, *DIFFUSERS_NAMED["diffusers"])
    save(tmp_path / "pytorch_lora_weights.safetensors", tensors, {"lora_adapter_metadata": json.dumps(config)})
    read = read_lora(tmp_path, layout("sd3"))
    assert deltas_equal(Lora({"proj_out": read.modules.pop("proj_out")}), Lora({"proj_out": lora.modules["proj_out"]}))
    lora.modules.pop("proj_out")
    assert deltas_equal(read, lora, 4.0)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
def test_plain_tensors_in_a_pickle(suffix, tmp_path):
    lora = random_lora("sd3")
    torch.save({"state_dict": keyed(lora.modules, *DIFFUSERS_NAMED["kohya"])}, tmp_path / f"x{suffix}")
    assert deltas_equal(read_lora(tmp_path / f"x{suffix}", layout("sd3")), lora)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, tmp_path):
    lora = random_lora("sd3")
    halves = {name: LowRank(c.down_RI.to(dtype), c.up_OR.to(dtype)) for name, c in lora.modules.items()}
    file = save(tmp_path / "x.safetensors", keyed(halves, *DIFFUSERS_NAMED["kohya"], alpha=1.0))
    read = read_lora(file, layout("sd3"))
    assert all(change.up_OR.dtype == torch.float32 for change in read.modules.values())
    assert deltas_equal(read, Lora(halves), 1 / 3)


def test_split_and_repeated_fused_layers(tmp_path):
    """Some Z-Image files hold q, k, v and once more the same as qkv: the change is applied once."""
    lora = block_lora("z_image", only="layers.0.attention.to_")
    down = lora.modules["layers.0.attention.to_q"].down_RI
    for part in "qkv":
        name = f"layers.0.attention.to_{part}"
        lora.modules[name] = LowRank(down, lora.modules[name].up_OR)
    up = torch.cat([lora.modules[f"layers.0.attention.to_{part}"].up_OR for part in "qkv"])
    tensors = keyed(lora.modules, "lora_unet_{bars}", *KOHYA)
    tensors |= keyed({"layers.0.attention.qkv": LowRank(down, up)}, "lora_unet_{bars}", *KOHYA)
    assert deltas_equal(read_lora(save(tmp_path / "x.safetensors", tensors), layout("z_image")), lora)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha, scale", [(None, 1.0), (1.0, 0.5)])
def test_loha_equals_its_dense_formula(alpha, scale, tmp_path):
    w1_a, w1_b, w2_a, w2_b = random(32, 2, seed=1), random(2, 32, seed=2), random(32, 2, seed=3), random(2, 32, seed=4)
    layer = "lycoris_layers_0_attention_to_q"
    tensors = {"hada_w1_a": w1_a, "hada_w1_b": w1_b, "hada_w2_a": w2_a, "hada_w2_b": w2_b}
    tensors |= {} if alpha is None else {"alpha": torch.tensor(alpha)}
    file = save(tmp_path / "x.safetensors", {f"{layer}.{part}": value for part, value in tensors.items()})
    change = read_lora(file, layout("z_image")).modules["layers.0.attention.to_q"]
    torch.testing.assert_close(change.delta(), scale * (w1_a @ w1_b) * (w2_a @ w2_b))
    assert change.rank == 4


LOKR = {  # parts present, and alpha / rank for alpha 1: both whole means no scale at all
    "w1 w2": 1.0,
    "w1 w2_a w2_b": 0.5,
    "w1_a w1_b w2": 0.5,
    "w1_a w1_b w2_a w2_b": 0.5,
}


@pytest.mark.parametrize("parts, scale", LOKR.items())
def test_lokr_equals_its_dense_formula(parts, scale, tmp_path):
    shapes = {"w1": (4, 8), "w1_a": (4, 2), "w1_b": (2, 8), "w2": (8, 4), "w2_a": (8, 2), "w2_b": (2, 4)}
    values = {part: random(*shapes[part], seed=i) for i, part in enumerate(parts.split())}
    layer = "lycoris_layers_0_attention_to_q"
    tensors = {f"{layer}.lokr_{part}": value for part, value in values.items()} | {f"{layer}.alpha": torch.tensor(1.0)}
    change = read_lora(save(tmp_path / "x.safetensors", tensors), layout("z_image")).modules["layers.0.attention.to_q"]
    w1 = values["w1"] if "w1" in values else values["w1_a"] @ values["w1_b"]
    w2 = values["w2"] if "w2" in values else values["w2_a"] @ values["w2_b"]
    torch.testing.assert_close(change.delta(), scale * torch.kron(w1, w2), rtol=1e-5, atol=1e-5)
    assert change.rank <= 16


def test_lokr_drops_ranks_that_are_zero(tmp_path):
    w1, w2 = random(4, 1, seed=1) @ random(1, 8, seed=2), random(8, 1, seed=3) @ random(1, 4, seed=4)
    tensors = {"layers.0.attention.to_q.lokr_w1": w1, "layers.0.attention.to_q.lokr_w2": w2}
    change = read_lora(save(tmp_path / "x.safetensors", tensors), layout("z_image")).modules["layers.0.attention.to_q"]
    torch.testing.assert_close(change.delta(), torch.kron(w1, w2), rtol=1e-5, atol=1e-5)
    assert change.rank == 1
