"""The signals that ask a process to end: Ctrl-C (SIGINT), SIGTERM, and SIGHUP, when its terminal goes away.

What only imports holds nothing, and ends at once. What runs ends in order: `Interrupted` is raised, and whatever is
temporary is removed on its way out. One that the parent has us ignore, as `nohup` does SIGHUP, stays ignored.
"""

import atexit
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_CLEAN_UP = 10
"""For so long after the first signal others change nothing; then one ends a clean-up that hangs."""


class Interrupted(KeyboardInterrupt):
    """A signal asks for an end. Libraries know its base class, and let it through."""


class Watch:
    """The handler of a run, which notes the signal that ends it: a library may raise another error instead."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferrals, self._held, self._next_counts_from = 0, False, 0.0

    def __call__(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if now < self._next_counts_from:
            return
        self.received, self._next_counts_from = self.received or number, now + SECONDS_TO_CLEAN_UP
        if self._deferrals:
            self._held = True
        else:
            raise Interrupted

    @property
    def status(self) -> int | None:
        """The exit status that tells of the signal; None if there was none."""
        return self.received and 128 + self.received

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
            if self._held and not self._deferrals:
                self._held = False
                raise Interrupted


_watch = Watch()


def end_at_once() -> None:
    """From now on, end the process as soon as a signal asks for it, unless it is ending already."""
    atexit.register(_handle, signal.SIG_IGN)  # the first to be registered is the last to be called
    _handle(lambda number, _frame: os._exit(128 + number))


@contextmanager
def ending_in_order() -> Iterator[Watch]:
    """From now on, raise `Interrupted` when a signal asks for an end; after the block, do what was done before."""
    global _watch
    before, watch = {number: signal.getsignal(number) for number in ENDING}, Watch()
    _watch = watch
    _handle(watch)
    try:
        yield watch
    finally:
        watch._deferrals += 1  # none is raised any more
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_by(end: Callable[[], None]) -> Iterator[None]:
    """During the block, have a signal call ``end``, for what then ends of itself with all done, and well; another one
    that comes `SECONDS_TO_CLEAN_UP` later does what it did before."""
    before, asked = {number: signal.getsignal(number) for number in ENDING}, [float("inf")]

    def ask(number: int, frame: object) -> None:
        if time.monotonic() > asked[0]:
            before[number](number, frame)
        asked[0] = min(asked[0], time.monotonic() + SECONDS_TO_CLEAN_UP)
        end()

    _handle(ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deferred() -> AbstractContextManager[None]:
    """Let a signal that comes during the block wait for its end: for a clean-up that has to be done as a whole."""
    return _watch.deferred()


def _handle(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
