"""Spark computes the same bits as the laptop, by the same code, and refuses the same files: on a real PySpark."""

import os
import random
import shutil
import sys
from datetime import timedelta, timezone
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from parity.compute.windows import aggregate
from parity.definition.functions import FUNCTIONS
from parity.definition.keys import KEY_TYPES
from parity.definition.table import Rule
from parity.edge.errors import UserError
from parity.transactions.read import read_transactions
from tests.brute_force import DAYS_3, KEYS, MICROSECOND, TYPES, Row, T, bits, declared, table
from tests.conftest import BIN

JAVA = Path(os.environ["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in os.environ else shutil.which("java")
MISSING = [
    name
    for name, there in {"PySpark": find_spec("pyspark"), "Java": JAVA, "moto": find_spec("moto")}.items()
    if not there
]
pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(bool(MISSING) and "CI" not in os.environ, reason=f"{' and '.join(MISSING)} missing"),
]

HEADER = "user_id,product_id,timestamp,purchase_amount"
GOOD = "1,100,2026-03-01T12:00:00Z,10.50"
AMOUNT = declared([Rule("sum", "sum", "purchase_amount", None)])


@pytest.fixture(scope="module", autouse=True)
def one_session_for_all():
    yield
    from pyspark.sql import SparkSession

    if session := SparkSession.getActiveSession():
        session.stop()


def hard_rows(seed: int, count: int) -> list[str]:
    """Rows of a CSV file with everything that engines disagree on."""
    draw = random.Random(seed)
    steps = [timedelta(0), MICROSECOND, -MICROSECOND, DAYS_3, DAYS_3 + MICROSECOND, DAYS_3 - MICROSECOND]
    amounts = ["0.1", "0.2", "-19.99", "-0.0", "0.001", "1e-9", "0.3333333333333333", "9e15", "1e300", "-1e300", "33"]
    users, at, rows = [1, 2, 3, -7, 0, 2**63 - 1, -(2**63), 2**53 + 1], T, []
    for _ in range(count):
        at = at + draw.choice(steps) if draw.random() < 0.7 else T + timedelta(hours=draw.randrange(-2000, 2000))
        zone = timezone(timedelta(minutes=draw.choice([0, 0, 330, -480, 840, -720])))
        text = draw.choice([at.astimezone(zone).isoformat(), at.replace(tzinfo=None).isoformat(" ")])
        rows.append(f"{draw.choice(users)},100,{text},{draw.choice(amounts)}")
    return [*rows, "5,1,0001-01-01,1.5", "5,1,9999-12-31T23:59:59.999999Z,2.5"]


def assert_days(folder: Path, expected: pa.Table, keys: int = 1) -> None:
    """Assert that a table of days, as Spark writes it, holds bit for bit the ``expected`` features."""
    parts = []
    for part in folder.rglob("*.parquet"):
        rows = pq.read_table(part, partitioning=None)
        assert rows.schema.equals(expected.schema)
        assert {str(day) for day in rows["event_timestamp"].cast(pa.date32()).to_pylist()} == {part.parent.name[-10:]}
        parts.append(rows)
    assert [path for path in folder.iterdir() if "event_date=" not in path.name] == []
    found = bits(pa.concat_tables(parts))
    assert sorted(found, key=lambda row: row[: keys + 1]) == bits(expected)


def assert_same(folder: Path, file: Path) -> None:
    """Assert that a table of days holds what the laptop wrote to a file."""
    assert_days(folder, pq.read_table(file))


def computed(project, source: Path) -> Path:
    folder = project.root / "by_spark"
    project.succeed("compute_features.py", "--engine", "spark", "--input", source, "--output", folder)
    return folder


def by_laptop(project) -> Path:
    file = project.root / "by_laptop.parquet"
    project.succeed("compute_features.py", "--output", file)
    return file


@pytest.mark.parametrize("seed", range(2))
def test_ties_window_edges_offsets_and_amounts_of_every_kind_give_the_bits_of_the_laptop(project, seed):
    project.write_transactions(*hard_rows(seed, 2000))
    assert_same(computed(project, project.transactions), by_laptop(project))


def test_a_folder_of_csv_and_partitioned_parquet_of_any_types_is_one_table(project):
    rows = hard_rows(7, 900)
    project.write_transactions(*rows)
    expected = by_laptop(project)
    folder = project.root / "transactions"
    project.write_transactions(*rows[:300])
    folder.mkdir()
    project.transactions.rename(folder / "a.csv")
    (folder / "empty.csv").write_text(HEADER + "\n")
    (folder / "_SUCCESS").write_text("")
    for number, some, unit, zone in [(1, rows[300:600], "us", "Asia/Tokyo"), (2, rows[600:], "us", None)]:
        project.write_transactions(*some)
        typed = read_transactions(project.transactions, AMOUNT)
        typed = typed.set_column(1, "timestamp", typed["timestamp"].cast(pa.timestamp(unit, zone)))
        (folder / f"day={number}").mkdir()
        pq.write_table(typed, folder / f"day={number}" / "part-0.parquet")
    project.transactions.unlink()
    assert_same(computed(project, folder), expected)


def test_parquet_types_that_spark_itself_does_not_read_are_read_as_on_the_laptop(project):
    file = project.root / "transactions.parquet"
    noon = pa.array([T, T + DAYS_3]).cast(pa.timestamp("ns", "UTC"))
    pq.write_table(
        pa.table({"user_id": pa.array([1, 1], pa.uint64()), "timestamp": noon, "purchase_amount": [1, 2]}), file
    )
    project.succeed("compute_features.py", "--input", file, "--output", project.root / "by_laptop.parquet")
    assert_same(computed(project, file), project.root / "by_laptop.parquet")


def test_a_user_with_half_of_all_rows_gives_the_same_bits(project):
    draw = random.Random(1)
    rows = [
        (1 if i % 2 else draw.randrange(2, 1000), T + timedelta(seconds=draw.randrange(10**7))) for i in range(400_000)
    ]
    users, times = zip(*rows, strict=True)
    amounts = [draw.randrange(-1000, 10**5) / 100 for _ in rows]
    table = pa.table({"user_id": users, "timestamp": times, "purchase_amount": amounts})
    pacsv.write_csv(table, project.transactions)
    assert_same(computed(project, project.transactions), by_laptop(project))


EVERY = [
    Rule(f"{function} of {column} in {window}", function, column, window, TYPES[column])
    for function in FUNCTIONS
    for column in TYPES
    for window in (None, DAYS_3)
    if TYPES[column] in FUNCTIONS[function].takes
]


@pytest.mark.parametrize(
    "keys",
    [{"a.b": "STRING", "A": "INT32"}, {"id": "BYTES", "at": "UNIX_TIMESTAMP", "is": "BOOL"}, {"Id": "INT64"}],
    ids=lambda keys: " and ".join(keys.values()),
)
@pytest.mark.parametrize("continuous", [False, True])
def test_every_function_of_every_column_of_keys_of_any_types(tmp_path, keys, continuous):
    """Half of all rows are of one key, and the files hold the rows in any order."""
    from parity.compute.spark import compute

    draw, names = random.Random(3), {"a", "b", "c", "d"}
    assert names == TYPES.keys()
    definition = declared(EVERY, {name: KEY_TYPES[type] for name, type in keys.items()}, continuous)
    any_key = [tuple(draw.choice(KEYS[type]) for type in keys.values()) for _ in range(20)]
    rows = [
        Row(
            any_key[0] if i % 2 else draw.choice(any_key),
            T + draw.randrange(20) * timedelta(hours=9) + draw.randrange(2) * MICROSECOND,
            {
                "a": draw.choice([-0.0, 0.0, 0.1, -19.99, 1e-9, 1e15 + 0.125, 5e-324, 1 / 3]),
                "b": draw.choice([-(2**31), 2**31 - 1, 0, 7]),
                "c": draw.choice([2**40, -(2**40), 2**53 + 1, 0, 7]),
                "d": draw.choice(["", "a", "\U00010000", "\ud7ff", "e\u0301", "é"]),
            },
        )
        for i in range(3000)
    ]
    (tmp_path / "transactions").mkdir()
    for number in range(3):
        pq.write_table(table(rows[number::3], definition), tmp_path / "transactions" / f"{number}.parquet")
    compute(tmp_path / "transactions", tmp_path / "features", definition)
    assert_days(tmp_path / "features", aggregate(table(rows, definition), definition), len(keys))


def test_a_sum_that_int64_does_not_hold_is_refused_in_the_laptops_words(tmp_path):
    from parity.compute.spark import compute

    definition = declared([Rule("sum", "sum", "c", None, TYPES["c"])], {"name": pa.string()})
    rows = table([Row(("é",), T + i * DAYS_3, {"c": 2**62}) for i in range(2)], definition)
    pq.write_table(rows, tmp_path / "transactions.parquet")
    with pytest.raises(UserError) as laptop:
        aggregate(rows, definition)
    with pytest.raises(UserError) as spark:
        compute(tmp_path / "transactions.parquet", tmp_path / "features", definition)
    assert str(spark.value) == str(laptop.value)


def test_feast_trains_serves_and_proves_from_what_spark_wrote(project):
    project.succeed("generate_synthetic_data.py")
    project.apply()
    out = project.succeed("compute_features.py", "--engine", "spark")
    assert out.startswith("100 feature rows of ")
    assert out.endswith(" days -> " + str(project.features) + "\n")
    project.succeed("materialize_to_online.py")
    out = project.succeed("demo_fixed.py")
    assert "match 40, mismatch 0, missing online 0, extra online 0, equal but wrong 0" in out


def test_after_spark_has_written_the_days_an_incremental_run_trusts_none_of_them(project):
    folder = project.root / "by_spark"
    project.write_transactions(*hard_rows(1, 50))
    expected = by_laptop(project)
    incremental = ["compute_features.py", "--incremental", "--output", folder]
    project.succeed(*incremental)
    other = project.root / "other.csv"
    other.write_text(f"{HEADER}\n{GOOD}\n")
    computed(project, other)
    assert not project.succeed(*incremental).startswith("nothing has changed")
    for note in folder.glob("_*"):
        note.unlink()
    assert_same(folder, expected)


class TestRefused:
    """In the laptop's words, with status 2, and the earlier table whole."""

    @pytest.fixture(autouse=True)
    def earlier_table(self, project):
        project.write_transactions(GOOD)
        folder = project.root / "by_spark"
        (folder / "event_date=2026-03-01").mkdir(parents=True)
        by_laptop(project).rename(folder / "event_date=2026-03-01" / "features.parquet")
        before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
        yield
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    def refused(self, project, source: Path) -> str:
        return project.fail(
            "compute_features.py", "--engine", "spark", "--input", source, "--output", project.root / "by_spark"
        )

    @pytest.mark.parametrize(
        "content",
        [
            f"{HEADER}\n{GOOD}\n1,100,soon,5\n",
            f"{HEADER}\n{GOOD}\n1,100,2026-03-01T12:00:00.1234567Z,5\n",
            f"{HEADER}\n{GOOD}\n0x10,100,2026-03-01,5\n",
            f"{HEADER}\n{GOOD}\n9223372036854775808,100,2026-03-01,5\n",
            f"{HEADER}\n{GOOD}\n1,100,2026-03-01,\n",
            f"{HEADER}\n{GOOD}\n1,100,2026-03-01,NaN\n",
            f"{HEADER}\n{GOOD}\n1,100,2026-03-01,5,6\n",
            f"{HEADER}\n{GOOD}\n1,caf\udce9,2026-03-01,5\n",
            "user_id,timestamp\n1,2026-03-01\n",
            "",
        ],
    )
    def test_bad_input_in_the_laptops_words(self, project, content):
        project.transactions.write_bytes(content.encode(errors="surrogateescape"))
        laptop = project.fail("compute_features.py", "--output", project.root / "by_laptop.parquet")
        assert self.refused(project, project.transactions) == laptop

    def test_a_bad_file_among_good_ones_by_its_name_and_row(self, project):
        folder = project.root / "transactions"
        for name, row in {"a": GOOD, "b": "1,100,2026-03-01,1O.50", "c": GOOD}.items():
            (folder / f"day={name}").mkdir(parents=True)
            (folder / f"day={name}" / "x.csv").write_text(f"{HEADER}\n{row}\n")
        error = self.refused(project, folder)
        assert f"{folder}/day=b/x.csv, row 1 (line 2): purchase_amount '1O.50' is not" in error

    def test_a_place_where_nothing_is(self, project):
        assert "there is no such file" in self.refused(project, project.root / "nowhere.csv")
        (project.root / "empty").mkdir()
        assert "there is no file of transactions" in self.refused(project, project.root / "empty")
        (project.root / "empty" / "a.csv").write_text(HEADER + "\n")
        assert "there are no rows" in self.refused(project, project.root / "empty")

    def test_an_output_inside_the_input(self, project):
        outcome = project.run(
            "compute_features.py", "--engine", "spark", "--input", project.root, "--output", project.root / "by_spark"
        )
        assert outcome.status == 2
        assert "--output lies in the folder that is --input" in outcome.err


def test_without_pyspark_or_java_one_line_says_what_to_install(project, monkeypatch):
    project.write_transactions(GOOD)
    command = "python compute_features.py --engine spark --output by_spark"
    outcome = project.shell(command, JAVA_HOME="/nowhere", PATH=str(BIN))
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith("error: Spark does not start: it needs Java 17 or newer")
    for module in ("parity.compute.spark", "pyspark"):
        monkeypatch.setitem(sys.modules, module, None)
    error = project.fail("compute_features.py", "--engine", "spark", "--output", project.root / "by_spark")
    assert "pip install -r requirements-spark.txt" in error


def test_a_worker_needs_no_feast(project):
    outcome = project.shell("python -c 'import sys, parity.compute.spark; print(\"feast\" in sys.modules)'")
    assert outcome.out == "False\n", outcome


COPY = "import sys; from pyarrow import fs; fs.copy_files(*sys.argv[1:])"


def test_from_bucket_to_bucket_on_a_cluster_that_gets_the_package_with_the_job(project, bucket):
    """spark-submit, an executor of its own, S3, and a time zone that is not UTC."""
    project.write_transactions(*hard_rows(3, 500))
    expected = by_laptop(project)
    environment = bucket | {
        "TZ": "America/Los_Angeles",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    shutil.make_archive(str(project.root / "package"), "zip", project.root, "parity")
    (project.root / "folder").mkdir()
    project.transactions.rename(project.root / "folder" / "a.csv")
    put = f"python -c '{COPY}' {project.root}/folder s3://bucket/transactions"
    compute = (
        "spark-submit --master 'local-cluster[1,2,1024]' --py-files package.zip"
        " --conf spark.executorEnv.PYTHONSAFEPATH=1"
        " compute_features.py --engine spark --input s3a://bucket/transactions --output s3a://bucket/features.parquet"
    )
    get = f"python -c '{COPY}' s3://bucket/features.parquet {project.root}/got"
    outcome = project.shell(f"{put} && {compute} && {get}", **environment)
    assert outcome.status == 0, outcome
    assert "days -> s3a://bucket/features.parquet" in outcome.out
    assert_same(project.root / "got", expected)


def test_days_in_a_bucket_are_kept_in_step_with_files_in_a_bucket(project, bucket):
    rows = hard_rows(4, 300)
    project.write_transactions(*rows)
    expected = by_laptop(project)
    update = "python compute_features.py --incremental --input s3://bucket/files --output s3://bucket/features.parquet"
    for number, some in enumerate([rows[:200], rows[200:]]):
        project.write_transactions(*some)
        folder = project.root / str(number)
        folder.mkdir()
        project.transactions.rename(folder / f"{number}.csv")
        outcome = project.shell(f"python -c '{COPY}' {folder} s3://bucket/files && {update}", **bucket)
        assert outcome.status == 0, outcome
    outcome = project.shell(f"{update} && python -c '{COPY}' s3://bucket/features.parquet {project.root}/got", **bucket)
    assert outcome.out == "nothing has changed -> s3://bucket/features.parquet\n", outcome
    for note in (project.root / "got").glob("_*"):
        note.unlink()
    assert_same(project.root / "got", expected)
