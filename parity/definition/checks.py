"""The definitions of feature_repo/features.py: found by their kind, and checked once, before anything runs.

Whatever the variables are called, Feast finds views, entities and services among them, and so does this. A feature is
a `Field` of the view and the `Aggregation` of its name, so the two need not be declared in one order.

This is the one place that refuses a declaration: what can't be computed, stored or proven, and what would be ignored.
"""

import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any
from zipimport import zipimporter

import click
import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.base_feature_view import BaseFeatureView
from feast.data_format import ParquetFormat
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME
from feast.types import Int64, from_feast_to_pyarrow_type

from parity.compute.windows import FUNCTIONS
from parity.edge.command import shown
from parity.edge.errors import UserError, printable
from parity.transactions.read import TIMESTAMP

DAY = "event_date"
TAKEN = {TIMESTAMP, "event_timestamp", DAY}
"""Names of columns that are there anyway: of transactions, of what training asks for, of days in a folder."""
LONGEST_TTL = date.max - date.min
"""No two instants that can be told lie further apart."""


class DefinitionError(click.ClickException, UserError):
    """A `UserError` that Feast's own commands print in one line too, as they are made with click."""

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(printable(" ".join(message.split())))


@dataclass(frozen=True)
class FeatureTable:
    """A table of features: whose they are, how each is computed, where they live, and who asks for them."""

    entity: Entity
    view: FeatureView
    service: FeatureService
    aggregations: tuple[Aggregation, ...]
    """How each feature is computed, in the order of the view's fields."""
    others: tuple[str, ...]
    """The names of the views beside it, of any kind, that nothing here looks at."""

    @property
    def source(self) -> FileSource:
        return self.view.batch_source

    @property
    def columns(self) -> list[str]:
        """The columns of the transactions that features are made of, sorted."""
        return sorted({aggregation.column for aggregation in self.aggregations})


def feature_table(repository: Path) -> FeatureTable:
    """Import features.py from the folder ``repository`` and take up what it declares; `UserError` for any fault."""
    return check_definitions(vars(_imported(repository.resolve() / "features.py")))


def check_definitions(variables: Mapping[str, Any]) -> FeatureTable:
    """Check the definitions among the ``variables`` of a module, and give the table that they make.

    Raises `DefinitionError` for the first fault.
    """
    try:
        return _table(variables)
    except _Fault as fault:
        raise DefinitionError(f"{shown(Path(variables['__file__']))}: {fault}") from None


class _Fault(Exception):
    """What is wrong with a declaration, and how to put it right."""


def _imported(file: Path) -> ModuleType:
    """Import the module ``file``, or take it up if the program has imported it already."""
    name = f"{file.parent.name}.{file.stem}"
    there = sys.modules.get(name)
    if there and Path(there.__file__).resolve() == file:
        return there
    spec = importlib.util.spec_from_file_location(name, file) if file.is_file() else _archived(name)
    if spec is None:
        raise DefinitionError(f"{shown(file)}: there is no such file, and it is what declares the features.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UserError) or not isinstance(error, Exception | SystemExit):
            raise
        raise DefinitionError(f"{shown(file)}{_reason(error, file)}") from error
    return module


def _archived(name: str) -> ModuleSpec | None:
    """Find a module in an archive on the path, where `spark-submit` has it on a cluster."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return spec if spec and isinstance(spec.loader, zipimporter) else None


def _reason(error: Exception, file: Path) -> str:
    """Tell at which line the import of ``file`` failed, and why."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno}: {kind}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{f', line {lines[-1]}' if lines else ''}: {kind}: {error}"


def _table(variables: Mapping[str, Any]) -> FeatureTable:
    declared = list({id(value): value for value in variables.values()}.values())
    views = [value for value in declared if type(value) is FeatureView]
    lists = [value for value in declared if isinstance(value, list | tuple) and value and _are_aggregations(value)]
    if not views:
        others = [
            f"; {value.name} is a {type(value).__name__}" for value in declared if isinstance(value, BaseFeatureView)
        ]
        raise _Fault(f"it declares no FeatureView, which is what is supported{''.join(others)}.")
    if not lists:
        raise _Fault("it declares no features: list their Aggregations, as in AGGREGATIONS = [...].")
    view, aggregations = _closest(views, lists)
    entity = _entity(view, [value for value in declared if isinstance(value, Entity)])
    for fault in chain(
        _faults_of_aggregations(aggregations),
        _faults_of_view(view),
        _faults_of_features(view, aggregations),
        _faults_of_key(view, entity),
        _faults_of_source(view),
        _faults_of_names(view, entity, aggregations),
    ):
        raise _Fault(fault)
    service = _service(view, [value for value in declared if isinstance(value, FeatureService)])
    by_name = {aggregation.name: aggregation for aggregation in aggregations}
    in_order = tuple(by_name[feature.name] for feature in view.features)
    others = [value.name for value in declared if isinstance(value, BaseFeatureView) and value is not view]
    return FeatureTable(entity, view, service, in_order, tuple(others))


def _are_aggregations(values: Sequence[Any]) -> bool:
    return all(isinstance(value, Aggregation) for value in values)


def _closest(views: list[FeatureView], lists: list[Sequence[Aggregation]]) -> tuple[FeatureView, Sequence[Aggregation]]:
    """Find the view and the aggregations that belong together: which name the same features, or come closest."""

    def distance(pair: tuple[FeatureView, Sequence[Aggregation]]) -> int:
        view, aggregations = pair
        return len({feature.name for feature in view.features} ^ {aggregation.name for aggregation in aggregations})

    pairs = sorted(((view, some) for view in views for some in lists), key=distance)
    first, *more = [pair for pair in pairs if distance(pair) == 0] or pairs[:1]
    for view, aggregations in more:
        if view is not first[0]:
            raise _Fault(f"both {first[0].name} and {view.name} have Aggregations; one such FeatureView is supported.")
        if list(aggregations) != list(first[1]):
            raise _Fault(f"it has two lists of Aggregations for {view.name}. Keep one.")
    return first


def _faults_of_aggregations(aggregations: Sequence[Aggregation]) -> Iterator[str]:
    names = [aggregation.name for aggregation in aggregations]
    for a in aggregations:
        if not a.name:
            yield f"the Aggregation {a.function!r} of {a.column!r} has no name. Give it that of its Field."
        if names.count(a.name) > 1:
            yield f"{names.count(a.name)} Aggregations are called {a.name!r}. Give each a name of its own."
        if not isinstance(a.function, str) or a.function not in FUNCTIONS:
            yield f"{a.name}: the function {a.function!r} is not one of {', '.join(FUNCTIONS)}."
        if not isinstance(a.column, str) or not a.column:
            yield f"{a.name}: its Aggregation names no column of the transactions."
        if not isinstance(a.time_window, timedelta | None):
            yield f"{a.name}: its time_window is {a.time_window!r}. Write it as a timedelta, such as timedelta(days=3)."
        elif a.time_window is not None and a.time_window <= timedelta(0):
            yield f"{a.name}: its time_window is not longer than nothing. Leave it out for all earlier purchases."
        if a.slide_interval != a.time_window:
            yield f"{a.name}: slide_interval is not supported; a value is computed at each purchase. Leave it out."


def _faults_of_view(view: FeatureView) -> Iterator[str]:
    if view.ttl is not None and not (isinstance(view.ttl, timedelta) and timedelta(0) <= view.ttl <= LONGEST_TTL):
        yield f"{view.name}: its ttl is {view.ttl}. Let it be a time from now on, or None for ever."
    if view.ttl and not _is_interval(view.ttl):
        yield (
            f"{view.name}: Feast's queries can't count with a ttl of {view.ttl}, which mixes days and parts of a day. "
            "Let it be whole days, or less than a day in one unit."
        )
    if view.offline:
        yield f"{view.name}: offline=True has Feast write features back, which is not supported. Leave that out."
    if not view.online:
        yield f"{view.name}: online=False, so it can't be served. Leave that out."
    if not view.enabled:
        yield f"{view.name}: enabled=False, so Feast does not serve it. Leave that out."
    if view.version.lower() not in ("", "latest"):
        yield f"{view.name}: the version {view.version!r} is pinned, which is not supported. Leave that out."


def _is_interval(time: timedelta) -> bool:
    """Say whether Ibis, which makes the queries of Feast's DuckDB store, can hold ``time`` as one literal."""
    import ibis  # slow, and imported by now wherever it is asked of DuckDB

    try:
        ibis.literal(time)
    except ValueError:
        return False
    return True


def _entity(view: FeatureView, entities: list[Entity]) -> Entity:
    if view.entities == [DUMMY_ENTITY_NAME]:
        raise _Fault(f"{view.name}: it has no entity, whose features they are.")
    if len(view.entities) > 1:
        raise _Fault(f"{view.name}: it has several join keys, of {', '.join(view.entities)}; one is supported.")
    [name] = view.entities
    found = [entity for entity in entities if entity.name == name]
    if len(found) != 1:
        raise _Fault(f"{view.name}: {len(found)} variables are an Entity {name!r}, and one has to be.")
    return found[0]


def _faults_of_features(view: FeatureView, aggregations: Sequence[Aggregation]) -> Iterator[str]:
    fields = [feature.name for feature in view.features]
    by_name = {aggregation.name: aggregation for aggregation in aggregations}
    for feature in view.features:
        if fields.count(feature.name) > 1:
            yield f"{view.name}: {fields.count(feature.name)} Fields are called {feature.name!r}. Keep one."
        if feature.name not in by_name:
            yield f"{view.name}: the Field {feature.name!r} has no Aggregation. Add one of that name, or remove it."
    for name in by_name:
        if name not in fields:
            yield f"{view.name}: the Aggregation {name!r} has no Field. Add one of that name, or remove it."
    for feature in view.features:
        function = by_name[feature.name].function
        if _arrow_type(feature) != FUNCTIONS[function]:
            right = "Int64" if FUNCTIONS[function] == pa.int64() else "Float64"
            yield f"{view.name}: {feature.name} is declared {feature.dtype}, and a {function} is {right}. Declare that."


def _faults_of_key(view: FeatureView, entity: Entity) -> Iterator[str]:
    if entity.value_type not in (ValueType.INT64, ValueType.UNKNOWN):
        kind = getattr(entity.value_type, "name", entity.value_type)
        yield f"the Entity {entity.name!r} has the value_type {kind}; keys of type INT64 are supported."
    if not view.entity_columns:
        yield f"{view.name}: its schema lacks the join key. Add Field(name={entity.join_key!r}, dtype=Int64)."
    for column in view.entity_columns:
        if column.dtype != Int64:
            yield f"{view.name}: its join key {column.name} is declared {column.dtype}; Int64 is supported."


def _faults_of_source(view: FeatureView) -> Iterator[str]:
    source = view.batch_source
    if source is None:
        yield f"{view.name}: it has no source. Name the FileSource in which its features are kept."
    elif not isinstance(source, FileSource) or view.source_views:
        yield f"{view.name}: its source is not a FileSource of Parquet files, which is what is supported."
    elif not isinstance(source.file_format, ParquetFormat | None):
        yield f"{view.name}: its source is kept as {type(source.file_format).__name__}; ParquetFormat is supported."
    elif "://" not in source.path and not Path(source.path).is_absolute():
        yield f"{view.name}: the path of its source, {source.path}, depends on the folder one is in. Make it absolute."
    elif not source.timestamp_field:
        yield f"{view.name}: its source names no timestamp_field."
    elif source.created_timestamp_column:
        yield f"{view.name}: a created_timestamp_column is not supported, as none is computed. Leave it out."
    elif source.field_mapping:
        yield f"{view.name}: a field_mapping is not supported; columns are called as their Fields. Leave it out."


def _faults_of_names(view: FeatureView, entity: Entity, aggregations: Sequence[Aggregation]) -> Iterator[str]:
    """Find columns that can't have their names, or would share them: DuckDB tells no capital from a small letter."""
    for what in (view, entity):
        kind = "FeatureView" if what is view else "Entity"
        if not what.name.isprintable() or not what.name or ":" in what.name or "@" in what.name:
            yield f"a {kind} can't be called {what.name!r}: Feast has to find it by that name. Rename it."
    key, event = entity.join_key, view.batch_source.timestamp_field
    features = [feature.name for feature in view.features]
    for name in (key, event, *features):
        if not name.isprintable() or not name or ":" in name or name == DUMMY_ENTITY_ID:
            yield f"{view.name}: {name!r} can't be the name of a column: Feast and Parquet have to take it. Rename it."
    for what, names, others in (
        ("the join key", [key], TAKEN | {event}),
        ("the event timestamp", [event], {DAY}),
        ("a feature", features, TAKEN | {key, event}),
    ):
        for name in names:
            same = [other for other in others if other.lower() == name.lower()]
            if same:
                yield f"{view.name}: {what} is called {name}, and so is another column, {same[0]}. Rename one."
    for name in features:
        same = [other for other in features if other != name and other.lower() == name.lower()]
        if same:
            yield f"{view.name}: {name} and {same[0]} differ in capitals only. Rename one."
    for a in aggregations:
        if a.column in (key, TIMESTAMP):
            yield f"{a.name}: it aggregates the column {a.column}, which is what purchases are found by. Name another."


def _service(view: FeatureView, services: list[FeatureService]) -> FeatureService:
    """Find the service that asks for this view, for all of it and for nothing else."""
    in_the_way = []
    for service in services:
        reason = _asks_otherwise(service, view) if service.name else "has no name"
        if not reason:
            return service
        in_the_way.append(f"{service.name} {reason}")
    reasons = "; ".join(in_the_way) or "there is none"
    raise _Fault(f"a FeatureService has to ask for all of {view.name} and nothing else: {reasons}.")


def _asks_otherwise(service: FeatureService, view: FeatureView) -> str | None:
    """Say how ``service`` differs from one that asks for just this view; None if it does not."""
    asked = service.feature_view_projections
    beside = [projection.name for projection in asked if projection.name != view.name]
    if beside:
        return f"asks for {', '.join(beside)}"
    if service._pending_feature_refs or len(asked) != 1:
        return "does not name the view as an object, once"
    [projection] = asked
    if projection.name_alias or projection.join_key_map:
        return "gives it or its join key another name"
    if {field.name for field in projection.features} != {field.name for field in view.features}:
        return "asks for a part of it"
    return None


def _arrow_type(field: Field) -> pa.DataType | None:
    try:
        return from_feast_to_pyarrow_type(field.dtype)
    except Exception:  # it is no type of Feast, or one that Arrow has nothing for
        return None
