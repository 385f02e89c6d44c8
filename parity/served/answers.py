"""Answers to requests, as rows of the log: a row per entity, with the columns of Feast's own log of a feature service.

Decoding is done in small steps, between which the caller may rest: it runs beside the reads, and must not hold them up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count
from operator import attrgetter
from typing import Any, NamedTuple

import pyarrow as pa
from feast import ValueType
from feast.feature_logging import LOG_DATE_FIELD, REQUEST_ID_FIELD
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import PROTO_VALUE_TO_VALUE_TYPE_MAP, python_values_to_proto_values

from parity.definition.instants import MICROSECONDS_PER_DAY, UTC_MICROSECONDS
from parity.edge.feast_internals import Request
from parity.served.hourly import AS_OF, LOG_TIMESTAMP

VALUES_PER_STEP = 250
"""How many values are decoded in one step, which takes about 0.1 ms."""
FeatureVector = GetOnlineFeaturesResponse.FeatureVector


class Kind(NamedTuple):
    """A kind of request: of a project, for a service by its name or for references of features."""

    project: str
    asked: str | tuple[str, ...]
    full_names: bool

    @property
    def service(self) -> str | None:
        return self.asked if isinstance(self.asked, str) else None

    @property
    def name(self) -> str:
        """The name of the service, or one made of the references."""
        if self.service is not None:
            return self.service
        return f"references-{hashlib.sha256(chr(0).join(self.asked).encode()).hexdigest()[:12]}"


Content = GetOnlineFeaturesResponse | list[bytes]
"""A response, or its encoded fields: the metadata first, and then each result."""


class Answer(NamedTuple):
    """What was answered: as of which instant, and when, both in microseconds since 1970."""

    kind: Kind
    request: Request
    content: Content
    as_of: int
    answered: int
    rows: int


class Column(NamedTuple):
    """A column of an answer: a join key or request data, which is of no view, or a feature.

    ``field`` is that of a `Value` which holds what is served, as it is declared; None for what has no column type here.
    """

    name: str
    field: str | None
    view: str | None = None
    stored: bool = True
    """Whether it has event timestamps. What an on-demand view makes has none."""

    @property
    def type(self) -> pa.DataType:
        return TYPES.get(self.field, pa.binary())


class Columns:
    """The columns of the answers to a resolved request."""

    def __init__(self, kind: Kind, request: Request):
        self.request = request
        keys = dict.fromkeys(request.join_keys, ValueType.UNKNOWN) | dict(request.types) | request_types(request)
        self._keys = {name: Column(name, FIELDS.get(of)) for name, of in keys.items()}
        stored = {view.projection.name_to_use(): view for view, _ in request.groups}
        views = {view.projection.name_to_use(): view for view in request.on_demand} | stored
        self._features: dict[str, Column] = {}
        for reference in request.feature_refs:
            view, _, feature = reference.partition(":")
            view = view.removesuffix("@latest")
            types = {field.name: field.dtype.to_value_type() for field in getattr(views.get(view), "features", ())}
            column = Column(f"{view}__{feature}", FIELDS.get(types.get(feature)), view, view in stored)
            self._features[column.name if kind.full_names else feature] = column
        self._found: dict[bytes | tuple[str, ...], tuple[Column, ...]] = {}

    def of(self, content: Content) -> tuple[Column, ...]:
        """The columns of an answer, in its order."""
        key = content[0] if isinstance(content, list) else tuple(content.metadata.feature_names.val)
        found = self._found.get(key)
        if found is None:
            response = GetOnlineFeaturesResponse.FromString(key) if isinstance(key, bytes) else content
            keys, names = dict(self._keys), response.metadata.feature_names.val
            found = self._found[key] = tuple(
                keys.pop(name, None) or self._features.get(name) or Column(name, None, "", False) for name in names
            )
        return found


def rows_of(response: GetOnlineFeaturesResponse) -> int:
    return len(response.results[0].values) if response.results else 0


def request_types(request: Request) -> dict[str, ValueType]:
    """What on-demand views take from a request, and of what types that is."""
    if not request.request_data:
        return {}
    types = {name: of for view in request.on_demand for name, of in view.get_request_data_schema().items()}
    return {name: of for name, of in types.items() if name in request.request_data}


def with_request_data(response: GetOnlineFeaturesResponse, request: Request, entity_rows: Any) -> Content:
    """A response with what on-demand views took from the request, which Feast answers without."""
    types = request_types(request)
    if not types:
        return response
    whole = GetOnlineFeaturesResponse()
    whole.CopyFrom(response)
    for name, of in types.items():
        if isinstance(entity_rows, Mapping):
            values = list(getattr(entity_rows[name], "val", entity_rows[name]))
        else:
            values = [row[name] for row in entity_rows]
        whole.metadata.feature_names.val.append(name)
        whole.results.add(values=python_values_to_proto_values(values, of))
    return whole


def _encoded_vectors(content: Content) -> list[bytes]:
    if isinstance(content, list):
        return [_content_of(field) for field in content[1:]]
    return [vector.SerializeToString() for vector in content.results]


def _content_of(field: bytes) -> bytes:
    """A field without the byte of its tag, and without its length, whose last byte is the first below 128."""
    start = 1
    while field[start] >= 128:
        start += 1
    return field[start + 1 :]


class OtherField(Exception):
    """A value of another type than declared was served."""


class Rows:
    """Decoded rows that have the same columns."""

    def __init__(self, columns: tuple[Column, ...]):
        self.columns = columns
        self._readers = [_READERS.get(column.field) for column in columns]
        self._first_of_view = [
            place
            for place, column in enumerate(columns)
            if column.view is not None and column.view not in {other.view for other in columns[:place]}
        ]
        self.schema = _schema(columns)
        self._clear()

    def _clear(self) -> None:
        self._values: list[list] = [[] for _ in self.columns]
        self._statuses: list[list] = [[] for _ in self.columns]
        self._timestamps: dict[str, list] = {self.columns[place].view: [] for place in self._first_of_view}
        self._served: list[list] = [[], [], []]  # when, the request, as of
        self.count = 0

    def take(self, answers: Sequence[tuple[Answer, str]], rest: Callable[[int], None]) -> None:
        """Decode answers, each with the number of its request. Raises `OtherField`, with nothing taken.

        Repeated fields of messages that are encoded one behind the other are those of one message: so all rows of a
        column are decoded at once.
        """
        encoded = zip(*(_encoded_vectors(answer.content) for answer, _ in answers), strict=True)
        vectors = [FeatureVector.FromString(b"".join(some)) for some in encoded]
        count = sum(answer.rows for answer, _ in answers)
        self._extend(vectors, count, rest)
        for answer, number in answers:
            for served, value in zip(self._served, (answer.answered, number, answer.as_of), strict=True):
                served += [value] * answer.rows

    def take_row(self, answer: Answer, number: str, vectors: Sequence[FeatureVector], row: int) -> None:
        """Take one row of an answer that is decoded."""
        alone = [
            FeatureVector(
                values=vector.values[row : row + 1],
                statuses=vector.statuses[row : row + 1],
                event_timestamps=vector.event_timestamps[row : row + 1],
            )
            for vector in vectors
        ]
        self._extend(alone, 1, lambda _: None)
        for served, value in zip(self._served, (answer.answered, number, answer.as_of), strict=True):
            served.append(value)

    def _extend(self, vectors: Sequence[FeatureVector], count: int, rest: Callable[[int], None]) -> None:
        decoded = [
            _decoded(vector.values, column.field, read, rest)
            for vector, column, read in zip(vectors, self.columns, self._readers, strict=True)
        ]
        statuses = [list(vector.statuses) for vector in vectors]
        timestamps = {}
        for place in self._first_of_view:
            column = self.columns[place]
            timestamps[column.view] = _timestamps(vectors[place], column.stored, count)
            rest(count)
        featured = [some for some, column in zip(statuses, self.columns, strict=True) if column.view is not None]
        if any(len(some) != count for some in (*decoded, *featured, *timestamps.values())):
            raise ValueError("the columns of an answer are not of one length")
        for held, some in zip((*self._values, *self._statuses), (*decoded, *statuses), strict=True):
            held += some
        for view, some in timestamps.items():
            self._timestamps[view] += some
        self.count += count

    def batch(self, rest: Callable[[int], None]) -> pa.RecordBatch:
        """Give what was taken, and forget it."""
        timestamps = {view: pa.array(values, UTC_MICROSECONDS) for view, values in self._timestamps.items()}
        arrays = []
        for column, values, statuses in zip(self.columns, self._values, self._statuses, strict=True):
            rest(len(values))
            arrays.append(pa.array(values, column.type))
            if column.view is not None:
                arrays += [timestamps[column.view], pa.array(statuses, pa.int32())]
        when, requests, as_of = self._served
        arrays += [
            pa.array(when, UTC_MICROSECONDS),
            pa.array([instant // MICROSECONDS_PER_DAY for instant in when], pa.date32()),
            pa.array(requests, pa.string()),
            pa.array(as_of, UTC_MICROSECONDS),
        ]
        self._clear()
        return pa.record_batch(arrays, self.schema)


def vectors_of(answer: Answer) -> list[FeatureVector]:
    return [FeatureVector.FromString(encoded) for encoded in _encoded_vectors(answer.content)]


def as_served(vectors: Sequence[FeatureVector], columns: Iterable[Column], row: int) -> tuple[Column, ...]:
    """The columns of one row, of the types of what was served."""
    found = []
    for vector, column in zip(vectors, columns, strict=True):
        field = vector.values[row].WhichOneof("val")
        found.append(column if field in (None, "null_val") else column._replace(field=field))
    return tuple(found)


def _timestamps(vector: FeatureVector, stored: bool, count: int) -> list[int | None]:
    """The timestamps of a vector, in microseconds since 1970; None for those of nothing."""
    found = [time.seconds * 1_000_000 + time.nanos // 1000 for time in vector.event_timestamps]
    found += [0] * (count - len(found))
    return [
        instant if instant or (stored and status != FieldStatus.NOT_FOUND) else None
        for instant, status in zip(found, vector.statuses, strict=True)
    ]


def _schema(columns: Iterable[Column]) -> pa.Schema:
    fields: dict[str, pa.DataType] = {}

    def add(name: str, of: pa.DataType) -> None:
        # Feast's names are not unique: of a view a__b and of its neighbour a, with a feature b__c.
        others = (f"{name}__{number}" for number in count(2))
        fields[next(free for free in chain([name], others) if free not in fields)] = of

    for column in columns:
        add(column.name, column.type)
        if column.view is not None:
            add(f"{column.name}__timestamp", UTC_MICROSECONDS)
            add(f"{column.name}__status", pa.int32())
    add(LOG_TIMESTAMP, UTC_MICROSECONDS)
    add(LOG_DATE_FIELD, pa.date32())
    add(REQUEST_ID_FIELD, pa.string())
    add(AS_OF, UTC_MICROSECONDS)
    return pa.schema(fields.items())


def _decoded(
    values: Sequence[Value], field: str | None, read: Callable[[Value], Any] | None, rest: Callable[[int], None]
) -> list:
    decoded = []
    for start in range(0, len(values), VALUES_PER_STEP):
        some = values[start : start + VALUES_PER_STEP]
        for value in some:
            found = value.WhichOneof("val")
            if found == field and read is not None:
                decoded.append(read(value))
            elif found is None or found == "null_val":
                decoded.append(None)
            elif read is None:
                decoded.append(value.SerializeToString())
            else:
                raise OtherField
        rest(len(some))
    return decoded


FIELDS = {of: field for field, of in PROTO_VALUE_TO_VALUE_TYPE_MAP.items()}
"""The field of a `Value` that holds what is of a `ValueType`."""
_PLAIN = {
    "bytes_val": pa.binary(),
    "string_val": pa.string(),
    "int32_val": pa.int32(),
    "int64_val": pa.int64(),
    "double_val": pa.float64(),
    "float_val": pa.float32(),
    "bool_val": pa.bool_(),
    "unix_timestamp_val": pa.timestamp("s"),
    "json_val": pa.string(),
    "uuid_val": pa.string(),
    "time_uuid_val": pa.string(),
    "decimal_val": pa.string(),
}
_OF_SEVERAL = {
    f"{field.removesuffix('_val')}_{several}_val": pa.list_(of)
    for field, of in _PLAIN.items()
    for several in ("list", "set")
}
TYPES: dict[str | None, pa.DataType] = _PLAIN | _OF_SEVERAL
"""The column type of what is in a field of a `Value`, as Feast's own log has it; a set is a list. What is in another
field, such as a map, is logged as the bytes of its `Value`."""


def _reader(field: str) -> Callable[[Value], Any]:
    if field in _PLAIN:
        return attrgetter(field)
    several = attrgetter(f"{field}.val")
    return lambda value: list(several(value))


_READERS: dict[str | None, Callable[[Value], Any]] = {field: _reader(field) for field in TYPES if field}
NO_COLUMNS = _schema(())
"""The schema of rows that nothing was asked of."""
