"""musubi's own `train` on FLUX.1 Kontext, FLUX.2 and Qwen-Image, with source images, one LoRA teacher and the base."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.musubi.run import train
from tests.integration.musubi import edit_data

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Model:
    """tiny: module of this folder. architecture: musubi's short name of the caches. controls: images a picture."""

    tiny: str
    model_type: str
    architecture: str
    controls: int
    network: str
    version: str | None = None


MODELS = {
    "kontext": Model("tiny_flux_kontext", "flux_kontext", "fk", 1, "lora_flux"),
    "flux_2": Model("tiny_flux_2", "flux_2", "f2d", 2, "lora_flux_2", "dev"),
    "qwen": Model("tiny_qwen_image", "qwen_image", "qi", 0, "lora_qwen_image"),
    "qwen_edit": Model("tiny_qwen_image", "qwen_image_edit", "qie", 2, "lora_qwen_image", "edit-2509"),
}

PRESET = """
[model]
model_type = "{model.model_type}"
dit = "{folder}/dit.safetensors"
{more_model}
[dataset]
{dataset}
max_data_loader_n_workers = {workers}
[network]
network_dim = 32
network_alpha = 32
[optimizer]
optimizer_type = "AdamW"
learning_rate = {rate}
[training]
max_train_steps = {steps}
gradient_accumulation_steps = 1
mixed_precision = "bf16"
gradient_checkpointing = true
seed = 1
[saving]
output_dir = "{folder}/output"
output_name = "fused"
[danceopd]
toolkit = "musubi-tuner"
rollout_steps = 6
query = "uniform"
"""
BASE_AND_EDIT = """
[danceopd.teachers.base]
[danceopd.teachers.edit]
lora = "{folder}/teacher.safetensors"
[danceopd.datasets]
base = 1
edit = "{folder}/edit/cache"
"""


def write_teacher(model: Model, transformer: torch.nn.Module, path: Path, seed: int = 5) -> Path:
    """A random LoRA of musubi's own network, strong enough to change the velocity clearly."""
    module = importlib.import_module(f"musubi_tuner.networks.{model.network}")
    torch.manual_seed(seed)
    network = module.create_arch_network(1.0, 2, 2, None, None, transformer)
    for lora in network.unet_loras:
        torch.nn.init.normal_(lora.lora_up.weight, std=1.0)
    network.apply_to(None, transformer, apply_text_encoder=False, apply_unet=True)
    network.save_weights(str(path), torch.float32, {})
    return path


def write_job(folder: Path, model: Model, teachers: str = BASE_AND_EDIT, datasets: bool = True, **more) -> Path:
    """Model, teacher, data and preset of a run."""
    tiny = importlib.import_module(f"tests.integration.musubi.{model.tiny}")
    save_file({k: v.contiguous() for k, v in tiny.transformer().state_dict().items()}, folder / "dit.safetensors")
    write_teacher(model, tiny.transformer(), folder / "teacher.safetensors")
    version = f'model_version = "{model.version}"\n' if model.version else ""
    values = {"workers": 0, "rate": 1e-2, "steps": 60, "dataset": "", "more_model": version} | more
    if datasets:
        folders = [edit_data.write_pictures(folder / name, model.controls) for name in ("base", "edit")]
        config = edit_data.write_dataset_toml(folder / "data.toml", folders, batch_size=2)
        edit_data.write_caches(config, model.architecture, tiny.save_latents, tiny.save_texts)
        values["dataset"] += f'dataset_config = "{config}"'
    preset = folder / "preset.toml"
    preset.write_text((PRESET + teachers).format(model=model, folder=folder, **values), encoding="utf-8")
    return preset


def run(folder: Path, model: Model, preset: Path, *flags: str) -> tuple[subprocess.CompletedProcess, dict]:
    """The run in a process of its own, and what was seen in it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.integration.musubi.train_edits", model.tiny, str(folder / "record.json")]
    done = subprocess.run(
        [*command, "--config", str(preset), *flags], capture_output=True, text=True, env=environ, cwd=ROOT, check=False
    )
    record = folder / "record.json"
    return done, json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}


def fall(record: dict) -> float:
    """The mean of all routes' losses at the end, as a share of that at the start."""
    first, last = (sum(losses.values()) for losses in (record["evaluations"][0], record["evaluations"][-1]))
    return last / first


@pytest.mark.parametrize("name", MODELS)
def test_a_run_learns_the_teacher_and_each_dataset_meets_its_own(name, tmp_path):
    model = MODELS[name]
    steps = 100 if name == "flux_2" else 60  # told its guidance of 4, the tiny model of random weights learns slower
    done, record = run(tmp_path, model, write_job(tmp_path, model, workers=2, steps=steps))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(record["seen"]) == 2 * steps
    assert {tuple(one) for one in record["seen"]} == {("base", 0, model.controls > 0), ("edit", 1, model.controls > 0)}
    assert [route for route, *_ in record["seen"]].count("edit") == steps
    start = record["evaluations"][0]
    assert start["base"] == 0  # the student begins as the base
    assert start["edit"] > 1e-4
    assert fall(record) < 2 / 3
    saved = load_file(tmp_path / "output" / "fused.safetensors")
    teacher = load_file(tmp_path / "teacher.safetensors")
    assert saved.keys() == teacher.keys()
    with safe_open(tmp_path / "output" / "fused.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ss_danceopd_teachers"]) == {"base": "base", "edit": "teacher"}


@pytest.mark.parametrize("name", MODELS)
def test_without_a_learning_rate_nothing_is_learnt(name, tmp_path):
    model = MODELS[name]
    done, record = run(tmp_path, model, write_job(tmp_path, model, rate=1e-12))
    assert done.returncode == 0, done.stderr[-3000:]
    assert {tuple(one)[:2] for one in record["seen"]} == {("base", 0), ("edit", 1)}
    assert fall(record) == pytest.approx(1, rel=1e-3)


GUIDED_PROMPTS = """
[danceopd.teachers.guided]
guidance_scale = 3.0
[danceopd.teachers.edit]
lora = "{folder}/teacher.safetensors"
[danceopd.datasets]
edit = [1, 2]
[danceopd.prompts]
guided = "{folder}/prompts.txt"
"""


@pytest.mark.parametrize("name", MODELS)
def test_guidance_on_prompts_alone_beside_a_dataset_with_source_images(name, tmp_path):
    """A text-to-image route of every model, the ones that edit included."""
    model = MODELS[name]
    encoders = ("text_encoder1", "text_encoder2") if name == "kontext" else ("text_encoder",)
    (tmp_path / "encoder.safetensors").write_bytes(b"made without files")
    (tmp_path / "prompts.txt").write_text("a red cat\na dog on a tree --w 64 --h 96\n", encoding="utf-8")
    version = f'model_version = "{model.version}"\n' if model.version else ""
    version += "".join(f'{one} = "{tmp_path}/encoder.safetensors"\n' for one in encoders)
    preset = write_job(
        tmp_path, model, GUIDED_PROMPTS, steps=6, more_model=version, dataset='resolution = "96,64"\n'
    )  # fmt: skip
    done, record = run(tmp_path, model, preset)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {(route, source) for route, _, source in record["seen"]} == {("guided", False), ("edit", model.controls > 0)}
    assert record["evaluations"][0]["guided"] > 1e-5  # guidance is not the base


def test_guidance_on_source_images_of_qwen_image_edit_is_refused(tmp_path):
    teachers = "[danceopd.teachers.edit]\nguidance_scale = 3.0\n"
    model = MODELS["qwen_edit"]
    (tmp_path / "encoder.safetensors").write_bytes(b"made without files")
    version = f'model_version = "edit-2509"\ntext_encoder = "{tmp_path}/encoder.safetensors"\n'
    done, _ = run(tmp_path, model, write_job(tmp_path, model, teachers, more_model=version))
    assert done.returncode == 2
    assert "guidance of teacher edit on source images (dataset 1 of dataset_config)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("qwen_edit", "", "set model_version to one of"),
        ("qwen_edit", "layered", "set model_version to one of"),
        ("qwen", "layered", "this model makes several pictures at once"),
        ("qwen", "edit", 'write model_type = "qwen_image_edit"'),
        ("qwen", "edit-2030", 'model_version = "edit-2030": Invalid model_version'),
        ("flux_2", "pro", 'model_version = "pro"'),
    ],
)
def test_a_model_version_that_does_not_fit_is_refused(name, version, message, tmp_path):
    """In this process: it is refused before anything is loaded."""
    model = MODELS[name]
    preset = write_job(tmp_path, model, datasets=False, more_model=f'model_version = "{version}"\n' if version else "")
    with pytest.raises(UserError, match=message):
        train(split_preset(preset))
    assert not (tmp_path / "output").exists()
