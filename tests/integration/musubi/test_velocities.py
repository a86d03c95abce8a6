"""Each architecture of musubi's: what our adapter asks the transformer is what musubi's own sampler asks it."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.method import rollout
from tests.integration.musubi import tiny_flux_2, tiny_flux_kontext, tiny_qwen_image
from tests.integration.musubi.tiny_case import TinyCase, random

CASES = {
    "kontext": lambda folder, **more: tiny_flux_kontext.case(folder, edit=True, **more),
    "kontext_text": lambda folder, **more: tiny_flux_kontext.case(folder, edit=False, **more),
    "flux_2": lambda folder, **more: tiny_flux_2.case(folder, edit=False, **more),
    "flux_2_edit": lambda folder, **more: tiny_flux_2.case(folder, edit=True, **more),
    "klein_edit": lambda folder, **more: tiny_flux_2.case(folder, edit=True, version="klein-base-4b", **more),
    "qwen": lambda folder, **more: tiny_qwen_image.case(folder, "original", edit=False, **more),
    "qwen_edit": lambda folder, **more: tiny_qwen_image.case(folder, "edit-2509", edit=True, **more),
    "qwen_edit_2511": lambda folder, **more: tiny_qwen_image.case(folder, "edit-2511", edit=True, **more),
    "qwen_edit_text": lambda folder, **more: tiny_qwen_image.case(folder, "edit-2509", edit=False, **more),
}
EDITS = ["kontext", "flux_2_edit", "klein_edit", "qwen_edit", "qwen_edit_2511"]
STEPS = 6


@pytest.fixture(params=CASES)
def case(request, tmp_path) -> TinyCase:
    return CASES[request.param](tmp_path)


def roll_out(case: TinyCase, batch: dict, noise: torch.Tensor) -> torch.Tensor:
    """The clean end of the method's rollout."""

    def field(z_B, sigma_B, condition):
        return case.adapter.velocity(case.transformer, z_B, sigma_B, condition)

    condition = case.adapter.condition(batch, ["base"] * len(noise))
    sigmas = case.adapter.sigmas(STEPS, case.latent_shape)
    return rollout(field, noise, sigmas, condition, torch.full((len(noise), 1), STEPS))[:, 0]


def velocity(case: TinyCase, batch: dict, count: int = 2) -> torch.Tensor:
    z = random(2, *case.latent_shape, seed=8)[:count]
    return case.adapter.velocity(case.transformer, z, torch.tensor([0.7, 0.2])[:count], case.adapter.condition(batch, ["base"] * count))  # fmt: skip  # noqa: E501


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative distance."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("flow_shift", [None, 3.0])
def test_the_rollout_ends_where_the_toolkits_own_sampler_ends(case, flow_shift):
    case.adapter.flow_shift = flow_shift
    with torch.no_grad():
        theirs, noise = case.sample(5, STEPS, flow_shift)
        ours = roll_out(case, case.rows([0]), noise)
    assert ours.shape == theirs.shape == (1, *case.latent_shape)
    assert apart(ours, theirs) < 1e-4
    assert apart(theirs, noise) > 0.05  # it went somewhere


@pytest.mark.parametrize("name", ["kontext", "kontext_text", "flux_2", "flux_2_edit"])
def test_the_guidance_is_that_of_the_toolkits_sampler(name, tmp_path):
    """With the guidance that musubi's training tells its transformer, 1, the rollout ends elsewhere."""
    case = CASES[name](tmp_path)
    assert case.adapter.args.guidance_scale == case.adapter.trainer.default_guidance_scale
    with torch.no_grad():
        theirs, noise = case.sample(5, STEPS, None)
        case.adapter.args.guidance_scale = 1.0
        assert apart(roll_out(case, case.rows([0]), noise), theirs) > 1e-3


def test_the_grid_falls_from_noise_to_picture(case):
    sigmas = case.adapter.sigmas(16, case.latent_shape)
    assert sigmas.shape == (17,)
    assert sigmas.dtype == torch.float32
    assert (float(sigmas[0]), float(sigmas[-1])) == (1.0, 0.0)
    assert bool((sigmas.diff() < 0).all())


def test_a_sample_alone_is_the_same_in_a_batch(case):
    with torch.no_grad():
        both = velocity(case, case.batch)
        alone = velocity(case, case.rows([0]), count=1)
    assert both.shape == (2, *case.latent_shape)
    assert apart(both[:1], alone) < 1e-4


@pytest.mark.parametrize("name", EDITS)
def test_each_sample_hears_its_own_source_images(name, tmp_path):
    case = CASES[name](tmp_path)
    with torch.no_grad():
        plain = velocity(case, case.batch)
        for key in case.control_keys:
            other = {**case.batch, key: case.batch[key].flip(0)}
            changed = velocity(case, other)
            assert apart(changed[:1], plain[:1]) > 1e-3
            assert apart(changed[1:], plain[1:]) > 1e-3
            one_other = {**case.batch, key: torch.stack([case.batch[key][0] + 1, case.batch[key][1]])}
            changed = velocity(case, one_other)
            assert apart(changed[:1], plain[:1]) > 1e-3
            assert apart(changed[1:], plain[1:]) < 1e-5


def lora_gradient(case: TinyCase, checkpointing: bool) -> torch.Tensor:
    """Of a random student on the model, flat."""
    torch.manual_seed(1)
    student = case.network.create_arch_network(1.0, 4, 4, None, None, case.transformer)
    student.apply_to(None, case.transformer, apply_text_encoder=False, apply_unet=True)
    for module in student.unet_loras:
        torch.nn.init.normal_(module.lora_up.weight, std=0.1)
    if checkpointing:
        case.transformer.enable_gradient_checkpointing()
        case.transformer.train()
    else:
        case.transformer.eval()
    velocity(case, case.batch).square().mean().backward()
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", CASES)
def test_gradient_checkpointing_changes_no_gradient_and_leaves_the_batch_alone(name, tmp_path):
    plain = lora_gradient(CASES[name](tmp_path), checkpointing=False)
    case = CASES[name](tmp_path, gradient_checkpointing=True)
    checkpointed = lora_gradient(case, checkpointing=True)
    assert float(plain.norm()) > 0
    assert apart(checkpointed, plain) < 1e-5
    tensors = [t for entry in case.batch.values() for t in (entry if isinstance(entry, list) else [entry])]
    assert not any(t.requires_grad or t.grad is not None for t in tensors)
