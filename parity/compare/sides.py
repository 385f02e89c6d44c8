"""The two sides: what training gets of the offline store, and what serving gets of the online store, for some keys.

Both are asked as a team asks them, through Feast's public calls, each through a feature store of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureService, FeatureStore

from parity.compare.answers import Answers, of_response, plain_list
from parity.compare.dividing import divided, in_parts
from parity.compare.requested import Asked
from parity.compare.subjects import ENTITY_TIME, Subject
from parity.edge.errors import UserError
from parity.edge.feast_internals import online_store_of

KEYS_PER_READ = 5_000
"""How many keys the SDK is asked for at once: it holds an object for each value, its event and its status."""
REQUESTS = 8
"""How many requests the rows that a store takes for the same are divided into; those beyond are asked for a microsecond
earlier, each time."""
ROW = "parity_row"
"""A column that travels with the rows of a training set, whose order stores change."""
SAY_EVENTS = {
    "SqliteOnlineStore", "RedisOnlineStore", "PostgreSQLOnlineStore", "MySQLOnlineStore", "DynamoDBOnlineStore",
}  # fmt: skip
"""Stores that have the event time of every row."""


class Serving(Protocol):
    """Whatever answers as a model server would have it answered."""

    def ask(self, subject: Subject, asked: Asked) -> Answers: ...


class Training:
    """The offline store, asked for a training set. Where it fails for some keys, the others are ``divided`` from these;
    or its error is passed on."""

    def __init__(
        self,
        store: FeatureStore,
        trouble: Callable[[FeatureStore, Subject], str | None] | None = None,
        divided: bool = True,
    ):
        """``trouble`` says after an error what is wrong for every key, if it is."""
        self._store, self._trouble, self._divided = store, trouble, divided

    def ask(self, subject: Subject, asked: Asked, at: datetime | Sequence[datetime]) -> Answers:
        """What a training set has for each key that is asked for, at the instant ``at``, or each at one of its own."""
        frame = asked.frame()
        instants = [at] * len(asked) if isinstance(at, datetime) else at
        times = pa.array(instants, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        turns = np.zeros(len(asked), np.int64)
        if self._merges_rows(subject):
            turns = _turns(subject, frame, times)
            times, turns = times - turns // REQUESTS, turns % REQUESTS
        frame[ENTITY_TIME] = pd.DatetimeIndex(times.astype("datetime64[us]"), tz="UTC")
        frame[ROW] = np.arange(len(asked))
        features = subject.request if isinstance(subject.request, FeatureService) else list(subject.request)
        places = range(len(asked))

        def ask(some: Sequence[int]) -> Answers:
            return self._ask_in_turns(subject, features, frame, some, turns)

        if not self._divided:
            return ask(places)
        hopeless = (lambda: self._trouble(self._store, subject)) if self._trouble else None
        return divided(places, ask, hopeless=hopeless)

    def _merges_rows(self, subject: Subject) -> bool:
        """Whether the store takes rows of one instant for the same that share the key of one view and not those of the
        others, as Dask does (6787 of feast-dev/feast): then these are asked for in requests of their own."""
        if len({tuple(source.keys) for source in subject.sources}) < 2:
            return False
        return any(type_.__name__ == "DaskOfflineStore" for type_ in type(self._store.provider.offline_store).__mro__)

    def _ask_in_turns(
        self, subject: Subject, features: Any, frame: pd.DataFrame, places: Sequence[int], turns: np.ndarray
    ) -> Answers:
        """Ask for the rows of each turn by a request, and put the answers together in the order of ``places``."""
        own = turns[list(places)]
        parts = [np.flatnonzero(own == turn) for turn in np.unique(own)]
        if len(parts) < 2:
            return self._ask(subject, features, frame, places)
        whole = Answers({column.name: [None] * len(places) for column in subject.columns})
        whole.there = np.zeros(len(places), bool)
        for part in parts:
            answers = self._ask(subject, features, frame, [places[at] for at in part.tolist()])
            whole.there[part], whole.missing = answers.there, answers.missing
            for name, values in answers.values.items():
                for at, value in zip(part.tolist(), values, strict=True):
                    whole.values[name][at] = value
        return whole

    def _ask(self, subject: Subject, features: Any, frame: pd.DataFrame, places: Sequence[int]) -> Answers:
        some = frame.iloc[list(places)].reset_index(drop=True)
        table = self._store.get_historical_features(some, features, full_feature_names=subject.full).to_arrow()
        rows = np.asarray(table[ROW].to_numpy(), np.int64)
        where = {row: place for place, row in enumerate(places)}
        if len(np.unique(rows)) < len(rows) or not where.keys() >= set(rows.tolist()):
            raise UserError("the offline store answered with rows that nobody asked for, so nothing can be compared.")
        at = [where[row] for row in rows.tolist()]
        there = np.zeros(len(places), bool)
        there[at] = True
        values, missing = {}, []
        for column in subject.columns:
            if column.name not in table.column_names:
                missing.append(column.name)
                values[column.name] = [None] * len(places)
                continue
            found = plain_list(table[column.name])
            if at == list(range(len(places))):
                values[column.name] = found
            else:
                values[column.name] = ordered = [None] * len(places)
                for place, value in zip(at, found, strict=True):
                    ordered[place] = value
        return Answers(values, there=there, missing=missing)


def _turns(subject: Subject, frame: pd.DataFrame, times: np.ndarray) -> np.ndarray:
    """For each row a turn, such that no two rows of a turn share the instant and the key of the view that the store
    joins first: the first of which features are asked for, and any where only those on demand are."""
    first = next((column.source for column in subject.columns if column.source is not None), None)
    sources = [first] if first else subject.sources
    keys = [list(zip(*(frame[name] for name in one.keys), strict=True)) for one in sources]
    taken: dict[tuple, int] = {}
    turns = np.zeros(len(frame), np.int64)
    for row, time_ in enumerate(times.tolist()):
        own = [(view, time_, of[row] if of else ()) for view, of in enumerate(keys)]
        turns[row] = turn = max(taken.get(one, 0) for one in own)
        taken |= dict.fromkeys(own, turn + 1)
    return turns


class Sdk:
    """The online store, read by Feast in this process; ``divided`` as `Training` is. ``typed`` values show whether they
    are stored as the declared type: see `typed_values`."""

    def __init__(self, store: FeatureStore, divided: bool = True, typed: bool = False):
        self._store, self._divided, self._typed = store, divided, typed

    @property
    def says_events(self) -> bool:
        """Whether the store is known to say of which event everything is, that it has."""
        return any(type_.__name__ in SAY_EVENTS for type_ in type(online_store_of(self._store)).__mro__)

    def ask(self, subject: Subject, asked: Asked) -> Answers:
        rows = asked.rows()
        features = subject.request if isinstance(subject.request, FeatureService) else list(subject.request)

        def read(places: Sequence[int]) -> Answers:
            return self._ask(subject, features, rows, places)

        return in_parts(subject, len(asked), KEYS_PER_READ, read, self._divided)

    def _ask(self, subject: Subject, features: Any, rows: Mapping[str, list], places: Sequence[int]) -> Answers:
        some: Any = {name: [values[place] for place in places] for name, values in rows.items()}
        with _collecting_later():
            answer = self._store.get_online_features(features, some, full_feature_names=subject.full)
            return of_response(answer, subject, len(places), self._typed)


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Look for cycles in memory afterwards: an answer is of hundreds of thousands of objects, and to look through them
    again and again while it grows takes as long as all the rest."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
