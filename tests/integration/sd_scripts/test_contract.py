"""The stand-in that contract tests run on everywhere has the seams of the real trainers."""

import importlib
import inspect

import pytest

from danceopd_ext.config.foreign_keys import FOREIGN_KEYS
from danceopd_ext.config.load import flat_keys
from danceopd_ext.toolkits.hosted.find import check_seams, describe
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from danceopd_ext.toolkits.sd_scripts.trainer import SEAMS
from tests.integration.sd_scripts.checkout import prepare
from tests.toolkits.sd_scripts_stand_in import StandInTrainer, create_network_from_weights


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda row: row.model_type)
def test_every_trainer_has_the_seams(architecture):
    from pathlib import Path

    trainer = getattr(importlib.import_module(architecture.script), architecture.trainer)
    check_seams(trainer, SEAMS, describe("sd-scripts", Path(prepare())))


def test_every_argument_is_known_to_native_presets():
    from pathlib import Path

    root = Path(prepare())  # older versions have fewer scripts
    scripts = {row.script for row in ARCHITECTURES.values() if (root / f"{row.script}.py").is_file()}
    parsers = [importlib.import_module(script).setup_parser() for script in ("train_network", *sorted(scripts))]
    assert len(parsers) > 3
    names = {action.dest for parser in parsers for action in parser._actions} - {"help"}
    assert [name for name in sorted(names) if name not in flat_keys() and name not in FOREIGN_KEYS] == []


@pytest.mark.parametrize("name", [name for name in SEAMS if name != "train"])
def test_the_stand_in_takes_what_the_base_trainer_takes(name):
    from train_network import NetworkTrainer

    real = list(inspect.signature(getattr(NetworkTrainer, name)).parameters)
    assert list(inspect.signature(getattr(StandInTrainer, name)).parameters) == real


def test_the_stand_in_makes_networks_as_the_toolkit_does():
    from networks import lora_sd3

    real = list(inspect.signature(lora_sd3.create_network_from_weights).parameters)
    ours = list(inspect.signature(create_network_from_weights).parameters)
    assert [name for name in ours if name != "flux"] == [name for name in real if name != "mmdit"]
