"""Transactions and features held to what is expected of them, by Great Expectations itself, as people run it."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parity import Expectation, ago, same_weekday, usually
from parity.compute.windows import aggregate
from parity.edge.errors import UserError
from parity.transactions.read import read_transactions
from tests.definition import AVERAGE, TOTAL, aggregation, customers, purchases, table, user

pytest.importorskip("great_expectations")

from parity.quality.check import Checker, alone

pytestmark = pytest.mark.scale

AT = datetime(2026, 3, 1, tzinfo=UTC)
HEADER = "user_id,product_id,timestamp,purchase_amount"
BETWEEN = "expect_column_values_to_be_between"
RANGE = Expectation(BETWEEN, column="purchase_amount", min_value=0, max_value=500)
ROW_COUNT = "expect_table_row_count_to_be_between"


def shop(folder, *expectations, **options):
    return table(
        folder,
        "purchases",
        [user],
        [aggregation("mean", "purchase_amount", 3, AVERAGE), aggregation("count", "purchase_amount", name=TOTAL)],
        expectations=list(expectations),
        **options,
    )


def purchase(day, amount=10, user_id=1, product=5, time="12:00:00"):
    return f"{user_id},{product},{AT - timedelta(days=day):%Y-%m-%d}T{time}Z,{amount}"


def write(place, *rows):
    place.write_text("\n".join([HEADER, *rows, ""]))


def check(table, place=None, at=AT, incremental=False):
    """What transactions, and features if there are any, come to."""
    checker = Checker(place.parent if place else table.transactions.parent / "quality", at, incremental)
    with checker.transactions((place or table.transactions, (table,))) as transactions:
        if transactions is not None and (table.transactions.parent / f"{table.name}.parquet").exists():
            checker.features(table, transactions)
    return checker.judged


def lines(*arguments, **options):
    return [line for judged in check(*arguments, **options) for line in judged.lines]


def compute(table):
    rows = read_transactions(table.transactions, table.definition)
    pq.write_table(aggregate(rows, table.definition), table.source.path)
    return pq.read_table(table.source.path)


class TestTransactions:
    def test_a_failed_expectation_is_one_line_with_count_share_and_three_examples(self, tmp_path):
        write(
            tmp_path / "transactions.csv",
            *(purchase(3, amount, time=f"0{n}:00:00") for n, amount in enumerate([600, 1, 700, 800, 900])),
        )
        [line] = lines(shop(tmp_path, RANGE))
        assert line.startswith(f"purchases_transactions: {RANGE}: 4 of 5 values (80 %) on 2026-02-26: 600 (")
        assert line.endswith("transactions.csv, row 4)")
        assert [f"row {row})" in line for row in (1, 3, 4, 5)] == [True, True, True, False]

    def test_the_same_key_and_instant_in_two_files_is_found(self, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        write(folder / "a.csv", purchase(3), purchase(2))
        write(folder / "b.csv", purchase(3))
        unique = Expectation("expect_compound_columns_to_be_unique", column_list=["user_id", "timestamp"])
        [line] = lines(shop(tmp_path, unique, transactions="in"))
        assert "2 of 2 rows (100 %) on 2026-02-26" in line
        assert "a.csv, row 1" in line
        assert "b.csv, row 1" in line

    def test_what_is_declared_of_keys_and_columns_need_not_be_declared_again(self, tmp_path):
        write(tmp_path / "transactions.csv", purchase(3), purchase(3, "", time="13:00:00"), purchase(2, user_id=""))
        found = lines(shop(tmp_path))
        assert [line.split(": ")[1] for line in found] == [
            "expect_column_values_to_not_be_null(column='user_id')",
            "expect_column_values_to_not_be_null(column='purchase_amount')",
        ]

    def test_what_can_t_be_read_as_declared_has_failed(self, tmp_path):
        write(tmp_path / "transactions.csv", purchase(3), purchase(3, "much"))
        [line] = lines(shop(tmp_path, RANGE))
        assert "row 2 (line 3): purchase_amount 'much' is not a finite number" in line

    def test_a_column_that_is_not_there_has_failed(self, tmp_path):
        (tmp_path / "transactions.csv").write_text("user_id,timestamp,purchase_amount\n1,2026-02-01T00:00:00Z,1\n")
        product = Expectation("expect_column_values_to_not_be_null", column="product_id", mostly=0.1)
        [line] = lines(shop(tmp_path, product))
        assert "transactions.csv: it has no column product_id; the columns are 'user_id', 'timestamp'" in line

    def test_a_file_without_rows_and_an_unknown_expectation_can_t_be_checked(self, tmp_path):
        write(tmp_path / "transactions.csv")
        with pytest.raises(UserError, match="it has no rows"):
            check(shop(tmp_path))
        write(tmp_path / "transactions.csv", purchase(3))
        with pytest.raises(UserError, match="has no expectation of that name"):
            check(shop(tmp_path, Expectation("expect_the_unexpected")))
        with pytest.raises(UserError, match="extra fields not permitted"):
            check(shop(tmp_path, Expectation(BETWEEN, column="purchase_amount", min=3)))
        of_kinds = {"column_A": "timestamp", "column_B": "purchase_amount"}
        with pytest.raises(UserError, match="can't be asked of this data"):
            check(shop(tmp_path, Expectation("expect_column_pair_values_a_to_be_greater_than_b", **of_kinds)))

    def test_freshness_is_asked_of_the_newest_day_alone(self, tmp_path):
        fresh = Expectation(
            "expect_column_max_to_be_between", column="timestamp", min_value=ago(days=2), newest_day=True
        )
        write(tmp_path / "transactions.csv", purchase(9), purchase(3))
        [line] = lines(shop(tmp_path, fresh))
        assert "1 of 1 days (100 %): 2026-02-26T12:00:00Z on 2026-02-26" in line
        assert lines(shop(tmp_path, fresh), at=AT - timedelta(days=1)) == []

    def test_a_warning_fails_nothing(self, tmp_path):
        write(tmp_path / "transactions.csv", purchase(3, -1))
        warning = Expectation(BETWEEN, column="purchase_amount", min_value=0, severity="warning")
        [judged] = check(shop(tmp_path, warning))
        assert judged.is_fine
        assert "1 of 1 values" in judged.remarks[0].line("x")

    def test_a_share_of_few_rows_is_no_alarm_and_of_many_one(self, tmp_path):
        zeros = Expectation(
            "expect_column_values_to_not_be_in_set", column="purchase_amount", value_set=[0], mostly=usually(0.9)
        )
        few = [purchase(3, 0, time="01:00:00"), purchase(3, 0, time="02:00:00"), purchase(3)]
        write(tmp_path / "transactions.csv", *few)
        assert lines(shop(tmp_path, zeros)) == []
        write(tmp_path / "transactions.csv", *few * 20)
        [line] = lines(shop(tmp_path, zeros))
        assert "40 of 60 values (66.7 %)" in line

    def test_volume_is_that_of_the_same_weekday(self, tmp_path):
        volume = Expectation(ROW_COUNT, min_value=same_weekday(0.6), max_value=same_weekday(1.5))
        of_day = {day: 400 if day % 7 == 3 else 100 for day in range(1, 43)}

        def rows(of_day):
            return [purchase(day, user_id=n, time="01:00:00") for day, count in of_day.items() for n in range(count)]

        write(tmp_path / "transactions.csv", *rows(of_day))
        assert lines(shop(tmp_path, volume)) == []
        write(tmp_path / "transactions.csv", *rows(of_day | {3: 100, 4: 400}))
        [line] = lines(shop(tmp_path, volume))
        assert "100 on 2026-02-26" in line
        assert "400 on 2026-02-25" in line
        write(tmp_path / "transactions.csv", *rows({day: count for day, count in of_day.items() if day > 2}))
        [line] = lines(shop(tmp_path, volume))
        assert "0 on 2026-02-27" in line
        assert "0 on 2026-02-28" in line
        assert lines(shop(tmp_path, volume), at=AT - timedelta(days=2)) == []  # those days are still to come

    def test_results_suites_and_data_docs_are_great_expectations_own(self, tmp_path):
        write(tmp_path / "transactions.csv", purchase(3, -1), purchase(2))
        check(shop(tmp_path, RANGE))
        gx = tmp_path / "quality" / "gx"
        [suite] = (gx / "expectations").glob("*purchases_transactions.json")
        assert RANGE.type in suite.read_text()
        results = [json.loads(file.read_text()) for file in (gx / "uncommitted" / "validations").rglob("*.json")]
        assert sorted(result["success"] for result in results) == [False, True]
        page = Checker(tmp_path / "quality", AT).store.build_docs(AT)
        assert "purchases_transactions" in page.read_text()


class TestIncremental:
    def test_only_days_that_changed_or_failed_are_asked_again(self, tmp_path):
        file, held = tmp_path / "transactions.csv", shop(tmp_path, RANGE)
        days = [purchase(day) for day in range(9, 0, -1)]
        write(file, *days)
        assert check(held)[0].days == 9
        assert check(held, incremental=True)[0].days == 1  # the newest, of which more is asked
        write(file, *days, purchase(5, 600, user_id=2))
        assert check(held, incremental=True)[0].days == 2
        assert len(check(held, incremental=True)[0].lines) == 1
        write(file, *days)
        assert check(held, incremental=True)[0].lines == []
        assert check(held)[0].days == 9

    def test_other_expectations_are_asked_of_all_days(self, tmp_path):
        write(tmp_path / "transactions.csv", *(purchase(day) for day in range(9, 0, -1)))
        check(shop(tmp_path, RANGE))
        other = Expectation(BETWEEN, column="purchase_amount", max_value=5)
        [line] = lines(shop(tmp_path, other), incremental=True)
        assert "9 of 9 values (100 %) on 9 days, the first 2026-02-20" in line

    def test_notes_that_are_damaged_are_as_none(self, tmp_path):
        write(tmp_path / "transactions.csv", purchase(3), purchase(2))
        check(shop(tmp_path, RANGE))
        for note in (tmp_path / "quality" / "days").iterdir():
            note.write_text("{")
        assert check(shop(tmp_path, RANGE), incremental=True)[0].days == 2


class TestFeatures:
    def prepare(self, folder):
        held = purchases(folder)
        write(held.transactions, purchase(9, 10), purchase(8, 20), purchase(3, 30), purchase(3, 90, user_id=2))
        return held, compute(held)

    @pytest.mark.parametrize(
        ("column", "row", "value", "expected"),
        [
            (AVERAGE, 1, 20.5, "1 of 1 rows"),  # the largest of its window is 20
            (AVERAGE, 2, 29.5, "1 of 2 rows"),
            (TOTAL, 2, 2, "rise of purchases by row"),
            (TOTAL, 3, 0, "min_value=1"),
            (AVERAGE, 0, None, "expect_column_values_to_not_be_null"),
        ],
    )
    def test_what_can_t_be_of_an_aggregation_is_found(self, tmp_path, column, row, value, expected):
        held, features = self.prepare(tmp_path)
        assert lines(held) == []
        values = features[column].to_pylist()
        values[row] = value
        place = features.schema.get_field_index(column)
        free = pa.field(column, features.schema.field(place).type)
        pq.write_table(features.set_column(place, free, pa.array(values, free.type)), held.source.path)
        [line] = lines(held)
        assert expected in line
        assert f"purchases.parquet, row {row + 1})" in line
        assert "user_id" in line

    def test_features_that_are_as_they_were_are_not_asked_again(self, tmp_path):
        held, _ = self.prepare(tmp_path)
        assert [judged.days for judged in check(held)] == [3, 3]
        assert [judged.days for judged in check(held, incremental=True)] == [1, 1]

    def test_a_row_that_is_there_twice_is_found(self, tmp_path):
        held, features = self.prepare(tmp_path)
        pq.write_table(pa.concat_tables([features, features.slice(1, 1)]), held.source.path)
        assert any("expect_compound_columns_to_be_unique" in line for line in lines(held))

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("where", [None, "status = 'paid'"])
    def test_features_of_any_orders_are_as_their_definition_says(self, tmp_path, seed, where):
        random = np.random.default_rng(seed)
        count = 500
        orders = pd.DataFrame(
            {
                "customer_id": random.choice(["a", "b", "c"], count),
                "store_id": 1,
                "timestamp": [
                    f"2026-02-{day:02}T{hour:02}:00:00Z" for day, hour in random.integers([1, 0], [6, 24], (count, 2))
                ],
                "total": random.normal(0, 1e6, count).round(random.integers(0, 9)),
                "quantity": random.integers(-5, 5, count),
                "sku": random.choice(["x", "y"], count),
                "status": random.choice(["paid", "open"], count),
            }
        )
        held = customers(tmp_path, where)
        orders.to_csv(held.transactions, index=False)
        compute(held)
        found = check(held)
        assert [judged.lines for judged in found] == [[], []]
        assert found[1].rows > 150


class TestGate:
    def declare(self, project, *expectations):
        """Let features.py expect something of its transactions."""
        file = project.root / "feature_repo" / "features.py"
        text = file.read_text().replace("from parity import ", "from parity import Expectation, ")
        given = ", ".join(expectations)
        file.write_text(text.replace("    schema=[Field(", f"    expectations=[{given}],\n    schema=[Field(", 1))
        return "-c", project.root / "feature_repo"

    def test_nothing_is_replaced_by_what_is_not_as_expected(self, project):
        repository = self.declare(project, f"Expectation('{BETWEEN}', column='purchase_amount', max_value=1000)")
        project.succeed("generate_synthetic_data.py")
        assert "as expected" in project.succeed("compute_features.py", *repository, "--require-quality")
        before = project.features.read_bytes(), project.features.stat().st_mtime_ns
        project.succeed("compute_features.py", *repository)
        assert project.features.read_bytes() == before[0]  # what was checked is what is computed without a check
        before = project.features.read_bytes(), project.features.stat().st_mtime_ns
        project.transactions.write_text(project.transactions.read_text() + "1,101,2026-01-01T00:00:00Z,5000\n")
        outcome = project.run("compute_features.py", *repository, "--require-quality")
        assert outcome.status == 1
        assert "(user_transactions.csv, row 101)" in outcome.out.replace(f"{project.root}/", "")
        assert "nothing was computed or replaced" in outcome.out
        assert before == (project.features.read_bytes(), project.features.stat().st_mtime_ns)

    def test_the_command_says_all_by_its_status(self, project):
        repository = self.declare(project, f"Expectation('{BETWEEN}', column='purchase_amount', max_value=1000)")
        error = project.fail("parity/__main__.py", "quality", *repository)
        assert "there is no such file" in error
        project.succeed("generate_synthetic_data.py")
        project.succeed("compute_features.py")
        out = project.succeed("parity/__main__.py", "quality", *repository)
        assert out.count("as expected") == 2
        assert (project.root / "data/quality/gx/uncommitted/data_docs/local_site/index.html").exists()
        with open(project.transactions, "a") as file:
            file.write("1,101,2026-01-01T00:00:00Z,5000\n")
        outcome = project.run("parity/__main__.py", "quality", *repository, "--incremental")
        assert outcome.status == 1
        assert outcome.out.count("failed: ") == 1

    def test_rows_in_quarantine_are_counted_in_the_certificate(self, project):
        held = f"Expectation('{BETWEEN}', column='purchase_amount', max_value=1000, quarantine=True)"
        repository = self.declare(project, held)
        project.succeed("generate_synthetic_data.py")
        with open(project.transactions, "a") as file:
            file.write("1,101,2026-01-01T00:00:00Z,5000\n")
        project.apply()
        out = project.succeed("compute_features.py", *repository, "--require-quality")
        assert "1 of 101 rows set aside" in out
        project.succeed("materialize_to_online.py")
        project.succeed("demo_fixed.py", "--certificate", project.root / "certificate.json")
        [view] = json.loads((project.root / "certificate.json").read_text())["views"]
        assert view["quarantine"]["rows"] == 1
        assert view["quarantine"]["of"] == 101
        aside = project.root / "data/quality/quarantine/user_transactions/set_aside/user_transactions.csv"
        assert aside.read_text().splitlines()[1:] == ["1,101,2026-01-01T00:00:00Z,5000"]
        with open(project.transactions, "a") as file:
            file.write("2,101,2026-01-02T00:00:00Z,6000\n")
        found = project.run("parity/__main__.py", "quality", *repository)
        assert found.status == 1, "what came since is seen, though features are of what was accepted"
        assert "2 of 2 values (100 %) on 2 days, the first 2026-01-01" in found.out
        assert "user_transactions.csv, row 102)" in found.out
        accepted = aside.parents[1] / "accepted" / aside.name
        assert project.run("parity/__main__.py", "quality", *repository, "--input", accepted).status == 0

    def test_a_quarantine_stays_as_long_as_the_features_that_are_computed_of_it(self, project):
        held = f"Expectation('{BETWEEN}', column='purchase_amount', max_value=1000, quarantine=True)"
        repository = self.declare(project, held, "Expectation('expect_table_row_count_to_be_between', max_value=150)")
        project.succeed("generate_synthetic_data.py")
        good = project.transactions.read_text()
        project.transactions.write_text(good + "1,101,2026-01-01T00:00:00Z,5000\n")
        project.succeed("compute_features.py", *repository, "--require-quality")
        kept = project.root / "data/quality/quarantine/user_transactions"
        before = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()}
        assert len(before) == 3
        rows = "".join(f"{n},101,2026-01-01T00:00:{n % 60:02}Z,{5000 + n}\n" for n in range(1, 200))
        project.transactions.write_text(good + rows)
        assert project.run("compute_features.py", *repository, "--require-quality").status == 1
        assert {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()} == before


class TestDamage:
    @pytest.mark.parametrize("share", [0, 0.5])
    def test_what_a_run_that_was_killed_left_is_no_trouble_to_the_next(self, tmp_path, capfd, share):
        write(tmp_path / "transactions.csv", purchase(3, -1))
        assert len(lines(shop(tmp_path, RANGE))) == 1
        files = [file for file in (tmp_path / "quality").rglob("*.*") if file.suffix in (".yml", ".json")]
        assert len(files) >= 5
        for file in files:
            text = file.read_text()
            file.write_text(text[: int(share * len(text))])
            assert len(lines(shop(tmp_path, RANGE), incremental=True)) == 1, file
        assert (tmp_path / "quality/gx/great_expectations.damaged").exists()
        assert "Error" not in "".join(capfd.readouterr())

    def test_two_runs_at_once_keep_out_of_each_other_s_way(self, tmp_path, monkeypatch):
        monkeypatch.setattr("parity.quality.check.SECONDS_TO_WAIT", 0.1)
        other = alone(tmp_path / "quality")
        with alone(tmp_path / "quality"), pytest.raises(UserError, match="another run keeps its results here"):
            other.__enter__()
        with alone(tmp_path / "quality"):
            assert (tmp_path / "quality").is_dir()


class TestPage:
    def test_what_failed_is_first_with_links_to_its_days(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "transactions.csv", purchase(3, -1), purchase(2, 700), purchase(1))
        checker = Checker(Path("quality"), AT)
        with checker.transactions((tmp_path / "transactions.csv", (shop(tmp_path, RANGE),))):
            page = checker.publish()
        text = page.read_text()
        assert "2 of 2 values (100 %) on 2 days, the first 2026-02-26" in text
        links = [unquote(link) for link in re.findall(r'<a href="([^"]+)"', text)]
        assert [link.split("/")[-3] for link in links[:-1]] == ["2026-02-27", "2026-02-26"]
        assert all((page.parent / link).exists() for link in links)
        assert "<script" not in text
        assert "http" not in text
