"""Small Feast repositories as others have them, with stock parts: built, materialized, broken, and checked."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

from parity.check import command
from parity.edge.command import run

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@dataclass
class Outcome:
    """What a check said: its exit status, its certificate, and what it printed."""

    status: int
    said: dict[str, Any] | None
    out: str
    err: str

    @property
    def kinds(self) -> list[str]:
        """The kinds of the findings, the gravest first; those beneath and inherited are marked."""
        marks = [("beneath ", "hidden_by_the_ttl"), ("inherited ", "inherited")]
        return ["".join(mark for mark, name in marks if one[name]) + one["kind"] for one in self.said["findings"]]

    def of(self, kind: str) -> dict[str, Any]:
        """The one finding of a kind that is neither hidden nor inherited."""
        found = [one for one in self.said["findings"] if one["kind"] == kind]
        [one] = [one for one in found if not one["hidden_by_the_ttl"] and not one["inherited"]]
        return one

    def compared(self, name: str) -> dict[str, Any]:
        [one] = [one for one in self.said["compared"] if one["name"] == name]
        return one


@dataclass
class Stranger:
    """A repository of somebody else, in a folder of its own."""

    root: Path
    capture: Any
    now: datetime
    written: int = 0

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(str(self.root))

    def write(self, name: str, frame: pd.DataFrame) -> FileSource:
        """Write a table, and make the source of it."""
        path = self.root / f"{name}.parquet"
        frame.to_parquet(path, coerce_timestamps="us", allow_truncated_timestamps=True)
        self.written += 1
        moment = path.stat().st_mtime + self.written
        os.utime(path, (moment, moment))  # DuckDB takes a file of the same second for the one that it has read
        created = "created" if "created" in frame.columns else ""
        return FileSource(
            name=name, path=str(path), timestamp_field="event_timestamp", created_timestamp_column=created
        )

    def apply(self, *objects: Any) -> None:
        self.store.apply(list(objects))

    def materialize(self, end: datetime | None = None, start: datetime | None = None) -> None:
        self.store.materialize(start or self.now - 900 * DAY, end or self.now, disable_event_timestamp=False)

    def forget(self) -> None:
        """Delete what is online, where others have theirs too."""
        self.store.teardown()

    def check(self, *arguments: object) -> Outcome:
        """Run the command as it would be run, in this process, which has imported Feast already."""
        certificate = self.root.parent / "check.json"
        certificate.unlink(missing_ok=True)
        path, argv = list(sys.path), sys.argv
        self.capture.readouterr()
        try:
            sys.argv = ["parity check", "-c", str(self.root), "--certificate", str(certificate), *map(str, arguments)]
            run(command.main)
        except SystemExit as stop:
            status = stop.code
        finally:
            sys.path[:], sys.argv = path, argv
        said = json.loads(certificate.read_text()) if certificate.exists() else None
        outcome = Outcome(status, said, *self.capture.readouterr())
        print(outcome.out, outcome.err)
        return outcome


def stranger(
    folder: Path,
    capture: Any,
    offline: str | dict[str, Any] = "dask",
    online: dict[str, Any] | None = None,
    project: str = "theirs",
    registry: dict[str, Any] | None = None,
) -> Stranger:
    """Make an empty repository with these stock stores."""
    root = folder / "theirs"
    root.mkdir()
    configuration = {
        "project": project,
        "provider": "local",
        "registry": registry or str(root / "registry.db"),
        "offline_store": {"type": offline} if isinstance(offline, str) else offline,
        "online_store": online or {"type": "sqlite", "path": str(root / "online.db")},
        "entity_key_serialization_version": 3,
    }
    (root / "feature_store.yaml").write_text(yaml.safe_dump(configuration))
    return Stranger(root, capture, datetime.now(UTC).replace(microsecond=0))


def customers(source: FileSource, ttl: timedelta | None = 10 * DAY, fields: Sequence[Field] = (), **more: Any) -> list:
    """A view of customers, and its entity."""
    entity = Entity(name="customer", join_keys=["customer_id"], value_type=more.pop("value_type", ValueType.INT64))
    schema = list(fields) or [Field(name="total", dtype=Float64), Field(name="orders", dtype=Int64)]
    key = [Field(name="customer_id", dtype=more.pop("key_type", Int64))]
    return [
        entity,
        FeatureView(name="customers", entities=[entity], ttl=ttl, schema=[*key, *schema], source=source, **more),
    ]


def orders(now: datetime, keys: int = 20, rows: int = 3, **columns: Any) -> pd.DataFrame:
    """Rows of some customers, an hour apart, the last an hour old; a column may be given, or computed of the key."""
    frame = pd.DataFrame(
        {
            "customer_id": [key for key in range(1, keys + 1) for _ in range(rows)],
            "event_timestamp": [now - (rows - row) * HOUR for _ in range(keys) for row in range(rows)],
        }
    )
    frame["total"] = [key * 10.25 + row for key in range(1, keys + 1) for row in range(rows)]
    frame["orders"] = [key + row for key in range(1, keys + 1) for row in range(rows)]
    for name, value in columns.items():
        frame[name] = [value(key) for key in frame["customer_id"]] if callable(value) else value
    return frame
