"""From the offline store to the online store, through Feast, and back in step whatever happened before."""

import io
from collections.abc import Container, Iterable
from contextlib import redirect_stdout
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView

from parity.command import UserError
from parity.offline import latest_events
from parity.online import id_of, online_store_of, stored_events

EVER = datetime(1, 1, 1, tzinfo=UTC)


def materialize(store: FeatureStore, view: FeatureView, start: datetime | None, end: datetime, now: datetime) -> int:
    """Bring each user's latest features in [start, end] online; return how many users the online store then holds.

    Without ``start`` it is the whole history, and rows that the history no longer has are taken out first: of users
    who are gone, and rows newer than their user's latest. All instants are aware.

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

    if not start:
        _retract(store, view, latest, end, now)
    with redirect_stdout(io.StringIO()):  # Feast reports progress there
        store.materialize(start or EVER, end, [view.name])

    stored = {key for key, _ in stored_events(store, view)}
    missing = set(latest[view.join_keys[0]].to_pylist()) - stored
    if missing:
        raise UserError(f"{len(missing)} users did not arrive in the online store, {min(missing)} among them.")
    return len(stored)


def repair(store: FeatureStore, view: FeatureView, ids: Iterable[int], at: datetime, now: datetime) -> None:
    """Bring the rows of the users ``ids``, and of no others, in step with the history up to ``at``. Aware instants."""
    [key], wanted = view.join_keys, pa.array(sorted(ids), pa.int64())
    latest = latest_events(store, view, EVER, at, [feature.name for feature in view.features])
    latest = latest.filter(pc.is_in(latest[key], wanted))
    _retract(store, view, latest, at, now, set(wanted.to_pylist()))
    if latest.num_rows:
        store.write_to_online_store(view.name, latest.to_pandas())


def _retract(
    store: FeatureStore,
    view: FeatureView,
    latest: pa.Table,
    end: datetime,
    now: datetime,
    ids: Container[int] | None = None,
) -> None:
    """Take out what the history up to ``end`` does not have, and what lies in the future, where nothing is known.

    Of all users, or of ``ids``.
    """
    timestamp = view.batch_source.timestamp_field
    latest_event = dict(zip(latest[view.join_keys[0]].to_pylist(), latest[timestamp].to_pylist(), strict=True))
    online = online_store_of(store)
    gone = (
        (entity_key, stored)
        for entity_key, stored in online.stored(store.config, view)
        if (ids is None or id_of(entity_key) in ids)
        and (stored <= end or stored > now)
        and (id_of(entity_key) not in latest_event or stored > latest_event[id_of(entity_key)])
    )
    online.retract(store.config, view, gone)
