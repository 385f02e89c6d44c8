"""The recorder of what is served: reads note what they answered, and a thread of its own writes it by and by.

A read appends to a bounded buffer, and waits for nothing. What does not fit is dropped, counted, and reported in the
log itself. What is noted is written within the seconds of ``flush_seconds``, and at the end of the process.
"""

import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pyarrow as pa
from feast import RepoConfig

from parity.edge.feast_internals import Request
from parity.served.answers import (
    NO_COLUMNS,
    VALUES_PER_STEP,
    Answer,
    Column,
    Columns,
    Content,
    Kind,
    OtherField,
    Rows,
    as_served,
    vectors_of,
)
from parity.served.background import Background
from parity.served.hourly import HourlyParts, warn
from parity.served.log import folder_of
from parity.served.options import folder_of_log, options_of

POLL_SECONDS = 0.05
REST_SECONDS = 0.0001
"""How long the thread lets others run, after each step of work."""
ROWS_PER_BATCH = 1000
ROWS_AT_ONCE = 200
KINDS_AT_MOST = 256
"""Of how many kinds of requests files are kept open for more rows."""

Key = tuple[Kind, tuple[Column, ...]]
"""Of a kind of request, the columns of its answer."""
logger = logging.getLogger("parity.served")


class Recorder(Background):
    """What notes answers, for a folder."""

    def begin(self) -> None:
        super().begin()
        self._refused: Counter[Kind] = Counter()

    def note(self, answer: tuple[Kind, Request, Content, int, int, int]) -> None:
        """Note what is to be an `Answer`."""
        rows = answer[-1]
        with self._lock:
            held = self._held + rows
            if held > self.limit:
                self._refused[answer[0]] += rows
            else:
                self._held = held
                self._waiting.append(answer)
            if self._thread is None:
                self._start()

    def refused(self) -> Counter[Kind]:
        """Take the numbers of rows that did not fit into the buffer."""
        with self._lock:
            refused, self._refused = self._refused, Counter()
        return refused

    def _start(self) -> None:
        super()._start()
        if self._thread:
            _end_in_order()

    def _write(self, ending: threading.Event) -> None:
        _Writer(self, ending).run()


class _Writer:
    """What the thread of a recorder does, until it is ending."""

    def __init__(self, recorder: Recorder, ending: threading.Event):
        self._recorder, self._ending = recorder, ending
        self._columns: dict[Kind, Columns] = {}
        self._rows: dict[Key, Rows] = {}
        self._batches: dict[Key, list[pa.RecordBatch]] = {}
        self._parts: dict[Key, HourlyParts] = {}
        self._decoded = self._since_rest = 0
        self._token, self._numbers = secrets.token_hex(8), count()

    def run(self) -> None:
        due = time.monotonic() + self._recorder.flush_seconds
        while not self._ending.wait(POLL_SECONDS):
            self._decode()
            if time.monotonic() >= due or self._decoded >= self._recorder.limit // 4:
                self._write()
                due = time.monotonic() + self._recorder.flush_seconds
        self._decode()
        self._write()
        self._close()

    def _rest(self, values: int) -> None:
        """After work on some values, let others run: a thread that has Python's lock keeps it for 5 ms otherwise."""
        self._since_rest += values
        if self._since_rest >= VALUES_PER_STEP and not self._ending.is_set():
            self._since_rest = 0
            time.sleep(REST_SECONDS)

    def _decode(self) -> None:
        """Decode what was noted: of each kind, as many answers at a time as make `ROWS_AT_ONCE`."""
        answers = self._recorder.taken()
        alike: dict[Key, list[tuple[Answer, str]]] = {}
        while answers:
            answer = Answer(*answers.popleft())
            try:
                key = answer.kind, self._columns_of(answer)
            except Exception:
                self._give_up(answer)
                continue
            some = alike.setdefault(key, [])
            some.append((answer, f"{self._token}-{next(self._numbers)}"))
            if answer.rows * len(some) >= ROWS_AT_ONCE:  # those that are alike are mostly as long
                self._take(key, alike.pop(key))
            self._rest(1)
        for key, some in alike.items():
            self._take(key, some)

    def _take(self, key: Key, answers: list[tuple[Answer, str]]) -> None:
        try:
            self._rows_of(key).take(answers, self._rest)
        except OtherField:
            for answer, number in answers:
                self._take_by_row(key, answer, number)
        except Exception:
            if len(answers) == 1:
                self._give_up(answers[0][0])
            else:
                for one in answers:
                    self._take(key, [one])
        else:
            self._count(key, sum(answer.rows for answer, _ in answers))

    def _take_by_row(self, key: Key, answer: Answer, number: str) -> None:
        """Take the rows of an answer one by one, each to those that have values of the same types."""
        kind, columns = key
        taken = 0
        try:
            vectors = vectors_of(answer)
            for row in range(answer.rows):
                other = kind, as_served(vectors, columns, row)
                self._rows_of(other).take_row(answer, number, vectors, row)
                self._count(other, 1)
                taken += 1
                self._rest(len(columns))
        except Exception:
            self._give_up(answer, taken)

    def _give_up(self, answer: Answer, taken: int = 0) -> None:
        """Drop an answer that can't be decoded, but for the rows that were taken."""
        logger.exception("%s: an answer to %s can't be logged", self._recorder.folder, answer.kind.name)
        self._parts_of(answer.kind).drop(answer.rows - taken)
        self._recorder.done(answer.rows - taken)

    def _rows_of(self, key: Key) -> Rows:
        if key not in self._rows:
            self._rows[key] = Rows(key[1])
        return self._rows[key]

    def _count(self, key: Key, count: int) -> None:
        self._decoded += count
        rows = self._rows[key]
        if rows.count >= ROWS_PER_BATCH:
            self._batches.setdefault(key, []).append(rows.batch(self._rest))

    def _columns_of(self, answer: Answer) -> tuple[Column, ...]:
        found = self._columns.get(answer.kind)
        if found is None or found.request.groups is not answer.request.groups:
            if len(self._columns) >= KINDS_AT_MOST:
                self._columns.clear()
            found = self._columns[answer.kind] = Columns(answer.kind, answer.request)
        return found.of(answer.content)

    def _write(self) -> None:
        """Write all that is decoded, and what was dropped."""
        refused = self._recorder.refused()
        if refused:
            waiting = f"{self._recorder.limit:,} were waiting to be written"
            warn(f"{self._recorder.folder}: {refused.total():,} rows were dropped, as {waiting}")
        for kind, number in refused.items():
            self._parts_of(kind).drop(number)
        for key, rows in self._rows.items():
            batches = self._batches.pop(key, [])
            self._append(key, rows, batches)
        self._rows, self._decoded = {}, 0
        for parts in list(self._parts.values()):
            with self._going_on():
                parts.merge_passed()
                parts.write_dropped()

    def _append(self, key: Key, rows: Rows, batches: list[pa.RecordBatch]) -> None:
        number = rows.count + sum(batch.num_rows for batch in batches)
        if not number:
            return
        kind, columns = key
        try:
            table = pa.Table.from_batches([*batches, rows.batch(self._rest)])
            self._parts_of(kind, columns, table.schema).append(table)
        except Exception:
            logger.exception("%s: rows can't be written", self._recorder.folder)
            self._parts_of(kind).drop(number)
        self._recorder.done(number)

    def _close(self) -> None:
        for parts in self._parts.values():
            with self._going_on():
                parts.close()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Have the thread go on, whatever is wrong with the files of one kind."""
        try:
            yield
        except Exception:
            logger.exception("%s: it can't be written", self._recorder.folder)

    def _parts_of(self, kind: Kind, columns: tuple[Column, ...] = (), schema: pa.Schema = NO_COLUMNS) -> HourlyParts:
        """The files of these rows; without columns, any of the kind, which is enough to say what was dropped."""
        found = self._parts.get((kind, columns))
        if found is None and not columns:
            found = next((parts for (other, _), parts in self._parts.items() if other == kind), None)
        if found is None:
            while len(self._parts) >= KINDS_AT_MOST:
                self._parts.pop(next(iter(self._parts))).close()
            facts = {"project": kind.project, "service": kind.service, "references": self._references_of(kind)}
            folder = self._recorder.folder / folder_of(kind.name)
            found = self._parts[kind, columns] = HourlyParts(folder, schema, facts)
        return found

    def _references_of(self, kind: Kind) -> list[str]:
        columns = self._columns.get(kind)
        return list(columns.request.feature_refs if columns else () if kind.service else kind.asked)


_recorders: dict[Path, Recorder] = {}
_making = threading.Lock()


def recorder_of(config: RepoConfig) -> Recorder | None:
    """The recorder of a store, which all of a process that have the folder share; None where the log is off."""
    options, folder = options_of(config), folder_of_log(config)
    if options is None or folder is None:
        return None
    with _making:
        if folder not in _recorders:
            _recorders[folder] = Recorder(folder, options.buffer_rows, options.flush_seconds)
        return _recorders[folder]


def _begin_anew() -> None:
    """In a fork no lock is held."""
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


def _end_in_order() -> None:
    """Have SIGTERM end the process in order where it would at once, so that what was noted is written."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
