"""The definitions of feature_repo/features.py: found by their kind, and checked once, before anything runs.

Whatever the variables are called, Feast finds views, entities and services among them, and so does this. What one
declaration can be refused for by itself is refused where it is made (`parity.definition.declare`); here, what can't be
computed, stored or proven of all of them together, and what would be ignored.
"""

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any
from zipimport import zipimporter

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.base_feature_view import BaseFeatureView
from feast.data_format import ParquetFormat
from feast.feature_view import DUMMY_ENTITY_ID
from feast.feature_view_projection import FeatureViewProjection

from parity.definition.declare import AggregatedFeatureView, DefinitionError
from parity.definition.experiments import UNIT_TYPES, Experiment
from parity.definition.keys import Key, parse_key
from parity.definition.table import Definition, Rule
from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.edge.feast_internals import names_no_object
from parity.edge.files import Location, location

DAY = "event_date"
TAKEN = {"event_timestamp", DAY}
"""Names of columns that are there anyway: of what training asks for, of days in a folder."""
LONGEST_TTL = date.max - date.min
"""No two instants that can be told lie further apart."""


@dataclass(frozen=True)
class FeatureTable:
    """A table of features: what they are, where their transactions are, where they live, and who asks for them."""

    view: FeatureView
    definition: Definition
    service: FeatureService
    """One that gives all features of the view, and those of other views if there is none that gives them alone."""
    transactions: Location
    """Where the view's transactions are declared to be."""
    beside: tuple[Definition, ...] = ()
    """Those of all views of the same source, its own too."""
    given: FeatureViewProjection | None = None
    """What the service gives of the view, where it is the service that matters: some of its features, under other
    names perhaps. None where it is the view."""
    together: bool = False
    """Whether all that the service gives is of the same keys, so that it can be asked for as it is."""

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def source(self) -> FileSource:
        """Where the features are kept, for training."""
        return self.view.batch_source

    def noun(self, count: int = 2) -> str:
        """What its keys are called: ``users``, of one ``user``; ``pairs of customer and store`` for several of them."""
        *first, last = (entity.replace("_", " ") for entity in self.view.entities)
        if not first:
            return last if count == 1 else _plural(last)
        kind = "pair" if len(first) == 1 else "combination"
        return f"{kind if count == 1 else _plural(kind)} of {', '.join(first)} and {last}"

    @property
    def event_id(self) -> str | None:
        """The column by which a stream knows a transaction again, if one is declared."""
        return getattr(self.view.transactions, "event_id", None)

    @property
    def title(self) -> str:
        """What a person reads of it: the view, and the service if that is what matters."""
        if self.given is None:
            return self.name
        alias = f" as {self.given.name_alias}" if self.given.name_alias else ""
        return f"{self.name}{alias} through {self.service.name}"

    @cached_property
    def features(self) -> list[Field]:
        """The features that are compared, in the order of the view: those that the service gives."""
        given = self.view.features if self.given is None else self.given.features
        names = {feature.name for feature in given}
        return [feature for feature in self.view.features if feature.name in names]

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """How those features are computed."""
        names = {feature.name for feature in self.features}
        return tuple(rule for rule in self.definition.rules if rule.name in names)

    @property
    def requested(self) -> FeatureService | list[str]:
        """What Feast is asked for to get the features of this view, and as few others as can be."""
        if self.together or (self.given is None and len(self.service.feature_view_projections) == 1):
            return self.service
        return [f"{self.view.name}:{feature.name}" for feature in self.features]

    @property
    def requested_keys(self) -> list[str]:
        """What the join keys are called in that request, in their order."""
        called = self.given.join_key_map if self.together else {}
        return [called.get(name, name) for name in self.definition.keys.names]

    def answered(self, feature: str) -> str:
        """What the answer to a request by ``full_names`` calls a feature."""
        return f"{self.given.name_to_use()}__{feature}" if self.full_names else feature

    @property
    def full_names(self) -> bool:
        """Whether the names of features need those of their views: two of a service may share one."""
        return self.together


@dataclass(frozen=True)
class Declared:
    """What features.py declares."""

    tables: tuple[FeatureTable, ...]
    services: tuple[FeatureService, ...]
    others: tuple[str, ...]
    """The names of the views beside the tables, of any kind, that nothing here looks at."""
    experiments: tuple[Experiment, ...] = ()

    def __iter__(self) -> Iterator[FeatureTable]:
        return iter(self.tables)

    def of(self, views: Sequence[str] | None = None, service: str | None = None) -> "Declared":
        """The tables of these ``views``, or of those of the ``service``; all of them by default.

        Raises `UserError` for a name that is not declared.
        """
        wanted = list(views or [])
        if wanted and service is not None:
            raise UserError("--view and --service both say which feature views; give one of them.")
        if service is not None:
            wanted += [projection.name for projection in self._service_called(service).feature_view_projections]
        if not wanted:
            return self
        for name in wanted:
            if name not in {table.name for table in self.tables}:
                raise UserError(f"there is no AggregatedFeatureView {name!r}; {_names(self.tables)}.")
        chosen = tuple(table for table in self.tables if table.name in wanted)
        beside = [table.name for table in self.tables if table not in chosen]
        return replace(self, tables=chosen, others=(*self.others, *beside))

    def through(self, services: Sequence[str]) -> "Declared":
        """The tables as each of these ``services`` gives them: one for each view of a service, with the features that
        it gives. `UserError` for a name that is not declared, and for a service that gives nothing of any table."""
        tables = []
        for name in dict.fromkeys(services):
            of_service = self._through(self._service_called(name))
            if not of_service:
                raise UserError(f"the FeatureService {name!r} gives nothing of an AggregatedFeatureView to compare.")
            tables += of_service
        seen = {table.name for table in tables}
        beside = [table.name for table in self.tables if table.name not in seen]
        return replace(self, tables=tuple(tables), others=(*self.others, *beside))

    def _through(self, service: FeatureService) -> list[FeatureTable]:
        by_name, given = {table.name: table for table in self.tables}, service.feature_view_projections
        keys = {
            tuple(sorted(one.join_key_map.get(key, key) for key in by_name[one.name].definition.keys.names))
            for one in given
            if one.name in by_name
        }
        together = len(keys) == 1 and all(one.name in by_name for one in given)
        return [
            replace(by_name[one.name], service=service, given=one, together=together)
            for one in given
            if one.name in by_name
        ]

    def _service_called(self, name: str) -> FeatureService:
        found = [one for one in self.services if one.name == name]
        if not found:
            raise UserError(f"there is no FeatureService {name!r}; {_names(self.services)}.")
        return found[0]

    def experiment(self, name: str) -> Experiment:
        """The experiment of this name; `UserError` if none is declared."""
        found = [one for one in self.experiments if one.name == name]
        if not found:
            raise UserError(f"there is no Experiment {name!r}; {_names(self.experiments)}.")
        return found[0]

    def asked_for(self, text: str | None, alone: bool = False) -> dict[str, Key]:
        """The key that ``text`` means, as a command line has it, by the name of each table that has such keys.

        Raises `UserError` if there is none, or if it may be of several kinds; if ``alone``, of several tables.
        """
        if text is None:
            return {}
        known = {name for table in self for name in table.definition.keys.names}
        named = {part.partition("=")[0] for part in text.split(",") if "=" in part} & known
        fitting = [table for table in self if _fits(named, table.definition.keys.names)]
        if not fitting:
            written = (
                f"{table.name}: {','.join(f'{key}=...' for key in table.definition.keys.names)}" for table in self
            )
            raise UserError(f"no feature view has keys such as {text!r}. Write them as of {'; '.join(written)}")
        keys, refused = {}, []
        for table in fitting:
            try:
                keys[table.name] = parse_key(text, table.definition.keys)
            except UserError as error:
                refused.append(error)
        if not keys:
            raise refused[0]
        kinds = {tuple(table.definition.keys.names) for table in fitting if table.name in keys}
        if len(keys) > 1 and (alone or len(kinds) > 1):
            names = " or ".join(f"--view {name}" for name in keys)
            raise UserError(f"the key {text!r} may be of {len(keys)} feature views. Say of which: {names}")
        return keys


def _fits(named: set[str], names: Sequence[str]) -> bool:
    """Whether these join keys are those that a text has ``named``, or it names none and there is one."""
    return named == set(names) if named else len(names) == 1


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in set("aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"


def require_one_source(tables: Sequence[FeatureTable]) -> None:
    """Refuse an --input that is to be the transactions of all ``tables``, which have several sources."""
    if len({table.transactions for table in tables}) > 1:
        raise UserError("--input names one place, and these feature views have several sources. Say of which: --view")


def _names(named: Sequence[Any]) -> str:
    return f"there is {', '.join(one.name for one in named) or 'none'}"


def declared(repository: Path) -> Declared:
    """Import features.py from the folder ``repository`` and take up what it declares; `UserError` for any fault."""
    return check_definitions(vars(_imported(repository.resolve() / "features.py")))


def check_definitions(variables: Mapping[str, Any]) -> Declared:
    """Check the definitions among the ``variables`` of a module, and give the tables that they make.

    Raises `DefinitionError` for the first fault.
    """
    file = Path(variables["__file__"])
    try:
        return _declared(variables, file.resolve().parent)
    except _Fault as fault:
        raise DefinitionError(f"{shown(file)}: {fault}") from None


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


def _declared(variables: Mapping[str, Any], folder: Path) -> Declared:
    objects = list({id(value): value for value in variables.values()}.values())
    views = [value for value in objects if isinstance(value, AggregatedFeatureView)]
    plain = [value for value in objects if type(value) is FeatureView]
    others = [value.name for value in objects if isinstance(value, BaseFeatureView) and value not in [*views, *plain]]
    for view in plain:
        if view.name in {one.name for one in views}:
            raise _Fault(
                f"a variable is {view.name} with other names or a part of its features, and Feast would apply it as a "
                f"second view. Write it where it is asked for: FeatureService(features=[{view.name}[[...]]])."
            )
        raise _Fault(
            f"{view.name} is a FeatureView without aggregations. Declare it as an AggregatedFeatureView, with its "
            "transactions and aggregations."
        )
    if not views:
        beside = f"; {', '.join(others)} is of another kind" if others else ""
        raise _Fault(f"it declares no AggregatedFeatureView, which is what is computed and proven{beside}.")
    entities = [value for value in objects if isinstance(value, Entity)]
    services = [value for value in objects if isinstance(value, FeatureService)]
    experiments = [value for value in objects if isinstance(value, Experiment)]
    for fault in chain(
        _faults_of_all(views),
        *(_faults_of_one(view, entities) for view in views),
        *(_faults_of_experiment(experiment, experiments, services, views) for experiment in experiments),
    ):
        raise _Fault(fault)
    tables = tuple(
        FeatureTable(
            view,
            view.definition,
            _service(view, services),
            _placed(view.transactions.path, folder),
            tuple(one.definition for one in views if one.definition.reading.name == view.definition.reading.name),
        )
        for view in views
    )
    return Declared(tables, tuple(services), tuple(others), tuple(experiments))


def _placed(path: str, folder: Path) -> Location:
    """A path as Feast reads it: from the folder of features.py."""
    place = location(path)
    return Path(os.path.normpath(folder / place)) if isinstance(place, Path) else place


def _faults_of_all(views: Sequence[AggregatedFeatureView]) -> Iterator[str]:
    names = [view.name for view in views]
    places = [view.batch_source.path for view in views]
    for view in views:
        if names.count(view.name) > 1:
            yield f"{names.count(view.name)} views are called {view.name!r}. Give each a name of its own."
        if places.count(view.batch_source.path) > 1:
            yield f"{view.name}: another view has its source at {view.batch_source.path} too. Give each its own."
        transactions = [other.transactions.path for other in views]
        if view.batch_source.path in transactions:
            yield f"{view.name}: its source is a file of transactions, which would be overwritten. Name another."


def _faults_of_one(view: AggregatedFeatureView, entities: Sequence[Entity]) -> Iterator[str]:
    for name in view.entities:
        found = [entity for entity in entities if entity.name == name]
        if len(found) != 1:
            yield f"{view.name}: {len(found)} variables are an Entity {name!r}, and one has to be."
    yield from _faults_of_view(view)
    yield from _faults_of_source(view)
    yield from _faults_of_names(view, entities)


def _faults_of_view(view: FeatureView) -> Iterator[str]:
    if view.ttl is not None and not (isinstance(view.ttl, timedelta) and timedelta(0) <= view.ttl <= LONGEST_TTL):
        yield f"{view.name}: its ttl is {view.ttl}. Let it be a positive length of time, or None for ever."
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


def _faults_of_source(view: FeatureView) -> Iterator[str]:
    source = view.batch_source
    if not isinstance(source.file_format, ParquetFormat | None):
        yield f"{view.name}: its source is kept as {type(source.file_format).__name__}; ParquetFormat is supported."
    elif "://" not in source.path and not Path(source.path).is_absolute():
        yield f"{view.name}: the path of its source, {source.path}, depends on the folder one is in. Make it absolute."
    elif not source.timestamp_field:
        yield f"{view.name}: its source names no timestamp_field."
    elif source.created_timestamp_column:
        yield f"{view.name}: a created_timestamp_column is not supported, as none is computed. Leave it out."
    elif source.field_mapping:
        yield f"{view.name}: a field_mapping of its source is not supported; rename columns of its transactions."


def _faults_of_names(view: AggregatedFeatureView, entities: Sequence[Entity]) -> Iterator[str]:
    """Find columns that can't have their names, or would share them: DuckDB tells no capital from a small letter."""
    for what in (view, *(entity for entity in entities if entity.name in view.entities)):
        kind = "FeatureView" if what is view else "Entity"
        if not what.name.isprintable() or not what.name or ":" in what.name or "@" in what.name:
            yield f"a {kind} can't be called {what.name!r}: Feast has to find it by that name. Rename it."
    keys, event = view.definition.keys.names, view.definition.event
    features = [rule.name for rule in view.definition.rules]
    for name in (*keys, event, *features):
        if not name.isprintable() or not name or ":" in name or name == DUMMY_ENTITY_ID:
            yield f"{view.name}: {name!r} can't be the name of a column: Feast and Parquet have to take it. Rename it."
    for what, names, others in (
        ("a join key", keys, TAKEN | {event}),
        ("the event timestamp", [event], {DAY}),
        ("a feature", features, TAKEN | {*keys, event}),
    ):
        for name in names:
            same = [other for other in sorted(others) if other.lower() == name.lower()]
            if same:
                yield f"{view.name}: {what} is called {name}, and so is another column, {same[0]}. Rename one."
    for names in (keys, features):
        for name in names:
            same = [other for other in names if other != name and other.lower() == name.lower()]
            if same:
                yield f"{view.name}: {name} and {same[0]} differ in capitals only. Rename one."
    timestamp = view.definition.reading.timestamp
    if timestamp in keys:
        yield f"{view.name}: the column {timestamp} is both a join key and the timestamp. Name another."


def _faults_of_experiment(
    experiment: Experiment,
    experiments: Sequence[Experiment],
    services: Sequence[FeatureService],
    views: Sequence[AggregatedFeatureView],
) -> Iterator[str]:
    name = experiment.name
    if [one.name.lower() for one in experiments].count(name.lower()) > 1:
        yield f"two experiments are called {name!r}, be it with other capitals. Give each a name of its own."
    declared, units = {view.name: view for view in views}, set()
    for arm, service in experiment.arms.items():
        if not any(service is one for one in services):
            yield (
                f"the experiment {name!r}: the arm {arm} is the FeatureService {service.name!r}, of which no variable "
                "is. Let one be, so that feast apply finds it."
            )
        for projection in service.feature_view_projections:
            view = declared.get(projection.name)
            if view is None:
                continue
            keys = {projection.join_key_map.get(key.name, key.name): key.type for key in view.definition.keys}
            if experiment.unit not in keys:
                yield (
                    f"the experiment {name!r}: the arm {arm} has the view {projection.name}, whose key is "
                    f"{', '.join(keys)} and not the unit {experiment.unit}. Leave the view out, or name another unit."
                )
            units.add(keys.get(experiment.unit))
        if not any(projection.name in declared for projection in service.feature_view_projections):
            yield f"the experiment {name!r}: the arm {arm} is the FeatureService {service.name!r}, which has no view."
    if len(units) > 1 or not units <= set(UNIT_TYPES):
        types = " and ".join(sorted(map(str, units)))
        yield (
            f"the experiment {name!r}: its unit {experiment.unit} is of type {types}, and ids are told apart by their "
            "text. Let it be a key of the type STRING, INT64 or INT32, and the same in all arms."
        )


def _service(view: FeatureView, services: list[FeatureService]) -> FeatureService:
    """Find the service that asks for all of this view, best for nothing else."""
    in_the_way, whole = [], []
    for service in services:
        reason = _asks_otherwise(service, view) if service.name else "has no name"
        if reason:
            in_the_way.append(f"{service.name} {reason}")
        else:
            whole.append(service)
    if not whole:
        reasons = "; ".join(in_the_way) or "there is none"
        raise _Fault(f"a FeatureService has to ask for all of {view.name}: {reasons}.")
    return min(whole, key=lambda service: len(service.feature_view_projections))


def _asks_otherwise(service: FeatureService, view: FeatureView) -> str | None:
    """Say why ``service`` is not one that gives all of this view under its own names; None if it is."""
    if names_no_object(service):
        return "does not name the view as an object"
    asked = [projection for projection in service.feature_view_projections if projection.name == view.name]
    if not asked:
        return "does not ask for it"
    if len(asked) > 1:
        return "asks for it twice"
    [projection] = asked
    if projection.name_alias or projection.join_key_map:
        return "gives it or its join key another name"
    if {field.name for field in projection.features} != {field.name for field in view.features}:
        return "asks for a part of it"
    return None
