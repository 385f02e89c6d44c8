"""The steps of a row: what is kept beside it, and which of them holds at an instant."""

import bisect
import itertools
import math
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int32, Int64, String
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.definition.instants import EPOCH
from parity.online.columns import encode_values
from parity.online.rows import Fields, instant_bytes
from parity.online.steps import PAST_HORIZON, at_present, every_step, holding, horizon_of_steps
from tests.definition import aggregation, customer, table, user

TYPES = {"small": Int32, "large": Int64, "text": String}


def mixed(folder):
    """A continuous view with a feature of each type in a window, and two without one."""
    features = [
        aggregation("mean", "amount", 1, "mean"),
        aggregation("count", "amount", 1, "count"),
        aggregation("min", "small", 1, "small"),
        aggregation("max", "large", 1, "large"),
        aggregation("last", "text", 1, "text"),
        aggregation("count", "amount", name="ever"),
        aggregation("last", "text", name="last_text"),
    ]
    return table(folder, "mixed", [user], features, TYPES, continuous=True).definition


def history_of(definition, rows):
    """Rows of (key, instant, features ...), instants in microseconds."""
    columns = list(zip(*rows, strict=True)) or [()] * len(definition.schema)
    arrays = [
        pa.array(column, pa.int64()).cast(field.type)
        if pa.types.is_timestamp(field.type)
        else pa.array(column, field.type)
        for column, field in zip(columns, definition.schema, strict=True)
    ]
    return pa.table(arrays, definition.schema)


def plain(definition, rows, place):
    """The Values of a row, by field, as the online store has them."""
    fields = Fields(definition.name)
    columns = {rule.name: rows[rule.name].combine_chunks() for rule in definition.rules}
    return {fields[name]: encode_values(column.slice(place, 1))[0] for name, column in columns.items()}


@pytest.fixture(scope="module")
def definition(tmp_path_factory):
    return mixed(tmp_path_factory.mktemp("mixed"))


numbers = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([-128, -127, 127, 128, 2**31, -(2**63), 2**63 - 1])
)
small = st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1), st.sampled_from([-128, -(2**15), 2**15, -(2**31)]))
cents = st.integers(-(2**32), 2**32).map(lambda number: number / 100)
doubles = st.one_of(st.none(), st.floats(), st.sampled_from([math.nan, -0.0, 0.1, 1e308, math.inf]), cents)
texts = st.one_of(st.none(), st.sampled_from(["", "a", "ä" * 80]), st.text(max_size=5))
values = st.tuples(doubles, st.integers(0, 300), small, numbers, texts, st.integers(0, 3), texts)
histories = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(-3, 30)), values, max_size=25).map(
    lambda rows: [(key, instant, *row) for (key, instant), row in rows.items()]
)


@settings(max_examples=100, deadline=None)
@given(rows=histories, present=st.integers(-4, 31), until=st.integers(0, 32), data=st.data())
def test_the_step_that_is_picked_is_the_row_that_a_scan_of_the_history_finds(definition, rows, present, until, data):
    history, until = history_of(definition, data.draw(st.permutations(rows))), present + until
    latest, encoded = at_present(history, definition, present, until)
    keys = latest["user_id"].to_pylist()
    assert sorted(keys) == sorted({key for key, instant, *_ in rows if instant <= present})
    assert len(encoded) == len(keys)
    events = latest["event_timestamp"].cast(pa.int64()).to_pylist()
    for place, (key, event, stored) in enumerate(zip(keys, events, encoded, strict=True)):
        assert event == max(instant for number, instant, *_ in rows if number == key and instant <= present)
        for instant in range(present, until + 1):
            expected = max((row for row in rows if row[0] == key and row[1] <= instant), key=lambda row: row[1])
            found = holding(stored, event, instant)
            served, at = plain(definition, latest, place), event
            if found is not None:
                at, changed = found
                served |= changed
            assert at == expected[1]
            assert served == plain(definition, history_of(definition, [expected]), 0)
        assert holding(stored, event, until + 1) is PAST_HORIZON


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | cents | st.sampled_from([0.0, -0.0, 0.07, 21474836.47]), min_size=1))
def test_amounts_in_cents_come_back_with_the_very_same_bits(definition, amounts):
    rows = [(1, step, amount, 0, 0, 0, "", 0, "") for step, amount in enumerate([123.456, *amounts])]
    _, [stored] = at_present(history_of(definition, rows), definition, 0, 1000)
    field = Fields("mixed")["mean"]
    expected = encode_values(pa.array(amounts, pa.float64()))
    assert [values[field] for _, values in every_step(stored)] == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 2**20) | st.sampled_from([1, 2**26, 2**32 - 1, 2**40]), min_size=120, max_size=300))
def test_of_many_steps_the_last_one_by_now_is_found(definition, gaps):
    instants = [0, *itertools.accumulate(gaps)]
    history = history_of(definition, [(1, at, 0.0, place, 0, 0, "", 0, "") for place, at in enumerate(instants)])
    _, [stored] = at_present(history, definition, 0, 2**60)
    assert [instant for instant, _ in every_step(stored)] == instants[1:]
    for instant in instants[1:]:
        for present in (instant - 1, instant, instant + 1):
            expected = instants[bisect.bisect_right(instants, present) - 1]
            found = holding(stored, 0, present)
            assert (found[0] if found else 0) == expected


@pytest.fixture(scope="module")
def sliding(tmp_path_factory):
    return table(
        tmp_path_factory.mktemp("sliding"),
        "sliding",
        [customer],
        [aggregation("sum", "amount", 1, "total"), aggregation("count", "amount", 1, "count")],
        continuous=True,
    ).definition


def steps_of(definition, *rows, present=0, until=1000):
    return at_present(history_of(definition, rows), definition, present, until)


def test_a_step_holds_from_its_instant_on_until_the_next(sliding):
    _, [stored] = steps_of(sliding, ("a", 0, 2.5, 2), ("a", 10, 1.5, 1), ("a", 20, 0.0, 0))
    field = Fields("sliding")["total"]
    assert holding(stored, 0, 9) is None
    assert [holding(stored, 0, present)[0] for present in (10, 11, 19, 20, 1000)] == [10, 10, 10, 20, 20]
    assert [Value.FromString(holding(stored, 0, present)[1][field]).double_val for present in (19, 20)] == [1.5, 0.0]
    assert holding(stored, 0, 1001) is PAST_HORIZON


def test_a_row_without_a_step_has_a_horizon_too(sliding):
    _, [stored] = steps_of(sliding, ("a", 0, 2.5, 2), ("a", 1001, 0.0, 0))
    assert (holding(stored, 0, 1000), holding(stored, 0, 1001)) == (None, PAST_HORIZON)
    assert (horizon_of_steps(stored), every_step(stored)) == (1000, [])


def test_steps_of_another_row_are_past_their_horizon(sliding):
    _, [stored] = steps_of(sliding, ("a", 0, 2.5, 2), ("a", 10, 1.5, 1))
    assert holding(stored, 1, 5) is PAST_HORIZON
    assert holding(None, 0, 5) is PAST_HORIZON


def test_keys_without_a_row_by_now_are_left_out(sliding):
    rows, encoded = steps_of(sliding, ("a", 0, 2.5, 2), ("b", 10, 1.5, 1))
    assert (rows["customer_id"].to_pylist(), len(encoded)) == (["a"], 1)
    rows, encoded = steps_of(sliding)
    assert (rows.num_rows, encoded) == (0, [])


def test_damaged_bytes_never_crash_a_read_and_are_reported_once(tmp_path, caplog):
    definition = mixed(tmp_path)
    rows = [
        (1, 10 * step, float(step), step, None if step % 3 else step, -(2**63) + step, f"text {step % 5}", 7, "x")
        for step in range(12)
    ]
    _, [stored] = at_present(history_of(definition, rows), definition, 0, 1000)
    assert len(every_step(stored)) == 11
    for length in range(len(stored)):
        assert holding(stored[:length], 0, 50) is PAST_HORIZON
    generator = np.random.default_rng(1)
    for _ in range(5000):
        damaged = bytearray(stored)
        for place in generator.integers(0, len(stored), 3):
            damaged[place] = generator.integers(0, 256)
        found = holding(bytes(damaged), 0, 50)
        assert found in (None, PAST_HORIZON) or isinstance(found[1], dict)
    caplog.clear()
    for _ in range(3):
        assert holding(b"\xff" + stored[1:], 0, 50) is PAST_HORIZON
    assert len(caplog.records) == 1


@pytest.mark.parametrize("steps", [50, 5000])
def test_a_step_takes_few_bytes(tmp_path, steps):
    definition = table(
        tmp_path,
        "few",
        [user],
        [aggregation("mean", "amount", 1), aggregation("count", "amount", 1)],
        continuous=True,
    ).definition
    history = history_of(definition, [(1, step, step / 7, steps - step) for step in range(steps + 1)])
    _, [stored] = at_present(history, definition, 0, 10**6)
    assert len(stored) <= 60 + (18 if steps == 50 else 15) * steps


@given(st.one_of(st.integers(-62135596800 * 10**6, 253402300799 * 10**6 + 999_999), st.sampled_from([0, 1, -1, 10**6])))
def test_the_timestamp_of_a_step_is_what_protobuf_writes(instant):
    expected = Timestamp()
    expected.FromDatetime(EPOCH + timedelta(microseconds=instant))
    assert instant_bytes(instant) == expected.SerializeToString()
