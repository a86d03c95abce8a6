"""Decides whether a toolkit's folder may run, before any of it is imported, and reports in one line which one runs.

Importing a toolkit runs its code, and a stranger's preset can come with a folder that looks like a toolkit. Nothing in
a folder proves what it is: a clone can be changed and packed with its .git. So the decision depends on who names it:

- `--toolkit_dir`, SD_SCRIPTS_DIR or MUSUBI_TUNER_DIR: the user names it, and it runs.
- The current directory: the user chose it. A git clone of the toolkit runs; a release runs unless the preset is in it.
- `toolkit_dir` in a preset: the preset's author names it. A clone or a release runs, unless it is in the preset's
  folder or the preset is in it: then they may have come together.

A clone has a remote whose repository has the toolkit's name (kohya-ss' or a fork), or is at a commit that was tested. A
release is the toolkit's packaging without git. `--allow_local_code` lets any folder run.
"""

from __future__ import annotations

import re
from pathlib import Path

from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.config.local_code import FLAG
from danceopd_ext.config.toolkits import TOOLKITS
from danceopd_ext.errors import UserError, printable
from danceopd_ext.toolkits.hosted.checkout import Checkout
from danceopd_ext.toolkits.hosted.git_files import read_commit, read_remotes, read_small


def require_trusted(checkout: Checkout, preset: HostedPreset, cwd: Path | None = None) -> str:
    """Return the line that says which checkout runs. Raises UserError for one that only runs if the user names it."""
    by_preset = checkout.named_by == "toolkit_dir" and not preset.toolkit_dir_is_told
    named_by_user = checkout.named_by and not by_preset
    kind = kind_of(checkout)
    if not named_by_user and not preset.allow_local_code:
        folder, here = checkout.folder.resolve(), (cwd or Path.cwd()).resolve()
        _refuse_unknown(checkout, kind, preset.path)
        together = _is_together(folder, preset.path.resolve())
        if together and not (folder == here and kind.startswith("git clone")):
            raise UserError(_refusal(checkout, preset.path, f"it may have come with {preset.path}"))
    named = f"toolkit_dir in {preset.path}" if by_preset else "--toolkit_dir"
    where = named if checkout.named_by == "toolkit_dir" else checkout.named_by
    by = f", named by {where}" if where else ", the current directory"
    tested = "tested" if checkout.tested else "not tested"
    return printable(
        f"{checkout.toolkit} runs from {checkout.folder} ({kind or 'not a git clone or release'}; version "
        f"{checkout.version}, {tested}){by}"
    )


def kind_of(checkout: Checkout) -> str:
    """Return what the folder looks like: "git clone of owner/name", "release", or "" for neither."""
    source = TOOLKITS[checkout.toolkit].checkout
    remotes = [name for name in read_remotes(checkout.folder) if name.rpartition("/")[2].lower() == checkout.toolkit]
    commit = read_commit(checkout.folder)
    if remotes and commit:
        return f"git clone of {remotes[0]}"
    if any(commit == one.commit for one in source.tested):
        return "git clone"
    file, pattern = source.packaging
    packaged = re.search(pattern, read_small(checkout.folder / file))
    return "release" if packaged and not (checkout.folder / ".git").exists() else ""


def _refuse_unknown(checkout: Checkout, kind: str, preset: Path) -> None:
    if not kind:
        raise UserError(_refusal(checkout, preset, f"it is not a git clone or a release of {checkout.toolkit}"))


def _is_together(folder: Path, preset: Path) -> bool:
    """Return whether the checkout is in the preset's folder, or the preset in the checkout."""
    return folder.is_relative_to(preset.parent) or preset.is_relative_to(folder)


def _refusal(checkout: Checkout, preset: Path, why: str) -> str:
    who = f"{preset}: toolkit_dir" if checkout.named_by else "the current directory"
    variable = TOOLKITS[checkout.toolkit].checkout.variable
    return (
        f"{who}: running {checkout.toolkit} from {checkout.folder} would run the code in it, and {why}. If you "
        f'trust it, add --toolkit_dir "{checkout.folder}", name it with {variable} in the environment, or add '
        f"{FLAG}."
    )
