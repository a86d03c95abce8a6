"""Finds the base and the teachers that the tables compare, as `scripts/demo_pretrain.py` makes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.demo import FOLDER
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_folder
from danceopd_ext.foreign.json import read_object

PIPELINE_CLASS = "ZImageOmniPipeline"
BASE, STYLE = "base", "style"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Pretrained:
    """Pretrained models: `pipeline/` (the base), `loras/NAME.safetensors` and `style/` (a whole transformer)."""

    folder: Path

    @property
    def pipeline(self) -> Path:
        return self.folder / "pipeline"

    @property
    def style(self) -> Path:
        """Return the folder of the style's transformer."""
        return self.folder / STYLE

    def file(self, name: str) -> Path:
        """Return the weights file of a model."""
        if name == BASE:
            return self.pipeline / "transformer" / WEIGHTS
        if name == STYLE:
            return self.style / WEIGHTS
        return self.folder / "loras" / f"{name}.safetensors"

    def teacher(self, name: str, out: Path) -> Path:
        """Return what a preset names as `lora` or `checkpoint`.

        For the style that is a pipeline folder in `out` with its transformer alone: the trainer reads a transformer
        from such a folder only.
        """
        if name != STYLE:
            return self.file(name)
        folder = out / f"{STYLE}-{self.digest(STYLE)}"
        if not folder.is_dir():
            with whole_folder(folder) as part:
                shutil.copytree(self.style, part / "transformer")
                shutil.copy(self.pipeline / "model_index.json", part)
        return folder

    def digest(self, name: str) -> str:
        """Return a digest that distinguishes the weights of models with the same name."""
        return fingerprint([self.file(name)])


def find_pretrained(folder: Path | None, needed: Iterable[str]) -> Pretrained:
    """Return the models in `folder`, by default the embedded demo's.

    Raises UserError, naming the file and the command that makes it, if a needed one is missing.
    """
    pretrained = Pretrained(folder or FOLDER)
    for name in (BASE, *needed):
        if not pretrained.file(name).is_file():
            raise UserError(
                f"{pretrained.file(name)} is missing ({name}). `python scripts/demo_pretrain.py --out "
                f"{pretrained.folder}` makes it. Or give the folder that contains it with --sources."
            )
    if not _edits(pretrained.pipeline):
        raise UserError(f"{pretrained.pipeline / 'model_index.json'} is not a {PIPELINE_CLASS}, so it cannot edit.")
    return pretrained


def _edits(pipeline: Path) -> bool:
    """Return whether a folder holds a pipeline that edits."""
    try:
        return read_object(pipeline / "model_index.json").get("_class_name") == PIPELINE_CLASS
    except UserError:
        return False
