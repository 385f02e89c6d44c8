"""When a step is missing or Redis fails, the scripts say so in one line, with what to run, and status 2."""

import contextlib
import socket
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parity.edge.redis_server import find_server, free_port, launch
from tests.test_demo import hashes

BOTH = pytest.mark.parametrize("script", ["materialize_to_online.py", "demo_fixed.py"])


@pytest.fixture
def computed(project):
    project.succeed("generate_synthetic_data.py")
    project.apply()
    project.succeed("compute_features.py")
    return project


@BOTH
def test_feast_not_applied(project, script):
    assert "feast apply" in project.fail(script)


@BOTH
def test_features_not_computed(project, script):
    project.apply()
    assert "python compute_features.py" in project.fail(script)


def test_nothing_materialized(computed):
    assert "python materialize_to_online.py" in computed.fail("demo_fixed.py")


@BOTH
@pytest.mark.parametrize(
    ("before", "after"),
    [("ttl=timedelta(days=30)", "ttl=timedelta(days=31)"), ("timedelta(days=3)", "timedelta(days=2)")],
    ids=["a ttl", "a window"],
)
def test_definitions_changed_since_they_were_applied(computed, script, before, after):
    features = computed.root / "feature_repo" / "features.py"
    features.write_text(features.read_text().replace(before, after))
    assert "has changed since it was applied. Run: cd feature_repo && feast apply" in computed.fail(script)


@BOTH
def test_no_feature_store_yaml(project, script):
    (project.root / "feature_repo" / "feature_store.yaml").unlink()
    assert "feature_store.yaml" in project.fail(script)


@BOTH
def test_a_feature_store_yaml_that_is_wrong(project, script):
    project.configure(online_store__type="parity.online.store.NoSuchOnlineStore")
    assert "NoSuchOnlineStore" in project.fail(script)


@BOTH
def test_a_parquet_that_is_none(computed, script):
    computed.features.write_text("nonsense")
    assert "python compute_features.py" in computed.fail(script)


@BOTH
def test_a_feature_that_was_declared_after_the_features_were_computed(computed, script):
    features = computed.root / "feature_repo" / "features.py"
    features.write_text(features.read_text().replace("user_total_transactions", "user_transaction_count"))
    computed.apply()
    error = computed.fail(script)
    assert "no column user_transaction_count" in error
    assert "python compute_features.py" in error


@pytest.mark.parametrize(
    ("before", "after"),
    [("timedelta(days=3)", "timedelta(days=2)"), ('function="mean"', 'function="sum"')],
    ids=["a window", "a function"],
)
def test_features_of_another_definition_are_not_materialized(computed, before, after):
    computed.succeed("materialize_to_online.py")
    features = computed.root / "feature_repo" / "features.py"
    features.write_text(features.read_text().replace(before, after))
    computed.apply()
    error = computed.fail("materialize_to_online.py")
    assert "it was computed by other definitions than features.py now has. Run: python compute_features.py" in error
    assert computed.run("demo_fixed.py").status == 1  # it shows what differs: see TestDefinitionThatChanged
    computed.succeed("compute_features.py")
    computed.succeed("materialize_to_online.py")
    computed.succeed("demo_fixed.py")


@BOTH
def test_redis_refuses(computed, script):
    port = free_port()
    computed.configure(online_store__connection_string=f"localhost:{port}")
    error = computed.fail(script)
    assert f"localhost:{port}" in error
    assert "make redis" in error


@BOTH
def test_redis_accepts_and_never_answers(computed, script):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        computed.configure(online_store__connection_string=f"localhost:{port}")
        started = time.monotonic()
        error = computed.fail(script)
        assert time.monotonic() - started < 15, "bounded by a few seconds, not hanging"
        assert f"localhost:{port}" in error


@BOTH
def test_something_else_than_redis_answers(computed, script):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with contextlib.suppress(OSError):  # the test is over
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        computed.configure(online_store__connection_string=f"localhost:{server.getsockname()[1]}")
        assert "Redis at localhost" in computed.fail(script)


@pytest.fixture
def locked_redis(tmp_path):
    port = free_port()
    process = launch(find_server(), port, tmp_path / "redis", "--requirepass", "open-sesame")
    yield port
    process.terminate()
    process.wait(10)


@BOTH
@pytest.mark.parametrize("options", ["", ",password=wrong-guess"])
def test_a_wrong_password_is_refused_and_not_shown(computed, locked_redis, script, options):
    computed.configure(online_store__connection_string=f"localhost:{locked_redis}{options}")
    error = computed.fail(script)
    assert "password" in error
    assert "wrong-guess" not in error


def test_the_right_password_opens(computed, locked_redis):
    computed.configure(online_store__connection_string=f"localhost:{locked_redis},password=open-sesame")
    computed.succeed("materialize_to_online.py")
    computed.succeed("demo_fixed.py")


@pytest.mark.parametrize("statistics", [True, False])
@BOTH
def test_a_parquet_with_nulls_is_refused_and_redis_left_alone(computed, script, statistics):
    computed.succeed("materialize_to_online.py")
    table = pq.read_table(computed.features)
    ids = pa.array([None if user > 10 else user for user in table["user_id"].to_pylist()], pa.int64())
    schema = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(table.set_column(0, "user_id", ids).cast(schema), computed.features, write_statistics=statistics)
    before = computed.client.dbsize()
    assert "the column user_id has nulls. Run: python compute_features.py" in computed.fail(script)
    assert computed.client.dbsize() == before


@BOTH
def test_a_parquet_with_a_column_twice(computed, script):
    table = pq.read_table(computed.features)
    pq.write_table(table.append_column("user_total_transactions", table["user_total_transactions"]), computed.features)
    assert "it has no column user_total_transactions of type" in computed.fail(script)


@BOTH
def test_a_parquet_damaged_in_its_pages(computed, script):
    content = computed.features.read_bytes()
    computed.features.write_bytes(content[:200] + b"\xff" * 200 + content[400:])
    error = computed.fail(script)
    assert "can't be read" in error
    assert "python compute_features.py" in error


@BOTH
def test_a_damaged_registry(computed, script):
    (computed.root / "data" / "registry.db").write_bytes(b"\xff" * 200)
    assert "is damaged. Delete data/registry.db. Run: cd feature_repo && feast apply" in computed.fail(script)


@pytest.mark.parametrize("content", ["", "- a list", "text", "[}{", "project: p\nprovider: local\nregistry: r.db\n"])
@BOTH
def test_a_configuration_that_is_none(project, script, content):
    (project.root / "feature_repo" / "feature_store.yaml").write_text(content)
    project.fail(script)


@pytest.mark.parametrize("registry", [5, "sqlite:////nowhere/registry.db"])
def test_a_registry_that_can_not_be_read(project, registry):
    project.configure(registry=registry)
    project.fail("materialize_to_online.py")


def test_decoded_responses_are_of_no_use_and_not_asked_for(computed):
    port = computed.port
    computed.configure(online_store__connection_string=f"localhost:{port},decode_responses=true")
    computed.succeed("materialize_to_online.py")
    computed.succeed("demo_fixed.py")


def test_a_link_to_itself_is_no_file(project):
    (project.root / "loop.csv").symlink_to("loop.csv")
    project.fail("compute_features.py", "--input", project.root / "loop.csv")


@pytest.mark.parametrize("connection", ["localhost:abc", "localhost:", "", "localhost:6379,nonsense=1"])
@BOTH
def test_a_connection_string_that_is_none(computed, script, connection):
    computed.configure(online_store__connection_string=connection)
    assert "feature_store.yaml" in computed.fail(script)


@BOTH
def test_an_online_store_that_is_no_redis(computed, script):
    computed.configure(online_store={"type": "sqlite", "path": "online.db"})
    assert "is not a Redis that can be reached" in computed.fail(script)


@BOTH
def test_a_key_of_ours_that_is_of_another_type(computed, script):
    computed.succeed("materialize_to_online.py")
    key = next(iter(hashes(computed).values()))
    computed.client.delete(key)
    computed.client.set(key, "text")
    assert "refuses a command" in computed.fail(script)


@BOTH
@pytest.mark.parametrize(
    ("column", "type"),
    [
        ("event_timestamp", pa.timestamp("ns", "UTC")),  # DuckDB fails on it
        ("event_timestamp", pa.timestamp("us")),
        ("user_total_transactions", pa.float64()),  # serving would cut off what training keeps
        ("user_avg_3day_purchase_amount", pa.decimal128(38, 18)),
        ("user_id", pa.string()),
    ],
)
def test_a_parquet_column_of_a_type_that_breaks_parity(computed, script, column, type):
    table = pq.read_table(computed.features)
    values = table[column].cast(type, safe=False)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), computed.features)
    assert f"it has no column {column} of type" in computed.fail(script)
