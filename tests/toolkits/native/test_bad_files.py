"""Files that are missing, damaged, dangerous or of something else are refused, and nothing is written."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
from safetensors.torch import load_file, save_file

from danceopd_ext.toolkits.run import main
from tests.tiny.families.sd3 import sd3_pipeline
from tests.tiny.presets import write_preset
from tests.toolkits.runs import BASE, log_of, says

# --- LoRA files


def test_missing_lora(changed, refused, loras):
    missing = loras["sd3", 0].with_name("sd3_9.safetensors")
    says(refused(changed({"style": {"lora": str(missing)}})), "[danceopd.teachers.style]", missing, "sd3_")


def test_truncated_lora(changed, refused, loras, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(loras["sd3", 0].read_bytes()[:-100])
    says(refused(changed({"style": {"lora": str(path)}})), path, "truncated", "download")


@pytest.mark.parametrize(("family", "other", "name"), [("z_image", "sd3", "SD3"), ("sd3", "z_image", "Z-Image")])
@pytest.mark.parametrize("place", [0, 1])
def test_lora_of_another_family(changed, refused, loras, family, other, name, place):
    file = loras[other, place]
    message = refused(changed({"style": {"lora": str(file)}}, family=family))
    says(message, file, "Use a LoRA made for")
    assert place or name in message or "no key fits" in message


def test_lora_that_half_fits(changed, refused, loras, tmp_path):
    tensors = load_file(loras["sd3", 1])
    moved = {key.replace("transformer_blocks.1", "transformer_blocks.7"): value for key, value in tensors.items()}
    save_file(moved, tmp_path / "half.safetensors")
    message = refused(changed({"style": {"lora": str(tmp_path / "half.safetensors")}}))
    says(message, "half.safetensors", "do not fit", "transformer_blocks.7", "exactly the base model")


def test_lora_with_nan(changed, refused, loras, tmp_path):
    tensors = load_file(loras["sd3", 1])
    key = next(iter(tensors))
    tensors[key][0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    says(refused(changed({"style": {"lora": str(tmp_path / "nan.safetensors")}})), "nan.safetensors", "NaN")


class Bomb:
    """A pickle that makes a file when it is opened without care."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["lora", "checkpoint", "model", "network_weights"])
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_pickle_that_runs_code(changed, refused, tmp_path, where, ending):
    mark, path = tmp_path / "mark", tmp_path / f"bomb{ending}"
    with open(path, "wb") as file:
        pickle.dump({"state_dict": Bomb(mark)}, file)
    if where in ("lora", "checkpoint"):
        made = changed({"style": {where: str(path)}})
    else:
        made = changed(**{"model": path} if where == "model" else {where: str(path)})
    says(refused(made), path.name, "safetensors")
    assert not mark.exists()
    # the bomb is live: opening it without care does run it
    with open(path, "rb") as file:
        pickle.load(file)
    assert mark.is_dir()


# --- the model


def test_missing_model(changed, refused, tmp_path):
    says(refused(changed(model=tmp_path / "no_model")), "no_model", "pretrained_model_name_or_path")


def test_folder_without_a_pipeline(changed, refused, tmp_path):
    (tmp_path / "folder").mkdir()
    says(refused(changed(model=tmp_path / "folder")), tmp_path / "folder", "not a diffusers pipeline")


def test_wrong_model_type(changed, refused):
    says(refused(changed(model_type="z_image")), 'model_type = "z_image"', 'model_type = "sd3"')


def test_half_downloaded_model(changed, refused, pipelines, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(pipelines["sd3"], model)
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    says(refused(changed(model=model)), weights, "download or copy it again")
    weights.unlink()
    says(refused(changed(model=model)), weights.parent, "download the model again")


def test_model_without_a_text_encoder(changed, refused, pipelines, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(pipelines["sd3"], model, ignore=shutil.ignore_patterns("text_encoder_2"))
    says(refused(changed(model=model)), model, "a part of the model cannot be loaded")


def test_checkpoint_teacher_of_another_family(changed, refused, pipelines):
    message = refused(changed({"real": {"checkpoint": str(pipelines["z_image"])}}))
    says(message, "[danceopd.teachers.real]", pipelines["z_image"], "Z-Image")


def test_checkpoint_teacher_of_another_size(changed, refused, tmp_path):
    pipeline = sd3_pipeline()
    pipeline.transformer = type(pipeline.transformer).from_config({**pipeline.transformer.config, "num_layers": 2})
    pipeline.save_pretrained(tmp_path / "small")
    says(refused(changed({"real": {"checkpoint": str(tmp_path / "small")}})), "teachers.real", "another size")


# --- resume


@pytest.fixture(scope="module")
def state(pipelines, tmp_path_factory):
    """A state folder after one of three steps."""
    folder = tmp_path_factory.mktemp("state")
    path = write_preset(folder, pipelines["sd3"], BASE, max_train_steps=1, save_state=True)
    main(["--config", str(path)])
    return folder / "output" / "fused-state"


@pytest.fixture
def resumed(changed, state, refused, tmp_path):
    """Resume a copy of the state after `change(copy)`; return the message."""

    def resumed(change=None, teachers=BASE, **keys):
        copy = tmp_path / "old-state"
        shutil.copytree(state, copy)
        if change:
            change(copy)
        prompts = {"base": str(state.parent.parent / "base.txt")}
        keys = {"prompts": prompts, "max_train_steps": 3, **keys}
        return refused(changed(teachers, resume=str(copy), **keys))

    return resumed


def test_resume_another_run(resumed):
    says(resumed(network_dim=8), "old-state (resume)", "network_dim was 4 and is 8", "network_weights")


def test_resume_with_another_teacher(resumed):
    says(resumed(teachers={"base": {"guidance_scale": 2.0}}), "teachers.base", "guidance 1", "guidance 2")


def test_resume_with_other_data(resumed, tmp_path):
    (tmp_path / "other.txt").write_text("a dog\n", encoding="utf-8")
    says(resumed(prompts={"base": str(tmp_path / "other.txt")}), "old-state (resume)", "prompts")


def test_resume_what_is_done(resumed):
    says(resumed(max_train_steps=1), "has done 1 steps", "raise max_train_steps")


@pytest.mark.parametrize("name", ["optimizer.pt", "student.safetensors"])
def test_resume_damaged(resumed, name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    says(resumed(damage), name, "damaged", "earlier state")


def test_resume_what_is_not_a_state(resumed):
    says(resumed(lambda folder: (folder / "state.json").unlink()), "not a state folder")


def test_resume_without_a_folder(changed, refused):
    says(refused(changed(resume="nowhere")), "nowhere (resume)", "not a state folder")


def test_resume_a_broken_description(resumed):
    says(resumed(lambda folder: (folder / "state.json").write_text("{")), "state.json", "damaged")


def test_resume_a_pickle_that_runs_code(resumed, tmp_path):
    """Even with fitting digests: a state can come from somebody else."""
    mark = tmp_path / "mark"

    def bomb(folder):
        from danceopd_ext.toolkits.native.state import _digest

        with open(folder / "optimizer.pt", "wb") as file:
            pickle.dump({"optimizer": Bomb(mark)}, file)
        facts = json.loads((folder / "state.json").read_text())
        facts["sha256"]["optimizer.pt"] = _digest(folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(facts))

    says(resumed(bomb), "optimizer.pt", "cannot be read", "earlier state")
    assert not mark.exists()


def test_network_weights_of_another_family(changed, refused, loras):
    message = refused(changed(network_weights=str(loras["z_image", 1])))
    says(message, "network_weights", loras["z_image", 1])


def test_the_same_run_is_not_refused(changed, state, launch):
    """So the refusals above are for their own reasons."""
    prompts = {"base": str(state.parent.parent / "base.txt")}
    output = launch(changed(resume=str(state), prompts=prompts, max_train_steps=2))
    assert [entry["step"] for entry in log_of(output)] == [2]
