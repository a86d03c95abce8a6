"""What the tests on both real checkouts need before the toolkit is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import library

#: of torchvision's binary, which does not load beside every build of torch; the toolkits only import the package
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[library.Library] = []  # operators go with the object that defined them


def named_by(variable: str) -> Path:
    """The checkout's root. Raises RuntimeError where the environment does not name it."""
    root = os.environ.get(variable)
    if not root:
        raise RuntimeError(f"{variable} names no checkout: tests/README.md says how these tests are run")
    return Path(root)


def enter(sources: Path) -> None:
    """Put the toolkit's sources first on sys.path, and define the operators that torchvision's binary would."""
    if str(sources) in sys.path:
        sys.path.remove(str(sources))
    sys.path.insert(0, str(sources))
    if _libraries:
        return
    _libraries.append(library.Library("torchvision", "FRAGMENT"))
    for operator in OPERATORS:
        if not hasattr(torch.ops.torchvision, operator.partition("(")[0]):
            _libraries[0].define(operator)
