"""What an on-demand view makes of the inputs of one key alone: whether the values that it had follow from these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore

from parity.check.keys import Keys
from parity.compare.equal import difference, is_close, plain
from parity.compare.kinds import NULL, Kind
from parity.compare.requested import Asked, taken
from parity.compare.subjects import ENTITY_TIME, Column, Subject

MOST = 2_000
"""How many values of a subject are computed again, at most."""


class Alone:
    """Computes views of a ``subject`` again, by Feast's own transformation, as ``store`` has them. ``asked`` makes
    the request for a number of keys, with the data that both sides were given."""

    def __init__(self, subject: Subject, keys: Keys, store: FeatureStore, asked: Callable[[pa.Table, int], Asked]):
        self._subject, self._keys, self._asked = subject, keys, asked
        self._left = MOST
        self._able: set[str] = set()
        """The views that could be computed for a key alone."""
        self._view = cache(lambda name: store.registry.get_on_demand_feature_view(name, store.project))

    def makes(self, column: Column, place: int, values: Mapping[str, Any], at: datetime | None) -> bool | None:
        """Whether what a side has for the key at a ``place``, its ``values`` by column, is what the view makes of these
        inputs: of training ``at`` an instant, or of serving. None if that is not known."""
        forms = self._forms(column, place, values, at)
        return None if forms is None else bool(forms)

    def follow(
        self, column: Column, place: int, training: Mapping[str, Any], serving: Mapping[str, Any], at: datetime
    ) -> bool | None:
        """Whether what both sides have follows from their inputs, where these have nulls in the same form: what a view
        makes of one null is none of another."""
        served = self._forms(column, place, serving, None)
        trained = self._forms(column, place, training, at)
        return None if served is None or trained is None else bool(served & trained)

    def _forms(self, column: Column, place: int, values: Mapping[str, Any], at: datetime | None) -> set | None:
        """The forms of the inputs of which a view makes the value that a side has. None if that is not known."""
        if not self._subject.knows_inputs(column.view) or self._left <= 0:
            return None
        self._left -= 1
        try:
            made = self._made(column, place, values, at)
        except Exception:  # of values that Arrow does not take back
            return None
        if made:
            self._able.add(column.view)
        elif column.view not in self._able:
            return None
        return {form for form, one in made.items() if is_near(one, values[column.name], column.type)}

    def _made(self, column: Column, place: int, values: Mapping[str, Any], at: datetime | None) -> dict[int, Any]:
        """What the view makes of each form that the inputs may have had, without those that it fails for."""
        asked = self._asked(taken(self._keys.table, np.array([place])), 1)
        given = asked.rows() if at is None else asked.frame().to_dict("list") | {ENTITY_TIME: [at]}
        view, made = self._view(column.view), {}
        for form, inputs in enumerate(_as_stores_have(self._subject.inputs(column.view), values)):
            with suppress(Exception):  # of the view's own code
                made[form] = _transformed(view, column, pa.table(given | inputs), at is not None)
        return made


def is_near(one: Any, other: Any, declared: str) -> bool:
    """Whether two values are equal but for their type and precision."""
    kind = difference(one, other, declared)
    return (
        kind is None
        or (isinstance(kind, Kind) and kind != NULL)
        or (one is not None and other is not None and is_close(one, other))
    )


def _transformed(view: Any, column: Column, table: pa.Table, is_training: bool) -> Any:
    """The feature that a view computes of a table of one row, as a training set, or a model server, has it computed."""
    if view.mode == "python" and not is_training:
        made = view.transform_dict(table.to_pydict())
    else:
        made = view.transform_arrow(table, False)
        made = {name: made[name].to_pylist() for name in made.column_names}
    value = next(
        made[name] for name in (column.feature, column.name, f"{column.view}__{column.feature}") if name in made
    )
    return plain(value[0] if isinstance(value, list) and not (view.singleton and not is_training) else value)


def _as_stores_have(inputs: list[Column], values: Mapping[str, Any]) -> Iterator[dict[str, pa.Array]]:
    """The inputs as Arrow may have had them: a null as None or NaN, a Float32 as one, or as a double."""
    for null in (pa.scalar(None, pa.float64()), pa.scalar(float("nan")), pa.scalar(None, pa.null())):
        for single in (False, True):
            yield {one.name: _as_array(values[one.name], one.type, null, single) for one in inputs}


def _as_array(value: Any, declared: str, null: pa.Scalar, single: bool) -> pa.Array:
    if value is None:
        return pa.array([null.as_py()], null.type) if declared.startswith(("Int", "Float")) else pa.nulls(1)
    if single and declared == "Float32" and isinstance(value, float) and float(np.float32(value)) == value:
        return pa.array([value], pa.float32())
    return pa.array([value])
