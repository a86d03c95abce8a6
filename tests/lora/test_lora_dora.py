"""DoRA teachers: the weight that the program of each kind of file makes, on the one shared base."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny_lora import build, layout, random_lora, save, shared, velocity

from danceopd_ext.engine.digests import lora_digest
from danceopd_ext.errors import UserError
from danceopd_ext.lora import algebra
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.dora import Dora
from danceopd_ext.lora.file_summary import describe
from danceopd_ext.lora.lora_file import open_lora_file
from danceopd_ext.lora.lycoris import Kronecker
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Change, Lora, LowRank
from danceopd_ext.lora.write import write_lora
from danceopd_ext.models.layout import Layout
from danceopd_ext.toolkits.hosted.teacher_files import network_tensors

Q, W2 = "layers.0.attention.to_q", "layers.1.feed_forward.w2"  # 32 x 32, and not square
NAMES = (Q, W2)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def magnitude(length: int, seed: int) -> torch.Tensor:
    return 1 + torch.rand(length, generator=torch.Generator().manual_seed(seed))


def plain_change(name: str, seed: int = 1) -> LowRank:
    return random_lora("z_image", seed=seed).modules[name]


def comfyui(weight: torch.Tensor, delta: torch.Tensor, scale: torch.Tensor, strength: float) -> torch.Tensor:
    """What ComfyUI makes of a weight: rows divided by the base's lengths, columns by those of the sum."""
    changed = weight + delta
    if scale.shape[0] == weight.shape[0]:
        changed = changed * scale / weight.norm(dim=1, keepdim=True)
    else:
        changed = changed * scale / changed.norm(dim=0, keepdim=True)
    return weight + strength * (changed - weight)


def peft(weight: torch.Tensor, delta: torch.Tensor, scale: torch.Tensor, strength: float) -> torch.Tensor:
    """PEFT's and ai-toolkit's: rows divided by those of the sum."""
    changed = weight + delta
    return weight + strength * (changed * (scale.view(-1, 1) / changed.norm(dim=1, keepdim=True)) - weight)


#: part of the key -> shape of the magnitude for (outputs, inputs), and the weight
KEYS = {
    "dora_scale": (lambda o, i: (1, i), comfyui),
    "dora_scale ": (lambda o, i: (o, 1), comfyui),
    "lora_magnitude_vector": (lambda o, i: (o,), peft),
    "lora_magnitude_vector.weight": (lambda o, i: (o,), peft),
    "lora_magnitude_vector.default.weight": (lambda o, i: (o,), peft),
    "magnitude": (lambda o, i: (o,), peft),
}


def dora_file(tmp_path, key: str, seed: int = 1, alpha: float | None = 6.0, name: str = "dora"):
    """A file of `NAMES`, rank 3, and the weight that each should become at a strength."""
    tensors, expected = {}, {}
    for number, layer in enumerate(NAMES):
        change, start = plain_change(layer, seed), f"diffusion_model.{layer}."
        shape, formula = KEYS[key]
        scale = magnitude(max(shape(*change.shape)), seed + number).view(shape(*change.shape))
        tensors |= {f"{start}lora_A.weight": change.down_RI, f"{start}lora_B.weight": change.up_OR}
        tensors |= {f"{start}{key.strip()}": scale} | ({f"{start}alpha": torch.tensor(alpha)} if alpha else {})
        expected[layer] = partial(formula, delta=change.delta() * (alpha or 3) / 3, scale=scale)
    return save(tmp_path / f"{name}.safetensors", tensors), expected


def added(weight: torch.Tensor, delta: torch.Tensor, strength: float) -> torch.Tensor:
    return weight + strength * delta


@torch.no_grad()
def remade(expected, strength: float, model: torch.nn.Module | None = None) -> torch.nn.Module:
    model = model or build("z_image")
    for layer, weight in expected.items():
        linear = model.get_submodule(layer)
        linear.weight.copy_(weight(linear.weight, strength=strength))
    return model


@torch.no_grad()
def spoken(lora: Lora, family: str = "z_image") -> torch.Tensor:
    """The velocity of the tiny model with the LoRA as a teacher, a second teacher and a student beside it."""
    adapters = Adapters(build(family))
    adapters.add("teacher", lora)
    adapters.add("other", random_lora(family, only="to_q"))
    adapters.add_student("student", 2, 2.0, [layer for layer in random_lora(family).modules if "to_q" in layer])
    base = velocity(family, adapters.transformer)
    assert torch.equal(base, velocity(family, shared(family)))
    with adapters.use("teacher"):
        ours = velocity(family, adapters.transformer)
    assert torch.equal(velocity(family, adapters.transformer), base)
    return ours


@torch.no_grad()
def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() < 1e-5 * other.norm())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("strength", [1.0, 0.6, -0.5])
def test_the_teacher_is_the_remade_model(key, strength, tmp_path):
    file, expected = dora_file(tmp_path, key)
    lora = algebra.combine([(read_lora(file, layout("z_image")), strength)])
    assert all(isinstance(change, Dora) for change in lora.modules.values())
    ours = spoken(lora)
    assert close(ours, velocity("z_image", remade(expected, strength)))
    assert not close(ours, velocity("z_image", shared("z_image")))


def test_strength_zero_is_the_base(tmp_path):
    file, _ = dora_file(tmp_path, "dora_scale")
    lora = algebra.combine([(read_lora(file, layout("z_image")), 0.0)])
    assert close(spoken(lora), velocity("z_image", shared("z_image")))
    assert all(change.is_zero() for change in lora.modules.values())


@pytest.mark.parametrize("key", ["dora_scale", "dora_scale ", "magnitude"])
def test_in_a_list_each_scales_what_those_before_it_left(key, tmp_path):
    """The order matters, as that of the patches does in ComfyUI."""
    first, remake_first = dora_file(tmp_path, key, seed=1, name="first")
    second, remake_second = dora_file(tmp_path, key, seed=2, name="second")
    doras = [read_lora(file, layout("z_image")) for file in (first, second)]
    plain = Lora({layer: plain_change(layer, 9) for layer in NAMES})
    remake_plain = {layer: partial(added, delta=plain_change(layer, 9).delta()) for layer in NAMES}

    def ours(*pairs):
        return spoken(algebra.combine(pairs))

    def model(*pairs):
        made = build("z_image")
        for remake, strength in pairs:
            remade(remake, strength, made)
        with torch.no_grad():
            return velocity("z_image", made)

    both = ours((doras[0], 0.7), (plain, 2.0), (doras[1], 1.0))
    assert close(both, model((remake_first, 0.7), (remake_plain, 2.0), (remake_second, 1.0)))
    other_way = ours((plain, 1.0), (doras[0], 1.0))
    assert close(other_way, model((remake_plain, 1.0), (remake_first, 1.0)))
    assert not close(other_way, ours((doras[0], 1.0), (plain, 1.0)))


def test_a_lokr_with_a_magnitude(tmp_path):
    lokr, scale = Kronecker(random(4, 4), random(8, 8, seed=1)), magnitude(32, 3).view(1, 32)
    start = f"lycoris_{Q.replace('.', '_')}"
    tensors = {f"{start}.lokr_w1": lokr.first, f"{start}.lokr_w2": lokr.second, f"{start}.dora_scale": scale}
    lora = read_lora(save(tmp_path / "x.safetensors", tensors), layout("z_image"))
    expected = {Q: partial(comfyui, delta=lokr.delta(), scale=scale)}
    assert close(spoken(lora), velocity("z_image", remade(expected, 1.0)))


# layers that are fused in the file


PARTS = tuple(f"layers.0.attention.to_{part}" for part in "qkv")


def fused_dora(tmp_path, rows: bool, seed: int, name: str = "fused") -> tuple[Lora, torch.Tensor, torch.Tensor]:
    """(the LoRA, the fused change, the magnitude) of a native q, k, v layer."""
    down, up = random(3, 32, seed=seed), random(96, 3, seed=seed + 1)
    scale = magnitude(96 if rows else 32, seed).view((96, 1) if rows else (1, 32))
    start = "diffusion_model.layers.0.attention.qkv"
    tensors = {f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up, f"{start}.dora_scale": scale}
    return read_lora(save(tmp_path / f"{name}.safetensors", tensors), layout("z_image")), up @ down, scale


@torch.no_grad()
def remake_fused(steps) -> torch.Tensor:
    """The velocity when ComfyUI's rule is used on the fused weight, step by step."""
    model = build("z_image")
    linears = [model.get_submodule(part) for part in PARTS]
    whole = torch.cat([linear.weight for linear in linears])
    for delta, scale, strength in steps:
        whole = comfyui(whole, delta, scale, strength)
    for linear, rows in zip(linears, whole.chunk(3), strict=True):
        linear.weight.copy_(rows)
    return velocity("z_image", model)


@pytest.mark.parametrize("rows", [True, False])
def test_a_fused_layer_is_cut_and_its_columns_stay_as_long_as_in_the_file(rows, tmp_path):
    lora, delta, scale = fused_dora(tmp_path, rows, seed=1)
    assert sorted(lora.modules) == sorted(PARTS)
    assert close(spoken(lora), remake_fused([(delta, scale, 1.0)]))


@pytest.mark.parametrize("rows", [True, False])
def test_two_fused_layers_one_after_another(rows, tmp_path):
    one, two = (fused_dora(tmp_path, rows, seed, f"{seed}") for seed in (1, 5))
    lora = algebra.combine([(one[0], 0.5), (two[0], 1.0)])
    assert close(spoken(lora), remake_fused([(*one[1:], 0.5), (*two[1:], 1.0)]))


def test_the_halves_of_a_swapped_layer_take_their_magnitudes_along(tmp_path):
    name, generator = "diffusion_model.final_layer.adaLN_modulation.1", torch.Generator().manual_seed(1)
    down, up, scale = (torch.rand(*shape, generator=generator) for shape in ((2, 32), (64, 2), (64, 1)))
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.dora_scale": scale}
    change = read_lora(save(tmp_path / "x.safetensors", tensors), layout("sd3")).modules["norm_out.linear"]
    assert isinstance(change, Dora)
    torch.testing.assert_close(change.magnitude, torch.cat(scale.flatten().chunk(2)[::-1]))
    torch.testing.assert_close(change.change.delta(), torch.cat((up @ down).chunk(2)[::-1]))


# dtypes


@pytest.mark.parametrize("key", ["dora_scale", "dora_scale ", "magnitude"])
def test_a_bfloat16_base_is_measured_in_float32(key, tmp_path):
    file, expected = dora_file(tmp_path, key)
    lora = read_lora(file, layout("z_image"))
    adapters = Adapters(build("z_image").to(torch.bfloat16))
    adapters.add("teacher", lora)
    exact = build("z_image").to(torch.bfloat16).float()
    ratios = [tensor for tensor in adapters.state_dict("teacher").values() if tensor.ndim == 1]
    assert ratios and all(ratio.dtype == torch.float32 for ratio in ratios)
    with torch.no_grad():
        base = velocity("z_image", exact)
        wanted = velocity("z_image", remade(expected, 1.0, exact))
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast), adapters.use("teacher"):
                ours = velocity("z_image", adapters.transformer).float()
            assert (ours - wanted).norm() < 0.1 * (wanted - base).norm()


def test_a_quantised_base_is_measured_as_it_computes(monkeypatch, tmp_path):
    """The lengths are those of the dequantised weight, not of its storage."""
    from danceopd_ext.lora import adapters as module

    file, _ = dora_file(tmp_path, "dora_scale")
    model = build("z_image")
    asked = []
    monkeypatch.setattr(module, "dequantize_module_weight", lambda base: asked.append(base) or 2 * base.weight)
    adapters = Adapters(model)
    adapters.add("teacher", read_lora(file, layout("z_image")))
    linear = model.get_submodule(Q).get_base_layer()
    assert linear in asked
    ratio = model.get_submodule(Q).changes["teacher"].ratio
    length = (2 * linear.weight + 2 * plain_change(Q).delta()).norm(dim=0)
    torch.testing.assert_close(ratio, magnitude(32, 1) / length, rtol=1e-5, atol=1e-6)


# what cannot be


def test_a_magnitude_of_another_length(tmp_path):
    file, _ = dora_file(tmp_path, "dora_scale")
    tensors = dict(open_lora_file(file).tensors)
    for shape in ((1, 7), (7,), (33, 1)):
        tensors[f"diffusion_model.{Q}.dora_scale"] = torch.ones(shape)
        with pytest.raises(UserError, match=r"to_q\.dora_scale has shape .* 32 outputs and 32 inputs"):
            read_lora(save(tmp_path / "y.safetensors", tensors), layout("z_image"))


def test_a_dora_is_not_added_compressed_compared_or_written(tmp_path):
    file, _ = dora_file(tmp_path, "dora_scale")
    known: Layout = layout("z_image")
    lora = read_lora(file, known)
    plain = Lora({Q: plain_change(Q)})
    for refused in (
        lambda: algebra.compress(lora, 2),
        lambda: algebra.compress(algebra.merge([plain, lora]), 2),
        lambda: algebra.relative_difference(plain, lora),
        lambda: algebra.low_rank(lora, ""),
        lambda: write_lora(tmp_path / "o.safetensors", lora, known, "diffusers"),
        lambda: network_tensors("style", lora, known, {}),
    ):
        with pytest.raises(UserError, match=r"dora: a DoRA .* depends on the base's weights"):
            refused()
    assert not (tmp_path / "o.safetensors").exists()


def test_inspect_names_it_and_calls_it_usable(tmp_path):
    file, _ = dora_file(tmp_path, "dora_scale")
    lines = dict(describe(open_lora_file(file), {"z_image": layout("z_image")}))
    assert lines["usable"] == "yes" and lines["dialect"].startswith("LoRA with DoRA")


def test_the_digest_knows_magnitude_axis_and_strength(tmp_path):
    changes: list[Change] = []
    for key in ("dora_scale", "dora_scale ", "magnitude"):
        changes.append(read_lora(dora_file(tmp_path, key)[0], layout("z_image")).modules[Q])
    changes += [changes[0].scaled(0.5), changes[0].change, Dora(changes[0].change, magnitude(32, 8), "in")]
    assert len({lora_digest(Lora({"x": change})) for change in changes}) == 6
