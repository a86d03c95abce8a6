"""Tiny random sources, and trainings in this process."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from peft import LoraConfig

from danceopd_ext.cli import run as exit_code
from danceopd_ext.demo.omni_draw import FAMILY
from danceopd_ext.reproduce.pretrained import Pretrained
from danceopd_ext.toolkits.run import main as trainer
from tests.tiny.families.parts import randomise
from tests.toolkits.runs import forget_accelerate


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A folder of sources as the script makes them, with random weights."""
    from diffusers import AutoencoderKL

    from danceopd_ext.demo import PIPELINE
    from danceopd_ext.demo.pretrain.omni import build_omni, load_omni, save_omni
    from danceopd_ext.demo.pretrain.teachers import save_lora

    found = Pretrained(tmp_path_factory.mktemp("sources"))
    pipeline = build_omni(AutoencoderKL.from_pretrained(PIPELINE / "vae"), dim=24, layers=1)
    randomise(pipeline.transformer, 1, scale=0.2)
    save_omni(pipeline, found.pipeline)
    for place, name in enumerate(("edit", "local_edit", "global_edit")):
        torch.manual_seed(place)
        config = LoraConfig(r=2, target_modules=list(FAMILY.lora_targets), init_lora_weights=False)
        pipeline.transformer.add_adapter(config, adapter_name=name)
        save_lora(pipeline, name, found.file(name))
        pipeline.transformer.delete_adapters(name)
    style = load_omni(found.pipeline).transformer  # read again: a deleted adapter leaves other names of weights
    randomise(style, 2, scale=0.05)
    style.save_pretrained(found.style)
    return found


@pytest.fixture(scope="session")
def here():
    """Starts a training in this process, which has imported everything already."""

    def start(run, arguments, told):
        forget_accelerate()
        with open(told, "a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            return exit_code(trainer, arguments)

    return start
