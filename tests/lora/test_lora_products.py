"""LoHa and LoKr changes stay products: each operation on them equals the same on whole matrices."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_lora import build, keyed, layout, merged, random_lora, save, velocity

from danceopd_ext.engine.digests import lora_digest
from danceopd_ext.errors import UserError
from danceopd_ext.lora import algebra
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.lora_file import open_lora_file
from danceopd_ext.lora.lycoris import Hadamard, Kronecker
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Chain, Change, Lora, LowRank, Stacked, chain
from danceopd_ext.lora.write import write_lora
from danceopd_ext.toolkits.hosted.teacher_files import network_tensors


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def pair(outputs: int, inputs: int, rank: int, seed: int) -> LowRank:
    return LowRank(random(rank, inputs, seed=seed), random(outputs, rank, seed=seed + 1))


FORMS: dict[str, Change] = {
    "LoHa": Hadamard(random(24, 2), random(2, 12, seed=1), random(24, 2, seed=2), random(2, 12, seed=3), 0.5),
    "whole LoKr": Kronecker(random(4, 3), random(6, 4, seed=1), 0.5),
    "LoKr, second factored": Kronecker(random(4, 3), pair(6, 4, 2, 1), -0.5),
    "LoKr, both factored": Kronecker(pair(4, 3, 1, 0), pair(6, 4, 2, 2)),
    "LoKr with one row": Kronecker(random(1, 1), random(24, 12, seed=1)),
}
FORMS["stacked"] = FORMS["whole LoKr"].rows(3, 23)
FORMS["chain"] = chain([FORMS["whole LoKr"], FORMS["LoHa"], pair(24, 12, 2, 5)])


@pytest.fixture(params=FORMS)
def change(request) -> Change:
    return FORMS[request.param]


def test_the_formulae():
    loha, lokr = FORMS["LoHa"], FORMS["whole LoKr"]
    torch.testing.assert_close(loha.delta(), 0.5 * (loha.w1_a @ loha.w1_b) * (loha.w2_a @ loha.w2_b))
    torch.testing.assert_close(lokr.delta(), 0.5 * torch.kron(lokr.first, lokr.second))


def test_output_scale_and_low_rank(change):
    x, delta = random(2, 5, change.shape[1], seed=9), change.delta()
    assert tuple(delta.shape) == change.shape
    torch.testing.assert_close(change.apply(x), x @ delta.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(change.on_output(lambda x: x @ delta.T, x), 2 * x @ delta.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(change.scaled(-2.0).delta(), -2 * delta)
    plain = change.to_low_rank()
    assert plain.rank == change.rank
    torch.testing.assert_close(plain.delta(), delta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(change.mapped(torch.Tensor.double).delta(torch.float64).float(), delta)
    assert not change.is_zero() and change.scaled(0.0).is_zero()


def test_any_rows_can_be_cut_out_exactly(change):
    delta = change.delta()
    for start, stop in itertools.combinations((0, 1, 5, 6, 7, 12, 17, 18, change.shape[0]), 2):
        part = change.rows(start, stop)
        assert part.shape == (stop - start, change.shape[1])
        torch.testing.assert_close(part.delta(), delta[start:stop])


def test_cutting_at_the_blocks_of_a_lokr_keeps_one_product_and_copies_nothing():
    lokr = FORMS["whole LoKr"]
    part = lokr.rows(6, 18)
    assert isinstance(part, Kronecker) and part.second is lokr.second
    assert part.first.data_ptr() == lokr.first[1:].data_ptr()
    assert isinstance(lokr.rows(5, 18), Stacked)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_compress_is_the_best_approximation(change, rank):
    small = algebra.compress(Lora({"x": change}), rank).modules["x"]
    left, singular, right = torch.linalg.svd(change.delta(), full_matrices=False)
    best = left[:, :rank] * singular[:rank] @ right[:rank]
    assert small.rank <= rank
    assert (small.delta() - best).norm() < 1e-4 * best.norm()


def test_sums_and_differences(change):
    plain = pair(*change.shape, 3, seed=20)
    a, b = Lora({"x": change}, name="a"), Lora({"x": plain}, name="b")
    total = algebra.combine([(a, 0.5), (b, 2.0)])
    torch.testing.assert_close(total.modules["x"].delta(), 0.5 * change.delta() + 2 * plain.delta())
    torch.testing.assert_close(
        algebra.merge([a, b]).modules["x"].delta(), (change.delta() + plain.delta()) / 2, rtol=1e-4, atol=1e-5
    )
    assert algebra.relative_difference(a, a) < 1e-12
    expected = float((change.delta() - plain.delta()).norm() / plain.delta().norm())
    assert algebra.relative_difference(a, b) == pytest.approx(expected, rel=1e-5)


def test_a_lokr_with_a_zero_factor_changes_nothing():
    zero, one = torch.zeros(4, 3), random(6, 4)
    assert Kronecker(zero, one).is_zero() and Kronecker(one, zero).is_zero() and not Kronecker(one, one).is_zero()
    assert Kronecker(LowRank(torch.zeros(1, 3), random(4, 1)), one).is_zero()


def test_plain_changes_in_a_chain_become_one():
    parts = [pair(24, 12, 1, seed) for seed in (1, 3, 5)]
    joined = chain([parts[0], parts[1], FORMS["LoHa"], parts[2]])
    assert isinstance(joined, Chain) and [part.rank for part in joined.parts] == [2, 4, 1]


def test_singular_values_of_a_lokr():
    for name in ("whole LoKr", "LoKr, second factored"):
        ours = FORMS[name].singular_values()[:12]
        torch.testing.assert_close(ours, torch.linalg.svdvals(FORMS[name].delta()), rtol=1e-4, atol=1e-5)


def test_the_digest_knows_forms_and_their_scale():
    lora = Lora({"x": FORMS["whole LoKr"]})
    assert lora_digest(lora) == lora_digest(Lora({"x": FORMS["whole LoKr"].mapped(torch.clone)}))
    assert len({lora_digest(Lora({"x": form})) for form in (*FORMS.values(), FORMS["whole LoKr"].scaled(2.0))}) == 8


# files


Q = "layers.0.attention.to_q"
FULL = {"lokr_w1": random(4, 4), "lokr_w2": random(8, 8, seed=1)}


def lokr_file(tmp_path, layers=(Q,), parts=FULL, dtype=torch.float32, prefix="lycoris_"):
    tensors = {
        f"{prefix}{layer.replace('.', '_')}.{part}": (value * (1 + number)).to(dtype)
        for number, layer in enumerate(layers)
        for part, value in parts.items()
    }
    return save(tmp_path / "kron.safetensors", tensors)


def native_file(tmp_path, parts):
    return save(tmp_path / "native.safetensors", {f"lora_unet_layers_0_attention_qkv.{k}": v for k, v in parts.items()})


@pytest.mark.parametrize("blocks", [4, 6, 12])  # 96 rows in blocks of 24, 16 and 8: a third is 1.33, 2 and 4 blocks
def test_a_fused_lokr_is_cut_into_q_k_and_v(blocks, tmp_path):
    parts = {"lokr_w1": random(blocks, 4), "lokr_w2": random(96 // blocks, 8, seed=1)}
    read = read_lora(native_file(tmp_path, parts), layout("z_image"))
    whole = torch.kron(parts["lokr_w1"], parts["lokr_w2"])
    for name, rows in zip("qkv", whole.chunk(3), strict=True):
        torch.testing.assert_close(read.modules[f"layers.0.attention.to_{name}"].delta(), rows)


def test_a_swapped_layer_of_a_lokr_exchanges_its_halves(tmp_path):
    name = "final_layer.adaLN_modulation.1"  # scale and shift of SD3's last layer
    for rows in (4, 1):
        parts = {"lokr_w1": random(rows, 4), "lokr_w2": random(64 // rows, 8, seed=1)}
        tensors = {f"lora_unet_{name.replace('.', '_')}.{part}": value for part, value in parts.items()}
        read = read_lora(save(tmp_path / f"{rows}.safetensors", tensors), layout("sd3"))
        whole = torch.kron(parts["lokr_w1"], parts["lokr_w2"])
        torch.testing.assert_close(read.modules["norm_out.linear"].delta(), torch.cat(whole.chunk(2)[::-1]))


LOHA = {f"hada_w{w}_{x}": random(*((32, 2) if x == "a" else (2, 32)), seed=w) for w in (1, 2) for x in "ab"}


@pytest.mark.parametrize("parts", [FULL, LOHA], ids=["LoKr", "LoHa"])
def test_a_read_product_is_the_files_tensors_themselves(parts, tmp_path):
    """Reading takes no memory beside the file's: neither float32 copies nor the unfolded change."""
    source = open_lora_file(lokr_file(tmp_path, parts=parts, dtype=torch.bfloat16))
    from danceopd_ext.lora.read import to_lora

    change = to_lora(source, layout("z_image")).modules[Q]
    files = {tensor.data_ptr() for tensor in source.tensors.values()}
    assert {tensor.data_ptr() for tensor in change.tensors()} == files


def test_as_an_adapter_it_takes_the_files_memory_also_for_a_fused_layer(tmp_path):
    parts = {"lokr_w1": random(12, 4), "lokr_w2": random(8, 8, seed=1)}
    adapters = Adapters(build("z_image"))
    before = sum(p.numel() for p in adapters.transformer.parameters())
    adapters.add("kron", read_lora(native_file(tmp_path, parts), layout("z_image")))
    added = sum(p.numel() for p in adapters.transformer.parameters()) - before
    assert added == 12 * 4 + 8 * 8  # q, k and v share the second factor


ADAPTED = {
    "z_image": [Q, "layers.0.attention.to_k", "layers.1.attention.to_v", "noise_refiner.0.attention.to_q"],
    "sd3": ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn2.to_v", "transformer_blocks.1.attn.to_k"],
}


@pytest.mark.parametrize("family", ADAPTED)
def test_teachers_of_every_form_beside_a_student(family):
    """Each is its own model, whatever stands on the same layers and in whatever order they were added."""
    lokr, loha = Kronecker(random(4, 4), random(8, 8, seed=1)), Hadamard(*LOHA.values())
    names = ADAPTED[family]
    loras = {
        "plain": Lora({name: random_lora(family).modules[name] for name in names}),
        "lokr": Lora(dict.fromkeys(names[:3], lokr)),
        "loha": Lora(dict.fromkeys(names[1:], loha)),
        "mixed": Lora({names[0]: chain([lokr, loha]), names[1]: random_lora(family).modules[names[1]]}),
    }
    adapters = Adapters(build(family))
    with torch.no_grad():
        base = velocity(family, adapters.transformer)
        for number, (name, lora) in enumerate(loras.items()):
            adapters.add(name, lora)
            if number == 1:
                adapters.add_student("student", 2, 2.0, names, generator=torch.Generator().manual_seed(0))
        assert torch.equal(velocity(family, adapters.transformer), base)
        for name, lora in loras.items():
            with adapters.use(name):
                ours = velocity(family, adapters.transformer)
            expected = velocity(family, merged(family, lora))
            assert (ours - expected).norm() < 1e-5 * expected.norm() < (ours - base).norm()
        adapters.activate("student")  # starts as the base
        assert (velocity(family, adapters.transformer) - base).norm() < 1e-6 * base.norm()
    trained = {name for name, parameter in adapters.transformer.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * len(names) and all(".student." in name for name in trained)
    assert adapters.state("mixed").modules[names[0]].shape == (32, 32)
    assert len(adapters.state_dict("lokr")) == 2 * 3


def test_a_bfloat16_base_computes_products_in_bfloat16():
    adapters = Adapters(build("sd3").to(torch.bfloat16))
    adapters.add("lokr", Lora(dict.fromkeys(ADAPTED["sd3"], Kronecker(random(4, 4), random(8, 8, seed=1)))))
    assert {parameter.dtype for parameter in adapters.state_dict("lokr").values()} == {torch.bfloat16}
    base = velocity("sd3", adapters.transformer)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), adapters.use("lokr"):
            assert (velocity("sd3", adapters.transformer) - base).norm() > 0.01 * base.norm()


def test_a_product_of_another_size_or_on_no_layer_changes_nothing():
    adapters = Adapters(build("sd3"))
    for layer in ("proj_out", "no.such.layer"):
        with pytest.raises(UserError, match=layer):
            adapters.add("x", Lora({layer: FORMS["whole LoKr"]}, name="style"))
    assert adapters.names == [] and not any(".held" in name for name, _ in adapters.transformer.named_modules())


def test_a_student_starts_as_a_lokr_of_small_rank():
    lokr = Kronecker(random(4, 1), pair(8, 32, 1, 1))
    adapters = Adapters(build("z_image"))
    adapters.add_student("student", 4, 2.0, [Q], init=Lora({Q: lokr}))
    torch.testing.assert_close(adapters.state("student").modules[Q].delta(), lokr.delta(), rtol=1e-4, atol=1e-5)


def test_a_lokr_of_small_rank_is_written_exactly(tmp_path):
    parts = {"lokr_w1": random(4, 4), "lokr_w2_a": random(8, 1, seed=1), "lokr_w2_b": random(1, 8, seed=2)}
    lora = read_lora(lokr_file(tmp_path, parts=parts), layout("z_image"))
    file = write_lora(tmp_path / "o.safetensors", lora, layout("z_image"), "diffusers", dtype=torch.float32)
    back = read_lora(file, layout("z_image")).modules[Q]
    assert back.rank == 4
    torch.testing.assert_close(back.delta(), lora.modules[Q].delta(), rtol=1e-4, atol=1e-5)


def test_a_lokr_of_full_rank_is_not_written_and_the_loss_of_lower_ranks_told(tmp_path):
    lora = read_lora(lokr_file(tmp_path), layout("z_image"))
    with pytest.raises(UserError, match="high rank") as caught:
        write_lora(tmp_path / "o.safetensors", lora, layout("z_image"), "diffusers")
    values = torch.linalg.svdvals(lora.modules[Q].delta())
    loss = float(values[16:].norm() / values.norm())
    assert f"{loss:.0%} at rank 16" in str(caught.value) and "--rank" in str(caught.value)
    assert not (tmp_path / "o.safetensors").exists()
    small = algebra.compress(lora, 16)
    assert algebra.relative_difference(small, lora) == pytest.approx(loss, rel=1e-3)
    assert write_lora(tmp_path / "o.safetensors", small, layout("z_image"), "diffusers").is_file()


def test_convert_tells_what_a_rank_loses(tmp_path, capsys):
    from danceopd_ext.cli import main, run

    file = str(lokr_file(tmp_path))
    assert run(main, ["convert", file, str(tmp_path / "no.safetensors"), "--to", "diffusers"]) == 2
    assert "at rank 16" in capsys.readouterr().err
    for rank, told in ((16, True), (32, False)):
        out = tmp_path / f"{rank}.safetensors"
        assert run(main, ["convert", file, str(out), "--to", "diffusers", "--rank", str(rank), "--dtype", "float"]) == 0
        whole, small = (read_lora(path, layout("z_image")) for path in (file, out))
        lost = algebra.relative_difference(small, whole)
        assert (f"--rank {rank} loses {lost:.1%}" in capsys.readouterr().out) is told
        assert algebra.compression_loss(whole, small) == pytest.approx(lost if told else 0.0, rel=1e-4)


def test_the_loss_of_a_stacked_change_is_told_as_well(tmp_path):
    parts = {"lokr_w1": random(32, 16), "lokr_w2": random(3, 2, seed=1)}
    lora = read_lora(native_file(tmp_path, parts), layout("z_image"))
    with pytest.raises(UserError, match=r"3 of 3 layers .* at rank 16"):
        algebra.low_rank(lora, "")


def test_hosted_toolkits_get_plain_factors_or_a_message(tmp_path):
    known = layout("z_image")
    small = {"lokr_w1": random(4, 4), "lokr_w2_a": random(8, 1, seed=1), "lokr_w2_b": random(1, 8, seed=2)}
    lora = read_lora(lokr_file(tmp_path, parts=small), known)
    tensors = network_tensors("style", lora, known, {"layers.0.attention.qkv": (96, 32)})
    up = tensors["lora_unet_layers_0_attention_qkv.lora_up.weight"]
    down = tensors["lora_unet_layers_0_attention_qkv.lora_down.weight"]
    torch.testing.assert_close((up @ down)[:32], lora.modules[Q].delta(), rtol=1e-4, atol=1e-5)
    full = read_lora(lokr_file(tmp_path), known)
    with pytest.raises(UserError, match=r"\[danceopd.teachers.style\] kron: .* high rank.*native.*--rank N"):
        network_tensors("style", full, known, {"layers.0.attention.qkv": (96, 32)})


def test_split_and_repeated_layers_of_different_kinds_are_compared(tmp_path):
    lokr = Kronecker(FULL["lokr_w1"], FULL["lokr_w2"])
    tensors = {f"lycoris_{Q.replace('.', '_')}.{part}": value for part, value in FULL.items()}
    same = keyed({Q: lokr.to_low_rank()}, "transformer.{dots}", ".lora_A.weight", ".lora_B.weight")
    read = read_lora(save(tmp_path / "x.safetensors", tensors | same), layout("z_image"))
    torch.testing.assert_close(read.modules[Q].delta(), lokr.delta(), rtol=1e-4, atol=1e-5)
    other = keyed({Q: lokr.to_low_rank().scaled(2)}, "transformer.{dots}", ".lora_A.weight", ".lora_B.weight")
    with pytest.raises(UserError, match="twice"):
        read_lora(save(tmp_path / "y.safetensors", tensors | other), layout("z_image"))
