"""One teacher in three dialects of LoRA file is one velocity on musubi's transformer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.errors import UserError
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.write import write_lora
from danceopd_ext.toolkits.hosted.teacher_files import host_layout, linear_layers
from danceopd_ext.toolkits.hosted.teacher_networks import attach_teachers
from danceopd_ext.toolkits.musubi.registry import ARCHITECTURES
from danceopd_ext.toolkits.musubi.teacher_network import network_maker
from tests.integration.musubi.test_edit_runs import write_teacher
from tests.integration.musubi.test_velocities import CASES, apart, velocity

ACCELERATOR = SimpleNamespace(mixed_precision="no", device=torch.device("cpu"), print=lambda *_: None)
#: a case and the architecture that it belongs to
MODELS = {"kontext": "flux_kontext", "flux_2_edit": "flux_2", "qwen": "qwen_image", "qwen_edit": "qwen_image_edit"}


def attach(case, architecture: str, **files: str) -> dict:
    teachers = {name: Teacher(lora=str(file)) for name, file in files.items()}
    options = DanceOPDSection(toolkit="musubi-tuner", teachers=teachers)
    make = network_maker(case.transformer)
    return attach_teachers(
        options, ARCHITECTURES[architecture], make, case.transformer, torch.device("cpu"), torch.float32
    )


@pytest.mark.parametrize("name", MODELS)
def test_kohya_comfyui_and_diffusers_files_give_the_same_velocity(name, tmp_path):
    names = ARCHITECTURES[MODELS[name]].names
    model = SimpleNamespace(network=CASES[name](tmp_path).network.__name__.rpartition(".")[2])
    kohya = write_teacher(model, CASES[name](tmp_path).transformer, tmp_path / "kohya.safetensors")
    case = CASES[name](tmp_path)
    layout = host_layout(names, names.title, linear_layers(case.transformer))
    lora = read_lora(kohya, layout)
    files = {form: write_lora(tmp_path / f"{form}.safetensors", lora, layout, form, dtype=torch.float32)
             for form in ("comfyui", "diffusers")}  # fmt: skip
    networks = attach(case, MODELS[name], kohya=kohya, **files)
    with torch.no_grad():
        base = velocity(CASES[name](tmp_path), case.batch)
        assert torch.equal(velocity(case, case.batch), base)  # all silent
        answers = {}
        for form, network in networks.items():
            network.set_enabled(True)
            answers[form] = velocity(case, case.batch)
            network.set_enabled(False)
        assert torch.equal(velocity(case, case.batch), base)
        alone = CASES[name](tmp_path)
        theirs = alone.network.create_arch_network_from_weights(1.0, _load(kohya), unet=alone.transformer)
        theirs.apply_to(None, alone.transformer, apply_text_encoder=False, apply_unet=True)
        theirs.load_state_dict(_load(kohya), strict=True)
        expected = velocity(alone, alone.batch)
    assert apart(expected, base) > 0.05
    for form, answer in answers.items():
        assert apart(answer, expected) < 1e-5, form


def _load(path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_a_teacher_of_another_model_is_refused(tmp_path):
    model = SimpleNamespace(network="lora_qwen_image")
    file = write_teacher(model, CASES["qwen"](tmp_path).transformer, tmp_path / "qwen.safetensors")
    with pytest.raises(
        UserError,
        match=r"\[danceopd.teachers.style\].*12 of 28 layers do not fit FLUX.1.*looks like a LoRA for Qwen-Image",
    ):
        attach(CASES["kontext"](tmp_path), "flux_kontext", style=file)
