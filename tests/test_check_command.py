"""The command line of `parity check`: what it takes, what it refuses, and what it exits with."""

import decimal
import math
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from xml.etree import ElementTree

import pytest
import yaml
from feast import FeatureService, Field
from feast.types import Array, Bytes, Decimal, Float32, Float64, Int64, Set, String, UnixTimestamp

from parity.check import command
from parity.check.found import Compared, Nulls
from parity.check.terminal import notes, why_null
from parity.compare.kinds import KINDS
from parity.edge.redis_server import free_port
from tests.conftest import BIN, ROOT
from tests.strangers import DAY, HOUR, customers, orders, stranger


@pytest.fixture
def theirs(tmp_path, capfd):
    made = stranger(tmp_path, capfd, "duckdb")
    made.apply(*customers(made.write("orders", orders(made.now))))
    made.materialize()
    return made


def test_what_is_not_there_is_said_and_not_created(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd)
    found = theirs.check()
    assert (found.status, found.err.count("\n")) == (2, 1)
    assert "registry.db is not there, and is not created by a check. Run: feast apply" in found.err
    assert [path.name for path in theirs.root.iterdir()] == ["feature_store.yaml"]
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now))))
    (theirs.root / "online.db").unlink()
    found = theirs.check()
    assert (found.status, "online.db is not there" in found.err) == (2, True)
    assert not (theirs.root / "online.db").exists()


def test_a_sql_registry_is_read_and_not_written(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd)
    file = theirs.root / "feature_store.yaml"
    configuration = yaml.safe_load(file.read_text())
    configuration["registry"] = {"registry_type": "sql", "path": f"sqlite:///{theirs.root / 'sql.db'}"}
    file.write_text(yaml.safe_dump(configuration))
    found = theirs.check()
    assert (found.status, "sql.db is not there" in found.err) == (2, True)
    assert not (theirs.root / "sql.db").exists()
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now))))
    theirs.materialize()
    before = (theirs.root / "sql.db").read_bytes()
    assert theirs.check().status == 0
    assert (theirs.root / "sql.db").read_bytes() == before


def test_what_is_no_repository_is_said(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd)
    (theirs.root / "feature_store.yaml").write_text(
        "project: theirs\nonline_store: {type: nothing, password: hidden}\n"
    )
    found = theirs.check()
    assert (found.status, found.err.count("\n"), "hidden" in found.err) == (2, 1, False)
    (theirs.root / "feature_store.yaml").unlink()
    found = theirs.check()
    assert (found.status, "feature_store.yaml: there is no such file" in found.err) == (2, True)


def test_a_module_that_a_store_of_theirs_takes_is_named_with_the_python_that_lacks_it(theirs):
    file = theirs.root / "feature_store.yaml"
    configuration = yaml.safe_load(file.read_text())
    configuration["online_store"] = {"type": "no_such_package.stores.MineOnlineStore"}
    file.write_text(yaml.safe_dump(configuration))
    found = theirs.check()
    assert (found.status, found.err.count("\n")) == (2, 1)
    assert f"No module named 'no_such_package' in this Python, {sys.executable}. Install it there" in found.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--view", "nothing"], "there is no feature view 'nothing'"),
        (["--service", "nothing"], "there is no feature service 'nothing'"),
        (["--accept", "nothing"], "there is no kind of difference 'nothing'; there is crash"),
        (["--url", "localhost:6566"], "has to begin with http://"),
        (["--url", f"http://127.0.0.1:{free_port()}"], "does not answer"),
        (["--view", "customers", "--service", "a"], "give one of them"),
        (["--fail-on", ""], "--fail-on names no kind of difference"),
        (["--at", "2999-01-01"], "2999-01-01 is not between 1677-09-21 and 2262-04-11"),
    ],
)
def test_what_can_not_be_meant_is_refused(theirs, arguments, said):
    found = theirs.check(*arguments)
    assert (found.status, said in found.err) == (2, True)


def test_what_passes_though_it_differs_is_not_said_to_be_equal(theirs):
    theirs.store.write_to_online_store("customers", orders(theirs.now)[2::3][:2].assign(total=7.0))
    for options in (["--fail-on", "tie"], ["--accept", "correction json"]):
        found = theirs.check("--view", "customers", "--report", theirs.root / "it.html", *options)
        assert (found.status, found.said["verdict"]) == (0, "passes")
        last = "PASSES: training equals serving in 38 values. Beside the verdict, as you asked: correction 2."
        assert found.out.splitlines()[-1] == last
        assert '<h1 class="good">Passes</h1>' in (theirs.root / "it.html").read_text()


def test_what_does_not_decide_is_counted_by_kind_and_view(theirs):
    _, view = customers(theirs.store.list_feature_views()[0].batch_source)
    view.name = "again"
    theirs.apply(view)
    found = theirs.check("--fail-on", "tie", "--accept", "nothing-proven")
    assert found.out.splitlines()[-1].endswith("as you asked: never-materialized 40.")
    theirs.store.write_to_online_store("customers", orders(theirs.now)[2::3].assign(total=7.0))
    theirs.materialize()
    theirs.store.write_to_online_store("again", orders(theirs.now)[2::3][:2].assign(total=7.0))
    theirs.store.write_to_online_store("customers", orders(theirs.now)[2::3][:1].assign(total=7.0))
    found = theirs.check("--fail-on", "tie")
    assert found.out.splitlines()[-1].endswith("as you asked: correction 3 (2 in again, 1 in customers).")


def test_one_thing_is_said_in_the_singular():
    found = Compared("one", "feature view", 1, 1, None, 1, nulls=Nulls(1, 0, 2), latent=1, later=1)
    assert why_null(found) == (
        "the one value is null on both sides, because 1 key is served an event after --at, and 2 keys are not online"
    )
    assert notes(found) == [
        "1 key has newer rows of equal values that are not online yet",
        "1 key is served an event after --at, and not compared",
    ]


def test_a_sample_is_drawn_by_its_seed_and_says_its_bound(theirs):
    found = theirs.check("--sample", "5", "--seed", "7")
    assert found.status == 0
    assert (found.compared("customers")["keys"], found.compared("customers")["of_keys"]) == (5, 20)
    assert "5 keys of 20, drawn at random by --seed 7" in found.out
    assert "with 95 % confidence at most 60.000% of all 20 keys differ" in found.out


def test_training_is_asked_for_the_instant_that_is_given(theirs):
    frame = orders(theirs.now)
    frame["event_timestamp"] -= 100 * DAY
    theirs.write("orders", frame)
    (theirs.root / "online.db").unlink()
    theirs.apply(*theirs.store.list_entities(), *theirs.store.list_feature_views())
    theirs.materialize()
    assert theirs.check().of("ttl")["keys"] == 20
    then = theirs.check("--at", (theirs.now - 99 * DAY).isoformat())
    assert (then.status, then.said["equal"]) == (0, 40)


def test_an_event_after_the_instant_asked_for_is_not_compared(theirs):
    found = theirs.check("--at", (theirs.now - 2.5 * HOUR).isoformat())
    assert (found.status, found.kinds) == (2, [])
    assert "20 keys are served an event after --at" in found.out


@pytest.mark.scale
def test_a_store_that_does_not_answer_is_said_at_once_and_without_its_password(tmp_path, capfd):
    online = {"type": "redis", "connection_string": f"127.0.0.1:{free_port()},password=hidden"}
    theirs = stranger(tmp_path, capfd, "duckdb", online)
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now)), online=False))
    made = customers(theirs.write("orders", orders(theirs.now)))
    theirs.store.registry.apply_feature_view(made[1], "theirs")
    started = time.monotonic()
    found = theirs.check()
    assert (found.status, "hidden" in found.out + found.err) == (2, False)
    assert "serving fails for every key: ConnectionError" in found.out
    assert time.monotonic() - started < 60


def test_another_file_of_configuration_can_be_named(theirs, tmp_path):
    (theirs.root / "feature_store.yaml").rename(tmp_path / "other.yaml")
    assert theirs.check().status == 2
    assert theirs.check("-f", tmp_path / "other.yaml").status == 0


def test_a_report_and_a_junit_file_are_written(theirs, tmp_path):
    frame = orders(theirs.now)
    theirs.write("orders", frame.assign(total=frame["total"] + 1))
    found = theirs.check("--report", tmp_path / "page.html", "--junit", tmp_path / "junit.xml")
    assert found.status == 1
    page = (tmp_path / "page.html").read_text()
    assert '<h1 class="bad">Differs</h1>' in page
    assert "correction" in page
    assert "<script" not in page
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")
    assert [case.get("name") for case in suite.iter("testcase")] == ["customers", "correction in customers"]


CASE = {"name": str, "classname": str, "time": decimal.Decimal}
SUITE = {"name": str, "hostname": str, "tests": int, "failures": int, "errors": int, "time": decimal.Decimal}
BECAME = {"failure": {"type", "message"}, "error": {"type", "message"}, "skipped": {"message"}}


def junit_of(theirs, *arguments: object) -> tuple[int, list[tuple[str, str]]]:
    """The exit status, and of each case its name and what became of it, of a report that is by the schema of Ant."""
    path = theirs.root.parent / "junit.xml"
    path.unlink(missing_ok=True)
    found = theirs.check("--junit", path, *arguments)
    suite = ElementTree.parse(path).getroot()
    assert suite.tag == "testsuite"
    assert suite.attrib.keys() == SUITE.keys() | {"timestamp", "skipped"}
    assert all(str(type_(suite.get(name))).strip() for name, type_ in SUITE.items())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp")), "without a zone"
    first, *cases, out, err = suite
    assert [first.tag, out.tag, err.tag] == ["properties", "system-out", "system-err"]
    assert all(one.tag == "property" and one.attrib.keys() == {"name", "value"} for one in first)
    became = []
    for case in cases:
        assert (case.tag, case.attrib.keys()) == ("testcase", CASE.keys())
        assert all(str(type_(case.get(name))).strip() for name, type_ in CASE.items())
        assert len(case) <= 1
        assert all(one.attrib.keys() == BECAME[one.tag] and len(one) == 0 for one in case)
        became.append((case.get("name"), case[0].tag if len(case) else ""))
    counted = Counter(tag for _, tag in became)
    assert int(suite.get("tests")) == len(cases)
    assert [int(suite.get(f"{name}s")) for name in ("failure", "error")] == [counted["failure"], counted["error"]]
    assert int(suite.get("skipped")) == counted["skipped"]
    assert (found.status == 0) == (counted["failure"] + counted["error"] == 0), "red where the exit status is not 0"
    return found.status, became


def test_a_junit_report_is_by_its_schema_and_is_red_where_the_exit_status_is(theirs):
    frame = orders(theirs.now)
    theirs.write("orders", frame.assign(total=frame["total"] + 1))
    assert junit_of(theirs) == (1, [("customers", ""), ("correction in customers", "failure")])
    assert junit_of(theirs, "--fail-on", "tie") == (0, [("customers", ""), ("correction in customers", "skipped")])
    theirs.write("orders", frame.assign(event_timestamp=frame["event_timestamp"] - 100 * DAY))
    (theirs.root / "online.db").unlink()
    theirs.apply(*theirs.store.list_entities(), *theirs.store.list_feature_views())
    assert junit_of(theirs) == (2, [("customers", "error")])
    assert junit_of(theirs, "--accept", "nothing-proven") == (0, [("customers", "skipped")])
    (theirs.root / "orders.parquet").unlink()
    assert junit_of(theirs) == (2, [("customers", "error")])


@pytest.mark.scale
def test_each_kind_is_said_once_however_many_values_have_it(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "duckdb")
    frame = orders(theirs.now, keys=3000, rows=1, **{f"f{n}": lambda key: key + 0.1 for n in range(8)})
    fields = [Field(name=f"f{n}", dtype=Float32) for n in range(8)]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    found = theirs.check()
    assert (found.kinds, found.of("float32")["values"]) == (["float32"], 24_000)
    assert len(found.out.splitlines()) < 10
    assert "3,000 keys of customers, in f0, f1, f2, f3, f4, f5 and 2 more" in found.out


def test_a_view_that_can_not_be_compared_leaves_the_others(theirs):
    other = customers(theirs.write("others", orders(theirs.now)))[1]
    other.name = other.projection.name = "others"
    theirs.apply(other)
    (theirs.root / "others.parquet").unlink()
    found = theirs.check()
    assert (found.status, found.compared("customers")["equal"]) == (2, 40)
    assert found.compared("others")["error"]
    assert theirs.check("--accept", "unchecked").status == 0


def test_nothing_that_is_no_number_breaks_the_certificate(theirs):
    frame = orders(theirs.now)
    theirs.write("orders", frame.assign(total=float("inf")))
    found = theirs.check()
    assert found.of("correction")["examples"][0]["training"] == "inf"


def answers(url: str, server: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until something answers there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)


def blocked(*names: str) -> str:
    """A program that can't import these packages, and runs `parity` as its own arguments say."""
    return f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from parity.__main__ import command
command()
"""


def test_it_needs_feast_and_its_own_requirements_only(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd)
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now))))
    theirs.materialize()
    program = blocked(
        "redis", "hiredis", "duckdb", "ibis", "filelock", "mlflow", "sklearn", "scipy", "boto3", "pyspark"
    )
    page = tmp_path / "page.html"
    run = [sys.executable, "-c", program, "check", "-c", theirs.root, "--report", page]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert page.exists()


@pytest.mark.scale
def test_a_feature_server_is_asked_over_http(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "duckdb")
    frame = orders(theirs.now, keys=12, total=lambda key: key + 0.1, text=lambda key: f"é{key}")
    frame["single"] = (frame["customer_id"] / 7).astype("float32")
    frame["ids"] = [[key, 2**53 + key] for key in frame["customer_id"]]
    frame["raw"] = [b"\x00\xff%d" % key for key in frame["customer_id"]]
    frame["price"] = [decimal.Decimal(key) / 4 for key in frame["customer_id"]]
    frame["zeros"] = [[-0.0, 0.0, math.nan] for _ in frame["customer_id"]]
    frame["words"] = [["b", f"a{key}"] for key in frame["customer_id"]]
    frame["since"] = [None if key == 12 else theirs.now for key in frame["customer_id"]]
    types = {"total": Float64, "single": Float32, "orders": Int64, "ids": Array(Int64), "raw": Bytes, "price": Decimal}
    types |= {"zeros": Array(Float64), "words": Set(String), "since": UnixTimestamp}
    made = customers(theirs.write("orders", frame), fields=[Field(name=n, dtype=t) for n, t in types.items()])
    theirs.apply(*made, FeatureService(name="all", features=[made[1].with_name("them")]))
    theirs.materialize()
    port = free_port()
    server = subprocess.Popen(
        [BIN / "feast", "-c", theirs.root, "serve", "-p", str(port), "-h", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answers(f"http://127.0.0.1:{port}/health", server)
        found = theirs.check("--url", f"http://127.0.0.1:{port}")
        assert (found.status, found.kinds, found.said["online_store"]) == (1, ["null"], f"http://127.0.0.1:{port}")
        assert found.compared("customers")["equal"] == found.compared("all")["equal"] == 9 * 12 - 1
        assert (found.of("null")["features"], found.of("null")["keys"]) == ({"since": 1}, 1)
        assert "sends that number for a missing instant" in found.of("null")["advice"]
        theirs.write("orders", frame.assign(total=frame["total"] + 1))
        assert theirs.check("--url", f"http://127.0.0.1:{port}").of("correction")["keys"] == 12
    finally:
        server.terminate()
        server.wait(10)


def test_the_docs_name_every_kind_and_every_option(monkeypatch):
    text = (ROOT / "docs" / "check.md").read_text()
    table = text.partition("## The kinds of differences")[2].partition("##")[0]
    assert [kind.name for kind in KINDS if f"`{kind.name}`" not in table] == []
    monkeypatch.setattr("sys.argv", ["parity check"])
    elsewhere = {"--file", "--repository", "--traceback"}
    named = {f"--{name.replace('_', '-')}" for name in vars(command.arguments())} - elsewhere
    assert {name for name in named if f"`{name}" not in text and f", `{name}" not in text} == set()
