"""Keeps the output of encoders on disk, so that the encoders can leave memory before training starts.

One safetensors file per text below `<folder>/<model_key>/`; it holds whatever tensors the model family's encoder gives
for one prompt, and in its metadata the text itself and a digest of the tensors (see cache_entries). Each file is
checked when it is read: before training, so that a damaged one is encoded again while the encoders are loaded, and in a
step.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from danceopd_ext.data.cache_entries import DAMAGED, NOT_FINITE, UNDIGESTED, UnusableEntry, read_entry, write_entry
from danceopd_ext.disk_errors import disk_problem
from danceopd_ext.errors import UserError, counted, shorten
from danceopd_ext.files import only_writer, whole_file
from danceopd_ext.finite import first_broken

Encoded = dict[str, Tensor]
_HEADER_BYTES = 640

#: why an entry is encoded again, for a note
_AGAIN = {
    DAMAGED: "damaged (the digest of the file differs)",
    UNDIGESTED: "from an earlier version, without a digest",
    NOT_FINITE: "with NaN or infinite numbers",
}


def again_notes(folder: Path, what: str, found: Mapping[str, int]) -> list[str]:
    """Return a note for each kind of unusable file. `found`: why (see UnusableEntry) -> how many files."""
    return [
        f"{folder}: {counted(count, f'encoded {what}')} {'is' if count == 1 else 'are'} {_AGAIN[why]}: encoded again"
        for why, count in sorted(found.items())
    ]


class NoEntry(UserError, KeyError):
    """There is no usable entry; the message names the file and the remedy."""

    def __str__(self) -> str:
        return self.args[0]  # KeyError's own __str__ would add quotes


class BrokenEncoding(UserError):
    """An encoder gave NaN or infinite numbers. `said`: the message without its full stop, for a remedy to follow."""

    def __init__(self, said: str):
        super().__init__(f"{said}.")
        self.said = said


class TextCache:
    """Encoded texts of one model. `model_key` identifies the encoder (see fingerprint) and names the sub-folder.

    Floating-point tensors are stored as `dtype` if one is given. Recently read entries stay in memory, up to
    `memory_bytes`. Processes may share a folder: entries appear complete, and the same text gives the same entry.
    `what`: a noun for one encoded thing, for messages; if it is not a prompt, its text identifies it. `fits`: whether
    tensors have the form that the encoder gives; others count as damaged.
    """

    def __init__(
        self,
        folder: Path,
        model_key: str,
        dtype: torch.dtype | None = None,
        memory_bytes: int = 512 * 2**20,
        what: str = "prompt",
        fits: Callable[[Encoded], bool] = lambda tensors: bool(tensors),
    ) -> None:
        if not model_key or any(mark in model_key for mark in '/\\:*?"<>|') or model_key.startswith("."):
            raise ValueError(f"{model_key!r} cannot be the name of a folder")
        self.folder = Path(folder) / model_key
        self.dtype = dtype
        self.what, self.fits = what, fits
        self._budget = memory_bytes
        self._memory: OrderedDict[str, Encoded] = OrderedDict()
        self._held = 0
        self._sound: set[str] = set()
        """Texts whose files were written, or read and found usable, in this run."""
        self._unsound: Counter[str] = Counter()

    def path(self, text: str) -> Path:
        """Return the path of the entry of a text, whether it exists or not."""
        return self.folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.safetensors"

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Return the texts without a usable entry, once each, in order. Every file is read once per run."""
        return [text for text in dict.fromkeys(texts) if not self._is_sound(text)]

    def notes(self) -> list[str]:
        """Return a note on files that `missing` found and that cannot be used, and forget them."""
        found, self._unsound = self._unsound, Counter()
        return again_notes(self.folder, self.what, found)

    def put(self, text: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the entry of one text, completely or not at all.

        Raises UserError if the folder cannot be written, and BrokenEncoding for numbers that are not finite.
        """
        stored = {name: self._to_store(tensor) for name, tensor in tensors.items()}
        if broken := first_broken(stored):
            raise BrokenEncoding(
                f'encoding the {self.what} "{shorten(text)}" gave NaN or infinite numbers (in {broken})'
            )
        try:
            with whole_file(self.path(text)) as part:
                write_entry(part, stored, {"text": ascii(text)})
        except (OSError, SafetensorError) as error:
            # On Windows a file that another process reads cannot be replaced; that file is then the same entry.
            if self._open(text) is None:
                problem = disk_problem(error)
                reason, remedy = (problem.reason, problem.remedy) if problem else (error, "Check the disk.")
                raise UserError(
                    f"{self.folder}: the cache of encoded {self.what}s cannot be written: {reason}. "
                    f"{remedy} Or choose another folder (text_encoder_cache_dir)."
                ) from None
        self._forget(text)
        self._sound.add(text)

    def get(self, text: str) -> Encoded:
        """Return the tensors of one text, on the CPU. Raises NoEntry if there is no usable entry."""
        if text in self._memory:
            self._memory.move_to_end(text)
            return dict(self._memory[text])
        tensors = self._open(text)
        if tensors is None:
            raise NoEntry(
                f"no encoded {self.what} for {shorten(repr(text))} in {self.folder}: {self.path(text).name} is "
                "missing or damaged. Start again, or continue with --resume: it is then encoded again."
            )
        self._remember(text, tensors)
        return dict(tensors)

    def encode_missing(
        self,
        texts: Iterable[str],
        encode: Callable[[list[str]], Sequence[Mapping[str, Tensor]]],
        batch_size: int = 1,
        progress: bool = True,
    ) -> int:
        """Encode every text that has no entry yet, `batch_size` at a time, and return how many there were.

        `encode` gets a list of texts and gives the tensors of each. Finished entries stay after an interruption.
        Runs that share a folder fill it one at a time.
        """
        from tqdm import tqdm

        todo = self.missing(texts)
        if not todo:
            return 0
        with only_writer(self.folder, tqdm.write):
            todo = self.missing(todo)  # another run may have made them meanwhile
            with tqdm(total=len(todo), desc=f"encoding {self.what}s", unit=self.what, disable=not progress) as bar:
                for start in range(0, len(todo), batch_size):
                    batch = todo[start : start + batch_size]
                    for text, tensors in zip(batch, encode(batch), strict=True):
                        self.put(text, tensors)
                    bar.update(len(batch))
        return len(todo)

    def estimate(self, count: int, example: Mapping[str, Tensor]) -> int:
        """Return about how many bytes on disk `count` entries like `example` take."""
        return count * (_bytes({name: self._to_store(tensor) for name, tensor in example.items()}) + _HEADER_BYTES)

    def _to_store(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
        # A copy: safetensors refuses tensors that share memory, such as the slices of an encoded batch.
        return tensor.detach().to("cpu", dtype, copy=True).contiguous()

    def _is_sound(self, text: str) -> bool:
        """Return whether there is a usable entry; what is read stays in memory if there is room."""
        if text in self._memory or text in self._sound:
            return True
        tensors = self._open(text)
        if tensors is None:
            return False
        self._sound.add(text)
        if self._held + _bytes(tensors) <= self._budget:
            self._remember(text, tensors)
        return True

    def _open(self, text: str) -> Encoded | None:
        """Return an entry's tensors, or None when it is missing, unsound (which is counted) or of another text."""
        try:
            tensors, metadata = read_entry(self.path(text))
        except OSError:
            return None
        except UnusableEntry as problem:
            self._unsound[problem.why] += 1
            return None
        if metadata.get("text") != ascii(text):
            return None
        if not self.fits(tensors):  # the digest is right, so another program wrote the entry
            self._unsound[DAMAGED] += 1
            return None
        return tensors

    def _remember(self, text: str, tensors: Encoded) -> None:
        self._memory[text] = tensors
        self._held += _bytes(tensors)
        while self._held > self._budget:
            _, oldest = self._memory.popitem(last=False)
            self._held -= _bytes(oldest)

    def _forget(self, text: str) -> None:
        if text in self._memory:
            self._held -= _bytes(self._memory.pop(text))


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
