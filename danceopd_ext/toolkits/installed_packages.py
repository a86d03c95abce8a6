"""Imports a class that a preset names by a dotted path, from installed packages only.

Importing a module runs it, and presets are shared between strangers. A module counts as installed if a distribution
(what pip, conda or the system's package manager installs, or `pip install -e`) declares its package and brings the file
that Python would import. A file in the working directory, beside the script or in a folder of PYTHONPATH is not
installed, whatever its name is: it may have come with the preset.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from danceopd_ext.config.local_code import FLAG
from danceopd_ext.errors import UserError


class Refused(UserError):
    """A dotted path was refused. The text continues a message that begins with `key = "path": `."""


def class_at(path: str, base: type, local: bool = False) -> type:
    """Return the class at `package.module.Class`, which must be a subclass of `base`; nothing is called.

    local: whether modules that are not installed are imported as well, also from the working directory. Raises Refused;
    ImportError or AttributeError if there is no such class; and whatever the module raises while it is imported.
    """
    module, _, name = path.rpartition(".")
    parts = module.split(".")
    if not all(part.isidentifier() and not part.startswith("__") for part in [*parts, name]):
        raise ImportError("expected names separated by dots, such as torch.optim.AdamW")
    if local and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that its files hide no installed package
    for end in range(1, len(parts) + 1):
        step = ".".join(parts[:end])
        if not local and parts[0] != base.__module__.partition(".")[0]:  # that package is already in use
            _check_installed(step)
        importlib.import_module(step)
    return checked(getattr(importlib.import_module(module), name), base)


def checked(found: object, base: type) -> type:
    """Return what was found if it is a subclass of `base`. Raises Refused."""
    if isinstance(found, type) and issubclass(found, base) and found is not base:
        return found
    what = "the abstract class itself" if found is base else "a class" if isinstance(found, type) else "not a class"
    raise Refused(f"it is {what}. Only subclasses of {base.__module__}.{base.__qualname__} are used here.")


def _check_installed(module: str) -> None:
    """Raise Refused if no installed package contains the module, and ImportError if there is no such module."""
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        raise Refused(f"{package} is part of Python, and only modules of installed packages are imported.")
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a module that was created in memory
        spec = ModuleSpec(module, None)
    if spec is None:
        raise ModuleNotFoundError(f"No module named '{module}'")
    places, folders = _places(spec), list(_folders_of(package))
    if not places or not all(any(_is_below(place, folder) for folder in folders) for place in places):
        where = f" ({places[0]})" if places else ""
        raise Refused(
            f"{module}{where} does not belong to an installed package, and importing it would run its code. Install "
            "it (`pip install`, or `pip install -e` for your own code), or, if you trust it, add "
            f"{FLAG} to the command."
        )


def _places(spec: ModuleSpec) -> list[Path]:
    """Return the file of a module, or the folders of a package that has no file."""
    if spec.has_location and spec.origin:
        return [Path(spec.origin)]
    return [Path(place) for place in spec.submodule_search_locations or ()]


def _folders_of(package: str) -> Iterator[Path]:
    """Yield the folders in which installed distributions keep this package."""
    searched = [entry for entry in sys.path if entry and not _is_loose(Path(entry))]
    for distribution in metadata.distributions(path=searched):
        source = _editable_source(distribution)
        if package in _packages(distribution):
            yield Path(str(distribution.locate_file("")))
            if source:
                yield source
        elif source and _plain(distribution.name) == _plain(package):  # the distribution does not list its files
            yield source


def _is_loose(folder: Path) -> bool:
    """Whether people put files of their own here: the working directory, the script's folder, or this package's."""
    script = Path(sys.argv[0] or ".").parent
    loose = (Path.cwd(), script.resolve(), Path(__file__).resolve().parents[2])
    return folder.resolve() in loose


def _packages(distribution: metadata.Distribution) -> set[str]:
    """The names under which the distribution's modules are imported."""
    listed = distribution.read_text("top_level.txt")
    if listed:
        return set(listed.split())
    try:
        files = distribution.files or []
    except (TypeError, ValueError, OSError):  # the list of files is damaged
        return set()
    names = {file.parts[0] if len(file.parts) > 1 else inspect.getmodulename(file) for file in files}
    return {name for name in names if name and name.isidentifier()}


def _editable_source(distribution: metadata.Distribution) -> Path | None:
    """The folder of an editable installation (`pip install -e`), as PEP 610 records it; None for any other."""
    try:
        record = json.loads(distribution.read_text("direct_url.json") or "{}")
        editable, url = record.get("dir_info", {}).get("editable"), record.get("url", "")
    except (ValueError, AttributeError):
        return None
    return Path(url2pathname(urlsplit(url).path)) if editable and url.startswith("file:") else None


def _is_below(place: Path, folder: Path) -> bool:
    """Whether the place is in the folder, with or without following symbolic links."""
    named = Path(os.path.abspath(place)), Path(os.path.abspath(folder))
    return named[0].is_relative_to(named[1]) or place.resolve().is_relative_to(folder.resolve())


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")
