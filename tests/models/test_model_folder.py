"""A model folder from a stranger runs no code: our border refuses it, and the libraries would not run it either."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import diffusers
import pytest
import torch
from packaging.version import Version

from danceopd_ext.errors import UserError
from danceopd_ext.models.configuration import library_class
from danceopd_ext.models.loading import load_scheduler, load_transformer, load_vae
from danceopd_ext.models.model_files import ModelFiles, fetch, find_model_files
from danceopd_ext.models.model_folder import check_folder
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.text_pipeline import load_text_pipeline
from scripts.campaigns.hostile_models import CODES, copy, longest
from tests.tiny.hub import Hub, put_up

#: those that only work if a template is rendered: see test_limited_process.py
RENDERED = ("chat template that leaves its sandbox",)
OPENED = {name: make for name, make in CODES.items() if name not in RENDERED}
#: diffusers before 0.42 imports any module that a model names and Python finds; there only our border stands
RUN_BY_OLD = ("module in the working directory",) if Version(diffusers.__version__) < Version("0.42") else ()


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """What the code would make, in the working directory, which is on sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "ran"


@pytest.fixture
def model(pipelines, tmp_path) -> Path:
    return copy(pipelines["z_image"], tmp_path / "model")


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.mark.parametrize("name", OPENED)
def test_a_folder_with_code_is_refused(model, marker, name):
    OPENED[name](model, marker)
    with pytest.raises(UserError) as error:
        find_model_files(str(model))
    assert str(model) in str(error.value) and "It was not opened" in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", [name for name in OPENED if name not in RUN_BY_OLD])
def test_the_libraries_run_none_of_it_either(model, marker, name, monkeypatch):
    """What passes the border all the same is not run: the libraries are told that no code of a model may."""
    OPENED[name](model, marker)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user is asked whether code may run"))
    source = ModelFiles(FAMILIES["z_image"], model, model, "model")
    for load in (
        load_scheduler,
        lambda s: load_vae(s, torch.float32),
        lambda s: load_text_pipeline(s, torch.float32, "cpu"),
    ):
        with contextlib.suppress(UserError, TypeError, AttributeError):
            load(source)
    assert not marker.exists()


@pytest.mark.parametrize("name", OPENED)
def test_a_model_on_the_hub_is_checked_when_its_files_are_here(model, marker, name, monkeypatch, tmp_path):
    OPENED[name](model, marker)
    hub = put_up(monkeypatch, Hub({"someone/model": model}, tmp_path / "cache"))
    with pytest.raises(UserError, match="It was not opened"):
        fetch(find_model_files("someone/model"))
    assert len(hub.downloaded) <= 1
    assert not marker.exists()


def test_what_is_handed_to_the_libraries(pipelines, monkeypatch):
    """No version has to guess: trust_remote_code is false, and weights are safetensors."""
    asked = {}

    def spy(cls, name):
        original = getattr(cls, name)
        monkeypatch.setattr(
            cls, name, lambda *a, **k: (asked.setdefault(f"{cls.__name__}.{name}", k), original(*a, **k))[1]
        )

    for cls in ("ZImagePipeline", "ZImageTransformer2DModel", "AutoencoderKL"):
        spy(library_class(cls), "from_pretrained")
    source = find_model_files(str(pipelines["z_image"]))
    load_text_pipeline(source, torch.float32, "cpu")
    load_transformer(source, torch.float32)
    load_vae(source, torch.float32)
    assert asked["ZImagePipeline.from_pretrained"]["trust_remote_code"] is False
    assert {keys["use_safetensors"] for keys in asked.values()} == {True} and len(asked) == 3


def test_sound_folders_of_every_family_pass(folder):
    check_folder(folder)


@pytest.mark.parametrize(
    "value",
    [
        ["torch", "load"], ["diffusers"], ["diffusers", "A", "B"], ["diffusers", None], [None, "A"], ["a.b", "C"],
        ["diffusers", "pipelines.X"], ["diffusers", "__class__"], ["transformers", "AutoModelForCausalLM"],
        ["diffusers", "AutoPipelineForText2Image"], ["", ""],
    ],
)  # fmt: skip
def test_a_part_is_a_plain_class_of_the_two_libraries(model, value):
    change(model / "model_index.json", text_encoder=value)
    with pytest.raises(UserError, match="text_encoder is"):
        check_folder(model)


def test_a_tokenizer_may_be_named_by_what_finds_its_class(model):
    """It finds plain classes only, as a folder with auto_map is refused."""
    change(model / "model_index.json", tokenizer=["transformers", "AutoTokenizer"])
    check_folder(model)


@pytest.mark.parametrize("value", [[None, None], 1, True, "text", [10, 20, 30], None, {"a": ["b", "c"]}])
def test_settings_of_a_pipeline_are_no_parts(model, value):
    change(model / "model_index.json", setting=value)
    check_folder(model)


@pytest.mark.parametrize("name", ["../outside", "a/b", "a b"])
def test_a_part_has_the_name_of_a_folder(model, name):
    change(model / "model_index.json", **{name: ["transformers", "Qwen3Model"]})
    with pytest.raises(UserError, match="It was not opened"):
        check_folder(model)


@pytest.mark.parametrize(
    "place", ["config.json", "text_encoder/generation_config.json", "tokenizer/processor_config.json"]
)
@pytest.mark.parametrize(
    "settings", [{"auto_map": {"A": "b.C"}}, {"deep": [{"auto_map": ["b"]}]}, {"x": {"_attn_implementation": "a/b"}}]
)
def test_settings_of_any_part_name_no_code(model, place, settings):
    (model / place).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="code"):
        check_folder(model)


def test_settings_that_name_nothing_pass(model):
    change(model / "text_encoder" / "config.json", auto_map={}, _attn_implementation="sdpa")
    change(model / "tokenizer" / "tokenizer_config.json", model_max_length=int(1e30))
    check_folder(model)


@pytest.mark.parametrize("value", ["all", 0, -5, True, [77], {}, float("nan"), 0.5])
def test_a_length_that_is_none(model, marker, value):
    longest(model, marker)
    change(model / "tokenizer" / "tokenizer_config.json", model_max_length=value)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: model_max_length is "):
        check_folder(model)


def test_a_tokenizer_of_unlikely_size(model, monkeypatch):
    monkeypatch.setattr("danceopd_ext.models.model_folder.LARGEST_TOKENIZER", 100_000)
    with open(model / "tokenizer" / "tokenizer.json", "ab") as file:
        file.truncate(100_001)
    with pytest.raises(UserError, match=r"tokenizer\.json has more than"):
        check_folder(model)


@pytest.mark.parametrize("text", ["[]", "7", "{", '"' + "x" * 10, "[" * 5000])
def test_settings_that_are_no_object_are_a_message_or_pass(model, text):
    (model / "text_encoder" / "config.json").write_text(text, encoding="utf-8")
    try:
        check_folder(model)
    except UserError as error:
        assert "config.json: not valid JSON" in str(error)


def test_weights_that_are_pickles_are_not_read(model):
    (model / "text_encoder" / "model.safetensors").unlink()
    (model / "text_encoder" / "pytorch_model.bin").write_bytes(b"pickle")
    from danceopd_ext.engine.checks import check_weights

    with pytest.raises(UserError, match=r"A \.bin file can run code"):
        check_weights(find_model_files(str(model)))
    with pytest.raises(UserError):
        load_text_pipeline(ModelFiles(FAMILIES["z_image"], model, model, "model"), torch.float32, "cpu")
