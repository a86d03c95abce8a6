"""NaN and changed bytes in what a run reads: the file or tensor is named before training, or encoded again."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.cli import run
from danceopd_ext.engine import model as engine_model
from danceopd_ext.engine.finite_checks import check_adapters
from danceopd_ext.errors import UserError
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.toolkits.run import main
from tests.toolkits.runs import BASE, forget_accelerate, same_tensors, says

ONE = {"max_train_steps": 2, "save_state": True}


def break_weight(folder, ending: str = "", wrong: float = float("nan"), place: int = -1) -> str:
    """Put one wrong number into a weight of a model's part; return the weight's name."""
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith(ending))
    tensors[name].view(-1)[place] = wrong
    save_file(tensors, file, {"format": "pt"})
    return name


@pytest.fixture
def model(pipelines, tmp_path):
    """A copy of the tiny SD3 that may be broken."""
    return shutil.copytree(pipelines["sd3"], tmp_path / "model")


@pytest.fixture
def said(capsys):
    """Run a preset that is wrong and return its one message; caches may have been written by then."""

    def said(preset, *arguments: object) -> str:
        forget_accelerate()
        assert run(main, ["--config", str(preset), *map(str, arguments)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "learning_rate" not in line
        assert not [*preset.parent.glob("output/*.safetensors")]
        return line

    return said


def test_a_base_with_nan(changed, model, said):
    name = break_weight(model / "transformer", ".weight")
    says(said(changed(model=model)), model, name, "NaN or infinite", "download it again")


def test_a_checkpoint_teacher_with_infinity(changed, model, said):
    name = break_weight(model / "transformer", ".bias", float("inf"))
    for more in ({}, {"extract_rank": 2}):
        message = said(changed({"real": {"checkpoint": str(model)}}, **{"output_name": f"o{len(more)}"}))
        says(message, model, name, "NaN or infinite")


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_text_encoder_with_nan(changed, model, said, part):
    name = break_weight(model / part, "final_layer_norm.weight")
    says(said(changed(model=model)), 'the prompt ""', name, model / part, "download it again")


def test_a_text_encoder_that_overflows(changed, said, monkeypatch):
    """Its weights are finite: what it makes of one prompt is not."""
    load = engine_model.load_text_pipeline

    def loaded(source, *rest):
        encode = source.family.encode_prompts

        def overflows(pipeline, prompts, *given):
            found = encode(pipeline, prompts, *given)
            for item, prompt in zip(found, prompts, strict=True):
                if prompt.endswith("big"):
                    next(iter(item.values())).fill_(float("inf"))
            return found

        monkeypatch.setattr(source.family, "encode_prompts", overflows, raising=False)
        return load(source, *rest)

    monkeypatch.setattr(engine_model, "load_text_pipeline", loaded)
    message = said(changed())
    says(message, 'the prompt "red cat red cat red cat big"', "NaN or infinite", "weights of text_encoder")


def test_a_vae_with_nan(changed, model, said, pictures):
    name = break_weight(model / "vae", "encoder.conv_out.weight", place=0)
    teachers = {"one": {}, "two": {}}
    message = said(changed(teachers, model=model, method="joint", prompts=pictures))
    says(message, "the picture", name, model / "vae", "download it again")


def test_a_lora_that_is_too_large_for_the_number_format():
    """Finite in its file, infinite in float16."""
    base = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4).half()})
    for strength, is_right in ((1.0, True), (100.0, False)):
        adapters = Adapters(base)
        lora = Lora({"to_q": LowRank(torch.ones(1, 4), torch.full((4, 1), 1000.0 * strength))})
        adapters.add(f"at_{strength:.0f}", lora)
        check = partial(check_adapters, adapters, {f"at_{strength:.0f}": "[danceopd.teachers.a]"}, "fp16")
        if is_right:
            check()
        else:
            with pytest.raises(UserError, match=r"teachers.a\]: its change of to_q is infinite in fp16.*bf16"):
                check()


@pytest.mark.parametrize("where", ["student.safetensors", "optimizer.pt"])
def test_a_state_with_nan(changed, ran, said, where):
    """Its digests are right: the training that wrote it broke down."""
    import hashlib

    output = ran(BASE, family="sd3", name="run", **ONE)
    state, file = output / "fused-state", output / "fused-state" / where
    if where == "student.safetensors":
        tensors = load_file(file)
        tensors[sorted(tensors)[0]][0, 0] = float("nan")
        save_file(tensors, file)
    else:
        held = torch.load(file, weights_only=True)
        held["optimizer"]["state"][0]["exp_avg"][0, 0] = float("nan")
        torch.save(held, file)
    facts = json.loads((state / "state.json").read_text(encoding="utf-8"))
    facts["sha256"][where] = hashlib.sha256(file.read_bytes()).hexdigest()
    (state / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    for path in output.glob("*.safetensors"):
        path.unlink()
    preset = output.parent / "preset.toml"
    says(said(preset, "--resume", state, "--max_train_steps", 4), file, "NaN or infinite", "earlier state")


# --- caches whose bytes have changed


def entries(folder):
    return sorted(folder.rglob("*.safetensors"))


def flip_a_bit(path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flipped", "old", "nan"])
def test_a_changed_cache_is_encoded_again_and_changes_nothing(ran, pictures, tmp_path, capsys, damage):
    """Encoded prompts and pictures alike."""
    keys = {"family": "sd3", "method": "joint", "prompts": pictures, "teachers": {"one": {}, "two": {}}}
    keys |= {"text_encoder_cache_dir": str(tmp_path / "cache"), "max_train_steps": 2, "overwrite": True}
    first = ran(name="first", **keys)
    files = entries(tmp_path / "cache")
    for path in files:
        if damage == "flipped":
            flip_a_bit(path)
        else:
            tensors = load_file(path)
            if damage == "nan":
                next(iter(tensors.values())).view(-1)[0] = float("nan")
            with_text = {"text": _text_of(path)}
            save_file(tensors, path, with_text)
    capsys.readouterr()
    second = ran(name="second", **keys)
    told = capsys.readouterr().out
    words = "damaged" if damage == "flipped" else "without a digest"
    assert told.count(words) == 2 and "encoded prompts are" in told and "encoded pictures are" in told
    assert entries(tmp_path / "cache") == files
    assert same_tensors(first / "fused.safetensors", second / "fused.safetensors")
    ran(name="third", **keys)
    assert words not in capsys.readouterr().out


def _text_of(path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()["text"]
