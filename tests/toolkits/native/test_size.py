"""Runs of a size that cannot be meant: told before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.config.schema import OptimizerSection
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.native import size
from danceopd_ext.toolkits.native.checks import check_optimizer
from tests.toolkits.runs import says


def test_a_rank_that_no_layer_can_use_is_told(ran, capsys):
    ran(family="sd3", network_dim=64, max_train_steps=1)
    assert "network_dim = 64 is more than any trained layer can use: 32," in capsys.readouterr().out


def test_a_rank_that_a_layer_can_use_is_not_told(ran, capsys):
    ran(family="sd3", network_dim=32, max_train_steps=1)
    assert "more than any trained layer" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"train_batch_size": 64, "gradient_accumulation_steps": 8}, ["512 samples of a step", "train_batch_size"]),
        ({"method": "flowopd", "flowopd_group_size": 1024, "gradient_accumulation_steps": 4}, ["flowopd_group_size"]),
        ({"num_queries": 100, "rollout_steps": 100, "gradient_accumulation_steps": 8}, ["num_queries"]),
    ],
)
def test_a_step_that_is_larger_than_the_memory(changed, refused, monkeypatch, keys, words):
    """Its latents alone: 1024 bytes each here, on a machine of a MiB."""
    monkeypatch.setattr(size, "memory_of", lambda _: 2**20)
    says(refused(changed(**keys)), "GiB", *words)


def test_an_optimizer_whose_first_step_gives_nan(monkeypatch):
    """Each number is allowed, and what they come to is not."""
    section = OptimizerSection(optimizer_type="AdamW", optimizer_args=["eps=0.5"])
    step = torch.optim.AdamW.step

    def breaks(self, *given):
        step(self, *given)
        self.param_groups[0]["params"][0].data[0, 0] = float("nan")

    monkeypatch.setattr(torch.optim.AdamW, "step", breaks)
    with pytest.raises(UserError, match=r"optimizer_args = \['eps=0.5'\] give NaN or infinite weights"):
        check_optimizer(section, torch.device("cpu"), 10)
