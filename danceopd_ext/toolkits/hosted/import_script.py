"""Imports a toolkit's own training script from the user's checkout."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from danceopd_ext.errors import UserError, first_line
from danceopd_ext.toolkits.hosted.checkout import Checkout

#: what the import of a package raises if its binary does not match the installed torch
MISFIT = (RuntimeError, OSError, AttributeError)


def import_script(checkout: Checkout, folders: Sequence[Path], script: str) -> ModuleType:
    """Return the script as a module; `folders` come first on sys.path, in this order, before any other installation.

    Raises UserError if the environment lacks a package, or contains packages that do not match.
    """
    for folder in reversed(folders):
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        sys.path.insert(0, str(folder))
    where = f"{checkout.toolkit} at {checkout.folder} cannot be imported"
    try:
        return importlib.import_module(script)
    except ImportError as error:
        raise UserError(
            f"{where}: {error}. Run this in the Python environment of {checkout.toolkit}, and install "
            "this package there, too (pip install -e .)."
        ) from error
    except MISFIT as error:
        raise UserError(
            f"{where}: {first_line(error).rstrip('.')}. A package in this Python environment does not match its torch, "
            f"often torchvision or xformers. Install the versions that {checkout.toolkit} requires, and check that its "
            "own training starts."
        ) from error
