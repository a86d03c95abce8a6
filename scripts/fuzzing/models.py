"""Model folders and single files: their configurations, and everything else of them that is read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from danceopd_ext.config.load import load_preset
from danceopd_ext.demo import PIPELINE
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.models.text_pipeline import encode_prompts
from danceopd_ext.toolkits.native.prepare import find_all
from danceopd_ext.toolkits.native.train import make_accelerator
from fuzzing.octets import damaged, replace_file
from fuzzing.presets import native_preset
from fuzzing.targets import Case, Stage, target
from fuzzing.tensors import with_odd_tensors, write_safetensors
from fuzzing.trees import as_json, as_toml, changed
from fuzzing.values import TEMPLATES
from fuzzing.worlds import SIZE, World

#: files of the model that are read before its weights; those of its text encoders come after
CONFIGS = ("model_index.json", "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json")
TEXTS = (
    "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json", "text_encoder/config.json", "siglip/config.json",
    "siglip_processor/preprocessor_config.json",
)  # fmt: skip


def fresh_accelerator(preset: Any) -> Accelerator:
    """Return an accelerator as a new process would make it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return make_accelerator(preset)


def copy_model(folder: Path) -> Path:
    """The demo's folder; weights are links, everything else may be changed."""
    model = folder / "model"
    for file in PIPELINE.rglob("*"):
        place = model / file.relative_to(PIPELINE)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            os.link(file, place) if file.stat().st_dev == folder.stat().st_dev else place.symlink_to(file)
        else:
            shutil.copyfile(file, place)
    return model


@target("checkpoint", share=3)
def checkpoint_case(rng: Random, world: World, folder: Path) -> Case:
    """A model in a single file, as the base or as a teacher, with odd tensors or an odd header."""
    path, prefix = folder / "model.safetensors", rng.choice(("", "model.diffusion_model."))
    tensors = load_file(next((PIPELINE / "transformer").glob("*.safetensors")))
    tensors, told = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}, []
    if rng.random() < 0.5:
        tensors, told = with_odd_tensors(tensors, rng)
    told += write_safetensors(path, tensors, {"format": "pt"}, rng, odd=not told)
    if rng.random() < 0.2:
        data, what = damaged(path.read_bytes(), rng)
        path.write_bytes(data)
        told.append(what)
    document = native_preset(Random(0))
    if rng.random() < 0.5:
        place = {
            "pretrained_model_name_or_path": path.name,
            "components_from": str(PIPELINE),
            "model_type": "z_image_omni",
        }
        document["model"] = place
    else:
        document["danceopd"]["teachers"]["base"] = {"checkpoint": path.name, **rng.choice(({}, {"extract_rank": 2}))}
    write_run(folder, world, document)

    def run(stage: Stage) -> None:
        stage("check")
        preset = load_preset("preset.toml")
        plan = find_all(preset, fresh_accelerator(preset))
        stage("transformer")
        for source in (plan.model.files, plan.teachers["base"].checkpoint):
            if source:
                load_transformer(source, torch.float32)

    return Case(run, told, ["model"])


def write_run(folder: Path, world: World, document: dict[str, Any]) -> None:
    """A preset and its files, nothing of it odd."""
    (folder / "preset.toml").write_text(as_toml(document), "utf-8")
    for file in ("base.txt", "style.txt", "style.safetensors"):
        (folder / file).write_bytes((world.folder / file).read_bytes())


@target("model", share=8)
def model_case(rng: Random, world: World, folder: Path) -> Case:
    """A model folder with odd configurations, and for some cases its loading and the text encoder's first prompt."""
    model, told = copy_model(folder), []
    texts_too = rng.random() < 0.3
    name = rng.choice(TEXTS if texts_too else CONFIGS)
    path = model / name
    if rng.random() < 0.1:
        texts_too, name = True, "tokenizer/chat_template.jinja"
        template = rng.choice(TEMPLATES)
        (model / name).write_text(template, "utf-8")
        told = [template]
    elif rng.random() < 0.75:
        tree, told = changed(json.loads(path.read_text("utf-8")), rng)
        path.write_bytes(as_json(tree).encode("utf-8", "surrogatepass"))
    elif rng.random() < 0.3:
        told = [replace_file(path, rng)]
    else:
        data, what = damaged(path.read_bytes(), rng)
        path.write_bytes(data)
        told = [what]
    document = native_preset(Random(0))
    document["model"] = {"pretrained_model_name_or_path": "model"}
    write_run(folder, world, document)

    def run(stage: Stage) -> None:
        stage("check")
        preset = load_preset("preset.toml")
        model = find_all(preset, fresh_accelerator(preset)).model
        stage("sizes")
        model.latent_shape(SIZE, SIZE)
        stage("scheduler")
        model.sigmas(SIZE, SIZE, 4)
        stage("vae")
        model.load_vae(torch.float32)
        stage("transformer")
        model.load_transformer()
        if texts_too:
            stage("texts")
            encode_prompts(model.files, model.load_text_encoders(), ["a red circle", ""])

    return Case(run, [f"{name}: {'; '.join(told)}"], ["model"])
