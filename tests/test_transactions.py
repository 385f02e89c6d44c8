"""What compute_features.py accepts as a transaction file, and what it refuses, and how."""

import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HEADER = "user_id,product_id,timestamp,purchase_amount"
GOOD = "1,100,2026-03-01T12:00:00Z,10.50"


def computed(project) -> list[tuple]:
    project.succeed("compute_features.py")
    return [tuple(row.values()) for row in pq.read_table(project.features).to_pylist()]


def write_parquet(project, **columns) -> list[object]:
    """Write a Parquet transaction file with some columns replaced; return the arguments that read it."""
    path = project.root / "transactions.parquet"
    default = {"user_id": [1, 1], "timestamp": [NOON, NOON + timedelta(hours=1)], "purchase_amount": [10.0, 20.0]}
    pq.write_table(pa.table(default | columns), path)
    return ["--input", path]


class TestAccepted:
    @pytest.mark.parametrize(
        "timestamp",
        [
            "2026-03-01T12:00:00Z",
            "2026-03-01 12:00:00",
            "2026-03-01T12:00",
            "2026-03-01 12:00:00.000000",
            "2026-03-01 12:00:00.000000000+00:00",
            "2026-03-01T21:00:00+09:00",
            "2026-03-01T04:00:00-0800",
            "2026-03-01 17:30:00.000+05:30",
        ],
    )
    def test_a_timestamp_is_utc_without_an_offset_and_any_instant_with_one(self, project, timestamp):
        project.write_transactions(f"1,100,{timestamp},10.50")
        assert computed(project) == [(1, NOON, 10.5, 1)]

    def test_offsets_may_differ_and_lack_within_a_file(self, project):
        project.write_transactions(
            "1,100,2026-03-01T13:00:00+01:00,1", "1,100,2026-03-01 12:00:00,2", "1,100,2026-03-01T12:00:00Z,3"
        )
        assert computed(project) == [(1, NOON, 2.0, 3)]

    def test_a_date_alone_is_its_midnight(self, project):
        project.write_transactions("1,100,2026-03-01,10.50", "1,100,2026-03-01T00:00:00Z,10.50")
        assert computed(project) == [(1, NOON.replace(hour=0), 10.5, 2)]

    def test_other_columns_are_ignored_and_order_is_free(self, project):
        project.write_transactions(
            '10.50,"a, note",2026-03-01T12:00:00Z,1', header="purchase_amount,note,timestamp,user_id"
        )
        assert computed(project) == [(1, NOON, 10.5, 1)]

    def test_a_byte_order_mark_and_windows_line_ends_are_ignored(self, project):
        project.transactions.write_bytes(f"\ufeff{HEADER}\r\n{GOOD}\r\n".encode())
        assert computed(project) == [(1, NOON, 10.5, 1)]

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    @pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
    def test_parquet_timestamps_of_any_unit_and_zone(self, project, unit, zone):
        instants = pa.array([NOON, NOON + timedelta(hours=1)]).cast(pa.timestamp(unit, zone))
        project.succeed("compute_features.py", *write_parquet(project, timestamp=instants))
        rows = pq.read_table(project.features)
        assert rows["event_timestamp"].to_pylist() == [NOON, NOON + timedelta(hours=1)]

    @pytest.mark.parametrize(
        "amounts",
        [
            pa.array([10, 20], pa.int32()),
            pa.array([10, 20], pa.float32()),
            pa.array([Decimal("10.00"), Decimal("20.00")]),
        ],
        ids=lambda a: str(a.type),
    )
    def test_parquet_amounts_of_any_numeric_type(self, project, amounts):
        project.succeed("compute_features.py", *write_parquet(project, purchase_amount=amounts))
        assert pq.read_table(project.features)["user_avg_3day_purchase_amount"].to_pylist() == [10.0, 15.0]

    def test_parquet_dates_and_small_ids(self, project):
        columns = {"timestamp": [date(2026, 3, 1)] * 2, "user_id": pa.array([200, 200], pa.uint8())}
        project.succeed("compute_features.py", *write_parquet(project, **columns))
        assert pq.read_table(project.features)["user_id"].to_pylist() == [200]

    def test_a_decimal_amount_is_read_correctly_rounded(self, project):
        amounts = pa.array([Decimal("0.1234567890123456789"), Decimal("0.1234567890123456789")])
        project.succeed("compute_features.py", *write_parquet(project, purchase_amount=amounts))
        means = pq.read_table(project.features)["user_avg_3day_purchase_amount"].to_pylist()
        assert means == [float("0.1234567890123456789")] * 2

    def test_the_extreme_ids_and_instants(self, project):
        project.write_transactions(
            f"{2**63 - 1},1,9999-12-31T23:59:59.999999Z,1", f"{-(2**63)},1,0001-01-01T00:00:00Z,1"
        )
        assert [row[:2] for row in computed(project)] == [
            (-(2**63), datetime.min.replace(tzinfo=UTC)),
            (2**63 - 1, datetime.max.replace(tzinfo=UTC)),
        ]


class TestRefused:
    """One line that names the file and the place; status 2; the earlier good output untouched."""

    @pytest.fixture(autouse=True)
    def earlier_output(self, project):
        project.write_transactions(GOOD)
        project.succeed("compute_features.py")
        before = project.features.read_bytes()
        yield
        assert project.features.read_bytes() == before
        assert [path.name for path in project.features.parent.iterdir()] == [project.features.name]

    def test_an_absent_file(self, project):
        project.transactions.unlink()
        assert "python generate_synthetic_data.py" in project.fail("compute_features.py")

    @pytest.mark.parametrize("name", ["transactions.txt", "transactions"])
    def test_a_file_of_unknown_suffix(self, project, name):
        project.transactions.rename(project.root / name)
        assert name in project.fail("compute_features.py", "--input", project.root / name)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "is empty"),
            ("\n", "is empty"),
            (HEADER, "no rows"),
            (HEADER + "\n", "no rows"),
            (HEADER + "\n\n", "no rows"),
        ],
    )
    def test_an_empty_file_and_a_header_alone(self, project, content, message):
        project.transactions.write_text(content)
        assert message in project.fail("compute_features.py")

    @pytest.mark.parametrize("missing", ["user_id", "timestamp", "purchase_amount"])
    def test_a_missing_column(self, project, missing):
        project.write_transactions(GOOD, header=HEADER.replace(missing, "other"))
        assert f"the column {missing} is missing" in project.fail("compute_features.py")

    @pytest.mark.parametrize("twice", ["user_id", "timestamp", "purchase_amount"])
    def test_a_column_that_is_there_twice(self, project, twice):
        project.write_transactions(GOOD, header=HEADER.replace("product_id", twice))
        assert f"the column {twice} is there 2 times" in project.fail("compute_features.py")

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            *[("timestamp", v) for v in ["", "soon", "31/01/2026", "2026-02-30", "1700000000", "2026-03-01T25:00:00Z"]],
            *[("timestamp", v) for v in ["null", "2026-03-01T12:00:00.1234567Z", "0000-01-01", "10000-01-01"]],
            *[
                ("user_id", v)
                for v in ["", "x", "7.5", "1e3", "0x10", "9223372036854775808", "-9223372036854775809", "NaN"]
            ],
            *[("purchase_amount", v) for v in ["", "ten", "$5", "NaN", "nan", "inf", "-Infinity", "1e400", "NULL"]],
        ],
    )
    def test_a_bad_value_is_shown_with_its_row_and_line(self, project, column, value):
        row = dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | {column: value}
        project.write_transactions(GOOD, GOOD, "", ",".join(row.values()), GOOD)
        error = project.fail("compute_features.py")
        assert f"user_transactions.csv, row 3 (line 5): {column} {value!r}" in error

    def test_a_bad_value_is_found_far_down(self, project):
        project.write_transactions(*[GOOD] * 70_000, GOOD.replace("10.50", "1O.50"), *[GOOD] * 50_000)
        assert "row 70001 (line 70002): purchase_amount '1O.50'" in project.fail("compute_features.py")

    def test_a_row_with_a_field_too_many(self, project):
        project.write_transactions(GOOD, GOOD + ",99", GOOD)
        error = project.fail("compute_features.py")
        assert "user_transactions.csv" in error
        assert "#3" in error

    @pytest.mark.parametrize("padding", [0, (1 << 24) - 20])
    def test_bytes_that_are_not_utf8(self, project, padding):
        project.transactions.write_bytes(f"{HEADER}\n{GOOD}\n".encode() + b"\n" * padding + b"1,caf\xe9,2026,1\n")
        assert f"line {3 + padding}: the byte 0xe9 is not UTF-8" in project.fail("compute_features.py")

    def test_utf16(self, project):
        project.transactions.write_text(f"{HEADER}\n{GOOD}\n", encoding="utf-16")
        assert "UTF-8" in project.fail("compute_features.py")

    def test_a_parquet_file_that_is_none(self, project):
        path = project.root / "transactions.parquet"
        path.write_text("user_id")
        assert "transactions.parquet" in project.fail("compute_features.py", "--input", path)

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            ("user_id", ["1", "2"]),
            ("user_id", [1.0, 2.5]),
            ("timestamp", ["2026-03-01", "2026-03-01"]),
            ("timestamp", [1, 2]),
            ("purchase_amount", ["1", "2"]),
            ("purchase_amount", [True, False]),
        ],
    )
    def test_a_parquet_column_of_another_type(self, project, column, values):
        error = project.fail("compute_features.py", *write_parquet(project, **{column: values}))
        assert f"transactions.parquet: the column {column} has type" in error

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            ("user_id", [1, None]),
            ("user_id", pa.array([1, 2**63], pa.uint64())),
            ("timestamp", [NOON, None]),
            ("timestamp", pa.array([1_000, 1_001], pa.timestamp("ns", "UTC"))),
            ("timestamp", pa.array([0, 2**50], pa.timestamp("s"))),
            ("purchase_amount", [1.0, None]),
            ("purchase_amount", [1.0, float("nan")]),
            ("purchase_amount", [1.0, float("-inf")]),
            ("purchase_amount", pa.array([1, 2**53 + 1])),
        ],
    )
    def test_a_bad_parquet_value_is_shown_with_its_row(self, project, column, values):
        error = project.fail("compute_features.py", *write_parquet(project, **{column: values}))
        assert f"transactions.parquet, row 2: {column} " in error

    def test_an_output_of_unknown_suffix(self, project):
        assert ".xlsx" in project.fail("compute_features.py", "--output", project.root / "out.xlsx")


def test_a_run_that_dies_while_writing_leaves_the_earlier_file_whole(project, monkeypatch):
    project.write_transactions(GOOD)
    project.succeed("compute_features.py")
    before = project.features.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_disk)
    project.write_transactions(GOOD, GOOD)
    assert "No space left" in project.fail("compute_features.py")
    assert project.features.read_bytes() == before


def test_local_time_of_the_machine_plays_no_part(project, monkeypatch):
    project.write_transactions("1,100,2026-03-08 02:30:00,1")  # an hour that Los Angeles skips
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    assert computed(project)[0][1] == datetime(2026, 3, 8, 2, 30, tzinfo=UTC)


def test_quoted_values_may_hold_line_ends_in_a_file_of_many_blocks(project):
    at = "2026-01-01T00:00:00Z"
    note = "x" * 40_000
    rows = [f'{user},100,{at},1,"a\n7,100,{at},9,{note}"' for user in range(1000)]
    project.write_transactions(*rows, header="user_id,product_id,timestamp,purchase_amount,note")
    assert project.succeed("compute_features.py").startswith("1,000 feature rows of 1,000 users")


def test_the_line_of_a_bad_value_is_right_below_quoted_line_ends(project):
    project.write_transactions('1,"1\n\n",2026-01-01,5', "x,1,2026-01-01,5")
    assert "row 2 (line 5): user_id 'x'" in project.fail("compute_features.py")


def test_the_output_must_not_be_the_input(project):
    project.write_transactions("1,100,2026-01-01,5")
    before = project.transactions.read_bytes()
    outcome = project.run("compute_features.py", "--output", project.transactions)
    assert outcome.status == 2
    assert "--output is the same file as --input" in outcome.err
    assert project.transactions.read_bytes() == before


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_a_directory_in_place_of_a_file(project, option):
    project.write_transactions("1,100,2026-01-01,5")
    folder = project.root / "folder.csv"
    folder.mkdir()
    assert f"{folder}: this is a directory" in project.fail("compute_features.py", option, folder)


def test_a_file_name_that_is_no_text(project):
    name = os.fsdecode(b"\xff.csv")
    assert "there is no such file" in project.fail("compute_features.py", "--input", name)
