"""One code on every version of sd-scripts that is supported, and on one that nobody has seen yet."""

# ruff: noqa: F811 - the fixture is imported

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from danceopd_ext.config.toolkits import SD_SCRIPTS
from danceopd_ext.data.items import Item
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.checkout import Checkout
from danceopd_ext.toolkits.hosted.seams import Call, Seams, ToolkitChanged, check_seams, version_error
from danceopd_ext.toolkits.sd_scripts.adapters.anima import AnimaAdapter
from danceopd_ext.toolkits.sd_scripts.adapters.flux import FluxAdapter
from danceopd_ext.toolkits.sd_scripts.adapters.sd3 import named_entries
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from danceopd_ext.toolkits.sd_scripts.run import check_script
from danceopd_ext.toolkits.sd_scripts.seams import COMMON, METHODS
from danceopd_ext.toolkits.sd_scripts.trainer import trainer_class
from tests.toolkits.sd_scripts import stand_in as sd
from tests.toolkits.sd_scripts import world as sd_scripts_world
from tests.toolkits.sd_scripts.library import VERSIONS, library
from tests.toolkits.sd_scripts.world import train  # noqa: F401

MODULE = "danceopd_ext.toolkits.sd_scripts.prompt_dataset"


def test_every_tested_version_is_played():
    dates = [tested.name for tested in SD_SCRIPTS.checkout.tested]
    assert [any(version in name for name in dates) for version in VERSIONS] == [True] * len(dates)


# --- the datasets


@pytest.fixture
def prompt_dataset(monkeypatch):
    """Our module of prompt files, imported beside a version's dataset classes."""

    def imported(version: str):
        for name, module in library(version).items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, MODULE, raising=False)
        return importlib.import_module(MODULE)

    yield imported
    sys.modules.pop(MODULE, None)


def prompt_args(module, **more) -> Namespace:
    rules = dict.fromkeys(module.CAPTION_KEYS)
    return Namespace(
        **rules, train_batch_size=2, cache_text_encoder_outputs_to_disk=False, seed=7, dataset_config=None, **more
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_prompt_files_become_a_dataset(prompt_dataset, version, tmp_path):
    """Upstream put an argument of BaseDataset between two others."""
    module = prompt_dataset(version)
    lines = [("a cat", 64), ("a dog", 96), ("an ox", 64)]
    items = tuple(Item(text=text, width=width, height=64, where="p.txt") for text, width in lines)
    file = module.PromptFile(Path("p.txt"), "base", items)
    module._waiting[:] = [((file,), prompt_args(module), tmp_path)]
    group = module.prompt_group(None, 75, "64,64", False, something_new=True)
    [dataset] = group.datasets
    assert (dataset.width, dataset.height) == (96, 64)
    assert len(dataset) == 2, "two of 64 x 64 in one batch, and one of 96 x 64"
    assert dataset.num_train_images == 3
    assert dataset.seed == 7
    dataset.new_cache_text_encoder_outputs(models="models", accelerator=None)
    outputs = {info.caption: info.text_encoder_outputs for info in dataset.image_data.values()}
    assert outputs == {text: ("models", text) for text in ("a cat", "a dog", "an ox")}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_dataset_classes_of_every_version_are_as_they_are_called(monkeypatch, version):
    for name, module in library(version).items():
        monkeypatch.setitem(sys.modules, name, module)
    made = [call for call in COMMON if call.place.split(":")[1] in ("BaseDataset", "ImageInfo", "BucketManager")]
    assert len(made) == 3
    assert [problem for call in made for problem in call.problems()] == []


# --- the trainer


def mean_over_three_axes(self, *given, **named):
    """2025-08 takes the mean over axes 1, 2 and 3, which must be there."""
    call = dict(zip(NAMES, given, strict=False)) | named
    ours, theirs, *_ = self.get_noise_pred_and_target(
        call["args"], call["accelerator"], None, call["batch"]["latents"], call["batch"],
        call["batch"]["text_encoder_outputs_list"], call["unet"], call["network"], torch.float32, True,
        is_train=call["is_train"],
    )  # fmt: skip
    loss = torch.nn.functional.mse_loss(ours, theirs, reduction="none").mean([1, 2, 3])
    return (loss * call["batch"]["loss_weights"]).mean()


NAMES = (
    "batch", "text_encoders", "unet", "network", "vae", "noise_scheduler", "vae_dtype", "weight_dtype", "accelerator",
    "args", "text_encoding_strategy", "tokenize_strategy", "is_train", "train_text_encoder", "train_unet",
)  # fmt: skip


class Trainer2025(sd.StandInTrainer):
    def process_batch(
        self, batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
        text_encoding_strategy, tokenize_strategy, is_train=True, train_text_encoder=True, train_unet=True,
    ):  # fmt: skip
        return mean_over_three_axes(
            self, batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator,
            args, text_encoding_strategy, tokenize_strategy, is_train, train_text_encoder, train_unet,
        )  # fmt: skip


class TrainerToCome(sd.StandInTrainer):
    """Every seam has grown an argument, and some have changed their order: nobody has seen this version."""

    seen: tuple = ()

    def ask(self, args, accelerator, unet, network, batch, encoders, is_train):
        strategies = sys.modules["library.strategy_base"]
        return self.process_batch(
            args, batch, "new", encoders, unet, network, accelerator=accelerator, is_train=is_train, device_map="auto",
            text_encoding_strategy=strategies.TextEncodingStrategy.get_strategy(),
        )  # fmt: skip

    def process_batch(
        self, args, batch, step, text_encoders, unet, network, *, accelerator, is_train=True, device_map=None, **more
    ):
        self.seen = (step, device_map, sorted(more))
        ours, theirs, _, _ = self.get_noise_pred_and_target(
            batch=batch, latents=batch["latents"], args=args, accelerator=accelerator, unet=unet, network=network,
            text_encoder_conds=batch["text_encoder_outputs_list"], is_train=is_train, masks=None,
        )  # fmt: skip
        return (ours - theirs).mean()

    def get_noise_pred_and_target(
        self, batch, latents, args, accelerator, unet, network, text_encoder_conds, masks, is_train=True
    ):
        raise AssertionError("the toolkit's own loss is not asked for")

    def sample_images(self, args, accelerator, epoch, global_step, *others, pipeline=None):
        self.calls.append(f"sample {global_step}")

    def post_process_network(self, network, args, accelerator, text_encoders, unet, vae=None):
        self.calls.append("post_process_network")

    def train(self, args):
        self.post_process_network = self._by_name(self.post_process_network)
        self.sample_images = self._by_name(self.sample_images, "accelerator", "args", "epoch", "global_step")
        super().train(args)

    @staticmethod
    def _by_name(method, *names):
        names = names or ("args", "accelerator", "network", "text_encoders", "unet")
        return lambda *given, **named: method(**dict(zip(names, given, strict=False)), **named)


@pytest.mark.parametrize("trainer", [sd.StandInTrainer, Trainer2025, TrainerToCome])
def test_a_run_on_every_version_is_the_same(train, monkeypatch, trainer):
    monkeypatch.setattr(sd_scripts_world, "trainer_class", lambda _: trainer_class(trainer))
    done = train(max_train_steps=3)
    monkeypatch.setattr(sd_scripts_world, "trainer_class", lambda _: trainer_class(sd.StandInTrainer))
    assert done.losses == train(max_train_steps=3).losses
    if trainer is TrainerToCome:
        assert done.seen == ("new", "auto", ["text_encoding_strategy"])


# --- the texts


ROWS = [torch.full((2, 3), float(number)) for number in range(5)]


@pytest.mark.parametrize("texts", [ROWS[:4], ROWS], ids=["2026-02", "2026-06"])
def test_animas_texts_also_when_dropout_rates_follow(texts):
    condition = AnimaAdapter().condition(texts, ["a", "b"], empty=[row[:1] for row in texts[:4]])
    assert list(condition.entries) == ["embeds", "mask", "t5_ids", "t5_mask"]
    assert float(condition["t5_mask"][0, 0]) == 3
    assert len(condition.unconditional()["t5_ids"]) == 2


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        (lambda texts: AnimaAdapter().condition(texts, ["a", "b"]), 3),
        (lambda texts: FluxAdapter(1.0, False).condition(texts, ["a", "b"]), 5),
        (lambda texts: named_entries(texts, ("clip", "t5", "pooled", "a", "b", "c")), 5),
    ],
)
def test_texts_of_another_number_are_not_guessed_at(condition, count):
    with pytest.raises(ToolkitChanged, match=f"text encoding gives {count} entries"):
        condition(ROWS[:count])


# --- what is refused before anything is loaded


UNKNOWN = Checkout(Path("folder"), "abc", False, "sd-scripts")


class NeedsMore(sd.StandInTrainer):
    def get_noise_pred_and_target(self, args, accelerator, latents, batch, text_encoder_conds, unet, is_train=True):
        if batch is None:
            return latents, latents, None
        return latents, latents, None, None, "new"


def test_another_number_of_returned_values_is_seen_beforehand():
    seams = Seams(METHODS, {"get_noise_pred_and_target": 4})
    check_seams(sd.StandInTrainer, seams, UNKNOWN)
    with pytest.raises(UserError, match="get_noise_pred_and_target returns 3, 5 values, not 4") as error:
        check_seams(NeedsMore, seams, UNKNOWN)
    assert "2026-02, commit 48d368fa" in str(error.value)


def test_a_dataset_class_that_needs_more_is_seen_beforehand(monkeypatch):
    modules = library("2026-06")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    call = Call("library.train_util:BaseDataset", named=("resolution", "network_multiplier", "debug_dataset"))
    with pytest.raises(UserError, match="BaseDataset also needs train_inpainting"):
        check_seams(sd.StandInTrainer, Seams({}, {}, [call]), UNKNOWN)


@pytest.mark.parametrize("model_type", ["anima", "hunyuan_image"])
def test_a_version_without_the_architecture_says_so(tmp_path, model_type):
    """2025-08 has neither."""
    architecture = ARCHITECTURES[model_type]
    checkout = Checkout(tmp_path, "18e62515", True, "sd-scripts")
    with pytest.raises(UserError, match=f"cannot train {architecture.title}: it has no {architecture.script}.py"):
        check_script(checkout, architecture)
    (tmp_path / f"{architecture.script}.py").touch()
    check_script(checkout, architecture)


class Breaks(sd.StandInTrainer):
    def loop(self, *given):
        self.update_metadata({}, SimpleNamespace(), 1, 2, 3)


def test_a_call_at_a_seam_that_cannot_be_is_told_as_a_change(train, monkeypatch):
    monkeypatch.setattr(sd_scripts_world, "trainer_class", lambda _: trainer_class(Breaks))
    with pytest.raises(TypeError) as raised:
        train(max_train_steps=1)
    message = str(version_error(raised.value, UNKNOWN, METHODS))
    assert message.startswith("sd-scripts at folder (version abc) has changed: ")
    assert "TypeError" in message
    assert "commit 6721028c." in message
    tested = Checkout(Path("folder"), "48d368fa", True, "sd-scripts")
    assert version_error(raised.value, tested, METHODS) is None, "there it is a fault, and its traceback helps"
