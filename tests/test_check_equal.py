"""When two values are equal, by what is declared; and what is said where a store does not say which event it serves."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

from parity.check.causes import Evidence, cause_of_row
from parity.check.history import Row
from parity.compare.equal import apart, difference, plain
from parity.compare.kinds import BEHIND, COERCION, FLOAT32, JSON, NULL, TYPE
from parity.compare.subjects import Source

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("training", "serving", "declared", "kind"),
    [
        (None, math.nan, "Float64", None),
        (np.float64("nan"), None, "Float64", None),
        (pd.NaT, None, "UnixTimestamp", None),
        (7, 7.0, "Int64", None),
        (0.0, -0.0, "Float64", TYPE),
        (-0.0, -0.0, "Float64", None),
        ([1.0, -0.0], [1.0, 0.0], "Array(Float64)", TYPE),
        ([True], [1], "Array(Int64)", TYPE),
        (-0.0, 0, "Int64", None),
        (np.array([1.0, math.nan]), [1.0, None], "Array(Float64)", None),
        (NOW.replace(tzinfo=None), NOW, "UnixTimestamp", None),
        (pd.Timestamp("2026-03-01T01:00:00+01:00"), NOW, "UnixTimestamp", None),
        ({"a": 1, "b": None}, {"a": 1}, "Map", None),
        ([("a", "1")], {"a": "1"}, "Map", None),
        (0.1, float(np.float32(0.1)), "Float32", FLOAT32),
        (0.1, float(np.float32(0.1)), "Float64", FLOAT32),
        (float(np.float32(0.1)), 0.1, "Float32", None),  # as HTTP writes a 32-bit float
        (1795700388.8371115, 1795700388.707934, "Float64", ""),
        (16777217, 16777216.0, "Float32", FLOAT32),
        ([0.1], [float(np.float32(0.1))], "Array(Float32)", FLOAT32),
        ([0.1, 5.0], [float(np.float32(0.1)), 6.0], "Array(Float32)", ""),
        ([1.0], [1.0, 2.0], "Array(Float64)", ""),
        (7.9, 7, "Int64", COERCION),
        (2**53 + 1, float(2**53), "Float64", COERCION),
        (float(np.float32(0.1)), "0.1", "String", TYPE),
        (b"a", "b'a'", "String", COERCION),
        (b"a", "a", "String", TYPE),
        (Decimal("1.10"), 1.1, "Float64", COERCION),
        (NOW + timedelta(microseconds=5), NOW, "UnixTimestamp", COERCION),
        ('{"a": [1, 2]}', {"a": [1, 2]}, "Json", JSON),
        ('{"a": 1}', '{"a":1}', "Json", None),
        ('{"a": 1}', {"a": 2}, "Json", ""),
        ('{"a": 1}', {"a": 1.0}, "Json", JSON),
        ('{"a": true}', {"a": 1}, "Json", TYPE),
        ('{"a": [0.0]}', '{"a": [-0.0]}', "Json", TYPE),
        ("true", 1, "Json", TYPE),
        ({"a": 1}, {"a": True}, "Map", TYPE),
        ({"a": {"b": [True]}}, {"a": {"b": [1]}}, "Struct({'a': Map})", TYPE),
        ({"a": 0.0}, {"a": -0.0}, "Map", TYPE),
        ([("a", True)], {"a": 1}, "Map", TYPE),
        ([{"a": True}], [{"a": 1}], "Array(Map)", TYPE),
        ({"a": math.nan, "b": 1}, {"b": 1}, "Map", None),
        ("7", 7, "String", TYPE),
        (True, 1, "Bool", TYPE),
        (NOW, 1772323200, "Int64", TYPE),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "String", TYPE),
        ("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "Uuid", TYPE),
        ("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "Uuid", TYPE),
        ("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "String", ""),
        (["b", "a"], {"a", "b"}, "Set(String)", None),
        (["a", "a"], {"a"}, "Set(String)", COERCION),
        (["a", "b"], {"a", "c"}, "Set(String)", ""),
        ([["b", "a"]], [{"a", "b"}], "Array(Set(String))", None),
        (['{"a": 1}'], [{"a": 1}], "Array(Json)", JSON),
        ("null", None, "Json", JSON),
        ("null", None, "String", ""),
        (pd.Timestamp(NOW) + pd.Timedelta(7, "ns"), NOW, "UnixTimestamp", COERCION),
        (pd.Timestamp(NOW).as_unit("ns"), NOW, "UnixTimestamp", None),
        (date(2026, 3, 1), NOW, "UnixTimestamp", None),
        ([date(2026, 3, 1)], [NOW], "Array(UnixTimestamp)", None),
        (date(2026, 3, 1), NOW + timedelta(hours=1), "UnixTimestamp", ""),
        (date(2026, 3, 1), NOW + timedelta(microseconds=1), "UnixTimestamp", TYPE),
        (Decimal("1.10"), Decimal("1.1"), "Decimal", None),
        (Decimal("1.10"), "1.10", "String", TYPE),
        (2**53 + 1, 2**53, "Int64", COERCION),
        ([], None, "Array(Float64)", NULL),
        ([None], [math.nan], "Array(Float64)", None),
        (["a", None], ["a", ""], "Array(String)", NULL),
        (b"\x00\xff", b"\x00\xff", "Bytes", None),
        (None, -(2**63), "UnixTimestamp", NULL),
        (None, 0, "Int64", NULL),
        (None, "", "String", NULL),
        (0.0, None, "Float64", NULL),
        (None, 3, "Int64", ""),
        ("a", "b", "String", ""),
    ],
)
def test_values_are_equal_or_differ_in_a_way_that_is_named(training, serving, declared, kind):
    training, serving = plain(training), plain(serving)
    assert difference(training, serving, declared) == kind
    assert kind is None or apart([training], [serving], declared) == [0]


def test_where_a_store_does_not_say_the_event_it_is_that_of_the_last_row_with_these_values():
    entity = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    source = FileSource(name="orders", path="orders.parquet", timestamp_field="event_timestamp")
    view = FeatureView(name="them", entities=[entity], schema=[Field(name="total", dtype=Float64)], source=source)
    rows = [Row(NOW - timedelta(days=2), {"total": 1.0}), Row(NOW - timedelta(days=1), {"total": 2.0})]
    evidence = Evidence(
        Source(view, "them"), rows, None, {"total": 2.0}, {"total": 1.0}, {"total": "Float64"}, True, NOW
    )
    assert cause_of_row(evidence).kind == BEHIND
    assert cause_of_row(evidence._replace(serving={"total": 2.0})) is None
