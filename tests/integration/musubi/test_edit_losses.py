"""The method's loss on musubi's transformers with two LoRAs on them: source images and gradient checkpointing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.toolkits.hosted.active_adapter import Switch
from danceopd_ext.toolkits.hosted.distiller import Distiller
from tests.integration.musubi.test_edit_runs import write_teacher
from tests.integration.musubi.test_edit_teachers import MODELS, attach
from tests.integration.musubi.test_velocities import CASES, EDITS, apart
from tests.integration.musubi.tiny_case import TinyCase

ARCHITECTURE = {**MODELS, "klein_edit": "flux_2", "qwen_edit_2511": "qwen_image_edit"}
ACCELERATOR = SimpleNamespace(
    sync_gradients=True, num_processes=1, process_index=0, gradient_accumulation_steps=1, device=torch.device("cpu"),
    autocast=contextlib.nullcontext, backward=lambda loss: loss.backward(),
)  # fmt: skip


def student_on(case: TinyCase) -> torch.nn.Module:
    """A student that has learnt something."""
    torch.manual_seed(9)
    student = case.network.create_arch_network(1.0, 4, 4, None, None, case.transformer)
    student.apply_to(None, case.transformer, apply_text_encoder=False, apply_unet=True)
    for module in student.unet_loras:
        torch.nn.init.normal_(module.lora_up.weight, std=0.3)
    return student


def learn(name: str, folder: Path, change=lambda batch: batch, checkpointing: bool = False):
    """One micro-batch of two routes: (loss, the student's gradient)."""
    case = CASES[name](folder, gradient_checkpointing=checkpointing)
    network = SimpleNamespace(network=case.network.__name__.rpartition(".")[2])
    file = write_teacher(network, CASES[name](folder).transformer, folder / "teacher.safetensors")
    teachers = attach(case, ARCHITECTURE[name], style=file)
    student = student_on(case)
    if checkpointing:
        case.transformer.enable_gradient_checkpointing()
    case.transformer.train(checkpointing)
    options = DanceOPDSection(
        toolkit="musubi-tuner", teachers={"style": Teacher(lora=str(file)), "base": Teacher()}, rollout_steps=4
    )
    distiller = Distiller(options, case.adapter, Switch(student, teachers), ACCELERATOR, seed=3)
    condition = case.adapter.condition(change(case.batch), ["style", "base"])
    loss = distiller.loss(case.transformer, condition, case.latent_shape)
    loss.backward()
    return float(loss), torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", EDITS)
def test_the_loss_hears_each_source_image_and_whose_it_is(name, tmp_path):
    plain, _ = learn(name, tmp_path)
    for key in CASES[name](tmp_path).control_keys:
        other, _ = learn(name, tmp_path, lambda batch, key=key: {**batch, key: batch[key] + 1})
        shuffled, _ = learn(name, tmp_path, lambda batch, key=key: {**batch, key: batch[key].flip(0)})
        assert abs(other / plain - 1) > 1e-4  # the same batch gives the same number, see below
        assert abs(shuffled / plain - 1) > 1e-4
    again, _ = learn(name, tmp_path)
    assert again == plain


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_recomputes_with_the_student_that_was_heard(name, tmp_path):
    loss, gradient = learn(name, tmp_path)
    recomputed_loss, recomputed = learn(name, tmp_path, checkpointing=True)
    assert recomputed_loss == pytest.approx(loss, rel=1e-6)
    assert apart(recomputed, gradient) < 1e-5
    assert float(gradient.norm()) > 0
