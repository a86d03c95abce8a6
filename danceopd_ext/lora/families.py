"""Finds the model family, and its published size, that a LoRA file is made for.

Families share layer names, so names alone do not decide: FLUX.1's double blocks have the names of those of Stable
Diffusion 3 and Qwen-Image. The layers' widths and the number of blocks decide; if they do not, the user must choose.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch

from danceopd_ext.lora.dialects import Group, parse
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.layout import Layout, Published
from danceopd_ext.models.registry import FAMILIES

#: parts whose numbers of columns, multiplied, are a layer's inputs
_INPUTS = (("down",), ("diff",), ("hada_w1_b",), *((w1, w2) for w1 in ("lokr_w1", "lokr_w1_b") for w2 in ("lokr_w2", "lokr_w2_b")))  # fmt: skip  # noqa: E501

#: other architectures that people's LoRA files are made for, and a pattern that some key of these files matches
_ELSEWHERE = (
    ("SD 1.5 or SDXL", r"(down|up)_blocks[._]\d|mid_block|input_blocks|output_blocks"),
    ("Wan", r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)"),
)


def candidates(tensors: Mapping[str, torch.Tensor], layouts: Iterable[Layout]) -> list[Layout]:
    """Return the layouts that the file can be made for: one if it is clear, several on a tie, none if no layout fits.

    More fitting layers win; then a published width; then as many blocks as a published size has. A layout that has all
    layers of an earlier one and more is left out if the earlier one fits as well.
    """
    layouts = list(layouts)
    groups = {layout.family: parse(tensors, layout).groups for layout in layouts}
    fits = {
        layout.family: sum(_in_proportion(group, tensors, layout) for group in groups[layout.family])
        for layout in layouts
    }
    most = max(fits.values(), default=0)
    best = [layout for layout in layouts if most and fits[layout.family] == most]
    for known in (_has_width, _has_depth):
        best = [layout for layout in best if known(layout, groups[layout.family], tensors)] or best
    return [layout for i, layout in enumerate(best) if not any(_extends(layout, earlier) for earlier in best[:i])]


def _extends(layout: Layout, earlier: Layout) -> bool:
    return earlier.native.items() <= layout.native.items()


def distinct(found: Sequence[Layout], tensors: Mapping[str, torch.Tensor]) -> list[Layout]:
    """Return those of `candidates` that would read or write the file differently; the first stands for its equals."""
    kept: dict[tuple, Layout] = {}
    for layout in found:
        own = parse(tensors, layout).groups
        base_layers = {name for group in own for name in group.base_layers}
        native = frozenset((name, parts) for name, parts in layout.native.items() if base_layers.intersection(parts))
        read = frozenset((group.layer, group.base_layers) for group in own)
        kept.setdefault((read, native, frozenset(layout.swapped & base_layers), layout.kohya_names), layout)
    return list(kept.values())


def title(layout: Layout) -> str:
    """Return what messages call files of this layout."""
    return layout.title or layout.family


def titles(layouts: Iterable[Layout], between: str = " or ") -> str:
    """Return the names of families, for messages: `FLUX.1 or Qwen-Image`."""
    return between.join(dict.fromkeys(map(title, layouts)))


def looks_like_model(keys: Iterable[str]) -> bool:
    """Return whether the keys are those of a whole model: weights of layers that a family has."""
    return guess_family(key for key in keys if key.endswith((".weight", ".bias"))) is not None


def guess_family(keys: Iterable[str]) -> str | None:
    """Return the name of the model family that the keys look like, for messages; None if it is unknown.

    Later families are tried first: they have names of earlier ones, and more.
    """
    keys = list(keys)
    newest_first = list(FAMILIES.values())[::-1]
    signs = [*_ELSEWHERE, *((one.sign_title or one.file_title or one.title, one.sign) for one in newest_first)]
    found = next((name for name, sign in signs if sign and _any_match(sign, keys)), None)
    return found or _alternatives([one for one in FAMILIES.values() if _any_match(one.shared_sign, keys)])


def _alternatives(families: Sequence[LayerNames]) -> str | None:
    """`A, B or C`; None for no family."""
    *first, last = dict.fromkeys(one.file_title or one.title for one in families) or [None]
    return f"{', '.join(first)} or {last}" if first else last


def _any_match(pattern: str, keys: Iterable[str]) -> bool:
    return bool(pattern) and any(re.search(pattern, key) for key in keys)


def sizes_of(layout: Layout, groups: Sequence[Group], tensors: Mapping[str, torch.Tensor]) -> list[Published]:
    """Return the published sizes that a file's layers (of `layout`) fit."""
    return _fitting(layout, file_width(groups, tensors), [name for group in groups for name in group.base_layers])


def size_of_model(layout: Layout) -> Published | None:
    """Return the published size of the model that this layout was made from; None if it has none or it is unclear."""
    widths = Counter(shape[1] for shape in layout.shapes.values() if shape)
    found = _fitting(layout, widths.most_common(1)[0][0] if widths else None, list(layout.shapes))
    has = {size.only for size in found if any(size.only in name for name in layout.shapes)}
    found = [size for size in found if size.only in has]
    return found[0] if len(found) == 1 else None


def architecture_of(layout: Layout, usual: str) -> str:
    """Return the modelspec word of the model that this layout was made from; `usual`: its family's."""
    size = size_of_model(layout)
    return (size and size.architecture) or usual


def labelled(metadata: Mapping[str, str], layout: Layout, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return a file's metadata with the architecture of its size.

    It is added if the layers' sizes tell it, and the file names none or that of another size.
    """
    sizes = sizes_of(layout, parse(tensors, layout).groups, tensors)
    words = {f"{size.architecture}/lora" for size in layout.sizes if size.architecture}
    if len(sizes) != 1 or metadata.get("modelspec.architecture", next(iter(words), None)) not in words:
        return dict(metadata)
    return {**metadata, "modelspec.architecture": f"{sizes[0].architecture}/lora"}


def _fitting(layout: Layout, width: int | None, names: Sequence[str]) -> list[Published]:
    depths = _depths(names)
    marks = {size.only for size in layout.sizes if size.only and any(size.only in name for name in names)}
    return [
        size
        for size in layout.sizes
        if size.width == width
        and all(size.depths.get(blocks, 0) >= count for blocks, count in depths.items())
        and marks <= {size.only}
    ]


def _depths(names: Iterable[str]) -> dict[str, int]:
    """List of blocks -> how many the highest index in these layer names makes."""
    depths: dict[str, int] = {}
    for name in names:
        blocks, _, rest = name.partition(".")
        index = rest.partition(".")[0]
        if index.isdecimal():
            depths[blocks] = max(depths.get(blocks, 0), int(index) + 1)
    return depths


def file_width(groups: Iterable[Group], tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Return the number of inputs that most of the file's layers have: that of the attention layers."""
    widths = Counter(width for group in groups if (width := _inputs(group, tensors)))
    return widths.most_common(1)[0][0] if widths else None


def _inputs(group: Group, tensors: Mapping[str, torch.Tensor]) -> int | None:
    for parts in _INPUTS:
        shapes = [tensors[group.parts[part]].shape for part in parts if part in group.parts]
        if len(shapes) == len(parts) and all(len(shape) >= 2 for shape in shapes):
            return math.prod(shape[1] for shape in shapes)
    return None


def _has_width(layout: Layout, groups: Sequence[Group], tensors: Mapping[str, torch.Tensor]) -> bool:
    width = file_width(groups, tensors)
    return any(size.width == width for size in layout.sizes)


def _has_depth(layout: Layout, groups: Sequence[Group], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Return whether the file changes all blocks of a published size, and no more."""
    depths = _depths(name for group in groups for name in group.base_layers)
    sizes = sizes_of(layout, groups, tensors) or layout.sizes
    return bool(depths) and any(
        all(size.depths.get(blocks) == count for blocks, count in depths.items()) for size in sizes
    )


def _in_proportion(group: Group, tensors: Mapping[str, torch.Tensor], layout: Layout) -> bool:
    """Whether the layer has as many outputs per input as the layout says, where it says and the file shows it."""
    if not {"down", "up"} <= set(group.parts) or not any(name in layout.ratios for name in group.base_layers):
        return True
    down, up = tensors[group.parts["down"]].shape, tensors[group.parts["up"]].shape
    if len(down) < 2 or not up:
        return True  # reading it reports what is wrong with it
    return up[0] == down[1] * sum(layout.ratios.get(name, 1) for name in group.base_layers)
