"""From the offline store to the online store, through Feast, and back in step whatever happened before."""

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView

from parity.definition.checks import FeatureTable
from parity.edge.errors import UserError
from parity.offline.side import EVER, latest_events
from parity.online.side import Stored, online_store_of, replace, retract, stored_events
from parity.online.store import Leftovers

LARGEST_SHARE = 0.5
"""The share of the rows online that a materialization takes out without being told to."""
SAMPLED = 1000
"""How many rows online are looked at first, to estimate that share. Redis gives keys in the order of their hashes."""


class Materialized(NamedTuple):
    """What a materialization came to."""

    users: int
    """How many the online store then holds."""
    retracted: int
    """How many rows were taken out, for good or for the one before them."""


def materialize(
    store: FeatureStore,
    table: FeatureTable,
    start: datetime | None,
    end: datetime,
    now: datetime,
    any_share: bool = False,
) -> Materialized:
    """Bring each user's latest features in [start, end] online.

    Without ``start`` it is the whole history, and rows that the history no longer has are taken out: of users who are
    gone, and rows newer than their user's latest. So are the fields of features that no view has any more. All instants
    are aware.

    Raises `UserError`, before anything is written, for an interval that is empty, holds no rows, or ends after ``now``;
    and, unless ``any_share`` is set, where more than `LARGEST_SHARE` of the rows online would be taken out.
    """
    view = table.view
    if end > now:
        raise UserError(f"the end {end.isoformat()} lies in the future; features are not known yet.")
    if start and start > end:
        raise UserError(f"the start {start.isoformat()} lies after the end {end.isoformat()}.")
    latest = latest_events(store, table, start or EVER, end)
    if not latest.num_rows:
        since = f" from {start.isoformat()}" if start else ""
        raise UserError(f"{view.name} has no rows{since} up to {end.isoformat()}, so there is nothing to materialize.")
    if not start and not any_share:
        _require_few_retracted(store, table, latest, end, now)

    with redirect_stdout(io.StringIO()):  # Feast reports progress there
        store.materialize(start or EVER, end, [view.name])

    leftovers, retracted = Leftovers(), 0
    stored = stored_events(store, view, leftovers)
    if not start:
        retracted = _bring_in_step(store, table, latest, stored, end, now)
        if retracted:
            stored = stored_events(store, view)
        _delete_unknown_fields(store, leftovers.fuller)
    missing = np.setdiff1d(latest[view.join_keys[0]].to_numpy(), stored.ids, assume_unique=True)
    if len(missing):
        raise UserError(f"{len(missing)} users did not arrive in the online store, {missing[0]} among them.")
    return Materialized(len(stored.ids), retracted)


def _require_few_retracted(
    store: FeatureStore, table: FeatureTable, latest: pa.Table, end: datetime, now: datetime
) -> None:
    view = table.view
    stored = stored_events(store, view, at_most=SAMPLED)
    retracted = np.count_nonzero(_outdated(view, latest, stored, end, now).gone)
    if len(stored.ids) >= SAMPLED and retracted > LARGEST_SHARE / 2 * len(stored.ids):
        stored = stored_events(store, view)
        retracted = np.count_nonzero(_outdated(view, latest, stored, end, now).gone)
    if retracted > LARGEST_SHARE * max(len(stored.ids), latest.num_rows):
        ahead = np.count_nonzero(stored.events > _numpy(now))
        clock = f", {ahead:,} of them from after {now.isoformat()}" if ahead else ""
        raise UserError(
            f"{retracted:,} of {len(stored.ids):,} rows online would be removed{clock}, as {view.name} does not have "
            "them up to the end. Are this machine's clock and the transactions right? Then run: "
            "python materialize_to_online.py --retract"
        )


def repair(store: FeatureStore, table: FeatureTable, ids: Iterable[int], at: datetime, now: datetime) -> None:
    """Bring the rows of the users ``ids``, and of no others, in step with the history up to ``at``. Aware instants."""
    view, wanted = table.view, np.array(sorted(ids), np.int64)
    latest, stored = latest_events(store, table, EVER, at), stored_events(store, view)
    latest = latest.filter(pc.is_in(latest[view.join_keys[0]], pa.array(wanted)))
    _bring_in_step(store, table, latest, stored[np.isin(stored.ids, wanted)], at, now)
    rows = _latest_rows(store, table, wanted, at)
    if rows.num_rows:
        store.write_to_online_store(view.name, rows.to_pandas())


class _Outdated(NamedTuple):
    """Which stored rows are to be taken out, and which of all stored rows are of users with a latest row."""

    gone: np.ndarray
    known: np.ndarray


def _outdated(view: FeatureView, latest: pa.Table, stored: Stored, end: datetime, now: datetime) -> _Outdated:
    """Find, of ``stored``, what the history up to ``end`` does not have, and what lies in the future, where nothing is
    known: users who are gone, and rows newer than their user's ``latest``."""
    ids, events = latest[view.join_keys[0]].to_numpy(), latest[view.batch_source.timestamp_field].to_numpy()
    known = np.isin(stored.ids, ids)
    newer = known.copy()
    newer[known] = stored.events[known] > events[np.searchsorted(ids, stored.ids[known])]
    settled = (stored.events <= _numpy(end)) | (stored.events > _numpy(now))
    return _Outdated(settled & (newer | ~known), known)


def _bring_in_step(
    store: FeatureStore, table: FeatureTable, latest: pa.Table, stored: Stored, end: datetime, now: datetime
) -> int:
    """Retract what is outdated, or put the user's ``latest`` row in its place. Return how many rows were outdated."""
    view = table.view
    gone, known = _outdated(view, latest, stored, end, now)
    if gone.any():
        retract(store, view, stored[gone & ~known])
        replace(store, view, stored[gone & known], _latest_rows(store, table, stored.ids[gone & known], end))
    return np.count_nonzero(gone)


def _latest_rows(store: FeatureStore, table: FeatureTable, ids: np.ndarray, end: datetime) -> pa.Table:
    view = table.view
    if not len(ids):
        return table.definition.schema.empty_table()
    latest = latest_events(store, table, EVER, end, [feature.name for feature in view.features])
    return latest.filter(pc.is_in(latest[view.join_keys[0]], pa.array(ids, pa.int64())))


def _delete_unknown_fields(store: FeatureStore, keys: list[bytes]) -> None:
    """Delete what features that were renamed or dropped have left in ``keys``."""

    def views() -> list:
        registry, project = store.registry, store.project
        written = [view for view in registry.list_on_demand_feature_views(project) if view.write_to_online_store]
        return [
            *registry.list_feature_views(project),
            *registry.list_stream_feature_views(project),
            *registry.list_label_views(project),
            *written,
        ]

    online_store_of(store).delete_unknown_fields(store.config, keys, views)


def _numpy(instant: datetime) -> np.datetime64:
    return np.datetime64(instant.astimezone(UTC).replace(tzinfo=None), "us")
