"""What `accelerate launch` was told and the native trainer does not use is said before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from diffusers import ZImageTransformer2DModel

from danceopd_ext.config.schema import TrainingSection
from danceopd_ext.engine.model import Model
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.native import checks, optimizers, processes
from danceopd_ext.toolkits.native.launcher import ENGINES, unused_options
from tests.toolkits.forked import ENVIRONMENT, ROOT
from tests.toolkits.native.test_processes import LAUNCHER, launched, started_by  # noqa: F401 - a fixture
from tests.toolkits.runs import says, two_processes


@pytest.mark.parametrize(("variable", "name"), ENGINES.items())
def test_engines_that_divide_the_model(changed, refused, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "true")
    says(refused(changed()), f"accelerate was told to use {name}", "holds the whole model", "--num_processes N")


@pytest.mark.parametrize("value", ["false", "False"])
def test_an_engine_that_is_off(changed, launch, monkeypatch, value):
    for variable in ENGINES:
        monkeypatch.setenv(variable, value)
    launch(changed(max_train_steps=1))


def words(*options):
    """What accelerate's own launcher makes of these options."""
    from accelerate.commands.launch import launch_command_parser

    arguments = launch_command_parser().parse_args([*options, "--num_processes", "2", "train.py"])
    arguments.num_machines, arguments.dynamo_backend = 1, "no"
    arguments.mixed_precision, arguments.num_cpu_threads_per_process = arguments.mixed_precision or "no", 1
    arguments.main_process_port, arguments.deepspeed_fields_from_accelerate_config = 0, ""
    return arguments


def test_the_variables_are_the_launchers_own():
    """Another version of accelerate may call them otherwise: the options would be ignored silently again."""
    for options, variable in (
        (("--use_fsdp",), "ACCELERATE_USE_FSDP"),
        (("--use_megatron_lm",), "ACCELERATE_USE_MEGATRON_LM"),
        (("--use_fsdp", "--fsdp_version", "2", "--use_parallelism_config"), "ACCELERATE_USE_PARALLELISM_CONFIG"),
    ):
        assert prepare_multi_gpu_env(words(*options))[variable] == "true"
    assert prepare_deepspeed_cmd_env(words("--use_deepspeed"))[1]["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert prepare_multi_gpu_env(words("--mixed_precision", "fp16"))["ACCELERATE_MIXED_PRECISION"] == "fp16"
    assert prepare_multi_gpu_env(words())["ACCELERATE_DYNAMO_BACKEND"].lower() == "no"


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, ['mixed_precision = "fp16" is ignored', '"bf16" is used']),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, ['mixed_precision = "fp8" is ignored']),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, ['dynamo_backend = "inductor" is ignored']),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8"}, ["gradient_accumulation_steps = 8 is ignored", "4 is used"]),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, ["2 machines", "folders that all of them share"]),
    ],
)
def test_options_that_change_nothing(monkeypatch, variables, parts):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (note,) = unused_options(TrainingSection())
    says(note, *parts)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "True"},
        {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"},
        {"WORLD_SIZE": "8"},
    ],
)
def test_options_that_say_nothing_else(monkeypatch, variables):
    """The launcher sets "no" also for those who said nothing."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert list(unused_options(TrainingSection())) == []


def test_the_notes_are_told(changed, launch, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    launch(changed(max_train_steps=1))
    assert "note: accelerate's dynamo_backend" in capsys.readouterr().out


def test_several_machines_without_a_gpu(launched, changed, refused):  # noqa: F811
    started_by(launched, [*LAUNCHER[:2], "--num_machines=2", *LAUNCHER[2:]])
    says(refused(changed()), "--num_machines", "torchrun")
    started_by(launched, [*LAUNCHER[:2], "--num_machines", "1", *LAUNCHER[2:]])
    assert processes.missing_processes() == 1


def test_a_real_launch(changed):
    """Two processes, one message."""
    preset = changed()
    command = [word for word in two_processes() if word != "--cpu"]
    done = subprocess.run(
        [sys.executable, *command, "--use_fsdp", "train_danceopd.py", "--config", str(preset)],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("error: accelerate was told to use FSDP") == 1, done.stderr
    assert not (preset.parent / "output").exists()


# --- a large model without a GPU


def test_a_large_model_on_a_cpu(changed, launch, monkeypatch, capsys):
    """The size is known from the configuration; the reason why there is no GPU is told with it."""
    monkeypatch.setattr(checks, "LARGE", 10_000)
    monkeypatch.setattr(checks, "why_no_gpu", lambda: "This torch is a build without CUDA: pip install it.")
    launch(changed(max_train_steps=1))
    told = capsys.readouterr().out
    says(told, "note: torch finds no GPU", "billion parameters", "This torch is a build without CUDA")
    assert told.index("note: torch finds no GPU") < told.index("encoded"), "it is told before anything is loaded"


def test_a_small_model_on_a_cpu(changed, launch, capsys):
    launch(changed(max_train_steps=1))
    assert "torch finds no GPU" not in capsys.readouterr().out


def test_the_size_of_a_model_without_its_weights():
    """The released Z-Image, from its configuration."""
    with torch.device("meta"):
        transformer = ZImageTransformer2DModel()
    family, layout = FAMILIES["z_image"], FAMILIES["z_image"].layout(transformer)
    model = Model(ModelFiles(family, Path(), Path(), "model"), layout, transformer.config, torch.device("cpu"))
    (note,) = checks.slow_without_gpu(model)
    assert "Z-Image has 6.2 billion parameters" in note
    assert not checks.slow_without_gpu(replace(model, device=torch.device("cuda")))


@pytest.mark.parametrize(
    ("module", "keys"),
    [
        (optimizers, {"optimizer_type": "AdamW8bit"}),
        (optimizers, {"optimizer_type": "PagedLion8bit"}),
        (checks, {"mixed_precision": "fp16"}),
    ],
)
def test_what_needs_a_gpu_and_a_torch_without_cuda(changed, refused, monkeypatch, module, keys):
    monkeypatch.setattr(module, "why_no_gpu", lambda: "Replace torch: pip install torch+cuda.")
    says(refused(changed(**keys)), "needs a GPU", "Replace torch: pip install torch+cuda.")
