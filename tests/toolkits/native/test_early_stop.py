"""Stopping the rollout at the query changes the work and nothing else, on the real transformers."""

from __future__ import annotations

from contextlib import nullcontext
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file

from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.method import Batch, MethodOptions, Step, Student, draw_query_indices, generator, sample_noise, update
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.loading import load_layout, load_scheduler, load_transformer
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.text_pipeline import load_text_pipeline
from danceopd_ext.toolkits.native.run_plan import STUDENT
from tests.tiny.loras import random_lora
from tests.tiny.presets import write_preset
from tests.toolkits.runs import log_of

STEPS, SEED = 8, 5


class Setup:
    """A student that has left its start, a teacher, and a sigma grid on a tiny model."""

    def __init__(self, model):
        source = find_model_files(str(model))
        layout, config = load_layout(source)
        family = source.family
        self.adapters = Adapters(load_transformer(source, torch.float32))
        self.adapters.add("teacher", random_lora(layout, family.lora_targets, 1))
        targets = [name for name in layout.shapes if name.endswith(family.lora_targets)]
        start = random_lora(layout, family.lora_targets, 2, rank=2, size=0.1)
        self.adapters.add_student(STUDENT, 4, 4.0, targets, generator=generator(0), init=start)
        self.student, self.teacher = (
            AdapterField(family, self.adapters, name, nullcontext) for name in (STUDENT, "teacher")
        )
        self.sigmas = family.sigmas(load_scheduler(source), config, STEPS, (8, 8))
        pipeline = load_text_pipeline(source, torch.float32, "cpu")
        with torch.no_grad():
            texts = family.encode_prompts(pipeline, ["red cat", "a blue river of the tree", "old", "", "big dog on"])
        self.texts = texts

    def batch(self, size):
        condition = TextConditions(self.texts[:size], self.texts[3])
        return Batch(condition, list(range(size)), size, (4, 8, 8), self.sigmas, size)

    def gradient(self):
        parameters = self.adapters.student_parameters()
        flat = torch.cat([p.grad.flatten() for p in parameters])
        for p in parameters:
            p.grad = None
        return flat


def full_rollout_gradient(setup, batch, step):
    """The update as the paper tells it: run all solver steps, keep every state, then pick the queried one."""
    size = len(batch.indices)
    states = [sample_noise(SEED, step, batch.indices, batch.latent_shape)]
    with torch.no_grad():
        for i in range(STEPS):
            sigma, after = float(batch.sigmas[i]), float(batch.sigmas[i + 1])
            velocity = setup.student(states[-1], torch.full((size,), sigma), batch.condition)
            states.append(states[-1] + (after - sigma) * velocity)
    query = draw_query_indices(
        "low_noise", 1, STEPS, seed=SEED, step=step, indices=batch.indices, total=batch.total
    ).flatten()
    latents = torch.stack([states[q][sample] for sample, q in enumerate(query.tolist())])
    sigma = batch.sigmas[query]
    with torch.no_grad():
        target = setup.teacher(latents, sigma, batch.condition)
    loss = ((setup.student(latents, sigma, batch.condition) - target) ** 2).mean()
    loss.backward()
    return setup.gradient(), query


def early_gradient(setup, batch, step):
    now = Step(options=MethodOptions(rollout_steps=STEPS), seed=SEED, number=step)
    student = Student(field=setup.student, backward=torch.Tensor.backward)
    report = update(now, {"teacher": 1.0}, lambda *_: [batch], {"teacher": setup.teacher}, student)
    return setup.gradient(), report


@pytest.fixture(scope="module", params=["sd3", "z_image"])
def setup(pipelines, request):
    return Setup(pipelines[request.param])


@pytest.mark.parametrize("step", [0, 1, 2])
def test_same_gradient_bit_for_bit(setup, step):
    batch = setup.batch(1)
    full, query = full_rollout_gradient(setup, batch, step)
    early, report = early_gradient(setup, batch, step)
    assert full.norm() > 0
    assert early.equal(full)
    assert report.rollout_forwards == int(query)


def test_a_whole_training_is_the_same_bit_for_bit(pipelines, launch, tmp_path):
    """Alone, so that no batch becomes smaller when a sample leaves: smaller batches round otherwise."""
    students = []
    for name, early_stop in (("early", True), ("full", False)):
        (tmp_path / name).mkdir()
        preset = write_preset(
            tmp_path / name, pipelines["z_image"], {"base": {"guidance_scale": 3.0}}, rollout_steps=8,
            max_train_steps=12, gradient_accumulation_steps=2, train_batch_size=1, rollout_batch_size=1,
            learning_rate=1e-2, early_stop=early_stop,
        )  # fmt: skip
        students.append(launch(preset))
    early, full = (load_file(path / "fused.safetensors") for path in students)
    costs = [sum(entry["rollout_forwards_per_sample"] for entry in log_of(path)) for path in students]
    assert costs[0] < costs[1] == 12 * 8
    assert early.keys() == full.keys() and all(early[key].equal(full[key]) for key in early)
    learnt = [tensor for name, tensor in early.items() if "lora_up" in name or "lora_B" in name]
    assert max(tensor.abs().max() for tensor in learnt) > 0.02, "it learnt nothing"


def test_same_gradient_when_samples_leave_one_by_one(setup):
    batch, step = setup.batch(5), 0
    full, query = full_rollout_gradient(setup, batch, step)
    early, report = early_gradient(setup, batch, step)
    assert len(set(query.tolist())) > 1, "the batch is not ragged"
    assert (early - full).norm() / full.norm() < 1e-5
    assert report.rollout_forwards == int(query.sum()) < 5 * STEPS


def test_logged_forwards(pipelines, launch, tmp_path):
    """Sixteen solver steps cost about eleven: floor(16 u) with u from Beta(5, 2) is 10.9 in the mean."""
    preset = write_preset(
        tmp_path, pipelines["z_image"], {"base": {}}, rollout_steps=16, train_batch_size=8, max_train_steps=20,
        gradient_accumulation_steps=1, network_dim=1, lora_targets=["cap_embedder.1"],
    )  # fmt: skip
    log = log_of(launch(preset))
    assert 10.4 < mean(entry["rollout_forwards_per_sample"] for entry in log) < 11.4
    assert {entry["teacher_forwards_per_sample"] for entry in log} == {1.0}
    assert {entry["student_forwards_per_sample"] for entry in log} == {1.0}


def test_three_teachers_cost_their_loras_only(pipelines):
    source = find_model_files(str(pipelines["sd3"]))
    layout, _ = load_layout(source)
    transformer = load_transformer(source, torch.float32)
    base = parameter_bytes(transformer)
    adapters = Adapters(transformer)
    loras = [random_lora(layout, source.family.lora_targets, seed, rank=2) for seed in range(3)]
    for place, lora in enumerate(loras):
        adapters.add(f"teacher{place}", lora)
    targets = list(loras[0].modules)
    adapters.add_student(STUDENT, 4, 4.0, targets)
    of_loras = sum(m.down_RI.nbytes + m.up_OR.nbytes for lora in loras for m in lora.modules.values())
    of_student = sum(p.nbytes for p in adapters.student_parameters())
    assert parameter_bytes(transformer) <= 1.1 * base + of_loras + of_student
    assert of_loras + of_student < base, "the bound would not notice a second base"


def parameter_bytes(module: torch.nn.Module) -> int:
    """Bytes of everything in the module, shared tensors once."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum({t.data_ptr(): t.nbytes for t in tensors}.values())
