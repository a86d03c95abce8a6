"""What --lora says."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.engine.digests import lora_digest
from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.loras import parse_loras, read_loras
from tests.tiny.loras import layout_of, write_random_lora


def test_a_name_has_files_with_strengths():
    assert parse_loras(["a=x.safetensors", "b=y@0.5,z@-1,u@v.pt"]) == {
        "a": (("x.safetensors", 1.0),),
        "b": (("y", 0.5), ("z", -1.0), ("u@v.pt", 1.0)),
    }


def test_commas_and_marks_in_the_names_of_files_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("red, green.safetensors", "at@2"):
        (tmp_path / name).touch()
    found = parse_loras(["a=x,red, green.safetensors@0.5,y", "b=at@2", "c=at@2@3"])
    assert found["a"] == (("x", 1.0), ("red, green.safetensors", 0.5), ("y", 1.0))
    assert found["b"] == (("at@2", 1.0),)
    assert found["c"] == (("at@2", 3.0),)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["x.safetensors"], "write NAME=FILE"),
        (["=x"], "write NAME=FILE"),
        (["a/b=x"], "write NAME=FILE"),
        (["a\nb=x"], "write NAME=FILE"),
        (["a="], "the file is missing"),
        (["a=x,,y"], "the file is missing"),
        (["a=x@nan"], "a finite number"),
        (["base=x"], 'the folder "base" has another use'),
        (["Cache=x"], 'the folder "cache" has another use'),
        (["a=x", "a=y"], 'the name "a" is already used'),
        (["Fused=x", "fused=y"], 'the name "Fused" is already used'),
    ],
)
def test_what_cannot_be_meant_is_refused(texts, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_loras(texts)
    assert f"--lora {texts[-1]}:" in str(caught.value)


def test_a_lora_that_cannot_be_read_is_named_by_its_option(tmp_path, sd3):
    with pytest.raises(UserError, match=r"^--lora style: .*none\.safetensors"):
        read_loras({"style": ((str(tmp_path / "none.safetensors"), 1.0),)}, layout_of(sd3[0]))


def test_the_text_encoders_part_can_be_left_out(tmp_path, sd3):
    model, _ = sd3
    plain = write_random_lora(tmp_path / "plain.safetensors", model, seed=1)
    whole = tmp_path / "whole.safetensors"
    part = {f"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{end}.weight" for end in ("down", "up")}
    save_file(load_file(plain) | {name: torch.ones(2, 2) for name in part}, whole)
    layout, asked = layout_of(model), {"kohya": ((str(whole), 1.0),)}
    with pytest.raises(UserError, match=r"--lora kohya: .*--ignore_text_encoder"):
        read_loras(asked, layout)
    found = read_loras(asked, layout, ignore_text_encoder=True)["kohya"]
    assert lora_digest(found) == lora_digest(read_loras({"a": ((str(plain), 1.0),)}, layout)["a"])
