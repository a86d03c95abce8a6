"""Lumina Image 2.0: the grid is the toolkit's own to its end."""

import pytest
import torch

from tests.integration.sd_scripts import tiny_lumina


def test_the_grid_is_shifted_again_at_its_end():
    """The scheduler's last step before the clean end lies at shift(shift(1/1000)), not at shift(1/N)."""
    grid = tiny_lumina.make().adapter.sigmas(16, tiny_lumina.SHAPE)
    once = 6 * 0.001 / (1 + 5 * 0.001)
    assert grid[-2] == pytest.approx(6 * once / (1 + 5 * once), abs=1e-6)
    plain = torch.linspace(1, 0, 17)
    assert grid[-2] < (6 * plain / (1 + 5 * plain))[-2] / 5
