"""Checks and starts TensorBoard and W&B before anything is loaded.

A tracker that does not start would otherwise end the run after minutes of loading and encoding.
"""

from __future__ import annotations

import json
import netrc
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from accelerate import Accelerator

from danceopd_ext.config import Preset
from danceopd_ext.config.schema import SECTIONS, LoggingSection
from danceopd_ext.errors import UserError, first_line, shorten
from danceopd_ext.machine import installed

#: values of log_with -> the trackers
TRACKERS = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "all": ("tensorboard", "wandb"), None: ()}
#: seconds to wait for W&B's server
PATIENCE = 10.0
WITHOUT = "or leave log_with out (a JSONL log is always written)"
OFFLINE = ("offline", "disabled", "dryrun")


@dataclass(frozen=True)
class Checked:
    """The result of the check. offline: W&B's server does not answer, so the run is recorded locally."""

    notes: list[str]
    offline: bool = False


def check_trackers(section: LoggingSection, main: bool) -> Checked:
    """Raise UserError if a tracker is not installed or W&B has no API key; note settings without effect.

    main: whether this is the main process, which alone asks W&B's server.
    """
    wanted = TRACKERS[section.log_with]
    for package in wanted:
        if not installed(package):
            raise UserError(
                f'log_with = "{section.log_with}" needs the package {package}: `pip install {package}`, {WITHOUT}.'
            )
    unreached = check_wandb(main) if "wandb" in wanted else []
    return Checked([*_unused(section, wanted), *unreached], offline=bool(unreached))


def _unused(section: LoggingSection, wanted: tuple[str, ...]) -> list[str]:
    needed = {"logging_dir": "tensorboard", "wandb_run_name": "wandb"}
    return [
        f'{key} is ignored: log_with = "{tracker}" uses it, and it is not set'
        for key, tracker in needed.items()
        if getattr(section, key) and tracker not in wanted
    ]


def check_wandb(main: bool) -> list[str]:
    """Raise UserError if W&B has no API key; return a note if it cannot be reached and the run is recorded offline."""
    import wandb

    settings = wandb.setup().settings
    mode, server = settings.mode or "", settings.base_url
    if mode in OFFLINE or os.environ.get("WANDB_MODE", "") in OFFLINE:
        return []
    if not (getattr(settings, "api_key", None) or has_key(server)):
        raise UserError(
            "log_with: W&B has no API key here. Run `wandb login` once, set WANDB_API_KEY, set WANDB_MODE=offline to "
            f"record the run for a later `wandb sync`, {WITHOUT}."
        )
    problem = unreachable(server) if main else None
    if problem is None:
        return []
    return [f"W&B: {server} does not answer ({problem}). The run is recorded offline; `wandb sync` sends it later"]


def has_key(server: str) -> bool:
    """Return whether the environment or the netrc file has a key for W&B, as `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    places = [os.environ.get("NETRC") or "", *(os.path.expanduser(f"~/{name}") for name in (".netrc", "_netrc"))]
    for place in filter(os.path.isfile, places):
        try:
            known = netrc.netrc(place)
        except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
            continue
        if any(known.authenticators(host) for host in (urlsplit(server).netloc, "api.wandb.ai")):
            return True
    return False


def unreachable(server: str, patience: float = PATIENCE) -> str | None:
    """Return why nothing answers at this address within `patience` seconds; None if there is any answer.

    It runs in a thread of its own, because looking up a name has no time limit.
    """
    told: list[str | None] = [f"no answer in {patience:g} seconds"]

    def ask() -> None:
        try:
            urllib.request.urlopen(server, timeout=patience).close()
            told[0] = None
        except urllib.error.HTTPError:
            told[0] = None
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "reason", problem)  # a certificate that Python does not know is an answer as well
            told[0] = None if isinstance(reason, ssl.SSLError) else shorten(str(reason))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return told[0]


def start_trackers(
    preset: Preset, accelerator: Accelerator, continued: Mapping[str, str], offline: bool
) -> dict[str, str]:
    """Start the trackers and give them the preset's values. Raises UserError if one does not start.

    continued: tracker -> the id of the run that a resumed training goes on with. offline: as in `Checked`. Returns the
    ids of this run.
    """
    section = preset.logging
    if not section.log_with:
        return {}
    Path(preset.saving.output_dir).mkdir(parents=True, exist_ok=True)
    wandb = {"name": section.wandb_run_name or preset.saving.output_name, "dir": preset.saving.output_dir}
    if offline:
        wandb["mode"] = "offline"
    if "wandb" in continued:
        wandb |= {"id": continued["wandb"], "resume": "allow"}
    try:
        accelerator.init_trackers(section.log_tracker_name, hyperparameters(preset), {"wandb": wandb})
    except Exception as problem:  # W&B raises its own errors, by version
        raise UserError(
            f'log_with = "{section.log_with}" does not start ({first_line(problem)}). Mend that, or '
            f"set WANDB_MODE=offline if it is W&B's connection, {WITHOUT}."
        ) from problem
    return {
        tracker.name: str(tracker.tracker.id)
        for tracker in accelerator.trackers
        if tracker.name == "wandb" and accelerator.is_main_process
    }


def hyperparameters(preset: Preset) -> dict[str, int | float | bool | str]:
    """Return the preset's values, flat, in the types that trackers take: `teachers.style.lora` is one key."""
    values: dict[str, int | float | bool | str] = {}
    for section in SECTIONS:
        _flatten(asdict(getattr(preset, section)), "", values)
    return values


def _flatten(table: Mapping[str, object], prefix: str, values: dict[str, int | float | bool | str]) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{key}.", values)
        elif value is None or isinstance(value, (int, float, str)):
            values[prefix + key] = "" if value is None else value
        else:
            values[prefix + key] = json.dumps(value, ensure_ascii=False)
