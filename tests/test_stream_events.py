"""Events: what a JSON lines file of the same source takes is taken, and nothing else; a bad one stops no other."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import pytest
from feast.types import Float64, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.definition.instants import UTC_MICROSECONDS
from parity.edge.errors import UserError
from parity.stream.events import Bad, EventReader, Raw, microseconds
from parity.stream.state import LEFT_OUT
from parity.transactions.landed import ID, OFFSET, PARTITION, Landing
from parity.transactions.read import read_part, read_transactions
from tests.definition import aggregation, customer, product, purchases, table, user

MORNING = datetime(2026, 7, 1, 8, tzinfo=UTC)
EVER = 2**62
GOOD = '{"user_id": 7, "timestamp": "2026-07-01T08:00:00Z", "purchase_amount": 12.5}'


def read(reader: EventReader, *events: str | bytes | None, latest: int = EVER):
    values = [event.encode() if isinstance(event, str) else event for event in events]
    return reader.read([Raw("shop/0", list(range(len(values))), values)], latest)


def reasons(reader: EventReader, *events: str | bytes | None, latest: int = EVER) -> list[str]:
    return [bad.reason for bad in read(reader, *events, latest=latest).bad]


BAD = {
    "": "it is not JSON: ''.",
    "{": "it is not JSON: Expecting property name enclosed in double quotes at character 2.",
    "7": "'7' is no object with names and values.",
    "null": "null is no object with names and values.",
    f"[{GOOD}]": "is no object with names and values.",
    f"{GOOD}{GOOD}": "something stands behind its JSON: ",
    "[" * 100_000: "it is not JSON: it is nested too deeply",
    '{"timestamp": "2026-07-01", "purchase_amount": 1}': "it has no user_id.",
    '{"user_id": null, "timestamp": "2026-07-01", "purchase_amount": 1}': "user_id is null.",
    '{"user_id": 1, "timestamp": "2026-07-01", "purchase_amount": NaN}': "purchase_amount is null.",
    '{"user_id": 1, "timestamp": "2026-07-01", "purchase_amount": Infinity}': "purchase_amount 'Infinity' is not",
    '{"user_id": 1, "timestamp": "2026-07-01", "purchase_amount": 1e400}': "purchase_amount '1e400' is not a finite",
    '{"user_id": 1, "timestamp": "2026-07-01", "purchase_amount": true}': "purchase_amount 'true' is not a",
    '{"user_id": 1, "timestamp": "2026-07-01", "purchase_amount": [1]}': "purchase_amount is a list, and only single",
    '{"user_id": 1, "timestamp": "2026-07-01", "purchase_amount": {"a": 1}}': "purchase_amount is an object. Name",
    '{"user_id": 007, "timestamp": "2026-07-01", "purchase_amount": 1}': "it is not JSON",
    '{"user_id": "007", "timestamp": "2026-07-01", "purchase_amount": 1}': "user_id '007' is not a whole number",
    '{"user_id": 7.0, "timestamp": "2026-07-01", "purchase_amount": 1}': "user_id '7.0' is not a whole number",
    '{"user_id": 9223372036854775808, "timestamp": "2026-07-01", "purchase_amount": 1}': "is not a whole number",
    '{"user_id": 1, "timestamp": "yesterday", "purchase_amount": 1}': "timestamp 'yesterday' is not an ISO 8601",
    '{"user_id": 1, "timestamp": "2026-02-30", "purchase_amount": 1}': "timestamp '2026-02-30' is not an ISO 8601",
    '{"user_id": 1, "timestamp": 1782892800, "purchase_amount": 1}': "timestamp '1782892800' is not an ISO 8601",
    '{"user_id": 1, "timestamp": "\\ud800", "purchase_amount": 1}': "timestamp holds half of a character.",
}


def test_a_bad_event_goes_with_its_reason_and_stops_none_beside_it(tmp_path):
    reader = EventReader([purchases(tmp_path)])
    mixed = [event for bad in BAD for event in (GOOD, bad)]
    found = read(reader, *mixed, GOOD)
    assert found.rows[OFFSET].to_pylist() == list(range(0, 2 * len(BAD) + 1, 2))
    assert set(found.rows["purchase_amount"].to_pylist()) == {12.5}
    assert sorted(bad.offset for bad in found.bad) == list(range(1, 2 * len(BAD), 2))
    told = {bad.offset: bad.reason for bad in found.bad}
    for number, (event, reason) in enumerate(BAD.items()):
        assert reason in told[2 * number + 1], event[:200]
        assert told[2 * number + 1].isprintable()
    assert found.bad[0] == Bad("shop/0", 1, b"", "it is not JSON: ''.")
    assert found.until == {"shop/0": 2 * len(BAD)}


def test_what_is_no_text_is_missing_or_too_large_is_bad(tmp_path):
    reader = EventReader([purchases(tmp_path)], largest=100)
    long = GOOD[:-1] + f', "note": "{"x" * 100}"}}'
    assert reasons(reader, b"\xff{}", None, long) == [
        "it is not in UTF-8.",
        "there is no event in it.",
        f"it has {len(long)} bytes, and 100 are the most that one may have.",
    ]
    assert read(reader, "\ufeff  " + GOOD + "\r\n").rows.num_rows == 1


def test_an_instant_beyond_the_tolerance_is_bad_and_one_at_it_is_not(tmp_path):
    reader = EventReader([purchases(tmp_path)])
    assert reasons(reader, GOOD, latest=microseconds(MORNING)) == []
    [reason] = reasons(reader, GOOD, latest=microseconds(MORNING) - 1)
    assert reason == "timestamp 2026-07-01T08:00:00+00:00 is 0:00:00.000001 later than an event may be."


def test_no_event_is_no_event(tmp_path):
    found = EventReader([purchases(tmp_path)]).read([], EVER)
    assert (found.rows.num_rows, found.bad, found.until) == (0, [], {})
    assert found.of_views["purchases"].rows.num_rows == 0


READINGS = {
    "as they are": {},
    "numbers with commas": {"decimal": ",", "thousands": ".", "currency": "EUR", "negative": "parentheses"},
    "milliseconds": {"timestamp_format": "milliseconds"},
    "a format in a zone": {"timestamp_format": "%d.%m.%Y %H:%M:%S", "time_zone": "Europe/Berlin"},
    "two columns": {"timestamp_columns": ["day", "clock"], "timestamp_format": "%Y%m%d %H%M"},
    "renamed": {"field_mapping": {"buyer.id": "customer_id", "amount": "total"}, "null_values": ["-", ""]},
}

SCALARS = st.one_of(
    st.sampled_from(
        ["", "-", "7", " 7", "1.5", "1,5", "(2)", "EUR 3", "true", "paid", "\u00e4", "2026-07-01T08:00:00Z"]
    ),
    st.sampled_from(["01.07.2026 10:00:00", "29.03.2026 02:30:00", "20260701", "0800", 20260701, 800, "1.234,5"]),
    st.sampled_from([7, 7.0, -0.0, 1e300, 2**53 + 1, 2**63, 1782892800000, None, True, float("nan"), float("inf")]),
    st.sampled_from([[], [1], {}, {"id": 7}, {"id": {"id": 1}}]),
)
NAMES = [
    "customer_id",
    "buyer",
    "buyer.id",
    "timestamp",
    "day",
    "clock",
    "total",
    "amount",
    "quantity",
    "sku",
    "status",
]


@pytest.fixture(scope="module", params=READINGS.values(), ids=READINGS)
def orders(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orders")
    features = [aggregation("sum", "total", 7), aggregation("sum", "quantity"), aggregation("last", "sku")]
    types = {"total": Float64, "quantity": Int64, "sku": String}
    where = "status <> 'void'"
    return table(folder, "orders", [customer], features, types, where, transactions="orders.jsonl", **request.param)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=st.dictionaries(st.sampled_from(NAMES), SCALARS, max_size=len(NAMES)), base=st.booleans())
def test_an_event_is_taken_exactly_if_a_file_of_it_is_and_with_the_same_values(orders, event, base, tmp_path_factory):
    if base:  # one that is good but for what was drawn
        good = {"customer_id": "c", "timestamp": "2026-07-01T08:00:00Z", "total": "1", "quantity": "2", "sku": "x"}
        event = (
            good | {"status": "paid", "day": "20260701", "clock": "0800", "amount": "3", "buyer": {"id": "c"}} | event
        )
    line = json.dumps(event)
    file = Path(orders.transactions)
    file.write_text(line)
    try:
        expected = read_part(file, orders.definition).to_pylist()
    except UserError:
        expected = None
    found = read(EventReader([orders]), line)
    taken = found.of_views["orders"].rows.select(orders.definition.transactions.names)
    assert (taken.to_pylist() if not found.bad else None) == expected
    assert taken.schema == orders.definition.transactions
    assert found.rows.num_rows == (0 if found.bad else 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(amount=st.sampled_from(["1,5", "7", "EUR 3", "1.5", 1.5]), at=st.sampled_from(["0801", "2359", "0000"]))
def test_a_landed_event_is_read_as_it_was_applied(orders, amount, at, tmp_path_factory):
    day = f"01.07.2026 {at[:2]}:{at[2:]}:00"
    iso = f"2026-07-01T{at[:2]}:{at[2:]}:00"
    written = {"%d.%m.%Y %H:%M:%S": day, "milliseconds": "1782892800123"}.get(
        orders.definition.reading.timestamp_format or "", iso
    )
    event = {"customer_id": "007", "buyer.id": "007", "timestamp": written, "day": "20260701", "clock": at}
    event |= {"total": amount, "amount": amount, "quantity": 2**62, "sku": "0,5", "status": None}
    lines = [json.dumps(event), json.dumps(event | {"status": "paid"}), json.dumps(event | {"status": "void"})]
    reader = EventReader([orders])
    found = read(reader, *lines)
    folder = tmp_path_factory.mktemp("landed")
    Landing(folder, reader.keys).land(found.rows, found.until)
    taken = found.of_views["orders"].rows.select(orders.definition.transactions.names)
    if found.rows.num_rows and taken.num_rows:
        assert read_transactions(folder, orders.definition).equals(taken)


def test_each_view_gets_what_it_takes_and_all_land_once(tmp_path):
    features = [aggregation("sum", "total", 7)]
    of_customers = table(tmp_path, "customers", [customer], features, {"total": Float64}, "status = 'paid'")
    of_products = table(tmp_path, "products", [product], features, {"total": Float64}, "status <> 'paid'")
    reader = EventReader([of_customers, of_products], event_id="order")
    base = {"customer_id": "c", "sku": "s", "timestamp": "2026-07-01T08:00:00Z", "total": 1}
    events = [base | {"status": status, "order": order} for status, order in [("paid", 1), (None, "b"), ("no", None)]]
    found = read(reader, *map(json.dumps, events))
    assert found.rows.column_names == [
        "customer_id",
        "timestamp",
        "total",
        "status",
        "sku",
        "order",
        PARTITION,
        OFFSET,
        ID,
    ]
    assert found.rows[ID].to_pylist() == found.rows["order"].to_pylist() == ["1", "b", None]
    assert found.rows["timestamp"].type == UTC_MICROSECONDS
    for name, offsets, left_out in (
        ("customers", [0, 1], [False, True]),  # as an event that is left out may correct one that was not
        ("products", [0, 1, 2], [True, True, False]),
    ):
        taken = found.of_views[name]
        assert taken.rows[OFFSET].to_pylist() == taken.places.tolist() == offsets
        assert taken.rows[LEFT_OUT].to_pylist() == left_out
    names = ["sku", "timestamp", "total", PARTITION, OFFSET, ID, LEFT_OUT]
    assert found.of_views["products"].rows.schema.names == names
    assert reader.keys == [["customer_id"], ["sku"]]


def test_a_column_of_several_types_lands_as_text_that_each_reads(tmp_path):
    features = [aggregation("sum", "code", 7)]
    whole = table(tmp_path, "whole", [user], features, {"code": Int64})
    texts = table(tmp_path, "texts", [user], [aggregation("last", "code")], {"code": String})
    reader = EventReader([whole, texts])
    found = read(reader, '{"user_id": 1, "timestamp": "2026-07-01", "code": 70}')
    assert found.rows["code"].to_pylist() == ["70"]
    Landing(tmp_path / "in").land(found.rows, found.until)
    for one in (whole, texts):
        assert read_transactions(tmp_path / "in", one.definition)["code"].to_pylist() in ([70], ["70"])
    commas = [
        table(tmp_path, "a", [user], features, {"code": Float64}, decimal=","),
        table(tmp_path, "b", [user], [aggregation("last", "code")], {"code": String}, decimal=","),
    ]
    with pytest.raises(UserError, match="the column code is read as double and as string"):
        EventReader(commas)


def test_events_of_several_partitions_keep_their_places(tmp_path):
    later = GOOD.replace("08:00", "09:00")
    some = [Raw("a/0", [5, 9], [b"x", GOOD.encode()]), Raw("a/1", [2], [later.encode()]), Raw("a/2", [1], [b"{}"])]
    found = EventReader([purchases(tmp_path)]).read(some, EVER)
    places = zip(found.rows[PARTITION].to_pylist(), found.rows[OFFSET].to_pylist(), strict=True)
    assert list(places) == [("a/0", 9), ("a/1", 2)]
    assert [(bad.partition, bad.offset) for bad in found.bad] == [("a/0", 5), ("a/2", 1)]
    assert found.until == {"a/0": 9, "a/1": 2, "a/2": 1}


def test_a_good_event_takes_microseconds(tmp_path):
    reader, count = EventReader([purchases(tmp_path)]), 2_000
    line = '{{"user_id": {0}, "timestamp": "{1}", "purchase_amount": {0}.25, "product_id": 3}}'
    values = [line.format(n % 100, (MORNING + timedelta(seconds=n)).isoformat()).encode() for n in range(count)]
    raw = [Raw("shop/0", list(range(count)), values)]
    times = []
    for _ in range(5):
        begin = perf_counter()
        found = reader.read(raw, EVER)
        times.append(perf_counter() - begin)
    assert found.rows.num_rows == count
    assert min(times) / count < 50e-6  # on the slowest machine; 1.4e-6 measured
