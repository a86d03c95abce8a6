"""Edit routes from preset to LoRA file: they learn beside text-to-image routes, exactly as the pipelines edit."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors import safe_open

from danceopd_ext.data.plan import Prompt
from danceopd_ext.method import MethodOptions, Step, Student, update
from danceopd_ext.models.family import Sources
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.native import train as train_module
from tests.tiny.calls import relative
from tests.tiny.edit_world import write_edits, write_source
from tests.tiny.loras import write_random_lora
from tests.tiny.pipelines import ALL, listening
from tests.tiny.presets import write_preset
from tests.toolkits.runs import QUICK, log_of, same_tensors

#: what the tiny models can learn in a hundred steps
SETTINGS = {
    "flux_kontext": {"size": 0.5, "keys": {"save_model_as": "diffusers"}},
    "z_image_omni": {"size": 0.3, "keys": {}},
    "qwen_image_edit": {"size": 1.5, "keys": {}},
}


pytestmark = pytest.mark.usefixtures("small_sources")


def prompt_of(item):
    """The prompt of an item, with its source images."""
    return Prompt(item.text, item.source_images, item.size)


@pytest.fixture(scope="module")
def teachers(editors, tmp_path_factory):
    """Family name -> a LoRA that draws and one that edits."""
    folder = tmp_path_factory.mktemp("teachers")

    def lora(name, seed):
        dialect = SETTINGS[name]["keys"].get("save_model_as", FAMILIES[name].default_format)
        file = folder / f"{name}_{seed}.safetensors"
        return {"lora": str(write_random_lora(file, editors[name], seed, dialect, size=SETTINGS[name]["size"]))}

    return {name: {"draw": lora(name, 1), "edit": lora(name, 2)} for name in SETTINGS}


@pytest.fixture
def spied(monkeypatch):
    """The last run, which is otherwise gone when it ends."""
    kept = {}

    class Spy(train_module.Run):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            kept["run"] = self

    monkeypatch.setattr(train_module, "Run", Spy)
    return kept


def route_files(folder):
    """Prompt files of a mixed run."""
    files = {"edit": write_edits(folder, "edit", "red cat")}
    (folder / "draw.txt").write_text("blue river on\nblue river of\n", encoding="utf-8")
    return {**files, "draw": str(folder / "draw.txt")}


@pytest.fixture
def mixed(editors, teachers, launch, spied, tmp_path):
    """Run a mixed preset of this family and return its output folder and the run."""

    def mixed(name="flux_kontext", folder="run", *arguments, **keys):
        keys = {**QUICK, **SETTINGS[name]["keys"], "train_batch_size": 2, **keys}
        prompts = keys.pop("prompts", None) or route_files(tmp_path)
        preset = write_preset(
            tmp_path / folder, editors[name], keys.pop("teachers", teachers[name]), prompts=prompts, **keys
        )
        return launch(preset, *arguments), spied["run"]

    return mixed


# --- learning


def losses(run, student):
    """Route -> mean loss of a student over batches that no step had, at states from its own rollouts."""
    found = {}
    for route in run.fields.teachers:
        steps = [step for step in range(1000, 1030) if run.data.plan.route(step) == route][:4]
        reports = [
            update(
                Step(options=MethodOptions(rollout_steps=2), seed=7, number=step),
                run.data.plan.weights,
                run.data,
                run.fields.teachers,
                Student(field=student, backward=lambda loss: None),
            )
            for step in steps
        ]
        found[route] = sum(report.loss for report in reports) / len(reports)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_edits_and_drawings_become_one_lora(name, mixed, caplog):
    output, run = mixed(name, max_train_steps=100, network_dim=16, lr_scheduler="cosine", lr_warmup_steps=0.1)
    before, after = losses(run, run.fields.base), losses(run, run.fields.student)
    assert before.keys() == {"draw", "edit"}
    assert all(after[route] < before[route] / 3 for route in before), (before, after)
    check_the_pipeline_gives_the_student(name, output / "fused.safetensors", run, caplog)


def check_the_pipeline_gives_the_student(name, file, run, caplog):
    family, pipeline = FAMILIES[name], listening(ALL[name])()
    diffusers_logging.set_verbosity_warning()
    diffusers_logging.enable_propagation()
    try:
        with warnings.catch_warnings(record=True) as caught, caplog.at_level("WARNING"):
            warnings.simplefilter("always")
            pipeline.load_lora_weights(str(file))
    finally:
        diffusers_logging.disable_propagation()
    told = [str(w.message) for w in caught] + [record.getMessage() for record in caplog.records]
    assert not [line for line in told if "unexpected keys" in line or "missing keys" in line]

    for route, sources in (("draw", 0), ("edit", 1)):
        items = run.data.plan.routes[route].items[:2]
        assert [len(item.source_images) for item in items] == [sources] * 2
        condition = run.data.conditions.of([prompt_of(item) for item in items], None)
        shape = run.data.model.latent_shape(*items[0].size)
        latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
        sigma = torch.tensor([0.9, 0.3])
        with torch.no_grad():
            trained = run.fields.plain_student(latents, sigma, condition)
            loaded = family.velocity(pipeline.transformer, latents, sigma, condition).float()
            base = run.fields.base(latents, sigma, condition)
        assert relative(loaded, trained) < 1e-4
        assert relative(base, trained) > 1e-2, "the LoRA changes nothing: the comparison is empty"


def test_source_images_of_every_shape_are_batched_apart(mixed, tmp_path):
    """Also where what is drawn has one size."""
    prompts = route_files(tmp_path)
    edits = Path(prompts["edit"])
    edits.write_text(edits.read_text().replace(",", ",16,16,").replace("prompt,16,16,", "prompt,width,height,"))
    _, run = mixed("z_image_omni", gradient_accumulation_steps=3, max_train_steps=6, prompts=prompts)
    seen = set()
    for step in range(6):
        for batch in run.data(run.data.plan.route(step), step):
            shapes = {
                tuple(tuple(item[key].shape) for key in item if key == "source_0") for item in batch.condition.items
            }
            assert len(shapes) == 1
            seen.add((batch.latent_shape, *shapes))
    assert len(seen) == 3  # drawings, and edits of two sizes
    assert len({shape for shape, *_ in seen}) == 1
    assert sum(len(shapes) == 0 for _, shapes in seen) == 1


def test_the_result_of_an_edit_has_the_proportions_of_its_source_image(mixed):
    _, run = mixed(max_train_steps=1)
    sizes = {item.source_images[0].name: item.size for item in run.data.plan.routes["edit"].items}
    assert sizes == {"0.png": (16, 16), "1.png": (16, 16), "2.png": (20, 12), "3.png": (20, 12)}


def test_a_large_source_image_is_brought_to_the_size_of_each_picture(mixed, tmp_path):
    """As Z-Image-Omni's pipeline does: for the VAE and for the vision encoder, in training and in previews."""
    path = write_source(tmp_path / "large.png", (1200, 900))
    edits = tmp_path / "edits.csv"
    edits.write_text("prompt,source,width,height\nred cat,large.png,16,16\nred cat,large.png,24,24\n")
    samples = tmp_path / "samples.txt"
    samples.write_text("red cat --ci large.png --w 32 --h 32 --l 2 --s 1\n")
    prompts = {**route_files(tmp_path), "edit": str(edits)}
    keys = {"sample_prompts": str(samples), "sample_every_n_steps": 2, "max_train_steps": 2}
    _, run = mixed("z_image_omni", prompts=prompts, **keys)
    family, pipeline = FAMILIES["z_image_omni"], listening(ALL["z_image_omni"])()
    for side, width, height in ((16, 18, 13), (24, 27, 20), (32, 36, 27)):
        resized = Flux2ImageProcessor._resize_to_target_area(Image.open(path), side * side)
        assert resized.size == (width, height)
        (item,) = run.data.conditions.of([Prompt("red cat", (path,), (side, side))], None).items
        assert item["source_0"].shape[1:] == (height // 4 * 2, width // 4 * 2)
        with torch.no_grad():
            (expected,) = pipeline.prepare_siglip_embeds([resized], 1, "cpu", torch.float32)[0]
            (latents,) = family.encode_sources(pipeline.vae, Sources([Image.open(path)], (side, side))).values()
        assert relative(item["source_glance_0"], expected) < 1e-5
        assert relative(item["source_0"], latents) < 1e-5


# --- the source image counts


def test_another_source_image_gives_another_loss_and_the_same_one_the_same(mixed, tmp_path):
    def edit_losses(folder):
        output, _ = mixed(folder=folder, max_train_steps=6, prompts=files)
        return [entry["loss"] for entry in log_of(output) if entry["route"] == "edit"]

    files = route_files(tmp_path)
    first, again = edit_losses("first"), edit_losses("again")
    assert first == again
    for number, size in enumerate(((64, 64), (64, 64), (96, 64), (96, 64))):
        write_source(tmp_path / "edit_sources" / f"{number}.png", size, seed=500 + number)
    changed = edit_losses("changed")
    assert len(changed) == len(first)
    assert all(abs(a - b) > 1e-6 for a, b in zip(changed, first, strict=True))


@pytest.mark.parametrize("route", ["draw", "edit"])
def test_guidance_moves_away_from_the_empty_prompt_with_the_same_source_image(route, mixed):
    """And without one where there is none."""
    guided = {"guidance_scale": 3.0}
    _, run = mixed("qwen_image_edit", teachers={"draw": guided, "edit": guided}, max_train_steps=8)
    item = run.data.plan.routes[route].items[0]
    condition = run.data.conditions.of([prompt_of(item)])
    empty = run.data.conditions.of([prompt_of(item)._replace(text="")])
    latents, sigma = torch.randn(1, *run.data.model.latent_shape(*item.size)), torch.tensor([0.5])
    field = run.data.model.family.guided(lambda z, s, c: run.fields.base(z, s, empty if c is not condition else c), 3.0)
    with torch.no_grad():
        asked = run.fields.teachers[route](latents, sigma, condition)
        assert relative(asked, field(latents, sigma, condition)) < 1e-6
        assert relative(asked, run.fields.base(latents, sigma, condition)) > 1e-4


# --- resuming


@pytest.mark.parametrize("name", ["flux_kontext", "qwen_image_edit"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(name, mixed, tmp_path):
    prompts = route_files(tmp_path)
    keys = {"max_train_steps": 4, "prompts": prompts}
    whole, _ = mixed(name, "whole", **keys)
    output, _ = mixed(name, "halves", save_every_n_steps=2, save_state=True, **keys)
    (output / "fused.safetensors").unlink()
    mixed(name, "halves", "--resume", output / "fused-step00000002-state", **keys)
    assert same_tensors(output / "fused.safetensors", whole / "fused.safetensors")
    assert {entry["route"] for entry in log_of(whole)} == {"draw", "edit"}


def test_a_changed_source_image_is_another_run(mixed, refused, tmp_path):
    keys = {"max_train_steps": 3, "prompts": route_files(tmp_path)}
    output, _ = mixed(save_every_n_steps=2, save_state=True, **keys)
    write_source(tmp_path / "edit_sources" / "1.png", seed=9)
    message = refused(tmp_path / "run" / "preset.toml", "--resume", output / "fused-step00000002-state")
    assert "belongs to another run: its source images or target pictures were different" in message


def test_the_file_says_which_routes_edit(mixed):
    output, _ = mixed(max_train_steps=1)
    with safe_open(output / "fused.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ss_danceopd_edit_routes"]) == ["edit"]
        assert not any(str(Path(output).parent) in value for value in file.metadata().values())
