"""What was logged of serving, as an audit looks at it: by feature view, whatever was asked for and under which names.

A part of the log (`parity.served.log`) has the columns of a feature service, or of features that were asked for by
reference: join keys, perhaps renamed, and `VIEW__FEATURE`, where VIEW may be an alias.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from feast.feature_logging import REQUEST_ID_FIELD
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from parity.definition.checks import FeatureTable
from parity.definition.instants import UTC_MICROSECONDS
from parity.edge.errors import UserError
from parity.served.hourly import AS_OF, LOG_TIMESTAMP
from parity.served.log import Part, read

STATUS, TIMESTAMP = "__status", "__timestamp"
ROWS_AT_ONCE = 200_000
NOT_DECLARED, ON_DEMAND, OTHER_KIND, NO_SUCH_FEATURE, OTHER_KEYS = (
    "the view is not declared any more, or not under this name",
    "it is worked out on demand",
    "training can't be asked for a view of this kind",
    "the feature is not declared any more",
    "the keys are of other types or names than declared",
)
"""Why a logged value is not audited."""


class View(NamedTuple):
    """A feature view that can be audited. One of ``table`` has aggregations; of another there is no oracle."""

    name: str
    keys: pa.Schema
    features: dict[str, pa.DataType]
    table: FeatureTable | None = None


class Target(NamedTuple):
    """A view as the parts of a schema have it."""

    view: View
    prefix: str
    """What stands before the names of its features: its name, or an alias."""
    keys: dict[str, str]
    """The column of each join key."""
    features: tuple[str, ...]


class Chunk(NamedTuple):
    """Some rows of the log that have the same columns, with the number of the request of each."""

    rows: pa.Table
    requests: np.ndarray
    targets: Sequence[Target]
    unseen: Mapping[tuple[str, str], int]
    """How many columns of a view are not audited, by (view, why)."""


THERE = 16
"""What is marked of every request, beside what is found of it (found.py)."""
BLOCK = 1 << 10


@dataclass
class Requests:
    """The requests that were gone through, by number; of each, in a byte, what was found of it.

    The log calls them by a token of a process and a number that counts on, and the rows of one may be in several parts:
    so numbers are given by blocks of a process. Requests under other ids are told apart where they follow each other.
    """

    found: np.ndarray = field(default_factory=lambda: np.zeros(BLOCK, np.uint8))
    blocks: dict[tuple[str, int], int] = field(default_factory=dict)
    last: str | None = None
    own: int = BLOCK
    """How many numbers are given of the last block of requests under other ids, and `own_block` which that is."""
    own_block: int = 0

    def number(self, ids: pa.Array) -> np.ndarray:
        """The numbers of the requests of these rows, the next of the log. A row without an id is one of its own."""
        parts = pc.extract_regex(ids, r"^(?P<token>.*)-(?P<count>[0-9]{1,15})$")
        counted = pc.is_valid(parts).to_numpy(zero_copy_only=False)
        numbers = np.empty(len(ids), np.int64)
        if counted.any():
            some = parts.filter(pa.array(counted))
            numbers[counted] = self._by_block(some.field("token"), some.field("count").cast(pa.int64()).to_numpy())
        for place in np.flatnonzero(~counted).tolist():
            numbers[place] = self._following(ids[place].as_py())
        self.mark(numbers, THERE)
        return numbers

    def _by_block(self, tokens: pa.Array, counts: np.ndarray) -> np.ndarray:
        encoded = tokens.dictionary_encode()
        of, first = encoded.indices.to_numpy(), counts // BLOCK
        kinds, place = np.unique(np.stack([of, first]), axis=1, return_inverse=True)
        names = encoded.dictionary.to_pylist()
        bases = [self._block((names[token], block)) for token, block in kinds.T.tolist()]
        return np.array(bases)[place.reshape(-1)] + counts % BLOCK

    def _block(self, key: tuple[str, int]) -> int:
        """The first number of a block."""
        base = self.blocks.setdefault(key, len(self.blocks) * BLOCK)
        if base + BLOCK > len(self.found):
            self.found = np.concatenate([self.found, np.zeros(len(self.found), np.uint8)])
        return base

    def _following(self, id: str | None) -> int:
        if id is None or id != self.last:
            if self.own == BLOCK:
                self.own, self.own_block = 0, self._block(("", -1 - len(self.blocks)))
            self.own += 1
        self.last = id
        return self.own_block + self.own - 1

    @property
    def count(self) -> int:
        return self.marked(THERE)

    def mark(self, numbers: np.ndarray, how: int) -> None:
        self.found[numbers] |= how

    def marked(self, how: int) -> int:
        return int(np.count_nonzero(self.found & how))


def views_of(store: FeatureStore, tables: Sequence[FeatureTable]) -> dict[str, View]:
    """The views that can be audited, by name: the ``tables``, and of the other ones that are applied those of Feast's
    own kind that training can be asked of."""
    found = {}
    for table in tables:
        features = {rule.name: rule.type for rule in table.definition.rules}
        found[table.name] = View(table.name, table.definition.keys, features, table)
    for view in store.list_feature_views():
        if view.name not in found and type(view).__name__ == "FeatureView" and view.entity_columns:
            keys = pa.schema([(column.name, _arrow(column.dtype)) for column in view.entity_columns])
            found[view.name] = View(view.name, keys, {f.name: _arrow(f.dtype) for f in view.features})
    return found


def _arrow(dtype: Any) -> pa.DataType:
    from feast.types import from_feast_to_pyarrow_type

    type = from_feast_to_pyarrow_type(dtype)
    return UTC_MICROSECONDS if pa.types.is_timestamp(type) else type


def chunks(
    store: FeatureStore,
    parts: Iterable[Part],
    views: Mapping[str, View],
    asked: Collection[str],
    requests: Requests,
    since: datetime | None,
    until: datetime | None,
) -> Iterator[Chunk]:
    """Go through the rows of the ``parts`` that were answered from ``since`` to ``until``, about `ROWS_AT_ONCE` of one
    service at a time. ``asked`` is as of `targets_of`."""

    def chunk(service: str | None, some: tuple[list[pa.Table], list[np.ndarray]]) -> Chunk:
        rows = pa.concat_tables(some[0]).combine_chunks()
        targets, unseen = targets_of(store, service, rows.schema, views, asked)
        return Chunk(rows, np.concatenate(some[1]), targets, unseen)

    waiting: dict[tuple, tuple[list[pa.Table], list[np.ndarray]]] = {}
    for part in parts:
        for rows in _batches(part):
            rows = _between(rows, since, until)
            if rows.num_rows:
                kind = part.service, tuple(part.references), rows.schema.remove_metadata()
                some, numbers = waiting.setdefault(_hashable(kind), ([], []))
                some.append(rows.replace_schema_metadata())
                numbers.append(requests.number(pa.concat_arrays(rows[REQUEST_ID_FIELD].chunks)))
                if sum(table.num_rows for table in some) >= ROWS_AT_ONCE:
                    yield chunk(part.service, waiting.pop(_hashable(kind)))
    for (service, *_), some in waiting.items():
        yield chunk(service, some)


def _hashable(kind: tuple[str | None, tuple, pa.Schema]) -> tuple:
    service, references, schema = kind
    return service, references, tuple((column.name, str(column.type)) for column in schema)


def _batches(part: Part) -> Iterator[pa.Table]:
    """The rows of a part, some at a time, where it still is where it was listed; and else at once."""
    try:
        file = pq.ParquetFile(part.path)
        missing = [name for name in (LOG_TIMESTAMP, REQUEST_ID_FIELD, AS_OF) if name not in file.schema_arrow.names]
        if missing:
            raise UserError(f"{part.path}: it has no column {missing[0]}, so it is no part of a log. Move it away.")
    except FileNotFoundError:
        yield read(part)
        return
    except (OSError, pa.ArrowException):
        yield read(part)  # which says what is wrong
        return
    with file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield pa.table(batch)


def _between(rows: pa.Table, since: datetime | None, until: datetime | None) -> pa.Table:
    when = rows[LOG_TIMESTAMP]
    if since is not None:
        rows = rows.filter(pc.greater_equal(when, pa.scalar(since, when.type)))
        when = rows[LOG_TIMESTAMP]
    return rows if until is None else rows.filter(pc.less_equal(when, pa.scalar(until, when.type)))


def targets_of(
    store: FeatureStore, service: str | None, schema: pa.Schema, views: Mapping[str, View], asked: Collection[str] = ()
) -> tuple[list[Target], Counter]:
    """Find the views of ``views`` among the columns of a ``schema``; and count the columns that are not audited, by
    (view, why). Of views that are not ``asked`` for, if some are, nothing is given."""
    kinds = {view.name: type(view).__name__ for view in store.list_all_feature_views()}
    given = _projections(store, service)
    named = {name: (name, {}) for name in [*kinds, *views]} | given

    def fits(prefix: str, feature: str) -> tuple[bool, bool, int]:
        """How well a column is read like this, as there may be __ in names: best as what the service gives."""
        view = views.get(named[prefix][0])
        return bool(view) and feature in view.features, prefix in given, len(prefix)

    of_prefix, unseen = _by_prefix(schema, named, fits)
    targets = []
    for prefix, features in of_prefix.items():
        name, renamed = named[prefix]
        view = views.get(name)
        if view is None:
            kind = kinds.get(name)
            why = ON_DEMAND if kind == "OnDemandFeatureView" else OTHER_KIND if kind else NOT_DECLARED
            unseen[name, why] += len(features)
            continue
        known = tuple(feature for feature in features if feature in view.features)
        keys = {key: renamed.get(key, key) for key in view.keys.names}
        if len(known) < len(features):
            unseen[name, NO_SUCH_FEATURE] += len(features) - len(known)
        if not all(column in schema.names for column in keys.values()):
            unseen[name, OTHER_KEYS] += len(known)
        elif known:
            targets.append(Target(view, prefix, keys, known))
    if asked:
        targets = [target for target in targets if target.view.name in asked]
        unseen = Counter({(name, why): count for (name, why), count in unseen.items() if name in asked})
    return targets, unseen


def _by_prefix(
    schema: pa.Schema, prefixes: Collection[str], fits: Callable[[str, str], tuple]
) -> tuple[dict[str, list[str]], Counter]:
    """The features in the columns of a ``schema``, by what stands before them: of the ``prefixes`` the one that fits
    best; and what has none of them, as of `targets_of`."""
    found: dict[str, list[str]] = {}
    unseen: Counter = Counter()
    for column in schema.names:
        if f"{column}{STATUS}" in schema.names:
            fitting = [(prefix, column[len(prefix) + 2 :]) for prefix in prefixes if column.startswith(f"{prefix}__")]
            if fitting:
                prefix, feature = max(fitting, key=lambda one: fits(*one))
                found.setdefault(prefix, []).append(feature)
            else:
                unseen[column.rpartition("__")[0] or column, NOT_DECLARED] += 1
    return found, unseen


def _projections(store: FeatureStore, service: str | None) -> dict[str, tuple[str, dict[str, str]]]:
    """By what a service calls each view of its: the view's name, and how its join keys are renamed."""
    if service is None:
        return {}
    try:
        found = store.get_feature_service(service).feature_view_projections
    except FeastObjectNotFoundException:
        return {}
    return {one.name_to_use(): (one.name, dict(one.join_key_map)) for one in found}


class Served(NamedTuple):
    """What was served of a target, in some rows: its keys as the view calls them, and instants in microseconds."""

    keys: pa.Table
    as_of: np.ndarray
    when: np.ndarray
    event: np.ndarray
    """The event of the row that was served; `NO_EVENT` for none."""
    requests: np.ndarray
    values: pa.Table
    statuses: pa.Table


NO_EVENT = np.iinfo(np.int64).min


def served_of(chunk: Chunk, target: Target) -> Served | None:
    """What a ``chunk`` has of one of its targets; None where the keys are of other types than they are declared."""
    rows, first = chunk.rows, f"{target.prefix}__{target.features[0]}"
    try:
        columns = [_as(rows[column], target.view.keys.field(key).type) for key, column in target.keys.items()]
    except (pa.ArrowException, TypeError):
        return None
    if any(column.null_count for column in columns):
        return None
    event = pc.fill_null(_microseconds(rows[f"{first}{TIMESTAMP}"]), NO_EVENT).to_numpy()
    nothing = pc.equal(rows[f"{first}{STATUS}"], FieldStatus.NOT_FOUND).to_numpy()
    return Served(
        pa.table(columns, target.view.keys),
        _microseconds(rows[AS_OF]).to_numpy(),
        _microseconds(rows[LOG_TIMESTAMP]).to_numpy(),
        np.where(nothing & (event == 0), NO_EVENT, event),
        chunk.requests,
        rows.select([f"{target.prefix}__{feature}" for feature in target.features]).rename_columns(target.features),
        rows.select([f"{target.prefix}__{feature}{STATUS}" for feature in target.features]).rename_columns(
            target.features
        ),
    )


def _as(keys: pa.ChunkedArray, type: pa.DataType) -> pa.ChunkedArray:
    """The same keys of another width or resolution. Raises `TypeError` for another kind."""
    kinds = (pa.types.is_integer, pa.types.is_timestamp, pa.types.is_boolean)
    if keys.type != type and not any(is_kind(keys.type) and is_kind(type) for is_kind in kinds):
        raise TypeError(f"{keys.type} for {type}")
    return keys.cast(type)


def _microseconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    zone = times.type.tz
    return times.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
