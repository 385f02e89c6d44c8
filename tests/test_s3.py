"""In a bucket the features are read and written as on a disk, and proven by the same checks, on a real S3 server."""

import contextlib
import json
import os
import re
import socket
import time
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec

import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.types import Float64, Int64

from parity.edge.files import S3_BOUNDS, filesystem_of, modified, read_bytes, remove, replacing, write_table
from parity.registry_store import Changed
from parity.report.certificate import file_hash
from tests.conftest import s3_server
from tests.test_offline_store import require_same
from tests.test_registry_store import add, definitions, require_everything, run_together
from tests.test_registry_store import opened as registry_at
from tests.world import OFFLINE, T

MISSING = [name for name in ("moto", "boto3") if not find_spec(name)]
pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(bool(MISSING) and "CI" not in os.environ, reason=f"{' and '.join(MISSING)} missing"),
]
TABLE = "s3://bucket/features.parquet"
TTL = timedelta(days=10)
ROWS = pa.table(
    {
        "user_id": [1, 1, 2, None, 3],
        "event_timestamp": pa.array(
            [T, T - timedelta(days=1), T - TTL, T, T + timedelta(days=1)], pa.timestamp("us", "UTC")
        ),
        "amount": [1.5, -0.0, None, 4.0, 5.0],
        "n": [1, 2, 3, 4, 5],
        "created": pa.array([T] * 5),
    }
)
ENTITIES = pd.DataFrame({"user_id": [1, 1, 2, 3, 404], "event_timestamp": [T, T - timedelta(hours=1), T, T, T]})


@pytest.fixture(autouse=True)
def environment(bucket, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)


def write_days(folder: str) -> None:
    """Write `ROWS` as a file for each day."""
    filesystem, path = filesystem_of(folder)
    days = [instant.date() for instant in ROWS["event_timestamp"].to_pylist()]
    for day in set(days):
        rows = ROWS.filter([other == day for other in days])
        pq.write_table(rows, f"{path}/event_date={day}/features.parquet", filesystem=filesystem)


class TestRegistry:
    PATH = "s3://bucket/registry.db"

    def test_eight_processes_that_apply_and_materialize_at_once_lose_nothing(self, bucket):
        add(registry_at(self.PATH), definitions("shared"))
        run_together(self.PATH, **bucket)
        require_everything(self.PATH, 8)

    def test_a_write_on_the_wrong_condition_is_not_made(self):
        add(registry_at(self.PATH), definitions("shared"))
        one, two = registry_at(self.PATH), registry_at(self.PATH)
        _ = one.registry, two.registry
        add(one, definitions("first"))
        with pytest.raises(Changed):
            two.registry._registry_store._replace(b"", two.registry._registry_store._read()[1] + "x")
        add(two, definitions("second"))
        assert {view.name for view in registry_at(self.PATH).list_feature_views()} == {"shared", "first", "second"}

    def test_it_can_be_torn_down(self):
        registry_at(self.PATH).registry.teardown()
        assert read_bytes(self.PATH) is None


class TestOfflineStore:
    def answers(self, folder, path: str, **options) -> list[pa.Table]:
        """What training and materialization get of the features at ``path``."""
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
        source = FileSource(name="rows", path=path, timestamp_field="event_timestamp", **options)
        fields = [
            Field(name=name, dtype=type) for name, type in [("user_id", Int64), ("amount", Float64), ("n", Int64)]
        ]
        view = FeatureView(name="view", entities=[user], schema=fields, source=source, ttl=TTL)
        folder.mkdir()
        config = RepoConfig(
            project="p",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": OFFLINE},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        store.apply([user, view])
        offline = get_offline_store_from_config(config.offline_store)
        asked = {
            "config": config,
            "data_source": source,
            "join_key_columns": ["user_id"],
            "feature_name_columns": ["amount", "n"],
            "timestamp_field": "event_timestamp",
            "created_timestamp_column": None,
            "start_date": T - TTL,
            "end_date": T,
        }
        jobs = [
            store.get_historical_features(ENTITIES.copy(), ["view:amount", "view:n"]),
            offline.pull_latest_from_table_or_query(**asked),
            offline.pull_all_from_table_or_query(**asked),
            offline.pull_latest_from_table_or_query(**asked | {"created_timestamp_column": "created"}),
        ]
        return [job.to_arrow() for job in jobs]

    @pytest.fixture
    def expected(self, tmp_path):
        pq.write_table(ROWS, tmp_path / "rows.parquet")
        return self.answers(tmp_path / "local", str(tmp_path / "rows.parquet"))

    @pytest.mark.parametrize("place", ["s3://bucket/a/rows.parquet", "s3://bucket/days", "s3://bucket/days.parquet/"])
    def test_it_answers_as_from_a_disk_and_duckdb_fetches_no_extension(self, tmp_path, expected, place):
        if "rows" in place:
            write_table(ROWS, place)
        else:
            write_days(place)
        answers = self.answers(tmp_path / "s3", place, file_format=ParquetFormat())
        for answer, right in zip(answers, expected, strict=True):
            require_same(answer, right)
        loaded = ibis.get_backend().raw_sql("SELECT extension_name FROM duckdb_extensions() WHERE loaded").fetchall()
        assert ("httpfs",) not in loaded

    def test_each_source_has_the_endpoint_it_names(self, tmp_path, expected, bucket, monkeypatch):
        write_table(ROWS, TABLE)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        answers = self.answers(tmp_path / "s3", TABLE, s3_endpoint_override=bucket["AWS_ENDPOINT_URL"])
        for answer, right in zip(answers, expected, strict=True):
            require_same(answer, right)

    def test_an_object_that_was_replaced_is_read_anew(self, tmp_path, expected):
        write_table(ROWS, TABLE)
        self.answers(tmp_path / "first", TABLE)
        numbers = ROWS.schema.get_field_index("n")
        write_table(ROWS.set_column(numbers, "n", pa.array([11, 12, 13, 14, 15])), TABLE)
        answer = self.answers(tmp_path / "second", TABLE)[2]
        assert sorted(answer["n"].to_pylist()) == [11, 12, 13, 14]


class TestFiles:
    def test_a_table_is_there_whole_or_not_at_all(self):
        write_table(ROWS, TABLE)
        before = read_bytes(TABLE)
        with contextlib.suppress(ZeroDivisionError), replacing(TABLE) as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError
        assert read_bytes(TABLE) == before
        remove(TABLE)
        remove(TABLE)
        assert read_bytes(TABLE) is None

    def test_when_and_what_a_table_is(self, tmp_path):
        before = datetime.now(UTC).replace(microsecond=0)
        write_table(ROWS, TABLE)
        write_table(ROWS, tmp_path / "same.parquet")
        assert before <= modified(TABLE) <= datetime.now(UTC)
        assert file_hash(TABLE) == file_hash(tmp_path / "same.parquet")
        write_days("s3://bucket/days")
        whole = file_hash("s3://bucket/days")
        filesystem, path = filesystem_of("s3://bucket/days")
        filesystem.move(
            f"{path}/event_date=2026-03-08/features.parquet", f"{path}/event_date=2026-03-10/features.parquet"
        )
        assert file_hash("s3://bucket/days/") != whole
        assert before <= modified("s3://bucket/days")


@pytest.fixture
def in_bucket(project, monkeypatch):
    """The project with its features and its registry in the bucket."""
    project.configure(registry="s3://bucket/registry.db")
    monkeypatch.setenv("FEATURE_STORE_OFFLINE_PATH", TABLE)
    project.succeed("generate_synthetic_data.py")
    return project


class TestPipeline:
    def test_the_whole_of_it_in_a_bucket(self, in_bucket, tmp_path):
        in_bucket.apply()
        assert f"20 users -> {TABLE}" in in_bucket.succeed("compute_features.py")
        assert "20 users in Redis" in in_bucket.succeed("materialize_to_online.py")
        certificate = tmp_path / "certificate.json"
        at = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        assert "match 40" in in_bucket.succeed("demo_fixed.py", "--certificate", certificate)
        assert f'"{TABLE}": "{file_hash(TABLE)}"' in certificate.read_text()
        in_bucket.succeed("demo_fixed.py", "--at", at)
        assert not in_bucket.features.exists()
        assert not (in_bucket.root / "data" / "registry.db").exists()

    def test_features_by_day(self, in_bucket, monkeypatch):
        monkeypatch.setenv("FEATURE_STORE_OFFLINE_PATH", "s3://bucket/days")
        in_bucket.apply()
        assert "days -> s3://bucket/days" in in_bucket.succeed("compute_features.py", "--incremental")
        in_bucket.succeed("materialize_to_online.py")
        in_bucket.succeed("demo_fixed.py")

    def test_transactions_in_a_bucket(self, in_bucket):
        in_bucket.apply()
        with replacing("s3://bucket/transactions.csv") as temporary:
            temporary.write_bytes(in_bucket.transactions.read_bytes())
        assert "20 users" in in_bucket.succeed("compute_features.py", "--input", "s3://bucket/transactions.csv")
        error = in_bucket.fail("compute_features.py", "--input", "s3://bucket/none.csv")
        assert "s3://bucket/none.csv: there is no such file" in error

    @pytest.mark.parametrize("source", ["s3://bucket/raw.csv", "s3://bucket/raw", "s3://bucket/raw/"])
    def test_it_is_proven_from_transactions_in_a_bucket(self, in_bucket, monkeypatch, tmp_path, source):
        lines = in_bucket.transactions.read_bytes().splitlines(keepends=True)
        for name, rows in [("raw.csv", lines), ("raw/a.csv", lines[:40]), ("raw/b/c.csv", [lines[0], *lines[40:]])]:
            with replacing(f"s3://bucket/{name}") as temporary:
                temporary.write_bytes(b"".join(rows))
        in_bucket.transactions.unlink()
        options = []
        if source != "s3://bucket/raw.csv":
            monkeypatch.setenv("FEATURE_STORE_OFFLINE_PATH", "s3://bucket/days")
            options = ["--incremental"]
        in_bucket.apply()
        in_bucket.succeed("compute_features.py", "--input", source, *options)
        in_bucket.succeed("materialize_to_online.py")
        certificate = tmp_path / "certificate.json"
        assert "match 40" in in_bucket.succeed("demo_fixed.py", "--certificate", certificate)
        proven = json.loads(certificate.read_text())
        assert proven["data_sha256"][source] == file_hash(source)
        assert f"--input {source}" in proven["replay"]
        changed = "s3://bucket/raw/b/c.csv" if options else source
        rows = read_bytes(changed)
        with replacing(changed) as temporary:  # the last purchase gets dearer
            temporary.write_bytes(rows[: rows.rindex(b",")] + b",1234.5\n")
        outcome = in_bucket.run("demo_fixed.py")
        assert outcome.status == 1, outcome
        assert "correction not propagated" in outcome.out

    @pytest.mark.parametrize(("content", "told"), [(b"a,b\n1,2\n", "the oracle can't read it"), (None, "no such file")])
    def test_transactions_in_a_bucket_that_prove_nothing(self, in_bucket, content, told):
        in_bucket.apply()
        in_bucket.succeed("compute_features.py")
        in_bucket.succeed("materialize_to_online.py")
        if content:
            with replacing("s3://bucket/raw.csv") as temporary:
                temporary.write_bytes(content)
        error = in_bucket.fail("demo_fixed.py", "--input", "s3://bucket/raw.csv")
        assert "s3://bucket/raw.csv: " in error
        assert told in error

    def test_it_is_proven_from_the_transactions_that_it_was_computed_from(self, in_bucket):
        other = in_bucket.root / "other.csv"
        in_bucket.apply()
        in_bucket.transactions.rename(other)
        in_bucket.succeed("compute_features.py", "--input", other)
        assert read_bytes("s3://bucket/features.origin") == os.fsencode(other)
        in_bucket.succeed("materialize_to_online.py")
        in_bucket.succeed("demo_fixed.py")
        other.rename(in_bucket.transactions)
        in_bucket.succeed("compute_features.py")
        assert read_bytes("s3://bucket/features.origin") is None

    def test_feasts_own_commands(self, in_bucket, bucket):
        environment = bucket | {"FEATURE_STORE_OFFLINE_PATH": TABLE}
        for command in [
            "feast -c feature_repo apply",
            "python compute_features.py",
            f"feast -c feature_repo materialize-incremental {datetime.now(UTC).isoformat()}",
            "python demo_fixed.py",
        ]:
            outcome = in_bucket.shell(command, **environment)
            assert outcome.status == 0, outcome


SCRIPTS = pytest.mark.parametrize("script", ["compute_features.py", "materialize_to_online.py", "demo_fixed.py"])


class TestTrouble:
    @pytest.fixture
    def ready(self, project, monkeypatch):
        monkeypatch.setenv("FEATURE_STORE_OFFLINE_PATH", TABLE)
        project.succeed("generate_synthetic_data.py")
        project.apply()
        return project

    @pytest.mark.parametrize("name", ["a//b.csv", "a/noext"])
    def test_objects_that_can_not_be_read(self, ready, name):
        import boto3  # an extra

        folder = f"s3://bucket/{uuid.uuid4()}"
        boto3.client("s3").put_object(Bucket="bucket", Key=f"{folder.removeprefix('s3://bucket/')}/{name}", Body=b"x")
        error = ready.fail("compute_features.py", "--incremental", "--input", folder, "--output", ready.root / "days")
        assert error.startswith(f"error: {folder}")
        assert name in error

    @SCRIPTS
    def test_no_such_bucket(self, project, monkeypatch, script):
        monkeypatch.setenv("FEATURE_STORE_OFFLINE_PATH", "s3://nowhere/features.parquet")
        project.succeed("generate_synthetic_data.py")
        project.apply()
        assert "nowhere" in project.fail(script)

    @pytest.mark.parametrize("script", ["materialize_to_online.py", "demo_fixed.py"])
    def test_nothing_computed(self, ready, script):
        assert f"{TABLE}: there is no such file. Run: python compute_features.py" in ready.fail(script)

    @SCRIPTS
    def test_nobody_answers(self, ready, monkeypatch, script):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        started = time.monotonic()
        assert "bucket bucket: NETWORK_CONNECTION" in ready.fail(script)
        assert time.monotonic() - started < 15

    def test_somebody_accepts_and_never_answers(self, ready, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setitem(S3_BOUNDS, "request_timeout", 2)
            started = time.monotonic()
            assert "bucket bucket: NETWORK_CONNECTION" in ready.fail("materialize_to_online.py")
            assert time.monotonic() - started < 30

    @SCRIPTS
    def test_wrong_credentials(self, ready, monkeypatch, script):
        with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="1") as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=10).close()
            error = ready.fail(script)
        assert re.search(r"bucket bucket: \w*(ACCESS|INVALID|UNKNOWN)\w*", error)
        assert "secret" not in error

    def test_a_file_that_is_no_parquet(self, ready):
        with replacing(TABLE) as temporary:
            temporary.write_text("nonsense")
        assert "this is not a Parquet file" in ready.fail("materialize_to_online.py")

    def test_a_registry_in_a_bucket_that_nobody_answers_for(self, project, monkeypatch):
        project.configure(registry="s3://bucket/registry.db")
        project.succeed("generate_synthetic_data.py")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        started = time.monotonic()
        assert "127.0.0.1:1" in project.fail("materialize_to_online.py")
        assert time.monotonic() - started < 30
