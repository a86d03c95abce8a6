"""Handles requests to stop: Ctrl-C, SIGTERM, a closed terminal, and a launcher that has ended.

Inside `Interruptible`, used for work that can be left at any moment (loading, encoding), a request raises
KeyboardInterrupt. Inside `StopRequest`, used for the loop, a request lets the step finish and be saved, and a second
request stops at once. A signal that was ignored when the run started (SIGHUP under nohup) stays ignored.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from tqdm import tqdm

from danceopd_ext.errors import Stopped
from danceopd_ext.toolkits.launched import is_first_process
from danceopd_ext.toolkits.native.console import watch_console

#: Ctrl-C; a polite request to end; Ctrl-Break on Windows, and elsewhere the end of the terminal
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP") if hasattr(signal, name)]
#: both the shell and the system send it when a terminal is closed; it never means "at once"
HANGUP = getattr(signal, "SIGHUP", None)

#: seconds within which signals count as one request: a launcher of several processes passes on the Ctrl-C that they
#: also get from the console, and a logout sends SIGTERM and SIGHUP
SAME_REQUEST = 1.0
#: the longest time, in seconds, that Windows gives a console handler
UNTIL_KILLED = 60.0

#: the blocks that this process is in, innermost last
_blocks: list[Interruptible] = []


class Interruptible:
    """Turns a request to stop into KeyboardInterrupt in the main thread, inside the block."""

    def __init__(self) -> None:
        self.requested = False
        self.has_learnt = False
        """Whether a loop has begun inside this block."""
        self._at = 0.0
        self._number: int | None = None
        self._pending = False
        self._before: dict[int, object] = {}
        self._unwatch: Callable[[], None] = _nothing

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers():
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
            if not _blocks:
                # after the signals, so that the C library's own handler runs later
                self._unwatch = watch_console(closing)
        _blocks.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self in _blocks:
            _blocks.remove(self)
        self._unwatch()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def numbers(self) -> list[int]:
        """Return the signals to handle.

        A process other than the first may be waiting for one that has ended, and Python runs no handler while it
        waits: SIGTERM and SIGHUP keep their default action there.
        """
        return SIGNALS if is_first_process() else [n for n in SIGNALS if n not in (signal.SIGTERM, HANGUP)]

    def ask(self, reason: str) -> None:
        """Request the stop from another thread. It is never the second request."""
        if not self.requested:
            self._pending = True
            self._note(None)
            _say(f"{reason}: stopping")
            _wake_main_thread()

    def close(self) -> None:
        """The console is being closed: use the seconds that are left. Called in a thread of its own."""
        self.ask("the console is closed")
        threading.Event().wait(UNTIL_KILLED)

    def _handle(self, number: int, _frame: object) -> None:
        if self._pending:  # requested by another thread, which sent this signal
            self._pending = False
            raise KeyboardInterrupt
        if self.requested and self._same_request(number):
            return
        again = self.requested
        self._note(number)
        self._asked(again)

    def _asked(self, again: bool) -> None:
        raise KeyboardInterrupt

    def _note(self, number: int | None) -> None:
        """Also for the blocks around this one: further signals of the same request reach them when this one is over."""
        for block in {self, *_blocks}:
            block.requested, block._at, block._number = True, time.monotonic(), number

    def _same_request(self, number: int) -> bool:
        if number == HANGUP:
            return True
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        return time.monotonic() - self._at < SAME_REQUEST and (launched or number != self._number)


class StopRequest(Interruptible):
    """Sets `requested` on a request to stop inside the block; a second request raises KeyboardInterrupt.

    at_once: called in a thread of its own when Windows closes the console and ends the process within seconds, which
    may be less than a step takes. It saves the result of the last complete step; then the process ends.
    """

    def __init__(self, at_once: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.at_once = at_once

    def __enter__(self) -> StopRequest:
        for block in _blocks:
            block.has_learnt = True
        super().__enter__()
        return self

    def numbers(self) -> list[int]:
        return SIGNALS

    def ask(self, reason: str) -> None:
        if not self.requested:
            self._note(None)
            _say(f"{reason}: finishing this step, then saving")

    def close(self) -> None:
        if self.at_once is None:
            super().close()
            return
        self._note(None)
        try:
            self.at_once()
        finally:
            end_process()

    def _asked(self, again: bool) -> None:
        if again:
            raise KeyboardInterrupt
        _say("finishing this step, then saving; press Ctrl-C again to stop at once")


def ask(reason: str) -> None:
    """Request the stop of the innermost block, from another thread. Does nothing outside of a block."""
    if _blocks:
        _blocks[-1].ask(reason)


def closing() -> None:
    """Act on Windows closing the console, the user logging off or a shutdown: the process ends soon."""
    if _blocks:
        _blocks[-1].close()


def end_process() -> None:
    """End at once, from any thread."""
    os._exit(Stopped.code)


def _wake_main_thread() -> None:
    """Run the handler of SIGTERM in the main thread, even if that is waiting for something."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    else:
        _thread.interrupt_main()


def _say(line: str) -> None:
    if is_first_process():
        with suppress(OSError, ValueError, RuntimeError):  # there is no terminal, or it is being written to right now
            tqdm.write(line)


def _nothing() -> None:
    """Nothing to undo."""
