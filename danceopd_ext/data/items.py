"""Defines the items of a route: captions, their sizes, and the rules by which a caption is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.data.pictures import ItemPicture
from danceopd_ext.data.resolutions import Size as Size  # part of an item


@dataclass(frozen=True)
class CaptionRules:
    """How the text of an item becomes a caption; the names are those of sd-scripts' dataset configuration.

    `caption_dropout_rate` and `caption_tag_dropout_rate` are in [0, 1]. `caption_dropout_every_n_epochs` counts the
    epochs of a route from 1; 0 turns it off.
    """

    caption_prefix: str = ""
    caption_suffix: str = ""
    shuffle_caption: bool = False
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    caption_separator: str = ","
    secondary_separator: str = ""
    enable_wildcard: bool = False
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0


@dataclass(frozen=True)
class Item:
    """One prompt at one size.

    `text` holds several lines when wildcards are on and the caption file has several: one of them is drawn each time.
    `width` and `height` are pixels. `repeats` is how often the item appears in an epoch (at least 1). `batch_size` is
    that of the item's own dataset (per process), or None for the run's. `where` names the file for messages. `picture`
    is the picture that the prompt describes, if any; most methods ignore it.

    An item with `source_images` is an edit: the text is its instruction. `source_sizes` are the sizes in which the
    model takes them (see SourceImages.measure), as many; a batch holds items of equal sizes only.
    """

    text: str
    width: int
    height: int
    rules: CaptionRules = CaptionRules()
    repeats: int = 1
    batch_size: int | None = None
    where: str = ""
    picture: ItemPicture | None = None
    source_images: tuple[Path, ...] = ()
    source_sizes: tuple[Size, ...] = ()

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return self.width, self.height


@dataclass(frozen=True)
class RouteData:
    """All the items that one teacher supervises."""

    route: str
    items: tuple[Item, ...]
