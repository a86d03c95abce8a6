"""The whole training state in a folder: a resumed run is the run that was not interrupted.

What is random follows from (seed, step), so weights, optimizer, schedule and step are all there is to save. Folders
appear whole or not at all; every file's digest is in state.json.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_folder

VERSION = 2

#: settings that are digests, in words
CONTENTS = {
    "data": "its prompts, datasets, batch sizes, route weights or number of processes were others",
    "model_content": "pretrained_model_name_or_path had other weights under this name",
    "components_content": "the model's text encoders, scheduler or VAE were others",
    "pictures": "its source images or target pictures showed something else",
    "network_weights": "network_weights was another LoRA, or none",
    "teachers": "the LoRA of teacher {}, or its strength, was another",
    "checkpoint_content": "the checkpoint of teacher {} had other weights under this name",
}


@dataclass(frozen=True)
class SavedState:
    """A state folder that is whole. `step`: optimizer steps done. `identity`: what its run was.

    `trackers`: tracker -> the id of the run there.
    """

    folder: Path
    step: int
    identity: Mapping[str, object]
    trackers: Mapping[str, str] = field(default_factory=dict)

    def check(self, identity: Mapping[str, object]) -> None:
        """Raise UserError where something in `identity`, all or a part of this run's, was otherwise."""
        _check_same_run(self.folder, self.identity, json.loads(json.dumps(identity)))

    def unknown(self, identity: Mapping[str, object]) -> list[str]:
        """Settings that an earlier version did not write down, so that nobody can tell whether they were the same."""
        return [key for key in identity if key not in self.identity]

    def student(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "student.safetensors")

    def optimizer(self) -> dict[str, Any]:
        """Optimizer, schedule and scaler. Raises UserError when they cannot be read without running code from them."""
        file = self.folder / "optimizer.pt"
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise UserError(f"{file} (resume) cannot be read: use an earlier state.") from error


def save_state(
    folder: Path,
    step: int,
    identity: Mapping[str, object],
    student: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, Any],
    trackers: Mapping[str, str],
) -> None:
    """Write a state folder, whole or not at all. `optimizer`: optimizer, schedule and gradient scaler states."""
    with whole_folder(folder) as part:
        tensors = {name: t.detach().cpu().contiguous() for name, t in student.items()}
        save_file(tensors, part / "student.safetensors")
        with open(part / "optimizer.pt", "wb") as file:  # with a path torch does not say why it cannot write
            torch.save(dict(optimizer), file)
        digests = {file.name: _digest(file) for file in sorted(part.iterdir())}
        facts = {"version": VERSION, "step": step, "identity": identity, "trackers": trackers, "sha256": digests}
        (part / "state.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def open_state(folder: Path, identity: Mapping[str, object], max_train_steps: int) -> SavedState:
    """Check a state folder against what is known of this run. Raises UserError when it is damaged or of another."""
    try:
        facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise UserError(f"{folder} (resume) was written by another version of danceopd_ext.")
        saved, step, digests = facts["identity"], int(facts["step"]), facts["sha256"]
        trackers = dict(facts.get("trackers") or {})
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} (resume) is not a state folder: it has no state.json.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'state.json'} (resume) is damaged ({error}): use an earlier state.") from error
    for name, digest in digests.items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise UserError(f"{folder / name} (resume) is missing or damaged: use an earlier state.")
    state = SavedState(folder, step, saved, trackers)
    state.check(identity)
    if step >= max_train_steps:
        raise UserError(f"{folder} (resume) has done {step} steps: raise max_train_steps = {max_train_steps}.")
    state.optimizer()
    return state


def _check_same_run(folder: Path, saved: Mapping[str, Any], now: dict[str, Any]) -> None:
    different = next((key for key, value in now.items() if key in saved and saved[key] != value), None)
    if different:
        raise UserError(
            f"{folder} (resume) is of another run: {_difference(different, saved[different], now[different])}. Give "
            "the preset its old values, or start a new run from the LoRA with network_weights."
        )


def _difference(key: str, before: Any, now: Any) -> str:
    """The first difference of a setting, in words."""
    name = ""
    if isinstance(now, dict) and isinstance(before, dict):
        name = next(name for name in {**now, **before} if now.get(name) != before.get(name))
        before, now = before.get(name), now.get(name)
    if key in CONTENTS and (key != "teachers" or _same_but_for_digest(before, now)):
        return CONTENTS[key].format(name)
    return f"{key}{name and '.' + name} was {_short(before)} and is {_short(now)}"


def _same_but_for_digest(before: str | None, now: str | None) -> bool:
    """Whether both are teachers with a LoRA, guidance and so on alike."""
    return all(one and one.startswith("LoRA") for one in (before, now)) and before.split(",")[1:] == now.split(",")[1:]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
