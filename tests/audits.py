"""What the tests of the audit share: requests that are really answered and logged, and the audit of them."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from feast import FeatureService, FeatureStore

from parity.audit.audit import Question, audit
from parity.audit.found import Audit, Audited
from parity.audit.logged import Requests, views_of
from parity.definition.checks import FeatureTable
from parity.definition.instants import UTC_MICROSECONDS, utc_now
from parity.edge import feast_internals
from parity.offline.side import origin_of
from parity.offline.versions import superseding
from parity.online.side import online_store_of
from parity.online.store import ParityRedisOnlineStore
from parity.served.hourly import HourlyParts
from parity.served.log import folder_of, parts
from parity.served.options import LogServed
from tests.world import World

Asked = FeatureService | Sequence[str]


def serve(store: FeatureStore, folder: Path, features: Asked, entities: dict[str, list], **how: bool) -> None:
    """Ask for features as a model server does, and have the answer logged."""
    online = feast_internals.online_store_of(store)
    if isinstance(online, ParityRedisOnlineStore):
        store.config.online_store.log_served = LogServed(str(folder))
        store.get_online_features(features, entities, **how)
        online._recorder.close()
    else:
        _log_answer(store, folder, features, entities)


def _log_answer(store: FeatureStore, folder: Path, features: Asked, entities: dict[str, list]) -> None:
    """The same for a store that has no log: ids and features that are whole numbers or float64."""
    proto = store.get_online_features(features, entities, full_feature_names=True).proto
    columns: dict[str, Any] = {}
    for name, vector in zip(proto.metadata.feature_names.val, proto.results, strict=True):
        kinds = [value.WhichOneof("val") for value in vector.values]
        columns[name] = [kind and getattr(value, kind) for kind, value in zip(kinds, vector.values, strict=True)]
        if name not in entities:
            stamps = [stamp.seconds * 10**6 + stamp.nanos // 1000 for stamp in vector.event_timestamps]
            columns[f"{name}__timestamp"] = pa.array(stamps, pa.int64()).cast(UTC_MICROSECONDS)
            columns[f"{name}__status"] = pa.array(list(vector.statuses), pa.int32())
    write_log(folder, features, columns, online_store_of(store).now(), project=store.project)


def write_log(
    folder: Path, features: Asked, columns: dict, as_of: datetime, when: datetime | None = None, **facts: Any
) -> pa.Table:
    """Log an answer that has these ``columns``."""
    count, when = len(next(iter(columns.values()))), when or utc_now()
    columns["__log_timestamp"] = pa.array([when] * count, UTC_MICROSECONDS)
    columns["__log_date"] = pa.array([when.date()] * count, pa.date32())
    columns["__request_id"] = pa.array([uuid.uuid4().hex] * count, pa.string())
    columns["__as_of"] = pa.array([as_of] * count, UTC_MICROSECONDS)
    rows, service = pa.table(columns), features.name if isinstance(features, FeatureService) else None
    metadata = {"service": service, "references": [] if service else list(features), **facts}
    log = HourlyParts(folder / folder_of(service or "references"), rows.schema, metadata)
    log.append(rows)
    log.close()
    return rows


def audited(store: FeatureStore, tables: Sequence[FeatureTable], folder: Path, now: datetime | None = None) -> Audit:
    """Audit all that was logged."""
    found = Audit(str(folder), [], Requests())
    there = {table.name: origin_of(table) for table in tables}
    question = Question(parts(folder), views_of(store, tables), [], there, None, None, now or utc_now())
    audit(store, question, found)
    found.views.sort(key=lambda view: view.name)
    return found


class Causes(NamedTuple):
    """How many values of each cause differ, from the truth as known today and as known then."""

    today: dict[str, int]
    then: dict[str, int]


def causes(view: Audited) -> Causes:
    found = view.causes.items()
    return Causes({n: c.today for n, c in found if c.today}, {n: c.then for n, c in found if c.then})


class Logged:
    """A world whose versions are kept, and whose answers are logged."""

    def __init__(self, world: World):
        self.world, self.folder = world, Path(world.features).parent / "served"
        self.recompute()
        world.materialize()

    def ask(self, *numbers: int) -> None:
        keys = [self.world.key(number) for number in numbers]
        entities = {name: [key[place] for key in keys] for place, name in enumerate(self.world.kind.keys)}
        serve(self.world.store, self.folder, self.world.table.service, entities)

    def recompute(self, **how: Any) -> None:
        with superseding(self.world.table, self.world.features):
            self.world.compute(**how)

    def rewrite(self) -> None:
        """Compute the features of the transactions as they are now."""
        self.world.write()
        self.recompute()

    def audit(self) -> Audit:
        return audited(self.world.store, [self.world.table], self.folder, self.world.now)

    def view(self) -> Audited:
        [view] = self.audit().views
        return view
