"""What encoders give on disk, so that the encoders can leave before training starts.

One safetensors file per text below `<folder>/<model_key>/`; it holds whatever tensors the model family's encoder gives
for one prompt, and the text itself in its metadata.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import whole_file

Encoded = dict[str, Tensor]
_HEADER_BYTES = 512


class TextCache:
    """Encoded texts of one model. `model_key` tells encoders apart (see fingerprint) and names the sub-folder.

    Floating-point tensors are stored as `dtype` if one is given. Entries read lately stay in memory, up to
    `memory_bytes`. Processes may share a folder: entries appear whole, and the same text gives the same entry.
    `what` is encoded, one of it, for messages; what is no prompt has a text that identifies it.
    """

    def __init__(
        self,
        folder: Path,
        model_key: str,
        dtype: torch.dtype | None = None,
        memory_bytes: int = 512 * 2**20,
        what: str = "prompt",
    ) -> None:
        if not model_key or any(mark in model_key for mark in '/\\:*?"<>|') or model_key.startswith("."):
            raise ValueError(f"{model_key!r} cannot be the name of a folder")
        self.folder = Path(folder) / model_key
        self.dtype = dtype
        self.what = what
        self._budget = memory_bytes
        self._memory: OrderedDict[str, Encoded] = OrderedDict()
        self._held = 0

    def path(self, text: str) -> Path:
        """Return where the entry of a text lies, whether it exists or not."""
        return self.folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.safetensors"

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Return the texts without a sound entry, once each, in order."""
        return [text for text in dict.fromkeys(texts) if text not in self._memory and self._open(text, False) is None]

    def put(self, text: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the entry of one text, whole or not at all. Raises UserError when the folder cannot be written."""
        stored = {name: self._to_store(tensor) for name, tensor in tensors.items()}
        try:
            with whole_file(self.path(text)) as part:
                save_file(stored, part, metadata={"text": ascii(text)})
        except (OSError, SafetensorError) as error:
            # On Windows a file that another process reads cannot be replaced; that file is then the same entry.
            if self._open(text, False) is None:
                raise UserError(
                    f"{self.folder}: the cache of encoded {self.what}s cannot be written: {error}. "
                    "Free some space or choose another folder."
                ) from None
        self._forget(text)

    def get(self, text: str) -> Encoded:
        """Return the tensors of one text, on the CPU. Raises KeyError when there is no sound entry."""
        if text in self._memory:
            self._memory.move_to_end(text)
            return dict(self._memory[text])
        tensors = self._open(text, True)
        if tensors is None:
            raise KeyError(f"no encoded {self.what} for {text!r} in {self.folder}")
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

        `encode` gets a list of texts and gives the tensors of each. What is done stays done if it is interrupted.
        """
        from tqdm import tqdm

        todo = self.missing(texts)
        hidden = not progress or not todo
        with tqdm(total=len(todo), desc=f"encoding {self.what}s", unit=self.what, disable=hidden) as bar:
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

    def _open(self, text: str, read: bool) -> Encoded | None:
        """Return an entry's tensors (none unless `read`), or None when it is missing, damaged or of another text."""
        path = self.path(text)
        try:
            if not path.is_file():
                return None
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("text") != ascii(text):
                    return None
                # Copies, so that the file is not held open by tensors that lie in it.
                return {name: file.get_tensor(name).clone() for name in file.keys()} if read else {}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None

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
