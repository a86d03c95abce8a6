"""A stand-in for the hub and its cache on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import diffusers
import pytest

from danceopd_ext.models import model_files


class Hub:
    """`models`: id -> folder. `cache`: where what is asked for lies. `downloaded`: ids of whole models, in order.

    `moved`: whether whole models lie elsewhere than the small files that came first.
    """

    def __init__(self, models: Mapping[str, Path], cache: Path, moved: bool = False):
        self.models, self.cache, self.moved = dict(models), cache, moved
        self.downloaded: list[str] = []

    def snapshot_download(self, name: str, *, allow_patterns: list[str], revision: str | None = None) -> str:
        """`revision`: that of the folder of the whole model."""
        assert revision in (None, Path(name).name)
        return str(self._copy(name, self._whole(name) if revision else self.cache / "snapshots" / name, allow_patterns))

    def download(self, name: str, *, use_safetensors: bool, trust_remote_code: bool, **passed: None) -> Path:
        """`passed`: parts that are not downloaded, as the user has them."""
        assert use_safetensors and trust_remote_code is False
        self.downloaded.append(name)
        return self._copy(name, self._whole(name), ["*"], passed)

    def _whole(self, name: str) -> Path:
        return self.cache / ("moved" if self.moved else "snapshots") / name

    def _copy(self, name: str, folder: Path, patterns: list[str], without: Iterable[str] = ()) -> Path:
        if name not in self.models:
            raise OSError(f"404 Client Error: no {name}")
        folder.mkdir(parents=True, exist_ok=True)
        for file in _files(self.models[name]):
            if any(fnmatch(file, pattern) for pattern in patterns) and file.split("/")[0] not in without:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.models[name] / file, folder / file)
        return folder


def _files(folder: Path) -> Iterator[str]:
    return (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def put_up(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Hub:
    """Put the stand-in where the libraries' own functions are called."""
    monkeypatch.setattr(model_files, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", hub.download)
    return hub
