"""Exposures: which unit was served by which arm, and when, written by and by beside serving.

    exposures = Exposures(Path("data/exposures"), experiment)
    arm = exposures.arm_of(customer_id)    # and it is noted that the unit was served by that arm

They lie in FOLDER/experiment=NAME/service=SERVICE/hour=.../, in parts as those of the log of what was served.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from parity.definition.experiments import Experiment
from parity.definition.instants import UTC_MICROSECONDS, utc_now
from parity.served.background import Background
from parity.served.hourly import AS_OF, LOG_TIMESTAMP, HourlyParts, warn
from parity.served.log import Part, folder_of, parts

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


class Exposures(Background):
    """What serving notes of an ``experiment``, in a ``folder``. No failure of the disk stops serving.

    Noting waits for nothing: a thread writes what was noted every ``flush_seconds``, and at the end of the process.
    What does not fit among ``buffer_rows`` that wait, or can't be written, is dropped and counted, and a part that is
    written later says so. A process that was forked begins with nothing noted, and a thread of its own.
    """

    name, noun = "exposures", "exposures"

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        buffer_rows: int = 100_000,
        flush_seconds: float = 5,
        now: Callable[[], datetime] = utc_now,
    ):
        self.experiment, self._now = experiment, now
        super().__init__(folder, buffer_rows, flush_seconds)

    def begin(self) -> None:
        super().begin()
        self._refused = self._lost = self._said = 0
        """Rows that did not fit, rows that could not be written, and those that did not fit and are in a part."""

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
            if self._held >= self.limit:
                self._refused += 1
                full = True
            else:
                self._held += 1
                self._waiting.append(exposure)
                full = False
            if self._thread is None:
                self._start()
        if full:
            warn(f"{self.folder}: exposures were dropped, as {self.limit:,} were waiting to be written")

    def __enter__(self) -> "Exposures":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, ending: threading.Event) -> None:
        files: dict[str, HourlyParts] = {}
        while True:
            ended = ending.wait(self.flush_seconds)
            some = list(self.taken())
            with self._lock:
                refused, self._said = self._refused - self._said, self._refused
            try:
                self._append(files, some, refused)
            except Exception:  # whatever it is, it is no reason to stop serving
                logging.getLogger("parity.served").exception("%s: exposures can't be written", self.folder)
                self._lost += len(some)
            self.done(len(some))
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
        return HourlyParts(folder_of_exposures(self.folder, self.experiment) / folder_of(service), SCHEMA, facts)


def folder_of_exposures(folder: Path, experiment: Experiment) -> Path:
    return folder / f"experiment={experiment.name}"


def exposure_parts(folder: Path, experiment: Experiment) -> Iterator[Part]:
    """The parts of the exposures of an ``experiment``. Raises `UserError` for a file that can't be read."""
    yield from parts(folder_of_exposures(folder, experiment))
