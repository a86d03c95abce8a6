"""Compares our velocity with the toolkit's own, for every architecture."""

from __future__ import annotations

import torch

from danceopd_ext.method import guided, rollout
from tests.integration.sd_scripts.tiny_models import Architecture, rows

#: whole thousandths, so that a toolkit that cuts the time to a whole number loses nothing
SIGMAS = torch.tensor([0.875, 0.25])
STEPS = 5


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The norm of the difference over that of the second."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def field(it: Architecture):
    return lambda z, sigma, condition: it.adapter.velocity(it.model, z, sigma, condition).float()


def expect_the_trainers_prediction(it: Architecture) -> None:
    z = it.noise()
    with torch.no_grad():
        ours = it.adapter.velocity(it.model, z, SIGMAS, it.condition())
        theirs = it.sign * it.predict(z, SIGMAS, it.texts)
    assert ours.std() > 0.05  # a model that answers nothing would agree with everything
    assert difference(ours, theirs) < 1e-5


def expect_the_samplers_pictures(it: Architecture, scale: float = 1.0) -> None:
    """Our rollout to the clean end is the toolkit's own sampler, from the same noise, for every sample."""
    sigmas = it.adapter.sigmas(STEPS, it.latent_shape)
    assert sigmas.shape == (STEPS + 1,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    noise = it.noise()
    ends = torch.full((it.count, 1), STEPS)
    ours = rollout(guided(field(it), scale), noise, sigmas, it.condition(), ends)[:, 0]
    with torch.no_grad():
        for row in range(it.count):
            theirs = it.sample(noise[row : row + 1], STEPS, rows(it.texts, [row]), it.empty, scale)
            assert difference(ours[row : row + 1], theirs) < 1e-4
            assert difference(noise[row : row + 1], theirs) > 0.05  # the sampler moved it


def expect_the_same_alone_and_in_a_batch(it: Architecture) -> None:
    z = it.noise()
    with torch.no_grad():
        together = field(it)(z, SIGMAS, it.condition())
        for row in range(it.count):
            one = slice(row, row + 1)
            alone = field(it)(z[one], SIGMAS[one], it.condition(rows(it.texts, [row])))
            selected = field(it)(z[one], SIGMAS[one], it.condition().select([row]))
            assert difference(alone, together[one]) < 1e-4
            assert torch.equal(alone, selected)


def expect_texts_to_matter(it: Architecture) -> None:
    """Another text, and no text, give another velocity: the conditions do reach the transformer."""
    z = it.noise()
    with torch.no_grad():
        asked = field(it)(z, SIGMAS, it.condition())
        swapped = field(it)(z, SIGMAS, it.condition().select([1, 0]))
        without = field(it)(z, SIGMAS, it.condition().unconditional())
        repeated = [None if entry is None else entry.repeat_interleave(it.count, 0) for entry in it.empty]
        plain = field(it)(z, SIGMAS, it.condition(repeated))
    assert difference(swapped, asked) > 1e-3
    assert difference(without, asked) > 1e-3
    assert torch.equal(without, plain)
