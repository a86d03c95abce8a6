"""A preview whose numbers are not finite costs no training."""

import numpy as np
import pytest
import torch
from PIL import Image

from danceopd_ext.engine import drawing
from tests.toolkits.runs import log_of


@pytest.fixture
def sampled(ran, tmp_path):
    """A run with two preview prompts after each of its three steps."""
    (tmp_path / "samples.txt").write_text(
        "a red cat --w 16 --h 16 --s 2\na dog --w 24 --h 16 --s 2\n", encoding="utf-8"
    )
    return lambda: ran(sample_prompts=str(tmp_path / "samples.txt"), sample_every_n_steps=1, max_train_steps=3)


def test_training_goes_on_and_it_is_said_once_a_column(sampled, monkeypatch, capsys):
    draw, drawn = drawing.rollout, []

    def broken(field, noise, *rest):
        """NaN from base and teachers, two prompts each, and from the student after its first two pictures."""
        drawn.append(draw(field, noise, *rest))
        return drawn[-1] if len(drawn) in (7, 8) else torch.full_like(drawn[-1], float("nan"))

    monkeypatch.setattr(drawing, "rollout", broken)
    output = sampled()
    said = [line for line in capsys.readouterr().out.splitlines() if "NaN or infinite" in line]
    assert [line.split()[1] for line in said] == ["base", "one", "two", "student"]
    assert all('for "a red cat"; such pictures are black.' in line for line in said)
    assert len(log_of(output)) == 3 and (output / "fused.safetensors").is_file()
    first, last = (np.asarray(Image.open(output / "sample" / f"fused-step0000000{step}.png")) for step in (1, 3))
    assert first.shape == last.shape and not np.array_equal(first, last)
