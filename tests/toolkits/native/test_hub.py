"""A run of a hub model: what is wrong is told before its weights are downloaded, which happens once."""

from __future__ import annotations

import pytest

from tests.tiny.edit_world import write_edits
from tests.tiny.families.sd3 import sd3_pipeline
from tests.tiny.hub import Hub, put_up
from tests.tiny.pipelines import ALL
from tests.tiny.presets import write_preset
from tests.tiny.single_file import to_single_file
from tests.toolkits.runs import BASE, QUICK, same_tensors, says

MODEL, TUNED, OTHER, SMALL = "someone/sd3", "someone/tuned", "someone/z-image", "someone/small"
LORA = "fused.safetensors"


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A model of another size."""
    pipeline, folder = sd3_pipeline(), tmp_path_factory.mktemp("small") / "model"
    pipeline.transformer = type(pipeline.transformer).from_config({**pipeline.transformer.config, "num_layers": 2})
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """A model of the same size and other numbers."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    sd3_pipeline(seed=5).save_pretrained(folder)
    return folder


@pytest.fixture
def hub(monkeypatch, pipelines, small, tuned, tmp_path):
    models = {MODEL: pipelines["sd3"], TUNED: tuned, OTHER: pipelines["z_image"], SMALL: small}
    return put_up(monkeypatch, Hub(models, tmp_path / "cache"))


@pytest.fixture
def preset(tmp_path):
    """Write a preset of two updates of the hub model, or of another."""

    def preset(teachers=BASE, folder="run", model=MODEL, **keys):
        return write_preset(tmp_path / folder, model, teachers, **{**QUICK, **keys})

    return preset


# --- what is wrong


def test_an_edit_route_on_a_model_that_cannot_edit(hub, preset, refused, tmp_path):
    edits = {"base": write_edits(tmp_path, "base", "red cat")}
    says(refused(preset(prompts=edits)), "base.csv, line 2", "source image", "draws from text alone")
    assert hub.downloaded == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"prompts": {"base": "nowhere.txt"}}, "nowhere.txt"),
        ({"resolution": 17}, "17"),
        ({"model_type": "z_image"}, 'model_type = "z_image"'),
        ({"lora_targets": ["nothing"]}, "lora_targets: no layer"),
        ({"network_weights": "nowhere.safetensors"}, "network_weights"),
        ({"sample_prompts": "nowhere.txt", "sample_at_first": True}, "nowhere.txt"),
        ({"resume": "nowhere"}, "nowhere (resume) is not a state folder"),
    ],
)
def test_a_wrong_key(hub, preset, refused, keys, told):
    assert told in refused(preset(**keys))
    assert hub.downloaded == []


@pytest.mark.parametrize("name", [OTHER, SMALL, "someone/nobody"])
def test_a_teacher_on_the_hub_that_does_not_fit(hub, preset, refused, name):
    says(refused(preset({"real": {"checkpoint": name}})), "[danceopd.teachers.real]", name)
    assert hub.downloaded == []


def test_a_lora_for_another_model(hub, preset, refused, loras):
    says(refused(preset({"style": {"lora": str(loras["z_image", 0])}})), "Use a LoRA made for")
    assert hub.downloaded == []


def test_a_model_that_the_hub_does_not_have(hub, preset, refused):
    message = refused(preset(model="someone/nobody"))
    says(
        message, "someone/nobody (pretrained_model_name_or_path) is not a local file or folder", "404", "hf auth login"
    )


def test_a_state_of_other_settings(hub, preset, launch, refused):
    state = launch(preset(save_state=True)) / "fused-state"
    hub.downloaded.clear()
    says(refused(preset(resume=str(state), seed=8, max_train_steps=3)), "seed was 7 and is 8")
    assert hub.downloaded == []


def test_a_state_of_a_model_that_was_trained_again_under_its_name(hub, preset, launch, refused, tuned):
    """Only the weights tell."""
    state = launch(preset(save_state=True)) / "fused-state"
    hub.models[MODEL] = tuned
    says(refused(preset(resume=str(state), max_train_steps=3)), "had other weights under this name")


def test_a_download_that_breaks_off(hub, preset, refused, monkeypatch):
    def broken(name, **more):
        raise OSError("No space left on device")

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", broken)
    says(refused(preset()), MODEL, "No space left on device", "the free disk space")


def test_half_of_the_weights(hub, preset, refused, monkeypatch):
    """As a library leaves them that takes what is cached for the whole."""
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda name, **more: hub.cache / "snapshots" / name)
    says(refused(preset()), "transformer has no weights", "download the model again")


# --- what is right


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_is_that_of_the_same_folders(hub, preset, launch, pipelines, tuned, moved):
    """Each model is downloaded once, and used where the download says that it is."""
    hub.moved = moved
    guided = {"guidance_scale": 2.0}
    output = launch(preset({**BASE, "a": {"checkpoint": TUNED}, "b": {"checkpoint": TUNED, **guided}}))
    assert sorted(hub.downloaded) == [MODEL, TUNED]
    teachers = {**BASE, "a": {"checkpoint": str(tuned)}, "b": {"checkpoint": str(tuned), **guided}}
    local = launch(preset(teachers, "local", pipelines["sd3"]))
    assert same_tensors(output / LORA, local / LORA)
    assert len(hub.downloaded) == 2


def test_a_base_that_is_its_own_teacher(hub, preset, launch):
    launch(preset({"a": {"checkpoint": MODEL}}))
    assert hub.downloaded == [MODEL]


def test_a_run_is_continued(hub, preset, launch):
    state = launch(preset(save_state=True)) / "fused-state"
    launch(preset(resume=str(state), max_train_steps=3))
    assert hub.downloaded == [MODEL, MODEL]


def test_a_single_file_as_teacher_of_a_hub_model(hub, preset, launch, tmp_path):
    """It takes the base's configuration."""
    hub.moved = True
    file = to_single_file("sd3", ALL["sd3"](3).transformer, tmp_path / "one.safetensors")
    launch(preset({"a": {"checkpoint": str(file)}}))
    assert hub.downloaded == [MODEL]


# --- merges


def test_a_merge_of_loras_needs_no_weights(hub, preset, launch, two_teachers):
    launch(preset(two_teachers["sd3"], method="merge_average"))
    assert hub.downloaded == []


def test_a_merge_with_a_checkpoint(hub, preset, launch, refused, pipelines, tuned):
    keys = {"method": "merge_average"}
    output = launch(preset({"a": {"checkpoint": TUNED, "extract_rank": 2}}, **keys))
    assert hub.downloaded == [MODEL, TUNED]
    local = launch(preset({"a": {"checkpoint": str(tuned), "extract_rank": 2}}, "local", pipelines["sd3"], **keys))
    assert same_tensors(output / LORA, local / LORA)
