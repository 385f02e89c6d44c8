"""Requests to the online store: resolved through the registry, checked, and refused if they can't be answered.

Feast's feature server answers HTTP 500 to any exception, unless it is a `FeastError` that says otherwise. So a request
that is wrong raises `InvalidRequest`, which is HTTP 422, and a Redis that does not answer `Unavailable`, which is 503.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from datetime import datetime
from numbers import Integral, Real
from typing import Any

import numpy as np
import redis
from feast import ValueType
from feast.errors import FeastError
from feast.feature_view import DUMMY_ENTITY_ID, FeatureViewState
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.types.Value_pb2 import Value

from parity.definition.keys import KEY_TYPES, parse_value
from parity.edge.feast_internals import FEATURES_OF_SERVICES, Request, of_one_moment, resolved_request
from parity.online.rows import FIRST_SECOND, LAST_SECOND

READ_FROM_TEXT = (ValueType.BOOL, ValueType.BYTES, ValueType.UNIX_TIMESTAMP)
WHOLE_NUMBERS = {ValueType.INT32: 2**31, ValueType.INT64: 2**63}
VALUES_PER_ENTITY = 10
"""How many columns of a request may be as long as a request may be."""
SERVABLE = (FeatureViewState.STATE_UNSPECIFIED, FeatureViewState.AVAILABLE_ONLINE)


class InvalidRequest(FeastError, ValueError):
    """The request can't be answered, and the message says what is wrong with it."""

    def http_status_code(self) -> int:
        return 422


class Unavailable(FeastError, redis.ConnectionError):
    """Redis did not answer. The message names no address; the error of the client is its cause."""

    def http_status_code(self) -> int:
        return 503


OF_THE_CACHE = ("cached_registry_proto_created", "is_cache_valid")
"""What Feast asks of a registry first, to know whether what it has resolved before still holds."""


class ServingRegistry:
    """A registry as serving sees it, for one request: as it is at one moment, so that no answer is of two.

    A feature view that has been materialized is served, also while it is again. Feast refuses to serve a view from the
    begin of a materialization to its end, and after one that was killed or that failed. The rows of such a view are
    whole at any time; to take it out of service, disable it.
    """

    __slots__ = ("_held", "_registry")

    def __init__(self, registry: BaseRegistry):
        self._registry, self._held = registry, False

    def __getattr__(self, name: str) -> Any:
        if name == FEATURES_OF_SERVICES:
            return {}
        if name not in OF_THE_CACHE:
            self._hold()
        return getattr(self._registry, name)

    def _hold(self) -> None:
        """Stay with the moment at which something is looked up first: what is resolved already needs none."""
        if not self._held:
            self._registry, self._held = of_one_moment(self._registry), True

    def get_any_feature_view(self, name: str, project: str, allow_cache: bool = False) -> Any:
        self._hold()
        view = self._registry.get_any_feature_view(name, project, allow_cache)
        if getattr(view, "materialization_intervals", None) and view.state not in SERVABLE:
            view = copy.copy(view)
            view.state = FeatureViewState.AVAILABLE_ONLINE
        return view


@contextmanager
def answering() -> Iterator[None]:
    """Make what redis-py raises an `Unavailable`."""
    try:
        yield
    except Unavailable:
        raise
    except (redis.RedisError, redis.RedisClusterException) as error:
        raise Unavailable("the online store does not answer") from error


def resolve(registry: Any, project: str, features: Any, full_feature_names: bool) -> Request:
    """Resolve ``features`` as Feast does, through its cache. Raises `InvalidRequest`, or a `FeastError` of Feast's."""
    try:
        return resolved_request(registry, project, features, full_feature_names)
    except FeastError as error:
        if error.http_status_code() < 500:
            raise
        raise InvalidRequest(str(error)) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InvalidRequest(f"these features can't be served: {_reason(error)}") from error


def require_few(entity_rows: Any, most: int) -> None:
    """Refuse a request for more than ``most`` entities, or with too many values of them. Raises `InvalidRequest`."""
    asked, values = len(entity_rows), 0
    if isinstance(entity_rows, Mapping):
        columns = [getattr(values, "val", values) for values in entity_rows.values()]
        sizes = [len(column) for column in columns if isinstance(column, Sized)]
        asked, values = max(sizes, default=0), sum(sizes)
    if values > VALUES_PER_ENTITY * most:
        raise InvalidRequest(f"the request has {values:,} values, more than {VALUES_PER_ENTITY * most:,} at once.")
    if asked > most:
        raise InvalidRequest(
            f"the request asks for {asked:,} entities, more than {most:,} at once. Ask in parts, or set "
            "max_entities_per_request of the online store."
        )


def read_texts(request: Request, entity_rows: Any) -> Any:
    """The same request with ids read that are of another type than text, but came as text: as Feast's command line has
    all of them, and JSON has bytes and instants. What can't be read stays as it is."""
    kinds = {name: kind for name, kind in request.types.items() if kind in READ_FROM_TEXT}
    if not kinds:
        return entity_rows

    def read(name: str, value: Any) -> Any:
        return _read_text(value, kinds[name]) if name in kinds and isinstance(value, str) else value

    if isinstance(entity_rows, Mapping):
        return {
            name: [read(name, value) for value in values] if isinstance(values, list) else values
            for name, values in entity_rows.items()
        }
    if isinstance(entity_rows, list) and all(isinstance(row, Mapping) for row in entity_rows):
        return [{name: read(name, value) for name, value in row.items()} for row in entity_rows]
    return entity_rows


def _read_text(text: str, kind: ValueType) -> Any:
    if kind == ValueType.UNIX_TIMESTAMP and re.fullmatch(r"-?[0-9]{1,12}", text):
        return int(text)
    try:
        return parse_value(text, KEY_TYPES[kind.name])
    except ValueError:
        return text


def require_valid(request: Request, entity_rows: Any) -> None:
    """Refuse ``entity_rows`` (of either form that Feast takes) that do not name the join keys, or with wrong ids.

    ``request`` is what `resolve` gave. Raises `InvalidRequest`.
    """
    columns, join_key_of = _columns(entity_rows), request.join_key_of
    needed = {view.projection.join_key_map.get(key, key) for view, _ in request.groups for key in view.join_keys}
    needed.discard(DUMMY_ENTITY_ID)
    for name in columns:
        if name not in request.join_keys and name not in request.request_data and name in join_key_of:
            raise InvalidRequest(f"{name!r} is the name of an entity; ask by its join key {join_key_of[name]!r}.")
    if missing := sorted(needed - columns.keys()):
        raise InvalidRequest(f"the request has no values of {', '.join(map(repr, missing))}.")
    if len({len(values) for values in columns.values()}) > 1:
        raise InvalidRequest("the request has more values of one column than of another.")
    if not columns or not len(next(iter(columns.values()))):
        raise InvalidRequest("the request names no entity.")
    for name in needed:
        _require_ids(name, columns[name], request.types.get(name))
    for name, declared in _request_types(request.on_demand).items():
        _require_values(name, columns.get(name, ()), declared)


def _columns(entity_rows: Any) -> dict[str, Sequence]:
    if isinstance(entity_rows, Mapping):
        return {name: getattr(values, "val", values) for name, values in entity_rows.items()}
    if not isinstance(entity_rows, list) or not all(isinstance(row, Mapping) for row in entity_rows):
        raise InvalidRequest("entity rows are a list of dictionaries, or a dictionary of lists.")
    names = list(entity_rows[0]) if entity_rows else []
    if any(row.keys() != set(names) for row in entity_rows):
        raise InvalidRequest("all entity rows must have the same keys.")
    return {name: [row[name] for row in entity_rows] for name in names}


def _request_types(on_demand: Iterable) -> dict[str, ValueType]:
    """The types of what on-demand views take from the request."""
    sources = [source for view in on_demand for source in view.source_request_sources.values()]
    return {field.name: field.dtype.to_value_type() for source in sources for field in source.schema}


def _require_ids(name: str, ids: Iterable, declared: ValueType | None) -> None:
    if any(value is None for value in ids):
        raise InvalidRequest(f"{name} is null, and an id can't be.")
    _require_values(name, ids, declared)
    if declared == ValueType.BYTES and not any(ids):  # which Feast takes for null
        raise InvalidRequest(f"{name} is empty, and Feast can't ask for that in this way. Ask for another id too.")


def _require_values(name: str, values: Iterable, declared: ValueType | None) -> None:
    takes = _TAKES.get(declared)
    for value in values:
        if takes and value is not None and not isinstance(value, Value) and not takes(value):
            shown = ascii(value)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            raise InvalidRequest(f"{name} {shown} is not of type {declared.name}.")


def _is_whole_number(bound: int) -> Callable[[Any], bool]:
    def takes(value: Any) -> bool:
        if isinstance(value, str):  # as the command line gives it
            if not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", value):
                return False
            value = int(value)
        whole = isinstance(value, Integral) or (isinstance(value, Real) and value % 1 == 0)
        return whole and not isinstance(value, bool) and -bound <= value < bound

    return takes


def _is_second(value: Any) -> bool:
    """Whether it is an instant that Feast keeps as it is: a datetime or seconds since 1970, and no part of one."""
    if isinstance(value, datetime):
        return value.microsecond == 0
    return isinstance(value, Integral) and not isinstance(value, bool) and FIRST_SECOND <= value <= LAST_SECOND


_TAKES: dict[ValueType | None, Callable[[Any], bool]] = {
    **{kind: _is_whole_number(bound) for kind, bound in WHOLE_NUMBERS.items()},
    ValueType.STRING: lambda value: isinstance(value, str) and not re.search("[\ud800-\udfff]", value),
    ValueType.BOOL: lambda value: isinstance(value, bool | np.bool_),
    ValueType.BYTES: lambda value: isinstance(value, bytes),
    ValueType.UNIX_TIMESTAMP: _is_second,
    **dict.fromkeys(
        (ValueType.FLOAT, ValueType.DOUBLE), lambda value: isinstance(value, Real) and not isinstance(value, bool)
    ),
}


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if not isinstance(error, KeyError) else f"{error.args[0]}"
