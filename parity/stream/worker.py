"""The loop of a worker: read what is there, apply it, land it, and only then say so to the broker.

Whatever has landed was applied, and whatever was applied and has not landed is read again, and refused by its offset.
So a worker may be killed at any point, and two may read one partition.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from parity.definition.instants import utc_now
from parity.definition.keys import as_tuples, shown_keys
from parity.edge.errors import UserError, printable
from parity.stream.broker import Broker, Lost, Reached
from parity.stream.buffer import Buffer
from parity.stream.configuration import StreamSource
from parity.stream.decisions import Became
from parity.stream.events import Bad, EventReader, Events, Raw, microseconds
from parity.stream.ids_of_files import IdsOfFiles
from parity.stream.metrics import Metrics
from parity.stream.redis_source import passing
from parity.transactions.landed import ID, NOWHERE, OFFSET, PARTITION, Landing

SECONDS_PER_READ = 0.2
SECONDS_PER_PING = 0.1
FIRST_REST, LONGEST_REST = 0.05, 2.0
"""Seconds between two tries to reach a server that is lost."""
NAMES = [one.name.lower() for one in Became if one < Became.LEFT]
"""What `Metrics` calls what became of events, by its numbers."""
KEYS_SHOWN = 3


class Applier(Protocol):
    """Applies events to the rows of a view online: `parity.stream.apply.Applier`."""

    def apply(self, events: pa.Table, now: datetime) -> Any: ...


class OnlineStore(NamedTuple):
    """Where the rows of views are."""

    place: str
    """For people."""
    ping: Callable[[], str]
    """Ask it for a sign of life: who it is, which is another one after each start, and after it was emptied."""
    seed: Callable[[str, pa.Table], None]
    """Give a view's rows of these keys what a stream needs to go on from them: `parity.stream.seed`."""
    fill: Callable[[], None]
    """The same of all keys of all views."""
    marks: Callable[[], Mapping[str, tuple[int, int]] | None]
    """What `note` has noted, as far as the store still has it; None if no keys were filled, or all of it is gone."""
    note: Callable[[Mapping[str, tuple[int, int]]], None]
    """Note of partitions up to which offset the rows have what has landed, and up to which they had seconds before."""


class Worker:
    """Streams the events of one source to the views that it feeds."""

    def __init__(
        self,
        source: StreamSource,
        broker: Broker,
        appliers: dict[str, Applier],
        reader: EventReader,
        metrics: Metrics,
        tolerance: float,
        online: "OnlineStore",
        now: Callable[[], datetime] = utc_now,
        say: Callable[[str], None] | None = None,
    ):
        """``appliers`` are one a view; ``tolerance`` is how many seconds ahead of ``now`` an event may be."""
        self.source, self.broker, self.metrics = source, broker, metrics
        self._appliers, self._reader, self._online = appliers, reader, online
        self._tolerance, self._now, self._say = timedelta(seconds=tolerance), now, say or _say
        landing = Landing(source.landing, reader.keys, others=IdsOfFiles(source.tables, source.landing))
        self._buffer = Buffer(landing, source.landing_seconds, source.landing_events, source.replay_seconds)
        self._ending = False
        self._last_event = time.monotonic()
        self._who, self._asked = "", 0.0
        self._is_emptied, self._fillings = False, 0

    def end(self) -> None:
        """Have `run` finish what it is at, and return."""
        self._ending = True

    def run(self, until_idle: float | None = None, skip_lost: bool = False) -> None:
        """Stream until `end` is called, or until no event has come for so many seconds.

        Raises `UserError` for what does not pass, once what was applied has landed.
        """
        try:
            self._waiting_out(lambda: self.broker.start(self, skip_lost), rewind=False)
            self._last_event = time.monotonic()
            while not self._ending and not self._is_idle(until_idle):
                self._waiting_out(self._step)
        finally:
            self._finish()

    def _is_idle(self, seconds: float | None) -> bool:
        return seconds is not None and time.monotonic() - self._last_event >= seconds

    def _step(self) -> None:
        if found := self.broker.read(SECONDS_PER_READ):
            self.take(found)
            self._last_event = time.monotonic()
        self._notice_another()
        self._land_if_due()
        if self.metrics.is_due:
            self.metrics.show(self.broker.lag())

    def take(self, found: Sequence[Raw]) -> None:
        """Apply events, bury those that can't be read, and have the others land."""
        begin, now = time.perf_counter(), self._now()
        events = self._reader.read(found, microseconds(now + self._tolerance))
        fillings = self._fillings
        became, again, lands, refused = self._apply(events, now)
        if fillings != self._fillings:
            self._apply(events, now)  # some of them may have been in the rows that were lost
        bad = [one for one in [*events.bad, *refused] if self._buffer.is_new(one.partition, one.offset)]
        if bad:
            self.broker.bury(sorted(bad, key=lambda one: (one.partition, one.offset)))
        rows = events.rows if lands.all() else events.rows.filter(pa.array(lands))
        self._buffer.take(rows, again[lands], events.until)
        self.metrics.batch(Counter(became) + Counter(dead=len(bad)), time.perf_counter() - begin)

    def _apply(self, events: Events, now: datetime) -> tuple[list[str], np.ndarray, np.ndarray, list[Bad]]:
        """Apply events to every view that takes them.

        Returns what became of each that is good, which may have landed before by their ids, which are to land, and
        those whose features would be beyond what their types hold.
        """
        count = events.rows.num_rows
        found = np.full((len(events.of_views), count), -1, np.int8)
        late, beyond = np.zeros(count, bool), {}
        for place, (name, taken) in enumerate(events.of_views.items()):
            if taken.rows.num_rows:
                became, is_late, reasons = self._apply_to(name, taken.rows, now)
                found[place, taken.places] = np.where(became == Became.PASSED, -1, became)
                late[taken.places] |= is_late
                beyond |= {int(taken.places[row]): f"{name}: {reason}" for row, reason in reasons.items()}
        has_id = pc.is_valid(events.rows[ID]).to_numpy().astype(bool)
        lands = ~(has_id & (found == Became.DUPLICATE).all(axis=0))
        again = has_id & ((found != Became.APPLIED).any(axis=0) | late)
        best = np.full(count, Became.LEFT)
        for of_view in found:
            best = np.where(of_view >= 0, np.minimum(best, of_view), best)
        best[late] = Became.LATE
        lands[list(beyond)] = False
        names = [*NAMES, "passed"]
        became = [names[number] for at, number in enumerate(best.tolist()) if at not in beyond]
        places = events.rows.select([PARTITION, OFFSET])
        refused = [
            Bad(places[0][at].as_py(), places[1][at].as_py(), events.values[at], reason)
            for at, reason in sorted(beyond.items())
        ]
        return became, again, lands, refused

    def _apply_to(self, name: str, rows: pa.Table, now: datetime) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Apply events to a view: what became of each, which are late, and why some can't be applied.

        An entity whose features would be beyond what their types hold is not written at all, so its events are tried
        one by one.
        """
        applied = self._apply_once(name, rows, now)
        became, late, refused = applied.became, applied.late, {}
        for place in sorted(applied.reasons):
            one = self._apply_once(name, rows.slice(place, 1), now)
            became[place], late[place] = one.became[0], one.late[0]
            if one.reasons:
                refused[place] = one.reasons[0]
        return became, late, refused

    def _apply_once(self, name: str, rows: pa.Table, now: datetime) -> Any:
        """As an `Applier` does; `UserError` for entities that are not to be written."""
        with passing(self._online.place, str):
            applied = self._appliers[name].apply(rows, now)
            if applied.unseeded.num_rows:
                self._seed(name, applied.unseeded)
                first, applied = applied, self._appliers[name].apply(rows, now)
                written = first.became != Became.LEFT
                applied.became = np.where(written, first.became, applied.became)
                applied.late = np.where(written, first.late, applied.late)
        table = next(table for table in self.source.tables if table.name == name)
        for keys, what in (
            (
                applied.fenced,
                "of another definition than features.py has. Did it change while this worker ran? Run compute_features"
                ".py and materialize_to_online.py with the one that holds, and start again",
            ),
            (applied.foreign, "something else than rows in Redis. Delete those keys, and materialize again"),
            (applied.unseeded, "not known to the stream. Run materialize_to_online.py, and start again"),
        ):
            if count := keys.num_rows:
                some = shown_keys(as_tuples(keys), table.definition.keys, KEYS_SHOWN)
                verb = "is" if count == 1 else "are"
                raise UserError(f"{name}: {count:,} {table.noun(count)} ({some}) {verb} {what}.")
        return applied

    def _seed(self, name: str, keys: pa.Table) -> None:
        """Seed some keys, or all if the online store knows of none. What was applied has to land before, as keys are
        seeded from files."""
        fillings = self._fillings
        self.is_emptied()
        if fillings == self._fillings:
            self.settle()
            self._online.seed(name, keys)

    # What was reached before

    def reached(self) -> dict[str, Reached]:
        self._buffer.begin({})  # so that it is not said that the rows have what lands now
        self.settle()
        landed = self._buffer.reached()
        with passing(self._online.place, str):
            marks = self._online.marks()
            self._is_emptied = marks is None and bool(landed)
            if marks is None:
                why = f"{self._online.place} has no rows that a stream has written: it was emptied, or is another one"
                self._fill(why if landed else None)
                marks = {partition: (offset, offset) for partition, offset in landed.items()}
        found = {}
        for partition, offset in landed.items():
            now, before = marks.get(partition, (NOWHERE, NOWHERE))
            found[partition] = Reached(offset, min(offset, now, before), now >= offset)
        self._buffer.begin({partition: one.kept for partition, one in found.items()})
        return found

    def has_landed(self, partition: str, offsets: Sequence[int]) -> bool:
        return self._buffer.has_landed(partition, offsets)

    def refill(self, why: str) -> None:
        self._buffer.begin({})
        self.settle()
        with passing(self._online.place, str):
            self._fill(why)
        self._buffer.begin(self._buffer.reached())

    def is_emptied(self) -> bool:
        with passing(self._online.place, str):
            if self._online.marks() is None:
                self._is_emptied = True
                self.refill(f"{self._online.place} was emptied")
        return self._is_emptied

    def _fill(self, why: str | None) -> None:
        if why:
            self._say(f"{why}. The rows are brought back from the files of what has landed.")
        self._online.fill()
        self._fillings += 1
        if self._who:
            self._ping()

    # Landing

    def _land_if_due(self) -> None:
        self._note(self._buffer.finished())
        if self._buffer.is_due:
            self._note(self._buffer.finished(waiting=True))
            self._buffer.land()

    def settle(self) -> None:
        """Land all that was applied, and commit it."""
        self._note(self._buffer.finished(waiting=True))
        if not self._buffer.is_empty:
            self._buffer.land()
            self._note(self._buffer.finished(waiting=True))

    def _note(self, landed: tuple[int, dict[str, int]] | None) -> None:
        if landed:
            count, until = landed
            self.metrics.landed(count, until)
            self.broker.commit(until)
            with passing(self._online.place, str):
                self._online.note(self._buffer.passed(until))

    def _finish(self) -> None:
        try:
            with suppress(Lost):  # what has landed has landed; the commit is for others to see
                self.settle()
        finally:
            self.metrics.close()
            with suppress(Lost):
                self.broker.close()

    # Waiting

    def _waiting_out(self, step: Callable[[], None], rewind: bool = True) -> None:
        """Do a step, and wait if a server is lost meanwhile. Then what has not landed is read again, and some more: a
        Redis may come back without what it had confirmed last."""
        while not self._ending:
            try:
                return step()
            except Lost as lost:
                self._wait(lost)
            if rewind and not self._ending:
                step, rewind = self.broker.rewind, False

    def _wait(self, lost: Lost) -> None:
        seconds, begin, rest = self.source.wait_seconds, time.monotonic(), FIRST_REST
        self._say(f"{lost}. It is waited for, {seconds:g} seconds at most.")
        self.metrics.connected(False)
        while not self._ending:
            time.sleep(rest)
            rest = min(2 * rest, LONGEST_REST)
            try:
                self.broker.ping()
                self._ping()
                break
            except Lost as still:
                lost = still
            if time.monotonic() - begin > seconds:
                raise UserError(f"{lost}, and did not for {seconds:g} seconds. Look after it, and start again.")
        else:
            return
        self.metrics.connected(True)
        self._last_event = time.monotonic()
        self._say(f"{self.broker.place} answers again, after {time.monotonic() - begin:.0f} seconds.")

    def _ping(self) -> None:
        """Ask the online store for a sign of life, too."""
        with passing(self._online.place, str):
            self._who, self._asked = self._online.ping(), time.monotonic()

    def _notice_another(self) -> None:
        """`Lost` if the online store was started again and nobody has noticed, as its client connects by itself."""
        if time.monotonic() - self._asked >= SECONDS_PER_PING:
            self.is_emptied()
            before = self._who
            self._ping()
            if before and before != self._who:
                raise Lost(f"{self._online.place} was started again, or another one answers")


def _say(line: str) -> None:
    tqdm.write(printable(line), file=sys.stderr)  # above the live line
    sys.stderr.flush()
