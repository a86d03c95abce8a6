"""Adapters on one base: each is exactly its own model, and switching touches nothing else."""

from __future__ import annotations

import pytest
import torch
from tiny_lora import build, deltas_equal, merged, random_lora, shared, velocity

from danceopd_ext.errors import UserError
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora, LowRank

FAMILY_NAMES = ("sd3", "z_image")
TARGETS = {
    "sd3": ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2", "transformer_blocks.0.attn2.to_v"],
    "z_image": ["layers.0.attention.to_q", "layers.1.feed_forward.w2", "noise_refiner.0.attention.to_v"],
}


def teachers(family: str) -> dict[str, Lora]:
    """LoRAs of different layers and ranks; one of them has two ranks."""
    mixed = random_lora(family, rank=2, seed=3)
    name = TARGETS[family][0]
    mixed.modules[name] = random_lora(family, rank=5, seed=4).modules[name]
    return {"all": random_lora(family, seed=2), "some": random_lora(family, rank=4, only="to_q"), "mixed": mixed}


def adapted(family: str) -> Adapters:
    adapters = Adapters(build(family))
    for name, lora in teachers(family).items():
        adapters.add(name, lora)
    generator = torch.Generator().manual_seed(11)
    adapters.add_student("student", 4, 2.0, TARGETS[family], generator=generator)
    return adapters


@torch.no_grad()
def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() < 1e-5 * other.norm())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_each_adapter_equals_its_own_model_and_none_is_the_base(family):
    adapters = adapted(family)
    with torch.no_grad():
        base = velocity(family, shared(family))
        for name, lora in teachers(family).items():
            with adapters.use(name):
                ours = velocity(family, adapters.transformer)
            assert close(ours, velocity(family, merged(family, lora))) and not close(ours, base)
            with adapters.use(None):
                assert torch.equal(velocity(family, adapters.transformer), base)
        with adapters.use("student"):  # starts as the base
            assert close(velocity(family, adapters.transformer), base)


def test_nothing_is_active_at_first_nor_after_adding():
    adapters = adapted("sd3")
    assert adapters.active is None and adapters.names == ["all", "some", "mixed", "student"]
    with torch.no_grad():
        assert torch.equal(velocity("sd3", adapters.transformer), velocity("sd3", shared("sd3")))


def test_adding_keeps_the_active_adapter():
    adapters = adapted("sd3")
    adapters.activate("some")
    with torch.no_grad():
        before = velocity("sd3", adapters.transformer)
        adapters.add("late", random_lora("sd3", seed=9))
        assert torch.equal(velocity("sd3", adapters.transformer), before)


def test_switching_touches_neither_gradients_nor_structure():
    adapters = adapted("sd3")
    model = adapters.transformer
    before = [(name, parameter, parameter.requires_grad) for name, parameter in model.named_parameters()]
    modules = [name for name, _ in model.named_modules()]
    trained = {name for name, _, gradient in before if gradient}
    assert trained and all(".student." in name for name in trained)
    assert {id(p) for p in adapters.student_parameters()} == {id(p) for _, p, gradient in before if gradient}
    for name in (None, "all", "student", "some"):
        adapters.activate(name)
        after = [(name, parameter, parameter.requires_grad) for name, parameter in model.named_parameters()]
        assert all(a[0] == b[0] and a[1] is b[1] and a[2] == b[2] for a, b in zip(before, after, strict=True))
        assert [name for name, _ in model.named_modules()] == modules


def test_use_restores_after_an_error_and_nests():
    adapters = adapted("sd3")
    adapters.activate("student")
    with pytest.raises(RuntimeError), adapters.use("all"), adapters.use(None):
        assert adapters.active is None
        raise RuntimeError
    assert adapters.active == "student"
    layer = adapters.transformer.get_submodule(TARGETS["sd3"][0])
    assert layer.active_adapters == ["student"] and not layer.disable_adapters


def test_unknown_or_taken_names():
    adapters = adapted("sd3")
    with pytest.raises(KeyError, match="unknown adapter"):
        adapters.activate("nobody")
    with pytest.raises(ValueError, match="already used"):
        adapters.add("all", random_lora("sd3"))


def test_lora_that_does_not_fit_changes_nothing():
    adapters = Adapters(build("sd3"))
    for lora in (
        Lora({"no.such.layer": LowRank(torch.ones(1, 2), torch.ones(2, 1))}, name="style"),
        Lora({"transformer_blocks.0": LowRank(torch.ones(1, 2), torch.ones(2, 1))}, name="style"),
        Lora({"proj_out": LowRank(torch.ones(1, 2), torch.ones(2, 1))}, name="style"),
    ):
        with pytest.raises(UserError, match="style"):
            adapters.add("x", lora)
    assert adapters.names == [] and not any("lora" in name for name, _ in adapters.transformer.named_modules())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_gradients_with_checkpointing_are_those_without(family):
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        adapters = adapted(family)
        with torch.no_grad():
            for parameter in adapters.student_parameters():
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
        if checkpointing:
            adapters.transformer.enable_gradient_checkpointing()
        adapters.transformer.train()
        with torch.no_grad(), adapters.use("all"):
            goal = velocity(family, adapters.transformer)
        adapters.activate("student")
        (velocity(family, adapters.transformer) - goal).square().mean().backward()
        assert all(p.grad is None for n, p in adapters.transformer.named_parameters() if ".student." not in n)
        return [parameter.grad for parameter in adapters.student_parameters()]

    for with_it, without in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(with_it, without)
        assert without.abs().max() > 0


def test_memory_is_the_base_and_the_loras():
    def size(tensors) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    model = build("sd3")
    adapters = Adapters(model)
    base = size(model.parameters())
    loras = [random_lora("sd3", seed=seed) for seed in range(3)]
    for number, lora in enumerate(loras):
        adapters.add(f"t{number}", lora)
    expected = base + sum(size((c.down_RI, c.up_OR)) for lora in loras for c in lora.modules.values())
    assert size(model.parameters()) <= 1.1 * expected


def test_bfloat16_base_float32_student_and_autocast():
    adapters = Adapters(build("sd3").to(torch.bfloat16))
    adapters.add("teacher", random_lora("sd3"))
    adapters.add_student("student", 4, 4.0, TARGETS["sd3"], generator=torch.Generator().manual_seed(0))
    dtypes = {name.split(".")[-2]: p.dtype for name, p in adapters.transformer.named_parameters() if ".lora_" in name}
    assert dtypes == {"teacher": torch.bfloat16, "student": torch.float32}
    base = velocity("sd3", adapters.transformer)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            with adapters.use("teacher"):
                assert (velocity("sd3", adapters.transformer) - base).norm() > 0.01 * base.norm()
            with adapters.use("student"):
                out = velocity("sd3", adapters.transformer)
        assert out.dtype == torch.bfloat16
        out.float().square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in adapters.student_parameters())
    assert any(parameter.grad.abs().max() > 0 for parameter in adapters.student_parameters())


def test_student_starts_from_its_generator():
    def start(seed: int) -> Lora:
        adapters = Adapters(build("sd3"))
        adapters.add_student("student", 4, 2.0, TARGETS["sd3"], generator=torch.Generator().manual_seed(seed))
        return adapters.state("student")

    one, same, other = start(1), start(1), start(2)
    for name in TARGETS["sd3"]:
        assert torch.equal(one.modules[name].down_RI, same.modules[name].down_RI)
        assert not torch.equal(one.modules[name].down_RI, other.modules[name].down_RI)
        assert not one.modules[name].up_OR.any()
        bound = one.modules[name].shape[1] ** -0.5
        assert 0.5 * bound < float(one.modules[name].down_RI.abs().max()) <= bound


def test_student_starts_as_a_lora_and_its_free_ranks_can_learn():
    init = Lora({name: random_lora("sd3").modules[name] for name in TARGETS["sd3"][:2]}, name="style")
    adapters = Adapters(build("sd3"))
    adapters.add_student("student", 5, 2.0, TARGETS["sd3"], generator=torch.Generator().manual_seed(0), init=init)
    assert deltas_equal(adapters.state("student"), init)
    adapters.activate("student")
    velocity("sd3", adapters.transformer).square().mean().backward()
    up = adapters.state_dict("student")[f"{TARGETS['sd3'][0]}.up"]
    assert bool((up.grad[:, 3:].abs().amax(0) > 0).all())


def test_student_that_cannot_start_as_its_lora():
    adapters = Adapters(build("sd3"))
    with pytest.raises(UserError, match="network_dim = 3"):
        adapters.add_student("s", 2, 2.0, TARGETS["sd3"], init=Lora({TARGETS["sd3"][0]: random_lora("sd3").modules[TARGETS["sd3"][0]]}))  # fmt: skip  # noqa: E501
    with pytest.raises(UserError, match="not trained"):
        adapters.add_student("s", 4, 2.0, TARGETS["sd3"], init=random_lora("sd3"))
    with pytest.raises(UserError, match="no linear layer"):
        adapters.add_student("s", 4, 2.0, ["nothing"])
    assert adapters.names == []


def test_state_folds_alpha_and_is_a_copy():
    adapters = adapted("sd3")
    with torch.no_grad():
        for parameter in adapters.student_parameters():
            parameter.fill_(1.0)
    state = adapters.state("student")
    change = state.modules[TARGETS["sd3"][0]]
    torch.testing.assert_close(change.delta(), torch.full(change.shape, 4 * 2.0 / 4))
    change.down_RI.zero_()
    assert all(bool((parameter == 1).all()) for parameter in adapters.student_parameters())
    with torch.no_grad(), adapters.use("student"):
        ours = velocity("sd3", adapters.transformer)
    assert close(ours, velocity("sd3", merged("sd3", adapters.state("student"))))


def test_load_state():
    adapters, other = adapted("sd3"), adapted("sd3")
    with torch.no_grad():
        for parameter in adapters.student_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    parameters = other.student_parameters()
    other.load_state("student", adapters.state("student"))
    assert deltas_equal(other.state("student"), adapters.state("student"))
    other.load_state("student", {name: value.detach() for name, value in adapters.state_dict("student").items()})
    for mine, theirs, before in zip(other.student_parameters(), adapters.student_parameters(), parameters, strict=True):
        assert torch.equal(mine, theirs) and mine is before
    with pytest.raises(ValueError, match="does not fit"):
        other.load_state("student", random_lora("sd3"))


def test_dropout_of_the_student_is_off_in_eval_mode():
    adapters = Adapters(build("sd3"))
    adapters.add_student("student", 4, 4.0, TARGETS["sd3"], dropout=0.5)
    with torch.no_grad():
        for parameter in adapters.student_parameters():
            parameter.fill_(0.1)
        adapters.activate("student")
        first, second = (velocity("sd3", adapters.transformer) for _ in range(2))
        assert torch.equal(first, second)
        adapters.transformer.train()
        assert not torch.equal(velocity("sd3", adapters.transformer), second)


def test_switching_many_layers_is_fast():
    import time

    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(240)))
    adapters = Adapters(model)
    change = LowRank(torch.ones(1, 4), torch.ones(4, 1))
    adapters.add("a", Lora({str(number): change for number in range(240)}))
    times = []
    for _ in range(30):
        start = time.perf_counter()
        with adapters.use("a"):
            pass
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-3
