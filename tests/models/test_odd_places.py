"""Names of models that are not there, are no files, or could be a repository on the Hub; models in parts."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.engine.checks import check_transformer
from danceopd_ext.errors import UserError
from danceopd_ext.models import model_files
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.recognising import checkpoint_keys


def refused(call, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


@pytest.mark.parametrize("key", ["pretrained_model_name_or_path", "checkpoint"])
@pytest.mark.parametrize("where", ["models/sd3", "my_models/sd3", "sd3/base.safetensors", "checkpoints/a"])
def test_a_path_that_is_not_here_is_not_asked_for(where, key, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_files, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    message = refused(find_model_files, where, key=key)
    assert f"{where} ({key}) was not found" in message and "does not exist either" in message


def test_components_that_are_not_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_files, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    name = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
    save_file({name: torch.ones(2, 2)}, tmp_path / "one.safetensors")
    message = refused(find_model_files, "one.safetensors", components_from="models/sd3", model_type="sd3")
    assert "models/sd3 (components_from) was not found" in message


def test_a_name_that_can_be_both(monkeypatch, tmp_path):
    from huggingface_hub.errors import RepositoryNotFoundError

    def gone(*_, **__):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_files, "snapshot_download", gone)
    message = refused(find_model_files, "flux/base")
    assert message.startswith("flux/base (pretrained_model_name_or_path) is not a local file or folder")
    assert "it has no repository flux/base" in message and f"the current folder is {tmp_path}" in message


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
def test_models_that_never_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device")):
        assert kind in refused(find_model_files, str(tmp_path / f"{name}.safetensors"))
        assert kind in refused(checkpoint_keys, tmp_path / f"{name}.safetensors")


PARTS = {
    "a list": [],
    "no map": {"metadata": {}},
    "a map that is a list": {"weight_map": []},
    "a map of numbers": {"weight_map": {"a": 1}},
    "a part that is missing": {"weight_map": {"a": "model-00002-of-00002.safetensors"}},
    "a part elsewhere": {"weight_map": {"a": "../transformer/diffusion_pytorch_model.safetensors"}},
    "no part": {"weight_map": {"a": ""}},
}


@pytest.mark.parametrize("index", PARTS.values(), ids=PARTS)
def test_an_index_of_parts_that_are_not_there(index, pipelines, tmp_path):
    model = shutil.copytree(pipelines["sd3"], tmp_path / "model")
    source = find_model_files(str(model))
    check_transformer(source)
    file = model / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text(json.dumps(index), encoding="utf-8")
    message = refused(check_transformer, source)
    assert file.name in message and "Download the model again" in message


def test_an_index_of_the_parts_that_are_there(pipelines, tmp_path):
    model = shutil.copytree(pipelines["sd3"], tmp_path / "model")
    file = model / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text('{"weight_map": {"a": "diffusion_pytorch_model.safetensors"}}', encoding="utf-8")
    check_transformer(find_model_files(str(model)))
