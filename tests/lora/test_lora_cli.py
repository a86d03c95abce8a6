"""The commands inspect and convert, and how errors reach the user."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_lora import deltas_equal, keyed, layout, random_lora, save

from danceopd_ext.cli import main, run
from danceopd_ext.demo import FOLDER as DEMO
from danceopd_ext.lora.read import read_lora
from danceopd_ext.models.registry import NAMES

KOHYA = ("lora_unet_{bars}", ".lora_down.weight", ".lora_up.weight")


def kohya_file(path, family: str = "sd3", more: dict | None = None, metadata: dict | None = None):
    tensors = keyed(random_lora(family).modules, *KOHYA, alpha=1.5) | (more or {})
    return save(path, tensors, metadata)


def test_inspect(tmp_path, capsys):
    file = kohya_file(tmp_path / "x.safetensors", metadata={"ss_output_name": "Stil für Räume ✓"})
    assert run(main, ["inspect", str(file)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for expected in (
        "family Stable Diffusion 3", "prefix lora_unet_; diffusers names", "layers 36 in the file", "ranks 3 ",
        "alpha 1.5", "dtype float32", "does not fit nothing", "usable yes", "ss_output_name Stil für Räume ✓",
    ):  # fmt: skip
        assert expected in told, expected


def test_inspect_tells_what_does_not_fit(tmp_path, capsys):
    file = kohya_file(tmp_path / "x.safetensors", more={"strange.key": torch.ones(1)})
    assert run(main, ["inspect", str(file)]) == 0
    told = capsys.readouterr().out
    assert "does not fit  strange.key" in told and "no: " in told


@pytest.mark.parametrize("words", [["inspect"], ["convert", "y.safetensors", "--to", "kohya"]])
def test_a_file_that_is_no_lora(words, tmp_path, capsys):
    """A part of a model, or of a training state."""
    file = save(tmp_path / "x.safetensors", {"single_transformer_blocks.0.attn.to_q.weight": torch.ones(4, 4)})
    code = run(main, [words[0], str(file), *words[1:]])
    told = capsys.readouterr()
    assert code == (0 if words == ["inspect"] else 2)
    assert "not a LoRA: it has no LoRA tensors" in told.out + told.err
    assert "family" not in told.out + told.err


def test_inspect_another_family(tmp_path, capsys):
    tensors = {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.ones(2, 4)}
    assert run(main, ["inspect", str(save(tmp_path / "x.safetensors", tensors))]) == 0
    assert "Wan (not supported)" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["sd3", "z_image", "flux", "flux_2", "qwen_image"])
@pytest.mark.parametrize("to", ["kohya", "diffusers", "comfyui"])
def test_convert(family, to, tmp_path, capsys):
    file, out = kohya_file(tmp_path / "x.safetensors", family), tmp_path / "new" / "y.safetensors"
    assert run(main, ["convert", str(file), str(out), "--to", to]) == 0
    assert deltas_equal(read_lora(out, layout(family)), random_lora(family), 0.5)
    prefix = {"kohya": "lora_unet_", "diffusers": "transformer.", "comfyui": "diffusion_model."}[to]
    assert all(key.startswith(prefix) for key in load_file(out))
    assert "y.safetensors" in capsys.readouterr().out


def test_convert_with_rank_and_dtype(tmp_path):
    file, out = kohya_file(tmp_path / "x.safetensors"), tmp_path / "y.safetensors"
    assert run(main, ["convert", str(file), str(out), "--to", "diffusers", "--rank", "2", "--dtype", "bf16"]) == 0
    tensors = load_file(out)
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    assert {value.shape[0] for key, value in tensors.items() if "lora_A" in key} == {2}


def test_wrong_input_is_one_message_and_code_2(tmp_path, capsys):
    file = save(tmp_path / "x.safetensors", {"lora_unet_down_blocks_0.lora_up.weight": torch.ones(1, 1)})
    for arguments in (
        ["inspect", str(tmp_path / "missing.safetensors")],
        ["convert", str(file), str(tmp_path / "y.safetensors"), "--to", "kohya"],
        ["convert", str(file), str(file), "--to", "kohya"],
    ):
        assert run(main, arguments) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("error: ") and told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_that_is_too_long_is_one_message(capsys):
    assert run(main, ["inspect", "a cat on a wall " * 20]) == 2
    assert capsys.readouterr().err.startswith("error: a cat on a wall a cat")


@pytest.mark.parametrize("arguments", [[], ["convert", "a", "b"], ["convert", "a", "b", "--to", "x"], ["inspect"]])
def test_wrong_arguments_are_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run(main, arguments)
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


def test_a_fault_of_ours_is_not_hidden():
    def broken(_):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run(broken, [])


def test_as_a_program_on_a_console_without_unicode(tmp_path):
    file = kohya_file(tmp_path / "x.safetensors", metadata={"modelspec.title": "绘画 ✓"})
    command = [sys.executable, "-m", "danceopd_ext", "inspect", str(file)]
    done = subprocess.run(command, capture_output=True, env={"PYTHONIOENCODING": "cp1252", **_environment()})
    assert done.returncode == 0, done.stderr
    assert "绘画 ✓" in done.stdout.decode("utf-8")


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_the_demos_loras_are_usable_and_convert(tmp_path, capsys):
    """Z-Image-Omni has the layers of Z-Image and more, for what its vision encoder sees."""
    file, out = DEMO / "loras" / "edit.safetensors", tmp_path / "y.safetensors"
    assert run(main, ["inspect", str(file)]) == 0
    told = capsys.readouterr().out
    assert "family        Z-Image-Omni" in told and "usable        yes" in told
    assert run(main, ["convert", str(file), str(out), "--to", "kohya"]) == 0
    names = NAMES["z_image_omni"].reference_layout()
    assert deltas_equal(read_lora(out, names), read_lora(file, names))
