"""The two sides: what training gets of the offline store, and what serving gets of the online store, for some keys.

Both are asked as a team asks them, through Feast's public calls, each through a feature store of its own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureService, FeatureStore
from feast.online_response import OnlineResponse

from parity.compare.equal import Coerced, plain
from parity.compare.requested import Asked
from parity.compare.subjects import ENTITY_TIME, Subject
from parity.edge.errors import UserError, of_error
from parity.edge.feast_internals import online_store_of

ROW_DROPPED = "no row"
"""What training gets for a key whose row the offline store drops: less than a null."""
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


@dataclass
class Answers:
    """What a side says of some keys: by column, a value for each key."""

    values: dict[str, list]
    events: dict[str, list] = field(default_factory=dict)
    """Of serving: of which event each value is, epoch microseconds; None, or 0 of Feast, where it does not say."""
    there: np.ndarray | None = None
    """Of training: whether the row of each key came back at all."""
    failed: dict[int, str] = field(default_factory=dict)
    """The errors of the keys that the side failed for, by their place."""
    missing: list[str] = field(default_factory=list)
    """Columns that the side does not answer with."""


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
            found = _plain_list(table[column.name])
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


def of_response(answer: OnlineResponse, subject: Subject, number: int, typed: bool = False) -> Answers:
    """The answers of a response: values as the SDK gives them, or as they are ``typed``; the events as the protobuf has
    them."""
    given: dict[str, list] = {}
    vectors = dict(zip(answer.proto.metadata.feature_names.val, answer.proto.results, strict=True))
    values, events, missing = {}, {}, []
    for column in subject.columns:
        name = column.name
        if name not in vectors:
            missing.append(name)
            values[name], events[name] = [None] * number, [None] * number
            continue
        some = typed_values(vectors[name].values, column.type) if typed else _simple(vectors[name].values, column.type)
        if some is None:
            given = given or answer.to_dict()
            some = [_or_plain(one) for one in given[name]]
        values[name] = _filled(some, number)
        stamps = [one.seconds * 1_000_000 + one.nanos // 1000 for one in vectors[name].event_timestamps]
        events[name] = _filled(stamps, number) if stamps else [None] * number  # as the remote store says none
    return Answers(values, events, missing=missing)


def typed_values(values: Iterable[Any], kind: str) -> list:
    """What protobuf values of a feature of the type ``kind`` are in Python; None for null, and for NaN, which is null
    by another name; `Coerced` for one of another type."""
    declared, found = _FIELDS[kind], []
    for value in values:
        field = value.WhichOneof("val")
        if field == declared:
            one = getattr(value, field)
            found.append(one if one == one else None)
        elif field in (None, "null_val"):
            found.append(None)
        else:
            found.append(Coerced(getattr(value, field), field))
    return found


_FIELDS = {
    "Float64": "double_val",
    "Float32": "float_val",
    "Int64": "int64_val",
    "Int32": "int32_val",
    "String": "string_val",
    "Bool": "bool_val",
}
"""Of the types that the SDK hands out as they are, where a value has it."""


def _simple(values: Sequence[Any], kind: str) -> list | None:
    """The values of a vector, if all of them are null or of the declared type, and that is a simple one: read so, it
    takes a third of the time."""
    field = _FIELDS.get(kind)
    if field is None:
        return None
    found: list = []
    for value in values:
        if value.HasField(field):
            one = getattr(value, field)
            found.append(one if one == one else None)
        elif value.WhichOneof("val") in (None, "null_val"):
            found.append(None)
        else:
            return None
    return found


def _filled(values: list, number: int) -> list:
    """A view without entities answers once, for however many are asked for."""
    return values * number if len(values) == 1 != number else values


def _or_plain(value: Any) -> Any:
    return value if type(value) in (int, str, bool) or value is None else plain(value)


def _plain_list(column: pa.ChunkedArray) -> list:
    """The values of a column, `plain`; at once for those of which there are many."""
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        return [None if value != value else value for value in values.tolist()]
    values = column.to_pylist()
    is_simple = pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_boolean(column.type)
    return values if is_simple else [plain(value) for value in values]


SECONDS_OF_DIVIDING = 20
SMALLEST_DIVIDED = 64
"""How many keys that fail are asked one by one, at most: more are divided, and those of a part fail together."""


def in_parts(
    subject: Subject, number: int, size: int, ask: Callable[[Sequence[int]], Answers], is_divided: bool = True
) -> Answers:
    """Ask for the keys at places up to ``number``, ``size`` at once, each part `divided`, or its error passed on.

    Raises `Failed` if every key of every part fails, and at once if nobody answers.
    """
    whole = Answers({column.name: [] for column in subject.columns}, {column.name: [] for column in subject.columns})
    seconds, why = SECONDS_OF_DIVIDING, ""
    for start in range(0, number, size):
        places, began = range(start, min(start + size, number)), time.monotonic()
        try:
            part = divided(places, ask, seconds) if is_divided else ask(places)
        except Unreachable:
            raise
        except Failed as error:
            why, none = str(error), {column.name: [None] * len(places) for column in subject.columns}
            part = Answers(none, none, failed=dict.fromkeys(range(len(places)), why))
        else:
            whole.missing = part.missing
        if part.failed:
            seconds = max(0, seconds - (time.monotonic() - began))
        whole.failed |= {start + place: error for place, error in part.failed.items()}
        for target, given in ((whole.values, part.values), (whole.events, part.events)):
            for name, values in given.items():
                target[name] += values
    if number and len(whole.failed) == number:
        raise Failed(why)
    return whole


def divided(
    places: Sequence[int],
    ask: Callable[[Sequence[int]], Answers],
    seconds: float = SECONDS_OF_DIVIDING,
    hopeless: Callable[[], str | None] | None = None,
) -> Answers:
    """Ask for the keys at ``places`` at once; if that fails, for halves, down to the keys that are to blame, as long as
    there are ``seconds`` left.

    Raises `Failed` if every key is, at once if that is ``hopeless``, as it says.
    """
    number, first = len(places), places[0] if places else 0
    try:
        return ask(places)
    except Exception as error:
        if is_unreachable(error):
            raise Unreachable(of_error(error)) from None
        if hopeless and (why := hopeless()):
            raise Failed(why) from None
        parts = _parts(list(places), ask, error, [4 * SMALLEST_DIVIDED], time.monotonic() + seconds)
    failed = {place - first: answer for some, answer in parts if isinstance(answer, str) for place in some}
    if len(failed) == number:
        raise Failed(next(iter(failed.values())))
    whole = Answers({}, {}, np.zeros(number, bool), failed)
    for some, answer in parts:
        if isinstance(answer, str):
            continue
        whole.missing = answer.missing
        inside = [place - first for place in some]
        for target, given in ((whole.values, answer.values), (whole.events, answer.events)):
            for name, values in given.items():
                column = target.setdefault(name, [None] * number)
                for place, value in zip(inside, values, strict=True):
                    column[place] = value
        whole.there[inside] = True if answer.there is None else answer.there
    return whole


class Failed(Exception):
    """A side fails for every key, as the message says."""


class Unreachable(Failed):
    """Nobody answers."""


def is_unreachable(error: BaseException) -> bool:
    """Whether nobody answers, which no other keys change, and each attempt may take its time."""
    names = {type_.__name__ for type_ in type(error).__mro__}
    return isinstance(error, OSError) or any("Connection" in name or "Timeout" in name for name in names)


def _parts(places: list[int], ask: Callable, error: Exception, budget: list[int], deadline: float) -> list:
    """The answers of parts of ``places``, or the error of those that fail."""
    if len(places) == 1 or budget[0] <= 0 or time.monotonic() > deadline:
        return [(places, of_error(error))]
    found = []
    for part in (places[: len(places) // 2], places[len(places) // 2 :]):
        budget[0] -= 1
        try:
            found.append((part, ask(part)))
        except Exception as another:
            found += _parts(part, ask, another, budget, deadline)
    return found


def as_datetime(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime.fromtimestamp(microseconds / 1_000_000, UTC)
