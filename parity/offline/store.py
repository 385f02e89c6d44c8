"""The offline store: Feast's DuckDB store, with the same answers by faster queries.

feature_store.yaml names it, through Feast's own plug-in mechanism:

    offline_store:
      type: parity.offline.store.ParityDuckDBOfflineStore

Training data is found by an AS OF join, where the stock store joins every entity row with the whole history of its
entity and then ranks; the latest rows are found by one grouping, where it ranks too. Feast's own query is always
built. It is replaced only by one with the same columns and types, and stays where the fast one does not apply.
"""

import glob
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import ibis
import pandas as pd
from feast import FeatureView, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
)
from feast.infra.offline_stores.ibis import (
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from fsspec.implementations.arrow import ArrowFSWrapper
from ibis.expr import datatypes as dt
from ibis.expr.types import Table
from ibis.util import gen_name
from pyarrow.fs import FileSystem, FileType

from parity.edge.feast_internals import answered_by, write_data_source
from parity.edge.files import filesystem_of

SLACK = ibis.interval(seconds=1)  # pandas counts in nanoseconds, Python and DuckDB in microseconds
SETTINGS = {
    # Or else the footer of a file is taken for that of another, of the same size, that took its place within a second.
    "enable_external_file_cache": "false",
    # Or else an AS OF join compares every row with every other, as DuckDB takes a data frame for a single row.
    "asof_loop_join_threshold": "0",
}
KEPT_EXACTLY = (dt.Integer, dt.Float64, dt.String, dt.Boolean, dt.Timestamp, dt.Date, dt.Decimal, dt.Binary)
"""The types of which DuckDB's arg_max gives back the very bits; of others it makes 0.0 of -0.0."""


class ParityDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The options of Feast's DuckDB store, and no others."""

    type: Literal["parity.offline.store.ParityDuckDBOfflineStore"] = "parity.offline.store.ParityDuckDBOfflineStore"


class ParityDuckDBOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store with an AS OF join. See the module."""

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Look at a source as Feast does, once there is one: `feast apply` comes before features are computed."""
        if not isinstance(data_source, FileSource) or "://" in data_source.path or Path(data_source.path).exists():
            super().validate_data_source(config, data_source)

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        arguments = dict(locals())
        if not all(_is_parquet(view.batch_source) for view in feature_views):
            return DuckDBOfflineStore.get_historical_features(**arguments)
        read = _Reader()
        job = get_historical_features_ibis(**arguments, **_edges(config, read))
        substrait = any(
            view.mode == "substrait"
            for view in OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        )
        if substrait or any(view.batch_source.created_timestamp_column for view in feature_views):
            return job
        first, last = job.metadata.min_event_timestamp, job.metadata.max_event_timestamp
        if pd.isna(first):
            return job
        event = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        answer = entities = ibis.memtable(entity_df)
        for view, table in zip(feature_views, read.tables, strict=True):
            history = _history(view, table, feature_refs, full_feature_names).between(_utc(first), _utc(last))
            if not history.has_keys_like(entities):
                return job
            answer = _as_of(answer, entities, event, history)
        return answered_by(job, answer)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        arguments = dict(locals())
        if not _is_parquet(data_source):
            return DuckDBOfflineStore.pull_all_from_table_or_query(**arguments)
        return pull_all_from_table_or_query_ibis(**arguments, **_edges(config, _Reader()))

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        arguments = dict(locals())
        if not _is_parquet(data_source):
            return DuckDBOfflineStore.pull_latest_from_table_or_query(**arguments)
        read = _Reader()
        job = pull_latest_from_table_or_query_ibis(**arguments, **_edges(config, read))
        [table] = read.tables
        instants = table[timestamp_field].type()
        aware = instants.is_timestamp() and instants.timezone
        exact = all(isinstance(table[name].type(), KEPT_EXACTLY) for name in feature_name_columns)
        if created_timestamp_column or not join_key_columns or not aware or not exact:
            return job
        latest = _latest(table, join_key_columns, feature_name_columns, timestamp_field, start_date, end_date)
        return answered_by(job, latest)


class _Reader:
    """Feast's reader of data sources, which sees to the settings of DuckDB and remembers the tables that it gave."""

    def __init__(self):
        self.tables: list[Table] = []

    def __call__(self, source: DataSource, repo_path: str) -> Table:
        table = _read_parquet(source)
        for setting, value in SETTINGS.items():
            ibis.get_backend(table).raw_sql(f"SET {setting} = {value}")
        self.tables.append(table)
        return table


def _edges(config: RepoConfig, read: _Reader) -> dict:
    """How Feast's queries read and write, as in its DuckDB store."""
    return {
        "data_source_reader": read,
        "data_source_writer": write_data_source,
        "staging_location": config.offline_store.staging_location,
        "staging_location_endpoint_override": config.offline_store.staging_location_endpoint_override,
    }


def _is_parquet(source: DataSource | None) -> bool:
    if not isinstance(source, FileSource) or source.connection_ref:
        return False
    return isinstance(source.file_format, ParquetFormat) or (
        source.file_format is None and source.path.endswith(".parquet")
    )


class _Bucket(ArrowFSWrapper):
    """A file system of Arrow's for DuckDB to read, so that it fetches no extension of its own from the network."""

    def __init__(self, filesystem: FileSystem, protocol: str):
        self._protocol = protocol
        super().__init__(filesystem, skip_instance_cache=True)

    @property
    def protocol(self) -> str:
        return self._protocol

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rpartition("://")[2]


_buckets: list[FileSystem] = []
"""Every file system that was read from: each has a protocol of its own, by its number here."""


def _read_parquet(source: FileSource) -> Table:
    """Read a Parquet file, or a folder of them, as lazily as Feast does, in a bucket too."""
    if not source.path.startswith(("s3://", "s3a://")):
        return ibis.read_parquet(_literally(source.path, Path(source.path).is_dir()))
    filesystem, path = filesystem_of(source.path, source.s3_endpoint_override)
    if filesystem not in _buckets:
        _buckets.append(filesystem)
    protocol, backend = f"bucket{_buckets.index(filesystem)}", ibis.get_backend()
    if protocol not in backend.con.list_filesystems():
        backend.con.register_filesystem(_Bucket(filesystem, protocol))
    folder = filesystem.get_file_info(path).type == FileType.Directory
    return ibis.read_parquet(f"{protocol}://{glob.escape(path)}{'/**/*.parquet' if folder else ''}")


def _literally(path: str, is_folder: bool) -> str:
    """The path of a file or folder for DuckDB, to which [a].parquet would be a pattern, and that of a.parquet."""
    escaped = glob.escape(path)
    return f"{escaped}/**/*.parquet" if is_folder and escaped != path else escaped


class _History(NamedTuple):
    """What is asked of the table of a feature view, under names that no entity frame has."""

    table: Table
    instant: str
    join_keys: dict[str, str]
    """The columns of the table by the columns of the entity frame that they must equal."""
    features: dict[str, str]
    """The columns of the table by their names in the answer."""
    lifetime: ibis.Value | None

    def between(self, first: ibis.Value, last: ibis.Value) -> "_History":
        """Leave out what no row in [first, last] can ask for, which is then not sorted."""
        table = self.table.filter(self.table[self.instant] <= last + SLACK)
        if self.lifetime is not None:
            table = table.filter(table[self.instant] >= first - SLACK - self.lifetime)
        return self._replace(table=table)

    def has_keys_like(self, entities: Table) -> bool:
        """Tell if the keys compare without a conversion that may fail, as one from text does."""
        pairs = [(entities[column].type(), self.table[name].type()) for column, name in self.join_keys.items()]
        return bool(pairs) and all(type(a) is type(b) or (a.is_numeric() and b.is_numeric()) for a, b in pairs)

    def same_keys(self, entities: Table) -> list[ibis.Value]:
        return [entities[column] == self.table[name] for column, name in self.join_keys.items()]


def _history(view: FeatureView, table: Table, feature_refs: list[str], full_feature_names: bool) -> _History:
    """Read ``table``, the source of ``view``, as Feast's `get_historical_features_ibis` does."""
    source, projection = view.batch_source, view.projection
    for old, new in source.field_mapping.items():
        if old in table.columns:
            table = table.rename({new: old})
    join_keys = projection.join_key_map or {column.name: column.name for column in view.entity_columns}
    features = [ref.split(":")[1] for ref in feature_refs if ref.startswith(f"{projection.name_to_use()}:")]
    prefix = f"{projection.name_alias or view.name}__" if full_feature_names else ""

    instant, *keys = (gen_name("key") for _ in range(1 + len(join_keys)))
    values = [gen_name("feature") for _ in features]
    columns = {instant: table[source.timestamp_field].cast("timestamp('UTC')")}
    columns |= {name: table[key] for name, key in zip(keys, join_keys, strict=True)}
    columns |= {name: table[feature] for name, feature in zip(values, features, strict=True)}
    return _History(
        table.select(**columns),
        instant,
        dict(zip(join_keys.values(), keys, strict=True)),
        {f"{prefix}{feature}": name for feature, name in zip(features, values, strict=True)},
        ibis.literal(view.ttl) if view.ttl else None,
    )


def _as_of(answer: Table, entities: Table, event: str, history: _History) -> Table:
    """Add the features of ``history`` to ``answer``, the ``entities`` and more columns, as of each row's ``event``."""
    history = history._replace(table=history.table.semi_join(entities, history.same_keys(entities)))
    joined = answer.asof_join(history.table, answer[event] >= history.table[history.instant], history.same_keys(answer))
    values = {name: joined[column] for name, column in history.features.items()}
    if history.lifetime is not None:
        alive = joined[history.instant] + history.lifetime >= joined[event]
        values = {name: alive.ifelse(value, None) for name, value in values.items()}
    return joined.select(*answer.columns, **values)


def _latest(
    table: Table, keys: list[str], features: list[str], timestamp: str, start: datetime, end: datetime
) -> Table:
    """Each key's latest row in [start, end]; of two at the same instant one, whole: of each column the first that
    DuckDB meets, and it meets them in one order."""
    instants = table[timestamp].cast("timestamp('UTC')")
    table = table.filter(instants >= _utc(start.astimezone(UTC)), instants <= _utc(end.astimezone(UTC)))
    values = {name: _arg_max_null(table[name], table[timestamp]) for name in features}
    return table.group_by(keys).agg(**values, **{timestamp: table[timestamp].max()})


def _arg_max_null(value: ibis.Value, by: ibis.Value) -> ibis.Value:
    """The value, null or not, that stands with the greatest ``by``. What Ibis makes of its own argmax is slow."""

    @ibis.udf.agg.builtin(signature=((value.type(), by.type()), value.type()))
    def arg_max_null(value, by): ...

    return arg_max_null(value, by)


def _utc(instant: datetime) -> ibis.Value:
    """An instant as a literal; one without an offset is UTC."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return ibis.literal(aware.astimezone(UTC))
