"""Checks the source images of edits: which ones a prompt names, and in which sizes the model can use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.pictures import PictureFile, inspect_picture
from danceopd_ext.data.user_paths import breaks, unquoted
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.json import PATH_REMEDY, parse_json


@dataclass
class SourceImages:
    """What a model does with source images, and what is known of those that a run names.

    `title` names the model in messages, `editors` are the models that edit. An item may have up to `maximum` source
    images (0: the model draws from text alone). `fitted` gives the size in which the model takes a source image of a
    size, to draw a picture of the other size, and raises UserError for one that it does not take; `area` the pixels
    that it is scaled to if those depend on the picture that is drawn, else None. Sides of what the model draws are
    multiples of `multiple` pixels. `pictures`: every file that was looked at; `uses`: each of them with the size of
    each picture that is drawn from it, in order.
    """

    title: str
    maximum: int = 0
    fitted: Callable[[Size, Size], Size] = lambda size, drawn: size
    area: Callable[[Size, Size], int | None] = lambda size, drawn: None
    multiple: int = 1
    editors: tuple[str, ...] = ()
    pictures: dict[Path, PictureFile] = field(default_factory=dict)
    uses: dict[tuple[Path, Size], None] = field(default_factory=dict)

    def check_count(self, count: int, where: str) -> None:
        """Raise UserError if a prompt with so many source images is none for this model. `where` names the prompt."""
        if count and not self.maximum:
            others = f" ({', '.join(self.editors)})" if self.editors else ""
            raise UserError(
                f"{where}: it has a source image, and {self.title} draws from text alone. Use a model that edits"
                f"{others}, or leave the source images out (conditioning_data_dir, control_directory, the column "
                "source, --ci)."
            )
        if count > self.maximum:
            raise UserError(
                f"{where}: it has {count} source images, and {self.title} takes up to {self.maximum}. Leave some out."
            )

    def sizes(self, paths: Sequence[Path], drawn: Size, where: str) -> tuple[Size, ...]:
        """Return the sizes in which the model takes the source images of one prompt; files are read once.

        `drawn`: the size of the picture, by which some models go. Raises UserError for what the model cannot use, and
        for a file that is missing or not a picture; `where` names the prompt.
        """
        self.check_count(len(paths), where)
        found = []
        for path in paths:
            try:
                if path not in self.pictures:
                    self.pictures[path] = inspect_picture(path)
            except UserError as error:
                raise UserError(f"{where}: its source image {error}") from None
            try:
                found.append(self.fitted(self.pictures[path].size, drawn))
            except UserError as error:
                raise UserError(f"{where}: its source image {path} cannot be used. {error}") from None
            self.uses[path, drawn] = None
        return tuple(found)

    def shown(self, path: Path, drawn: Size) -> str:
        """Return the words that identify what a model sees of a source image to draw a picture of this size.

        Sizes for which the model sees the same give the same words.
        """
        picture = self.pictures[path]
        area = self.area(picture.size, drawn)
        return picture.digest if area is None else f"{picture.digest} at {area} pixels"

    def measured(self, items: Iterable[Item]) -> tuple[Item, ...]:
        """Return the items with the sizes of their source images (see `sizes`). Raises UserError."""
        return tuple(replace(item, source_sizes=self._sizes_of(item)) for item in items)

    def _sizes_of(self, item: Item) -> tuple[Size, ...]:
        return self.sizes(item.source_images, item.size, item.where or "the data")


def sources_of_row(record: Mapping[str, object], where: str) -> tuple[str, ...]:
    """Return the source images that a row of a .csv or .jsonl file names, in order.

    `source` is a path or a list of them (in a .csv: as JSON); `source_0`, `source_1`, ... are more. Raises UserError
    for anything else.
    """
    numbered = [name for name in record if name.startswith("source_") and name[7:].isdecimal()]
    found: list[str] = []
    for name in ("source", *sorted(numbered, key=lambda name: int(name[7:]))):
        value = record.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = parse_json(value, f"{where}: {name}", 'Write a JSON list, ["1.png", "2.png"], or one path.')
        paths = value if isinstance(value, list) else [value]
        if not all(path is None or isinstance(path, str) for path in paths):
            raise UserError(f"{where}: {name} = {value!r} is wrong: expected a picture's path, or a list of paths.")
        found += [path_of_row(path, name, where) for path in paths if path]
    return tuple(path for path in found if path)


def path_of_row(value: object, name: str, where: str) -> str:
    """Return the picture's path in a field of a .csv or .jsonl file, "" for none. Raises UserError."""
    if not value:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} = {value!r} is wrong: expected the path of a picture.")
    path = unquoted(value)
    if breaks(path):
        raise UserError(
            f"{where}: {name} = {value!r} is wrong: a path cannot contain a line break or a tab. {PATH_REMEDY}"
        )
    return path
