"""Finds the user's checkout of a toolkit, its version, and whether that version was tested."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from danceopd_ext.config.toolkits import TOOLKITS, CheckoutRules, hosted_toolkits
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.toml import read_toml
from danceopd_ext.toolkits.hosted.git_files import read_commit


def _checkout_rules(toolkit: str) -> CheckoutRules:
    return TOOLKITS[toolkit].checkout


def tested_versions(toolkit: str) -> str:
    """Return the tested versions, for a message."""
    return "; ".join(tested.name for tested in _checkout_rules(toolkit).tested)


@dataclass(frozen=True)
class Checkout:
    """A toolkit's folder. version: for messages; may be "unknown". tested: the version is in the toolkit's row.

    named_by: "toolkit_dir", or the environment variable that names it; "" for the current directory.
    """

    folder: Path
    version: str
    tested: bool
    toolkit: str
    named_by: str = field(default="", compare=False)


def find_toolkit(
    toolkit: str, toolkit_dir: str | None, environ: Mapping[str, str] = os.environ, cwd: Path | None = None
) -> Checkout:
    """Return the checkout: toolkit_dir, else the folder that the environment names, else the current directory.

    Raises UserError if a named folder is not a checkout, or if none of the three is.
    """
    variable, here = _checkout_rules(toolkit).variable, cwd or Path.cwd()
    if toolkit_dir:
        return replace(describe(toolkit, _named(toolkit, toolkit_dir, "toolkit_dir", here)), named_by="toolkit_dir")
    if environ.get(variable):
        return replace(describe(toolkit, _named(toolkit, environ[variable], variable, here)), named_by=variable)
    if _is(toolkit, here):
        return describe(toolkit, here)
    raise UserError(
        f'toolkit = "{toolkit}" needs your checkout of kohya-ss/{toolkit}, which was not found. Name its folder '
        f"with toolkit_dir in [danceopd] (or --toolkit_dir), or with {variable} in the environment, or start from "
        f"inside it.{_hint(toolkit, here)}"
    )


def describe(toolkit: str, folder: Path) -> Checkout:
    """Return the checkout at a folder that is one."""
    commit, number = read_commit(folder), _number(folder)
    known = _checkout_rules(toolkit).tested
    same = [one for one in known if commit == one.commit or (not commit and one.version and number == one.version)]
    if not any(one.version for one in known):
        return Checkout(folder, commit[:8] if commit else "unknown", bool(same), toolkit)
    version = f"{number or 'unknown'} ({commit[:8]})" if commit else number or "unknown"
    return Checkout(folder, version, any(number == one.version for one in same), toolkit)


def version_note(checkout: Checkout) -> str | None:
    """Return a line for the user if the version was not tested; None if it was."""
    if checkout.tested:
        return None
    known = "of an unknown version" if checkout.version == "unknown" else f"version {checkout.version}"
    return (
        f"note: {checkout.toolkit} at {checkout.folder} is {known}, which is not tested. If it "
        f"fails, check out a tested version: {tested_versions(checkout.toolkit)}."
    )


def _is(toolkit: str, folder: Path) -> bool:
    return all(os.path.isfile(folder / mark) for mark in _checkout_rules(toolkit).marks)


def _named(toolkit: str, text: str, origin: str, here: Path) -> Path:
    """Return the folder that the user named. Raises UserError if it is not the checkout."""
    folder = (here / os.path.expanduser(text)).resolve()
    if _is(toolkit, folder):
        return folder
    there = "does not exist" if not os.path.exists(folder) else f"is not a checkout of kohya-ss/{toolkit}"
    marks = " and ".join(_checkout_rules(toolkit).marks)
    raise UserError(f'{origin} = "{text}" {there}. The right folder contains {marks}.{_hint(toolkit, folder)}')


def _hint(toolkit: str, folder: Path) -> str:
    """Return what the folder is instead, if that shows where the right one is."""
    for other in hosted_toolkits():
        if other != toolkit and _is(other, folder):
            return f' {folder} is a checkout of {other}: to use it, write toolkit = "{other}".'
    try:
        inside = sorted(child for child in folder.iterdir() if child.is_dir() and _is(toolkit, child))
    except OSError:
        inside = []
    right = next(iter([*inside, *(parent for parent in folder.parents[:3] if _is(toolkit, parent))]), None)
    return f" Did you mean {right}?" if right else ""


def _number(folder: Path) -> str | None:
    """Return the version in pyproject.toml."""
    try:
        project = read_toml(folder / "pyproject.toml").get("project")
    except UserError:
        return None
    version = project.get("version") if isinstance(project, dict) else None
    return version if isinstance(version, str) else None
