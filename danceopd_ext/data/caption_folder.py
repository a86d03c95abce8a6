"""Reads a folder of images with caption files, or of caption files alone, as items.

Semantics with images: sd-scripts library/train_util.py, class DreamBoothDataset: images are listed, and a
caption file counts as its image's. Folders of caption files alone are ours: a text-to-image route needs no pixels. So
are edits without a result: a caption then needs only a source image, and may lie beside it, with image_dir and
conditioning_data_dir the same folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from danceopd_ext.data.captions import unused_lines_note
from danceopd_ext.data.folder_files import files_of, is_about_the_folder
from danceopd_ext.data.items import Item
from danceopd_ext.data.source_folder import match_sources, name_of
from danceopd_ext.data.subset import IMAGE_SUFFIXES, Subset, image_size
from danceopd_ext.data.ui_syntax import settings_lines, settings_note, syntax_notes
from danceopd_ext.errors import UserError, counted, few
from danceopd_ext.foreign.files import MIB
from danceopd_ext.foreign.text import read_text


@dataclass(frozen=True)
class _Captioned:
    """A caption, and the image that it belongs to, if any. `file` is named in messages."""

    text: str
    file: Path
    image: Path | None = None


@dataclass
class _Folder:
    """What a folder holds.

    `pairs`: images with their caption files (None: class_tokens). `stray`: captions that do not count without an image.
    `silent`: images without a caption.
    """

    files: list[Path]
    pairs: list[tuple[Path, Path | None]] = field(default_factory=list)
    alone: list[Path] = field(default_factory=list)
    stray: list[Path] = field(default_factory=list)
    silent: list[Path] = field(default_factory=list)


def read_caption_folder(subset: Subset, notes: list[str]) -> list[Item]:
    """Return the items of a subset's `image_dir`: its images by name, then the captions that count without an image.

    In a folder with images a caption file without one does not count, unless the subset has source images (then each
    caption needs one). In a folder without images all caption files count, except those about the folder, such as
    readme.txt. Notes report what does not count, and what is left out of a caption file. An image without a caption
    file uses `class_tokens`; without those it is left out, with a note.

    Raises UserError if nothing is left, naming caption files with another extension if there are any, and for an edit
    without a source image.
    """
    folder = _sorted_out(subset, files_of(subset.image_dir, subset.recursive))
    found = _read(subset, folder, notes)
    if not found:
        raise UserError(_nothing(subset, folder))
    names = [name_of(entry.image or entry.file, subset.image_dir) for entry in found]
    sources = match_sources(subset, names, notes)
    items: list[Item] = []
    for name, entry in zip(names, found, strict=True):
        images = sources.get(name, ())
        shown = next(iter([entry.image] if entry.image else images), None)
        sizes = subset.bucket_sizes(image_size(shown) if shown else None, str(shown or entry.file))
        items += subset.items(entry.text, sizes, str(entry.file), entry.image, images)
    used = {file for images in sources.values() for file in images}
    silent = [image for image in folder.silent if image not in used]
    if silent:
        notes.append(
            f"{subset.where}: {len(silent)} of its images have no {_extension(subset)} file and no class_tokens and "
            f"are left out, the first is {silent[0].name}"
        )
    if folder.stray:
        why = "do not belong to any image" if folder.pairs else "are not captions, judging by their names"
        count = counted(len(folder.stray), f"{_extension(subset)} file")
        notes.append(f"{subset.where}: left out {count} that {why}: {_names(folder.stray)}")
    return items


def _sorted_out(subset: Subset, files: list[Path]) -> _Folder:
    extension = _extension(subset)
    captions = {file for file in files if file.name.endswith(extension)}
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    folder = _Folder(files)
    for image in images:
        caption = _caption_file(image, extension, captions)
        if caption is not None or subset.class_tokens is not None:
            folder.pairs.append((image, caption))
        else:
            folder.silent.append(image)
    paired = {caption for _, caption in folder.pairs}
    for file in files:
        if file in captions and file not in paired:
            of_images = images and subset.source_dir is None
            (folder.stray if of_images or is_about_the_folder(file) else folder.alone).append(file)
    return folder


def _read(subset: Subset, folder: _Folder, notes: list[str]) -> list[_Captioned]:
    """Return the captions that count, and add notes on what is left out of their files."""
    texts: dict[Path, str] = {}
    pasted, longer = [], []
    for file in [*(caption for _, caption in folder.pairs if caption), *folder.alone]:
        lines = [line.strip() for line in read_text(file, "caption file", MIB).split("\n")]
        settings = settings_lines(lines)
        kept = [line for number, line in enumerate(lines) if line and number not in settings]
        if not kept:
            raise UserError(f"{file}: the caption file is empty. Write a caption, or remove the file and its image.")
        pasted += [file] if settings else []
        longer += [file] if len(kept) > 1 and not subset.rules.enable_wildcard else []
        texts[file] = "\n".join(kept) if subset.rules.enable_wildcard else kept[0]
    notes += settings_note(subset.where, [file.name for file in pasted])
    notes += unused_lines_note(subset.where, [file.name for file in longer])
    notes += syntax_notes(subset.where, ((f.name, t) for f, t in texts.items()), subset.rules.enable_wildcard)
    pairs = [_Captioned(texts[c] if c else subset.class_tokens or "", c or image, image) for image, c in folder.pairs]
    return pairs + [_Captioned(texts[file], file) for file in folder.alone]


def _names(files: Iterable[Path]) -> str:
    return few(file.name for file in files)


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


def _nothing(subset: Subset, folder: _Folder) -> str:
    extension = _extension(subset)
    images = f" for its {len(folder.silent)} images" if folder.silent else ""
    message = f"{subset.where}: there is no {extension} file{images} in {subset.image_dir}."
    others = Counter(f.suffix for f in folder.files if f.suffix.lower() in (".txt", ".caption", ".cap"))
    for stray in folder.stray:
        others[stray.suffix] -= 1
    if +others:
        suffix, count = others.most_common(1)[0]
        return f'{message} There are {count} {suffix} files: set caption_extension = "{suffix}".'
    if folder.silent and folder.stray:
        return (
            f"{message} Its {len(folder.stray)} {extension} files have other names ({_names(folder.stray)}). Give each "
            'the name of its image, or set class_tokens = "..."; to train on captions alone, remove the images.'
        )
    if not subset.recursive and any(entry.is_dir() for entry in subset.image_dir.iterdir()):
        return f"{message} Subfolders are read with recursive = true."
    return f'{message} Add captions, or set caption_extension or class_tokens = "...".'
