"""Saves and opens the training state, from which resuming gives bit-identical results.

Everything random follows from (seed, step), so the state is weights, optimizer, schedule and step. A folder appears
whole or not at all; state.json holds a digest of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_folder
from danceopd_ext.foreign.json import read_object
from danceopd_ext.foreign.tensors import read_header, read_pickle, read_tensors

VERSION = 2
STUDENT_FILE, OPTIMIZER_FILE = "student.safetensors", "optimizer.pt"
#: an upper limit on the steps of a run
MOST_STEPS = 10**9

#: settings that earlier versions did not have -> what they did
LATER = {"quantize": None, "quantize_text_encoders": None}

#: settings that are digests -> what to say if they differ
CONTENTS = {
    "data": "its prompts, datasets, batch sizes, route weights or number of processes were different",
    "model_content": "pretrained_model_name_or_path had other weights under this name",
    "components_content": "the model's text encoders, scheduler or VAE were different",
    "pictures": "its source images or target pictures were different",
    "network_weights": "network_weights was a different LoRA, or none",
    "teachers": "the LoRA of teacher {}, or its strength, was different",
    "checkpoint_content": "the checkpoint of teacher {} had other weights under this name",
}


@dataclass(frozen=True)
class SavedState:
    """A complete state folder. `step`: optimizer steps done. `identity`: the facts of its run.

    `trackers`: tracker -> the id of the run there.
    """

    folder: Path
    step: int
    identity: Mapping[str, object]
    trackers: Mapping[str, str] = field(default_factory=dict)

    def check(self, identity: Mapping[str, object]) -> None:
        """Raise UserError if a fact in `identity`, which may be a part of this run's, was different."""
        _check_same_run(self.folder, self.identity, json.loads(json.dumps(identity)))

    def unknown(self, identity: Mapping[str, object]) -> list[str]:
        """Return the settings that an earlier version did not record, so that they cannot be compared."""
        return [key for key in identity if key not in self.identity and key not in LATER]

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of the student's tensors. Raises UserError for a damaged file."""
        return read_header(self.folder / STUDENT_FILE, "student of the state").shapes

    def student(self) -> dict[str, torch.Tensor]:
        """Return copies of the student's tensors by name. Raises UserError for a damaged file."""
        tensors, _ = read_tensors(self.folder / STUDENT_FILE, "student of the state")
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def optimizer(self) -> dict[str, Any]:
        """Return optimizer, schedule and scaler.

        Raises UserError if the file cannot be read without running its code.
        """
        file = self.folder / OPTIMIZER_FILE
        try:
            content = read_pickle(file, "optimizer of the state")
        except UserError as error:
            raise UserError(f"{file} (resume) cannot be read: use an earlier state. {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{file} (resume) holds a {type(content).__name__}: use an earlier state.")
        return content


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
        save_file(tensors, part / STUDENT_FILE)
        with open(part / OPTIMIZER_FILE, "wb") as file:  # given a path, torch does not say why it cannot write
            torch.save(dict(optimizer), file)
        digests = {file.name: _digest(file) for file in sorted(part.iterdir())}
        facts = {"version": VERSION, "step": step, "identity": identity, "trackers": trackers, "sha256": digests}
        (part / "state.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def open_state(folder: Path, identity: Mapping[str, object], max_train_steps: int) -> SavedState:
    """Check a state folder against what is known of this run. Raises UserError if it is damaged or another run's."""
    facts = _facts(folder)
    for name, digest in facts["sha256"].items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise UserError(f"{folder / name} (resume) is missing or damaged: use an earlier state.")
    state = SavedState(folder, facts["step"], facts["identity"], facts["trackers"])
    state.check(identity)
    if state.step >= max_train_steps:
        raise UserError(f"{folder} (resume) has done {state.step} steps: raise max_train_steps = {max_train_steps}.")
    return state


def _facts(folder: Path) -> dict[str, Any]:
    """Return the content of state.json. Raises UserError unless every entry is present and of its kind."""
    file = folder / "state.json"
    if not os.path.lexists(file):
        raise UserError(f"{folder} (resume) is not a state folder: it has no state.json.")
    try:
        facts = read_object(file, "state")
    except UserError as error:
        raise UserError(f"{file} (resume) is damaged: use an earlier state. {error}") from error
    if facts.get("version") != VERSION:
        raise UserError(f"{folder} (resume) was written by another version of danceopd_ext.")
    facts["trackers"] = facts.get("trackers") or {}
    step, digests = facts.get("step"), facts.get("sha256")
    wrong = {
        "step": not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MOST_STEPS,
        "identity": not isinstance(facts.get("identity"), dict),
        "trackers": not _is_texts(facts["trackers"]),
        "sha256": not _is_texts(digests) or set(digests) != {STUDENT_FILE, OPTIMIZER_FILE},
    }
    if key := next((key for key, is_wrong in wrong.items() if is_wrong), None):
        raise UserError(
            f"{file} (resume) is damaged: {key} = {_short(facts.get(key))} is not valid. Use an earlier state."
        )
    return facts


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _check_same_run(folder: Path, saved: Mapping[str, Any], now: dict[str, Any]) -> None:
    saved = {**LATER, **saved}
    different = next((key for key, value in now.items() if key in saved and saved[key] != value), None)
    if different:
        raise UserError(
            f"{folder} (resume) belongs to another run: {_difference(different, saved[different], now[different])}. "
            "Give "
            "the preset its old values, or start a new run from the LoRA with network_weights."
        )


def _difference(key: str, before: Any, now: Any) -> str:
    """Describe the first difference of a setting."""
    name = ""
    if isinstance(now, dict) and isinstance(before, dict):
        name = next(name for name in {**now, **before} if now.get(name) != before.get(name))
        before, now = before.get(name), now.get(name)
    if key in CONTENTS and (key != "teachers" or _same_but_for_digest(before, now)):
        return CONTENTS[key].format(name)
    return f"{key}{name and '.' + name} was {_short(before)} and is {_short(now)}"


def _same_but_for_digest(before: str | None, now: str | None) -> bool:
    """Whether both are teachers with a LoRA and everything else is equal."""
    alike = all(isinstance(one, str) and one.startswith("LoRA") for one in (before, now))
    return alike and before.split(",")[1:] == now.split(",")[1:]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
