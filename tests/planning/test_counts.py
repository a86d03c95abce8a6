"""What is counted on few blocks with fake tensors is what the whole model with real tensors needs."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from danceopd_ext.config import load_preset
from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.method import velocity_mse
from danceopd_ext.models.conditions import TextConditions
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.planning.paper import kinds_of
from danceopd_ext.planning.phases import Memory
from danceopd_ext.planning.tally import Tally
from danceopd_ext.planning.weights import STATE
from danceopd_ext.toolkits.native.optimizers import make_optimizer
from tests.tiny.pipelines import ALL


class Watch(TorchDispatchMode):
    """The most bytes of real storages that lived at once, by their addresses."""

    def __init__(self, outside):
        super().__init__()
        self.outside = {tensor.untyped_storage().data_ptr() for tensor in outside}
        self.alive = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                place = storage.data_ptr()
                if place and place not in self.outside and place not in self.alive:
                    self.alive[place] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, place, None)
        self.most = max(self.most, sum(self.alive.values()))
        return result


def whole(work, gradients, samples):
    """The need of the whole transformer with real weights, real adapters, forward and perhaps backward."""
    blueprint = work.blueprint
    transformer = blueprint.transformer().to_empty(device="cpu").requires_grad_(False)
    for weight in transformer.parameters():
        weight.data.normal_(0, 0.02)
    adapters = Adapters(transformer)
    adapters.add_student("student", max(work.student.values()), 4, list(work.student))
    for weight in adapters.student_parameters():
        weight.grad = torch.zeros_like(weight)
    if work.preset.training.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    inputs = Memory(work).counts.inputs(work)
    item = {name: torch.randn(shape) for name, shape in inputs.condition.items()}
    latents, sigma = torch.randn(samples, *inputs.latents), torch.full((samples,), 0.5)
    condition = TextConditions([item] * samples, item)
    field = AdapterField(blueprint.family, adapters, "student", torch.enable_grad if gradients else torch.no_grad)
    gc.collect()
    held = [*transformer.parameters(), *transformer.buffers(), *(w.grad for w in adapters.student_parameters())]
    with Watch([*held, *item.values(), latents, sigma]) as watch:
        if gradients:
            velocity_mse(field(latents, sigma, condition), torch.zeros_like(latents)).mean().backward()
        else:
            with torch.no_grad():
                field(latents, sigma, condition)
    return watch.most


@pytest.mark.parametrize("keys", [{}, {"gradient_checkpointing": False}])
def test_a_gradient_pass_on_paper_needs_what_the_real_one_does(work, keys):
    planned = work(**keys)
    assert Memory(planned).need("gradient").memory == pytest.approx(whole(planned, True, 1), rel=0.05)


def test_a_rollout_on_paper_needs_what_the_real_one_does(work):
    planned = work(gradient_accumulation_steps=3)
    assert planned.together == 3
    assert Memory(planned).need("rollout").memory == pytest.approx(whole(planned, False, 3), rel=0.05)


def test_arithmetic_grows_with_samples_and_the_gradient_pass_has_three_to_four_forwards(work):
    one = Memory(work(gradient_accumulation_steps=1))
    three = one.with_work(work(gradient_accumulation_steps=3))
    assert three.need("rollout").flops == 3 * one.need("rollout").flops
    assert 2.9 < one.need("gradient").flops / one.need("rollout").flops < 4


@pytest.mark.parametrize("family", ["flux", "sd3", "qwen_image_edit", "flux_2", "z_image_omni"])
def test_every_architecture_can_be_counted(family):
    """Shapes of conditions that a family promises are those that its transformer takes."""
    pipeline, own = ALL[family](), FAMILIES[family]
    config = pipeline.transformer.config
    scale = own.latent_scale.pixels_per_latent(pipeline.vae.config)
    multiple = own.size_limits(config, scale).multiple
    latents = own.latent_shape(config, scale, 4 * multiple, 4 * multiple)
    sources = [latents] if own.can_edit else []
    shapes = own.condition_shapes(config, 32, sources)
    item = {name: torch.randn(shape) for name, shape in shapes.items()}
    with torch.no_grad():
        velocity = own.velocity(
            pipeline.transformer, torch.randn(1, *latents), torch.full((1,), 0.5), TextConditions([item], item)
        )
    assert velocity.shape == (1, *latents)


def test_blocks_that_differ_are_of_different_kinds():
    kinds = kinds_of(ALL["sd3"]().transformer)
    assert sum(len(kind.places) for kind in kinds) == len(ALL["sd3"]().transformer.transformer_blocks)
    assert len(kinds) > 1  # the last block has no context


def test_a_tally_knows_what_is_alive_and_what_was_computed():
    outside = torch.zeros(1000)
    with Tally() as tally:
        first = outside.view(10, 100).mm(torch.ones(100, 10))
        assert tally.now == 4 * 100  # the ones are gone
        del first
        assert tally.now == 0
    assert tally.peak == 4 * (1000 + 100)
    assert tally.flops == 2 * 10 * 100 * 10


@pytest.mark.parametrize("name", ["AdamW", "SGDNesterov", "Adafactor"])
def test_optimizers_keep_as_much_as_planned(name, preset_file):
    section = load_preset(preset_file(optimizer_type=name)).optimizer
    weight = torch.nn.Parameter(torch.zeros(256, 64))
    optimizer = make_optimizer(section, [weight], torch.device("cpu"))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = sum(t.nbytes for t in optimizer.state[weight].values() if isinstance(t, torch.Tensor))
    assert kept / weight.numel() == pytest.approx(STATE[name.lower()], abs=0.1)
