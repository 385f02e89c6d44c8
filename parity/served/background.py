"""What is noted beside serving, and written by and by by a thread of its own: noting waits for nothing.

A thread begins with the first that is noted, and ends with the process, or with `Background.close`. A process that was
forked begins with nothing noted, and a thread of its own.
"""

import os
import threading
import weakref
from collections import deque
from multiprocessing.util import Finalize
from pathlib import Path
from typing import ClassVar

from parity.served.hourly import warn

SECONDS_TO_END = 20
"""How long the end of a process may wait for a disk."""


class Background:
    """A bounded buffer, whose rows are written to a ``folder``: at most ``limit`` wait at a time.

    A subclass appends to ``_waiting`` and adds to ``_held``, the rows that are not written yet, under ``_lock``, and
    starts the thread if there is none.
    """

    name: ClassVar[str] = "parity-served"
    """That of the thread."""
    noun: ClassVar[str] = "rows"

    def __init__(self, folder: Path, limit: int, flush_seconds: float):
        self.folder, self.limit, self.flush_seconds = folder, limit, flush_seconds
        self.begin()
        _all.add(self)

    def begin(self) -> None:
        """Be as new, with nothing noted."""
        self._lock = threading.Lock()
        self._waiting: deque[tuple] = deque()
        self._held = 0
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._at_exit: Finalize | None = None

    def close(self) -> None:
        """Write what was noted. It may be gone on with."""
        with self._lock:
            thread, at_exit, self._thread, self._at_exit = self._thread, self._at_exit, None, None
            self._ending.set()
        if at_exit:
            at_exit.cancel()
        if thread:
            thread.join(SECONDS_TO_END)
            if thread.is_alive():
                unwritten = f"{self._held:,} {self.noun} are not written"
                warn(f"{self.folder}: the disk does not answer; {unwritten}", always=True)

    def taken(self) -> deque[tuple]:
        """Take what was noted out of the buffer."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        return waiting

    def done(self, rows: int) -> None:
        """Note that so many rows wait no longer."""
        with self._lock:
            self._held -= rows

    def _start(self) -> None:
        ending = threading.Event()
        thread = threading.Thread(target=self._write, args=[ending], name=self.name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the process is ending, or has too many threads; serving goes on
            warn(f"{self.folder}: nothing is written to this log: {error}")
            return
        self._thread, self._ending = thread, ending
        self._at_exit = Finalize(None, self.close, exitpriority=100)

    def _write(self, ending: threading.Event) -> None:
        """What the thread does, until it is ``ending``."""
        raise NotImplementedError


_all: "weakref.WeakSet[Background]" = weakref.WeakSet()


def _begin_anew() -> None:
    """In a fork: what its parent noted is its parent's to write, and no lock is held."""
    for one in list(_all):
        one.begin()


os.register_at_fork(after_in_child=_begin_anew)
