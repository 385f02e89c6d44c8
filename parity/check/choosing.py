"""What is chosen to be compared of what was applied: views and services, each with the request for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from feast import FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, StreamFeatureView

from parity.compare.subjects import (
    DUMMY,
    DUMMY_ENTITY,
    ENTITY_TIME,
    LABEL_VIEW,
    Column,
    LabelView,
    NotCompared,
    Source,
    Subject,
)
from parity.edge.errors import UserError, of_error


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
        return list(dict.fromkeys((one.source.identity, one.feature) for one in self.inputs if one.source))


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
        distinct.setdefault(one.identity, one)
    columns = [replace(one, source=one.source and distinct[one.source.identity]) for one in columns]
    sources = list(distinct.values())
    given = [*(data or {}), *(key for source in sources for key in source.keys)]
    short = [column.feature for column in columns]
    full = len({*short, *given}) < len(short) + len(set(given))
    if not full:
        columns = [replace(column, name=column.feature) for column in columns]
    return Subject(name, what, request, columns, sources, data or {}, full)


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


class Unusable(Exception):
    """Why something that should be compared can't be, as it is in the registry."""
