"""`parity check` on more keys than are asked for at once: batches, samples that the store draws, and writers."""

import os
import pty
import termios
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64, Int64, String

from parity.check import batches, pulling
from parity.check.batches import Sides
from parity.check.choosing import choose
from parity.check.found import Compared
from parity.check.history import rows_of
from parity.check.keys import Known
from parity.check.offline_keys import lacked
from parity.compare import sides
from parity.compare.requested import as_declared
from parity.compare.sample import Sample
from parity.compare.sides import Sdk, Training
from tests.strangers import DAY, HOUR, customers, orders, stranger

WRONG = {0, 7, 20, 41, 59}
"""Customers whose values are overwritten, in several batches."""


@pytest.fixture(params=["duckdb", pytest.param("dask", marks=pytest.mark.scale)])
def theirs(request, tmp_path, capfd):
    return stranger(tmp_path, capfd, request.param)


def shop(theirs, keys: int, **columns):
    frame = orders(theirs.now, keys, rows=1, **columns)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    return frame


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(batches, "FIRST_BATCH", 3)
    monkeypatch.setattr(batches, "KEYS_PER_BATCH", 16)
    monkeypatch.setattr(sides, "KEYS_PER_READ", 5)


def test_what_differs_is_found_in_each_of_many_batches(theirs, small_batches):
    frame = shop(theirs, 60)
    wrong = frame["customer_id"].isin([key + 1 for key in WRONG])
    theirs.write("orders", frame.assign(total=frame["total"] + wrong * 1.0))
    found = theirs.check()
    assert {key["customer_id"] - 1 for key in found.of("correction")["keys_listed"]} == WRONG
    assert (found.said["values"], found.said["equal"]) == (120, 120 - len(WRONG))


@pytest.mark.scale
def test_more_keys_than_a_batch_has_are_all_compared(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "duckdb")
    frame = shop(theirs, 41_500)
    wrong = frame["customer_id"].isin([1, 1000, 1001, 41_000, 41_001, 41_500])
    theirs.write("orders", frame.assign(total=frame["total"] + wrong * 1.0))
    found = theirs.check()
    assert (found.of("correction")["keys"], found.compared("customers")["keys"]) == (6, 41_500)
    assert found.said["equal"] == 2 * 41_500 - 6


@pytest.mark.parametrize("on_a_terminal", [True, False])
def test_a_check_that_takes_long_shows_a_bar_on_a_terminal_only(tmp_path, capfd, monkeypatch, on_a_terminal):
    theirs = stranger(tmp_path, capfd, "duckdb")
    shop(theirs, 20)
    monkeypatch.setattr("tqdm.std.time", count().__next__)  # each look at the clock a second later
    here, there = pty.openpty() if on_a_terminal else os.pipe()
    if on_a_terminal:
        termios.tcsetwinsize(there, (24, 80))
    with os.fdopen(there, "w", buffering=1) as stderr, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", stderr)
        assert theirs.check().status == 0
        stderr.write("the end")
    shown = os.read(here, 1 << 16).decode()
    os.close(here)
    assert ("customers: 100%" in shown) == on_a_terminal
    assert on_a_terminal or shown == "the end"


class Writer:
    """A clock of whoever asks: as soon as it is looked at for the first time, a row is written on both sides."""

    def __init__(self, theirs, frame: pd.DataFrame):
        self.theirs, self.frame, self.asked = theirs, frame, 0

    def __call__(self) -> datetime:
        at = datetime.now(UTC)
        self.asked += 1
        if self.asked == 1:
            newer = self.frame.tail(1).assign(event_timestamp=at + timedelta(microseconds=1), total=-1.0)
            self.theirs.write("orders", pd.concat([self.frame, newer]))
            self.theirs.store.write_to_online_store("customers", newer)
        return at


def test_what_is_written_between_the_two_reads_is_no_difference(theirs):
    frame = shop(theirs, 20)
    online, offline = theirs.store, theirs.store
    [subject] = choose(online, None, None).subjects
    keys = Known(offline, online, datetime.now(UTC)).of(subject, None, 0)
    found, writer = Compared(subject.name, subject.what), Writer(theirs, frame)
    list(batches.compare(subject, keys, Sides(Training(offline), Sdk(online), theirs.store, writer), found))
    assert writer.asked == 2
    assert (found.retried, found.differing, found.findings, found.proven) == (1, 0, {}, 40)


def test_of_a_sample_the_store_gives_no_more_keys_than_are_drawn(theirs, monkeypatch):
    shop(theirs, 60)
    theirs.store.write_to_online_store("customers", orders(theirs.now, 80, rows=1).tail(20))
    [subject] = choose(theirs.store, None, None).subjects
    given: list[int] = []
    monkeypatch.setattr(
        "parity.check.offline_keys.timed",
        lambda table, event: given.append(table.num_rows) or pulling.timed(table, event),
    )
    known = Known(theirs.store, theirs.store, theirs.now)
    drawn = [known.of(subject, 20, seed) for seed in range(60)]
    offline = theirs.store.config.offline_store.type
    assert max(given) <= 20 if offline == "duckdb" else given == [60]
    assert [(len(keys), keys.of, keys.sample) for keys in drawn] == [
        (20, 80, Sample(20, 80, seed)) for seed in range(60)
    ]
    of_each = np.bincount(np.concatenate([keys.table["customer_id"].to_numpy() for keys in drawn]), minlength=81)[1:]
    assert (of_each.sum(), of_each.min() > 0) == (1200, True)
    assert 220 < of_each[60:].sum() < 380  # 300 are expected of the 20 that only the online store has
    again = Known(theirs.store, theirs.store, theirs.now).of(subject, 20, 7)
    assert again.table.equals(drawn[7].table)


WHOLE, TEXT = pa.array([1, 2, 3]), pa.array(["1", "2", "x"])
KEYS = {
    "whole numbers": ([WHOLE], [None]),
    "whole numbers as declared": ([WHOLE.cast(pa.int32())], ["Int64"]),
    "whole numbers that are to be texts": ([WHOLE], ["String"]),
    "texts": ([TEXT], ["String"]),
    "long texts": ([TEXT.cast(pa.large_string())], [None]),
    "texts that are to be whole numbers": ([TEXT], ["Int64"]),
    "whole numbers as pandas has them beside nulls": ([WHOLE.cast(pa.float64())], ["Int64"]),
    "floats": ([pa.array([1.0, 2.5, 3.0])], [None]),
    "truth": ([pa.array([True, False])], ["Bool"]),
    "bytes": ([pa.array([b"1", b"2"])], ["String"]),
    "two": ([WHOLE, TEXT], ["Int64", "String"]),
    "two of which one is to be text": ([WHOLE, WHOLE], ["String", None]),
}
ASKED = {
    "whole numbers": [pa.array([3, 4, 1])],
    "texts": [pa.array(["1", "3", "x", "7"])],
    "truth": [pa.array([True])],
    "two": [pa.array([3, 3, 1]), pa.array(["x", "1", "1"])],
    "two whole numbers": [pa.array([3, 1]), pa.array([3, 3])],
    "two texts and numbers": [pa.array(["3", "1"]), pa.array([3, 3])],
}


@pytest.mark.parametrize(
    ("known", "asked"), [(one, two) for one in KEYS for two in ASKED if len(KEYS[one][0]) == len(ASKED[two])]
)
def test_what_is_not_offline_is_what_python_would_say(known, asked):
    columns, declared = KEYS[known]
    there = set(zip(*map(as_declared, [one.to_pylist() for one in columns], declared), strict=True))
    keys = [one.to_pylist() for one in ASKED[asked]]
    expected = [place for place, key in enumerate(zip(*keys, strict=True)) if key not in there]
    names = ["a", "b"][: len(columns)]
    assert lacked(pa.table(columns, names), declared, pa.table(ASKED[asked], names)).tolist() == expected


def test_history_of_some_keys_is_the_same_however_it_comes(theirs, monkeypatch):
    frame = orders(theirs.now, 30, rows=3, shop=lambda key: f"shop {key % 4}")
    entity, view = pairs(theirs.write("orders", frame))
    theirs.apply(*entity, view)
    [subject] = choose(theirs.store, None, None).subjects
    keys = pa.table({"customer_id": [3, 4, 99], "shop": ["shop 3", "shop 3", "shop 3"]})
    asked = theirs.store, subject.sources[0], keys, ["total"], theirs.now - HOUR
    found = dict(rows_of(*asked))
    assert list(found) == [(3, "shop 3")]
    assert [(row.event, row.values) for row in found[3, "shop 3"]] == [
        (theirs.now - back * HOUR, {"total": 30.75 + 3 - back}) for back in (3, 2, 1)
    ]
    monkeypatch.setattr("parity.check.history.history_job", InBatches)
    assert dict(rows_of(*asked)) == found


class InBatches:
    """A job of a store that gives its rows part by part, as Snowflake does."""

    def __init__(self, *asked):
        self._table = pulling.history_job(*asked).to_arrow()

    def to_arrow_batches(self):
        yield from self._table.to_batches(7)


def pairs(source) -> tuple[list[Entity], FeatureView]:
    """A view of customers in shops."""
    entities = [
        Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64),
        Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING),
    ]
    schema = [
        Field(name="customer_id", dtype=Int64),
        Field(name="shop", dtype=String),
        Field(name="total", dtype=Float64),
    ]
    return entities, FeatureView(name="pairs", entities=entities, ttl=10 * DAY, schema=schema, source=source)
