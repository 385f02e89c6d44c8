"""What is wrong with a source, told from its columns: in place of the error that a store makes of it."""

from __future__ import annotations

from collections.abc import Sequence

from feast import FeatureStore, ValueType

from parity.check.pulling import source_columns
from parity.compare.subjects import Source, Subject

NAMED = 12
"""Columns of a source that are named."""
NUMBERS = {ValueType.INT32, ValueType.INT64, ValueType.FLOAT, ValueType.DOUBLE, ValueType.BOOL}


def trouble_of_sources(store: FeatureStore, subject: Subject) -> str | None:
    """What is wrong with the first source that has a fault; None where no fault is seen."""
    for source in subject.sources:
        features = [column.feature for column in subject.columns if column.source is source]
        if why := _trouble(store, source, features):
            return why
    return None


def _trouble(store: FeatureStore, source: Source, features: Sequence[str]) -> str | None:
    try:
        types = dict(source.batch.get_table_column_names_and_types(store.config))
    except FileNotFoundError:
        return f"the source of {source.name} is not there: {getattr(source.batch, 'path', source.batch.name)}"
    except Exception:  # as of a source that can't say: what failed before is all that is known
        return None
    wanted = source_columns(source, features)
    lacking = [name for name in wanted if name not in types]
    if lacking:
        there = list(types)
        more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
        return (
            f"the source of {source.name} has no column {', '.join(lacking[:NAMED])}, which is declared; "
            f"it has {', '.join(there[:NAMED])}{more}"
        )
    event = wanted[-1]
    try:
        kind = source.batch.source_datatype_to_feast_value_type()(types[event])
    except Exception:
        return None
    if kind in NUMBERS:
        return f"the event times of {source.name}, in {event}, are {types[event]}: Feast needs timestamps"
    return None
