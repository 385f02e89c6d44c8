"""Events that were applied and have not landed yet, of bounded number, on their way to the disk."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.transactions.landed import NOWHERE, OFFSET, PARTITION, Landing


class Buffer:
    """Lands events in a thread of its own, so that those that come meanwhile do not wait for the disk."""

    def __init__(self, landing: Landing, seconds: float, at_most: int, replay_seconds: float):
        """Land events after so many ``seconds``, or once there are so many; see `passed` for ``replay_seconds``."""
        self._landing, self._seconds, self._at_most = landing, seconds, at_most
        self._replay_seconds = replay_seconds
        self._begun: dict[str, int] = {}
        self._passed: dict[str, int] = {}
        self._recent: deque[tuple[float, Mapping[str, int]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="landing")
        self._running: Future | None = None
        self._rows: list[pa.Table] = []
        self._again: list[np.ndarray] = []
        self._until: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._count, self._since = 0, 0.0

    def reached(self) -> dict[str, int]:
        """Up to which offset of each partition events have landed, as the files say."""
        if self._running:
            wait([self._running])
        landed = self._landing.high_water()
        for partition, offset in landed.items():
            self._taken[partition] = max(offset, self._taken.get(partition, NOWHERE))
        return landed

    def has_landed(self, partition: str, offsets: Sequence[int]) -> bool:
        """Whether an event of any of these offsets has landed, or is about to."""
        if self._running:
            wait([self._running])
        waiting = (rows.filter(pc.equal(rows[PARTITION], partition))[OFFSET] for rows in self._rows)
        if any(pc.is_in(some, value_set=pa.array(offsets, pa.int64())).to_numpy().any() for some in waiting):
            return True
        return self._landing.has(partition, offsets)

    def take(self, rows: pa.Table, again: np.ndarray, until: Mapping[str, int]) -> None:
        """Take up events that were applied, of which ``again`` may repeat or correct others. What is taken up already,
        or has landed, is left out."""
        self._passed |= until
        self._recent.append((time.monotonic(), until))
        fresh = self._fresh(rows)
        if not fresh.all():
            rows, again = rows.filter(pa.array(fresh)), again[fresh]
        if not self._until:
            self._since = time.monotonic()
        for partition, offset in until.items():
            if offset > self._taken.get(partition, NOWHERE):
                self._until[partition] = self._taken[partition] = offset
        if rows.num_rows:
            self._rows.append(rows)
            self._again.append(again)
            self._count += rows.num_rows

    def begin(self, kept: Mapping[str, int]) -> None:
        """Note that events are applied anew from these offsets on."""
        self._begun, self._passed = dict(kept), {}
        self._recent.clear()

    def passed(self, landed: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Of what has ``landed``, up to which offset it was applied since reading began; and up to which it was by
        some seconds ago, as a node of a cluster may lose what another one keeps."""
        ago = time.monotonic() - self._replay_seconds
        while self._recent and self._recent[0][0] <= ago:
            self._begun |= self._recent.popleft()[1]
        found = {}
        for partition in landed.keys() & self._passed.keys():
            now = min(landed[partition], self._passed[partition])
            found[partition] = now, min(now, self._begun.get(partition, NOWHERE))
        return found

    def is_new(self, partition: str, offset: int) -> bool:
        """Whether an offset is beyond all that was taken up, or has landed."""
        return offset > self._taken.get(partition, NOWHERE)

    def _fresh(self, rows: pa.Table) -> np.ndarray:
        offsets = rows[OFFSET].to_numpy()
        if not self._taken or not len(offsets):
            return np.ones(len(offsets), bool)
        names = rows[PARTITION].combine_chunks().dictionary_encode()
        names = names if isinstance(names, pa.DictionaryArray) else names.chunk(0)
        taken = np.array([self._taken.get(name, NOWHERE) for name in names.dictionary.to_pylist()], np.int64)
        return offsets > taken[names.indices.to_numpy()]

    @property
    def is_due(self) -> bool:
        """Whether it is time to land, and nothing is landing."""
        if not self._until or (self._running and not self._running.done()):
            return self._count >= self._at_most
        return self._count >= self._at_most or time.monotonic() - self._since >= self._seconds

    @property
    def is_empty(self) -> bool:
        return not self._until and self._running is None

    def land(self) -> None:
        """Begin to land what there is, once nothing else is landing; `finished` has the result."""
        rows = pa.concat_tables(self._rows) if self._rows else None
        again = np.concatenate(self._again) if self._again else None
        until, self._until, self._rows, self._again, self._count = self._until, {}, [], [], 0
        self._running = self._thread.submit(self._land, rows, until, again)

    def _land(
        self, rows: pa.Table | None, until: dict[str, int], again: np.ndarray | None
    ) -> tuple[int, dict[str, int]]:
        return self._landing.land(rows, until, again), until

    def finished(self, waiting: bool = False) -> tuple[int, dict[str, int]] | None:
        """How many events have landed since the last time, and up to which offsets; None if none has.

        Raises what went wrong.
        """
        if self._running is None or not (waiting or self._running.done()):
            return None
        running, self._running = self._running, None
        return running.result()
