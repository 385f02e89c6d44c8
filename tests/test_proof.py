"""What demo_fixed.py does beside comparing: explain, go back in time, repair, sample, certify."""

import contextlib
import csv
import json
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import yaml
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

import parity.proof.compare
from parity.definition.table import Rule
from parity.edge.errors import UserError
from parity.edge.files import filesystem_of
from parity.proof import causes
from parity.proof.oracle import evaluate, evaluate_each, expected
from parity.proof.raw import Purchase, raw_transactions
from tests.conftest import BIN, ROOT
from tests.repository.features import user_purchase_features
from tests.test_demo import hashes

DEFINITION = user_purchase_features.definition
RULES = DEFINITION.rules
AVERAGE, TOTAL = (rule.name for rule in RULES)


@pytest.fixture
def ready(project):
    project.prepare()
    return project


def certified(path) -> dict:
    """What a certificate says of one feature view, and of all."""
    content = json.loads(path.read_text())
    [view] = content.pop("views")
    return content | view


def purchases(project) -> list[tuple[int, datetime, str]]:
    with open(project.transactions, newline="") as file:
        rows = csv.DictReader(file)
        return [(int(r["user_id"]), datetime.fromisoformat(r["timestamp"]), r["purchase_amount"]) for r in rows]


class TestTimeTravel:
    @pytest.mark.smoke
    def test_at_any_instant_the_three_sides_agree(self, ready):
        events = [time for _, time, _ in purchases(ready)]
        for at in (events[5], events[40] - timedelta(microseconds=1), events[70] + timedelta(days=1, seconds=1)):
            out = ready.succeed("demo_fixed.py", "--at", at.isoformat())
            assert f"20 users, 2 features, at {at.isoformat()}" in out
            assert "match 40," in out

    def test_what_came_later_is_said_not_to_be_looked_at(self, ready, tmp_path):
        at = sorted(time for _, time, _ in purchases(ready))[-3]
        out = ready.succeed("demo_fixed.py", "--at", at.isoformat(), "--certificate", tmp_path / "c.json")
        later = sum(time > at for _, time, _ in purchases(ready))
        assert f"  not looked at: {later} row{'s' * (later > 1)} of the history from after that instant\n" in out
        assert f"every value of every user, up to {at.isoformat()}.\n" in out
        content = certified(tmp_path / "c.json")
        assert content["history"]["rows_after_at_not_looked_at"] == later
        assert content["history"]["rows"] == len(purchases(ready)) - later
        assert "not looked at" not in ready.succeed("demo_fixed.py")

    def test_it_shows_what_was_known_then(self, ready):
        rows = [(time, amount) for user, time, amount in purchases(ready) if user == 1]
        at = rows[1][0]
        out = ready.succeed("demo_fixed.py", "--at", at.isoformat(), "--user", 1)
        assert re.search(rf"{TOTAL} +2 +2 +0 +2\n", out)

    def test_nothing_of_the_replay_stays_in_redis(self, ready):
        before = set(ready.client.keys())
        ready.succeed("demo_fixed.py", "--at", purchases(ready)[50][1].isoformat())
        assert set(ready.client.keys()) - before == set()

    def test_a_replay_that_fails_half_way_leaves_nothing_either(self, ready, monkeypatch):
        before = set(ready.client.keys())

        def lost(*_):
            raise redis.ConnectionError("lost")

        monkeypatch.setattr("parity.proof.replay.materialize_all", lambda *args: lost())
        assert "does not answer: lost" in ready.fail("demo_fixed.py", "--at", purchases(ready)[50][1].isoformat())
        assert set(ready.client.keys()) - before == set()

    def test_a_present_skew_does_not_touch_the_past(self, ready):
        ready.client.delete(hashes(ready)[3])
        ready.succeed("demo_fixed.py", "--at", purchases(ready)[-1][1].isoformat())
        assert ready.run("demo_fixed.py").status == 1

    @pytest.mark.parametrize(
        ("at", "message"), [("2999-01-01", "lies in the future"), ("1999-01-01", "has no rows up to 1999")]
    )
    def test_an_instant_of_which_nothing_is_known_is_an_error(self, ready, at, message):
        assert message in ready.fail("demo_fixed.py", "--at", at)


class TestExplain:
    def test_the_window_is_laid_open(self, ready):
        out = ready.succeed("demo_fixed.py", "--explain", 1)
        rows = [(time, amount) for user, time, amount in purchases(ready) if user == 1]
        last = rows[-1][0]
        for time, _ in rows:
            where = "inside" if time >= last - RULES[0].time_window else "outside"
            assert re.search(rf"{where} +{re.escape(time.isoformat())} ", out)
        assert "count 5: count 5" in out
        assert re.search(rf"{AVERAGE} +95\.32 +95\.32 +95\.32$", out, re.MULTILINE)

    def test_a_user_who_differs_is_explained_with_status_1(self, ready):
        ready.client.delete(hashes(ready)[3])
        outcome = ready.run("demo_fixed.py", "--explain", 3)
        assert outcome.status == 1
        assert re.search(rf"{TOTAL} +(\d+) +\1 +null$", outcome.out, re.MULTILINE)

    def test_an_event_at_odds_is_told_though_all_values_agree(self, ready):
        key, field = hashes(ready)[3], "_ts:user_purchase_features"
        stored = Timestamp.FromString(ready.client.hget(key, field))
        ready.client.hset(key, field, Timestamp(seconds=stored.seconds - 3600).SerializeToString())
        assert ready.run("demo_fixed.py").status == 1
        outcome = ready.run("demo_fixed.py", "--explain", 3)
        assert outcome.status == 1
        assert "user 3: event_timestamp is" in outcome.out

    def test_an_unknown_user_is_an_error(self, ready):
        assert "user 99 has no transactions" in ready.fail("demo_fixed.py", "--explain", 99)


class TestRepair:
    def test_what_differs_is_put_right_and_nothing_else_is_written(self, ready):
        keys = hashes(ready)
        ready.client.delete(keys[3], keys[4])
        stranger = keys[20].replace((20).to_bytes(8, "little"), (777).to_bytes(8, "little"))
        ready.client.hset(stranger, mapping=ready.client.hgetall(keys[1]))
        ready.client.hset(keys[5], "untouched", "1")
        out = ready.succeed("demo_fixed.py", "--repair")
        assert "SKEW: 6 values of 3 users" in out
        assert out.index("Repaired, and compared again") < out.index("Training equals serving equals the oracle")
        assert ready.client.hget(keys[5], "untouched") == b"1"
        ready.succeed("demo_fixed.py")

    def test_what_is_wrong_offline_stays_wrong_and_says_so(self, ready):
        rows = ready.transactions.read_text().splitlines()
        ready.write_transactions(*rows[1:], f"1,100,{datetime.now(UTC).isoformat()},10.00")
        outcome = ready.run("demo_fixed.py", "--repair")
        assert outcome.status == 1
        assert outcome.out.count("(equal but wrong: late row)") == 4

    def test_the_past_can_not_be_repaired(self, project):
        assert project.run("demo_fixed.py", "--repair", "--at", "2026-01-01").status == 2


def put_online(project, user: int, event: datetime) -> bytes:
    """Put a row of ``user`` into Redis, with the values of user 7, and return its key."""
    of_seven = hashes(project)[7]
    key = of_seven.replace((7).to_bytes(8, "little"), user.to_bytes(8, "little"))
    stamp = Timestamp()
    stamp.FromDatetime(event)
    row = project.client.hgetall(of_seven) | {b"_ts:user_purchase_features": stamp.SerializeToString()}
    project.client.hset(key, mapping=row)
    return key


class TestUsersWhomOnlyRedisKnows:
    @pytest.mark.parametrize(
        "age",
        [pytest.param(timedelta(days=-1), id="tomorrow"), pytest.param(None, id="year 9999", marks=pytest.mark.scale)],
    )
    def test_a_row_from_the_future_is_a_difference_and_is_taken_out(self, ready, tmp_path, age):
        event = datetime.now(UTC) - age if age else datetime(9999, 12, 31, tzinfo=UTC)
        key = put_online(ready, 777, event)
        named = f"user 777: event_timestamp is null in training, {event.isoformat()} in serving, null by the oracle"
        for options in (["--certificate", tmp_path / "c.json"], ["--explain", 777]):
            outcome = ready.run("demo_fixed.py", *options)
            assert outcome.status == 1
            assert f"{named} (extra online: from the future)" in outcome.out
        content = certified(tmp_path / "c.json")
        assert (content["verdict"], content["causes"]) == ("skew", {"from the future": 1})
        outcomes = [ready.run("demo_fixed.py", "--sample", 10, "--seed", seed) for seed in range(6)]
        assert {outcome.status for outcome in outcomes} == {0, 1}
        assert all((named in outcome.out) == (outcome.status == 1) for outcome in outcomes)
        ready.succeed("demo_fixed.py", "--repair")
        assert not ready.client.exists(key)
        ready.succeed("demo_fixed.py")

    def test_a_row_of_a_user_who_has_bought_nothing_yet_is_a_difference(self, ready):
        event = datetime.now(UTC) + timedelta(days=1)
        rows = ready.transactions.read_text().splitlines()
        ready.write_transactions(*rows[1:], f"777,100,{event.isoformat()},10.00", header=rows[0])
        ready.succeed("compute_features.py")
        ready.succeed("materialize_to_online.py")
        ready.succeed("demo_fixed.py")
        key = put_online(ready, 777, event)
        outcome = ready.run("demo_fixed.py")
        assert outcome.status == 1
        assert outcome.out.count("(extra online: from the future)") == 1
        ready.succeed("demo_fixed.py", "--repair")
        assert not ready.client.exists(key)

    def test_a_row_older_than_the_ttl_is_counted_as_left_over(self, ready, tmp_path):
        key = put_online(ready, 777, datetime.now(UTC) - timedelta(days=31))
        out = ready.succeed("demo_fixed.py", "--certificate", tmp_path / "c.json")
        assert "  left over: 1 row in Redis of users without history" in out
        assert certified(tmp_path / "c.json")["keys_left_over_online"] == 1
        ready.succeed("materialize_to_online.py")
        assert not ready.client.exists(key)
        assert "left over" not in ready.succeed("demo_fixed.py")


class TestCertificate:
    def test_it_says_what_was_proven_and_how_to_do_it_again(self, ready, tmp_path):
        path = tmp_path / "certificate.json"
        ready.succeed("demo_fixed.py", "--certificate", path)
        content = certified(path)
        assert content["verdict"] == "equal"
        assert (content["keys"], content["values"], content["differences"]) == (20, 40, [])
        assert content["sample"] is None
        assert content["versions"]["feast"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", content["versions"]["redis-server"])
        again = shlex.split(content["replay"])
        assert again[:2] == ["python", "demo_fixed.py"]
        out = ready.succeed(*again[1:], "--certificate", path)
        assert content["at"] in out
        replayed = certified(path)
        for same in ("at", "definition_sha256", "fingerprint", "computed_by", "data_sha256", "counts", "replay"):
            assert replayed[same] == content[same]

    def test_other_data_has_another_hash(self, ready, tmp_path):
        hashes = []
        for seed in (1, 2):
            ready.succeed("generate_synthetic_data.py", "--seed", seed)
            ready.succeed("compute_features.py")
            ready.succeed("materialize_to_online.py")
            ready.succeed("demo_fixed.py", "--certificate", tmp_path / "c.json")
            hashes.append(certified(tmp_path / "c.json")["data_sha256"])
        assert not set(hashes[0].values()) & set(hashes[1].values())

    def test_differences_are_listed_with_their_cause(self, ready, tmp_path):
        ready.client.delete(hashes(ready)[3])
        assert ready.run("demo_fixed.py", "--certificate", tmp_path / "c.json").status == 1
        content = certified(tmp_path / "c.json")
        assert content["verdict"] == "skew"
        assert content["causes"] == {"never materialized": 2}
        assert {difference["key"] for difference in content["differences"]} == {3}

    def test_a_sample_states_its_bound(self, ready, tmp_path):
        ready.succeed("demo_fixed.py", "--sample", 6, "--seed", 4, "--certificate", tmp_path / "c.json")
        content = certified(tmp_path / "c.json")
        assert content["sample"]["share_of_keys_differing_at_most"] == 0.5
        assert (content["sample"]["keys"], content["sample"]["of"]) == (6, 20)
        assert content["replay"].endswith("--sample 6 --seed 4")

    def test_a_sample_that_found_a_difference_states_none(self, ready, tmp_path):
        for key in hashes(ready).values():
            ready.client.hdel(key, *[f for f in ready.client.hkeys(key) if not f.startswith(b"_ts")])
        assert ready.run("demo_fixed.py", "--sample", 6, "--certificate", tmp_path / "c.json").status == 1
        assert certified(tmp_path / "c.json")["sample"]["share_of_keys_differing_at_most"] is None

    def test_a_sample_as_large_as_all_is_all(self, ready, tmp_path):
        ready.succeed("demo_fixed.py", "--sample", 20, "--certificate", tmp_path / "c.json")
        assert certified(tmp_path / "c.json")["sample"] is None


class TestOracle:
    def test_a_file_in_many_parts_is_read_whole(self, ready, monkeypatch):
        monkeypatch.setattr("parity.proof.raw.BYTES_PER_PART", 300)
        ready.succeed("demo_fixed.py")

    def test_parquet_transactions(self, ready):
        parquet = ready.transactions.with_suffix(".parquet")
        end = datetime.now(UTC).isoformat()
        ready.succeed("generate_synthetic_data.py", "--output", parquet, "--end", end)
        ready.succeed("compute_features.py", "--input", parquet)
        ready.succeed("materialize_to_online.py")
        ready.succeed("generate_synthetic_data.py", "--end", end)
        usual = ready.transactions.read_bytes()
        ready.transactions.unlink()
        ready.succeed("demo_fixed.py")
        ready.transactions.write_bytes(usual)
        ready.succeed("compute_features.py")
        ready.succeed("materialize_to_online.py")
        parquet.unlink()
        ready.succeed("demo_fixed.py")
        ready.succeed("generate_synthetic_data.py", "--output", parquet, "--end", end)
        ready.succeed("demo_fixed.py", "--input", parquet)

    def test_without_the_transactions_nothing_can_be_proven(self, ready):
        ready.transactions.unlink()
        assert "user_transactions.csv: there is no such file" in ready.fail("demo_fixed.py")

    def test_transactions_that_can_not_be_read(self, ready):
        ready.write_transactions("1,100,yesterday,5")
        assert "user_transactions.csv: the oracle can't read it" in ready.fail("demo_fixed.py")

    def test_it_reads_every_way_of_writing_a_timestamp_as_the_product_does(self, project):
        project.write_transactions(
            "1,100,2026-03-08T12:00:00+02:00,1.10", "1,100,2026-03-08 10:00:00.000001Z,2", '"1",100,2026-03-08,3e0'
        )
        with raw_transactions(project.transactions, DEFINITION) as raw:
            times = [purchase.time.isoformat() for purchase in raw.of(1)]
        assert times == ["2026-03-08T10:00:00+00:00", "2026-03-08T10:00:00.000001+00:00", "2026-03-08T00:00:00+00:00"]

    def test_it_holds_the_documented_window(self):
        event = datetime(2026, 3, 8, tzinfo=UTC)
        window = RULES[0].time_window
        ages = {"1": timedelta(), "2": window, "4": window + timedelta(microseconds=1)}
        bought = [Purchase(event - age, {"purchase_amount": amount}) for amount, age in ages.items()]
        assert [evaluate(a, bought, event) for a in RULES] == [1.5, 3]


def rows_of(project, user: int) -> list[dict]:
    """The user's rows in the offline table, oldest first."""
    rows = [row for row in pq.read_table(project.features).to_pylist() if row["user_id"] == user]
    return sorted(rows, key=lambda row: row["event_timestamp"])


def rewrite(project, change) -> None:
    """Put in place of the rows of the offline table those that ``change`` makes of them."""
    table = pq.read_table(project.features)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), project.features)


class TestHistory:
    """Training reads every row of the offline table, and not each user's latest only."""

    def test_a_healthy_one_is_said_to_be_compared(self, ready):
        out = ready.succeed("demo_fixed.py")
        assert "  history: 100 rows of 20 users, 200 values equal to the oracle\n" in out

    @pytest.mark.parametrize(
        ("change", "difference"),
        [
            (
                lambda row: [row | {TOTAL: 99}],
                f"{TOTAL} is 99 in training, 1 by the oracle (wrong in history: tampered)",
            ),
            (lambda row: [], f"{TOTAL} is no row in training, 1 by the oracle (missing in history: row deleted)"),
            (
                lambda row: [row, row],
                "event_timestamp is 2 rows in training, 1 row by the oracle (extra in history: tie)",
            ),
            (
                lambda row: [row | {TOTAL: 99}, row],
                f"{TOTAL} is 99 in training, 1 by the oracle (wrong in history: tie)",
            ),
            (
                lambda row: [row, row | {"event_timestamp": row["event_timestamp"] + timedelta(seconds=1)}],
                f"{TOTAL} is 1 in training, no row by the oracle (extra in history: tampered)",
            ),
        ],
        ids=["changed", "deleted", "doubled", "with a twin", "added"],
    )
    def test_a_row_that_is_not_the_latest_is_compared_too(self, ready, tmp_path, change, difference):
        first = rows_of(ready, 7)[0]
        rewrite(ready, lambda rows: [new for row in rows for new in (change(row) if row == first else [row])])
        outcome = ready.run("demo_fixed.py", "--certificate", tmp_path / "c.json")
        assert outcome.status == 1
        assert "match 40, mismatch 0, missing online 0, extra online 0, equal but wrong 0" in outcome.out
        [instant] = re.findall(rf"user 7 at (\S+): {re.escape(difference)}", outcome.out)
        assert abs(datetime.fromisoformat(instant) - first["event_timestamp"]) <= timedelta(seconds=1)
        content = certified(tmp_path / "c.json")
        assert content["verdict"] == "skew"
        assert instant in [difference["instant"] for difference in content["differences"]]
        assert ready.run("demo_fixed.py", "--explain", 7).status == 1
        assert ready.run("demo_fixed.py", "--explain", 8).status == 0

    def test_a_sample_covers_the_history_of_its_users_and_of_no_others(self, ready):
        first = rows_of(ready, 7)[0]
        rewrite(ready, lambda rows: [row | {TOTAL: 99} if row == first else row for row in rows])
        outcomes = [ready.run("demo_fixed.py", "--sample", 10, "--seed", seed) for seed in range(6)]
        assert {outcome.status for outcome in outcomes} == {0, 1}
        assert all(("user 7 at" in outcome.out) == (outcome.status == 1) for outcome in outcomes)

    def test_a_replay_compares_what_was_there_by_then(self, ready):
        third = rows_of(ready, 7)[2]
        rewrite(ready, lambda rows: [row | {TOTAL: 99} if row == third else row for row in rows])
        event = third["event_timestamp"]
        ready.succeed("demo_fixed.py", "--at", (event - timedelta(microseconds=1)).isoformat())
        assert ready.run("demo_fixed.py", "--at", event.isoformat()).status == 1
        outcome = ready.run("demo_fixed.py", "--at", rows_of(ready, 7)[3]["event_timestamp"].isoformat())
        assert outcome.status == 1
        assert f"user 7 at {event.isoformat()}: {TOTAL} is 99 in training, 3 by the oracle" in outcome.out

    @pytest.mark.parametrize("user", [7, 777])
    def test_a_row_from_the_future_is_said_to_be(self, ready, user):
        future = datetime.now(UTC) + timedelta(days=3)
        row = rows_of(ready, 7)[0] | {"user_id": user, "event_timestamp": future}
        rewrite(ready, lambda rows: [*rows, row])
        outcome = ready.run("demo_fixed.py")
        assert outcome.status == 1
        assert f"user {user} at {future.isoformat()}: {TOTAL} is 1 in training, no row by the oracle" in outcome.out
        assert "(extra in history: from the future)" in outcome.out

    def test_a_row_from_before_the_calendar(self, ready):
        table = pq.read_table(ready.features)
        ancient = pa.array([-(10**17)], pa.int64()).cast(table.schema.field("event_timestamp").type)
        row = table.slice(0, 1).set_column(1, table.schema.field("event_timestamp"), ancient)
        pq.write_table(pa.concat_tables([table, row]), ready.features)
        outcome = ready.run("demo_fixed.py")
        assert outcome.status == 1
        assert "at 0001-01-01T00:00:00+00:00" in outcome.out

    def test_many_differences_are_counted_and_some_are_listed(self, ready, tmp_path, monkeypatch):
        monkeypatch.setattr("parity.proof.history.HISTORY_LISTED", 5)
        rewrite(ready, lambda rows: [row | {TOTAL: row[TOTAL] + 1000} for row in rows])
        outcome = ready.run("demo_fixed.py", "--certificate", tmp_path / "c.json", "--report", tmp_path / "r.html")
        assert outcome.status == 1
        assert "mismatch 20," in outcome.out
        assert "history: 100 rows of 20 users, match 100, wrong 80, missing 0, extra 0" in outcome.out
        assert "... and 75 more values in history" in outcome.out
        assert "SKEW: 100 values of 20 users. Causes of the 25 listed: tampered 25." in outcome.out
        content = certified(tmp_path / "c.json")
        assert (len(content["differences"]), content["differences_not_listed"]) == (25, 75)

    def test_the_stock_offline_stores_are_read_as_well(self, ready):
        first = rows_of(ready, 7)[0]
        rewrite(ready, lambda rows: [row | {TOTAL: 99} if row == first else row for row in rows])
        for offline in ("duckdb", "file"):
            ready.configure(offline_store={"type": offline})
            outcome = ready.run("demo_fixed.py")
            assert outcome.status == 1
            assert f"{TOTAL} is 99 in training, 1 by the oracle (wrong in history: tampered)" in outcome.out

    def test_a_table_by_day_is_read_whole(self, project, monkeypatch):
        folder = project.root / "transactions"
        folder.mkdir()
        project.succeed("generate_synthetic_data.py", "--output", folder / "all.csv")
        project.apply()
        project.succeed("compute_features.py", "--incremental", "--input", folder)
        project.succeed("materialize_to_online.py")
        assert "history: 100 rows of 20 users, 200 values equal" in project.succeed("demo_fixed.py")
        first, second = sorted(project.features.rglob("*.parquet"))[:2]
        pq.write_table(pa.concat_tables([pq.read_table(path) for path in (first, second)]), second)
        outcome = project.run("demo_fixed.py")
        assert outcome.status == 1
        assert "(extra in history: tie)" in outcome.out


AMOUNTS = st.one_of(
    st.integers(-10_000, 10_000).map(lambda cents: f"{cents / 100:.2f}"),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.sampled_from(["-0.0", "0", "5e-324", "-5e-324", "1.7e307", "1e-20"]),
)
AGES = st.one_of(
    st.integers(0, 8).map(lambda days: timedelta(days=days)), st.timedeltas(timedelta(), timedelta(days=9))
)
WINDOWS = [None, timedelta(0), timedelta(microseconds=1), timedelta(days=1), timedelta(days=3)]


class TestOracleOfTheHistory:
    @given(
        st.lists(st.tuples(AGES, AMOUNTS), min_size=1, max_size=20),
        st.sampled_from(WINDOWS),
        st.sampled_from(["count", "sum", "mean"]),
    )
    def test_it_gives_what_the_naive_oracle_gives_at_every_instant(self, rows, window, function):
        end = datetime(2026, 3, 8, tzinfo=UTC)
        bought = [Purchase(end - age, {"purchase_amount": amount}) for age, amount in rows]
        aggregation = Rule("f", function, "purchase_amount", window)
        found = evaluate_each(aggregation, bought)
        assert [instant for instant, _ in found] == sorted({purchase.time for purchase in bought})
        for instant, value in found:
            assert causes.same(value, evaluate(aggregation, bought, instant))

    def test_a_user_with_very_many_purchases_is_gone_through_once(self):
        end = datetime(2026, 3, 8, tzinfo=UTC)
        bought = [
            Purchase(end - timedelta(seconds=second), {"purchase_amount": f"{second % 977}.01"})
            for second in range(100_000)
        ]
        begin = monotonic()
        found = evaluate_each(RULES[0], bought)
        assert monotonic() - begin < 20, "the naive way takes an hour"
        assert found[-1] == (end, evaluate(RULES[0], bought, end))

    @pytest.mark.parametrize("function", ["sum", "mean", "count"])
    def test_a_window_of_nothing_is_the_instant_itself(self, function):
        end = datetime(2026, 3, 8, tzinfo=UTC)
        bought = [Purchase(end - timedelta(days=age), {"purchase_amount": "2"}) for age in (0, 1)]
        aggregation = Rule("f", function, "purchase_amount", timedelta(0))
        assert evaluate(aggregation, bought, end) == (1 if function == "count" else 2.0)

    def test_a_ttl_of_zero_is_none(self):
        end = datetime(2026, 3, 8, tzinfo=UTC)
        bought = [Purchase(end - timedelta(days=400), {"purchase_amount": "2"})]
        assert expected(RULES[1], bought, end, timedelta(0)) == expected(RULES[1], bought, end, None) == 1

    def test_a_sum_that_no_float_holds_is_an_error_of_one_line(self):
        end = datetime(2026, 3, 8, tzinfo=UTC)
        bought = [Purchase(end, {"purchase_amount": "1.7e308"})] * 2
        for evaluation in (lambda a: evaluate(a, bought, end), lambda a: evaluate_each(a, bought)):
            with pytest.raises(UserError, match="is beyond what a float64 holds"):
                evaluation(Rule("f", "sum", "purchase_amount", None))


class TestZero:
    """Zero is 0.0 on every side; -0.0, which other bits stand for, is another value on every side."""

    def test_no_side_makes_a_negative_one(self, project):
        project.apply()
        now = datetime.now(UTC) - timedelta(hours=1)
        amounts = [["-0.0"], ["5", "-5"], ["-5e-324", "0", "0"], ["-0.001", "0.001"]]
        project.write_transactions(
            *[f"{user},100,{now.isoformat()},{amount}" for user, some in enumerate(amounts, 1) for amount in some]
        )
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        assert [repr(value) for value in pq.read_table(project.features)[AVERAGE].to_pylist()] == ["0.0"] * 4
        project.succeed("demo_fixed.py")

    @pytest.mark.parametrize("side", ["offline", "online", "both"])
    def test_a_negative_one_is_a_difference_wherever_it_is(self, project, side):
        project.apply()
        now = datetime.now(UTC) - timedelta(hours=1)
        project.write_transactions(*[f"1,100,{now.isoformat()},{amount}" for amount in (5, -5)])
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        if side != "offline":
            name = _mmh3(f"user_purchase_features:{AVERAGE}")
            project.client.hset(hashes(project)[1], name, Value(double_val=-0.0).SerializeToString())
        if side != "online":
            rewrite(project, lambda rows: [row | {AVERAGE: -0.0} for row in rows])
        outcome = project.run("demo_fixed.py")
        assert outcome.status == 1
        assert f"user 1: {AVERAGE} is {'0.0' if side == 'online' else '-0.0'} in training" in outcome.out


class TestFilesThatChange:
    """What was compared is what the certificate gives the hashes of, or nothing is proven."""

    @pytest.fixture
    def during(self, ready, monkeypatch):
        """Do something while the sides are compared, and run the proof."""

        def run(act, *options) -> str:
            count = parity.proof.compare._count

            def act_and_count(*arguments):
                act()
                return count(*arguments)

            monkeypatch.setattr("parity.proof.compare._count", act_and_count)
            return ready.run("demo_fixed.py", *options)

        return run

    @pytest.mark.parametrize("options", [[], ["--certificate", "c.json"], ["--report", "r.html"], ["--explain", "7"]])
    @pytest.mark.parametrize("which", ["transactions", "features"])
    def test_a_file_that_is_replaced_is_an_error(self, ready, during, which, options):
        path = getattr(ready, which)
        outcome = during(lambda: path.write_bytes(path.read_bytes() + b"\n"), *options)
        assert outcome.status == 2
        assert outcome.err.count("\n") == 1
        assert path.name in outcome.err
        assert "it changed while it was compared" in outcome.err
        assert "Training equals" not in outcome.out
        assert not (ready.root / "c.json").exists()

    def test_a_file_that_is_swapped_and_swapped_back_is_an_error(self, ready, during):
        def swap():
            usual, state = ready.features.read_bytes(), ready.features.stat()
            ready.features.write_bytes(usual[::-1])
            ready.features.write_bytes(usual)
            os.utime(ready.features, ns=(state.st_atime_ns, state.st_mtime_ns))

        assert during(swap).status == 2

    def test_a_file_that_is_written_again_with_the_same_content_is_an_error(self, ready, during):
        assert during(lambda: ready.transactions.write_bytes(ready.transactions.read_bytes())).status == 2

    @pytest.mark.parametrize("options", [[], ["--certificate", "c.json"]])
    @pytest.mark.parametrize("which", ["folder", "folder above", "link", "link above", "file behind a link"])
    def test_what_is_swapped_on_the_way_to_a_file_is_an_error(self, ready, during, which, options):
        place = ready.root / "above" / "folder"
        place.mkdir(parents=True)
        (place / "t.csv").write_bytes(ready.transactions.read_bytes())
        swapped, path = place, place / "t.csv"
        if which == "folder above":
            swapped = place.parent
        elif which == "link":
            swapped = path = ready.root / "link.csv"
            swapped.symlink_to("above/folder/t.csv")
        elif which == "link above":
            swapped = ready.root / "link"
            swapped.symlink_to(place)
            path = swapped / "t.csv"
        elif which == "file behind a link":
            path, swapped = ready.root / "link.csv", place / "t.csv"
            path.symlink_to(swapped)
        ready.succeed("compute_features.py", "--input", path)
        ready.succeed("materialize_to_online.py")
        other = ready.root / "other"

        def swap_and_swap_back():
            swapped.rename(other)
            if which.startswith("link"):
                swapped.symlink_to(ready.root)
                swapped.unlink()
            elif other.is_dir():
                swapped.mkdir()
                swapped.rmdir()
            other.rename(swapped)
            (path.parent / "covers").touch()  # so that the folder was not last changed by being moved

        outcome = during(swap_and_swap_back, "--input", path, *options)
        assert outcome.status == 2
        assert "it changed while it was compared" in outcome.err
        assert not (ready.root / "c.json").exists()

    def test_a_link_that_leads_elsewhere_in_the_end_is_an_error(self, ready, during):
        copy, link = ready.root / "copy.csv", ready.root / "link.csv"
        copy.write_bytes(ready.transactions.read_bytes())
        link.symlink_to(ready.transactions)

        def lead_elsewhere():
            link.unlink()
            link.symlink_to(copy)

        assert during(lead_elsewhere, "--input", link).status == 2

    def test_a_day_of_the_table_that_is_swapped_is_an_error(self, project, monkeypatch):
        folder = project.root / "transactions"
        folder.mkdir()
        project.succeed("generate_synthetic_data.py", "--output", folder / "all.csv")
        project.apply()
        project.succeed("compute_features.py", "--incremental", "--input", folder)
        project.succeed("materialize_to_online.py")
        day = next(project.features.glob("*=*"))
        count = parity.proof.compare._count

        def swap_and_count(*arguments):
            day.rename(project.root / "other").rename(day)
            return count(*arguments)

        monkeypatch.setattr("parity.proof.compare._count", swap_and_count)
        assert "it changed while it was compared" in project.fail("demo_fixed.py")

    @pytest.mark.parametrize("name", ["note.txt", "data/note.txt", "data/new/note.txt"])
    def test_what_is_written_beside_the_files_is_nobodys_concern(self, ready, during, name):
        def write():
            (ready.root / name).parent.mkdir(exist_ok=True)
            (ready.root / name).write_text("seen")

        assert during(write).status == 0

    def test_folders_farther_up_may_be_busy(self, ready, during):
        above = ready.root.parents[1]

        def write():
            for number, folder in enumerate((above, above.parent, above.parent.parent)):
                name = folder / f"busy-{number}-{os.getpid()}"
                name.touch()
                name.unlink()

        assert during(write).status == 0

    @pytest.mark.scale
    @pytest.mark.skipif(not (BIN / "moto_server").exists() and "CI" not in os.environ, reason="moto missing")
    def test_an_object_in_a_bucket(self, project, bucket, monkeypatch):
        for name, value in bucket.items():
            monkeypatch.setenv(name, value)
        place = "s3://bucket/transactions.csv"
        project.succeed("generate_synthetic_data.py")
        project.apply()
        filesystem, path = filesystem_of(place)

        def put() -> None:
            with filesystem.open_output_stream(path) as stream:
                stream.write(project.transactions.read_bytes())

        put()
        project.succeed("compute_features.py", "--input", place)
        project.succeed("materialize_to_online.py")
        project.succeed("demo_fixed.py", "--input", place, "--certificate", project.root / "c.json")
        count = parity.proof.compare._count

        def put_and_count(*arguments):
            sleep(1)  # S3 tells times by the second
            project.transactions.write_bytes(project.transactions.read_bytes())
            put()
            return count(*arguments)

        monkeypatch.setattr("parity.proof.compare._count", put_and_count)
        assert f"{place}: it changed while" in project.fail("demo_fixed.py", "--input", place)


SECOND_VIEW = """
other_features = AggregatedFeatureView(
    name="other_features",
    entities=[user],
    transactions=transactions,
    aggregations=[Aggregation(name="other_total", function="sum", column="purchase_amount")],
)
other_service = FeatureService(name="other_service", features=[other_features])
"""
ON_DEMAND_VIEW = """
from feast.on_demand_feature_view import on_demand_feature_view
@on_demand_feature_view(sources=[user_purchase_features], schema=[Field(name="doubled", dtype=Float64)])
def doubled_features(inputs):
    import pandas
    return pandas.DataFrame({"doubled": inputs["user_avg_3day_purchase_amount"] * 2})
"""


class TestWhatWasNotLookedAt:
    def declare(self, project, text: str, given: str = "user_purchase_features") -> None:
        """Declare ``text``, and apply it with a service that gives what is ``given``; then declare the service anew."""
        path = project.root / "feature_repo" / "features.py"
        features, service_text = path.read_text().split("user_features = FeatureService")
        checked = f"{features}{text}\nuser_features = FeatureService{service_text}"
        path.write_text(
            checked.replace("features=[user_purchase_features]", f"features=[{given}]").replace(
                "check_definitions(globals())", ""
            )
        )
        project.apply()
        path.write_text(checked)

    def test_an_applied_service_with_part_of_the_features_is_refused(self, ready):
        self.declare(ready, "", f'user_purchase_features[["{AVERAGE}"]]')
        assert f"leaves out {TOTAL}" in ready.fail("demo_fixed.py")

    @pytest.mark.parametrize(
        ("text", "options", "views"),
        [
            (SECOND_VIEW, ["--view", "user_purchase_features"], "other_features"),
            (SECOND_VIEW, ["--service", "user_features"], "other_features"),
            (ON_DEMAND_VIEW, [], "doubled_features (on demand)"),
            (
                SECOND_VIEW + ON_DEMAND_VIEW,
                ["--view", "user_purchase_features"],
                "doubled_features (on demand), other_features",
            ),
        ],
        ids=["view", "service", "on demand", "both"],
    )
    def test_other_views_of_the_project_are_named(self, ready, tmp_path, text, options, views):
        self.declare(ready, text)
        files = ["--certificate", tmp_path / "c.json", "--report", tmp_path / "r.html"]
        assert f"  not looked at: the feature views {views}\n" in ready.succeed("demo_fixed.py", *options, *files)
        content = certified(tmp_path / "c.json")
        assert ", ".join(content["feature_views_not_looked_at"]) == views
        assert f"not looked at: the feature views {views}" in (tmp_path / "r.html").read_text()
        at = rows_of(ready, 7)[-1]["event_timestamp"].isoformat()
        past = ready.succeed("demo_fixed.py", *options, "--at", at)
        assert f"not looked at: the feature views {views}" in past

    def test_a_view_that_is_declared_and_not_applied_is_named(self, ready):
        path = ready.root / "feature_repo" / "features.py"
        path.write_text(
            path.read_text().replace("user_features = FeatureService", f"{SECOND_VIEW}\nuser_features = FeatureService")
        )
        out = ready.succeed("demo_fixed.py", "--view", "user_purchase_features")
        assert "  not looked at: the feature views other_features (not applied)\n" in out

    @pytest.mark.parametrize(
        ("value", "name"),
        [
            (Value(string_val="7"), "user_id '7' of type string"),
            (Value(string_val="\x1b[31m"), r"user_id '\x1b[31m' of type string"),
            (Value(int32_val=7), "user_id 7 of type int32"),
        ],
    )
    def test_a_key_of_another_type_in_redis_is_extra_and_taken_out(self, ready, tmp_path, value, name):
        keys = hashes(ready)
        key = EntityKey(join_keys=["user_id"], entity_values=[value])
        project = yaml.safe_load((ready.root / "feature_repo" / "feature_store.yaml").read_text())["project"]
        stranger = _redis_key(project, key, 3)
        ready.client.hset(stranger, mapping=ready.client.hgetall(keys[7]))
        outcome = ready.run("demo_fixed.py", "--certificate", tmp_path / "c.json", "--report", tmp_path / "r.html")
        assert outcome.status == 1
        assert (
            f"  {name}: event_timestamp is null in training, a row in serving, null by the oracle "
            "(extra online: rounding or type coercion)\n"
        ) in outcome.out
        assert "match 40, mismatch 0, missing online 0, extra online 1, equal but wrong 0" in outcome.out
        assert "SKEW: 1 values of 1 user" in outcome.out
        content = certified(tmp_path / "c.json")
        assert (content["keys_of_another_type_online"], content["differences"][0]["key"]) == (1, name)
        repaired = ready.succeed("demo_fixed.py", "--repair")
        assert "Training equals serving equals the oracle" in repaired
        assert not ready.client.exists(stranger)

    def test_nothing_but_keys_of_another_type_is_nothing(self, ready):
        keys = hashes(ready)
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="7")])
        project = yaml.safe_load((ready.root / "feature_repo" / "feature_store.yaml").read_text())["project"]
        ready.client.hset(_redis_key(project, key, 3), mapping=ready.client.hgetall(keys[7]))
        ready.client.delete(*keys.values())
        assert "1 key of another type in Redis (user_id '7' of type string)" in ready.fail("demo_fixed.py")


class TestNothingButNulls:
    @pytest.fixture
    def old(self, project):
        """Data of 2010, with a ttl of 30 days."""
        project.apply()
        project.succeed("generate_synthetic_data.py", "--end", "2010-12-09T12:00:00Z")
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        return project

    def test_they_prove_nothing_and_an_instant_with_values_is_suggested(self, old, tmp_path):
        error = old.fail("demo_fixed.py", "--certificate", tmp_path / "c.json")
        assert "nothing is proven" in error
        assert "null on all sides" in error
        assert "more than the ttl of 30 days" in error
        assert not (tmp_path / "c.json").exists()
        options = shlex.split(re.search(r"--at \S+", error)[0])
        out = old.succeed("demo_fixed.py", *options)
        assert "Training equals serving equals the oracle" in out

    def test_a_row_that_differs_is_skew_all_the_same(self, old):
        first = rows_of(old, 7)[0]
        rewrite(old, lambda rows: [row | {TOTAL: 99} if row == first else row for row in rows])
        assert old.run("demo_fixed.py").status == 1

    def test_some_are_counted_with_the_users_who_are_expired(self, project, tmp_path):
        project.apply()
        now = datetime.now(UTC)
        ages = [timedelta(days=1), timedelta(days=31), timedelta(days=40)]
        project.write_transactions(*[f"{user},1,{(now - age).isoformat()},5" for user, age in enumerate(ages, 1)])
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        options = ["--certificate", tmp_path / "c.json", "--report", tmp_path / "r.html"]
        out = project.succeed("demo_fixed.py", *options)
        line = "no value on any side: 4 of 6 (expired: 2 users, whose last purchase is more than 30 days ago)"
        assert f"  {line}\n" in out
        assert line in (tmp_path / "r.html").read_text()
        content = certified(tmp_path / "c.json")
        assert (content["null_on_all_sides"], content["keys_expired"]) == (4, 2)

    def test_a_sample_of_expired_users_proves_nothing(self, project):
        project.apply()
        now = datetime.now(UTC)
        ages = [timedelta(days=1), *[timedelta(days=40)] * 30]
        project.write_transactions(*[f"{user},1,{(now - age).isoformat()},5" for user, age in enumerate(ages, 1)])
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        assert "nothing is proven" in project.fail("demo_fixed.py", "--sample", 2, "--seed", 1)

    def test_there_are_none_in_a_healthy_store(self, ready):
        assert "no value on any side" not in ready.succeed("demo_fixed.py")


class TestOptionsThatDoNotGoTogether:
    @pytest.mark.parametrize(
        "options",
        [
            ["--explain", "1", "--repair"],
            ["--explain", "1", "--report", "r.html"],
            ["--report", "data/registry.db"],
            ["--certificate", "user_transactions.csv"],
        ],
    )
    def test_they_are_refused_before_anything_is_read(self, project, options):
        assert project.run("demo_fixed.py", *options).status == 2

    def test_a_report_never_replaces_the_offline_store(self, ready):
        before = ready.features.read_bytes()
        assert ready.run("demo_fixed.py", "--report", ready.features).status == 2
        assert ready.features.read_bytes() == before


class TestHostileValues:
    def test_the_whole_calendar_and_the_largest_amounts(self, project, tmp_path):
        project.apply()
        now = datetime.now(UTC)
        project.write_transactions(
            "1,100,0001-01-02,5",
            "2,100,0001-01-01,5",
            "3,100,1500-01-01,5",
            *[
                f"4,100,{(now - timedelta(hours=hours)).isoformat()},{sign}1.7e308"
                for hours, sign in [(1, ""), (2, "-")]
            ],
            f"4,100,{(now - timedelta(hours=3)).isoformat()},1.7e308",
            f"5,{'x' * 200_000},{now.isoformat()}, 7 ",
        )
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        options = ["--report", tmp_path / "r.html", "--certificate", tmp_path / "c.json"]
        project.succeed("demo_fixed.py", *options)
        for user in range(1, 6):
            project.succeed("demo_fixed.py", "--explain", user)

    @pytest.mark.parametrize(
        "value",
        [
            Value(double_val=float("inf")),
            Value(double_val=-1.7e308),
            Value(string_val="\x1b[31m\nred <b>"),
            Value(bytes_val=b"\xff"),
            Value(int32_val=5),
            Value(int64_list_val={"val": [1, 2]}),
        ],
        ids=str,
    )
    def test_what_is_planted_in_redis_is_found_shown_and_certified(self, ready, tmp_path, value):
        key = hashes(ready)[1]
        ready.client.hset(key, _mmh3(f"user_purchase_features:{AVERAGE}"), value.SerializeToString())
        outcome = ready.run("demo_fixed.py", "--report", tmp_path / "r.html", "--certificate", tmp_path / "c.json")
        assert outcome.status == 1
        assert "\x1b" not in outcome.out
        assert len(certified(tmp_path / "c.json")["differences"]) == 1
        assert "<b>" not in re.findall(r"<td>1</td>.*?</tr>", (tmp_path / "r.html").read_text(), re.DOTALL)[0]

    @pytest.mark.parametrize(
        "value",
        [
            Value(string_val="x" * 5_000_000),
            Value(bytes_val=b"\x1b" * 5_000_000),
            Value(double_list_val={"val": [0.5] * 600_000}),
        ],
        ids=["text", "bytes", "list"],
    )
    def test_what_is_huge_is_cut_everywhere(self, ready, tmp_path, value):
        ready.client.hset(hashes(ready)[1], _mmh3(f"user_purchase_features:{AVERAGE}"), value.SerializeToString())
        outcome = ready.run("demo_fixed.py", "--report", tmp_path / "r.html", "--certificate", tmp_path / "c.json")
        assert outcome.status == 1
        assert "\x1b" not in outcome.out
        assert re.search(r"\([\d,]+ (characters|bytes)\)", outcome.out)
        for size in (len(outcome.out), (tmp_path / "c.json").stat().st_size, (tmp_path / "r.html").stat().st_size):
            assert size < 200_000
        assert ready.run("demo_fixed.py", "--explain", 1).status == 1

    def test_a_report_that_can_not_be_written_is_not_blamed_on_the_transactions(self, ready):
        error = ready.fail("demo_fixed.py", "--report", "/dev/null/report.html")
        assert "report.html" in error or "/dev/null" in error
        assert "oracle" not in error


class TestUnreadableTransactions:
    @pytest.mark.parametrize("amount", ["abc", "", "nan", "inf", "0x10", "1_0"])
    def test_an_amount_is_refused_even_where_no_window_needs_it(self, ready, amount):
        header, first, *rest = ready.transactions.read_text().splitlines()
        ready.write_transactions(f"{first.rpartition(',')[0]},{amount}", *rest, header=header)
        ready.fail("compute_features.py")
        ready.fail("demo_fixed.py")
        ready.fail("demo_fixed.py", "--explain", first.split(",")[0])

    @pytest.mark.parametrize("row", ["1,2", "1,100,2026-01-01,5,6", " ", '""', '1,100,"2026-01-01,5'])
    def test_a_row_of_another_length_is_refused(self, ready, row):
        header, *rows = ready.transactions.read_text().splitlines()
        ready.write_transactions(*rows, row, header=header)
        ready.fail("demo_fixed.py")


class TestRowsThatAreNotUnique:
    @pytest.mark.parametrize("first", [True, False])
    def test_two_rows_of_one_instant_are_skew_whichever_of_them_is_answered(self, ready, first):
        rows = pq.read_table(ready.features)
        last = max(range(rows.num_rows), key=lambda place: (rows["user_id"][place].as_py() == 3, place))
        twin = rows.slice(last, 1).set_column(2, rows.schema.field(2), [[7.0]])
        pq.write_table(pa.concat_tables([twin, rows] if first else [rows, twin]), ready.features)
        outcome = ready.run("demo_fixed.py")
        assert outcome.status == 1
        assert "tie" in outcome.out


class TestEveryAcceptedFile:
    @pytest.mark.parametrize("zone", ["+05:30", "Asia/Tokyo", "America/New_York"])
    @pytest.mark.parametrize("instant", ["0001-01-01T00:00:00", "9999-12-31T23:59:59", "2026-03-08T07:30:00"])
    def test_parquet_instants_at_the_ends_of_the_calendar(self, project, zone, instant):
        path = project.root / "transactions.parquet"
        times = pa.array([datetime.fromisoformat(instant).replace(tzinfo=UTC)], pa.timestamp("us", "UTC"))
        columns = {"user_id": [1], "timestamp": times.cast(pa.timestamp("us", zone)), "purchase_amount": [1.5]}
        pq.write_table(pa.table(columns), path)
        project.succeed("compute_features.py", "--input", path)
        with raw_transactions(path, DEFINITION) as raw:
            assert [purchase.time for purchase in raw.of(1)] == times.to_pylist()


def test_a_terminated_replay_leaves_nothing_in_redis(ready):
    before = set(ready.client.keys())
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, "--at", purchases(ready)[50][1].isoformat()], cwd=ready.root
    )
    assert process.wait(60) == 143
    assert set(ready.client.keys()) - before == set()


TERMINATED = """
import os, runpy, signal, sys
sys.path.insert(0, os.getcwd())
import parity.proof.proof
seen = parity.proof.proof.latest_events
def stop(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return seen(*arguments)
parity.proof.proof.latest_events = stop  # by then the replay is in Redis
runpy.run_path("demo_fixed.py", run_name="__main__")
"""


class Proxy:
    """Stands between the scripts and Redis, and after some replies gives another one for each."""

    def __init__(self, port: int, replies: int, other: bytes):
        self.left, self.other, self.redis = replies, other, port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                client, _ = self.server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.redis)) as server:
            while ready := select.select([client, server], [], [])[0]:
                for end, other in ((client, server), (server, client)):
                    if end not in ready:
                        continue
                    data = end.recv(1 << 20)
                    if not data:
                        return
                    if end is server:
                        self.left -= 1
                    other.sendall(self.other if end is server and self.left < 0 else data)


SHAPES = [b":1\r\n", b"*-1\r\n", b"$-1\r\n", b"+OK\r\n", b"*0\r\n", b"*1\r\n*1\r\n:7\r\n"]
"""`make test` asks of each shape at one place, and of one shape at each; `make test-scale` of all others."""


class TestRepliesOfAnotherShape:
    @pytest.fixture
    def behind(self, ready):
        @contextlib.contextmanager
        def behind(replies: int, other: bytes):
            proxy = Proxy(ready.port, replies, other)
            with proxy.server:
                string = f"localhost:{proxy.port},socket_timeout=1,socket_connect_timeout=1"
                ready.configure(online_store__connection_string=string)
                yield ready

        return behind

    @pytest.mark.parametrize(
        ("replies", "other"),
        [
            pytest.param(replies, other, marks=[] if replies == 4 or other == SHAPES[0] else pytest.mark.scale)
            for replies in (2, 4, 6, 8)
            for other in SHAPES
        ],
    )
    def test_they_are_an_error_of_one_line(self, behind, replies, other):
        with behind(replies, other) as project:
            error = project.fail("demo_fixed.py")
            assert "of another shape" in error or "Redis at localhost" in error

    def test_a_reply_that_never_ends_is_waited_for_once(self, behind):
        with behind(5, b"$999999999\r\n") as project:
            begin = monotonic()
            project.fail("demo_fixed.py")
            assert monotonic() - begin < 30

    def test_slow_reads_end_the_measurement(self, every_read, ready, monkeypatch):
        monkeypatch.setattr("parity.online.side.LATENCY_SECONDS", 0.05)
        out = ready.succeed("demo_fixed.py")
        [calls] = re.findall(r"Online read of one user, ([\d,]+) calls?: p50", out)
        assert 1 <= int(calls.replace(",", "")) < 1000

    @pytest.mark.parametrize("kind", ["string", "list"])
    def test_a_key_that_is_not_a_hash_is_named(self, ready, kind):
        key = hashes(ready)[7]
        ready.client.delete(key)
        ready.client.set(key, "text") if kind == "string" else ready.client.lpush(key, "text")
        error = ready.fail("demo_fixed.py")
        assert "the key of user_id 7 of type int64 is not a hash" in error


class TestDefinitionThatChanged:
    """Features that were computed by another definition than is declared now, and not anew since."""

    @pytest.fixture
    def computed(self, project):
        project.apply()
        now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        ages = [timedelta(hours=1), timedelta(hours=2), timedelta(days=3, hours=12), timedelta(days=6)]
        project.write_transactions(
            *(
                f"{user},100,{(now - age).isoformat()},{amount}"
                for user in (1, 2)
                for amount, age in enumerate(ages, 19)
            )
        )
        path = project.root / "feature_repo" / "features.py"
        path.write_text(path.read_text().replace('function="mean"', 'function="max"'))
        project.apply()
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        project.succeed("demo_fixed.py")
        return project

    def change(self, project, before: str, after: str) -> None:
        path = project.root / "feature_repo" / "features.py"
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))
        project.apply()

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("time_window=timedelta(days=3)", "time_window=timedelta(days=4)"),
            ('function="max"', 'function="min"'),
            ('function="max"', 'function="count"'),
            ("    ttl=timedelta(days=30),", '    ttl=timedelta(days=30),\n    where="purchase_amount > 19",'),
            pytest.param('dtype=Float64, tags={"unit": "$"}', "dtype=Int64", marks=pytest.mark.scale),
            ('timestamp_field="timestamp",\n', 'timestamp_field="timestamp",\n    time_zone="America/Lima",\n'),
        ],
        ids=[
            "a window",
            "a function",
            "a function of another type",
            "a condition",
            "the type of a column",
            "a time zone",
        ],
    )
    def test_what_differs_is_shown_with_its_cause(self, computed, tmp_path, before, after):
        if "Int64" in after:
            after = after.replace("Int64", "__import__('feast.types').types.Int64")
        self.change(computed, before, after)
        outcome = computed.run("demo_fixed.py", "--certificate", tmp_path / "c.json", "--report", tmp_path / "r.html")
        assert outcome.status == 1, outcome
        assert "  definition: the table was computed by another one than features.py has now; run comp" in outcome.out
        content = certified(tmp_path / "c.json")
        assert set(content["causes"]) == {causes.DEFINITION}
        assert content["fingerprint"] not in content["computed_by"]
        assert causes.MEANING[causes.DEFINITION] in (tmp_path / "r.html").read_text()
        computed.succeed("compute_features.py")
        computed.succeed("materialize_to_online.py", "--retract")
        computed.succeed("demo_fixed.py", "--certificate", tmp_path / "c.json")
        content = certified(tmp_path / "c.json")
        assert content["computed_by"] == [content["fingerprint"]]

    def test_where_no_value_differs_yet_nothing_is_proven(self, computed):
        self.change(computed, "time_window=timedelta(days=3)", "time_window=timedelta(days=3, microseconds=1)")
        error = computed.fail("demo_fixed.py")
        assert "user_purchase_features was computed by another definition than features.py has now" in error
        assert "Run: python compute_features.py" in error

    def test_a_feature_that_is_not_there_can_not_be_compared(self, computed):
        self.change(computed, TOTAL, "purchases")
        assert "no column purchases" in computed.fail("demo_fixed.py")


class TestSeveralViews:
    @pytest.fixture
    def shop(self, project):
        """The orders of README: features of customers, whose ids are text, and of stores."""
        shutil.copy(ROOT / "examples" / "orders" / "features.py", project.root / "feature_repo")
        shutil.copy(ROOT / "examples" / "orders" / "orders.csv", project.root)
        project.apply()
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        return project

    def test_each_is_shown_and_one_verdict_is_of_all(self, every_read, shop, tmp_path):
        options = ["--certificate", tmp_path / "c.json", "--report", tmp_path / "r.html"]
        out = shop.succeed("demo_fixed.py", "--key", "customer_id=0042", *options)
        assert "customer_orders: customer 0042\n" in out
        assert "store_orders: store 7\n" in out
        assert "customer_orders: 3 customers, 6 features, at " in out
        assert "store_orders: 2 stores, 6 features, at " in out
        assert out.count("Training equals serving equals the oracle: every value of every key of 2 feature views.") == 1
        assert "store_orders: online read of one store, 1,000 calls: p50 " in out
        content = json.loads((tmp_path / "c.json").read_text())
        assert [(view["view"], view["keys"]) for view in content["views"]] == [
            ("customer_orders", 3),
            ("store_orders", 2),
        ]
        assert all(view["computed_by"] == [view["fingerprint"]] for view in content["views"])
        page = (tmp_path / "r.html").read_text()
        assert page.count('class="view good"') == 2
        assert "looked at, of which 0 have other text online" in page
        shop.succeed(*shlex.split(content["replay"])[1:])

    def test_what_differs_in_one_is_named_among_all(self, shop, tmp_path):
        rows = pq.read_table(shop.root / "data" / "customer_orders.parquet")
        place = rows.schema.get_field_index("last_sku")
        lost = pa.array([sku.lower() for sku in rows["last_sku"].to_pylist()])
        changed = rows.set_column(place, rows.schema.field(place), lost)
        pq.write_table(changed, shop.root / "data" / "customer_orders.parquet")
        shop.succeed("materialize_to_online.py")
        outcome = shop.run("demo_fixed.py", "--certificate", tmp_path / "c.json")
        assert outcome.status == 1
        assert (
            "  customer 0042: last_sku is b-2 in training, b-2 in serving, B-2 by the oracle "
            "(equal but wrong: rounding or type coercion)\n"
        ) in outcome.out
        assert re.search(
            r"SKEW: 9 values of 3 keys in 1 of 2 feature views. Causes: rounding or type coercion 9\.", outcome.out
        )
        views = json.loads((tmp_path / "c.json").read_text())["views"]
        assert [len(view["differences"]) for view in views] == [9, 0]
        assert shop.succeed("demo_fixed.py", "--view", "store_orders").count("Training equals") == 1

    def test_a_key_that_may_be_of_several_views_is_refused(self, shop):
        error = shop.fail("demo_fixed.py", "--key", "7")
        assert "may be of 2 feature views. Say of which: --view customer_orders or --view store_orders" in error
        assert "store 7\n" in shop.succeed("demo_fixed.py", "--view", "store_orders", "--key", "7").casefold()
        assert "customer 7 has no transactions; ids run from 0042 to c-17" in shop.fail(
            "demo_fixed.py", "--key", "customer_id=7"
        )
        assert "'x' can't be a store_id" in shop.fail("demo_fixed.py", "--key", "store_id=x")

    def test_an_explanation_has_the_condition_and_every_function(self, shop):
        out = shop.succeed("demo_fixed.py", "--explain", "customer_id=c-17")
        assert out.startswith("Customer c-17 at ")
        assert "  where status <> 'refunded', which leaves out 1 transaction\n" in out
        assert "spent_7d: sum of total in [" in out
        assert "  sum 49.5, count 2: sum 49.5\n" in out
        assert "  mean 24.75, count 2: std 0.3535533905932738\n" in out
        assert "  count 2: last A-1\n" in out
        assert "  count 2: count_distinct 1\n" in out
        assert out.endswith("  All sides agree.\n")

    def test_one_input_is_of_one_source(self, shop):
        features = shop.root / "feature_repo" / "features.py"
        text = features.read_text().replace("features_of(customer), features_of(store)", "features_of(customer), other")
        second = 'orders_again = TransactionSource(path="../orders.csv.copy.csv", timestamp_field="order_ts")\n'
        other = (
            'other = AggregatedFeatureView(name="store_orders", entities=[store], transactions=orders_again, '
            'aggregations=[Aggregation(name="orders", function="count", column="total")])\n'
        )
        features.write_text(text.replace("customer_orders, store", f"{second}{other}customer_orders, store", 1))
        shop.apply()
        assert "--input names one place, and these feature views have several sources" in shop.fail(
            "demo_fixed.py", "--input", "orders.csv"
        )

    def test_a_sample_is_of_each_view(self, shop):
        out = shop.succeed("demo_fixed.py", "--sample", "1", "--seed", "1")
        assert "every value of 2 keys drawn from 5 of 2 feature views; so few say nothing of the others." in out

    def test_the_past_is_replayed_for_all(self, shop):
        out = shop.succeed("demo_fixed.py", "--at", "2026-09-08T12:00:00Z")
        assert "every value of every key of 2 feature views, up to 2026-09-08T12:00:00+00:00." in out
