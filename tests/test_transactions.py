"""What compute_features.py accepts as a transaction file, and what it refuses, and how."""

import gzip
import io
import os
import resource
import shutil
import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.keys import key_schema
from parity.definition.reading import Reading
from parity.definition.table import Definition, Rule
from parity.edge.command import fail
from parity.edge.errors import UserError
from parity.edge.files import progress
from parity.proof import raw, raw_files
from parity.proof.raw import raw_transactions
from parity.proof.raw_values import Parsers
from parity.transactions import memory
from parity.transactions.read import read_part
from parity.transactions.texts import without_nulls
from parity.transactions.values import INSTANTS, to_type

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HEADER = "user_id,product_id,timestamp,purchase_amount"
GOOD = "1,100,2026-03-01T12:00:00Z,10.50"
PURCHASES = Definition(
    "purchases",
    key_schema({"user_id": pa.int64()}),
    "event_timestamp",
    (Rule("average", "mean", "purchase_amount", timedelta(days=3)), Rule("total", "count", "purchase_amount", None)),
)


def read_by_oracle(path: Path) -> list[int]:
    """The users of all purchases that the oracle reads in a file."""
    with raw_transactions(path, PURCHASES) as read:
        users = read.keys["user_id"].to_pylist()
        rows = [(users[n], some) for part in range(len(read)) for n, some in read.part(part).items()]
    return [user for user, some in rows for _ in some]


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

    @pytest.mark.smoke
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

    def test_parquet_texts_are_read_as_those_of_csv_are(self, project):
        columns = {
            "timestamp": ["2026-03-01T13:00:00+01:00", "2026-03-01"],
            "user_id": pa.array(["7", "7"]).dictionary_encode(),
            "purchase_amount": pa.array(["1.5", " 2.5 "], pa.large_string()),
        }
        project.succeed("compute_features.py", *write_parquet(project, **columns))
        rows = pq.read_table(project.features).to_pylist()
        assert [tuple(row.values()) for row in rows] == [(7, NOON.replace(hour=0), 2.5, 1), (7, NOON, 2.0, 2)]

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

    @pytest.mark.parametrize("name", ["transactions.xlsx", "transactions", "transactions.parquet.gz"])
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
            *[("timestamp", v) for v in ["soon", "31/01/2026", "2026-02-30", "1700000000", "2026-03-01T25:00:00Z"]],
            *[("timestamp", v) for v in ["null", "2026-03-01T12:00:00.1234567Z", "0000-01-01", "10000-01-01"]],
            *[
                ("user_id", v)
                for v in ["x", "7.5", "1e3", "0x10", "9223372036854775808", "-9223372036854775809", "NaN"]
            ],
            *[("user_id", v) for v in ["007", "0007", "00", "+7", "-0", "-07", "7.0", "7e0", "0X1f", "7_0", "\uff17"]],
            *[("purchase_amount", v) for v in ["ten", "$5", "NaN", "nan", "inf", "-Infinity", "1e400", "NULL"]],
        ],
    )
    def test_a_bad_value_is_shown_with_its_row_and_line(self, project, column, value):
        row = dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | {column: value}
        project.write_transactions(GOOD, GOOD, "", ",".join(row.values()), GOOD)
        error = project.fail("compute_features.py")
        assert f"user_transactions.csv, row 3 (line 5): {column} {value!r}" in error

    @pytest.mark.parametrize("column", ["timestamp", "user_id", "purchase_amount"])
    @pytest.mark.parametrize("nothing", ["", '""'])
    def test_an_empty_value_is_null_and_refused_with_how_to_leave_it_out(self, project, column, nothing):
        row = dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | {column: nothing}
        project.write_transactions(GOOD, ",".join(row.values()), GOOD)
        error = project.fail("compute_features.py")
        assert f"user_transactions.csv, row 2 (line 3): {column} is null. 1 of 3 rows is refused." in error
        assert f'where="{column} IS NOT NULL" in user_purchase_features' in error

    def test_a_bad_value_is_found_far_down(self, project):
        project.write_transactions(*[GOOD] * 70_000, GOOD.replace("10.50", "1O.50"), *[GOOD] * 50_000)
        assert "row 70001 (line 70002): purchase_amount '1O.50'" in project.fail("compute_features.py")

    def test_a_row_with_a_field_too_many(self, project):
        project.write_transactions(GOOD, GOOD + ",99", GOOD)
        error = project.fail("compute_features.py")
        assert "user_transactions.csv" in error
        assert "row 2 (line 3) has 5 values" in error

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
            ("user_id", [1.0, 2.5]),
            ("user_id", [b"1", b"2"]),
            ("user_id", [NOON, NOON]),
            ("timestamp", [1, 2]),
            ("timestamp", [1.0, 2.0]),
            ("purchase_amount", [b"1", b"2"]),
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
            ("user_id", ["1", "007"]),
            ("timestamp", ["2026-03-01", "12/1/2010"]),
            ("purchase_amount", ["1", "$2"]),
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


class TestQuotes:
    """A quote that is not closed would make one value of whole rows, and its purchases would be lost unseen."""

    HEAD = "user_id,timestamp,purchase_amount,product\n"
    ROW = "1,2026-03-01T12:00:00Z,5,"

    def read(self, project, rows: str) -> pa.Table:
        """Read purchases, and hold that the oracle reads as many."""
        project.transactions.write_bytes((self.HEAD + rows).encode())
        table = read_part(project.transactions, PURCHASES)
        assert len(read_by_oracle(project.transactions)) == table.num_rows
        return table

    @pytest.mark.parametrize(
        ("rows", "line", "told"),
        [
            (f'{ROW}a\n{ROW}"open\n{ROW}b\n{ROW}c\n', 3, "is not closed"),
            (f'{ROW}a\r\n{ROW}"open\r\n{ROW}b\r\n', 3, "is not closed"),
            (f'{ROW}a\r{ROW}"open\r{ROW}b\r', 3, "is not closed"),
            (f'{ROW}a\n\n\n{ROW}"open\n{ROW}b\n', 5, "is not closed"),
            (f'{ROW}a\n1,2026-03-01T12:00:00Z,"5', 3, "is not closed"),
            (f'{ROW}a\n1,"2026-03-01T12:00:00Z,5,b\n', 3, "is not closed"),
            (f'{ROW}a\n"1,2026-03-01T12:00:00Z,5,b\n', 3, "is not closed"),
            (f'{ROW}a\n{ROW}"', 3, "is not closed"),
            (f'{ROW}a\n{ROW}"\n', 3, "is not closed"),
            (f'{ROW}a\n{ROW}"""', 3, "is not closed"),
            (f'{ROW}a\n{ROW}"b""\n{ROW}c\n', 3, "is not closed"),
            (f'{ROW}"two\nlines"\n{ROW}"open\n{ROW}b\n', 4, "is not closed"),
            (f'1,2026-03-01T12:00:00Z,"\n5","open\n{ROW}b\n', 3, "is not closed"),
            (f'{ROW}"open\n{ROW}b\n{ROW}"c"\n{ROW}d\n', 2, "closed in line 4, but text follows"),
            (f'{ROW}"open\n{ROW}b\n{ROW}"c\n{ROW}d\n', 2, "closed in line 4, but text follows"),
            (f'{ROW}"open\n{ROW}"\n{ROW}"c"\n{ROW}"d\n', 5, "is not closed"),
            (f'{ROW}a\n{ROW}"b" \n', 3, "closed in line 3, but text follows"),
            (f'{ROW}a\n{ROW}"say \\"so\\""\n', 3, "closed in line 3, but text follows"),
        ],
    )
    def test_one_that_is_not_sound_is_refused_by_its_line_and_by_the_oracle(self, project, rows, line, told):
        project.transactions.write_bytes((self.HEAD + rows).encode())
        error = project.fail("compute_features.py")
        assert f"line {line}: the quote that opens here" in error
        assert told in error
        assert "Close it" in error
        with (
            pytest.raises(UserError, match="the row that starts in line"),
            raw_transactions(project.transactions, PURCHASES),
        ):
            pass

    @pytest.mark.parametrize("header", ['user_id,timestamp,"purchase_amount,product', 'user_id,timestamp,"product'])
    def test_one_in_the_header_is_named_and_not_the_columns_that_it_swallowed(self, project, header):
        project.transactions.write_text(f"{header}\n{self.ROW}a\n")
        assert "line 1: the quote that opens here" in project.fail("compute_features.py")

    def test_one_far_down_a_file_of_many_blocks_is_found(self, project):
        note = "x" * 1000
        rows = [f'{self.ROW}"{note}\n{note}"\n'] * 20_000
        project.transactions.write_text(f'{self.HEAD}{"".join(rows)}{self.ROW}"open\n{"".join(rows)}')
        assert "line 40002: the quote that opens here" in project.fail("compute_features.py")

    def test_one_far_up_a_large_file_takes_little_memory_and_time(self, project):
        with open(project.transactions, "w") as file:
            file.write(f'{self.HEAD}{self.ROW}"open\n')
            for _ in range(100):
                file.write(f"{self.ROW}b\n" * 40_000)
        with pytest.raises(
            UserError, match=r"line 2: the quote that opens here, .* is not closed: .* up to line 1[0-9]{6},"
        ):
            read_part(project.transactions, PURCHASES)
        with (
            pytest.raises(UserError, match="the row that starts in line 2 can't be read"),
            raw_transactions(project.transactions, PURCHASES),
        ):
            pass

    def test_a_value_that_is_too_long_for_arrow_is_not_called_open(self, project):
        project.transactions.write_text(f'{self.HEAD}{self.ROW}"{"x" * (40 << 20)}"\n{self.ROW}b\n')
        error = project.fail("compute_features.py")
        assert "quote" not in error
        assert "block size" in error

    @pytest.mark.parametrize(
        "value",
        [
            '5" tv',
            '5"',
            '5"" tv',
            ' "a"',
            ' "a',
            '""',
            '"5"" tv"',
            '"""a"""',
            '"a, b"',
            '"two\nlines"',
            '"two\r\nlines"',
            '"two\n\n\nlines"',
            '"a ""\n"" b"',
        ],
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n", ""])
    def test_what_is_sound_is_read_row_by_row(self, project, value, end):
        rows = [f"{self.ROW}{value}{end or chr(10)}", f"{self.ROW}b{end or chr(10)}", f"{self.ROW}{value}{end}"]
        assert self.read(project, "".join(rows)).num_rows == 3

    @given(st.text('"a,\n\r ', max_size=12), st.text('"a\n', max_size=6))
    def test_any_text_is_read_alike_by_both_or_refused_by_both(self, first, last):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "purchases.csv"
            path.write_bytes(f"{self.HEAD}{self.ROW}{first}\n{self.ROW}{last}\n{self.ROW}c\n".encode())
            try:
                found = read_part(path, PURCHASES).num_rows
            except UserError:
                found = None
            try:
                expected = len(read_by_oracle(path))
            except UserError:
                expected = None
        assert found == expected


def test_the_output_must_not_be_the_input(project):
    project.write_transactions("1,100,2026-01-01,5")
    before = project.transactions.read_bytes()
    outcome = project.run("compute_features.py", "--output", project.transactions)
    assert outcome.status == 2
    assert "--output is the same file as --input" in outcome.err
    assert project.transactions.read_bytes() == before


def test_a_directory_in_place_of_the_output(project):
    project.write_transactions("1,100,2026-01-01,5")
    folder = project.root / "folder.csv"
    folder.mkdir()
    assert f"{folder}: this is a directory" in project.fail("compute_features.py", "--output", folder)


def test_a_folder_without_transactions(project):
    folder = project.root / "folder.csv"
    (folder / "_temporary").mkdir(parents=True)
    (folder / "_temporary" / "a.csv").write_text(f"{HEADER}\n{GOOD}\n")
    (folder / ".hidden.csv").write_text(f"{HEADER}\n{GOOD}\n")
    error = project.fail("compute_features.py", "--input", folder)
    assert f"{folder}: there is no file of transactions in this folder" in error


def test_a_file_name_that_is_no_text(project):
    name = os.fsdecode(b"\xff.csv")
    assert "there is no such file" in project.fail("compute_features.py", "--input", name)


@pytest.fixture
def refused(project):
    """Write a file of purchases, whole or with a column of these values, and return the line that refuses it."""

    def refuse(content: bytes | str | None = None, name: str = "purchases.csv", **columns: list[str]) -> str:
        path = project.root / name
        if columns:
            default = {"user_id": "7", "product_id": "1", "timestamp": "2026-03-01", "purchase_amount": "1"}
            rows = max(map(len, columns.values()))
            pacsv.write_csv(pa.table({key: columns.get(key, [value] * rows) for key, value in default.items()}), path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return project.fail("compute_features.py", "--input", path)

    return refuse


class TestIds:
    """An id has to read back as it was written, or two users become one."""

    @pytest.mark.parametrize("value", ["7", '"7"'])
    def test_quotes_around_an_id_do_not_matter(self, project, value):
        project.write_transactions(f"{value},1,2026-03-01T12:00:00Z,10.50", GOOD.replace("1,", "7,", 1))
        assert computed(project) == [(7, NOON, 10.5, 2)]

    @pytest.mark.parametrize("id", [" 7", "7 ", " 7 ", "\t7\t", "7\r\n", "\n\n7", "\u00a07", "7\u3000", " -7", "7\x1f"])
    def test_blanks_around_an_id_are_refused(self, refused, id):
        error = refused(user_id=["7", id])
        assert "row 2 (line " in error
        assert f"user_id {id!r} is not a whole number" in error
        assert "7 with blanks" in error
        assert "Leave out blanks around ids" in refused(user_id=["7", id, id])

    def test_blanks_around_an_amount_do_not_matter(self, project):
        project.write_transactions("7,1,2026-03-01T12:00:00Z, 10.50 ")
        assert computed(project) == [(7, NOON, 10.5, 1)]

    def test_users_that_were_written_in_several_ways_are_not_made_one(self, refused):
        error = refused(user_id=["7", "007", "7", "0007"])
        assert "row 2 (line 3): user_id '007' is not" in error
        assert "'0007' in row 4 (line 5). 2 of 4 rows are refused" in error
        assert 'Entity(..., join_keys=["user_id"], value_type=ValueType.STRING)' in error

    @pytest.mark.parametrize(
        "arguments", [["--incremental"], pytest.param(["--engine", "spark"], marks=pytest.mark.scale)]
    )
    @pytest.mark.parametrize("value", ["007", "+7", "7.0", " 7", "7 "])
    def test_every_way_of_computing_refuses_it(self, project, arguments, value):
        if "spark" in arguments and not (find_spec("pyspark") and shutil.which("java")):
            pytest.skip("PySpark or Java missing")
        (project.root / "in").mkdir()
        (project.root / "in" / "purchases.csv").write_text(f"{HEADER}\n{GOOD}\n{value}{GOOD[1:]}\n")
        run = ["--input", project.root / "in", "--output", project.root / "out"]
        assert f"row 2 (line 3): user_id '{value}'" in project.fail("compute_features.py", *arguments, *run)

    @pytest.mark.parametrize(
        "value", ["007", "+7", "-0", "7.0", "\uff17", " 7", "7 ", '"7 "', "\u00a07", '"7\n"', '"\n\n7"']
    )
    def test_the_oracle_refuses_it_too(self, project, value):
        project.write_transactions(GOOD, f"{value},100,2026-03-01T12:00:00Z,10.50")
        with (
            pytest.raises(UserError, match="the oracle can't read it"),
            raw_transactions(project.transactions, PURCHASES),
        ):
            pass

    @pytest.mark.parametrize(
        ("column", "values"), [("user_id", ["1", "007"]), ("user_id", [1.0, 2.5]), ("timestamp", [1, 2])]
    )
    def test_the_oracle_refuses_the_parquet_types_that_are_refused(self, project, column, values):
        [_, path] = write_parquet(project, **{column: values})
        with (
            pytest.raises(UserError, match="the oracle can't read it"),
            raw_transactions(path, PURCHASES),
        ):
            pass


def accepted_by_oracle(text: str, to: pa.DataType) -> bool:
    try:
        return Parsers(Reading()).of(UTC_MICROSECONDS if to == INSTANTS else to, to == pa.int64())(text) is not None
    except (ValueError, OverflowError):
        return False


NUMBERS = st.text("0123456789-+.eE _xinfa\u00a0\uff17\x1f\t", max_size=7) | st.from_regex(
    r"\A-?(922337203685477580[0-9]|[0-9]{18,20}|[0-9]e30[0-9])\Z"
)
TIMES = st.from_regex(
    r"\A(2026|0000|0001|9999|2024)-(02|12|13|1)-(01|29|30|31|32)"
    r"([ T](00|23|24|8)(:(00|59|60)(:(00|59|60)([.,][0-9]{1,7}0?)?)?)?(z|Z| ?[+-][0-2][0-9]:?[0-6][0-9])?)?\Z"
)


@pytest.mark.parametrize(("to", "texts"), [(pa.int64(), NUMBERS), (pa.float64(), NUMBERS), (INSTANTS, TIMES)], ids=str)
def test_what_is_read_does_not_depend_on_other_rows_and_the_oracle_reads_the_same(to, texts):
    def read(values: list[str]) -> list[bool]:
        return to_type(pa.array(values, pa.string()), to, Reading(), is_key=True).is_valid().to_pylist()

    @given(st.lists(texts, min_size=1, max_size=30))
    def holds(values: list[str]) -> None:
        alone = [read([text])[0] for text in values]
        assert read(values) == alone
        assert [accepted_by_oracle(text, to) for text in values] == alone

    holds()


@pytest.mark.parametrize(
    ("values", "to", "read"),
    [
        (pa.array([1, 2**63, None, 2**63 - 1], pa.uint64()), pa.int64(), [0, 3]),
        (pa.array([2**53 + 1, 2**53, -(2**60), -(2**53)]), pa.float64(), [1, 3]),
        (pa.array([1, 1001, None, 2000, -1000, -1], pa.timestamp("ns", "UTC")), INSTANTS, [3, 4]),
        (pa.array([0, 2**50, -(2**50), 253402300799, 253402300800], pa.timestamp("s")), INSTANTS, [0, 3]),
        (pa.array([0, 2**31 - 1, -(2**31)], pa.date32()), INSTANTS, [0]),
        (pa.array([1.0, float("nan"), None, float("-inf")]), pa.float64(), [0]),
        (pa.array([1, None], pa.int8()), pa.float64(), [0]),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_parquet_value_is_read_whatever_stands_beside_it_or_not_at_all(values, to, read):
    values = without_nulls(values, Reading())
    found = to_type(values, to, Reading(), is_key=True).is_valid().to_pylist()
    assert [row for row, is_read in enumerate(found) if is_read] == read
    for row in range(len(values)):
        assert to_type(values.slice(row, 1), to, Reading(), is_key=True).is_valid().to_pylist() == [row in read]


class TestAdvice:
    """Where many rows are refused, the line counts them, shows three, and says what would help."""

    def test_one_row_is_to_be_corrected(self, refused):
        error = refused(purchase_amount=["1", "$2", "3"])
        assert error.endswith(
            "row 2 (line 3): purchase_amount '$2' is not a finite number that a float64 can hold. "
            '1 of 3 rows is refused. If $ is a currency or a unit, declare currency="$".\n'
        )
        assert error.replace("$2", "1e999") != refused(purchase_amount=["1", "1e999", "3"])
        assert refused(purchase_amount=["1", "1e999", "3"]).endswith("Correct or remove those rows.\n")

    def test_many_rows_are_counted_and_three_shown(self, refused):
        error = refused(user_id=["1", "a", "2", "b", "c", "d"])
        assert "row 2 (line 3): user_id 'a' is not" in error
        assert "Nor is 'b' in row 4 (line 5) nor 'c' in row 5 (line 6). 4 of 6 rows are refused." in error
        assert "'d'" not in error
        assert "that row" not in error

    def test_a_whole_column_is_counted_at_once(self, project):
        ids = np.arange(300_000)
        project.write_transactions(*[f"u{user},1,2026-03-01,1" for user in ids])
        assert "300,000 of 300,000 rows" in project.fail("compute_features.py")

    @pytest.mark.parametrize(
        ("column", "value", "help"),
        [
            ("user_id", "a@b.example", "value_type=ValueType.STRING"),
            ("user_id", "550e8400-e29b-41d4-a716-446655440000", "value_type=ValueType.STRING"),
            ("user_id", "17001.0", "declare whole_with_point=True"),
            ("user_id", "NULL", 'declare null_values=["NULL"]'),
            ("user_id", "\uff17", "with the digits 0 to 9"),
            ("user_id", "12345678901234567890", "beyond 64 bits"),
            ("user_id", "12345678901234567890", "value_type=ValueType.STRING"),
            ("user_id", "1,234", "value_type=ValueType.STRING"),
            ("purchase_amount", "$134.09", 'declare currency="$"'),
            ("purchase_amount", "134 EUR", 'declare currency="EUR"'),
            ("purchase_amount", "0,25", 'declare decimal=","'),
            ("purchase_amount", "1,234.56", 'declare thousands=",".'),
            ("purchase_amount", "1.234,56", 'declare thousands=".", decimal=","'),
            ("purchase_amount", "1 234,56", 'declare thousands=" ", decimal=","'),
            ("purchase_amount", "1\u202f234,56", 'declare thousands=" ", decimal=","'),
            ("purchase_amount", "1'234.56", 'declare thousands="\'"'),
            ("purchase_amount", "(5.00)", 'declare negative="parentheses"'),
            ("purchase_amount", "5.00-", 'declare negative="trailing"'),
            ("purchase_amount", "n/a", 'declare null_values=["n/a"]'),
            ("purchase_amount", "red", 'Field(name="purchase_amount", dtype=String)'),
            ("purchase_amount", "1e400", "Correct or remove those rows"),
            ("timestamp", "12/1/2010 8:26", 'timestamp_format="%m/%d/%Y %H:%M" (or "%d/%m/%Y %H:%M", if the day'),
            ("timestamp", "12/13/2010 8:26", 'timestamp_format="%m/%d/%Y %H:%M".'),
            ("timestamp", "1700000000", 'declare timestamp_format="seconds"'),
            ("timestamp", "1700000000.25", 'declare timestamp_format="seconds"'),
            ("timestamp", "1700000000000", 'declare timestamp_format="milliseconds"'),
            ("timestamp", "2010-12-01 8:26:00", 'timestamp_format="%Y-%m-%d %H:%M:%S"'),
            ("timestamp", "2010-12-01 08:26:00 UTC", 'timestamp_format="%Y-%m-%d %H:%M:%S %Z"'),
            ("timestamp", "2010-12-01 08:26:00 CET", "declare the time_zone"),
            ("timestamp", "2010-12-01 08:26:00 +0100", 'timestamp_format="%Y-%m-%d %H:%M:%S %z"'),
            ("timestamp", "01.12.2010 08:26", 'timestamp_format="%d.%m.%Y %H:%M"'),
            ("timestamp", "01.12.2010", 'timestamp_format="%d.%m.%Y"'),
            ("timestamp", "20251201", 'timestamp_format="%Y%m%d"'),
            ("timestamp", "Dec 1, 2010", 'timestamp_format="%b %d, %Y"'),
            ("timestamp", "2010-12-01 08:26 PM", 'timestamp_format="%Y-%m-%d %I:%M %p"'),
            ("timestamp", "2010-12-01T08:26:00.1234567Z", "six digits"),
            ("timestamp", "44927.35", 'declare timestamp_format="days", origin="1899-12-30"'),
            ("timestamp", "743", 'timestamp_format="hours"'),
            ("timestamp", "n/a", 'declare null_values=["n/a"]'),
            ("timestamp", "2026-02-30", "Correct or remove those rows"),
        ],
    )
    def test_a_column_of_another_kind_is_told_what_to_declare(self, refused, column, value, help):
        error = refused(**{column: [value] * 4})
        assert "4 of 4 rows are refused" in error
        assert help in error

    def test_a_currency_and_a_decimal_comma_are_both_named(self, refused):
        error = refused(purchase_amount=["0,25 \u20ac"] * 2)
        assert 'currency="\u20ac"' in error
        assert 'decimal=","' in error

    @pytest.mark.parametrize(
        ("column", "values", "help"),
        [
            ("user_id", ["a", "b"], "value_type=ValueType.STRING"),
            ("user_id", [1.0, 2.0], "declare whole_with_point=True"),
            ("timestamp", [1, 2], 'declare timestamp_format="seconds"'),
            ("timestamp", ["12/13/2010"] * 2, 'timestamp_format="%m/%d/%Y"'),
            ("timestamp", pa.array([1, 2], pa.timestamp("ns")), "2 of 2 rows are refused. Cut the column to microsec"),
            ("user_id", pa.array([None, None], pa.int64()), 'where="user_id IS NOT NULL"'),
        ],
    )
    def test_so_is_a_parquet_column(self, project, column, values, help):
        assert help in project.fail("compute_features.py", *write_parquet(project, **{column: values}))

    @pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
    @pytest.mark.parametrize("header", [HEADER, "id,when,how much"])
    def test_another_separator(self, refused, separator, word, header):
        error = refused(f"{header}\n{GOOD}\n".replace(",", separator))
        declared = repr(separator).replace("'", '"')
        assert f"The columns seem to be separated by {word}: declare delimiter={declared}." in error

    def test_blanks_as_separators(self, refused):
        error = refused(" 00004 0001 19970101  2   29.33\n")
        assert 'separated by blanks: declare delimiter="whitespace", and column_names=[...]' in error

    @pytest.mark.parametrize(
        ("above", "option"),
        [("# made by a program", 'comment="#"'), ("My bank\n\nStatement", "skip_rows=3"), ("Report", "skip_rows=1")],
    )
    def test_lines_above_the_header(self, refused, above, option):
        number = above.count("\n") + 2
        error = refused(f"{above}\n{HEADER}\n{GOOD}\n")
        assert f"Line {number} names the columns: declare {option}." in error

    def test_a_note_of_another_separator_than_declared(self, refused):
        error = refused(f"sep=;\n{HEADER.replace(',', ';')}\n")
        assert "line 1: it notes that ';' separates values, and ',' is declared. Declare delimiter=';'." in error

    @pytest.mark.parametrize("name", ["User_ID", " user_id", "user id", "USER_ID ", "userId", "user-id"])
    def test_a_name_that_is_nearly_right(self, refused, name):
        error = refused(f"{HEADER}\n{GOOD}\n".replace("user_id", name))
        assert "the column user_id is missing" in error
        assert f'declare field_mapping={{"{name}": "user_id"}}' in error

    def test_a_parquet_file_gets_no_advice_for_csv(self, project):
        path = project.root / "transactions.parquet"
        for name, other in [("1", "..."), ("USER ID", "USER ID")]:
            pq.write_table(pa.table({name: [1]}), path)
            error = project.fail("compute_features.py", "--input", path)
            assert f'declare field_mapping={{"{other}": "user_id", ' in error
            assert "column_names" not in error

    def test_a_file_without_a_header(self, refused):
        assert 'column_names=["user_id", "timestamp", "purchase_amount", ...]' in refused(f"{GOOD}\n{GOOD}\n")

    def test_a_column_of_another_name(self, refused):
        error = refused("Kunde,Datum,Betrag\n1,2026-03-01,5\n")
        assert "the columns are 'Kunde', 'Datum', 'Betrag'" in error
        assert 'declare field_mapping={"...": "user_id", "...": "purchase_amount"}' in error
        assert 'timestamp_field="..."' in error

    @pytest.mark.parametrize(
        ("encoding", "named"),
        [
            ("utf-16", "utf-16"),
            ("utf-16-le", "utf-16-le"),
            ("utf-16-be", "utf-16-be"),
            ("latin-1", "latin-1"),
            ("cp1252", "cp1252"),
        ],
    )
    def test_another_encoding(self, refused, encoding, named):
        name = "caf\u20ac" if encoding == "cp1252" else "caf\xe9"
        error = refused(f"{HEADER}\n1,{name},2026-03-01,1\n".encode(encoding))
        assert f'declare encoding="{named}"' in error

    def test_a_byte_in_a_file_that_is_utf8_otherwise(self, refused):
        error = refused(f"{HEADER}\n1,caf\xe9,2026-03-01,1\n".encode() + b"1,caf\xe9,2026-03-01,1\n")
        assert "line 3: the byte 0xe9 is not UTF-8. What comes before is UTF-8" in error

    def test_a_file_of_another_kind(self, refused):
        assert ".csv.gz" in refused(gzip.compress(b"user_id"))
        assert "Excel" in refused(b"PK\x03\x04")
        assert ".parquet" in refused(b"PAR1")
        assert "JSON" in refused('{"user_id": 7}')

    def test_rows_of_another_length_are_counted_and_numbered_like_any_other(self, refused):
        error = refused(f"{HEADER}\n{GOOD}\n\n" + "1,1,2026-03-01,0,25\n" * 4 + f'"1\n",1\n{GOOD}\n')
        assert ", row 2 (line 4) has 5 values: '1,1,2026-03-01,0,25'; row 3 (line 5) has 5 values: " in error
        assert "row 4 (line 6) has 5 values: '1,1,2026-03-01,0,25'; the header has 4. 5 of 7 rows are refused." in error
        assert 'declare it: delimiter=";"' in error
        assert "decimal point" in error
        assert "skip_footer" not in error

    def test_one_of_many_is_not_a_matter_of_the_delimiter(self, refused):
        error = refused(f"{HEADER}\n{GOOD}\n1,1\n{GOOD}\n")
        assert ", row 2 (line 3) has 2 values: '1,1'; the header has 4. 1 of 3 rows is refused. Put a value" in error
        assert "delimiter=" not in error
        assert "skip_footer" not in error

    def test_those_at_the_end_may_be_a_footer(self, refused):
        error = refused(f"{HEADER}\n{GOOD}\n{GOOD}\nTotal,5\n\x1a")
        assert "2 of 4 rows are refused. Correct those rows. If the last 2 lines are no rows" in error
        assert "skip_footer=2" in error


class TestWhatComesFromOutside:
    """It is shown so that it can't act on a terminal, and not at any length."""

    ESCAPES = "\x1b[31m\x07\x9b2J\u202e\u2066\u200b\ud800\x7f"

    def test_an_error_line_is_printable(self, capsys):
        fail(UserError(f"file {self.ESCAPES}\n\tna\u00efve \u65e5\u672c is bad"))
        line = capsys.readouterr().err.removesuffix("\n")
        assert line.isprintable()
        escaped = r"\x1b[31m\x07\x9b2J\u202e\u2066\u200b\ud800\x7f"
        assert line == f"error: file {escaped} na\u00efve \u65e5\u672c is bad"

    @pytest.mark.parametrize("column", ["user_id", "timestamp", "purchase_amount"])
    def test_a_value(self, refused, column):
        error = refused(**{column: ["\x1b[31mred\u202e\x9b"]})
        assert error.removesuffix("\n").isprintable()
        assert r"'\x1b[31mred\u202e\x9b'" in error

    @pytest.mark.parametrize("column", ["user_id", "timestamp", "purchase_amount"])
    def test_a_long_value_is_cut_and_its_length_given(self, refused, column):
        error = refused(**{column: ["x" * 5_000_000]})
        assert f"{column} '{'x' * 80}'... (5,000,000 characters) is not" in error
        assert len(error) < 1000

    def test_a_long_row_is_cut(self, refused):
        error = refused(f"{HEADER}\n{GOOD},{'x' * 5_000_000}\x1b\n")
        assert "characters)" in error
        assert len(error) < 1000

    def test_names_of_columns(self, refused):
        error = refused(f"a\x1b[31m,{'x' * 5_000},{','.join(map(str, range(5_000)))}\n")
        assert error.removesuffix("\n").isprintable()
        assert "and 4,982 more" in error
        assert len(error) < 1000

    def test_names_of_files(self, refused):
        error = refused(HEADER, name="\x1b[31m\u202e.csv")
        assert error.removesuffix("\n").isprintable()
        assert r"\x1b[31m\u202e.csv" in error

    def test_a_file_name_that_is_no_text_is_shown(self, project):
        assert r"\udcff.csv" in project.fail("compute_features.py", "--input", os.fsdecode(b"\xff.csv"))

    def test_fields_of_a_parquet_type(self, project):
        fields = pa.struct([("\x1b[31m", pa.int64()), *((f"f{n}", pa.int64()) for n in range(2000))])
        values = pa.array([{"f1": 1}, {"f1": 2}], fields)
        error = project.fail("compute_features.py", *write_parquet(project, purchase_amount=values))
        assert error.removesuffix("\n").isprintable()
        assert r"struct<\x1b[31m" in error
        assert len(error) < 1000

    def test_what_is_printed_where_all_is_well(self, project):
        project.write_transactions(GOOD)
        out = project.succeed("compute_features.py", "--output", project.root / "\x1b[31m.parquet")
        assert r"\x1b[31m.parquet" in out
        assert "\x1b" not in out

    def test_a_progress_bar(self, monkeypatch):
        terminal = io.StringIO()
        monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("sys.stderr", terminal)
        assert progress("read \x1b[31m.csv", None, "B").desc == r"read \x1b[31m.csv"


@pytest.fixture
def bomb(project):
    """A Parquet file of a few hundred kilobytes with more rows than any memory holds: one group of rows many times."""
    path, rows = project.root / "bomb.parquet", 1 << 20
    table = pa.table(
        {
            "user_id": pa.array(np.ones(rows, np.int64)),
            "timestamp": pa.array(np.zeros(rows, np.int64)).cast(UTC_MICROSECONDS),
            "purchase_amount": pa.array(np.ones(rows)),
        }
    )
    pq.write_table(table, path, compression="zstd")
    metadata = pq.read_metadata(path)
    pages = path.read_bytes()[: -8 - int.from_bytes(path.read_bytes()[-8:-4], "little")]
    while metadata.num_rows * 24 < 2 * psutil.virtual_memory().total:
        metadata.append_row_groups(metadata)
    footer = io.BytesIO()
    metadata.write_metadata_file(footer)
    path.write_bytes(pages + footer.getvalue()[4:])
    assert pq.read_metadata(path).num_rows == metadata.num_rows
    return path


def test_a_small_parquet_file_of_more_rows_than_memory_holds_is_refused_at_once(project, bomb):
    error = project.fail("compute_features.py", "--input", bomb)
    assert f"it has {pq.read_metadata(bomb).num_rows:,} rows, which take " in error
    assert "GB of memory" in error
    assert "--incremental" in error


@pytest.fixture
def million(project):
    """A Parquet file of a million rows, for which 96 MB are needed."""
    path = project.root / "million.parquet"
    columns = {"user_id": np.arange(1_000_000), "purchase_amount": np.ones(1_000_000)}
    pq.write_table(pa.table(columns | {"timestamp": pa.array([NOON]).take(np.zeros(1_000_000, int))}), path)
    return path


def test_the_address_space_that_a_process_may_take_is_respected(project, million):
    _, hard = before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 90_000_000, hard))
    try:
        with pytest.raises(UserError, match=r"1,000,000 rows, which take 0\.1 GB of memory"):
            read_part(million, PURCHASES)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert read_part(million, PURCHASES).num_rows == 1_000_000


@pytest.mark.parametrize(
    ("limit", "used", "cached", "fits"),
    [("max", 0, 0, True), (200_000_000, 50_000_000, 0, True), (200_000_000, 150_000_000, 0, False),
     (200_000_000, 150_000_000, 80_000_000, True)],
)  # fmt: skip
def test_the_memory_that_a_container_may_take_is_respected(project, million, monkeypatch, limit, used, cached, fits):
    group = project.root / "group"
    group.mkdir()
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", group)
    if fits:
        assert read_part(million, PURCHASES).num_rows == 1_000_000
        return
    with pytest.raises(UserError, match=r"1,000,000 rows, which take 0\.1 GB of memory"):
        read_part(million, PURCHASES)


def test_a_column_of_text_that_would_unpack_to_gigabytes_is_refused_without_unpacking_it(project):
    text = pa.array(["x" * 100_000]).dictionary_encode()
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), text.dictionary)
    path = project.root / "text.parquet"
    columns = {"timestamp": [NOON] * 100_000, "purchase_amount": [1.0] * 100_000}
    pq.write_table(pa.table({"user_id": ids} | columns), path, store_schema=False)
    before = psutil.Process().memory_info().rss
    error = project.fail("compute_features.py", "--input", path)
    assert "(100,000 characters) is not a whole number" in error
    assert "100,000 of 100,000 rows are refused" in error
    assert psutil.Process().memory_info().rss - before < 1 << 30
    pq.write_table(pa.table({"user_id": np.arange(100_000), "note": ids} | columns), path, store_schema=False)
    assert "100,000 feature rows" in project.succeed("compute_features.py", "--input", path)


def test_the_oracle_takes_a_packed_parquet_file_in_parts(project):
    rows = 1_000_000
    columns = {
        "user_id": np.arange(rows) // 1000,
        "timestamp": np.zeros(rows, "M8[us]"),
        "purchase_amount": np.ones(rows),
    }
    path = project.root / "packed.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < raw.BYTES_PER_PART
    assert raw_files.weight(path) > 4 * raw.BYTES_PER_PART


def without_privileges() -> str:
    """What to begin a command with, so that the permissions of files hold for it."""
    if os.geteuid():
        return ""
    if not shutil.which("setpriv"):
        pytest.skip("permissions do not hold for root, and there is no setpriv")
    return "setpriv --inh-caps=-all --bounding-set=-all "


@pytest.mark.parametrize("name", ["locked.parquet", pytest.param("locked.csv", marks=pytest.mark.scale)])
def test_a_file_that_may_not_be_read_is_not_called_a_damaged_one(project, name):
    path = project.root / name
    pq.write_table(pa.table({"user_id": [1]}), path)
    path.chmod(0)
    outcome = project.shell(f"{without_privileges()}python compute_features.py --input {path}")
    assert outcome.status == 2
    assert f"{name}: " in outcome.err
    assert "Permission denied" in outcome.err
    assert "Parquet file" not in outcome.err


def test_features_that_may_not_be_read_are_not_called_damaged(project):
    project.prepare()
    project.features.chmod(0)
    outcome = project.shell(f"{without_privileges()}python materialize_to_online.py")
    assert outcome.status == 2
    assert "user_features.parquet: it can't be read: Permission denied" in outcome.err
    assert "not a Parquet file" not in outcome.err


def test_a_full_disk_below_the_oracle_is_named(project):
    project.write_transactions(GOOD)

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*TMPDIR") as refusal:
        raw.RawTransactions(PURCHASES, 1, Full()).sort_away([[(1, NOON, "10.50")]])
    assert "can't read" not in str(refusal.value)


NAMES = ["[a]", "q?", "**", "a'b [x", "[!z]", "s*", "{x,y}", "a'b", "50%", "ta~b", "[a"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_name_that_could_be_a_pattern_is_the_name_of_one_file(project, name, suffix):
    for stem, user in [("a", 1), ("qx", 2), ("sx", 3), ("x", 4), (name, 5)]:
        table = pa.table({"user_id": [user], "timestamp": [NOON], "purchase_amount": [1.0]})
        path = project.root / f"{stem}{suffix}"
        pq.write_table(table, path) if suffix == ".parquet" else pacsv.write_csv(table, path)
    assert read_part(path, PURCHASES)["user_id"].to_pylist() == [5]
    assert read_by_oracle(path) == [5]


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_features_of_such_a_name_are_served_and_no_others(project, monkeypatch, name, kind):
    path = project.root / "out" / (f"{name}.parquet" if kind == "file" else name)
    for place in [path, *(path.with_name(stem + path.suffix) for stem in ("a", "qx", "sx", "x", "y"))]:
        users = [1, 2, 3] if place == path else [4]
        now = datetime.now(UTC).isoformat()
        project.write_transactions(*(f"{user},1,{now},{user}" for user in users))
        arguments = ["--incremental"] if kind == "folder" else []
        project.succeed("compute_features.py", "--output", place, *arguments)
        if place == path:
            project.transactions.rename(project.root / "kept.csv")
    monkeypatch.setenv("FEATURE_STORE_OFFLINE_PATH", str(path))
    project.apply()
    assert project.succeed("materialize_to_online.py").startswith("3 users")
    assert "3 users, 2 features" in project.succeed("demo_fixed.py", "--input", project.root / "kept.csv")
