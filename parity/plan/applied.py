"""The base of a plan that is applied: what the registry says, and the features that are stored, read only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureView
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.message import DecodeError

from parity.definition.declare import made_by
from parity.definition.recorded import recalled
from parity.definition.table import COMPUTED_BY
from parity.edge.configuration import configuration_file, read_configuration
from parity.edge.errors import UserError
from parity.edge.files import location, on_disk, parquet_files, read_bytes
from parity.offline.side import origin_beside
from parity.plan.probe import SEPARATOR, described, rule_of
from parity.plan.side import Computed

APPLY = "Run: cd feature_repo && feast apply; or compare with a commit: --against"
COMPUTE = "Run: python compute_features.py; or compare with a commit: --against"


class Applied:
    """What a registry says of a project, and the tables that it names."""

    title = "the base, what is applied"
    is_stored = True

    def __init__(self, repository: Path, folder: Path, stack: ExitStack):
        self.repository, self.folder, self._stack = repository, folder, stack
        self.project, place = _configured(repository)
        registry = _registry(place)
        self._require_project(registry, place)
        own = [view for view in registry.feature_views if view.spec.project in ("", self.project)]
        self.views = {view.name: view for view in map(FeatureView.from_proto, own)}
        entities = [one for one in registry.entities if one.spec.project in ("", self.project)]
        self.entities = {entity.name: entity for entity in map(Entity.from_proto, entities)}
        services = [one for one in registry.feature_services if one.spec.project in ("", self.project)]
        self.services = [FeatureService.from_proto(one) for one in services]

    def _require_project(self, registry: Registry, place: str) -> None:
        there = sorted(
            {one.spec.project for one in registry.feature_views} | {one.spec.name for one in registry.projects}
        )
        there = [name for name in there if name]
        if there and self.project not in there:
            raise UserError(
                f"{place}: this is the registry of the project {', '.join(there)}, and feature_store.yaml names "
                f"{self.project}. Name its registry there, or {APPLY[:1].lower()}{APPLY[1:]}."
            )
        if not registry.feature_views:
            raise UserError(f"{place}: nothing is applied. {APPLY}.")

    def description(self) -> dict[str, Any]:
        """As a side gives it."""
        return {
            "project": self.project,
            "views": [described(view) | self._made(view) for view in self.views.values()],
            "on_demand": None,
            "services": [
                {
                    "name": service.name,
                    "features": [
                        [one.name, field.name] for one in service.feature_view_projections for field in one.features
                    ],
                    "called": {one.name: one.name_alias for one in service.feature_view_projections if one.name_alias},
                }
                for service in self.services
            ],
            "experiments": None,
            "contracts": {},
        }

    def _made(self, view: FeatureView) -> dict[str, Any]:
        """How the features of a view are made: by its declaration, if it was applied with that."""
        found = {"transactions": None, "transactions_name": None, "timestamp": None, "where": None}
        found |= {"made": made_by(view), "computed_by": None, "rules": {}}
        try:
            declared = recalled(view, self.entities)
        except UserError:  # then `parity.plan.recall` may find out
            return found
        definition, place = declared.definition, declared.transactions.path
        found["transactions"] = place if "://" in place else os.path.normpath(self.repository / place)
        rules = {rule.name: rule_of(rule) for rule in definition.rules}
        where = definition.condition.text if definition.condition else None
        return found | {"where": where, "computed_by": definition.fingerprint, "rules": rules}

    def origins(self) -> dict[str, str]:
        """Where the transactions are that a view was computed of, if those are others than declared."""
        noted = {name: origin_beside(view.batch_source.path) for name, view in self.views.items()}
        return {name: str(place) for name, place in noted.items() if place is not None}

    def computing(self, view: str, transactions: Path, below: int | None) -> Callable[[], Computed]:
        """As that of a side, of what is stored: nothing is computed."""
        return partial(self._stored, view, below)

    def _stored(self, view: str, below: int | None) -> Computed:
        """What is stored of a view. `UserError` if it is not what the registry says."""
        start = time.perf_counter()
        found = self.views[view]
        place = location(found.batch_source.path)
        try:
            parquet_files(place)
            stored = self._stack.enter_context(on_disk(place))
            _, files = parquet_files(stored)
        except UserError as error:
            raise UserError(f"{self.title}: {str(error).rstrip('.')}. {COMPUTE}.") from None
        types = {}
        for file in files:
            schema = pq.read_schema(file.path)
            types = {field.name: field.type for field in schema}
            missing = [name for name in _columns(found) if name not in types]
            if missing:
                raise UserError(f"{self.title}: {place} has no column {missing[0]} of {view}, as applied. {COMPUTE}.")
        output = self.folder / f"{len(list(self.folder.iterdir()))}.parquet"
        _copy([file.path for file in files], _columns(found), found.join_keys, below, output)
        size = sum(file.size for file in files)
        count = pq.read_metadata(output).num_rows
        return Computed(output, None, count, 0, size, {"read": time.perf_counter() - start})


def computed_by(view: Mapping[str, Any]) -> set[str]:
    """By which definitions the stored table of a view was computed, as far as its files say."""
    try:
        filesystem, files = parquet_files(location(view["source"]))
    except UserError:  # which is said where it is read
        return set()
    metadata = (pq.read_schema(file.path, filesystem=filesystem).metadata or {} for file in files)
    return {one[COMPUTED_BY].decode() for one in metadata if COMPUTED_BY in one}


def require_computed_as_applied(base: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """Raise `UserError` if a stored table was computed by other definitions than are applied, as far as can be known:
    by the declaration that was applied, or by that of the head if it is the same feature by feature."""
    now = {view["name"]: view for view in head["views"]}
    for view in base["views"]:
        declared, by = now.get(view["name"], {}), computed_by(view)
        same = view["made"] == declared.get("made")
        if not same and view["made"] and declared.get("computed_by") in by:
            raise _NotComputed(view, "the definitions that features.py has by now, which are not applied", APPLY)
        applied = view["computed_by"] or (declared.get("computed_by") if same else None)
        if applied and by - {applied}:
            raise _NotComputed(view, "other definitions than are applied", COMPUTE)


class _NotComputed(UserError):
    def __init__(self, view: Mapping[str, Any], by: str, then: str):
        super().__init__(f"{view['source']}: it was computed by {by}, so it is no base. {then}.")


@contextmanager
def as_applied(repository: Path, folder: Path) -> Iterator[Applied]:
    """The base that is applied to the ``repository``."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        yield Applied(repository, folder, stack)


def _configured(repository: Path) -> tuple[str, str]:
    """The project, and where its registry is."""
    file = configuration_file(repository)
    content = read_configuration(file)
    registry = content.get("registry")
    options = registry if isinstance(registry, dict) else {"path": registry}
    if options.get("registry_type", "file") != "file" or not options.get("path"):
        raise UserError(
            f"{file}: its registry is no file, so --applied can't read it. Compare with a commit: --against."
        )
    place = str(options["path"])
    return str(content.get("project")), place if "://" in place else str(repository / place)


def _registry(place: str) -> Registry:
    content = read_bytes(location(place))
    if content is None:
        raise UserError(f"{place}: there is no registry, so nothing is applied. {APPLY}.")
    try:
        return Registry.FromString(content)
    except DecodeError:
        raise UserError(f"{place}: the registry is damaged. {APPLY}.") from None


def _columns(view: FeatureView) -> list[str]:
    return [*view.join_keys, view.batch_source.timestamp_field, *(field.name for field in view.features)]


def _copy(files: list[str], columns: list[str], keys: list[str], below: int | None, output: Path) -> None:
    """Write the rows of some keys of Parquet files into one."""
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in columns}
    hashed = ", ".join(f"{quoted[key]}::VARCHAR" for key in keys)
    which = "" if below is None else f" WHERE md5_number_lower(concat_ws(chr({ord(SEPARATOR)}), {hashed})) < {below}"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        selected = ", ".join(quoted.values())
        query = f"SELECT {selected} FROM read_parquet($1, hive_partitioning = false){which}"
        try:
            reader = connection.execute(query, [files]).fetch_record_batch(1 << 17)
            with pq.ParquetWriter(output, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
        except duckdb.Error as error:
            raise UserError(f"what is stored can't be read: {str(error).splitlines()[0]:.300}. {COMPUTE}.") from None
