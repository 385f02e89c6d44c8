"""What demo_fixed.py does beside comparing: explain, go back in time, repair, sample, certify."""

import csv
import json
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.features import AGGREGATIONS
from parity.materialization import repair
from parity.oracle import Purchase, evaluate, raw_transactions
from parity.proof import WRONG
from tests.faults import FAULTS
from tests.test_demo import hashes
from tests.world import AVERAGE, STOCK, TOTAL, world

ONLINE_FAULTS = [fault for fault in FAULTS if fault.kind != WRONG and fault.online != STOCK]


@pytest.fixture
def ready(project):
    project.prepare()
    return project


def purchases(project) -> list[tuple[int, datetime, str]]:
    with open(project.transactions, newline="") as file:
        rows = csv.DictReader(file)
        return [(int(r["user_id"]), datetime.fromisoformat(r["timestamp"]), r["purchase_amount"]) for r in rows]


class TestTimeTravel:
    def test_at_any_instant_the_three_sides_agree(self, ready):
        events = [time for _, time, _ in purchases(ready)]
        for at in (events[5], events[40] - timedelta(microseconds=1), events[70] + timedelta(days=1, seconds=1)):
            out = ready.succeed("demo_fixed.py", "--at", at.isoformat())
            assert f"20 users, 2 features, at {at.isoformat()}" in out
            assert "match 40," in out

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

        monkeypatch.setattr("parity.replay.materialize", lambda *args: lost())
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
            where = "inside" if time >= last - AGGREGATIONS[0].time_window else "outside"
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

    @pytest.mark.parametrize("fault", ONLINE_FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
    def test_every_fault_of_the_online_side_is_repaired(self, fault, redis_port):
        with world(redis_port, 2, fault.online, fault.offline) as spoiled:
            fault.plant(spoiled)
            found = spoiled.compare()
            repair(spoiled.store, spoiled.view, found.users_skewed, spoiled.now, spoiled.now)
            left = spoiled.compare()
            assert all(d.training != d.oracle for d in left.differences), "what is left is wrong offline"


class TestCertificate:
    def test_it_says_what_was_proven_and_how_to_do_it_again(self, ready, tmp_path):
        path = tmp_path / "certificate.json"
        ready.succeed("demo_fixed.py", "--certificate", path)
        content = json.loads(path.read_text())
        assert content["verdict"] == "equal"
        assert (content["users"], content["values"], content["differences"]) == (20, 40, [])
        assert content["sample"] is None
        assert content["versions"]["feast"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", content["versions"]["redis-server"])
        again = shlex.split(content["replay"])
        assert again[:2] == ["python", "demo_fixed.py"]
        out = ready.succeed(*again[1:], "--certificate", path)
        assert content["at"] in out
        replayed = json.loads(path.read_text())
        for same in ("at", "definition_sha256", "data_sha256", "counts", "replay"):
            assert replayed[same] == content[same]

    def test_other_data_has_another_hash(self, ready, tmp_path):
        hashes = []
        for seed in (1, 2):
            ready.succeed("generate_synthetic_data.py", "--seed", seed)
            ready.succeed("compute_features.py")
            ready.succeed("materialize_to_online.py")
            ready.succeed("demo_fixed.py", "--certificate", tmp_path / "c.json")
            hashes.append(json.loads((tmp_path / "c.json").read_text())["data_sha256"])
        assert not set(hashes[0].values()) & set(hashes[1].values())

    def test_differences_are_listed_with_their_cause(self, ready, tmp_path):
        ready.client.delete(hashes(ready)[3])
        assert ready.run("demo_fixed.py", "--certificate", tmp_path / "c.json").status == 1
        content = json.loads((tmp_path / "c.json").read_text())
        assert content["verdict"] == "skew"
        assert content["causes"] == {"never materialized": 2}
        assert {difference["user"] for difference in content["differences"]} == {3}

    def test_a_sample_states_its_bound(self, ready, tmp_path):
        ready.succeed("demo_fixed.py", "--sample", 6, "--seed", 4, "--certificate", tmp_path / "c.json")
        content = json.loads((tmp_path / "c.json").read_text())
        assert content["sample"]["share_of_users_differing_at_most"] == 0.5
        assert (content["sample"]["users"], content["sample"]["of"]) == (6, 20)
        assert content["replay"].endswith("--sample 6 --seed 4")

    def test_a_sample_that_found_a_difference_states_none(self, ready, tmp_path):
        for key in hashes(ready).values():
            ready.client.hdel(key, *[f for f in ready.client.hkeys(key) if not f.startswith(b"_ts")])
        assert ready.run("demo_fixed.py", "--sample", 6, "--certificate", tmp_path / "c.json").status == 1
        assert json.loads((tmp_path / "c.json").read_text())["sample"]["share_of_users_differing_at_most"] is None

    def test_a_sample_as_large_as_all_is_all(self, ready, tmp_path):
        ready.succeed("demo_fixed.py", "--sample", 20, "--certificate", tmp_path / "c.json")
        assert json.loads((tmp_path / "c.json").read_text())["sample"] is None


class TestOracle:
    def test_a_file_in_many_parts_is_read_whole(self, ready, monkeypatch):
        monkeypatch.setattr("parity.oracle.BYTES_PER_PART", 300)
        ready.succeed("demo_fixed.py")

    def test_parquet_transactions(self, ready):
        parquet = ready.transactions.with_suffix(".parquet")
        ready.succeed("generate_synthetic_data.py", "--output", parquet)
        ready.succeed("compute_features.py", "--input", parquet)
        ready.succeed("materialize_to_online.py")
        usual = ready.transactions.read_bytes()
        ready.transactions.unlink()
        ready.succeed("demo_fixed.py")
        ready.transactions.write_bytes(usual)
        ready.succeed("compute_features.py")
        ready.succeed("materialize_to_online.py")
        parquet.unlink()
        ready.succeed("demo_fixed.py")
        ready.succeed("generate_synthetic_data.py", "--output", parquet)
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
        with raw_transactions(project.transactions, "user_id", "timestamp", ["purchase_amount"]) as raw:
            times = [purchase.time.isoformat() for purchase in raw.of(1)]
        assert times == ["2026-03-08T10:00:00+00:00", "2026-03-08T10:00:00.000001+00:00", "2026-03-08T00:00:00+00:00"]

    def test_it_holds_the_documented_window(self):
        event = datetime(2026, 3, 8, tzinfo=UTC)
        window = AGGREGATIONS[0].time_window
        ages = {"1": timedelta(), "2": window, "4": window + timedelta(microseconds=1)}
        bought = [Purchase(event - age, {"purchase_amount": amount}) for amount, age in ages.items()]
        assert [evaluate(a, bought, event) for a in AGGREGATIONS] == [1.5, 3]


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
        assert len(json.loads((tmp_path / "c.json").read_text())["differences"]) == 1
        assert "<b>" not in re.findall(r"<td>1</td>.*?</tr>", (tmp_path / "r.html").read_text(), re.DOTALL)[0]

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
        with raw_transactions(path, "user_id", "timestamp", ["purchase_amount"]) as raw:
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
import parity.proof
seen = parity.proof.latest_events
def stop(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return seen(*arguments)
parity.proof.latest_events = stop  # by then the replay is in Redis
runpy.run_path("demo_fixed.py", run_name="__main__")
"""
