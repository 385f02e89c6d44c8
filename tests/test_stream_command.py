"""python -m parity stream, as people run it: configured, fed, killed, asked to end, and looked at by Prometheus."""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis
import yaml
from feast.types import Float64

from parity.edge.command import run
from parity.edge.errors import UserError
from parity.edge.redis_server import free_port
from parity.edge.signals import ENDING
from parity.stream import command
from parity.stream.configuration import stream_sources
from parity.stream.kafka_source import KafkaBroker
from parity.stream.produce import produced, send, speed
from parity.stream.redis_source import offset_of
from tests.conftest import Outcome, Project
from tests.definition import aggregation, customer, product, purchases, table
from tests.test_landed import landed

NOW = datetime.now(UTC)
HEADER = "user_id,product_id,timestamp,purchase_amount"


# Configuration


@pytest.fixture
def configured(tmp_path):
    """Read a stream.yaml for the source `purchases_transactions`, whose transactions are a folder, and `orders`."""
    orders = [aggregation("sum", "total", 7)]
    tables = [
        table(tmp_path, "purchases", [customer], orders, {"total": Float64}, transactions="folder"),
        table(tmp_path, "orders", [customer], orders, {"total": Float64}),
    ]

    def read(content: str | dict, **which):
        path = tmp_path / "stream.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return stream_sources(path, tables, **which)

    return read


def one(**options) -> dict:
    return {"sources": {"purchases_transactions": options}}


def test_what_is_not_said_has_a_default(configured, tmp_path):
    [source] = configured(one())
    assert (source.type, source.stream, source.dead_letters) == (
        "redis",
        "purchases_transactions",
        "purchases_transactions.dead",
    )
    assert source.landing == tmp_path / "folder"
    assert source.keys() == ["purchases_transactions"]
    [kafka] = configured(
        one(type="kafka", brokers="a:9092, [::1]:9093", landing="../x", options={"fetch.min.bytes": 2})
    )
    assert (kafka.topic, kafka.brokers, kafka.options) == (
        "purchases_transactions",
        "a:9092,[::1]:9093",
        {"fetch.min.bytes": "2"},
    )
    assert kafka.landing == tmp_path.parent / "x"
    [many] = configured(one(partitions=3, stream="s", generation=2))
    assert (many.keys(), many.partition(1)) == (["s:0", "s:1", "s:2"], "purchases_transactions/2.1")
    assert many.number_of(many.partition(2)) == 2


def test_sources_are_chosen_by_name_or_by_view(configured):
    both = {"sources": {"purchases_transactions": None, "orders_transactions": {"landing": "/in"}}}
    names = ["purchases_transactions", "orders_transactions"]
    assert [source.name for source in configured(both)] == names
    assert [source.name for source in configured(both, views=["orders"])] == names[1:]
    assert [source.name for source in configured(both, source=names[0])] == names[:1]
    for which, told in (
        ({"views": ["x"]}, "no AggregatedFeatureView 'x'; there is purchases, orders"),
        ({"source": "x"}, "it has no source 'x'"),
        ({"source": "x", "views": ["orders"]}, "give one of them"),
    ):
        with pytest.raises(UserError, match=told):
            configured(both, **which)


FAULTS = {
    "sources: [": "it can't be read",
    "a: 1": "a is no option here",
    "sources: 7": "sources has to list sources by their names",
    "sources:": "it lists no sources",
    "sources: {nobody: {}}": "features.py has no TransactionSource 'nobody'",
    "sources: {purchases_transactions: 7}": "its options have to be written as NAME: VALUE",
    "sources:\n  purchases_transactions:\n    type: ${NO_SUCH}": "it names NO_SUCH, which is not set",
    "sources: {orders_transactions: {}}": "its transactions are one file, transactions.csv, and events land in a",
}
OPTIONS = [
    ({"type": "nats"}, "its type is 'nats'. Write redis or kafka"),
    ({"strem": "x"}, "strem is no option of a source. Perhaps stream is meant"),
    ({"topic": "x"}, "topic is an option of type: kafka, and its type is redis"),
    ({"partitions": 0}, "its partitions can't be used. Write a whole number from 1 to 1,024"),
    ({"partitions": True}, "its partitions can't be used"),
    ({"batch": "many"}, "its batch can't be used"),
    ({"landing_seconds": -1}, "its landing_seconds can't be used. Write a number of seconds, 0 or more"),
    ({"landing_seconds": float("nan")}, "its landing_seconds can't be used"),
    ({"landing": "s3://bucket/x"}, "events can't land in a bucket"),
    ({"dead_letters": "purchases_transactions"}, "its dead_letters, purchases_transactions, go where its events come"),
    ({"partitions": 4, "dead_letters": "purchases_transactions:3"}, "go where its events come from. Name another"),
    ({"type": "kafka", "brokers": "h:1", "topic": "x", "dead_letters": "x"}, "dead_letters, x, go where its events"),
    ({"stream": "a b"}, "its stream can't be used"),
    ({"connection": "localhost:1,password=swordfish,pasword=swordfish"}, "its connection can't be used: part 3"),
    ({"connection": "redis://u:sword/fish@localhost"}, "its connection can't be used: the user name or password"),
    ({"connection": "a:1", "redis_type": "redis_sentinel"}, "Write sentinel_master: NAME beside it"),
    ({"type": "kafka"}, "it names no brokers. Write brokers: HOST:PORT"),
    ({"type": "kafka", "brokers": "u:swordfish@h:1"}, "its brokers can't be used. Write HOST:PORT"),
    ({"type": "kafka", "brokers": "h"}, "its brokers can't be used. Write HOST:PORT"),
    ({"type": "kafka", "brokers": "h:1", "options": {"group.id": "x"}}, "As for group.id: write group: NAME"),
    ({"type": "kafka", "brokers": "h:1", "options": {"enable.auto.commit": True}}, "As for enable.auto.commit"),
    ({"type": "kafka", "brokers": "h:1", "options": {"a": [1]}}, "a needs one value"),
    (
        {"type": "kafka", "brokers": "h:1", "options": {"sasl.password_file": "x"}},
        "Write an absolute path for sasl.pass",
    ),
    ({"type": "kafka", "brokers": "h:1", "options": {"sasl.password_file": "/no/such"}}, "can't be read: No such file"),
    ({"type": "kafka", "brokers": "h:1", "topic": "a/b"}, "its topic can't be used"),
    ({"type": "kafka", "brokers": "h:1", "stream": "x"}, "stream is an option of type: redis"),
]


@pytest.mark.parametrize(
    ("content", "told"),
    [*FAULTS.items(), *((one(**options), told) for options, told in OPTIONS)],
    ids=[*FAULTS, *(str(options)[:60] for options, _ in OPTIONS)],
)
def test_a_fault_is_one_line_with_file_key_and_no_secret(configured, content, told):
    with pytest.raises(UserError) as refused:
        configured(content)
    message = str(refused.value)
    assert told in message
    assert "stream.yaml: " in message
    assert "\n" not in message
    assert "swordfish" not in message
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("which", [{}, {"source": "purchases_transactions"}, {"source": "orders_transactions"}])
def test_dead_letters_of_one_source_are_no_events_of_another(configured, which):
    theirs = {"landing": "/in", "partitions": 2, "stream": "o"}
    both = {"purchases_transactions": {"dead_letters": "o:1"}, "orders_transactions": theirs}
    with pytest.raises(UserError, match=r"dead_letters, o:1, go where (its|the source orders_.*'s) events come from"):
        configured({"sources": both}, **which)
    for apart in ({"connection": "other:6379"}, {"partitions": 1}, {"batch": "a fault of its own"}):
        found = configured({"sources": both | {"orders_transactions": theirs | apart}}, source="purchases_transactions")
        assert [source.dead_letters for source in found] == ["o:1"]
    same = {"sources": {name: {"stream": "o", "landing": "/in"} for name in both}}
    assert len(configured(same)) == 2


def test_secrets_are_shown_by_nothing_that_is_made_of_them(configured, tmp_path, monkeypatch):
    monkeypatch.setenv("A_PASSWORD", "swordfish")
    (tmp_path / "secret").write_text("marlin\n")
    options = {"sasl.password": "${A_PASSWORD}", "ssl.key.password_file": str(tmp_path / "secret")}
    [kafka] = configured(one(type="kafka", brokers="h:1", options=options))
    assert kafka.options == {"sasl.password": "swordfish", "ssl.key.password": "marlin"}
    assert "swordfish" not in repr(kafka)
    assert kafka.without_secrets("no swordfish, no marlin") == "no ***, no ***"
    [plain] = configured(one(connection="localhost:6379,password=swordfish"))
    assert plain.without_secrets("AUTH swordfish") == "AUTH ***"
    assert "swordfish" not in repr(plain)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--partitions", ""], "argument --partitions: '' is no list of numbers, as 0,2 is"),
        (["--partitions", "1,x"], "argument --partitions: '1,x' is no list of numbers, as 0,2 is"),
        (["--partitions", "1,-2"], "argument --partitions: -2 is not between 0 and 100000"),
        *(
            (["--until-idle", wrong], f"argument --until-idle: '{wrong}' is no number of seconds, 0 or more")
            for wrong in ("x", "", "nan", "inf", "1e999")
        ),
        (["--until-idle=-1"], "argument --until-idle: '-1' is no number of seconds, 0 or more"),
        (["--speed", "fast"], "argument --speed: invalid speed value: 'fast'"),
        (["--metrics-port", "x"], "argument --metrics-port: invalid whole number value: 'x'"),
    ],
)
def test_an_argument_that_is_no_value_is_told_in_words(monkeypatch, capsys, arguments, told):
    monkeypatch.setattr(sys, "argv", ["python -m parity stream", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.arguments()
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_the_stream_yaml_of_the_project_is_right_for_its_features():
    from parity.definition.checks import declared

    repository = Path(__file__).resolve().parent.parent / "feature_repo"
    tables = [item for item in declared(repository).tables if item.definition.reading.name == "user_transactions"]
    if tables:  # whoever has other features has another stream.yaml
        [source] = stream_sources(repository / "stream.yaml", tables)
        assert source.landing == repository.parent / "data" / "user_transactions"
        content = (repository / "stream.yaml").read_text()
        assert all(
            f"{option}:" in content for option in ("replay_seconds", "batch", "wait_seconds", "sasl.password_file")
        )


def test_kafka_without_its_library_options_that_are_wrong_and_nobody_there(configured, monkeypatch):
    from parity.stream.broker import Lost

    given = {"type": "kafka", "brokers": f"localhost:{free_port()}"}
    [source] = configured(one(**given))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "confluent_kafka", None)
        with pytest.raises(UserError, match=r"Run: pip install -r requirements-kafka.txt"):
            KafkaBroker(source)
    pytest.importorskip("confluent_kafka")
    [wrong] = configured(one(**given, options={"sasl.pasword": "swordfish"}))
    with pytest.raises(
        UserError, match=r"purchases_transactions: its options can't be used: .*sasl.pasword"
    ) as refused:
        KafkaBroker(wrong).ping()
    assert "swordfish" not in str(refused.value)
    monkeypatch.setattr("parity.stream.kafka_source.SECONDS_TO_ANSWER", 0.5)
    with pytest.raises(Lost, match="does not answer"):
        KafkaBroker(source).ping()
    [group] = configured(one(**given, group="g"))
    with pytest.raises(UserError, match="Leave out --partitions, or group"):
        KafkaBroker(group, [0])


# Producing


def test_a_file_is_produced_as_what_it_shows_in_the_order_of_its_instants(tmp_path):
    rows = ["7,2026-07-01T09:00:00Z,0012.50", "8,2026-07-01T08:00:00Z,1e3", "7,2026-07-01T08:30:00Z,2.5", "7,bad,1"]
    (tmp_path / "in.csv").write_text("\n".join(["user_id,timestamp,purchase_amount", *rows, ""]))
    found = produced(tmp_path / "in.csv", [purchases(tmp_path)], None)
    assert [json.loads(event)["purchase_amount"] for event in found.events] == [1000.0, 2.5, 1, "0012.50"]
    assert found.partitions[1] == found.partitions[3] != found.partitions[0]
    assert b'"purchase_amount": 2.5}' in found.events[1]
    moved = produced(tmp_path / "in.csv", [purchases(tmp_path)], None, until=NOW)
    assert json.loads(moved.events[3])["timestamp"] == NOW.isoformat()
    assert json.loads(moved.events[2])["timestamp"] == "bad"
    assert json.loads(moved.events[0])["timestamp"] == (NOW - timedelta(hours=1)).isoformat()


@pytest.mark.parametrize(
    ("name", "content", "reading"),
    [
        ("in.csv", "who;am\n007;1.234,50\n", {"delimiter": ";", "decimal": ",", "thousands": "."}),
        ("in.jsonl", '{"who": "007", "am": "1.234,50", "x": {"y": 1}}', {"decimal": ",", "thousands": "."}),
    ],
)
def test_events_of_a_declared_format_are_read_as_the_file_is(tmp_path, name, content, reading):
    from parity.stream.events import EventReader, Raw
    from parity.transactions.read import read_part

    mapping = {"who": "sku", "am": "total"}
    separator = reading.get("delimiter", ",")
    if name.endswith(".csv"):
        content = "\n".join(
            f"{line}{separator}{end}" for line, end in zip(content.split(), ["at", "46000,5"], strict=True)
        )
    else:
        content = content.replace("}}", '}, "at": "46000,5"}')
    options = {"timestamp_field": "at", "timestamp_format": "days", "origin": "1899-12-30"}
    features = [aggregation("sum", "total", 7)]
    made = table(tmp_path, "t", [product], features, {"total": Float64}, field_mapping=mapping, **reading, **options)
    (tmp_path / name).write_text(content)
    expected = read_part(tmp_path / name, made.definition).to_pylist()
    assert len(expected) == 1
    events = produced(tmp_path / name, [made], None).events
    found = EventReader([made]).read([Raw("s/0", [0], events)], 2**62)
    assert found.bad == []
    assert found.of_views["t"].rows.select(made.definition.transactions.names).to_pylist() == expected


def test_the_pace_is_that_of_the_instants_times_the_speed(tmp_path):
    rows = [f"7,2026-07-01T08:00:{second:02},1" for second in range(0, 60, 10)]
    (tmp_path / "in.csv").write_text("\n".join(["user_id,timestamp,purchase_amount", *rows]))
    sent = []

    class Broker:
        def send(self, events):
            sent.extend((time.monotonic(), event) for event in events)

    events = produced(tmp_path / "in.csv", [purchases(tmp_path)], None)
    assert send(events, Broker(), speed("100x")) == 6
    assert 0.45 <= sent[-1][0] - sent[0][0] < 5
    begin = time.monotonic()
    assert send(events, Broker(), speed("max")) == 6
    assert time.monotonic() - begin < 0.3
    assert send(events, Broker(), 1.0, ending=lambda: True) == 0
    for wrong in ("0", "-1", "fast", "1000xx", ""):
        with pytest.raises(ValueError, match=f"^{wrong}$"):
            speed(wrong)


# End to end


@pytest.fixture
def shop(project, monkeypatch):
    """A project whose transactions are a folder with a few purchases, online, and the name of its stream."""
    name = project.root.parent.name
    features = project.root / "feature_repo" / "features.py"
    features.write_text(features.read_text().replace('ROOT / "user_transactions.csv"', 'ROOT / "data" / "purchases"'))
    options = {"stream": name, "dead_letters": f"{name}.dead", "landing_seconds": 0.05, "batch": 50}
    stream = {"sources": {"user_transactions": options}}
    (project.root / "feature_repo" / "stream.yaml").write_text(yaml.safe_dump(stream))
    folder = project.root / "data" / "purchases"
    folder.mkdir(parents=True)
    first = [f"{user},1,{(NOW - timedelta(days=9 - user)).isoformat()},{user}.5" for user in range(1, 6)]
    (folder / "first.csv").write_text("\n".join([HEADER, *first, ""]))
    project.apply()
    project.succeed("compute_features.py")
    project.succeed("materialize_to_online.py")
    return Shop(project, name, folder, monkeypatch)


class Shop:
    def __init__(self, project: Project, stream: str, folder: Path, monkeypatch):
        self.project, self.stream, self.folder, self._monkeypatch = project, stream, folder, monkeypatch

    def run(self, *arguments: object) -> Outcome:
        """Run the command as its command line would, in this process."""
        handlers = {number: signal.getsignal(number) for number in ENDING}
        with self._monkeypatch.context() as patched:
            patched.setattr(command, "REPOSITORY", self.project.root / "feature_repo")
            patched.setattr(sys, "argv", ["python -m parity stream", *map(str, arguments)])
            self.forget()
            self.project.capture.readouterr()
            with pytest.raises(SystemExit) as stop:
                run(command.main)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return Outcome(stop.value.code, *self.project.capture.readouterr())

    def forget(self) -> None:
        for module in [name for name in sys.modules if name.partition(".")[0] == "feature_repo"]:
            del sys.modules[module]

    def write(self, name: str, rows: list[str]) -> Path:
        path = self.project.root / name
        path.write_text("\n".join([HEADER, *rows, ""]))
        return path

    def rows(self, count: int, seed: int = 1) -> list[str]:
        """Purchases of the last days, in any order, some of one instant."""
        draw = random.Random(seed)
        ago = sorted((draw.randrange(1, 3000) for _ in range(count)), reverse=True)
        return [
            f"{draw.randint(1, 9)},1,{(NOW - timedelta(minutes=minutes)).isoformat()},{draw.choice([0.1, 19.99, -5])}"
            for minutes in ago
        ]

    def prove(self) -> str:
        """Compute what has landed, and prove that it is what is online, without materializing."""
        self.project.succeed("compute_features.py")
        outcome = self.project.run("demo_fixed.py")
        assert outcome.status == 0, outcome
        return outcome.out


def test_a_produced_file_is_served_lands_and_is_proven(shop):
    path = shop.write(
        "more.csv", [*shop.rows(200), f"3,1,{(NOW - timedelta(days=800)).isoformat()},1.0", "x,1,2026-01-01,1"]
    )
    made = shop.run("--produce", path)
    assert (made.status, made.err) == (0, "")
    assert made.out.startswith(f"202 of 202 events of {path} -> user_transactions, Redis at ")
    port = free_port()
    streamed = shop.run("--until-idle", 0.3, "--metrics-port", port)
    assert (streamed.status, streamed.err) == (0, "")
    assert "user_purchase_features: 5 users seeded\n" in streamed.out
    assert streamed.out.endswith("user_transactions: 202 events, 201 applied, 1 dead, 201 landed\n") or (
        "1 late" in streamed.out and "200 applied" in streamed.out
    )
    metrics = urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=10).read().decode()
    assert 'parity_stream_events_total{became="dead",source="user_transactions"} 1.0' in metrics
    assert 'parity_stream_landed_total{source="user_transactions"} 201.0' in metrics
    assert 'parity_stream_lag_events{partition="user_transactions/0",source="user_transactions"} 0.0' in metrics
    for name in ("batch_seconds_bucket", "batches_total", "lag_seconds", "landed_offset", "connected"):
        assert f"parity_stream_{name}{{" in metrics
    assert len(landed(shop.folder)) == 201
    [(_, letter)] = shop.project.client.xrange(f"{shop.stream}.dead")
    assert letter[b"reason"].startswith(b"user_id 'x' is not a whole number")
    shop.project.succeed("compute_features.py")
    shop.project.succeed("materialize_to_online.py")
    again = shop.run("--until-idle", 0.3)
    assert again.out.endswith("user_transactions: 0 events, 0 landed\n")  # as all rows were seeded
    assert "equals the oracle" in shop.prove()


@pytest.mark.parametrize("where", [None, "product_id = 1"])
def test_a_purchase_sent_twice_or_corrected_is_one_online_and_in_the_files(shop, where):
    """A correction that the view leaves out takes the purchase out, and another one brings it back."""
    features = shop.project.root / "feature_repo" / "features.py"
    text = features.read_text().replace('name="user_transactions",', 'name="user_transactions", event_id="id",')
    if where:
        text = text.replace("AggregatedFeatureView(", f"AggregatedFeatureView(where={where!r},", 1)
    features.write_text(text)
    if where:
        shop.project.apply()
        shop.project.succeed("compute_features.py")
        shop.project.succeed("materialize_to_online.py")
    draw, names = random.Random(3), HEADER.split(",")
    sent, known = [], {}
    for number, row in enumerate(shop.rows(150)):
        event = dict(zip(names, row.split(","), strict=True)) | {"id": f"{number:04}"}
        sent.append(event)
        known[event["id"]] = event
        if draw.random() < 0.3:
            again = dict(known[draw.choice(list(known))])
            if draw.random() < 0.5:
                again["purchase_amount"] = str(draw.randrange(100))
                again["product_id"] = draw.choice("112") if where else "1"
                known[again["id"]] = again
            sent.append(again)
    with redis.Redis(port=shop.project.port) as client:
        for start in range(0, len(sent), 40):
            for event in sent[start : start + 40]:
                client.xadd(shop.stream, {"event": json.dumps(event)})
            outcome = shop.run("--until-idle", 0.2)
            assert outcome.status == 0, outcome
    rows = [row for file in sorted(shop.folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert {row["id"]: row["purchase_amount"] for row in rows} == {
        id: float(event["purchase_amount"]) for id, event in known.items()
    }
    assert len(rows) == 150
    assert "equals the oracle" in shop.prove()


def test_what_a_file_has_already_counts_once_when_a_stream_brings_it_again(shop):
    """The usual start: a history as a file, and then a stream that overlaps with it, by more than any window."""
    features = shop.project.root / "feature_repo" / "features.py"
    features.write_text(
        features.read_text().replace('name="user_transactions",', 'name="user_transactions", event_id="id",')
    )
    rows = [f"{row},{number:03}" for number, row in enumerate(shop.rows(60))]
    long_ago = f"3,1,{(NOW - timedelta(days=800)).isoformat()},1.0,long ago"
    without_id = f"3,1,{(NOW - timedelta(seconds=30)).isoformat()},1.0,"
    history = [long_ago, *rows[:40], without_id]
    (shop.folder / "history.csv").write_text("\n".join([HEADER + ",id", *history, ""]))
    shop.project.succeed("compute_features.py")
    shop.project.succeed("materialize_to_online.py")
    corrected = rows[39].replace("-5,039", "7,039").replace("0.1,039", "7,039").replace("19.99,039", "7,039")
    events = [dict(zip([*HEADER.split(","), "id"], row.split(","), strict=True)) for row in [*history, *rows[30:]]]
    events.append(dict(zip([*HEADER.split(","), "id"], corrected.split(","), strict=True)))
    with redis.Redis(port=shop.project.port) as client:
        for event in events:
            client.xadd(shop.stream, {"event": json.dumps(event)})
    outcome = shop.run("--until-idle", 0.2)
    assert outcome.status == 0, outcome
    found = [row for file in sorted(shop.folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert [row["id"] for row in found] == ["", *(f"{number:03}" for number in range(40, 60))]
    [(_, letter)] = shop.project.client.xrange(f"{shop.stream}.dead")
    assert letter[b"reason"].endswith(
        b"its id is that of a transaction in a file that no stream wrote, with other content. Correct that file."
    )
    assert "equals the oracle" in shop.prove()


def test_what_is_wrong_ends_it_with_one_line_and_status_2(shop):
    (shop.folder / "first.csv").touch()
    for arguments, told in (
        (["--partitions", "1"], "there is no partition 1: it has 1, from 0 on"),
        (["--source", "nobody"], "it has no source 'nobody'"),
        (["--config", shop.project.root / "none.yaml"], "there is no such file, and it says where events come from"),
        (["--metrics-port", shop.project.port, "--until-idle", "0"], "Name another port"),
        (["--produce", shop.project.root / "none.csv"], "there is no such file"),
    ):
        outcome = shop.run(*arguments)
        assert outcome.status == 2, outcome
        assert outcome.err.startswith("error: "), outcome
        assert told in outcome.err
        assert outcome.err.count("\n") == 1
    features = shop.project.root / "feature_repo" / "features.py"
    features.write_text(features.read_text().replace('function="mean"', 'function="max"'))
    assert "has changed since it was applied" in shop.run("--until-idle", "0").err
    shop.project.apply()
    assert "was computed by other definitions" in shop.run("--until-idle", "0").err
    outcome = shop.run("--help")
    assert outcome.status == 0
    assert "--until-idle SECONDS" in outcome.out


def test_a_worker_with_the_definition_of_yesterday_is_refused_when_it_starts(shop):
    features = shop.project.root / "feature_repo" / "features.py"
    yesterday = features.read_text()
    assert "5 users seeded" in shop.run("--until-idle", 0).out
    before = stored(shop)
    features.write_text(yesterday.replace('function="mean"', 'function="max"'))
    shop.project.apply()
    shop.project.succeed("compute_features.py")
    refused = shop.run("--until-idle", 0)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "seeded for a stream by another definition than features.py has here" in refused.err
    assert stored(shop) == before
    assert "5 users seeded for the stream" in shop.project.succeed("materialize_to_online.py")
    assert shop.run("--until-idle", 0).status == 0
    now = stored(shop)
    assert now != before
    fed(shop, shop.rows(20))
    features.write_text(yesterday)  # the offline table of the old definition may still be there, on another machine
    shop.project.apply()
    shop.project.succeed("compute_features.py")
    assert shop.run("--until-idle", 0.3).status == 2
    assert stored(shop) == now


def stored(shop) -> dict[bytes, dict]:
    """All rows of the project in Redis."""
    client = shop.project.client
    keys = client.keys(f"*{project_name(shop)}")
    return {key: client.hgetall(key) for key in keys if client.type(key) == b"hash"}


def project_name(shop) -> str:
    config = shop.project.root / "feature_repo" / "feature_store.yaml"
    return yaml.safe_load(config.read_text())["project"]


def dumped(shop) -> dict[bytes, bytes]:
    """All that Redis has of the project: rows, what a stream noted beside them, and the stream."""
    return {key: shop.project.client.dump(key) for key in kept_keys(shop)}


def kept_keys(shop) -> list[bytes]:
    return [*shop.project.client.keys(f"*{project_name(shop)}"), *shop.project.client.keys(f"{shop.stream}*")]


def restore(shop, dump: dict[bytes, bytes]) -> None:
    """Have Redis go back to what it had."""
    client = shop.project.client
    client.delete(*kept_keys(shop))
    for key, value in dump.items():
        client.restore(key, 0, value)
    time.sleep(0.002)  # so that entries come later than those that were there


@pytest.mark.parametrize(
    "more_before",
    [False, pytest.param(True, marks=pytest.mark.scale)],
    ids=["before more comes", "after more has come"],
)
@pytest.mark.parametrize("what", ["nothing", "rows", "rows and entries", "what was there at first", "all", "trimmed"])
def test_a_redis_that_went_back_has_its_rows_again_and_goes_on(shop, what, more_before):
    rows = shop.rows(150)
    assert shop.run("--until-idle", 0).status == 0
    first = dumped(shop)
    fed(shop, rows[:60])
    assert shop.run("--until-idle", 0.2).status == 0
    earlier = dumped(shop)
    fed(shop, rows[60:100])
    assert shop.run("--until-idle", 0.2).status == 0
    lost = {"rows and entries": earlier, "what was there at first": first, "all": {}}.get(what)
    if what in ("rows", "trimmed"):
        stream = shop.stream.encode()
        lost = earlier | {stream: dumped(shop)[stream]}
    if lost is not None:
        restore(shop, lost)
    if what == "trimmed":
        shop.project.client.xtrim(shop.stream, maxlen=3, approximate=False)
    if more_before:
        fed(shop, rows[100:])
    outcome = shop.run("--until-idle", 0.2)
    assert outcome.status == 0, outcome
    said = 0 if what in ("nothing", "rows") else 1
    assert outcome.err.count("The rows are brought back from the files of what has landed.\n") == said, outcome.err
    assert outcome.err.count("\n") == said
    if not more_before:
        fed(shop, rows[100:])
        assert shop.run("--until-idle", 0.2).err == ""
    assert len(landed(shop.folder)) == len(set(landed(shop.folder))) == 150
    assert "equals the oracle" in shop.prove()


def test_events_do_not_land_where_the_features_are_not_computed_from(shop):
    stream = {"sources": {"user_transactions": {"landing": "../elsewhere"}}}
    (shop.project.root / "feature_repo" / "stream.yaml").write_text(yaml.safe_dump(stream))
    outcome = shop.run("--until-idle", 0)
    assert outcome.status == 2
    assert "elsewhere, and user_purchase_features is computed from" in outcome.err


# Processes of their own


def _worker(root: str, arguments: list[str]) -> None:
    os.chdir(root)
    command.REPOSITORY = Path(root) / "feature_repo"
    sys.argv = ["python -m parity stream", *arguments]
    with open(Path(root) / "worker.log", "a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        run(command.main)


@pytest.fixture(scope="session")
def processes():
    """Processes that have all modules imported, so that they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_stream_command"])
    return context


def started(processes, shop: Shop, *arguments: str):
    log = shop.project.root / "worker.log"
    log.unlink(missing_ok=True)
    process = processes.Process(target=_worker, args=(str(shop.project.root), list(arguments)), daemon=True)
    process.start()
    wait_for(lambda: log.exists() and "from Redis at" in log.read_text(), process)
    return process


def wait_for(condition, process, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fed(shop: Shop, rows: list[str], at_once: int = 1) -> None:
    """Add purchases to the stream."""
    names = HEADER.split(",")
    with redis.Redis(port=shop.project.port) as client:
        for start in range(0, len(rows), at_once):
            pipe = client.pipeline()
            for row in rows[start : start + at_once]:
                pipe.xadd(shop.stream, {"event": json.dumps(dict(zip(names, row.split(","), strict=True)))})
            pipe.execute()


def test_sigterm_ends_it_in_order_with_all_landed_and_status_0(shop, processes):
    rows = shop.rows(300)
    process = started(processes, shop)
    fed(shop, rows, 30)
    wait_for(lambda: len(landed(shop.folder)) > 0, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 0
    log = (shop.project.root / "worker.log").read_text()
    count = len(landed(shop.folder))
    assert f"{count:,} applied, {count:,} landed" in log
    assert shop.run("--until-idle", 0.3).status == 0
    assert len(landed(shop.folder)) == 300
    ahead = shop.project.run("demo_fixed.py")
    assert ahead.status == 1
    assert re.search(
        r"Causes( of the [\d,]+ listed)?: the stream is ahead [\d,]+\.\n  the stream is ahead: ", ahead.out
    )
    assert "equals the oracle" in shop.prove()


def test_a_redis_that_is_emptied_while_a_worker_runs_has_all_rows_again_and_goes_on(shop, processes):
    rows, log = shop.rows(300), shop.project.root / "worker.log"
    process = started(processes, shop)
    fed(shop, rows[:100], 10)
    wait_for(lambda: len(landed(shop.folder)) == 100, process)
    shop.project.client.delete(*kept_keys(shop))
    wait_for(lambda: " was emptied. The rows are brought back" in log.read_text(), process)
    fed(shop, rows[100:200], 10)
    wait_for(lambda: len(landed(shop.folder)) == 200, process)
    shop.project.client.delete(*kept_keys(shop))
    fed(shop, rows[200:], 10)  # at once
    wait_for(lambda: len(landed(shop.folder)) == 300, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 0
    assert log.read_text().count("brought back") == 2
    assert "equals the oracle" in shop.prove()


def test_two_workers_have_all_rows_again_after_redis_was_emptied(shop, processes):
    """Each has events that have not landed, of which the other does not know."""
    path = shop.project.root / "feature_repo" / "stream.yaml"
    content = yaml.safe_load(path.read_text())
    content["sources"]["user_transactions"] |= {"partitions": 2, "landing_seconds": 1}
    path.write_text(yaml.safe_dump(content))
    rows = shop.rows(300)
    two = [started(processes, shop, "--partitions", str(number)) for number in range(2)]
    for number in range(3):
        if number:
            shop.project.client.delete(*kept_keys(shop))
        written = shop.write("more.csv", rows[100 * number : 100 * (number + 1)])
        assert shop.run("--produce", written).status == 0
        wait_for(lambda: is_applied(shop), two[0])
    wait_for(lambda: len(landed(shop.folder)) == 300, two[0])
    for process in two:
        os.kill(process.pid, signal.SIGTERM)
    for process in two:
        process.join(30)
        assert process.exitcode == 0
    assert "equals the oracle" in shop.prove()


def is_applied(shop) -> bool:
    """Whether the last entry of each stream is in a row."""
    client, rows = shop.project.client, stored(shop).values()
    lasts = [client.xinfo_stream(f"{shop.stream}:{number}")["last-generated-id"] for number in range(2)]
    applied = b" ".join(value for row in rows for field, value in row.items() if field.startswith(b"_applied:"))
    return all(b"%020d" % offset_of(last) in applied for last in lasts)


def killed_at_random(shop, processes, kills: int, per_kill: int) -> None:
    draw = random.Random(kills)
    rows = shop.rows(kills * per_kill)
    for number in range(kills):
        process = started(processes, shop)
        fed(shop, rows[number * per_kill : (number + 1) * per_kill], 40)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.join(30)
        places = landed(shop.folder)
        assert len(places) == len(set(places))
    outcome = shop.run("--until-idle", 0.5)
    assert outcome.status == 0, outcome
    assert len(landed(shop.folder)) == len(set(landed(shop.folder))) == len(rows)
    assert "equals the oracle" in shop.prove()


def test_workers_killed_at_random_lose_nothing_and_double_nothing(shop, processes):
    killed_at_random(shop, processes, 3, 200)


@pytest.mark.scale
def test_workers_killed_at_random_many_times_lose_nothing_and_double_nothing(shop, processes):
    killed_at_random(shop, processes, 30, 500)
