"""Exposures: which unit was served by which arm, and when, written by and by beside serving.

    exposures = Exposures(Path("data/exposures"), experiment)
    arm = exposures.arm_of(customer_id)    # and it is noted that the unit was served by that arm

They lie in FOLDER/experiment=NAME/service=SERVICE/hour=.../, in parts as those of the log of what was served.
"""

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from parity.definition.experiments import Experiment
from parity.definition.instants import UTC_MICROSECONDS, utc_now
from parity.served.hourly import LOG_TIMESTAMP, HourlyParts, warn
from parity.served.log import Part, folder_of, parts

AS_OF = "__as_of"
SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("service", pa.string(), nullable=False),
        pa.field(LOG_TIMESTAMP, UTC_MICROSECONDS, nullable=False),
        pa.field(AS_OF, UTC_MICROSECONDS, nullable=False),
    ]
)
SECONDS_TO_END = 20
"""How long the end of a process may wait for a disk."""


class Exposure(NamedTuple):
    """A unit that an arm has served; the fields are the columns of `SCHEMA`."""

    unit: str
    arm: str
    service: str
    served: datetime
    as_of: datetime


class Exposures:
    """What serving notes of an ``experiment``, in a ``folder``. No failure of the disk stops serving.

    Noting waits for nothing: a thread writes what was noted every ``flush_seconds``, and at the end of the process.
    What does not fit among ``buffer_rows`` that wait, or can't be written, is dropped and counted, and a part that is
    written later says so. A process that was forked begins with nothing noted, and a thread of its own.
    """

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        buffer_rows: int = 100_000,
        flush_seconds: float = 5,
        now: Callable[[], datetime] = utc_now,
    ):
        self.experiment = experiment
        self._place, self._buffer_rows, self._flush_seconds, self._now = folder, buffer_rows, flush_seconds, now
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Exposure] = deque()
        self._held, self._refused = 0, 0  # rows that are not written yet, and rows that did not fit
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._at_exit: Finalize | None = None
        self._ending = threading.Event()

    @property
    def dropped(self) -> int:
        """How many exposures of this process were dropped so far."""
        return self._refused + self._lost

    def arm_of(self, unit: Any, as_of: datetime | None = None) -> str | None:
        """The arm of ``unit``, of which it is noted that it is served by it; None, and nothing noted, where the
        coverage leaves it out. ``as_of`` is the instant that features are asked for, by default now.

        Raises `UserError` as `Experiment.arm_of` does.
        """
        arm = self.experiment.arm_of(unit)
        if arm is not None:
            self.note(unit, arm, as_of)
        return arm

    def note(self, unit: Any, arm: str, as_of: datetime | None = None) -> None:
        """Note that ``unit`` was served by ``arm``, whatever has decided that. `UserError` for an unknown arm."""
        served, service = self._now(), self.experiment.service_called(arm).name
        exposure = Exposure(self.experiment.text_of(unit), arm, service, served, as_of or served)
        with self._lock:
            if self._held >= self._buffer_rows:
                self._refused += 1
                full = True
            else:
                self._held += 1
                self._waiting.append(exposure)
                full = False
            if self._thread is None:
                self._start()
        if full:
            warn(f"{self._place}: exposures were dropped, as {self._buffer_rows:,} were waiting to be written")

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
                warn(f"{self._place}: the disk does not answer; {self._held:,} exposures are not written", always=True)

    def __enter__(self) -> "Exposures":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, args=[self._ending], name="exposures", daemon=True)
        self._thread.start()
        self._at_exit = Finalize(None, self.close, exitpriority=100)

    def _write(self, ending: threading.Event) -> None:
        files: dict[str, HourlyParts] = {}
        reported = 0
        while True:
            ended = ending.wait(self._flush_seconds)
            with self._lock:
                some, self._waiting = list(self._waiting), deque()
                refused, reported = self._refused - reported, self._refused
            try:
                self._append(files, some, refused)
            except Exception:  # whatever it is, it is no reason to stop serving
                logging.getLogger("parity.served").exception("%s: exposures can't be written", self._place)
                self._lost += len(some)
            with self._lock:
                self._held -= len(some)
            if ended:
                break
        for parts_of_service in files.values():
            parts_of_service.close()

    def _append(self, files: dict[str, HourlyParts], some: list[Exposure], refused: int) -> None:
        for service in dict.fromkeys(exposure.service for exposure in some):
            files.setdefault(service, self._parts(service))
        if refused:
            first = next(iter(self.experiment.arms.values())).name
            files.setdefault(first, self._parts(first)).drop(refused)
        for service, into in files.items():
            rows = [exposure for exposure in some if exposure.service == service]
            before = into.dropped
            if rows:
                into.append(pa.table(list(map(list, zip(*rows, strict=True))), SCHEMA))
            else:
                into.merge_passed()
            self._lost += max(0, into.dropped - before)

    def _parts(self, service: str) -> HourlyParts:
        facts = {"project": "", "service": service, "references": [], "experiment": self.experiment.name}
        return HourlyParts(folder_of_exposures(self._place, self.experiment) / folder_of(service), SCHEMA, facts)


_all: "weakref.WeakSet[Exposures]" = weakref.WeakSet()


def _begin_anew() -> None:
    """In a fork: what its parent noted is its parent's to write, and no lock is held."""
    for exposures in list(_all):
        exposures._begin()


os.register_at_fork(after_in_child=_begin_anew)


def folder_of_exposures(folder: Path, experiment: Experiment) -> Path:
    return folder / f"experiment={experiment.name}"


def exposure_parts(folder: Path, experiment: Experiment) -> Iterator[Part]:
    """The parts of the exposures of an ``experiment``. Raises `UserError` for a file that can't be read."""
    yield from parts(folder_of_exposures(folder, experiment))
