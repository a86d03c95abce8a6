"""The stand-ins that contract tests run on everywhere have the seams of the real trainers and dataset classes."""

import importlib
import inspect
from pathlib import Path

import pytest

from danceopd_ext.config.foreign_keys import FOREIGN_KEYS
from danceopd_ext.config.load import flat_keys
from danceopd_ext.config.toolkits import SD_SCRIPTS
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.checkout import describe
from danceopd_ext.toolkits.hosted.seams import check_seams
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from danceopd_ext.toolkits.sd_scripts.run import check_script
from danceopd_ext.toolkits.sd_scripts.seams import METHODS, seams_of
from tests.integration.sd_scripts.checkout import has, prepare
from tests.toolkits.sd_scripts.library import VERSIONS, library
from tests.toolkits.sd_scripts.stand_in import StandInTrainer, create_network_from_weights

CHECKOUT = describe("sd-scripts", Path(prepare()))
#: the version, as the stand-ins call it; the newest where it is none of those that are supported
VERSION = next(
    (
        v
        for v, tested in zip(VERSIONS, SD_SCRIPTS.checkout.tested, strict=True)
        if tested.commit[:8] == CHECKOUT.version
    ),
    VERSIONS[-1],
)


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda row: row.model_type)
def test_every_trainer_has_the_seams_or_its_absence_is_said(architecture):
    if not (Path(prepare()) / f"{architecture.script}.py").is_file():
        with pytest.raises(UserError, match=f"cannot train {architecture.title}"):
            check_script(CHECKOUT, architecture)
        return
    trainer = getattr(importlib.import_module(architecture.script), architecture.trainer)
    check_seams(trainer, seams_of(architecture), CHECKOUT)


def test_every_argument_is_known_to_native_presets():
    root = Path(prepare())  # older versions have fewer scripts
    scripts = {row.script for row in ARCHITECTURES.values() if (root / f"{row.script}.py").is_file()}
    parsers = [importlib.import_module(script).setup_parser() for script in ("train_network", *sorted(scripts))]
    assert len(parsers) > 3
    names = {action.dest for parser in parsers for action in parser._actions} - {"help"}
    assert [name for name in sorted(names) if name not in flat_keys() and name not in FOREIGN_KEYS] == []


def test_only_the_oldest_version_lacks_an_architecture():
    lacking = [
        row.model_type for row in ARCHITECTURES.values() if row.model_type != "chroma" and not has(row.model_type)
    ]
    assert lacking == (["hunyuan_image", "anima"] if VERSION == "2025-08" else [])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "train"])
def test_the_stand_in_takes_what_the_base_trainer_takes(name):
    from train_network import NetworkTrainer

    assert parameters(getattr(StandInTrainer, name)) == parameters(getattr(NetworkTrainer, name))


@pytest.mark.parametrize("name", ["BaseDataset", "ImageInfo", "BucketManager", "BucketBatchIndex", "DatasetGroup"])
def test_the_stand_ins_of_the_dataset_classes_take_what_the_real_ones_take(name):
    from library import train_util

    ours, real = getattr(library(VERSION)["library.train_util"], name), getattr(train_util, name)
    known = parameters(real)
    if name == "ImageInfo" and VERSION == "2025-08":
        known.append("caption_dropout_rate")  # came with Anima
    assert parameters(ours) == known


def test_the_stand_in_makes_networks_as_the_toolkit_does():
    from networks import lora_sd3

    real = parameters(lora_sd3.create_network_from_weights)
    ours = parameters(create_network_from_weights)
    assert [name for name in ours if name != "flux"] == [name for name in real if name != "mmdit"]
