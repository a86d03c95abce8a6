"""Every adapter is compiled once, and nothing that a run changes from step to step is compiled again."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from danceopd_ext.engine import compiling
from danceopd_ext.engine.block_swap import BlockSwap
from danceopd_ext.engine.compiling import Compilations, check_compiler
from danceopd_ext.errors import UserError
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora, LowRank

WIDTH, LAYERS = 8, 3


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.inner = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens):
        return tokens + self.inner(self.norm(tokens)).tanh()


class Model(torch.nn.Module):
    """Blocks of one kind, checkpointed while gradients are enabled, as diffusers' are."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, tokens):
        for block in self.blocks:
            grad = torch.is_grad_enabled()
            tokens = checkpoint(block.__call__, tokens, use_reentrant=False) if grad else block(tokens)
        return tokens


class Trained:
    """A student and two teachers on a Model; the second teacher changes some layers only."""

    def __init__(self):
        torch.manual_seed(1)
        self.model = Model()
        layers = [f"blocks.{i}.inner" for i in range(LAYERS)]
        self.adapters = Adapters(self.model)
        for name, own in (("one", layers), ("two", layers[:1])):
            self.adapters.add(
                name, Lora({layer: LowRank(torch.randn(2, WIDTH), torch.randn(WIDTH, 2)) for layer in own})
            )
        self.adapters.add_student("student", 2, 2.0, layers, generator=torch.Generator().manual_seed(0))
        for factor in self.adapters.student_parameters():
            torch.nn.init.normal_(factor, generator=torch.Generator().manual_seed(2))

    def step(self, samples: int = 3, tokens: int = 6) -> list[torch.Tensor]:
        """Velocities of every adapter and of the base, and the student's gradient."""
        x = torch.randn(samples, tokens, WIDTH, generator=torch.Generator().manual_seed(3))
        found = []
        with torch.no_grad():
            for name in ("student", "one", "two", None, "student"):
                self.adapters.activate(name)
                found.append(self.model(x))
        self.adapters.activate("student")
        self.model(x).square().mean().backward()
        found += [p.grad.clone() for p in self.adapters.student_parameters()]
        for p in self.adapters.student_parameters():
            p.grad = None
        return found


@pytest.fixture(autouse=True)
def limits():
    """What is compiled and the raised limits end with the test."""
    config = torch._dynamo.config
    torch._dynamo.reset()
    with config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        yield
    torch._dynamo.reset()


def test_adapters_and_sizes_switch_without_compiling_again():
    """The first step compiles what it needs, of swapped blocks too.

    Numbers are those of a model that is not compiled, to the bit.
    """
    expected, trained = Trained().step(), Trained()
    blocks = list(trained.model.blocks)
    compilations = Compilations(blocks, len(trained.adapters.names), backend="aot_eager")
    BlockSwap(blocks, 1, torch.device("cpu"))
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(trained.step(), expected, strict=True))
    first = compilations.count
    # blocks with and without teacher two: student, teachers and base each, and the student's gradient
    assert 0 < first <= 2 * 5
    for samples, tokens in ((3, 12), (5, 3)):
        trained.step(samples, tokens)
    assert compilations.count == first
    trained.step(samples=1)  # torch always has a variant of its own for one of something
    assert compilations.count <= 2 * first
    first = compilations.count
    trained.step(1, 9)
    assert compilations.count == first


def test_more_adapters_than_torchs_limit_are_compiled():
    """Beyond its limit, 2 in these tests, torch would go on without compiling, and say so in a warning at most."""
    trained = Trained()
    compilations = Compilations(list(trained.model.blocks), len(trained.adapters.names), backend="eager")
    trained.step()
    assert compilations.count > 2


def test_a_missing_compiler_is_named_with_the_line_that_mends_it(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"C\+\+ compiler.*g\+\+.*remove torch_compile"):
        check_compiler(torch.device("cpu"))
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name or None)
    check_compiler(torch.device("cpu"))


@pytest.mark.parametrize(("system", "package"), [("win32", "triton-windows"), ("linux", "triton")])
def test_a_missing_triton_is_named_with_the_line_that_mends_it(monkeypatch, system, package):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"pip install -U {package}, or remove torch_compile"):
        check_compiler(torch.device("cuda"))
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: object())
    check_compiler(torch.device("cuda"))
