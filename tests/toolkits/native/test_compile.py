"""A compiled run trains what the run without compiling trains, and reports what was compiled."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from danceopd_ext.engine import compiling
from danceopd_ext.engine.compiling import Compilations
from danceopd_ext.errors import TrainingError
from danceopd_ext.models.z_image import ZImage
from danceopd_ext.toolkits.native import build
from danceopd_ext.toolkits.native.compilation_log import FIRST, CompilationLog
from tests.toolkits.runs import BASE, log_of, same_tensors, says

#: nothing but the base teaches, and from the second step on there is nothing new
KEYS = {"torch_compile": True, "gradient_checkpointing": True, "max_train_steps": 3}


@pytest.fixture
def quickly(monkeypatch):
    """Compile one block only, and leave out what follows torch's tracing."""
    monkeypatch.setattr(build, "Compilations", partial(Compilations, backend="eager"))
    monkeypatch.setattr(ZImage, "repeated_blocks", lambda self, transformer: [*transformer.context_refiner])
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_compiled_run_trains_the_same_lora_and_counts(ran, quickly, capsys):
    plain = ran(BASE, name="plain", **{**KEYS, "torch_compile": False})
    compiled = ran(BASE, name="compiled", **KEYS)
    assert same_tensors(plain / "fused.safetensors", compiled / "fused.safetensors")
    counts = [entry["compilations"] for entry in log_of(compiled)]
    assert counts == [3, 3, 3]  # the base, and the student with and without gradients
    assert "compilations" not in log_of(plain)[0]
    says(capsys.readouterr().out, "torch_compile: 3 compiled in step 1, 3 in all")


def test_a_run_that_cannot_be_compiled_says_what_to_do(ran, quickly, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(Compilations, "_counted", broken)
    with pytest.raises(TrainingError, match=r"step 1 cannot be compiled .*Remove torch_compile"):
        ran(BASE, **KEYS)


def test_a_machine_without_a_compiler_is_refused(changed, refused, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    says(refused(changed(torch_compile=True)), "torch_compile = true needs a C++ compiler")


class Counter:
    count = 0


def test_what_is_compiled_late_is_a_note():
    said, counter = [], Counter()
    log = CompilationLog(counter, said.append)
    for step in range(1, FIRST + 3):
        counter.count += step in (1, FIRST + 2)
        log.step(step, "one")
    counter.count += 1
    log.step(FIRST + 3, "two")
    counter.count += 1
    log.pictures()
    assert [line.startswith("note: ") for line in said] == [False, True, False, False]
    assert f"1 compiled in step {FIRST + 2}, 2 in all. A picture size" in said[1]
    assert CompilationLog(None, said.append).entry() == {}
