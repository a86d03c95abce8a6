"""FLUX's fused layers of unequal parts, in tiny and in true sizes, and telling FLUX.1 from FLUX.2."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxKontextPipeline
from safetensors.torch import load_file
from tiny_lora import deltas_equal, keyed, layout, random_lora, save

from danceopd_ext.errors import UserError
from danceopd_ext.lora.file_summary import find_layout
from danceopd_ext.lora.lora_file import open_lora_file
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.lora.write import unread, write_lora
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.registry import NAMES

BLOCK = "single_transformer_blocks.1."
PARTS = tuple(BLOCK + part for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"))
KEY = "lora_unet_single_blocks_1_linear1"


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("known", [layout("flux"), NAMES["flux"].reference_layout()], ids=["shapes", "names"])
@pytest.mark.parametrize("missing", [(), (0,), (3,), (0, 1, 2), (1, 3)], ids=str)
@pytest.mark.parametrize("shared_down", [True, False])
def test_linear1_of_the_parts_that_are_there(known, missing, shared_down, tmp_path):
    """Written fused and read back, what was not there is zero and the rest is what it was."""
    lora = Lora({part: random_lora("flux").modules[part] for i, part in enumerate(PARTS) if i not in missing})
    if shared_down:
        down = next(iter(lora.modules.values())).down_RI
        lora = Lora({part: LowRank(down, change.up_OR) for part, change in lora.modules.items()})
    file = write_lora(tmp_path / "x.safetensors", lora, known, "kohya", dtype=torch.float32)
    tensors = load_file(file)
    assert set(tensors) == {f"{KEY}.lora_down.weight", f"{KEY}.lora_up.weight", f"{KEY}.alpha"}
    assert tensors[f"{KEY}.lora_up.weight"].shape == (32 * 7, 3 if shared_down else 3 * len(lora.modules))
    assert deltas_equal(read_lora(file, known), lora)


def test_linear1_rows_are_q_k_v_and_mlp(tmp_path):
    """A file whose outputs all differ gives each part its own rows, in the original's order."""
    fused = LowRank(random(2, 32, seed=1), torch.arange(224.0)[:, None].repeat(1, 2))
    file = save(tmp_path / "x.safetensors", keyed({"single_blocks.1.linear1": fused}, "diffusion_model.{dots}", ".lora_A.weight", ".lora_B.weight"))  # fmt: skip  # noqa: E501
    read = read_lora(file, layout("flux")).modules
    rows = {part: (int(read[part].up_OR[0, 0]), int(read[part].up_OR[-1, 0])) for part in PARTS}
    assert rows == dict(zip(PARTS, [(0, 31), (32, 63), (64, 95), (96, 223)], strict=True))


def true_size(depth: int = 2) -> Layout:
    """FLUX.1's own sizes, by names and shapes alone."""
    shapes = {f"{kind}.attn.to_{part}": (3072, 3072) for kind in _blocks(depth) for part in "qkv"}
    for kind in _blocks(depth):
        if kind.startswith("single"):
            shapes |= {f"{kind}.proj_mlp": (12288, 3072), f"{kind}.proj_out": (3072, 15360)}
        else:
            shapes |= {f"{kind}.attn.add_{part}_proj": (3072, 3072) for part in "qkv"}
            shapes |= {f"{kind}.attn.to_out.0": (3072, 3072), f"{kind}.ff.net.0.proj": (12288, 3072)}
    return NAMES["flux"].layout_of(shapes)


def _blocks(depth: int) -> list[str]:
    return [f"{kind}.{i}" for kind in ("transformer_blocks", "single_transformer_blocks") for i in range(depth)]


@pytest.mark.parametrize("rank", [1, 2])
def test_diffusers_gets_the_same_layers_from_a_kohya_file_of_true_size(rank, tmp_path):
    known = true_size()
    changes = {
        name: LowRank(random(rank, inputs, seed=i), random(outputs, rank, seed=i + 1000))
        for i, (name, (outputs, inputs)) in enumerate(known.shapes.items())
    }
    file = write_lora(tmp_path / "x.safetensors", Lora(changes), known, "kohya", dtype=torch.float32)
    theirs = FluxKontextPipeline.lora_state_dict(str(file))
    assert {key.split(".lora_")[0] for key in theirs} == {f"transformer.{name}" for name in changes}
    for name, change in changes.items():
        probe = random(change.shape[1], 1, seed=5)
        down, up = (theirs[f"transformer.{name}.lora_{part}.weight"] for part in "AB")
        torch.testing.assert_close(up @ (down @ probe), change.up_OR @ (change.down_RI @ probe), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", ["flux", "flux_2"])
@pytest.mark.parametrize("layers", ["linear1", "double_blocks.0.img_mlp.0"])
def test_flux_1_and_2_are_told_apart_by_their_sizes(family, layers, tmp_path):
    """Both call these layers the same; there are as many in either file."""
    known = layout(family)
    lora = random_lora(family)
    parts = {part for native, parts in known.native.items() if layers in native for part in parts}
    part = Lora({name: change for name, change in lora.modules.items() if name in parts})
    file = write_lora(tmp_path / "x.safetensors", part, known, "kohya", dtype=torch.float32)
    layouts = {name: names.reference_layout() for name, names in NAMES.items()}
    assert find_layout(open_lora_file(file), layouts).family == family


def test_a_flux_2_file_is_refused_for_flux_1(tmp_path):
    known = layout("flux_2")
    lora = random_lora("flux_2", only="to_qkv_mlp_proj")
    file = write_lora(tmp_path / "x.safetensors", lora, known, "kohya", dtype=torch.float32)
    with pytest.raises(
        UserError, match=r"288 outputs, which cannot be split into 1 : 1 : 1 : 4.*exactly the base model"
    ):
        read_lora(file, layout("flux"))


@pytest.mark.parametrize("family", ["flux", "flux_2"])
def test_only_the_final_modulation_has_its_halves_exchanged(family, tmp_path):
    lora = random_lora(family)
    file = write_lora(tmp_path / "x.safetensors", lora, layout(family), "comfyui", dtype=torch.float32)
    tensors = load_file(file)
    changed = set()
    for native, parts in layout(family).native.items():
        up, down = (tensors[f"diffusion_model.{native}.lora_{part}.weight"] for part in "BA")
        delta = torch.cat([lora.modules[part].delta() for part in parts])
        if not torch.allclose(up @ down, delta, atol=1e-5):
            changed.add(native)
            torch.testing.assert_close(up @ down, torch.cat(delta.chunk(2)[::-1]))
    assert changed == {"final_layer.adaLN_modulation.1"}


def test_the_default_dialect_of_flux_1_is_half_as_large_as_kohyas(tmp_path):
    """kohya's fused layers hold zeros for what each part lacks. InvokeAI wants these four keys and no alpha."""
    known, names = true_size(depth=1), NAMES["flux"]
    changes = {
        name: LowRank(random(4, inputs, seed=i), random(outputs, 4, seed=i + 1000))
        for i, (name, (outputs, inputs)) in enumerate(known.shapes.items())
    }
    default = names.format_of("auto", changes)
    files = {
        format: load_file(write_lora(tmp_path / f"{format}.safetensors", Lora(changes), known, format))
        for format in {default, "kohya"}
    }
    size = {format: sum(tensor.numel() for tensor in tensors.values()) for format, tensors in files.items()}
    assert size[default] < 0.55 * size["kohya"]
    single, double = "single_transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj"
    assert {f"transformer.{layer}.lora_{part}.weight" for layer in (single, double) for part in "AB"} <= set(
        files[default]
    )
    assert all(key.endswith(("lora_A.weight", "lora_B.weight")) for key in files[default])


def test_flux_1_parts_with_one_down_are_no_larger_in_kohyas_names(tmp_path):
    """As sd-scripts trains them: what was one layer becomes one layer again."""
    known, down = true_size(depth=1), random(4, 3072, seed=1)
    parts = [f"single_transformer_blocks.0.{part}" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    lora = Lora({part: LowRank(down, random(known.shapes[part][0], 4, seed=i)) for i, part in enumerate(parts)})
    tensors = load_file(write_lora(tmp_path / "x.safetensors", lora, known, "kohya"))
    assert tensors["lora_unet_single_blocks_0_linear1.lora_up.weight"].shape == (21504, 4)


OUTER = {
    ("flux", "auto"): ("diffusers", None),
    ("flux", "kohya"): ("kohya", "InvokeAI rejects"),
    ("flux_2", "auto"): ("diffusers", None),
    ("flux_2", "kohya"): ("kohya", "diffusers ignores some"),
    ("z_image", "auto"): ("comfyui", None),
    ("z_image", "kohya"): ("kohya", "diffusers ignores some"),
    ("qwen_image", "auto"): ("kohya", None),
    ("sd3", "auto"): ("diffusers", None),
}


@pytest.mark.parametrize("asked, expected", OUTER.items())
def test_layers_outside_of_blocks_choose_a_dialect_that_works_or_are_told(asked, expected):
    family, word = asked
    layers = layout(family).shapes
    format, told = expected
    assert NAMES[family].format_of(word, layers) == format
    notes = unread(layers, layout(family), format)
    assert (len(notes) == 1 and told in notes[0]) if told else notes == []
    inside = [layer for layer in layers if "blocks." in layer or layer.startswith("layers.")]
    assert unread(inside, layout(family), "kohya") == []
    assert NAMES[family].format_of("auto", inside) == NAMES[family].default_format
