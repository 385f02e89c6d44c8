"""The three sides: what training, serving and the oracle say of some keys; and what is on file about them."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureStore

from parity.compare.answers import ROW_DROPPED
from parity.compare.equal import same
from parity.compare.requested import Asked
from parity.compare.sides import Sdk, Training
from parity.compare.subjects import Column, Source, Subject
from parity.definition.checks import FeatureTable
from parity.definition.keys import as_tuples
from parity.offline.side import history_of
from parity.online.side import clock_of, replies, unlogged
from parity.proof.causes import (
    AHEAD,
    EXPIRED,
    NEVER,
    Evidence,
    Freshness,
    is_beside,
    offline_cause,
    online_cause,
)
from parity.proof.found import EXTRA, MATCH, MISMATCH, MISSING, WRONG, Values, named, plain
from parity.proof.held import held_rows
from parity.proof.oracle import expected, moments, slides_of
from parity.proof.raw import Purchase
from parity.proof.streamed import streamed_rows


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
    names = list(map(plain, as_tuples(keys)))
    right = oracle_values(table, [(key, some, at) for key, some in zip(names, purchases, strict=True)])
    names = [rule.name for rule in table.rules]
    return {name: Values(training[name], serving[name], right[name]) for name in names}


def training_values(
    store: FeatureStore, table: FeatureTable, keys: pa.Table, at: datetime | Sequence[datetime]
) -> dict[str, list]:
    """What training gets for ``keys`` at the instant ``at``, or each at one of its own: per feature, one value per key.

    It is `ROW_DROPPED` where the offline store leaves out the row of a key. No two keys of one instant are the same.
    """
    answers = Training(store, divided=False).ask(subject_of(table), _asked(table, keys), at)
    values = {rule.name: answers.values[table.answered(rule.name)] for rule in table.rules}
    for some in values.values():
        for place in np.flatnonzero(~answers.there).tolist():
            some[place] = ROW_DROPPED
    return values


def serving_values(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> dict[str, list]:
    """What a model server gets for ``keys``: per feature, one value per key. The log of what is served does not have
    it."""
    with replies(table), unlogged(store):
        answers = Sdk(store, divided=False, typed=True).ask(subject_of(table), _asked(table, keys))
    return {feature.name: answers.values[table.answered(feature.name)] for feature in table.features}


def subject_of(table: FeatureTable) -> Subject:
    """What Feast is asked for to get the features of a table."""
    source = Source(table.view, table.name)
    columns = [
        Column(table.answered(feature.name), table.name, feature.name, str(feature.dtype), source)
        for feature in table.features
    ]
    return Subject(table.title, "feature view", table.requested, columns, [source], full=table.full_names)


def _asked(table: FeatureTable, keys: pa.Table) -> Asked:
    return Asked(keys.rename_columns(table.requested_keys), {}, {}, keys.num_rows)


def oracle_values(table: FeatureTable, asked: Sequence[tuple[Any, list[Purchase], datetime]]) -> dict[str, list]:
    """Work out every feature of some keys, each with its purchases and the instant that is asked for."""
    ttl, slides = table.view.ttl, slides_of(table.definition)
    return {
        rule.name: [expected(rule, some, at, ttl, partial(named, key, table), slides) for key, some, at in asked]
        for rule in table.rules
    }


def evidence_of(
    store: FeatureStore,
    table: FeatureTable,
    keys: pa.Table,
    purchases: Sequence[list[Purchase]],
    instants: Sequence[datetime],
) -> list[Evidence]:
    """Gather what is on file about each of ``keys``, which has these ``purchases``, up to an instant of its own."""
    if not keys.num_rows:
        return []
    evidence, slides = [], slides_of(table.definition)
    histories, stored = history_of(store, table, keys, max(instants)), held_rows(store, table, keys, instants)
    streamed = streamed_rows(store, table, keys, purchases, instants)
    for rows, some, held, of_stream, at in zip(histories, purchases, stored, streamed, instants, strict=True):
        history = [(event, row) for event, row in rows if event <= at]
        events = Counter(event for event, _ in history)
        known = [purchase for purchase in some if purchase.time <= at]
        right = set(moments(some, slides))
        evidence.append(
            Evidence(
                purchases=known,
                events={moment for moment in right if moment <= at},
                history=dict(history),
                tied={event for event, count in events.items() if count > 1},
                stored_at=held.at,
                stored=held.values,
                row_at=held.row_at,
                hidden=held.hidden,
                strange={step: is_beside(step, right) for step in held.steps or () if step not in right},
                slides=slides,
                steps=held.steps,
                streamed=of_stream,
            )
        )
    return evidence


def kind_of(training: Any, serving: Any, oracle: Any) -> str:
    """How the three sides compare in one value."""
    if training is ROW_DROPPED:
        return EXTRA
    if not same(training, serving):
        return MISSING if serving is None else EXTRA if training is None else MISMATCH
    return MATCH if same(training, oracle) else WRONG


def cause_of(
    table: FeatureTable,
    feature: str,
    evidence: Evidence,
    sides: tuple[Any, Any, Any],
    at: datetime,
    fresh: Freshness,
) -> str:
    """Why training, serving and the oracle, in this order, differ in a feature at an instant."""
    training, serving, oracle = sides
    [rule] = [rule for rule in table.definition.rules if rule.name == feature]
    if training is ROW_DROPPED:
        return EXPIRED if evidence.history else NEVER
    redefined = fresh.redefined and serving is not None
    applied = evidence.streamed.applied if evidence.streamed else None
    if not redefined and not same(training, oracle) and same(serving, oracle) and not fresh.is_computed(applied):
        return AHEAD
    if not same(training, oracle) and (redefined or same(training, serving) or same(serving, oracle)):
        return offline_cause(feature, rule, evidence, oracle, fresh)
    return online_cause(feature, rule, evidence, at, fresh)
