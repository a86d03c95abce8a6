"""What a run writes: LoRA files, states, logs, pictures."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from danceopd_ext.lora.read import read_lora
from danceopd_ext.toolkits.native.journal import Journal
from tests.tiny.loras import layout_of
from tests.tiny.presets import write_preset
from tests.toolkits.conftest import log_of

QUICK = {"max_train_steps": 2, "rollout_steps": 2, "gradient_accumulation_steps": 1}


@pytest.fixture
def ran(pipelines, two_teachers, launch, tmp_path):
    """Run a tiny preset with these keys and return its output folder."""

    def ran(teachers=None, family="z_image", name="run", **keys):
        teachers = two_teachers[family] if teachers is None else teachers
        return launch(write_preset(tmp_path / name, pipelines[family], teachers, **{**QUICK, **keys}))

    return ran


def steps_of(output, ending):
    return sorted(int(path.name[10:18]) for path in output.glob(f"fused-step*{ending}"))


# --- LoRA files and states


def test_all_saves_are_kept_by_default(ran):
    output = ran(max_train_steps=7, save_every_n_steps=2, save_state=True)
    assert steps_of(output, ".safetensors") == [2, 4, 6]
    assert steps_of(output, "-state") == [2, 4, 6]
    assert (output / "fused.safetensors").is_file() and (output / "fused-state").is_dir()


def test_saves_of_the_last_steps_are_kept(ran):
    """As sd-scripts counts: at step 10, those of the last 4 steps are 6, 8 and 10."""
    output = ran(
        max_train_steps=11, save_every_n_steps=2, save_last_n_steps=4, save_last_n_steps_state=2, save_state=True
    )
    assert steps_of(output, ".safetensors") == [6, 8, 10]
    assert steps_of(output, "-state") == [8, 10]


def test_states_follow_the_loras(ran):
    output = ran(max_train_steps=7, save_every_n_steps=1, save_last_n_steps=2, save_state=True)
    assert steps_of(output, "-state") == steps_of(output, ".safetensors") == [4, 5, 6]


def test_files_of_others_are_left_alone(ran, tmp_path):
    output = tmp_path / "run" / "output"
    output.mkdir(parents=True)
    others = [output / "other-step00000001.safetensors", output / "fused-step00000001.png"]
    for other in others:
        other.write_text("", encoding="utf-8")
    ran(max_train_steps=5, save_every_n_steps=1, save_last_n_steps=1)
    assert all(other.is_file() for other in others)


def test_no_state_unless_asked(ran):
    assert not [*ran(save_every_n_steps=1).glob("*-state")]
    assert [p.name for p in ran(save_state_on_train_end=True, name="end").glob("*-state")] == ["fused-state"]


FORMATS = {
    ("sd3", "kohya"): "lora_unet_joint_blocks_0_",
    ("sd3", "diffusers"): "transformer.transformer_blocks.0.",
    ("sd3", "comfyui"): "diffusion_model.joint_blocks.0.",
    ("sd3", "auto"): "transformer.transformer_blocks.0.",
    ("z_image", "kohya"): "lora_unet_layers_0_",
    ("z_image", "diffusers"): "transformer.layers.0.",
    ("z_image", "comfyui"): "diffusion_model.layers.0.",
    ("z_image", "safetensors"): "diffusion_model.layers.0.",
}


@pytest.mark.parametrize(("family", "format"), FORMATS)
def test_formats(ran, pipelines, family, format):
    """Each has its own names, and each is the same LoRA."""
    output = ran(family=family, save_model_as=format, save_state_on_train_end=True)
    assert any(key.startswith(FORMATS[family, format]) for key in load_file(output / "fused.safetensors"))
    student = load_file(output / "fused-state" / "student.safetensors")
    found = read_lora(output / "fused.safetensors", layout_of(pipelines[family]))
    for layer, change in found.modules.items():
        expected = student[f"{layer}.up"] @ student[f"{layer}.down"]
        assert torch.allclose(change.delta(), expected, atol=1e-6), layer
    assert len(found.modules) == len(student) // 2


@pytest.mark.parametrize(
    ("word", "dtype"), [("float", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_save_precision(ran, word, dtype):
    assert {t.dtype for t in load_file(ran(save_precision=word) / "fused.safetensors").values()} == {dtype}


def test_alpha_is_folded_in(ran, pipelines):
    """A student trained with alpha 1 at rank 4 is saved at a quarter, so that strength 1 means what was trained."""
    output = ran(network_alpha=1.0, save_state_on_train_end=True)
    student = load_file(output / "fused-state" / "student.safetensors")
    for layer, change in read_lora(output / "fused.safetensors", layout_of(pipelines["z_image"])).modules.items():
        assert torch.allclose(change.delta(), student[f"{layer}.up"] @ student[f"{layer}.down"] / 4, atol=1e-6)


def test_metadata(ran, loras, tmp_path):
    teachers = {"style": {"lora": str(loras["z_image", 0]), "strength": 0.5}, "base": {"guidance_scale": 3.0}}
    output = ran(
        teachers, network_alpha=2.0, metadata_author="me", metadata_title="A title", metadata_trigger_phrase="xyz",
        metadata_license="CC0", metadata_tags="a,b", metadata_description="what", training_comment="why",
    )  # fmt: skip
    with safe_open(output / "fused.safetensors", "pt") as file:
        entries = file.metadata()
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "4.0",
        "ss_output_name": "A title",
        "ss_steps": "2",
        "ss_seed": "7",
        "ss_optimizer": "AdamW",
        "ss_training_comment": "why",
        "ss_danceopd_method": "danceopd",
        "ss_danceopd_query": "low_noise",
        "ss_resolution": "(16, 16)",
        "modelspec.architecture": "z-image/lora",
        "modelspec.title": "A title",
        "modelspec.author": "me",
        "modelspec.license": "CC0",
        "modelspec.tags": "a,b",
        "modelspec.description": "what",
        "modelspec.trigger_phrase": "xyz",
        "modelspec.resolution": "16x16",
    }
    assert {key: entries.get(key) for key in expected} == expected
    assert json.loads(entries["ss_danceopd_teachers"]) == {"style": "z_image_0 x0.5", "base": "guidance 3"}
    assert "style (z_image_0 x0.5)" in entries["modelspec.merged_from"]
    for key, value in entries.items():
        assert str(tmp_path) not in value and "/tmp" not in value, key
        assert "/" not in value or key == "modelspec.architecture", f"{key} holds a path: {value}"


def test_a_route_that_is_never_drawn_needs_no_data(ran, two_teachers, tmp_path):
    prompts = tmp_path / "two.txt"
    prompts.write_text("a cat\n", encoding="utf-8")
    output = ran(prompts={"two": str(prompts)}, routes={"one": 0.0})
    assert {entry["route"] for entry in log_of(output)} == {"two"}


# --- logs


def test_log(ran):
    output = ran(max_train_steps=5, train_batch_size=2, learning_rate=0.01, lr_scheduler="linear")
    log = log_of(output)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5]
    assert [entry["learning_rate"] for entry in log] == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])
    for entry in log:
        assert entry["route"] in ("one", "two")
        assert entry["loss"] > 0 and entry["grad_norm"] > 0 and entry["seconds"] > 0
        assert 0 < entry["query_sigma"] <= 1
        assert entry["samples"] == 2
        assert 0 <= entry["rollout_forwards_per_sample"] <= 1


def test_a_new_run_starts_a_new_log(ran, tmp_path):
    output = ran(max_train_steps=3)
    assert len(log_of(output)) == 3
    ran(max_train_steps=2)
    assert [entry["step"] for entry in log_of(output)] == [1, 2]


def test_half_a_log_line_of_a_killed_run_is_dropped(ran, launch, tmp_path):
    output = ran(max_train_steps=4, save_every_n_steps=2, save_state=True)
    with open(output / "fused.log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 5, "rou')
    launch(tmp_path / "run" / "preset.toml", "--resume", output / "fused-step00000002-state")
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3, 4]


def test_tensorboard(ran, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    pictures = {"sample_prompts": str(tmp_path / "samples.txt"), "sample_every_n_steps": 2}
    output = ran(max_train_steps=3, log_with="tensorboard", **pictures)
    (file,) = (output / "logs" / "fused").rglob("events*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([e["loss"] for e in log_of(output)])
    assert {"loss/one", "loss/two"} & set(events.Tags()["scalars"])
    assert events.Images("samples")


# --- pictures


def test_pictures(ran, tmp_path):
    (tmp_path / "samples.txt").write_text(
        "# previews\na red cat --w 16 --h 16 --s 2\na dog --n a tree --w 24 --h 16 --s 2 --l 3 --d 5\n",
        encoding="utf-8",
    )
    keys = {"sample_prompts": str(tmp_path / "samples.txt"), "sample_every_n_steps": 2, "sample_at_first": True}
    output = ran(max_train_steps=3, **keys)
    found = sorted(path.name for path in (output / "sample").iterdir())
    assert found == [f"fused-step0000000{step}.png" for step in (0, 2, 3)]
    pictures = [Image.open(output / "sample" / name) for name in found]
    assert len({picture.size for picture in pictures}) == 1
    assert len({picture.tobytes() for picture in pictures}) == 3, "the student's column does not change"
    again = ran(max_train_steps=3, name="again", **keys)
    for name in found:
        assert Image.open(again / "sample" / name).tobytes() == Image.open(output / "sample" / name).tobytes()


def test_pictures_do_not_change_the_run(ran, tmp_path):
    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    keys = {"network_dropout": 0.3}
    with_pictures = ran(sample_prompts=str(tmp_path / "samples.txt"), sample_every_n_steps=1, name="with", **keys)
    without = ran(name="without", **keys)
    assert [e["loss"] for e in log_of(with_pictures)] == [e["loss"] for e in log_of(without)]


def test_prompts_without_an_interval_are_told(ran, tmp_path, capsys):
    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    output = ran(sample_prompts=str(tmp_path / "samples.txt"))
    assert "set sample_every_n_steps" in capsys.readouterr().out
    assert not (output / "sample").exists()


# --- the method's options and the data


def test_several_queries(ran):
    log = log_of(ran(num_queries=2, rollout_steps=4))
    for entry in log:
        assert (entry["student_forwards_per_sample"], entry["teacher_forwards_per_sample"]) == (2.0, 2.0)


@pytest.mark.parametrize("query", ["mid_noise", "high_noise", "uniform", "stratified"])
def test_queries(ran, query):
    assert len(log_of(ran(query=query))) == 2


def test_rollout_batch_size(ran):
    """One by one or together: the forwards are counted in samples, and the losses are equal."""
    alone, together = (
        log_of(ran(train_batch_size=3, rollout_steps=4, name=str(size), rollout_batch_size=size)) for size in (1, None)
    )
    assert [e["loss"] for e in alone] == pytest.approx([e["loss"] for e in together], rel=1e-4)
    forwards = [[e["rollout_forwards_per_sample"] for e in log] for log in (alone, together)]
    assert forwards[0] == forwards[1]


def test_several_sizes_in_one_step(ran):
    output = ran(resolution=["16", "24,16", "16,24"], gradient_accumulation_steps=6, max_train_steps=3)
    assert [entry["samples"] for entry in log_of(output)] == [6, 6, 6]


@pytest.mark.parametrize("form", ["inline", "dotted", "table"])
def test_dataset_and_prompts_together(ran, two_teachers, tmp_path, form, capsys):
    """One route's captions come from a folder, the other's from a prompt file, and one has both."""
    for name, text in (("cats", "red cat"), ("dogs", "blue dog")):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.txt").write_text(f"{text} {number}", encoding="utf-8")
    words = {
        "inline": 'custom_attributes = { teacher = "NAME" }',
        "dotted": 'custom_attributes.teacher = "NAME"',
        "table": '[datasets.subsets.custom_attributes]\nteacher = "NAME"',
    }[form]
    subsets = [
        f"[[datasets.subsets]]\nimage_dir = '{tmp_path / folder}'\nnum_repeats = 2\n{words.replace('NAME', teacher)}\n"
        for folder, teacher in (("cats", "one"), ("dogs", "two"))
    ]
    config = tmp_path / "dataset.toml"
    config.write_text(
        "[[datasets]]\nresolution = 16\ncaption_extension = '.txt'\n" + "".join(subsets), encoding="utf-8"
    )
    more = tmp_path / "more.txt"
    more.write_text("old house\n", encoding="utf-8")
    output = ran(dataset_config=str(config), prompts={"two": str(more)}, max_train_steps=4)
    told = capsys.readouterr().out
    assert "one: 50% of the steps, 2 prompts" in told
    assert "two: 50% of the steps, 3 prompts" in told
    assert len(log_of(output)) == 4


def test_bf16_on_a_cpu(ran):
    output = ran(mixed_precision="bf16", save_precision="bf16", max_train_steps=3, gradient_checkpointing=True)
    assert len(log_of(output)) == 3
    assert all(entry["loss"] > 0 for entry in log_of(output))


def test_accelerates_own_accumulation_is_ignored(ran, monkeypatch):
    """`accelerate config` may have stored a number of accumulated batches; the preset's counts."""
    expected = [entry["grad_norm"] for entry in log_of(ran(name="plain"))]
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    assert [entry["grad_norm"] for entry in log_of(ran(name="configured"))] == expected


def test_resume_with_another_learning_rate(ran, launch, tmp_path):
    output = ran(max_train_steps=4, save_every_n_steps=2, save_state=True)
    launch(tmp_path / "run" / "preset.toml", "--resume", output / "fused-step00000002-state", "--learning_rate", "1e-4")
    assert [entry["learning_rate"] for entry in log_of(output)] == [1e-2, 1e-2, 1e-4, 1e-4]


def test_every_step_drops_out_something_else(ran, monkeypatch):
    seeds, record = [], Journal.record

    def spy(*arguments):
        seeds.append(torch.initial_seed())
        record(*arguments)

    monkeypatch.setattr(Journal, "record", spy)
    ran(max_train_steps=4, network_dropout=0.5)
    assert len(set(seeds)) == 4


def test_text_cache_is_used_again(ran, capsys, tmp_path):
    keys = {"text_encoder_cache_dir": str(tmp_path / "cache")}
    ran(**keys)
    assert "encoded" in capsys.readouterr().out
    ran(name="again", **keys)
    assert "encoded" not in capsys.readouterr().out
