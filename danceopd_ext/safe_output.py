"""Keeps a run alive if its output cannot be written: a closed terminal, a closed pipe, a full disk."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

#: errors of a closed terminal, a closed pipe and the like, which last (EINVAL on Windows)
GONE = (errno.EIO, errno.EPIPE, errno.EINVAL, errno.EBADF)


class SafeStream:
    """A text stream whose `write` and `flush` do not fail; everything else is the stream's own."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError, RuntimeError) as problem:  # RuntimeError: a signal arrived during a write
            _discard_if_closed(self._stream, problem)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError, RuntimeError) as problem:
            _discard_if_closed(self._stream, problem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Replace sys.stdout and sys.stderr with `SafeStream` inside the block."""
    names = [name for name in ("stdout", "stderr") if getattr(sys, name) is not None]
    streams = {name: (getattr(sys, name), SafeStream(getattr(sys, name))) for name in names}
    for name, (_, safe) in streams.items():
        setattr(sys, name, safe)
    try:
        yield
    finally:
        for name, (stream, safe) in streams.items():
            _flush(stream)
            if getattr(sys, name) is safe:
                setattr(sys, name, stream)


def last_word(text: str, stream: TextIO | None) -> None:
    """Print to a stream that may be closed."""
    if stream is not None:
        SafeStream(stream).write(f"{text}\n")
        _flush(stream)


def _flush(stream: TextIO) -> None:
    """Flush; if that fails, make Python's own last flush succeed: it would change the exit code."""
    try:
        stream.flush()
    except (OSError, ValueError):
        _send_to_null_device(stream)


def _discard_if_closed(stream: TextIO, problem: Exception) -> None:
    if isinstance(problem, OSError) and problem.errno in GONE:
        _send_to_null_device(stream)


def _send_to_null_device(stream: TextIO) -> None:
    """Redirect the stream's descriptor to the null device, where its buffer is discarded."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
