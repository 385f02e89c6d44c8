"""What features.py declares features with: Feast's own classes, with what a feature is made of.

    orders = TransactionSource(name="orders", path="orders.csv", timestamp_field="order_ts")

    customer_orders = AggregatedFeatureView(
        name="customer_orders",
        entities=[customer],
        ttl=timedelta(days=30),
        transactions=orders,
        aggregations=[
            Aggregation(name="spent_7d", function="sum", column="total", time_window=timedelta(days=7)),
        ],
        where="status = 'paid'",
        source=FileSource(path="../data/customer_orders.parquet", timestamp_field="event_timestamp"),
    )

Both are what Feast takes them for, a `FileSource` and a `FeatureView`. What a feature's type is follows from its
aggregation, so the view's schema is made here.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Bool, FeastType, Float64, Int32, Int64, String, from_feast_to_pyarrow_type, from_value_type

from parity.definition.conditions import Condition, parse_condition
from parity.definition.expectations import Expectation, faults_of_expectations
from parity.definition.functions import COLUMN_TYPES, FUNCTIONS
from parity.definition.instants import MICROSECOND, UTC_MICROSECONDS
from parity.definition.keys import KEY_TYPES, key_schema
from parity.definition.reading import Reading
from parity.definition.table import Definition, Rule
from parity.edge.command import shown
from parity.edge.errors import UserError, printable
from parity.edge.feast_internals import STORED_AS
from parity.edge.files import absolute, location

FEAST_TYPES = {pa.int32(): Int32, pa.int64(): Int64, pa.float64(): Float64, pa.string(): String, pa.bool_(): Bool}
OFFLINE_FOLDER = "FEATURE_STORE_OFFLINE_FOLDER"
HORIZON = "parity.horizon"
"""The tag, which Feast's registry keeps, of a view that is continuous; see `horizon_of`."""
MADE = "parity.made"
"""The tag of how each feature is made, of which the registry says nothing else; see `made_by`."""
DECLARED = "parity.declared"
"""The tag of how the view is declared, as JSON; see `parity.definition.recorded`."""
USUAL_HORIZON, LONGEST_HORIZON = timedelta(days=2), timedelta(days=1000)
PACKAGE = Path(__file__).resolve().parents[1]


class DefinitionError(click.ClickException, UserError):
    """A `UserError` that Feast's own commands print in one line too, as they are made with click."""

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(printable(" ".join(message.split())))


def refuse(fault: str) -> DefinitionError:
    """An error about a declaration, with the place where it is made."""
    file, line = _declared_at()
    return DefinitionError(f"{shown(file)}, line {line}: {fault}")


def _declared_at() -> tuple[Path, int]:
    """The file and the line that are being imported, and declare something of this module."""
    frame = sys._getframe(1)
    while frame.f_back and (PACKAGE in Path(frame.f_code.co_filename).parents or frame.f_code.co_filename[0] == "<"):
        frame = frame.f_back
    return Path(frame.f_code.co_filename), frame.f_lineno


class TransactionSource(FileSource):
    """A file of transactions, or a folder of them, with all that the files do not say themselves.

    ``path`` is one as of a `FileSource`, relative to the folder of features.py; CSV, JSON lines or Parquet, by its
    suffix. ``schema`` has the types of columns, `Float64` where nothing is said, and their units in ``tags``, as in
    ``Field(name="total", dtype=Float64, tags={"unit": "$"})``. ``field_mapping`` renames columns of the file.

    ``event_id`` is the column that tells one transaction from another in a stream, where a producer may send one twice
    or correct it. ``expectations`` are what `python -m parity quality` holds the transactions to, day by day.

    The other arguments are those of `parity.definition.reading.Reading`. Raises `DefinitionError`.
    """

    def __init__(
        self,
        *,
        path: str,
        name: str = "",
        timestamp_field: str = "timestamp",
        schema: Sequence[Field] = (),
        field_mapping: Mapping[str, str] | None = None,
        event_id: str | None = None,
        expectations: Sequence[Expectation] = (),
        description: str = "",
        tags: Mapping[str, str] | None = None,
        owner: str = "",
        **reading: Any,
    ):
        known = {field.name for field in fields(Reading)} - {"name", "timestamp", "renamed"}
        for option in reading.keys() - known:
            raise refuse(f"{name or path}: a TransactionSource has no option {option!r}: {', '.join(sorted(known))}.")
        super().__init__(
            path=str(path),
            name=name,
            timestamp_field=timestamp_field,
            field_mapping=dict(field_mapping or {}),
            description=description,
            tags=dict(tags or {}),
            owner=owner,
        )
        self.schema = tuple(schema)
        self.event_id = event_id
        self.expectations = expectations
        self.reading = reading_of(self, **reading)
        for fault in _faults_of_source(self):
            raise refuse(f"{self.name}: {fault}")

    def __hash__(self) -> int:
        return super().__hash__()


def reading_of(source: FileSource, **options: Any) -> Reading:
    """The format of ``source``, which may be any `FileSource`: then its defaults."""
    if isinstance(source, TransactionSource) and hasattr(source, "reading"):
        return source.reading
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    renamed = tuple(sorted((source.field_mapping or {}).items()))
    return Reading(source.name, source.timestamp_field or "timestamp", renamed=renamed, **options)


def _faults_of_source(source: TransactionSource) -> Iterator[str]:
    if source.event_id is not None and not (isinstance(source.event_id, str) and source.event_id):
        yield f"its event_id is {source.event_id!r}. Let it be the name of a column, such as 'order_id'."
    names = [column.name for column in source.schema if isinstance(column, Field)]
    for column in source.schema:
        if not isinstance(column, Field):
            yield f"its schema has {column!r}, which is no Field."
        elif names.count(column.name) > 1:
            yield f"{names.count(column.name)} Fields of its schema are called {column.name!r}. Keep one."
        elif column_type(column.dtype) is None:
            names = ", ".join(str(type) for type in FEAST_TYPES.values())
            yield f"the column {column.name} is declared {column.dtype}; a column of transactions is one of {names}."
    yield from source.reading.faults()
    yield from faults_of_expectations(getattr(source, "expectations", ()), rows_can_go=True)


def column_type(dtype: Any) -> pa.DataType | None:
    """The Arrow type of a column of transactions; None if it can't have this type."""
    return next((arrow for arrow, feast in FEAST_TYPES.items() if feast == dtype), None)


class AggregatedFeatureView(FeatureView):
    """A `FeatureView` whose features are aggregations of ``transactions``.

    For each key and each instant T at which it has a transaction, an aggregation looks at those of its transactions in
    [T - time_window, T], both ends included; without a ``time_window``, at all up to T. Transactions that do not meet
    ``where``, as in ``amount > 0 AND status = 'paid'``, are not looked at: see `parity.definition.conditions`.

    With ``continuous``, windows slide on between transactions: the table has a row, too, at each instant at which a
    transaction leaves a window, a microsecond after T + time_window. Of an empty window a count and a sum are 0, and
    all else is null. Online, a row has with it what follows until ``horizon`` after the end of its materialization, and
    is not served any later. The ``ttl`` counts from a row's own instant, that of a transaction or that at which one
    left a window, in training as in serving.

    ``expectations`` are what `python -m parity quality` holds the features to, beside what follows from the
    aggregations.

    ``source`` is where the features are kept for training, by default data/NAME.parquet beside the repository. A
    ``schema`` is not needed: it may describe features, with the types that follow. Other arguments are those of Feast.
    Raises `DefinitionError`.
    """

    def __init__(
        self,
        *,
        name: str,
        entities: Sequence[Entity] = (),
        transactions: FileSource | None = None,
        aggregations: Sequence[Aggregation] = (),
        source: FileSource | None = None,
        where: str | None = None,
        continuous: bool = False,
        horizon: timedelta | None = None,
        expectations: Sequence[Expectation] = (),
        schema: Sequence[Field] = (),
        ttl: timedelta | None = timedelta(0),
        tags: Mapping[str, str] | None = None,
        **options: Any,
    ):
        self.transactions = transactions
        self.aggregations = tuple(aggregations)
        source = source or _usual_source(name)
        for fault in _faults_of_parts(entities, transactions, aggregations, source):
            raise refuse(f"{name}: {fault}")
        for fault in _faults_of_sliding(aggregations, continuous, horizon, tags):
            raise refuse(f"{name}: {fault}")
        types = {column.name: column_type(column.dtype) for column in getattr(transactions, "schema", ())}
        keys = {entity.join_key: KEY_TYPES[_key_type(entity)] for entity in entities}
        reading = reading_of(transactions)
        instant = {reading.timestamp: UTC_MICROSECONDS}  # which IS NULL alone can be asked of
        condition = _condition(name, where, types | keys | instant, aggregations)
        looked_at = dict(condition.columns) if condition else {}
        compared = {column: type for column, type in looked_at.items() if column in condition.compared}
        for fault in _faults_of_columns(reading, keys, types):
            raise refuse(f"{name}: {fault}")
        for fault in _faults_of_aggregations(aggregations, types | compared, [*keys, reading.timestamp]):
            raise refuse(f"{name}: {fault}")
        rules = tuple(
            Rule(a.name, a.function, a.column, a.time_window, (types | looked_at).get(a.column, pa.float64()))
            for a in aggregations
        )
        event = source.timestamp_field or "event_timestamp"
        self.definition = Definition(name, key_schema(keys), event, rules, reading, condition, continuous)
        self.expectations = expectations
        for fault in (
            *_faults_of_mapping(self.definition),
            *_faults_of_schema(schema, self.definition),
            *faults_of_expectations(expectations, self.definition.schema.names),
        ):
            raise refuse(f"{name}: {fault}")
        described = {field.name: field for field in schema}
        units = {column.name: column.tags.get("unit") for column in getattr(transactions, "schema", ())}
        super().__init__(
            name=name,
            entities=list(entities),
            ttl=ttl,
            source=source,
            tags={
                **(tags or {}),
                **({HORIZON: str((horizon or USUAL_HORIZON) // MICROSECOND)} if continuous else {}),
                MADE: json.dumps(self.definition.fingerprints),
                DECLARED: _written(transactions, reading, aggregations, where),
            },
            schema=[
                *(described.get(e.join_key) or Field(name=e.join_key, dtype=_key_dtype(e)) for e in entities),
                *(described.get(rule.name) or _field(rule, units.get(rule.column)) for rule in rules),
            ],
            **options,
        )

    @classmethod
    def from_proto(cls, feature_view_proto: Any, skip_udf: bool = False) -> FeatureView:
        """What a registry has of it, which is a `FeatureView`: it knows of no transactions and aggregations."""
        return FeatureView.from_proto(feature_view_proto, skip_udf)

    def __hash__(self) -> int:
        return super().__hash__()


def horizon_of(view: Any) -> int | None:
    """How many microseconds ahead the rows of a feature view know their future; None if it is not continuous.

    ``view`` may be what a registry has of it.
    """
    horizon = (getattr(view, "tags", None) or {}).get(HORIZON)
    return None if horizon is None else int(horizon)


def made_by(view: Any) -> dict[str, str]:
    """The fingerprint of how each feature of a view is made, by its name; none if it was applied without.

    ``view`` may be what a registry has of it.
    """
    return json.loads((getattr(view, "tags", None) or {}).get(MADE, "{}"))


def _written(source: FileSource, reading: Reading, aggregations: Sequence[Aggregation], where: str | None) -> str:
    """What a declaration says of what features are made of; the rest is in what Feast keeps of a view."""
    of_source = {
        "name": source.name,
        "path": source.path,
        "timestamp_field": source.timestamp_field,
        "schema": [[column.name, str(column.dtype), column.tags] for column in getattr(source, "schema", ())],
        "field_mapping": source.field_mapping or {},
        "event_id": getattr(source, "event_id", None),
        "reading": {
            option.name: value
            for option in fields(reading)
            if option.name not in ("name", "timestamp", "renamed")
            and (value := getattr(reading, option.name)) != option.default
        },
    }
    made = [
        [one.name, one.function, one.column, one.time_window and one.time_window // MICROSECOND] for one in aggregations
    ]
    return json.dumps({"transactions": of_source, "aggregations": made, "where": where}, sort_keys=True)


def _usual_source(name: str) -> FileSource:
    """Where features are kept if nothing else is said: in `FEATURE_STORE_OFFLINE_FOLDER`, or in data/."""
    folder = os.environ.get(OFFLINE_FOLDER) or str(_declared_at()[0].resolve().parent.parent / "data")
    place = absolute(location(folder))
    return FileSource(name=f"{name}_source", path=f"{place}/{name}.parquet", timestamp_field="event_timestamp")


def _key_type(entity: Entity) -> str:
    return "INT64" if entity.value_type == ValueType.UNKNOWN else entity.value_type.name


def _key_dtype(entity: Entity) -> FeastType:
    return from_value_type(ValueType[_key_type(entity)])


def _field(rule: Rule, unit: str | None) -> Field:
    """The field of a feature: its type and its unit follow from those of the column."""
    tags = {"unit": unit} if unit and rule.function not in ("count", "count_distinct", "var") else {}
    window = f" in the {str(rule.time_window).removesuffix(', 0:00:00')}" if rule.time_window is not None else ""
    description = f"{rule.function} of {rule.column}{window} up to and including event_timestamp"
    return Field(name=rule.name, dtype=FEAST_TYPES[rule.type], description=description, tags=tags)


def _faults_of_parts(entities: Any, transactions: Any, aggregations: Any, source: Any) -> Iterator[str]:
    if not isinstance(entities, list | tuple) or not entities:
        yield "it has no entity, whose features they are."
    for entity in entities:
        if not isinstance(entity, Entity):
            yield f"{entity!r} among its entities is no Entity."
        elif _key_type(entity) not in KEY_TYPES:
            supported = ", ".join(KEY_TYPES)
            yield f"the Entity {entity.name!r} has the value_type {_key_type(entity)}; a key is one of {supported}."
    keys = [entity.join_key for entity in entities]
    if len(set(keys)) < len(keys):
        yield f"two of its entities share a join key: {', '.join(keys)}. Give each its own."
    if not isinstance(transactions, FileSource):
        yield "its transactions are no TransactionSource, nor another FileSource."
    if not isinstance(source, FileSource):
        yield "its source is not a FileSource of Parquet files, which is what is supported."
    if not isinstance(aggregations, list | tuple) or not aggregations:
        yield "it has no aggregations. List what its features are: aggregations=[Aggregation(...), ...]."
    for aggregation in aggregations:
        if not isinstance(aggregation, Aggregation):
            yield f"{aggregation!r} among its aggregations is no Aggregation."


def _faults_of_sliding(
    aggregations: Sequence[Aggregation], continuous: Any, horizon: Any, tags: Mapping[str, str] | None
) -> Iterator[str]:
    if not isinstance(continuous, bool):
        yield f"continuous is {continuous!r}. Let it be True or False."
    if HORIZON in (tags or {}):
        yield f"the tag {HORIZON} is that of continuous views. Declare continuous=True, horizon=timedelta(...)."
    for tag in sorted({MADE, DECLARED, STORED_AS} & set(tags or {})):
        yield f"the tag {tag} says how features are made, and follows from the aggregations. Leave it out."
    if horizon is not None and not continuous:
        yield "a horizon is that of a continuous view. Add continuous=True, or leave it out."
    if horizon is not None and not (isinstance(horizon, timedelta) and timedelta(0) < horizon <= LONGEST_HORIZON):
        yield f"its horizon is {horizon!r}. Let it be such as timedelta(days=2), of at most 1000 days."
    if continuous and all(aggregation.time_window is None for aggregation in aggregations):
        yield "it is continuous, and no aggregation has a time_window, so nothing slides. Leave out continuous."


def _condition(
    name: str, where: str | None, types: Mapping[str, pa.DataType], aggregations: Sequence[Aggregation]
) -> Condition | None:
    if where is None:
        return None
    try:
        return parse_condition(where, types, {aggregation.column for aggregation in aggregations})
    except (ValueError, TypeError) as error:
        raise refuse(f"{name}: {error}.") from None


def _faults_of_columns(
    reading: Reading, keys: Mapping[str, pa.DataType], types: Mapping[str, pa.DataType]
) -> Iterator[str]:
    """Find types of columns that have theirs from elsewhere, so that nobody reads them."""
    for name, type in types.items():
        if name in keys and type != keys[name]:
            yield (
                f"the schema of its transactions declares {name} {FEAST_TYPES.get(type, type)}, and the join key of "
                "that name has the value_type of its Entity. Leave out the Field, or correct one of them."
            )
    if reading.timestamp in types:
        yield (
            f"the schema of its transactions declares {reading.timestamp}, which is the timestamp. Leave out the "
            "Field; how timestamps are written is declared by timestamp_format."
        )


def _faults_of_mapping(definition: Definition) -> Iterator[str]:
    """Find columns that are renamed, and are read under the name that they had all the same."""
    reading, renamed = definition.reading, dict(definition.reading.renamed)
    for name in definition.raw.names:
        is_one_column = name != reading.timestamp or not reading.timestamp_columns
        if name in renamed and name not in renamed.values() and is_one_column:
            yield (
                f"field_mapping calls the column {name!r} {renamed[name]!r}, and it is read as {name!r} here. Name it "
                "as it is called now, or leave it out of field_mapping."
            )


def _faults_of_aggregations(
    aggregations: Sequence[Aggregation], types: Mapping[str, pa.DataType], found_by: Sequence[str]
) -> Iterator[str]:
    """Find what can't be computed; ``found_by`` are the columns that transactions are found by."""
    names = [aggregation.name for aggregation in aggregations]
    for a in aggregations:
        if not a.name:
            yield f"the Aggregation {a.function!r} of {a.column!r} has no name. Give it that of its feature."
        if not a.name.isprintable():
            yield f"{a.name!r} can't be the name of a column: Feast and Parquet have to take it. Rename it."
        if names.count(a.name) > 1:
            yield f"{names.count(a.name)} Aggregations are called {a.name!r}. Give each a name of its own."
        if not isinstance(a.function, str) or a.function not in FUNCTIONS:
            yield f"{a.name}: the function {a.function!r} is not one of {', '.join(FUNCTIONS)}."
        if not isinstance(a.column, str) or not a.column:
            yield f"{a.name}: its Aggregation names no column of the transactions."
        if a.column in found_by:
            yield f"{a.name}: it aggregates the column {a.column}, which transactions are found by. Name another."
        if a.name in found_by[:-1]:
            yield f"a feature is called {a.name}, and so is a join key. Rename one."
        if not isinstance(a.time_window, timedelta | None):
            yield f"{a.name}: its time_window is {a.time_window!r}. Write it as a timedelta, such as timedelta(days=3)."
        elif a.time_window is not None and a.time_window <= timedelta(0):
            yield f"{a.name}: its time_window is not longer than nothing. Leave it out for all earlier purchases."
        if a.slide_interval != a.time_window:
            yield f"{a.name}: slide_interval is not supported; a value is computed at each purchase. Leave it out."
        if a.function == "count_distinct" and a.column not in types:
            yield (
                f"{a.name}: distinct values are counted of a column of a declared type. Add "
                f"Field(name={a.column!r}, dtype=String), or Int64, to the schema of the transactions."
            )
        type, function = types.get(a.column, pa.float64()), FUNCTIONS[a.function]
        if type not in function.takes:
            takes = ", ".join(str(FEAST_TYPES[type]) for type in COLUMN_TYPES if type in function.takes)
            yield f"{a.name}: {a.column} is declared {FEAST_TYPES.get(type, type)}, and {a.function} takes {takes}."


def _faults_of_schema(schema: Sequence[Field], definition: Definition) -> Iterator[str]:
    """Find fields that say otherwise than what follows from the aggregations."""
    types = {field.name: field.type for field in [*definition.keys, *definition.schema]}
    names = [field.name for field in schema]
    for field in schema:
        if names.count(field.name) > 1:
            yield f"{names.count(field.name)} Fields are called {field.name!r}. Keep one."
        if field.name not in types or field.name == definition.event:
            yield f"the Field {field.name!r} has no Aggregation. Add one of that name, or remove it."
        elif _arrow_type(field) != types[field.name]:
            rule = next((rule for rule in definition.rules if rule.name == field.name), None)
            what = f"{rule.function} of {rule.column}" if rule else "join key"
            right = FEAST_TYPES.get(types[field.name], types[field.name])
            yield f"{field.name} is declared {field.dtype}, and a {what} is {right}. Declare that, or leave it out."


def _arrow_type(field: Field) -> pa.DataType | None:
    if (type := column_type(field.dtype)) is not None:
        return type
    try:
        return from_feast_to_pyarrow_type(field.dtype)
    except Exception:  # it is no type of Feast, or one that Arrow has nothing for
        return None
