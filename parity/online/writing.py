"""How rows get into Redis: compared with what is stored and set in one step, a key at a time or by whole columns."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain, compress, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.redis import RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import make_tzaware

from parity.definition.declare import horizon_of
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.recorded import not_declared
from parity.edge.feast_internals import stored_as, stored_name
from parity.online.columns import encode_timestamps, encode_values, takes
from parity.online.connection import RedisConnections, tolerance_of
from parity.online.encoding import VERSION, KeyEncoding, redis_key, schema_of
from parity.online.marks import NO_MARKS, Marks, marks_text
from parity.online.rows import Fields, timestamp_bytes
from parity.online.scripts import (
    ARGUMENTS_PER_SCRIPT,
    COMPARE_AND_SET,
    COMPARE_AND_SWAP,
    ForeignKeys,
    Pending,
)

logger = logging.getLogger(__name__)

KEYS_PER_ROUND_TRIP = 1000
KEYS_PER_SCRIPT = 250
BYTES_PER_SCRIPT = 1 << 20
"""Of steps, which may be long."""

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""Entity key, values, event timestamp, created timestamp."""
Call = tuple[bytes, list]
"""A key, and the other arguments of a script that is called for it."""


class Written(NamedTuple):
    """What was not written of some rows."""

    foreign: list[bytes]
    """Keys that hold something else than a row."""
    ahead: int
    """How many rows were left alone, as they have events of a stream that the files do not have."""


class Writes(RedisConnections):
    """What a store does that lets rows in."""

    now: Callable[[], datetime]

    def update(self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], *others: Any, **options: Any) -> None:
        """Delete the rows of ``tables_to_delete``, as `feast apply` has it. Raises `DefinitionError`, before anything
        is deleted, for a view that was deployed: its rows are served."""
        for table in tables_to_delete:
            if stored_as(table):
                raise not_declared(table.name)
        super().update(config, tables_to_delete, *others, **options)

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows, each if nothing newer is stored, and no stream has written there.

        Of a continuous view they come without what follows them, so they are not served before the next
        materialization. Raises `ForeignKeys`, once all others are written, if a key holds something else than a row.
        """
        for pending in self._writing(config, table, data, progress):
            self._run(config, pending)

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """The same, through the asynchronous client."""
        client = await self._get_client_async(config.online_store)
        for pending in self._writing(config, table, data, progress):
            while pending:
                async with client.pipeline(transaction=False) as pipeline:
                    pending.send(pipeline)
                    pending.receive(await pipeline.execute(raise_on_error=False))
                if pending:
                    await client.script_load(pending.script)

    def _run(self, config: RepoConfig, pending: Pending) -> None:
        """Send the calls until all are answered."""
        client = self._get_client(config.online_store)
        while pending:
            with client.pipeline(transaction=False) as pipeline:
                pending.send(pipeline)
                pending.receive(pipeline.execute(raise_on_error=False))
            if pending:
                client.script_load(pending.script)  # on every master of a Cluster

    def run_script(self, config: RepoConfig, script: str, calls: list[Call]) -> list:
        """Run a script for each call, atomic for its key, and give the replies."""
        pending = Pending(script, calls)
        self._run(config, pending)
        return pending.replies

    def _writing(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> Iterator[Pending]:
        """Give the calls that write ``data``, to be sent each before the next is asked for."""
        latest, foreign, ahead = self.latest(config), [], 0
        dropped = _dropped(config, table, None)
        calls = (
            (key, [*_header(config, latest, names, NO_MARKS, dropped), *values])
            for key, names, values in self._rows(config, table, data, latest)
        )
        for some in batches(calls):
            pending = Pending(COMPARE_AND_SET, some)
            yield pending
            refused = _refused(some, pending.replies)
            foreign, ahead = foreign + refused.foreign, ahead + refused.ahead
            if progress:
                progress(len(some))
        if ahead:
            logger.warning("%s: %d rows were not written online, where a stream has written them.", table.name, ahead)
        if foreign:
            raise ForeignKeys(foreign)

    def _rows(
        self, config: RepoConfig, table: FeatureView, data: list[Row], latest: datetime
    ) -> Iterator[tuple[bytes, list, list]]:
        """Give each row's key, fields and values, in stock's bytes; leave out, and report, rows from the future."""
        names, from_the_future = Fields(stored_name(config, table)), 0
        for entity_key, values, event_timestamp, _ in data:
            event_timestamp = make_tzaware(event_timestamp)
            if event_timestamp > latest:
                from_the_future += 1
                continue
            key = redis_key(config.project, entity_key, config.entity_key_serialization_version)
            row = [timestamp_bytes(event_timestamp), *(value.SerializeToString() for value in values.values())]
            yield key, names.of(values), row
        _warn_of_the_future(table, from_the_future, latest)

    def latest(self, config: RepoConfig) -> datetime:
        """The latest instant of an event that is known by now."""
        return self.now() + tolerance_of(config) * MICROSECOND

    # By columns

    def takes_columns(self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch) -> bool:
        """Say whether `write_columns` and `replace` take ``rows``."""
        return config.entity_key_serialization_version == VERSION and takes(table, rows)

    def write_columns(
        self,
        config: RepoConfig,
        table: FeatureView,
        rows: pa.RecordBatch,
        steps: Sequence[bytes] | None = None,
        marks: Marks = NO_MARKS,
    ) -> Callable[[], Written]:
        """Encode ``rows`` (join keys, event timestamp, features of ``table``) and return a function that writes them.

        Each is written if nothing newer is stored, as by `online_write_batch`, and if what a stream has written there
        is not ahead of the ``marks`` of the files. ``steps``, of a continuous view, are what follows each row; without
        them, such a row is past its horizon. The function waits for Redis most of the time, and may run in another
        thread.
        """
        latest = self.latest(config)
        keys, names, columns = _encoded(config, table, rows, latest, steps)
        header = _header(config, latest, names, marks, _dropped(config, table, steps))
        if config.online_store.redis_type == RedisType.redis_cluster:  # where a script can't write keys of many slots

            def write_each() -> Written:
                calls = ((key, [*header, *fields]) for key, *fields in zip(keys, *columns, strict=True))
                foreign, ahead = [], 0
                for some in batches(calls):
                    refused = _refused(some, self.run_script(config, COMPARE_AND_SET, some))
                    foreign, ahead = foreign + refused.foreign, ahead + refused.ahead
                return Written(foreign, ahead)

            return write_each
        compare_and_set = self._get_client(config.online_store).register_script(COMPARE_AND_SET)
        size = max(1, min(KEYS_PER_SCRIPT, ARGUMENTS_PER_SCRIPT // len(columns)))
        parts = list(_parts([0] * len(keys) if steps is None else list(map(len, columns[-1])), size))

        def write() -> Written:
            foreign, left_alone = [], 0
            for some in parts:
                fields = chain.from_iterable(zip(*(column[some] for column in columns), strict=True))
                places, ahead = compare_and_set(keys[some], [*header, *fields])
                foreign += [keys[some.start + place - 1] for place in places]
                left_alone += ahead
            return Written(foreign, left_alone)

        return write

    def replace(
        self,
        config: RepoConfig,
        table: FeatureView,
        rows: pa.Table,
        seen: dict[bytes, bytes],
        steps: Sequence[bytes] | None = None,
        marks: Marks = NO_MARKS,
    ) -> int:
        """Put ``rows`` in the place of those that `scan` found, each only while its event timestamp is as ``seen``.

        Unlike a write it lets in an older event, in one step: a reader gets the one row or the other. ``seen`` has the
        bytes of the event timestamp by key; ``steps`` and ``marks`` are those of `write_columns`. Returns how many were
        replaced.
        """
        seconds, replaced, done = config.online_store.key_ttl_seconds or 0, 0, 0
        beside = marks_text(marks), _dropped(config, table, steps)
        for batch in rows.to_batches(max_chunksize=KEYS_PER_ROUND_TRIP):
            some = None if steps is None else steps[done : done + batch.num_rows]
            done += batch.num_rows
            keys, names, columns = _encoded(config, table, batch, self.latest(config), some)
            swaps = [
                (key, [seen[key], seconds, *beside, *chain.from_iterable(zip(names, fields, strict=True))])
                for key, *fields in zip(keys, *columns, strict=True)
            ]
            replaced += sum(self.run_script(config, COMPARE_AND_SWAP, swaps))
        return replaced


def _encoded(
    config: RepoConfig, table: FeatureView, rows: pa.RecordBatch, latest: datetime, steps: Sequence[bytes] | None
) -> tuple[list[bytes], list, list[list[bytes]]]:
    """The keys of ``rows``, the names of their fields, and the columns of these; without rows from the future. The
    ``steps``, if given, are the last column."""
    events = rows.column(table.batch_source.timestamp_field).cast(pa.int64()).to_numpy()
    past = events <= (latest - EPOCH) // MICROSECOND
    if not past.all():
        _warn_of_the_future(table, len(past) - np.count_nonzero(past), latest)
        rows, events = rows.filter(pa.array(past)), events[past]
        steps = None if steps is None else list(compress(steps, past))
    features, fields = [feature.name for feature in table.features], Fields(stored_name(config, table))
    keys = KeyEncoding(schema_of(table), config.project).encode(rows)
    columns = [encode_timestamps(events), *(encode_values(rows.column(name)) for name in features)]
    if steps is None:
        return keys, fields.of(features), columns
    return keys, [*fields.of(features), fields.steps], [*columns, list(steps)]


def _dropped(config: RepoConfig, table: FeatureView, steps: Sequence[bytes] | None) -> str:
    """The field that a row of ``table`` may not keep, if it comes without ``steps``: those of the row before it."""
    return "" if steps is not None or horizon_of(table) is None else Fields(stored_name(config, table)).steps


def _header(config: RepoConfig, now: datetime, fields: list, marks: Marks, dropped: str) -> list:
    """The first arguments of `COMPARE_AND_SET`."""
    seconds = config.online_store.key_ttl_seconds or 0
    return [timestamp_bytes(now), seconds, marks_text(marks), dropped, len(fields), *fields]


def _parts(sizes: list[int], most: int) -> Iterator[slice]:
    """Cut rows of these ``sizes`` in bytes into parts of at most ``most`` rows, and not much more bytes than
    `BYTES_PER_SCRIPT`."""
    start = held = 0
    for place, size in enumerate(sizes):
        if place - start == most or (held + size > BYTES_PER_SCRIPT and place > start):
            yield slice(start, place)
            start, held = place, 0
        held += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def _warn_of_the_future(table: FeatureView, rows: int, latest: datetime) -> None:
    if rows:
        logger.warning(
            "%s: %d rows from after %s were not written online: they lie in the future. Are their timestamps in UTC? "
            "For a producer whose clock is ahead, set future_tolerance_seconds of the online store.",
            table.name,
            rows,
            latest,
        )


def _refused(calls: list[Call], replies: list[list]) -> Written:
    """What `COMPARE_AND_SET`, called for one key each, left alone."""
    foreign = [key for (key, _), (places, _) in zip(calls, replies, strict=True) if places]
    return Written(foreign, sum(ahead for _, ahead in replies))


def batches(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while batch := list(islice(items, KEYS_PER_ROUND_TRIP)):
        yield batch
