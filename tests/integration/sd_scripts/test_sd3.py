"""SD3.5: the end of its grid, and the toolkit's second attention."""

import inspect

import pytest
import torch

from danceopd_ext.toolkits.sd_scripts.adapters.sd3 import mend_second_attention
from tests.integration.sd_scripts import tiny_sd3


def test_the_grid_is_shifted_twice_at_its_end():
    grid = tiny_sd3.make().adapter.sigmas(16, (16, 8, 8))
    assert grid[-3:].tolist() == pytest.approx([0.1830, 0.0089, 0.0], abs=1e-4)


def test_the_second_attention_is_mended_once():
    """Its call gives the number of heads for their size, which the tiny model has 2 and 64 of."""
    from library import sd3_models

    model = tiny_sd3.model()
    call = inspect.getsource(sd3_models.MMDiTBlock._forward)
    assert "attn2.num_heads" in call  # when this fails the toolkit was corrected: the mending can go
    z, sigma = torch.randn(1, 16, 8, 8), torch.tensor([500.0])
    texts = {"context": torch.randn(1, 20, 4096), "y": torch.randn(1, 96)}
    with torch.no_grad():
        wrong = model(z, sigma, **texts)
        assert "wrong heads" in mend_second_attention(model)
        assert mend_second_attention(model) is None
        right = model(z, sigma, **texts)
    assert float((wrong - right).norm() / right.norm()) > 0.01
