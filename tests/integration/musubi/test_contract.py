"""The stand-ins of tests/toolkits/musubi/stand_in.py have the real signatures, so that tests on them mean something."""

from __future__ import annotations

import inspect

import pytest

from danceopd_ext.toolkits.musubi.seams import SEAMS
from tests.toolkits.musubi import stand_in


def parameters(function) -> list[tuple]:
    """Names, in order; `self` and variable keywords do not count."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    given = inspect.signature(function).parameters.items()
    return [name for name, parameter in given if parameter.kind not in kinds and name != "self"]


@pytest.mark.parametrize("name", SEAMS.methods)
def test_a_seam_of_the_stand_in_is_as_the_real_one(name):
    from musubi_tuner.training.trainer_base import NetworkTrainer

    real, ours = parameters(getattr(NetworkTrainer, name)), parameters(getattr(stand_in.StandInTrainer, name))
    assert [name.removesuffix("_arg") for name in real] == ours  # call_dit's transformer_arg, in the base class only


def test_what_else_is_called_is_as_the_real_thing():
    from musubi_tuner.dataset.image_video_dataset import BucketBatchManager, ItemInfo
    from musubi_tuner.networks.lora import LoRANetwork, create_network_from_weights
    from musubi_tuner.training.accelerator_setup import collator_class

    assert parameters(collator_class.__init__) == parameters(stand_in.Collator.__init__)
    assert parameters(BucketBatchManager.__init__) == parameters(stand_in.BucketBatchManager.__init__)
    assert parameters(ItemInfo.__init__) == parameters(stand_in.ItemInfo.__init__)
    theirs = parameters(create_network_from_weights)
    assert theirs[:6] == parameters(stand_in.create_network_from_weights)
    for name in ("apply_to", "set_enabled", "set_multiplier"):
        assert parameters(getattr(LoRANetwork, name)) == parameters(getattr(stand_in.LoraNetwork, name))
