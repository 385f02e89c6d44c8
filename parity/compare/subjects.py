"""What is compared: each view, and each service, with the columns, keys and sources of one request for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.metadata import version
from typing import Any

from feast import FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, StreamFeatureView

try:
    from feast import LabelView
except ImportError:  # of a Feast before 0.63, which has none

    class LabelView:
        pass


from parity.edge.errors import UserError, of_error

DUMMY = "__dummy_id"
"""The join key by which Feast stores a view without entities."""
DUMMY_ENTITY = "__dummy"
LABEL_VIEW = "label view"
ENTITY_TIME = "event_timestamp"
"""What a training set calls the instants that are asked for."""


@dataclass(frozen=True)
class Source:
    """A view with a table of its own, under the name by which a request calls it."""

    view: FeatureView | LabelView
    called: str
    key_of: Mapping[str, str] = field(default_factory=dict)
    """The names that the request has for join keys of other names."""

    @property
    def name(self) -> str:
        return self.view.name

    @cached_property
    def join_keys(self) -> list[str]:
        """The join keys, by the names in the view; none for a view without entities."""
        return [name for name in self.view.join_keys if name != DUMMY]

    @property
    def keys(self) -> list[str]:
        """The same, by the names in the request."""
        return [self.key_of.get(name, name) for name in self.join_keys]

    @cached_property
    def key_types(self) -> dict[str, str]:
        """The declared types of the keys, by the names in the request; of those that say one."""
        return {
            self.key_of.get(column.name, column.name): str(column.dtype)
            for column in self.view.entity_columns
            if column.name != DUMMY
        }

    @property
    def declared_keys(self) -> list[str | None]:
        """The declared type of each of the keys; None of one that says none."""
        return [self.key_types.get(name) for name in self.keys]

    @property
    def ttl(self) -> timedelta | None:
        return self.view.ttl or None

    @property
    def batch(self) -> Any:
        return self.view.batch_source

    @property
    def is_pushed(self) -> bool:
        """Whether rows may come by a push or a stream, and not by a materialization."""
        return getattr(self.view, "stream_source", None) is not None

    @cached_property
    def intervals(self) -> list[tuple[datetime, datetime]]:
        """The spans that were materialized, in UTC."""
        spans = getattr(self.view, "materialization_intervals", [])  # a label view is pushed, and has none
        return [(_utc(start), _utc(end)) for start, end in spans]

    @property
    def updated(self) -> datetime | None:
        """When the registry last noted a materialization, or a change, of the view."""
        updated = getattr(self.view, "last_updated_timestamp", None)
        return _utc(updated) if updated else None

    @property
    def watermark(self) -> datetime | None:
        return max((end for _, end in self.intervals), default=None)

    def was_materialized(self, event: datetime) -> bool:
        return any(start <= event <= end for start, end in self.intervals)


@dataclass(frozen=True)
class Column:
    """A feature as a request answers it: under ``name``, of the ``feature`` of ``view``, of the declared type."""

    name: str
    view: str
    feature: str
    type: str
    source: Source | None
    """None for a feature that is computed on demand."""
    counted: bool = True
    """Whether it is compared, or asked for only to explain others."""

    @property
    def is_computed_of_float32(self) -> bool:
        """Whether 32 bits of its values are from its inputs, and not from its own declaration."""
        return self.source is None and "Float32" not in self.type

    @property
    def is_json(self) -> bool:
        return self.type.split("(")[0] in ("Json", "Map", "Struct")


@dataclass(frozen=True)
class Subject:
    """One thing that is compared, by one request."""

    name: str
    what: str
    request: list[str] | FeatureService
    columns: list[Column]
    sources: list[Source]
    request_data: Mapping[str, Any] = field(default_factory=dict)
    """What on-demand views take from the request, and the declared types."""
    full: bool = True
    """Whether features are named with their views."""
    aside: str = ""
    """What to know if a side fails for it."""
    made_of: Mapping[str, Sequence[tuple]] = field(default_factory=dict)
    """What is stored that each on-demand view is computed of: the `_identity` of its source, and the feature."""

    @cached_property
    def keys(self) -> list[str]:
        """The names of the keys that the request takes."""
        return list(dict.fromkeys(key for source in self.sources for key in source.keys))

    @cached_property
    def key_types(self) -> dict[str, str]:
        return {key: kind for source in self.sources for key, kind in source.key_types.items()}

    @property
    def is_on_demand(self) -> bool:
        """Whether anything of it is computed on demand."""
        return any(column.source is None for column in self.columns)

    @property
    def counted(self) -> list[Column]:
        return [column for column in self.columns if column.counted]

    def inputs(self, view: str) -> list[Column]:
        """The columns that an on-demand ``view`` is computed of, as far as the request has them."""
        made_of = self.made_of.get(view, ())
        return [one for one in self.columns if one.source and (_identity(one.source), one.feature) in made_of]

    def knows_inputs(self, view: str) -> bool:
        """Whether the request has all that an on-demand ``view`` is computed of."""
        return view in self.made_of and len(self.inputs(view)) >= len(self.made_of[view])


@dataclass
class Chosen:
    """What is to be compared, and what is not, with why."""

    subjects: list[Subject]
    left: dict[str, str]
    broken: dict[str, str] = field(default_factory=dict)
    """What the registry has and can't give, with the error."""

    def leave_out(self, view: Any) -> None:
        """Say which feature of a view can't be compared, as training has no room for it."""
        if any(_is_in_the_way(one) for one in getattr(view, "features", ())):
            self.left[f"{view.name}:{ENTITY_TIME}"] = "a training set has the time that is asked for there"


def choose(store: FeatureStore, views: Sequence[str] | None, services: Sequence[str] | None) -> Chosen:
    """Choose what to compare of what was applied: all views, and the services that have something of their own; or only
    the ``views``, or the ``services``, that are named. `UserError` for a name that nothing has."""
    found = Chosen([], {})
    there = {view.name: view for view in _views(store, found.broken)}
    known = {service.name: service for service in store.list_feature_services()}
    _require_known(views, there, "feature view")
    _require_known(services, known, "feature service")
    if not there and not found.broken:
        raise UserError(f"nothing was applied to the project {store.project}. Run: feast apply")
    for name in views or ([] if services else there):
        _add(found, name, lambda name=name: of_view(there[name], there))
        found.leave_out(there[name])
    for name in services or ([] if views else known):
        if services or _has_own(known[name]):
            _add(found, name, lambda name=name: of_service(known[name], there))
    return found


def _views(store: FeatureStore, broken: dict[str, str]) -> Iterator[Any]:
    """All views as they are in the registry, those without entities under the key by which they are stored.

    On-demand views are code, which may need what is not here; then the others are tried all the same."""
    yield from store.registry.list_feature_views(store.project)
    yield from store.registry.list_stream_feature_views(store.project)
    if hasattr(store.registry, "list_label_views"):
        yield from store.registry.list_label_views(store.project)
    try:
        yield from store.registry.list_on_demand_feature_views(store.project)
    except Exception as error:
        broken["on-demand feature views"] = of_error(error)


def _require_known(names: Sequence[str] | None, there: Mapping[str, Any], what: str) -> None:
    for name in names or []:
        if name not in there:
            raise UserError(f"there is no {what} {name!r}, as applied; there is {', '.join(there) or 'none'}.")


def _add(found: Chosen, name: str, make: Any) -> None:
    try:
        found.subjects.append(make())
    except NotCompared as error:
        found.left[name] = str(error)
    except Unusable as error:
        found.broken[name] = str(error)


class NotCompared(Exception):
    """Why something is not compared, in a clause."""


class Unusable(Exception):
    """Why something that should be compared can't be, as it is in the registry."""


def of_view(view: Any, there: Mapping[str, Any]) -> Subject:
    """What is compared of a view by itself; `NotCompared` if there are no two sides of it."""
    if isinstance(view, OnDemandFeatureView):
        return _of_on_demand(view, there)
    source = _source(view)
    features = [one for one in _compared(view.features) if one.name not in view.join_keys]  # as a stream view may have
    if not features:
        raise NotCompared(f"{view.name} has no features but {ENTITY_TIME}, which is the time that is asked for")
    columns = [Column(_full(view.name, one), view.name, one.name, str(one.dtype), source) for one in features]
    names = {StreamFeatureView: "stream feature view", LabelView: LABEL_VIEW}
    what = next((name for kind, name in names.items() if isinstance(view, kind)), "feature view")
    return _named(view.name, what, [f"{view.name}:{one.name}" for one in features], columns, [source])


def _of_on_demand(view: OnDemandFeatureView, there: Mapping[str, Any]) -> Subject:
    made_of = _made_of(view, there)
    columns = [Column(_full(view.name, one), view.name, one.name, str(one.dtype), None) for one in view.features]
    inputs = list({one.name: one for one in made_of.inputs}.values())
    refs = list(dict.fromkeys(made_of.refs))
    subject = _named(view.name, "on-demand feature view", refs, [*columns, *inputs], made_of.sources, made_of.data)
    subject = replace(subject, made_of={view.name: made_of.stored})
    own = [one.view for one in inputs if one.source is None]
    return replace(subject, aside=_of_another(own[0])) if own else subject


@dataclass
class _MadeOf:
    """What an on-demand view is computed of, and how it is all asked for, with the features of the view itself."""

    refs: list[str]
    inputs: list[Column]
    sources: list[Source]
    data: dict[str, Any]

    @property
    def stored(self) -> list[tuple]:
        """The inputs that are stored, each once."""
        return list(dict.fromkeys((_identity(one.source), one.feature) for one in self.inputs if one.source))


def _made_of(view: OnDemandFeatureView, there: Mapping[str, Any]) -> _MadeOf:
    """What a view is computed of, down to what is stored: another on-demand view may be in between."""
    found = _MadeOf([f"{view.name}:{one.name}" for one in view.features], [], [], _request_data(view))
    for projection in view.source_feature_view_projections.values():
        one, called = _of(there, projection.name), projection.name_to_use()
        deeper = _made_of(one, there) if isinstance(one, OnDemandFeatureView) else None
        source = None if deeper else _source(one, projection)
        found.inputs += [
            Column(_full(called, feature), one.name, feature.name, str(feature.dtype), source, counted=False)
            for feature in _compared(projection.features)
        ]
        if source is not None:
            found.refs += [f"{called}:{feature.name}" for feature in _compared(projection.features)]
            found.sources.append(source)
        elif deeper is not None:
            found.refs += deeper.refs
            found.inputs += deeper.inputs
            found.sources += deeper.sources
            found.data |= deeper.data
    return found


def _of_another(view: str) -> str:
    return f" (it is computed of the on-demand view {view}, which Feast {version('feast')} can't compute for another)"


def of_service(service: FeatureService, there: Mapping[str, Any]) -> Subject:
    """What is compared of a service, by all its own names."""
    columns, sources, data, stored = [], [], {}, {}
    for projection in service.feature_view_projections:
        view = _of(there, projection.name)
        if isinstance(view, OnDemandFeatureView):
            made_of = _made_of(view, there)
            data |= made_of.data
            sources += made_of.sources
            stored[view.name] = made_of.stored
            source = None
        else:
            source = _source(view, projection)
            sources.append(source)
        columns += [
            Column(_full(projection.name_to_use(), one), view.name, one.name, str(one.dtype), source)
            for one in _compared(projection.features)
        ]
    return replace(_named(service.name, "feature service", service, columns, sources, data), made_of=stored)


def _named(
    name: str,
    what: str,
    request: list[str] | FeatureService,
    columns: list[Column],
    sources: list[Source],
    data: Mapping[str, Any] | None = None,
) -> Subject:
    """The subject, with each source once, and its columns under the short names of features where these say which is
    which.

    Under full names Feast 0.67 leaves out of an online answer what an on-demand view in Python computes.
    """
    distinct: dict[tuple, Source] = {}
    for one in sources:
        distinct.setdefault(_identity(one), one)
    columns = [replace(one, source=one.source and distinct[_identity(one.source)]) for one in columns]
    sources = list(distinct.values())
    given = [*(data or {}), *(key for source in sources for key in source.keys)]
    short = [column.feature for column in columns]
    full = len({*short, *given}) < len(short) + len(set(given))
    if not full:
        columns = [replace(column, name=column.feature) for column in columns]
    return Subject(name, what, request, columns, sources, data or {}, full)


def _identity(source: Source) -> tuple:
    """What a request has of a source: the name that it calls it by, and the keys."""
    return source.called, tuple(source.keys)


def _compared(features: Sequence[Any]) -> list[Any]:
    return [one for one in features if not _is_in_the_way(one)]


def _is_in_the_way(feature: Any) -> bool:
    """Whether a feature is called what a training set calls the time that is asked for."""
    return feature.name == ENTITY_TIME


def _of(there: Mapping[str, Any], name: str) -> Any:
    if name not in there:
        raise NotCompared(f"it needs {name}, which is not among the views that were applied")
    return there[name]


def _source(view: Any, projection: Any = None) -> Source:
    name = getattr(view, "name", "?")
    if not isinstance(view, FeatureView | LabelView):
        raise NotCompared(f"{name} is a {type(view).__name__}, which has no table of its own")
    if not view.online:
        raise NotCompared(f"{name} is not served: online=False")
    if view.batch_source is None:
        raise NotCompared(f"{name} has no batch source, so there is nothing to train on")
    if not view.features:
        raise NotCompared(f"{name} has no features")
    entities = [one for one in getattr(view, "entities", None) or () if one != DUMMY_ENTITY]
    if entities and not any(one != DUMMY for one in view.join_keys):  # as an old Feast wrote it, or of another table
        raise Unusable(
            f"the registry has no join key for {', '.join(entities)}, the entity of {name}. Run feast apply with this "
            "Feast, and see that the source has the key"
        )
    called = projection.name_to_use() if projection is not None else name
    return Source(view, called, dict(projection.join_key_map or {}) if projection is not None else {})


def _request_data(view: OnDemandFeatureView) -> dict[str, Any]:
    return {one.name: one.dtype for source in view.source_request_sources.values() for one in source.schema}


def _full(called: str, feature: Any) -> str:
    return f"{called}__{feature.name}"


def _has_own(service: FeatureService) -> bool:
    """Whether a service answers otherwise than its views do: under aliases, of other keys, or of vectors of its own."""
    return bool(getattr(service, "precompute_online", False)) or any(
        projection.name_alias or projection.join_key_map for projection in service.feature_view_projections
    )


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
