"""A folder of images with caption files, or of caption files alone, becomes items.

Semantics where there are images: sd-scripts library/train_util.py, class DreamBoothDataset. Caption files without an
image are ours: a text-to-image route needs no pixels, and an edit no result. So the captions of edits may lie beside
the source images, with image_dir and conditioning_data_dir the same folder.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .items import Item
from .source_folder import match_sources, name_of
from .subset import IMAGE_SUFFIXES, Subset, image_size
from .textfiles import read_text


@dataclass(frozen=True)
class _Captioned:
    """A caption, and the image that it belongs to, where there is one. `file` is named in messages."""

    text: str
    file: Path
    image: Path | None = None


def read_caption_folder(subset: Subset, notes: list[str]) -> list[Item]:
    """Return the items of a subset's `image_dir`: its images by name, then the captions without an image.

    An image without a caption file takes `class_tokens`; without those it says nothing and is left out, with a note.
    Raises UserError when nothing is left, naming the caption files that would be there under another extension, and
    for an edit without a source image.
    """
    files = _files(subset)
    found, silent = _captioned(subset, files)
    if not found:
        raise UserError(_nothing(subset, files, len(silent)))
    names = [name_of(entry.image or entry.file, subset.image_dir) for entry in found]
    sources = match_sources(subset, names, notes)
    items: list[Item] = []
    for name, entry in zip(names, found, strict=True):
        images = sources.get(name, ())
        shown = next(iter([entry.image] if entry.image else images), None)
        sizes = subset.bucket_sizes(image_size(shown) if shown else None, str(shown or entry.file))
        items += subset.items(entry.text, sizes, str(entry.file), entry.image, images)
    used = {file for images in sources.values() for file in images}
    silent = [image for image in silent if image not in used]
    if silent:
        notes.append(
            f"{subset.where}: {len(silent)} of its images have no {_extension(subset)} file and no class_tokens and "
            f"are left out, the first is {silent[0].name}"
        )
    return items


def _captioned(subset: Subset, files: list[Path]) -> tuple[list[_Captioned], list[Path]]:
    """Return the captions of a folder's files, and the images without any."""
    extension = _extension(subset)
    captions = {file for file in files if file.name.endswith(extension)}
    found: list[_Captioned] = []
    used: set[Path] = set()
    silent: list[Path] = []
    for image in (file for file in files if file.suffix.lower() in IMAGE_SUFFIXES):
        caption = _caption_file(image, extension, captions)
        if caption is not None:
            used.add(caption)
            found.append(_Captioned(_caption_text(caption, subset), caption, image))
        elif subset.class_tokens is not None:
            found.append(_Captioned(subset.class_tokens, image, image))
        else:
            silent.append(image)
    found += [_Captioned(_caption_text(file, subset), file) for file in files if file in captions and file not in used]
    return found, silent


def _files(subset: Subset) -> list[Path]:
    """Return all files of the folder that are not hidden, in an order that does not depend on the platform."""
    folder = subset.image_dir
    found = folder.rglob("*") if subset.recursive else folder.iterdir()
    files = [file for file in found if file.is_file() and not file.name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _extension(subset: Subset) -> str:
    extension = subset.caption_extension
    return extension if extension.startswith(".") else f".{extension}"


def _caption_file(image: Path, extension: str, captions: set[Path]) -> Path | None:
    """Return the caption file of an image: same name, or that name without the four numbers of a face position."""
    names = [image.stem]
    words = image.stem.split("_")
    if len(words) >= 5:
        names.append("_".join(words[:-4]))
    candidates = (image.with_name(name + extension) for name in names)
    return next((file for file in candidates if file in captions), None)


def _caption_text(file: Path, subset: Subset) -> str:
    """Return the first line that is not blank, or all of them when wildcards let one be drawn."""
    lines = [line.strip() for line in read_text(file, "caption file").split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{file}: the caption file is empty. Write a caption, or remove it with its image.")
    return "\n".join(lines) if subset.rules.enable_wildcard else lines[0]


def _nothing(subset: Subset, files: list[Path], silent: int) -> str:
    extension = _extension(subset)
    images = f" for its {silent} images" if silent else ""
    message = f"{subset.where}: there is no {extension} file{images} in {subset.image_dir}."
    others = Counter(file.suffix for file in files if file.suffix.lower() in (".txt", ".caption", ".cap"))
    if others:
        suffix, count = others.most_common(1)[0]
        return f'{message} There are {count} {suffix} files: set caption_extension = "{suffix}".'
    if not subset.recursive and any(entry.is_dir() for entry in subset.image_dir.iterdir()):
        return f"{message} Subfolders are read with recursive = true."
    return f'{message} Add captions, or set caption_extension or class_tokens = "...".'
