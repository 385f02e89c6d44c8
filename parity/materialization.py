"""From the offline store to the online store, through Feast, and back in step whatever happened before."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.infra.registry.base_registry import BaseRegistry

from parity.definition.checks import FeatureTable
from parity.definition.keys import KeyBook, as_tuples, shown_keys
from parity.edge.errors import UserError
from parity.offline.side import EVER, latest_events, marks_of
from parity.online.encoding import has_fractions
from parity.online.engine import ROWS_PER_BATCH, counting_ahead, progress_of
from parity.online.following import steps_after
from parity.online.scanning import Leftovers
from parity.online.scripts import ForeignKeys
from parity.online.side import Stored, foreign_keys, online_store_of, replace, retract, stored_events
from parity.registry_store import deployments

LARGEST_SHARE = 0.5
"""The share of the rows online that a materialization takes out without being asked to."""
SAMPLED = 1000
"""How many rows online are looked at first, to estimate that share. Redis gives keys in the order of their hashes."""
SHOWN = 3


class Materialized(NamedTuple):
    """What the materialization of a table came to."""

    keys: int
    """How many the online store then holds."""
    retracted: int
    """How many rows were taken out, for good or for the one before them."""
    ahead: int = 0
    """How many rows were left alone, as a stream has written them and is ahead of the transactions' files."""


def materialize(
    store: FeatureStore,
    table: FeatureTable,
    start: datetime | None,
    end: datetime,
    now: datetime,
    any_share: bool = False,
) -> Materialized:
    """As `materialize_all`, of one table."""
    return materialize_all(store, [table], start, end, now, any_share)[0]


def materialize_all(
    store: FeatureStore,
    tables: Sequence[FeatureTable],
    start: datetime | None,
    end: datetime,
    now: datetime,
    any_share: bool = False,
) -> list[Materialized]:
    """Bring each key's latest features in [start, end] online, of all ``tables``.

    Without ``start`` it is the whole history, and rows that the history no longer has are taken out: of keys that are
    gone or of another type, and rows newer than their key's latest. So are the fields of features that no view has any
    more. Of a continuous view the rows bring what follows them, up to its horizon after ``end``. Rows with events of a
    stream that the files did not have when the features were computed are left alone. All instants are aware.

    Raises `UserError`, before anything is written, for an interval that is empty, holds no rows, or ends after ``now``;
    and, unless ``any_share`` is set, where more than `LARGEST_SHARE` of the rows of a table online would be taken out.
    Where keys in Redis hold something else than rows, all else is done before the error.
    """
    if end > now:
        raise UserError(f"the end {end.isoformat()} lies in the future; features are not known yet.")
    if start and start > end:
        raise UserError(f"the start {start.isoformat()} lies after the end {end.isoformat()}.")
    histories = [_History(store, table, start, end) for table in tables]
    if not start and not any_share:
        for history in histories:
            history.require_few_retracted(now)
    done, refused = [], None
    with progress_of(sum(history.latest.num_rows for history in histories)):
        for history in histories:
            try:
                done.append(history.bring_online(now))
            except (ForeignKeys, _Refused) as error:
                refused = refused or error
    if refused:
        raise refused
    return done


def repair(store: FeatureStore, table: FeatureTable, keys: pa.Table, at: datetime, now: datetime) -> None:
    """Bring the rows of ``keys``, and of no others, in step with the history up to ``at``; and take out the rows under
    keys of another type. Aware instants."""
    history = _History(store, table, None, at).of(keys)
    stored, wanted = stored_events(store, table), KeyBook(table.definition.keys)
    wanted.number(keys)
    given = stored[wanted.find(stored.keys) >= 0]._replace(others=stored.others)
    history.bring_in_step(given, history.place(given), now)
    online, rows, done = online_store_of(store), history.rows(keys), 0
    steps = history.steps(rows)
    for batch in rows.to_batches(max_chunksize=ROWS_PER_BATCH):
        follows = None if steps is None else steps[done : done + batch.num_rows]
        done += batch.num_rows
        if foreign := online.write_columns(store.config, table.view, batch, follows, history.marks)().foreign:
            raise ForeignKeys(foreign)


class _Refused(UserError):
    """Keys that hold something else than rows, and were left alone."""


class _Outdated(NamedTuple):
    """Which stored rows are to be taken out, and which of all stored rows are of keys with a latest row."""

    gone: np.ndarray
    known: np.ndarray


class _History:
    """What the offline store has of a table in [start, end]: each key's latest event."""

    def __init__(self, store: FeatureStore, table: FeatureTable, start: datetime | None, end: datetime):
        self.store, self.table, self.start, self.end = store, table, start, end
        self.latest = latest_events(store, table, start or EVER, end)
        if not self.latest.num_rows:
            since = f" from {start.isoformat()}" if start else ""
            reason = f"{table.name} has no rows{since} up to {end.isoformat()}"
            raise UserError(f"{reason}, so there is nothing to materialize.")
        keys = self.latest.select(table.definition.keys.names)
        if has_fractions(keys):
            raise UserError(
                f"{table.name}: a key of type {pa.timestamp('us', 'UTC')} has a fraction of a second, and Feast keeps "
                "whole seconds of it online. Truncate it in the transactions, or declare it as String."
            )
        self.marks = marks_of(table)
        self._book = KeyBook(table.definition.keys)
        self._book.number(keys)

    def of(self, keys: pa.Table) -> "_History":
        """Of ``keys`` alone."""
        wanted = KeyBook(self.table.definition.keys)
        wanted.number(keys)
        self.latest = self.latest.filter(pa.array(wanted.find(self.latest) >= 0))
        self._book = KeyBook(self.table.definition.keys)
        self._book.number(self.latest)
        return self

    def require_few_retracted(self, now: datetime) -> None:
        stored = stored_events(self.store, self.table, Leftovers(), SAMPLED)
        retracted = self._retracted(stored, now)
        if _size(stored) >= SAMPLED and retracted > LARGEST_SHARE / 2 * _size(stored):
            stored = stored_events(self.store, self.table, Leftovers())
            retracted = self._retracted(stored, now)
        if retracted > LARGEST_SHARE * max(_size(stored), self.latest.num_rows):
            ahead = np.count_nonzero(stored.events > _numpy(now))
            clock = f", {ahead:,} of them from after {now.isoformat()}" if ahead else ""
            windows = ", and did windows change their length" if self.table.definition.continuous else ""
            raise UserError(
                f"{retracted:,} of {_size(stored):,} rows online would be removed{clock}, as {self.table.name} does "
                f"not have them up to the end. Are this machine's clock and the transactions right{windows}? Then run: "
                "python materialize_to_online.py --retract"
            )

    def _retracted(self, stored: Stored, now: datetime) -> int:
        """How many rows would be retracted for want of them in the history; not those that are only those of windows
        that slid once, and give way to the row that they came from."""
        gone, known = self._outdated(stored, self.place(stored), now)
        slid = gone & known & (stored.events <= _numpy(now))
        if not self.table.definition.continuous and slid.any():
            keys = [key for key, _ in stored[slid].found]
            gone[slid] = ~np.array(online_store_of(self.store).have_steps(self.store.config, self.table.view, keys))
        return int(np.count_nonzero(gone)) + stored.others.count

    def bring_online(self, now: datetime) -> Materialized:
        store, table = self.store, self.table
        with redirect_stdout(io.StringIO()), counting_ahead() as ahead:  # Feast reports progress there
            store.materialize(self.start or EVER, self.end, [table.name])
        online, retracted = online_store_of(store), 0
        leftovers = Leftovers(known=online.known_fields(store.config, _views(store)))
        stored = stored_events(store, table, leftovers)
        place = self.place(stored)
        if not self.start:
            retracted = self.bring_in_step(stored, place, now)
            if retracted:
                stored = stored_events(store, table, Leftovers())
                place = self.place(stored)
            online.delete_unknown_fields(store.config, leftovers.fuller, lambda: _views(store))
        if leftovers.foreign:
            raise _Refused(str(foreign_keys(store, table, leftovers.foreign)))
        arrived = np.zeros(self.latest.num_rows, bool)
        arrived[place[place >= 0]] = True
        if not arrived.all():
            missing = as_tuples(self.latest.select(table.definition.keys.names).filter(pa.array(~arrived)))
            some = shown_keys(missing, table.definition.keys, SHOWN)
            noun = table.noun(len(missing))
            raise UserError(f"{len(missing):,} {noun} did not arrive in the online store: {some}.")
        return Materialized(len(stored.found), retracted, *ahead)

    def place(self, stored: Stored) -> np.ndarray:
        """The places of keys that are stored in `latest`; -1 for one that is not there."""
        return self._book.find(stored.keys)

    def bring_in_step(self, stored: Stored, place: np.ndarray, now: datetime) -> int:
        """Retract what is outdated, or put the key's latest row in its place. Return how many rows were outdated."""
        gone, known = self._outdated(stored, place, now)
        if gone.any() or stored.others.count:
            retract(self.store, self.table, [*stored[gone & ~known].found, *stored.others.found], self.marks)
            newer = stored[gone & known]
            rows = self.rows(newer.keys)
            replace(self.store, self.table, newer, rows, self.steps(rows), self.marks)
        return int(np.count_nonzero(gone)) + stored.others.count

    def _outdated(self, stored: Stored, place: np.ndarray, now: datetime) -> _Outdated:
        """Find, of what is ``stored`` and has its `place`, what the history up to the end does not have, and what lies
        in the future, where nothing is known: keys that are gone, and rows newer than their key's latest. What a stream
        has written, ahead of the files, is neither."""
        events = self.latest[self.table.definition.event].to_numpy().astype("datetime64[us]")
        known = place >= 0
        newer = known.copy()
        newer[known] = stored.events[known] > events[place[known]]
        settled = (stored.events <= _numpy(self.end)) | (stored.events > _numpy(now))
        gone = settled & (newer | ~known)
        if gone.any():
            keys = [key for key, _ in stored[gone].found]
            online = online_store_of(self.store)
            gone[gone] = ~np.array(online.are_ahead(self.store.config, self.table.view, keys, self.marks))
        return _Outdated(gone, known)

    def steps(self, rows: pa.Table) -> list[bytes] | None:
        """What follows these latest rows, if the view is continuous."""
        config = self.store.config
        offline = get_offline_store_from_config(config.offline_store)
        return steps_after(config, offline, self.table.view, rows, self.end)

    def rows(self, keys: pa.Table) -> pa.Table:
        """The latest rows of ``keys``, with their features."""
        definition = self.table.definition
        if not keys.num_rows:
            return definition.schema.empty_table()
        wanted = KeyBook(definition.keys)
        wanted.number(keys)
        names = [rule.name for rule in definition.rules]
        latest = latest_events(self.store, self.table, EVER, self.end, names)
        return latest.filter(pa.array(wanted.find(latest) >= 0)).combine_chunks()


def _size(stored: Stored) -> int:
    return len(stored.found) + stored.others.count


def _views(store: FeatureStore) -> list:
    """Every view of the project that may have rows online, those of its other deployments too."""
    registry = store.registry
    return [view for project in [store.project, *deployments(store)] for view in _views_of(registry, project)]


def _views_of(registry: BaseRegistry, project: str) -> list:
    written = [view for view in registry.list_on_demand_feature_views(project) if view.write_to_online_store]
    return [
        *registry.list_feature_views(project),
        *registry.list_stream_feature_views(project),
        *registry.list_label_views(project),
        *written,
    ]


def _numpy(instant: datetime) -> np.datetime64:
    return np.datetime64(instant.astimezone(UTC).replace(tzinfo=None), "us")
