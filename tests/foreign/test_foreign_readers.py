"""Every reader of foreign text in the package ends with a UserError that names the file, whatever the file holds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from danceopd_ext.config import load_preset
from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.data.dataset_toml import read_dataset_config
from danceopd_ext.data.prompt_entries import read_sample_file
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.data.table_rows import read_rows
from danceopd_ext.errors import UserError
from danceopd_ext.models.loading import check_parts, load_layout
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.reproduce.entries import read_entries
from danceopd_ext.reproduce.page import facts_of
from danceopd_ext.toolkits.hosted.input_documents import read_document
from danceopd_ext.toolkits.native.state import open_state
from tests.tiny.pipelines import save_any


@dataclass(frozen=True)
class Reader:
    """`file`: what is read, below the test's folder. `read`: gets its path. `forms`: which of BAD can be in it."""

    file: str
    read: Callable[[Path], object]
    forms: str
    more: tuple[str, ...] = ()
    """Texts that are right by their form, and wrong in this place."""


def dataset(path: Path) -> object:
    return read_dataset_config(path, ["base"])


def beside(key: str) -> Callable[[Path], object]:
    """Read a dataset configuration that names the file or its folder."""

    def read(path: Path) -> object:
        place = path if key == "metadata_file" else path.parent
        (path.parent / "dataset.toml").write_text(
            f"[[datasets]]\nresolution = 64\n[[datasets.subsets]]\n{key} = '{place.as_posix()}'\n", encoding="utf-8"
        )
        return dataset(path.parent / "dataset.toml")

    return read


def model(path: Path) -> object:
    source = find_model_files(str(next(folder for folder in path.parents if folder.name == "model")))
    check_parts(source)
    return load_layout(source)


OBJECT = ("[]", "5", "null", '"a"', "true", "[[]]", "[{}]")
SUBSETS = "[[datasets]]\nresolution = 64\nsubsets = "
READERS = {
    "preset": Reader("preset.toml", load_preset, "toml", ("danceopd = 5", "model = []")),
    "hosted preset": Reader("preset.toml", split_preset, "toml"),
    "dataset": Reader("dataset.toml", dataset, "toml", ("datasets = 5", "datasets = [[1]]", SUBSETS + "[5]")),
    "dataset in JSON": Reader("dataset.json", dataset, "json", (*OBJECT, '{"datasets": null}', '{"datasets": [5]}')),
    "metadata": Reader("meta.json", beside("metadata_file"), "json", (*OBJECT, '{"a": 5}', '{"a": {"caption": [1]}}')),
    "metadata lines": Reader("meta.jsonl", beside("metadata_file"), "json", (*OBJECT, '{"image_path": 5}')),
    "caption": Reader("a.caption", beside("image_dir"), "text"),
    "prompts": Reader("prompts.txt", lambda path: read_prompts(path, [(64, 64)]), "text"),
    "prompts in CSV": Reader("prompts.csv", lambda path: read_prompts(path, [(64, 64)]), "csv"),
    "prompts in JSON": Reader("prompts.jsonl", lambda path: read_prompts(path, [(64, 64)]), "json", (*OBJECT, "{}")),
    "sample prompts": Reader("samples.txt", read_sample_file, "text"),
    "sample prompts in TOML": Reader("samples.toml", read_sample_file, "toml", ("prompt = 5", "[prompt]\nsubset = 5")),
    "sample prompts in JSON": Reader(
        "samples.json", read_sample_file, "json", ("{}", "5", "null", "[5]", "[[]]", "[{}]")
    ),
    "benchmark": Reader("rows.jsonl", lambda path: list(read_rows(path)), "json", OBJECT),
    "model index": Reader("model/model_index.json", model, "json", (*OBJECT, '{"_class_name": []}')),
    "transformer": Reader("model/transformer/config.json", model, "json", (*OBJECT, '{"num_layers": []}')),
    "vae": Reader("model/vae/config.json", model, "json", (*OBJECT, '{"block_out_channels": 5}')),
    "scheduler": Reader("model/scheduler/scheduler_config.json", model, "json", (*OBJECT, '{"shift": "3"}')),
    "text encoder": Reader("model/text_encoder/config.json", model, "json", OBJECT),
    "state": Reader("state.json", lambda path: open_state(path.parent, {}, 10), "json", (*OBJECT, '{"version": 2}')),
    "hosted document": Reader("data.json", lambda path: read_document(path, "document"), "json", OBJECT),
    "hosted document in TOML": Reader("data.toml", lambda path: read_document(path, "document"), "toml"),
    "numbers": Reader("table1.csv", read_entries, "csv", ("label\nx", "label,seed,beta\nx,y,z")),
    "facts": Reader("table1.json", lambda path: facts_of("table1", path.parent), "json", (*OBJECT, "{}")),
}

JSON = {
    "deep": "[" * 50_000,
    "deep objects": '{"a":' * 2000 + "1" + "}" * 2000,
    "many digits": f'{{"a": {"1" * 5000}}}',
    "large": f'{{"a": {2**70}}}',
    "infinite": '{"a": 1e400}',
    "not a number": '{"a": NaN}',
    "half a letter": r'{"a": "\ud800"}',
    "null character": r'{"a": "\u0000"}',
    "cut off": '{"a": ',
    "no JSON": "a: b",
}
TOML = {
    "deep": "a = " + "[" * 50_000,
    "deep tables": "a = " + "{a = " * 2000 + "1" + "}" * 2000,
    "parts": f"a{'.a' * 100_000} = 1",
    "many digits": f"a = {'1' * 5000}",
    "large": f"a = {2**70}",
    "infinite": "a = 1e400",
    "not a number": "a = nan",
    "null character": r'a = "\u0000"',
    "cut off": 'a = "',
    "no TOML": "a: b",
}
CSV = {
    "header not closed": '"prompt\na cat\n',
    "field not closed": 'prompt\n"a cat\n',
    "long field": f"prompt\n{'a' * 200_000}\n",
    "twice": "prompt,prompt\na,b\n",
}
BYTES = {
    "UTF-16": "a cat".encode("utf-16"),
    "UTF-16 without a mark": "a cat".encode("utf-16-be"),
    "UTF-32": "a cat".encode("utf-32"),
    "another code page": "a fête".encode("latin-1"),
    "zeros": b"\0" * 100,
}
FORMS = {"json": JSON, "toml": TOML, "csv": CSV, "text": {}}


def cases():
    for name, reader in READERS.items():
        more = {text[:40]: text for text in reader.more}
        for what, content in {**BYTES, **FORMS[reader.forms], **more}.items():
            yield pytest.param(reader, content, id=f"{name}: {what!r}")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_any("sd3", tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture
def place(tmp_path, model_folder, monkeypatch):
    """Put the reader's file beside what else it needs; returns its path."""
    monkeypatch.chdir(tmp_path)

    def place(reader: Reader) -> Path:
        path = tmp_path / reader.file
        if reader.file.startswith("model/"):
            shutil.copytree(model_folder, tmp_path / "model")
        path.parent.mkdir(exist_ok=True)
        return path

    return place


def refused(reader: Reader, path: Path) -> None:
    with pytest.raises(UserError) as error:
        reader.read(path)
    message = str(error.value)
    assert path.name in message or f"{path.parent} (resume)" in message
    assert len(message) < 2500 and message.isprintable()


@pytest.mark.parametrize(("reader", "content"), cases())
def test_a_bad_document_is_named(place, reader, content):
    path = place(reader)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(reader, path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("reader", [pytest.param(reader, id=name) for name, reader in READERS.items()])
def test_what_is_no_ordinary_file_is_not_read(place, reader, kind):
    path = place(reader)
    path.unlink(missing_ok=True)
    make = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}
    make[kind](path)
    with pytest.raises(UserError) as error:
        reader.read(path)
    assert str(path.parent) in str(error.value)


@pytest.mark.parametrize("name", ["prompts", "sample prompts", "caption"])
def test_a_line_may_be_long(place, name):
    path = place(READERS[name])
    path.write_text("a cat " * 20_000, encoding="utf-8")
    assert READERS[name].read(path)


def test_deep_metadata_that_nobody_reads_is_no_error(place):
    reader = READERS["metadata"]
    path = place(reader)
    path.write_text(json.dumps({"a.png": {"caption": "a cat", "extra": json.loads("[" * 100 + "]" * 100)}}))
    routes, _ = reader.read(path)
    assert [item.text for item in routes["base"]] == ["a cat"]
