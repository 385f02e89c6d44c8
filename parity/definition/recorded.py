"""What a registry keeps of how a view was declared, and the declaration made of that again.

Feast's registry has a view's names and types, and nothing of how its features are made. features.py is the source of
that, and it changes: what is served may have been declared by an earlier one, and has to be computed, proven and gone
back to all the same. So each `AggregatedFeatureView` carries its own declaration as a tag (`DECLARED`), as JSON.

A view also has a version, which follows from all that decides what is served of it. Rows of two versions never share a
file or a field in Redis: see `under_version`.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from feast import Entity, FeatureView, Field, FileSource
from feast.aggregation import Aggregation

from parity.definition.declare import (
    DECLARED,
    FEAST_TYPES,
    HORIZON,
    MADE,
    AggregatedFeatureView,
    DefinitionError,
    TransactionSource,
    horizon_of,
    made_by,
)
from parity.definition.instants import MICROSECOND
from parity.edge.errors import UserError
from parity.edge.feast_internals import STORED_AS

VERSION_DIGITS = 8
OWN_TAGS = (DECLARED, HORIZON, MADE, STORED_AS)


def version_of(view: FeatureView) -> str:
    """The version of a view, which may be what a registry has of it: of how its features are made, of which
    transactions, and for how long they are served. Where they are kept has no part in it."""
    decides = (*_served(view), _transactions_of(view))
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:VERSION_DIGITS]


def are_one_version(one: FeatureView, other: FeatureView) -> bool:
    """Whether two views, which may be what a registry has of them, are of one version, under whatever digits their rows
    are stored. Of one that was applied without its declaration, nobody knows of which transactions it is made."""
    places = _transactions_of(one), _transactions_of(other)
    return _served(one) == _served(other) and (None in places or places[0] == places[1])


def _served(view: FeatureView) -> tuple:
    return sorted(made_by(view).items()), (view.ttl or timedelta(0)) // MICROSECOND, horizon_of(view)


def _transactions_of(view: FeatureView) -> str | None:
    """Where a view's transactions are declared to be; how they are read, the fingerprints of its features have."""
    return json.loads(view.tags[DECLARED])["transactions"]["path"] if DECLARED in view.tags else None


def under_version(view: AggregatedFeatureView, version: str) -> AggregatedFeatureView:
    """A copy of a view, as declared, whose rows are those of a version: in a place of their own offline, and under a
    name of their own online. Its name stays."""
    source = view.batch_source
    copy = object.__new__(type(view))
    copy.__dict__.update(vars(view))
    copy.tags = {**view.tags, STORED_AS: version}
    copy.batch_source = FileSource(
        name=source.name,
        path=versioned_path(source.path, version),
        file_format=source.file_format,
        timestamp_field=source.timestamp_field,
        description=source.description,
        tags=source.tags,
        owner=source.owner,
        **({"s3_endpoint_override": source.s3_endpoint_override} if source.s3_endpoint_override else {}),
    )
    copy.projection = _copied(view.projection, batch_source=copy.batch_source)
    return copy


def versioned_path(path: str, version: str) -> str:
    """features.parquet as features.VERSION.parquet, in the same folder; also of a folder of files, and in a bucket."""
    folder, slash, name = path.rstrip("/").rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return f"{folder}{slash}{stem}.{version}{dot}{suffix}" if stem else f"{folder}{slash}{name}.{version}"


def _copied(projection: Any, **changes: Any) -> Any:
    copy = object.__new__(type(projection))
    copy.__dict__.update(vars(projection) | changes)
    return copy


def recalled(view: FeatureView, entities: Mapping[str, Entity]) -> AggregatedFeatureView:
    """The declaration of a view that a registry has, with its version if it has one.

    ``entities`` are the registry's, by name. Raises `UserError` for a view that was applied without its declaration,
    and for one that is made in another way by now.
    """
    if DECLARED not in view.tags:
        raise UserError(
            f"{view.name} was applied without how it is declared, by an earlier version of this library. "
            "Restore that features.py. Run: cd feature_repo && feast apply"
        )
    said = json.loads(view.tags[DECLARED])
    horizon = horizon_of(view)
    made = AggregatedFeatureView(
        name=view.name,
        entities=[entities[name] for name in view.entities],
        transactions=_source(said["transactions"]),
        aggregations=[
            Aggregation(name=name, function=function, column=column, time_window=_time(window))
            for name, function, column, window in said["aggregations"]
        ],
        source=view.batch_source,
        where=said["where"],
        continuous=horizon is not None,
        horizon=_time(horizon),
        schema=view.schema,
        ttl=view.ttl,
        tags={name: text for name, text in view.tags.items() if name not in OWN_TAGS},
        description=view.description,
        owner=view.owner,
    )
    if made_by(made) != made_by(view):
        raise UserError(
            f"{view.name} was declared for an earlier version of this library, which made its features in another way. "
            "Run: python -m parity deploy"
        )
    if STORED_AS in view.tags:
        made.tags = {**made.tags, STORED_AS: view.tags[STORED_AS]}
    return made


def _source(said: Mapping[str, Any]) -> FileSource:
    types = {str(type): type for type in FEAST_TYPES.values()}
    schema = [Field(name=name, dtype=types[type], tags=tags) for name, type, tags in said["schema"]]
    return TransactionSource(
        name=said["name"],
        path=said["path"],
        timestamp_field=said["timestamp_field"],
        schema=schema,
        field_mapping=said["field_mapping"],
        event_id=said["event_id"],
        **said["reading"],
    )


def _time(count: int | None) -> timedelta | None:
    return None if count is None else count * MICROSECOND


def not_declared(view: str) -> DefinitionError:
    """The error of `feast apply` that would take out a view that is deployed."""
    return _deployed(f"{view} is not declared any more")


def declared_otherwise(view: str) -> DefinitionError:
    """The error of `feast apply` that would put another definition in the place of one that is deployed."""
    return _deployed(f"{view} is declared in another way")


def _deployed(change: str) -> DefinitionError:
    served = "and what is deployed of it is served, so nothing was changed"
    return DefinitionError(f"{change}, {served}. Bring it into force with: python -m parity deploy")
