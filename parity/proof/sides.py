"""The three sides: what training, serving and the oracle say of some keys; and what is on file about them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureStore

from parity.definition.checks import FeatureTable
from parity.definition.keys import as_tuples
from parity.offline.side import history_of, training_values
from parity.online.side import clock_of, serving_values, stored_rows
from parity.proof.causes import Evidence
from parity.proof.found import Values, named, plain
from parity.proof.oracle import expected
from parity.proof.raw import Purchase


class Batch(NamedTuple):
    """Some keys, and what the three sides say of each feature of theirs."""

    numbers: np.ndarray
    """int64"""
    keys: pa.Table
    sides: dict[str, Values]
    purchases: Sequence[list[Purchase]]
    """Those of each key."""


def three_sides(
    store: FeatureStore, table: FeatureTable, keys: pa.Table, purchases: Sequence[list[Purchase]], at: datetime
) -> dict[str, Values]:
    """Ask the three sides for every feature of ``keys``, which are distinct, at ``at``; they have these ``purchases``.

    What Feast is asked for is the feature service, as training and a model server do.
    """
    training = training_values(store, table, keys, at)
    with clock_of(store, at):
        serving = serving_values(store, table, keys)
    ttl, of_key = table.view.ttl, list(zip(map(plain, as_tuples(keys)), purchases, strict=True))
    return {
        rule.name: Values(
            training[rule.name],
            serving[rule.name],
            [expected(rule, some, at, ttl, partial(named, key, table)) for key, some in of_key],
        )
        for rule in table.definition.rules
    }


def evidence_of(
    store: FeatureStore,
    table: FeatureTable,
    numbers: np.ndarray,
    keys: pa.Table,
    purchases: Mapping[int, list[Purchase]],
    at: datetime,
) -> dict[int, Evidence]:
    """Gather what is on file about ``keys`` up to ``at``, by their ``numbers``."""
    if not len(numbers):
        return {}
    evidence = {}
    history, stored = history_of(store, table, keys, at), stored_rows(store, table, keys)
    for number, rows, (stored_at, values) in zip(numbers.tolist(), history, stored, strict=True):
        events = Counter(event for event, _ in rows)
        evidence[number] = Evidence(
            purchases=[purchase for purchase in purchases.get(number, []) if purchase.time <= at],
            history=dict(rows),
            tied={event for event, count in events.items() if count > 1},
            stored_at=stored_at,
            stored=values,
        )
    return evidence
