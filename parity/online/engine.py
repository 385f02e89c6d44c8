"""The compute engine of a materialization: Feast's local one, fast where it can be.

feature_store.yaml names it, through Feast's own plug-in mechanism:

    batch_engine:
      type: parity.online.engine.ParityComputeEngine

Feast's own reads every row of the interval, keeps each key's latest in pandas, and makes a protobuf message of every
value. This one lets the offline store pick the latest rows and encodes them a column at a time, while Redis writes
the ones before. What that can't take goes Feast's way, with the same result. With the rows of a continuous view it
writes what follows them.

It also keeps what Feast notes down true. Nothing after the present is materialized or noted as such, whatever end was
asked for, so the next incremental run begins where this one ended. And a run that begins where the last one ended
(``feast materialize-incremental``) looks again at everything that may still be served: rows that came late, and a Redis
that came back empty.
"""

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

import pyarrow as pa
from feast import FeatureView, FileSource
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from tqdm import tqdm

from parity.definition.declare import horizon_of
from parity.definition.instants import utc_now
from parity.edge.errors import UserError
from parity.edge.files import progress
from parity.offline.side import EVER, marks_beside
from parity.online.following import require_slides_alike, steps_after
from parity.online.scripts import ForeignKeys
from parity.online.store import ParityRedisOnlineStore
from parity.online.writing import Written

logger = logging.getLogger(__name__)

FEASTS_EVER, A_MOMENT = timedelta(weeks=52), timedelta(minutes=5)
"""How far back Feast begins the first incremental run of a view without a ttl, and how long ago it may have done so."""
ROWS_PER_BATCH = 10_000
WRITERS = 2
"""While Redis works for one, the other makes its next command; Redis itself has one thread."""


_bar: ContextVar[tqdm | None] = ContextVar("bar", default=None)


@contextmanager
def progress_of(rows: int) -> Iterator[tqdm]:
    """Show the progress of writing ``rows``: that of several tables as one, if this is around all of them."""
    if outer := _bar.get():
        yield outer
        return
    with progress("materialize", rows, "row") as bar:
        token = _bar.set(bar)
        try:
            yield bar
        finally:
            _bar.reset(token)


_ahead: ContextVar[list[int] | None] = ContextVar("ahead", default=None)


@contextmanager
def counting_ahead() -> Iterator[list[int]]:
    """Count, in a list of one number, the rows that are left alone as a stream is ahead of the files there."""
    count = [0]
    token = _ahead.set(count)
    try:
        yield count
    finally:
        _ahead.reset(token)


def _note_ahead(view: FeatureView, rows: int) -> None:
    count = _ahead.get()
    if count is not None:
        count[0] += rows
    elif rows:
        logger.info("%s: %d rows were left alone, where a stream is ahead of the files.", view.name, rows)


class ParityComputeEngineConfig(LocalComputeEngineConfig):
    """The options of Feast's local engine."""

    type: Literal["parity.online.engine.ParityComputeEngine"] = "parity.online.engine.ParityComputeEngine"


class ParityComputeEngine(LocalComputeEngine):
    """See the module's docstring."""

    supports_batch = True
    applies_materialization = True

    def materialize(
        self, registry: BaseRegistry, tasks: MaterializationTask | list[MaterializationTask], **kwargs
    ) -> list[LocalMaterializationJob]:
        """Materialize each task, and note in the registry what was, as Feast leaves it to an engine that takes many."""
        jobs = []
        for task in [tasks] if isinstance(tasks, MaterializationTask) else tasks:
            present = self._present()
            end = min(task.end_time, present)
            widened = replace(task, start_time=self._start(task, present), end_time=end)
            [job] = super().materialize(registry, widened, **kwargs)
            if job.status() != MaterializationJobStatus.ERROR and task.start_time <= end:
                registry.apply_materialization(task.feature_view, task.project, task.start_time, end)
            jobs.append(job)
        return jobs

    def _present(self) -> datetime:
        now = getattr(self.online_store, "now", utc_now)
        return now()

    @staticmethod
    def _start(task: MaterializationTask, present: datetime) -> datetime:
        """From when on to look for rows: of a run that goes on where the last one ended, all that can be served."""
        view = task.feature_view
        last_end = getattr(view, "most_recent_end_time", None)
        if horizon_of(view) is not None:  # a row that is too old to be served may become a step that is not
            first = last_end is None and abs(utc_now() - (view.ttl or FEASTS_EVER) - task.start_time) < A_MOMENT
            return EVER if first or task.start_time == last_end else task.start_time
        first = last_end is None and not view.ttl and abs(utc_now() - FEASTS_EVER - task.start_time) < A_MOMENT
        if task.start_time != last_end and not first:
            return task.start_time
        try:
            return min(task.start_time, present - view.ttl) if view.ttl else EVER
        except OverflowError:  # a ttl that reaches back further than the calendar
            return EVER

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **kwargs) -> LocalMaterializationJob:
        view = task.feature_view
        source = view.batch_source
        job = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            require_slides_alike(view)
        except UserError as failure:
            return LocalMaterializationJob(job, MaterializationJobStatus.ERROR, failure)
        plain = type(view) is FeatureView and view.online and not view.offline
        plain = plain and isinstance(self.online_store, ParityRedisOnlineStore)
        if not plain or source.created_timestamp_column or source.field_mapping or task.disable_event_timestamp:
            return super()._materialize_one(registry, task, **kwargs)
        try:
            taken = self._write(view, self._latest(task), task.end_time)
        except Exception as failure:  # Feast raises it again
            return LocalMaterializationJob(job, MaterializationJobStatus.ERROR, failure)
        if not taken:
            return super()._materialize_one(registry, task, **kwargs)
        return LocalMaterializationJob(job, MaterializationJobStatus.SUCCEEDED)

    def _latest(self, task: MaterializationTask) -> pa.Table:
        """Each key's latest row in the interval of the task."""
        view = task.feature_view
        return self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=view.batch_source,
            join_key_columns=view.join_keys,
            feature_name_columns=[feature.name for feature in view.features],
            timestamp_field=view.batch_source.timestamp_field,
            created_timestamp_column=None,
            start_date=task.start_time,
            end_date=task.end_time,
        ).to_arrow()

    def _write(self, view: FeatureView, rows: pa.Table, end: datetime) -> bool:
        """Write the rows, each key's latest at ``end``, online, and what follows them if the view is continuous.

        False, and nothing is written, if there are some that the fast path does not take.
        """
        size = self.repo_config.materialization_config.online_write_batch_size or ROWS_PER_BATCH
        batches = rows.to_batches(max_chunksize=size)
        if not all(self.online_store.takes_columns(self.repo_config, view, batch) for batch in batches):
            return False
        steps = steps_after(self.repo_config, self.offline_store, view, rows, end)
        source, done = view.batch_source, 0
        marks = marks_beside(source.path) if isinstance(source, FileSource) else {}
        with ThreadPoolExecutor(WRITERS) as writers, progress_of(rows.num_rows) as bar:
            writing: deque[Future[Written]] = deque()
            written = []
            for batch in batches:
                follows = None if steps is None else steps[done : done + batch.num_rows]
                write = self.online_store.write_columns(self.repo_config, view, batch, follows, marks)
                if len(writing) == WRITERS:
                    written.append(writing.popleft().result())
                writing.append(writers.submit(write))
                bar.update(batch.num_rows)
                done += batch.num_rows
            written += [last.result() for last in writing]
        _note_ahead(view, sum(some.ahead for some in written))
        if foreign := [key for some in written for key in some.foreign]:
            raise ForeignKeys(foreign)
        return True
