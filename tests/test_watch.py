"""The watch: all parts in one go, ranked, on one page, and a status that is about the right things only."""

import json
import re
import runpy
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import yaml
from feast import FeatureStore

from parity import Expectation
from parity.compute.history import compute_here
from parity.definition.checks import declared
from parity.definition.instants import EPOCH
from parity.edge.files import location
from parity.edge.redis_server import free_port
from parity.materialization import materialize_all
from parity.quality.judge import Judged, Tally
from parity.watch.found import BAD, MOVED, PARTS, PIPELINE, UNCHECKED, Finding, Part, Watched, as_json, shown
from parity.watch.of_proof import watch_proof
from parity.watch.of_quality import _Failed, _incidents
from parity.watch.page import write_page
from tests.conftest import ROOT
from tests.definition import AVERAGE, aggregation, table, user
from tests.online import applied

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
TODAY = datetime.combine(AT.date(), time(), UTC)


def finding(kind, part, users=1, since=None, **more):
    return Finding(kind, (part,), f"{kind} of {part}", ("Do it.",), since, users=users, whose="users", **more)


def watched(*findings, fail_on=PARTS):
    parts = [Part(name, "said", [one for one in findings if one.parts[0] == name]) for name in PARTS]
    return Watched(AT, parts, fail_on)


class TestStatus:
    def test_nothing_to_see_to_is_0(self):
        assert (watched().status, watched().verdict) == (0, "all is well")

    @pytest.mark.parametrize(("kind", "part"), [(BAD, "quality"), (MOVED, "drift"), (PIPELINE, "proof")])
    def test_what_is_found_is_1_whatever_could_not_be_checked(self, kind, part):
        assert watched(finding(kind, part)).status == 1
        assert watched(finding(kind, part), finding(UNCHECKED, "proof")).status == 1

    def test_what_could_not_be_checked_is_2_if_nothing_is_found(self):
        assert watched(finding(UNCHECKED, "drift")).status == 2

    @pytest.mark.parametrize(("kind", "status"), [(MOVED, 0), (UNCHECKED, 0)])
    def test_a_part_that_is_not_named_is_shown_and_decides_nothing(self, kind, status):
        found = watched(finding(kind, "drift"), fail_on=("quality", "proof"))
        assert (found.status, len(found.findings)) == (status, 1)

    def test_a_drift_of_the_pipeline_counts_for_the_proof_too(self):
        one = finding(PIPELINE, "drift")._replace(parts=("drift", "proof"))
        assert watched(one, fail_on=("proof",)).status == 1
        assert watched(one, fail_on=("quality",)).status == 0


class TestOrder:
    def test_the_most_urgent_comes_first_and_of_a_kind_that_of_more_users(self):
        found = watched(
            finding(MOVED, "drift", 1000),
            finding(UNCHECKED, "drift", None),
            finding(BAD, "quality", 5),
            finding(BAD, "quality", 70),
            finding(PIPELINE, "proof", 1),
        )
        ranked = [(one.kind, one.users) for one in found.findings]
        assert ranked == [(PIPELINE, 1), (BAD, 70), (BAD, 5), (UNCHECKED, None), (MOVED, 1000)]
        assert [one["rank"] for one in as_json(found)["findings"]] == [1, 2, 3, 4, 5]
        assert next(line for line in shown(found).splitlines() if line[0].isdigit()).startswith("1. PIPELINE")

    def test_a_reason_that_ends_in_a_command_says_what_to_run(self):
        part = Part("quality")
        part.unchecked("Great Expectations is not installed. Run: pip install -r requirements-quality.txt")
        [one] = part.findings
        assert one.what == "quality: Great Expectations is not installed."
        assert one.todo == ("Run: pip install -r requirements-quality.txt",)


class TestDays:
    @pytest.mark.parametrize(
        ("failed", "when", "days"),
        [
            ([-30], "on {first}", None),
            ([-30, -29, -28], "{first} to {last}", None),
            ([-30, -20, -10, -6], "on 4 days from {first} to {last}", 4),
            ([-30, -2, -1], "on 3 days since {first}", 3),
            ([-2, -1], "since {first}", None),
        ],
    )
    def test_separate_days_are_counted_and_not_taken_for_all_between(self, tmp_path, failed, when, days):
        numbers = [(TODAY - EPOCH).days + one for one in failed]
        expectation = Expectation("expect_column_values_to_be_between", column="purchase_amount", min_value=0)
        tally = Tally(expectation, 31, numbers, looked_at=9, unexpected=4)
        shop = table(tmp_path, "purchases", [user], [aggregation("mean", "purchase_amount", 3, AVERAGE)])
        [found] = _incidents([_Failed(shop, Judged("sales", 31, 100, [tally], {}), tally)], AT)
        assert found.when == when.format(first=day(failed[0]), last=day(failed[-1]))
        [record] = as_json(watched(found))["findings"]
        assert record["days"] == days
        assert f"BAD DATA {found.when}: " in shown(watched(found))


def test_the_page_has_each_finding_with_when_who_and_what_to_do_and_no_script(tmp_path):
    one = finding(
        BAD, "quality", 12, date(2026, 2, 1), until=date(2026, 2, 3), page="quality report", details=("<b>5</b>",)
    )
    part = Part("quality", "1 failed", [one], ["warning: small"], {"quality report": "quality/a b.html"})
    write_page(tmp_path / "watch.html", Watched(AT, [part]))
    page = (tmp_path / "watch.html").read_text()
    for text in ("1 thing to see to", "2026-02-01 to 2026-02-03", "12 users", "Do it.", "warning: small", "&lt;b&gt;"):
        assert text in page
    assert 'href="quality/a%20b.html"' in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=.?https?:", page)


def test_make_watch_has_a_project_a_database_and_data_of_its_own():
    demo, own = (
        yaml.safe_load((ROOT / name / "feature_store.yaml").read_text()) for name in ("feature_repo", "examples/watch")
    )
    assert demo["project"] != own["project"]
    assert demo["registry"]["path"] != own["registry"]["path"]
    databases = [re.search(r"db=(\d+)", one["online_store"]["connection_string"])[1] for one in (demo, own)]
    assert len(set(databases)) == 2
    recipe = re.search(r"^watch:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    for line in recipe.splitlines():
        assert "$(WATCH)" in line, "each command works on the example"
    assert "/examples/watch/data/" in (ROOT / ".gitignore").read_text().split()


# A small shop, watched for real: make test has neither Great Expectations nor scipy

FEATURES = """
from datetime import timedelta
from pathlib import Path
from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.data_format import ParquetFormat
from feast.types import Float64
from parity import AggregatedFeatureView, Expectation, TransactionSource, check_definitions, same_weekday, usually

HERE = Path(__file__).parent
buyer = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.INT64)
bought = TransactionSource(
    name="bought",
    path=str(HERE / "bought.csv"),
    timestamp_field="at",
    schema=[Field(name="amount", dtype=Float64, tags={"unit": "EUR"})],
    expectations=[
        Expectation("expect_column_values_to_be_between", column="amount", min_value=0),
        Expectation("expect_column_values_to_be_between", column="amount", max_value=60, severity="warning"),
        Expectation("expect_table_row_count_to_be_between", min_value=same_weekday(0.6)),
    ],
)
spending = AggregatedFeatureView(
    name="spending",
    entities=[buyer],
    ttl=timedelta(0),
    transactions=bought,
    aggregations=[Aggregation(name="mean_2d", function="mean", column="amount", time_window=timedelta(days=2))],
    source=FileSource(
        name="spending_source",
        path=str(HERE / "spending.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    ),
    tags={"matters.mean_2d": "15%"},
)
service = FeatureService(name="spending", features=[spending])
check_definitions(globals())
"""
DAYS, BUYERS, A_DAY = 38, 80, 200


def bought(change=None) -> pd.DataFrame:
    """Purchases of the 38 days up to yesterday, and of this morning; with the day of each, yesterday's is -1."""
    random = np.random.default_rng(5)
    rows = DAYS * A_DAY
    seconds = np.sort(np.r_[random.integers(-DAYS * 86400, 0, rows), random.integers(0, 30_000, 30)])
    who = random.integers(0, BUYERS, len(seconds))
    amounts = np.round(np.exp(3 + random.normal(0, 0.2, BUYERS)[who] + random.normal(0, 0.3, len(who))), 2)
    at = [(TODAY + timedelta(seconds=int(second))).strftime("%Y-%m-%dT%H:%M:%SZ") for second in seconds]
    frame = pd.DataFrame({"buyer_id": who, "at": at, "amount": amounts, "day": seconds // 86400})
    return frame if change is None else change(frame)


class Shop:
    """A repository in a folder, with its features computed, and brought online."""

    def __init__(self, folder: Path, port: int, name: str, change=None):
        self.folder = folder / name
        self.folder.mkdir()
        self.rows = bought(change)
        (self.folder / "features.py").write_text(FEATURES)
        config = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
        config["project"] = f"watch_{name}"
        config["registry"]["path"] = "registry.db"
        config["online_store"]["connection_string"] = f"localhost:{port}"
        self.configuration = self.folder / "feature_store.yaml"
        self.configuration.write_text(yaml.safe_dump(config))
        self.rows.drop(columns="day").to_csv(self.folder / "bought.csv", index=False)

    @property
    def stored(self) -> Path:
        return self.folder / "spending.parquet"

    def prepare(self) -> "Shop":
        tables = list(declared(self.folder))
        for one in tables:
            compute_here(one, one.transactions, location(one.source.path))
        self.store.apply(applied(tables))
        return self

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(repo_path=str(self.folder))

    def dearer(self, factor: float) -> "Shop":
        """Change what is stored of the last seven days, and not the transactions."""
        rows = pq.read_table(self.stored)
        late = rows["event_timestamp"].to_numpy() >= np.datetime64((TODAY - timedelta(days=7)).replace(tzinfo=None))
        values = rows["mean_2d"].to_numpy() * np.where(late, factor, 1)
        place = rows.column_names.index("mean_2d")
        pq.write_table(rows.set_column(place, rows.schema.field(place), pa.array(values)), self.stored)
        return self


def with_market(shop: Shop, days: int) -> Shop:
    """Add a view of purchases on a market, which are known for a day; the last of them was so many ``days`` ago."""
    view, service = FEATURES.partition("spending = ")[2].split("service = ")
    market = "market = " + view.replace("spending", "market").replace("bought", "stalls").replace("days=2)", "days=1)")
    source = FEATURES[FEATURES.index("bought = ") : FEATURES.index("    expectations")] + ")\n"
    service = 'markets = FeatureService(name="markets", features=[market])\n'
    text = FEATURES.replace("service = ", f"{source.replace('bought', 'stalls')}{market}{service}service = ").replace(
        'name="market",\n    entities=[buyer],\n    ttl=timedelta(0)',
        'name="market",\n    entities=[buyer],\n    ttl=timedelta(days=1)',
    )
    (shop.folder / "features.py").write_text(text)
    at = TODAY - timedelta(days=days)
    rows = [f"{who},{at:%Y-%m-%dT%H:%M:%SZ},5.5" for who in range(3)]
    (shop.folder / "stalls.csv").write_text("\n".join(["buyer_id,at,amount", *rows, ""]))
    return shop


class TestProofOfSeveralViews:
    """Each by itself, as what one can't be proven of is no reason to prove nothing."""

    def proof(self, shop: Shop) -> Part:
        out = shop.folder / "out"
        out.mkdir(exist_ok=True)
        return watch_proof(declared(shop.folder), shop.folder, out, AT, datetime.now(UTC), 20, 1)

    def test_a_view_with_nothing_to_prove_now_is_a_note(self, tmp_path, redis_port):
        shop = with_market(Shop(tmp_path, redis_port, "market"), 5).prepare()
        part = self.proof(shop)
        assert part.findings == []
        assert part.summary.startswith("Training equals serving equals the oracle: every value of 20 buyers")
        assert part.summary.endswith(" Nothing to prove now: market.")
        assert any("the last purchase of 3 buyers is more than the ttl of 1 day ago" in line for line in part.noted)
        certificate = json.loads((shop.folder / "out" / "certificate.json").read_text())
        assert [view["view"] for view in certificate["views"]] == ["spending"]
        assert certificate["feature_views_not_looked_at"] == ["market (nothing to prove now)"]
        assert "--view spending" in certificate["replay"]

    def test_a_view_that_can_not_be_proven_hides_no_other(self, tmp_path, redis_port):
        shop = with_market(Shop(tmp_path, redis_port, "torn"), 0).prepare()
        (shop.folder / "market.parquet").unlink()
        part = self.proof(shop)
        [finding] = part.findings
        assert (finding.kind, "market.parquet" in finding.what) == (UNCHECKED, True)
        assert part.summary.startswith("Training equals serving")
        assert "not looked at: market (not checked)" in part.noted

    def test_if_no_view_has_anything_to_prove_it_is_not_checked(self, tmp_path, redis_port):
        shop = with_market(Shop(tmp_path, redis_port, "over"), 5)
        text = (shop.folder / "features.py").read_text()
        (shop.folder / "features.py").write_text(text.replace("ttl=timedelta(0)", "ttl=timedelta(seconds=1)"))
        part = self.proof(shop.prepare())
        assert [one.kind for one in part.findings] == [UNCHECKED]
        assert "nothing is proven" in part.findings[0].what
        assert part.summary == "not checked"


@pytest.fixture(scope="module")
def shops(tmp_path_factory, redis_port):
    """Shops by the change that is made to their rows; each is made once."""
    made: dict[str, Shop] = {}

    def shop(name: str, change=None) -> Shop:
        if name not in made:
            folder = tmp_path_factory.mktemp("shops")
            made[name] = Shop(folder, redis_port, name, change).prepare()
        return made[name]

    return shop


@pytest.fixture
def watch(monkeypatch, capsys):
    """Run the command as of AT; its status and JSON, and what it prints."""
    pytest.importorskip("great_expectations")
    pytest.importorskip("scipy")
    from parity.watch.command import main

    def command(shop: Shop, *arguments: object, at: datetime | None = AT) -> tuple[int, dict, str]:
        page = shop.folder / "out" / "watch.html"
        asked = [
            "-c",
            shop.folder,
            "--report",
            page,
            "--seed",
            1,
            *(["--at", at.isoformat()] if at else []),
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", ["python -m parity watch", *map(str, asked)])
        capsys.readouterr()
        status = main()
        return status, json.loads(page.with_suffix(".json").read_text()), capsys.readouterr().out

    return command


def day(number: int) -> str:
    return str((TODAY + timedelta(days=number)).date())


BAD_DAY, DRIFTED = -20, -7


def planted(rows: pd.DataFrame) -> pd.DataFrame:
    """Refunds on one day, and the last seven days dearer."""
    amounts = rows["amount"].where(rows["day"] < DRIFTED, rows["amount"] * 1.3)
    refunds = (rows["day"] == BAD_DAY) & (rows["buyer_id"] % 4 == 0)
    return rows.assign(amount=amounts.where(~refunds, -amounts).round(2))


def slightly_dearer(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(amount=(rows["amount"] * np.where(rows["day"] < DRIFTED, 1, 1.1)).round(2))


def kinds(found: dict) -> list[str]:
    return [one["kind"] for one in found["findings"]]


@pytest.mark.scale
class TestShop:
    def test_a_bad_day_and_a_drifted_week_are_found_with_when_who_and_what_to_do(self, shops, watch):
        shop = shops("planted", planted)
        status, found, out = watch(shop, "--sample", 30)
        assert (status, kinds(found)) == (1, [BAD, MOVED])
        bad, moved = found["findings"]
        refunded = shop.rows[(shop.rows["day"] == BAD_DAY) & (shop.rows["amount"] < 0)]
        assert (bad["since"], bad["until"]) == (day(BAD_DAY), day(BAD_DAY))
        assert bad["users"] == refunded["buyer_id"].nunique() > 5
        assert bad["what"] == "bought: amount out of range; and so spending"
        assert f"compute_features.py -c {shop.folder}" in bad["todo"][-1]
        assert abs((date.fromisoformat(moved["since"]) - date.fromisoformat(day(DRIFTED))).days) <= 2
        late = shop.rows[shop.rows["day"].between((date.fromisoformat(moved["since"]) - TODAY.date()).days, -1)]
        assert moved["users"] == late["buyer_id"].nunique()
        assert any("data: the oracle agrees" in line for line in moved["details"])
        assert "Training equals serving" in found["parts"]["proof"]["summary"]
        folder = shop.folder / "out"
        assert set(found["pages"]) == {"quality report", "drift report", "proof", "certificate"}
        for page in found["pages"].values():
            assert (folder / page).is_file()
        assert re.search(r"Page: .*watch\.html$", out.strip())
        assert len(out.splitlines()) < 15

    def test_warnings_small_drifts_and_a_day_that_is_not_over_are_no_alarm(self, shops, watch):
        status, found, _ = watch(shops("small", slightly_dearer), "--sample", 30)
        assert (status, found["findings"]) == (0, [])
        assert any(line.startswith("warning: ") for line in found["parts"]["quality"]["noted"])
        assert any("less than matters" in line for line in found["parts"]["drift"]["noted"])
        assert f"{day(-7)}..{day(-1)}" in found["parts"]["drift"]["summary"]

    def test_a_part_that_can_not_be_done_hides_no_other(self, shops, watch, monkeypatch):
        for name, change, status in (("planted", planted, 1), ("small", slightly_dearer, 2)):
            shop = shops(name, change)
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, "great_expectations", None)
                before = shop.configuration.read_text()
                shop.configuration.write_text(re.sub(r"localhost:\d+", f"localhost:{free_port()}", before))
                found = watch(shop, "--sample", 30)
                shop.configuration.write_text(before)
            assert found[0] == status
            unchecked = {
                one["what"].split(":")[0]: one["todo"] for one in found[1]["findings"] if one["kind"] == UNCHECKED
            }
            assert unchecked["quality"] == ["Run: pip install -r requirements-quality.txt"]
            assert set(unchecked) == {"quality", "proof"}
            assert kinds(found[1]).count(MOVED) == (status == 1)

    def test_what_the_pipeline_does_wrong_is_named_so_and_comes_first(self, tmp_path, redis_port, watch):
        shop = Shop(tmp_path, redis_port, "pipeline", planted).prepare().dearer(1.3)
        status, found, _ = watch(shop, "--fail-on", "proof")
        assert status == 1
        ranked = found["findings"]
        assert [one["kind"] for one in ranked[:3]] == [PIPELINE] * 3
        assert {tuple(one["parts"]) for one in ranked[:3]} == {("quality", "proof"), ("drift", "proof"), ("proof",)}
        assert BAD in kinds(found)[3:], "what is planted in the data is found beside it"
        [of_proof] = [one for one in found["findings"] if one["parts"] == ["proof"]]
        late = shop.rows[shop.rows["day"] >= DRIFTED]
        assert (of_proof["since"], of_proof["users"]) == (day(DRIFTED), late["buyer_id"].nunique())
        assert "python compute_features.py" in of_proof["todo"][0]

    def test_a_value_that_somebody_else_wrote_online_is_found_at_the_present(self, tmp_path, redis_port, watch):
        shop = Shop(tmp_path, redis_port, "tampered").prepare()
        [table] = declared(shop.folder)
        now = datetime.now(UTC)
        materialize_all(shop.store, [table], None, now, now)
        status, found, _ = watch(shop, at=None)
        assert PIPELINE not in kinds(found)
        [key] = [one for one in redis.Redis(port=redis_port).scan_iter(count=10_000) if b"watch_tampered" in one][:1]
        redis.Redis(port=redis_port).delete(key)
        status, found, _ = watch(shop, at=None)
        assert status == 1
        first = found["findings"][0]
        assert (first["kind"], first["parts"], first["users"]) == (PIPELINE, ["proof"], 1)
        assert "materialize_to_online.py" in first["todo"][0]

    def test_data_that_can_not_be_read_is_bad_data(self, tmp_path, redis_port, watch):
        shop = Shop(tmp_path, redis_port, "unreadable").prepare()
        with open(shop.folder / "bought.csv", "a") as file:
            file.write(f"7,{day(-1)}T10:00:00Z,a lot\n")
        status, found, _ = watch(shop)
        assert status == 1
        [bad] = [one for one in found["findings"] if one["kind"] == BAD]
        assert (bad["users"], bad["since"]) == (None, None)
        assert "a lot" in bad["details"][0]
        assert [one["what"].split(":")[0] for one in found["findings"] if one["kind"] == UNCHECKED] == ["proof"]

    def test_features_that_are_not_there_can_not_be_checked(self, tmp_path, redis_port, watch):
        shop = Shop(tmp_path, redis_port, "empty")
        status, found, out = watch(shop)
        assert (status, set(kinds(found))) == (2, {UNCHECKED})
        assert {one["what"].split(":")[0] for one in found["findings"]} == set(PARTS)
        assert "python compute_features.py" in out


@pytest.mark.scale
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[rows["day"] >= -3], "the reference, {reference}, has no rows"),
        (lambda rows: rows[rows["day"] >= 0], "it has no rows of a day that is over"),
        (lambda rows: rows[rows["buyer_id"] < 2], "2 buyers have rows in these windows, and at this rate of false"),
    ],
)
def test_what_there_is_too_little_of_to_judge_its_drift_is_a_note(tmp_path, redis_port, change, said):
    pytest.importorskip("scipy")
    from parity.watch.of_drift import watch_drift

    shop = Shop(tmp_path, redis_port, "new", change).prepare()
    part = watch_drift(declared(shop.folder), shop.folder, tmp_path, AT, [])
    assert part.findings == []
    said = said.format(reference=f"{day(-35)}..{day(-8)}")
    assert part.summary.startswith("not judged yet: ")
    assert said in part.summary
    [line] = part.noted
    assert line.startswith("not judged yet: ")
    assert "Name " not in line, "nobody names windows in the watch"
    shop.stored.unlink()
    assert [one.kind for one in watch_drift(declared(shop.folder), shop.folder, tmp_path, AT, []).findings] == [
        UNCHECKED
    ]


@pytest.mark.scale
def test_bad_input_is_one_line(project):
    for options, reason in (
        ("--fail-on drift,weather", "'weather' is none of quality, drift, proof"),
        ("--sample 0", "0 is not between 1"),
        ("--report page.txt", "does not end in .html"),
        ("-c nowhere", "is not a folder"),
        ("-c data", "features.py"),
    ):
        (project.root / "data").mkdir(exist_ok=True)
        outcome = project.shell(f"python -m parity watch {options}")
        assert (outcome.status, outcome.err.count("error: ")) == (2, 1), outcome
        assert reason in outcome.err


def test_one_day_and_one_week_are_planted_and_nothing_else():
    planted_of = runpy.run_path(str(ROOT / "examples" / "watch" / "plant.py"))["planted"]
    hours = np.arange(-45 * 24, 0)
    stamps = [(TODAY + timedelta(hours=int(hour))).isoformat() for hour in hours for _ in range(30)]
    drawn = pd.DataFrame({"timestamp": stamps, "user_id": np.tile(np.arange(30), len(hours)), "purchase_amount": 10.0})
    before = drawn.copy()
    found = planted_of(drawn, AT)
    assert drawn.equals(before)
    days = pd.to_datetime(found["timestamp"]).dt.date
    rows = days.value_counts()
    [(bad, left)] = rows[rows < 720].items()
    assert (bad, left < 720 * 0.35) == ((TODAY - timedelta(days=15)).date(), True)
    changed = days[found["purchase_amount"] != 10]
    assert set(changed) == {bad, *((TODAY - timedelta(days=number)).date() for number in range(1, 8))}
    dearer = found[found["purchase_amount"] > 10]
    assert set(dearer["user_id"]) == set(range(0, 30, 3))
