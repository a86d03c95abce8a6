"""What is wrong with the data of edit routes is told before a model is loaded; what is right is used."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from PIL import Image

from danceopd_ext import engine
from danceopd_ext.toolkits import native
from danceopd_ext.toolkits.native import loop
from tests.tiny.edit_world import prompt_file, write_edits, write_source
from tests.toolkits.runs import log_of, says

BOTH = {"draw": {}, "edit": {}}
pytestmark = pytest.mark.usefixtures("small_sources")


# --- what is wrong


LOADERS = ("load_text_pipeline", "load_vae", "load_transformer")


def modules_of(*packages):
    for package in packages:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(module.name)


@pytest.fixture
def nothing_loads(monkeypatch):
    """No text encoder, VAE or transformer may be loaded, from wherever in the trainer. Returns what was blocked."""
    blocked = []

    def fail(*arguments):
        raise AssertionError("a model was loaded")

    for module in modules_of(engine, native):
        for name in LOADERS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, fail)
                blocked.append(f"{module.__name__.rpartition('.')[2]}.{name}")
    return blocked


def test_the_tests_below_would_notice_a_model_that_loads(nothing_loads):
    needed = {"model.load_text_pipeline", "model.load_vae", "model.load_transformer", "build.load_transformer"}
    assert needed <= set(nothing_loads)


@pytest.mark.parametrize("name", ["sd3", "z_image"])
def test_an_edit_route_needs_a_model_that_edits(name, edit_preset, refused, nothing_loads, tmp_path):
    message = refused(edit_preset(name))
    says(message, "base.csv, line 2", "source image", "draws from text alone", "flux_kontext", "qwen_image_edit")


def test_too_many_source_images(edit_preset, refused, nothing_loads, tmp_path):
    write_source(tmp_path / "a.png")
    path = prompt_file(tmp_path, "prompt,source,source_1\nmix,a.png,a.png\n")
    says(
        refused(edit_preset(prompts={"base": path})), "p.csv, line 2", "2 source images", "FLUX.1 Kontext takes up to 1"
    )


def damaged(path):
    """A picture whose header is whole and whose pixels are not."""
    write_source(path, (200, 200))
    path.write_bytes(path.read_bytes()[:-60])


def cut_off(path):
    """The same of a JPEG, which Pillow's own quick check takes for whole."""
    write_source(path, (200, 200))
    Image.open(path).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), ["line 2", "picture not found"]),
        (lambda path: path.write_bytes(b"no picture"), ["line 2", "Repair or remove"]),
        (damaged, ["the picture cannot be read", "Repair or remove"]),
        (cut_off, ["the picture cannot be read (image file is truncated", "Repair or remove"]),
    ],
)
def test_a_source_image_that_cannot_be_read(spoil, words, edit_preset, refused, nothing_loads, tmp_path):
    path = edit_preset()
    spoil(tmp_path / "base_sources" / "0.png")
    says(refused(path), "base_sources/0.png", *words)


def test_a_source_image_that_the_model_does_not_take(edit_preset, refused, nothing_loads, tmp_path):
    path = edit_preset("z_image_omni")
    write_source(tmp_path / "base_sources" / "2.png", (64, 40))
    says(refused(path), "base.csv, line 4", "2.png cannot be used", "64 x 40 is too small")


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("sd3", "a cat --ci a.png --w 16 --h 16", ["a source image", "draws from text alone"]),
        ("flux_kontext", "a cat --ci none.png --w 16 --h 16", ["source image", "none.png", "not found"]),
        ("flux_kontext", "a cat --ci a.png --cn a.png --w 16 --h 16", ["2 source images", "up to 1"]),
        ("flux_kontext", "a cat --ci --w 16 --h 16", ["--ci needs the path of a source image"]),
    ],
)
def test_preview_prompts_are_checked_alike(name, line, words, edit_preset, refused, nothing_loads, tmp_path):
    write_source(tmp_path / "a.png")
    lines = prompt_file(tmp_path, f"{line}\n", "samples.txt")
    keys = {"prompts": {"base": prompt_file(tmp_path, "prompt\na cat\n")}} if name == "sd3" else {}
    message = refused(edit_preset(name, sample_prompts=lines, sample_every_n_steps=1, **keys))
    says(message, "samples.txt, line 1", *words)


def test_joint_training_on_edits_needs_their_results(edit_preset, refused, nothing_loads):
    says(refused(edit_preset(method="joint")), "base.csv, line 2", "learns from pictures", "column target")


# --- what is right


DATASET = """
[[datasets]]
resolution = 16
enable_bucket = true
min_bucket_reso = 8
max_bucket_reso = 32
bucket_reso_steps = 4
caption_extension = ".txt"
  [[datasets.subsets]]
  image_dir = "{image_dir}"
  {key} = "{sources}"
"""


def edit_folder(folder, target_size=(64, 64)):
    """Two edits with their results."""
    for number in range(2):
        write_source(folder / "before" / f"{number}.png", (96, 64), number)
        write_source(folder / "after" / f"{number}.png", target_size, 50 + number)
        (folder / "after" / f"{number}.txt").write_text("red cat", encoding="utf-8")
        (folder / "before" / f"{number}.txt").write_text("red cat", encoding="utf-8")
    return folder


def test_a_damaged_picture_of_a_folder_of_source_images(edit_preset, refused, nothing_loads, tmp_path):
    edit_folder(tmp_path)
    cut_off(tmp_path / "before" / "1.png")
    config = tmp_path / "data.toml"
    text = DATASET.format(image_dir=tmp_path / "after", key="conditioning_data_dir", sources=tmp_path / "before")
    config.write_text(text, encoding="utf-8")
    says(refused(edit_preset(dataset_config=str(config), prompts={})), "before/1.png", "the picture cannot be read")


@pytest.fixture
def from_folder(edit_preset, launch, monkeypatch, tmp_path):
    """Train on a dataset folder; return the items that the run had."""

    def from_folder(key="conditioning_data_dir", image_dir="after", folder="run", **keys):
        edit_folder(tmp_path)
        config = tmp_path / f"{folder}.toml"
        text = DATASET.format(image_dir=tmp_path / image_dir, key=key, sources=tmp_path / "before")
        config.write_text(text, encoding="utf-8")
        kept = []
        save = loop.Run.__init__
        monkeypatch.setattr(
            loop.Run, "__init__", lambda run, plan, *rest: kept.append(plan.data) or save(run, plan, *rest)
        )
        launch(edit_preset(dataset_config=str(config), prompts={}, folder=folder, **keys))
        return kept[-1].routes["base"].items

    return from_folder


@pytest.mark.parametrize("key", ["conditioning_data_dir", "control_directory"])
def test_a_dataset_folder_of_edits(key, from_folder, tmp_path):
    items = from_folder(key)
    assert [(item.size, item.source_images[0].name) for item in items] == [((16, 16), "0.png"), ((16, 16), "1.png")]
    assert len(log_of(tmp_path / "run" / "output")) == 2


def test_edits_need_no_results(from_folder):
    items = from_folder(image_dir="before")
    assert [(item.size, item.picture) for item in items] == [((20, 12), None)] * 2


def test_results_are_used_by_the_methods_that_start_from_them_and_by_no_other(from_folder, capsys):
    from_folder(folder="danceopd")
    assert "the pictures of 2 items are not used" in capsys.readouterr().out
    from_folder(folder="joint", method="joint")
    assert "encoded 2 pictures" in capsys.readouterr().out


def test_a_route_of_weight_zero_may_hold_what_the_model_cannot_use(edit_preset, launch, tmp_path):
    files = {"edit": write_edits(tmp_path, "edit", "red cat"), "draw": prompt_file(tmp_path, "prompt\na cat\n")}
    output = launch(edit_preset("sd3", BOTH, prompts=files, routes={"edit": 0.0}))
    assert {entry["route"] for entry in log_of(output)} == {"draw"}


# --- resume


def test_other_source_images_in_previews_are_no_other_run(edit_preset, launch, tmp_path):
    """A run without edits does not need the VAE; its previews may."""
    write_source(tmp_path / "photo.png")
    drawn = {"a cat --w 16 --h 16 --s 1": "text.txt", "a cat --ci photo.png --w 16 --h 16 --s 1": "edit.txt"}
    for line, name in drawn.items():
        (tmp_path / name).write_text(line + "\n", encoding="utf-8")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red cat\n", encoding="utf-8")
    keys = {"prompts": {"base": str(prompts)}, "sample_every_n_steps": 1, "save_state": True, "max_train_steps": 1}
    for folder, before, after in (("one", "edit.txt", "text.txt"), ("two", "text.txt", "edit.txt")):
        output = launch(edit_preset(folder=folder, sample_prompts=str(tmp_path / before), **keys))
        more = {**keys, "max_train_steps": 2, "resume": str(output / "fused-state")}
        launch(edit_preset(folder=folder, sample_prompts=str(tmp_path / after), **more))
        assert [entry["step"] for entry in log_of(output)] == [1, 2]
