"""generate_synthetic_data.py"""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

END = "2026-03-01T12:00:00+00:00"


def read(path):
    return pd.read_csv(path, parse_dates=["timestamp"])


@pytest.mark.smoke
def test_by_default_100_purchases_of_20_users_over_the_30_days_before_now(project):
    project.succeed("generate_synthetic_data.py")
    purchases = read(project.transactions)
    now = pd.Timestamp.now("UTC")
    assert list(purchases) == ["user_id", "product_id", "timestamp", "purchase_amount"]
    assert len(purchases) == 100
    assert set(purchases.user_id) == set(range(1, 21))
    assert purchases.product_id.between(100, 149).all()
    assert purchases.timestamp.is_monotonic_increasing
    assert purchases.timestamp.between(now - pd.Timedelta(days=30, minutes=1), now).all()
    assert (purchases.purchase_amount.round(2) == purchases.purchase_amount).all()


def test_the_draws_are_those_of_numpys_legacy_stream_in_the_documented_order(project):
    project.succeed("generate_synthetic_data.py", "--end", END)
    np.random.seed(42)
    users = np.random.choice(range(1, 21), 100)
    products = np.random.choice(range(100, 150), 100)
    start = pd.Timestamp(END) - pd.Timedelta(days=30)
    times = []
    for _ in range(100):
        day, hour, minute = np.random.randint(0, 30), np.random.randint(0, 24), np.random.randint(0, 60)
        times.append(start + pd.Timedelta(days=day, hours=hour, minutes=minute))
    amounts = np.random.gamma(2, 25, 100).round(2)
    columns = {"user_id": users, "product_id": products, "timestamp": times, "purchase_amount": amounts}
    expected = pd.DataFrame(columns).sort_values("timestamp", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(read(project.transactions), expected, check_dtype=False)


@pytest.mark.parametrize("end", ["2020-02-29", "2026-03-29T01:30:00+01:00", "2031-12-31T23:59:59.999999Z"])
def test_the_latest_3_day_average_of_user_1_is_95_32_whatever_the_date(project, end):
    project.succeed("generate_synthetic_data.py", "--end", end)
    project.succeed("compute_features.py")
    features = pq.read_table(project.features).to_pandas()
    latest = features[features.user_id == 1].sort_values("event_timestamp").iloc[-1]
    assert latest.user_avg_3day_purchase_amount == 95.32


def test_the_same_seed_and_end_give_the_same_bytes(project):
    written = []
    for seed in (7, 7, 8):
        project.succeed("generate_synthetic_data.py", "--seed", seed, "--end", END, "--rows", 1000)
        written.append(project.transactions.read_bytes())
    assert written[0] == written[1] != written[2]


def test_options_choose_rows_users_days_and_a_parquet_output(project, tmp_path):
    output = tmp_path / "elsewhere" / "purchases.parquet"
    arguments = ["--rows", 5000, "--users", 3, "--days", 2, "--end", END, "--output", output]
    project.succeed("generate_synthetic_data.py", *arguments)
    purchases = pq.read_table(output).to_pandas()
    assert len(purchases) == 5000
    assert set(purchases.user_id) == {1, 2, 3}
    span = pd.Timestamp(END) - purchases.timestamp
    assert span.max() <= pd.Timedelta(days=2)
    assert span.min() > pd.Timedelta(0)
    assert not project.transactions.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rows", "0"],
        ["--rows", "-1"],
        ["--rows", "many"],
        ["--users", "0"],
        ["--days", "0"],
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--end", "yesterday"],
        ["--end", "9999-12-31T23:59:59-05:00"],
        ["--days", "800000"],
        ["--output", "purchases.xlsx"],
    ],
    ids=" ".join,
)
def test_a_senseless_option_is_refused_and_the_earlier_file_is_kept(project, arguments):
    project.succeed("generate_synthetic_data.py")
    before = project.transactions.read_bytes()
    outcome = project.run("generate_synthetic_data.py", *arguments)
    assert outcome.status == 2
    assert "error" in outcome.err
    assert "Traceback" not in outcome.err
    assert project.transactions.read_bytes() == before


def test_an_output_that_cannot_be_written_is_an_error_for_people(project, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in project.fail("generate_synthetic_data.py", "--output", tmp_path / "file" / "out.csv")
