"""The checkout of musubi-tuner that MUSUBI_TUNER_DIR names, ready to be imported from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

#: of torchvision's binary, which does not load beside every build of torch; the toolkit only imports the package
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: list[torch.library.Library] = []


def prepare() -> Path:
    """Put the checkout's sources first on sys.path and return its root."""
    root = Path(os.environ["MUSUBI_TUNER_DIR"])
    sources = str(root / "src")
    if sources in sys.path:
        sys.path.remove(sources)
    sys.path.insert(0, sources)
    if not _library:
        _library.append(torch.library.Library("torchvision", "FRAGMENT"))
        for operator in OPERATORS:
            if not hasattr(torch.ops.torchvision, operator.partition("(")[0]):
                _library[0].define(operator)
    return root
