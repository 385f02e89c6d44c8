"""The proof of a table whose windows slide: now, at edges, in the past; explained, repaired, drawn, certified."""

import json
import logging
import re
import shlex
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, MICROSECOND
from parity.online.side import stored_events
from parity.online.steps import at_present, horizon_of_steps
from parity.proof import causes
from parity.proof.edges import Draw
from parity.proof.found import Edges
from parity.report.terminal import _edges
from tests.repository.features import user_features, user_purchase_features
from tests.world import DAY, EVENT, WINDOW, T, world

AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"
SLIDING = "    ttl=timedelta(days=30),\n    continuous=True,\n"


def slide(project, options: str = SLIDING) -> None:
    """Let the windows of the table slide."""
    path = project.root / "feature_repo" / "features.py"
    path.write_text(path.read_text().replace("    ttl=timedelta(days=30),\n", options))
    project.apply()


@pytest.fixture
def bought():
    """When user 1 has bought for 10, 20 and 40, and user 2 for 5: of the three days, 20 and 40 are inside."""
    now = datetime.now(UTC).replace(microsecond=0)
    return [now - age for age in (4 * DAY, 2 * DAY, DAY / 2, 10 * DAY)]


@pytest.fixture
def ready(project, bought):
    slide(project)
    rows = zip((1, 1, 1, 2), bought, ("10.00", "20.00", "40.00", "5.00"), strict=True)
    project.write_transactions(*(f"{user},7,{time.isoformat()},{amount}" for user, time, amount in rows))
    project.succeed("compute_features.py")
    project.succeed("materialize_to_online.py")
    return project


def redis_key(project, user: int) -> bytes:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(project.root / "feature_repo"))
    view = user_purchase_features
    stored = stored_events(store, FeatureTable(view, view.definition, user_features, project.transactions))
    [place] = [i for i, key in enumerate(stored.keys["user_id"].to_pylist()) if key == user]
    return stored.found[place][0]


class TestProof:
    @pytest.mark.smoke
    def test_it_compares_values_rows_and_edges(self, ready):
        out = ready.succeed("demo_fixed.py", "--seed", 7)
        assert re.search(rf"{AVERAGE} +\$30\.0 +\$30\.0 +0\.0 +\$30\.0\n", out)
        assert "  history: 8 rows of 2 users, 16 values equal to the oracle\n" in out
        assert "  to come: 2 rows of the history from after that instant, compared as well\n" in out
        assert re.search(
            r"  edges: 6 past and 1 coming steps, at each and a microsecond before and after: 42 values equal "
            r"\(drawn with --seed 7\)\n",
            out,
        )
        assert "no value on any side: 1 of 4 (nothing is in the window, or no purchase was known by then)\n" in out
        assert "Training equals serving equals the oracle: every value of every user.\n" in out

    def test_a_table_that_does_not_slide_says_nothing_of_it(self, project):
        project.prepare()
        out = project.succeed("demo_fixed.py")
        assert "edges" not in out
        assert "to come" not in out
        assert "nothing" not in out

    @pytest.mark.parametrize("zone", [pytest.param("America/New_York", marks=pytest.mark.scale), "Asia/Kathmandu"])
    def test_it_is_the_same_in_any_zone(self, ready, zone):
        outcome = ready.shell("python demo_fixed.py --seed 7", TZ=zone)
        assert outcome.status == 0, outcome
        assert (
            "edges: 6 past and 1 coming steps, at each and a microsecond before and after: 42 values equal"
            in outcome.out
        )

    def test_nothing_in_any_window_is_a_value_all_the_same(self, project, bought):
        slide(project)
        path = project.root / "feature_repo" / "features.py"
        path.write_text(re.sub(rf"\n *Aggregation\(name=\"{TOTAL}\".*?\),", "", path.read_text()))
        project.apply()
        project.write_transactions(f"1,7,{bought[3].isoformat()},5.00")
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        out = project.succeed("demo_fixed.py")
        assert "no value on any side: 1 of 1 (nothing is in the window" in out

    def test_keys_that_are_expired_prove_nothing(self, project, bought):
        slide(project, SLIDING.replace("30", "1"))
        project.write_transactions(f"1,7,{bought[3].isoformat()},5.00")
        project.succeed("compute_features.py")
        project.succeed("materialize_to_online.py")
        error = project.fail("demo_fixed.py")
        assert "because the last purchase, or end of a window, of 1 user is more than the ttl of 1 day ago" in error

    def test_a_step_to_come_that_was_changed_online_fails(self, ready, bought, tmp_path):
        key, field = redis_key(ready, 1), "_steps:user_purchase_features"
        history = pq.read_table(ready.features).to_pylist()
        wrong = [row | ({AVERAGE: 41.0} if row[AVERAGE] == 40.0 else {}) for row in history if row["user_id"] == 1]
        definition = replace(user_purchase_features.definition, continuous=True)
        until = horizon_of_steps(ready.client.hget(key, field))
        present = (bought[2] - EPOCH) // MICROSECOND
        _, [steps] = at_present(pa.Table.from_pylist(wrong, definition.schema), definition, present, until)
        ready.client.hset(key, field, steps)
        outcome = ready.run("demo_fixed.py", "--certificate", tmp_path / "c.json")
        assert outcome.status == 1, outcome
        step = bought[1] + WINDOW + MICROSECOND
        assert (
            f"  user 1 at {step.isoformat()}: {AVERAGE} is 40.0 in training, 41.0 in serving, 40.0 by the oracle "
            "(mismatch: tampered)\n"
        ) in outcome.out
        assert "match 4, mismatch 0, missing online 0, extra online 0, equal but wrong 0" in outcome.out
        [view] = json.loads((tmp_path / "c.json").read_text())["views"]
        assert view["sliding"]["edges"]["counts"]["mismatch"] == 2
        out = ready.succeed("demo_fixed.py", "--repair")
        assert out.index("SKEW: 2 values of 1 user") < out.index("Repaired, and compared again")

    def test_a_row_without_steps_is_past_its_horizon(self, ready, tmp_path):
        ready.client.hdel(redis_key(ready, 1), "_steps:user_purchase_features")
        outcome = ready.run("demo_fixed.py", "--report", tmp_path / "r.html")
        assert outcome.status == 1, outcome
        assert (
            f"{AVERAGE} is 30.0 in training, null in serving, 30.0 by the oracle (missing online: past" in outcome.out
        )
        assert causes.MEANING[causes.PAST_HORIZON] in (tmp_path / "r.html").read_text()
        ready.succeed("demo_fixed.py", "--repair")

    @pytest.mark.scale
    def test_a_view_that_slides_no_more_is_computed_first_and_then_gives_way(self, ready):
        path = ready.root / "feature_repo" / "features.py"
        path.write_text(path.read_text().replace("    continuous=True,\n", ""))
        ready.apply()
        error = ready.fail("materialize_to_online.py")
        assert "it was computed by other definitions than features.py now has. Run: python compute_features.py" in error
        feast = ready.shell(
            f"feast materialize-incremental {datetime.now(UTC).isoformat()}", ready.root / "feature_repo"
        )
        assert (feast.status, feast.err.count("Traceback")) == (2, 0), feast
        assert "windows slide in " in feast.err
        assert "run compute_features.py, then materialize_to_online.py" in ready.run("demo_fixed.py", "--repair").out
        ready.succeed("compute_features.py")
        ready.succeed("materialize_to_online.py")
        ready.succeed("demo_fixed.py")


class TestThePast:
    def test_it_is_replayed_at_and_beside_every_step(self, ready, bought):
        step = bought[0] + WINDOW + MICROSECOND
        for at, average in ((step - MICROSECOND, 15.0), (step, 20.0), (step + MICROSECOND, 20.0)):
            out = ready.succeed("demo_fixed.py", "--at", at.isoformat(), "--user", 1)
            assert re.search(rf"{AVERAGE} +\${average} +\${average} +0\.0 +\${average}\n", out), out
            assert " past and 0 coming steps, at each " in out

    def test_nothing_of_it_stays_in_redis(self, ready, bought):
        before = set(ready.client.keys())
        ready.succeed("demo_fixed.py", "--at", bought[2].isoformat())
        assert set(ready.client.keys()) - before == set()


class TestExplain:
    def test_it_shows_what_leaves_next_and_what_the_values_are_then(self, ready, bought):
        out = ready.succeed("demo_fixed.py", "--explain", 1)
        _, leaves, last = (time + WINDOW + MICROSECOND for time in bought[:3])
        assert "what comes, unless there is another purchase:\n" in out
        assert re.search(
            rf"  {re.escape(leaves.isoformat())} +{AVERAGE} +40\.0 +20\.00 of {re.escape(bought[1].isoformat())}\n", out
        )
        assert re.search(
            rf"  {re.escape(last.isoformat())} +{AVERAGE} +null +40\.00 of {re.escape(bought[2].isoformat())}\n", out
        )
        assert "the last change, " in out
        assert "All sides agree." in out

    def test_where_nothing_is_inside_nothing_leaves(self, ready):
        out = ready.succeed("demo_fixed.py", "--explain", 2)
        assert "  count 0: mean null\n" in out
        assert "nothing is in a window that slides, so no value changes until the next purchase\n" in out


class TestCertificate:
    def test_it_has_the_horizon_and_the_edges_and_how_to_draw_them_again(self, ready, tmp_path):
        ready.succeed("demo_fixed.py", "--certificate", tmp_path / "c.json", "--seed", 99)
        content = json.loads((tmp_path / "c.json").read_text())
        [view] = content["views"]
        assert view["sliding"]["horizon_seconds"] == 2 * 86_400
        edges = view["sliding"]["edges"]
        assert (edges["past"], edges["ahead"], edges["seed"], edges["counts"]["match"]) == (6, 1, 99, 42)
        assert content["replay"].endswith("--seed 99")
        ready.succeed(*shlex.split(content["replay"])[1:])


class TestPage:
    def test_one_users_value_is_drawn_over_time(self, ready, tmp_path):
        ready.succeed("demo_fixed.py", "--report", tmp_path / "r.html")
        html = (tmp_path / "r.html").read_text()
        assert f"{AVERAGE} of user 1, over 3 days" in html
        [chart] = [svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if 'viewBox="0 0 960 300"' in svg]
        paths = {
            looks: [p for p in ET.fromstring(chart).iter("path") if p.get("class") == looks]
            for looks in ("slide", "stay", "bought")
        }
        assert [len(paths[looks]) for looks in ("slide", "stay", "bought")] == [1, 1, 3]
        assert paths["slide"][0].get("d").count("H") == 4, "at three purchases, and when the first has left"
        assert paths["stay"][0].get("d").count("H") == 3
        assert not re.search(r"https?:|<script|<link|<img|@import|url\(", html)

    def test_a_table_that_does_not_slide_has_no_such_picture(self, project, tmp_path):
        project.prepare()
        project.succeed("demo_fixed.py", "--report", tmp_path / "r.html")
        assert "A value over time" not in (tmp_path / "r.html").read_text()


class TestEdges:
    def test_a_seed_draws_the_same_ones_again(self):
        def drawn(seed: int) -> list:
            draw = Draw(Edges(seed), EPOCH + 700 * MICROSECOND, 200, only_past=False)
            for key in (1, 2):  # by and by
                draw.look(np.full(500, key), np.arange(500) * 2 + key, {1: [], 2: []})
            steps = draw.steps(False), draw.steps(True)
            assert [len(some) for some in steps] == [100, 100]
            assert all(EPOCH + 700 * MICROSECOND < step.instant <= EPOCH + 900 * MICROSECOND for step in steps[1])
            return [*steps]

        assert drawn(1) == drawn(1) != drawn(2)
        assert {step.number for step in drawn(1)[0]} == {1, 2}

    def test_where_none_was_compared_no_values_are_said_to_be_equal(self):
        assert _edges(Edges(7)) == "edges: none was compared (drawn with --seed 7)"

    def test_nothing_is_written(self, redis_port):
        with world(redis_port, 4, kind="sliding") as healthy:
            before = {key: healthy.client.hgetall(key) for key in map(healthy.redis_key, healthy.users)}
            found = healthy.compare()
            assert found.edges.ahead > 0
            assert {key: healthy.client.hgetall(key) for key in before} == before

    def test_a_key_with_very_many_purchases_leaves_room_for_fewer(self, redis_port, monkeypatch):
        monkeypatch.setattr("parity.proof.edges.MOST_LOOKS", 200)
        with world(redis_port, 5, kind="sliding") as healthy:
            found = healthy.compare()
            assert 0 < found.edges.past < 100
            assert not found.differences

    @pytest.mark.scale
    def test_bytes_that_are_broken_are_found_or_do_no_harm(self, redis_port, caplog):
        """Whatever a byte of the steps is changed to: no error, and nothing is said of other keys."""
        caplog.set_level(logging.CRITICAL)
        with world(redis_port, 8, kind="sliding, every function") as spoiled:
            spoiled.rows = [row for row in spoiled.rows if row[0] < 3]
            spoiled.rows += [(900, T - WINDOW + DAY, "7.31"), (900, T - 7 * DAY + DAY, "9.00")]
            spoiled.write()
            spoiled.compute()
            spoiled.materialize()
            stored, seen = spoiled.steps(900), 0
            for _ in range(10):
                spoiled.now -= timedelta(minutes=1)
                broken = bytearray(stored)
                broken[spoiled.random.randrange(len(stored))] ^= 1 << spoiled.random.randrange(8)
                spoiled.put_steps(900, bytes(broken))
                found = spoiled.compare().differences
                assert {spoiled.number(difference.key) for difference in found} <= {900}
                seen += bool(found)
            assert seen > 2

    def test_the_calendar_has_two_ends(self, redis_port):
        with world(redis_port, 7, kind="sliding") as healthy:
            ends = FIRST_INSTANT, FIRST_INSTANT + DAY, LAST_INSTANT - WINDOW - MICROSECOND, LAST_INSTANT
            healthy.rows = [(900, time, "7.31") for time in (*ends, T)]
            healthy.write()
            healthy.compute()
            healthy.materialize()
            found = healthy.compare()
            assert not found.differences
            assert (found.edges.past, found.edges.ahead, found.history.rows) == (5, 0, 8), "one leaves as another comes"

    def test_beside_every_step_of_a_key_the_sides_agree(self, redis_port):
        """Materialized once, and read at and around each step up to the horizon and beyond."""
        with world(redis_port, 6, kind="sliding, every function") as healthy:
            healthy.rows = [(900, T - WINDOW + DAY, "7.31"), (900, T - 7 * DAY + DAY / 2, "9.00")]
            healthy.write()
            healthy.compute()
            healthy.materialize()
            end = healthy.now
            steps = sorted(row[EVENT] for row in healthy.history().to_pylist())
            for step in [step for step in steps if end < step <= end + 2 * DAY]:
                for beside in (-1, 0, 1):
                    healthy.now = step + beside * MICROSECOND - timedelta(minutes=1)
                    assert not healthy.compare().differences
            healthy.now = end + 2 * DAY - timedelta(minutes=1)
            assert not healthy.compare().differences
            healthy.now += MICROSECOND - timedelta(minutes=1)
            assert {d.cause for d in healthy.compare().differences} == {causes.PAST_HORIZON}
