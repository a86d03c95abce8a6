"""Ctrl-C means: finish the step, save, and say how to go on."""

from __future__ import annotations

import os
import signal
import threading
import time

from tqdm import tqdm

#: Ctrl-C, a polite request to end, and on Windows Ctrl-Break
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


#: a launcher of several processes passes on the Ctrl-C that they have got from the console; seconds that it may take
SAME_PRESS = 1.0


class StopRequest:
    """Inside the block, Ctrl-C (and SIGTERM, Ctrl-Break) sets `requested`; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._requested_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self.requested:
            launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
            if launched and now - self._requested_at < SAME_PRESS:
                return
            raise KeyboardInterrupt
        self.requested, self._requested_at = True, now
        tqdm.write("finishing this step, then saving; press Ctrl-C again to stop at once")
