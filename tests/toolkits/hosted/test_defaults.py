"""What a toolkit's arguments are where the preset does not say."""

from __future__ import annotations

import argparse

import pytest

from danceopd_ext.toolkits.hosted.defaults import DEFAULTS
from danceopd_ext.toolkits.musubi import defaults as musubi
from danceopd_ext.toolkits.musubi.registry import ARCHITECTURES as MUSUBI
from danceopd_ext.toolkits.sd_scripts.defaults import completed
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES as SD_SCRIPTS

RATES = [("AdamW8bit", 2e-4), ("", 2e-4), ("Prodigy", 1.0), ("prodigyopt.Prodigy", 1.0), ("DAdaptAdam", 1.0)]


def arguments(optimizer_type):
    names = ("network_module", "optimizer_args", "network_alpha", "persistent_data_loader_workers", "sdpa")
    more = ("max_data_loader_n_workers", "flash_attn", "xformers", "flash3", "vae_dtype")
    return {**dict.fromkeys((*DEFAULTS, *names, *more)), "optimizer_type": optimizer_type}


@pytest.mark.parametrize(("optimizer_type", "rate"), RATES)
def test_the_learning_rate_is_the_optimizers_in_sd_scripts(optimizer_type, rate):
    values = arguments(optimizer_type)
    assert completed(values, ["optimizer_type"], SD_SCRIPTS["sd3"])["learning_rate"] == rate
    given = completed({**values, "learning_rate": 0.3}, ["optimizer_type", "learning_rate"], SD_SCRIPTS["sd3"])
    assert given["learning_rate"] == 0.3


@pytest.mark.parametrize(("optimizer_type", "rate"), RATES)
def test_the_learning_rate_is_the_optimizers_in_musubi(optimizer_type, rate, monkeypatch):
    args = argparse.Namespace(**arguments(optimizer_type), guidance_scale=1.0)
    monkeypatch.setattr(MUSUBI["z_image"].adapter, "complete", lambda args: None)
    musubi.complete(args, MUSUBI["z_image"], ["optimizer_type"])
    assert args.learning_rate == rate
    args.learning_rate = 0.3
    musubi.complete(args, MUSUBI["z_image"], ["optimizer_type", "learning_rate"])
    assert args.learning_rate == 0.3
