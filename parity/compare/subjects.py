"""What is compared by one request: its columns, keys and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from feast import FeatureService, FeatureView

try:
    from feast import LabelView
except ImportError:  # of a Feast before 0.63, which has none

    class LabelView:
        pass


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
    def identity(self) -> tuple:
        """What a request has of it: the name that it calls it by, and the keys."""
        return self.called, tuple(self.keys)

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
        return [one for one in self.columns if one.source and (one.source.identity, one.feature) in made_of]

    def knows_inputs(self, view: str) -> bool:
        """Whether the request has all that an on-demand ``view`` is computed of."""
        return view in self.made_of and len(self.inputs(view)) >= len(self.made_of[view])


class NotCompared(Exception):
    """Why something is not compared, in a clause."""


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
