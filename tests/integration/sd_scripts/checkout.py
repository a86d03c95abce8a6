"""The checkout of sd-scripts that SD_SCRIPTS_DIR names, ready to be imported from."""

from __future__ import annotations

import os
import sys

import torch

#: of torchvision's binary, which does not load beside every build of torch; the toolkit only imports the package
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: list[torch.library.Library] = []


def prepare() -> str:
    """Put the checkout's root first on sys.path, as its scripts need it, and return it."""
    root = os.environ["SD_SCRIPTS_DIR"]
    if root in sys.path:
        sys.path.remove(root)
    sys.path.insert(0, root)
    if not _library:
        _library.append(torch.library.Library("torchvision", "FRAGMENT"))
        for operator in OPERATORS:
            name = operator.partition("(")[0]
            if not hasattr(torch.ops.torchvision, name):
                _library[0].define(operator)
    return root
