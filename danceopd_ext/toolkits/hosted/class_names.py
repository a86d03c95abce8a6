"""Checks the classes that a hosted preset names, before the toolkit imports and calls them.

The toolkits import any dotted path, and call the object there with the preset's arguments.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from torch.optim import lr_scheduler

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.installed_packages import Refused, checked, class_at

#: argument -> the module in which the toolkits look up a name without dots, and the required base class
NAMES = {
    "optimizer_type": (torch.optim, torch.optim.Optimizer),
    "lr_scheduler_type": (lr_scheduler, lr_scheduler.LRScheduler),
}


def check_class_names(args: Namespace, preset: Path, local: bool = False) -> None:
    """Raise UserError if a class is not in an installed package, or is of another kind. `local`: see class_at.

    A name without dots that torch does not have is one of the toolkit's own, or the toolkit reports it as unknown.
    """
    for name, (module, base) in NAMES.items():
        value = getattr(args, name, None)
        try:
            if value and "." in value:
                class_at(value, base, local)
            elif value and hasattr(module, value):
                checked(getattr(module, value), base)
        except Refused as problem:
            raise UserError(f'{preset}: {name} = "{value}": {problem}') from None
        except Exception as error:  # a module may raise anything while it is imported
            raise UserError(f'{preset}: {name} = "{value}" cannot be imported ({error}). Check the path.') from error
