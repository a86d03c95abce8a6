"""Models on the hub: the small files come with the search, the weights with `fetch`."""

import shutil

import pytest
import torch
from huggingface_hub import constants

from danceopd_ext.errors import UserError
from danceopd_ext.models.loading import load_layout, load_scheduler, load_transformer, load_vae
from danceopd_ext.models.model_files import CHECKED_FILES, fetch, find_model_files
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.text_pipeline import load_text_pipeline
from tests.tiny.hub import Hub, put_up
from tests.tiny.pipelines import ALL, save_any
from tests.tiny.single_file import to_single_file
from tests.tiny.split_files import save_both

ID = "someone/some-model"


@pytest.fixture
def hub(monkeypatch, folder, tmp_path):
    return put_up(monkeypatch, Hub({ID: folder}, tmp_path / "cache"))


def files(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_the_small_files_tell_all_but_the_weights(hub, folder):
    source, local = find_model_files(ID), find_model_files(str(folder))
    assert (source.name, source.hub, source.family) == (ID, ID, local.family)
    assert files(source.components) == set(CHECKED_FILES)
    assert source.vae_scale_factor == local.vae_scale_factor
    (layout, config), (expected, same) = load_layout(source), load_layout(local)
    assert (layout.shapes, config) == (expected.shapes, same)
    assert hub.downloaded == []


@pytest.mark.parametrize("moved", [False, True])
def test_the_weights_come_once_and_from_where_they_are(hub, folder, moved):
    hub.moved = moved
    source = fetch(find_model_files(ID))
    assert hub.downloaded == [ID]
    assert (source.name, source.hub) == (ID, None)
    assert source.transformer == source.components == hub.cache / ("moved" if moved else "snapshots") / ID
    assert files(source.components) == files(folder)
    load_transformer(source, torch.float32)
    load_vae(source, torch.float32)
    load_scheduler(source)
    assert fetch(source) is source
    assert hub.downloaded == [ID]


def test_what_is_here_is_not_fetched(hub, folder):
    source = find_model_files(str(folder))
    assert source.hub is None
    assert fetch(source) is source
    assert hub.downloaded == []


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("moved", [False, True])
def test_what_a_single_file_lacks(given, moved, monkeypatch, tmp_path):
    folder = save_any("sd3", tmp_path / "model")
    where = ID if given else FAMILIES["sd3"].default_components
    hub = put_up(monkeypatch, Hub({where: folder}, tmp_path / "cache", moved))
    file = to_single_file("sd3", ALL["sd3"]().transformer, tmp_path / "one.safetensors")
    source = find_model_files(str(file), components_from=ID if given else None)
    assert (source.name, source.hub, source.transformer) == ("one", where, file)
    assert hub.downloaded == []
    source = fetch(source)
    assert hub.downloaded == [where]
    assert (source.hub, source.transformer) == (None, file)
    weights = {file for file in files(folder) if file.startswith("transformer/") and file.endswith(".safetensors")}
    assert weights and files(source.components) == files(folder) - weights, "the transformer is here already"
    load_transformer(source, torch.float32)
    load_text_pipeline(source, torch.float32, "cpu")


def test_a_download_that_breaks_off(monkeypatch, tmp_path):
    hub = put_up(monkeypatch, Hub({ID: save_any("sd3", tmp_path / "model")}, tmp_path / "cache"))
    source = find_model_files(ID)
    hub.models.clear()
    with pytest.raises(
        UserError, match=rf"{ID}: the model could not be downloaded completely \(404 .*Check your connection"
    ):
        fetch(source)


def test_a_repository_of_something_else(monkeypatch, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "lora.safetensors").touch()
    put_up(monkeypatch, Hub({ID: tmp_path / "lora"}, tmp_path / "cache"))
    with pytest.raises(UserError, match=rf"{ID} \(checkpoint\): its model_index.json is not on the hub"):
        find_model_files(ID, key="checkpoint")


# --- the libraries' own functions, without a connection


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The folder of ID in the cache of an earlier download, empty."""
    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "cache" / "models--someone--some-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    return model / "snapshots" / commit


def test_a_cached_model_needs_no_connection(cached, folder):
    shutil.copytree(folder, cached, dirs_exist_ok=True)
    source = find_model_files(ID)
    assert (source.name, source.family) == (ID, find_model_files(str(folder)).family)
    source = fetch(source)
    assert source.components.resolve() == cached.resolve()
    load_transformer(source, torch.float32)


def test_the_small_files_of_an_earlier_run_need_no_connection(cached, tmp_path):
    """With every part as a file of its own."""
    _, small, files = save_both("sd3", tmp_path)
    shutil.copytree(small, cached, dirs_exist_ok=True)
    source = find_model_files(files.pop("pretrained_model_name_or_path"), components_from=ID, parts=files)
    assert source.hub == ID
    source = fetch(source)
    assert source.components.resolve() == cached.resolve()
    load_text_pipeline(source, torch.float32, "cpu")
    load_vae(source, torch.float32)


def test_a_model_that_was_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        UserError, match=rf"{ID} .*is not a local file or folder, and it could not be downloaded from the hub \("
    ):
        find_model_files(ID)


def test_a_model_of_which_one_file_was_downloaded(cached):
    (cached / "lora.safetensors").touch()
    with pytest.raises(UserError, match="if you have no connection, it has not been downloaded yet"):
        find_model_files(ID)
