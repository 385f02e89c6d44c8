"""From the offline store to the online store, through Feast, and back in step whatever happened before."""

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView

from parity.command import UserError
from parity.offline import EVER, latest_events
from parity.online import Stored, retract, stored_events


def materialize(store: FeatureStore, view: FeatureView, start: datetime | None, end: datetime, now: datetime) -> int:
    """Bring each user's latest features in [start, end] online; return how many users the online store then holds.

    Without ``start`` it is the whole history, and rows that the history no longer has are taken out: of users who are
    gone, and rows newer than their user's latest. All instants are aware.

    Raises `UserError` for an interval that is empty, holds no rows, or ends after ``now``, before anything is written.
    """
    if end > now:
        raise UserError(f"the end {end.isoformat()} lies in the future; features are not known yet.")
    if start and start > end:
        raise UserError(f"the start {start.isoformat()} lies after the end {end.isoformat()}.")
    latest = latest_events(store, view, start or EVER, end)
    if not latest.num_rows:
        since = f" from {start.isoformat()}" if start else ""
        raise UserError(f"{view.name} has no rows{since} up to {end.isoformat()}, so there is nothing to materialize.")

    with redirect_stdout(io.StringIO()):  # Feast reports progress there
        store.materialize(start or EVER, end, [view.name])

    stored = stored_events(store, view)
    if not start and _bring_in_step(store, view, latest, stored, end, now):
        stored = stored_events(store, view)
    missing = np.setdiff1d(latest[view.join_keys[0]].to_numpy(), stored.ids, assume_unique=True)
    if len(missing):
        raise UserError(f"{len(missing)} users did not arrive in the online store, {missing[0]} among them.")
    return len(stored.ids)


def repair(store: FeatureStore, view: FeatureView, ids: Iterable[int], at: datetime, now: datetime) -> None:
    """Bring the rows of the users ``ids``, and of no others, in step with the history up to ``at``. Aware instants."""
    wanted = np.array(sorted(ids), np.int64)
    latest, stored = latest_events(store, view, EVER, at), stored_events(store, view)
    latest = latest.filter(pc.is_in(latest[view.join_keys[0]], pa.array(wanted)))
    _bring_in_step(store, view, latest, stored[np.isin(stored.ids, wanted)], at, now)
    _write_latest(store, view, wanted, at)


def _bring_in_step(
    store: FeatureStore, view: FeatureView, latest: pa.Table, stored: Stored, end: datetime, now: datetime
) -> bool:
    """Retract, of ``stored``, what the history up to ``end`` does not have, and what lies in the future, where nothing
    is known: users who are gone, and rows newer than their user's ``latest``, which takes its place. Tell if any was.
    """
    ids, events = latest[view.join_keys[0]].to_numpy(), latest[view.batch_source.timestamp_field].to_numpy()
    known = np.isin(stored.ids, ids)
    newer = known.copy()
    newer[known] = stored.events[known] > events[np.searchsorted(ids, stored.ids[known])]
    told_of = (stored.events <= _numpy(end)) | (stored.events > _numpy(now))
    gone = told_of & (newer | ~known)
    if not gone.any():
        return False
    retract(store, view, stored[gone])
    _write_latest(store, view, stored.ids[gone & known], end)
    return True


def _write_latest(store: FeatureStore, view: FeatureView, ids: np.ndarray, end: datetime) -> None:
    latest = latest_events(store, view, EVER, end, [feature.name for feature in view.features])
    latest = latest.filter(pc.is_in(latest[view.join_keys[0]], pa.array(ids, pa.int64())))
    if latest.num_rows:
        store.write_to_online_store(view.name, latest.to_pandas())


def _numpy(instant: datetime) -> np.datetime64:
    return np.datetime64(instant.astimezone(UTC).replace(tzinfo=None), "us")
