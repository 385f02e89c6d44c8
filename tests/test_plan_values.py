"""Two tables beside each other, bit for bit: what differs at which instants, by the plainest reckoning."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.edge.errors import UserError
from parity.plan.align import Table, align
from parity.plan.compare import ViewPair
from parity.plan.side import Computed
from parity.plan.values import Beside, change_of, column_pair, differing

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
INT64 = pa.int64()
EVENT = pa.timestamp("us", "UTC")


def written(folder, name: str, rows: dict, type: pa.DataType, keys: pa.DataType = INT64) -> Table:
    """A table with these values by key and minute."""
    columns = [
        pa.array([key for key, _ in rows], keys),
        pa.array([BEGIN + timedelta(minutes=minute) for _, minute in rows], EVENT),
        pa.array(rows.values(), type),
    ]
    pq.write_table(pa.table(columns, ["key", "at", "value"]), folder / name)
    return Table(folder / name, ("key",), "at")


def beside(base: Table, head: Table, is_stored: bool = False) -> Beside:
    columns = (one.read(["value"])["value"] for one in (base, head))
    return Beside(align(base, head, is_stored), *column_pair(*columns))


def read(rows: dict, key: int, minute: int):
    """What a reader gets: the latest value up to then."""
    known = {at: value for (of, at), value in rows.items() if of == key and at <= minute}
    return known[max(known)] if known else None


def bits(value) -> object:
    if isinstance(value, float):
        return None if value != value else np.float64(value).tobytes()
    return value


def expected(base: dict, head: dict) -> dict:
    """At which instants of either a reader gets something else."""
    instants = sorted({*base, *head})
    return {at: (read(base, *at), read(head, *at)) for at in instants if bits(read(base, *at)) != bits(read(head, *at))}


TYPES = {
    pa.float64(): st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf"), 0.1 + 0.2, 0.3, 1e300]),
    pa.int64(): st.sampled_from([0, 1, -(2**63), 2**63 - 1, 2**53, 2**53 + 1]),
    pa.int32(): st.integers(-3, 3),
    pa.string(): st.sampled_from(["", "a", "b", "ä", "a\x00"]),
    pa.bool_(): st.booleans(),
}


@given(data=st.data(), type=st.sampled_from(list(TYPES)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_two_tables_differ_where_their_readers_say(tmp_path, data, type):
    rows = st.dictionaries(st.tuples(st.integers(1, 3), st.integers(0, 5)), st.none() | TYPES[type], min_size=1)
    base, head = data.draw(rows), data.draw(rows)
    both = beside(written(tmp_path, "base", base, type), written(tmp_path, "head", head, type))
    wrong, aligned = expected(base, head), both.aligned
    places = np.flatnonzero(differing(both))
    minutes = (aligned.instant - int(BEGIN.timestamp()) * 1_000_000) // 60_000_000
    assert {(*aligned.key_at(place), int(minutes[place])) for place in places} == set(wrong)
    found = change_of(both)
    assert (found.rows, found.of_rows) == (len(wrong), len({*base, *head}))
    assert found.keys == len({key for key, _ in wrong})
    last = {key: max(at for of, at in {*base, *head} if of == key) for key, _ in {*base, *head}}
    assert found.latest == sum((key, at) in wrong for key, at in last.items())
    gained = [1 for was, now in wrong.values() if bits(was) is not None and bits(now) is None]
    assert found.nulls_gained == len(gained)
    assert (aligned.only_base, aligned.only_head) == (len(base.keys() - head.keys()), len(head.keys() - base.keys()))
    for place in places[:3]:
        values = both.at(int(place))
        assert tuple(map(bits, values)) == tuple(map(bits, wrong[*aligned.key_at(place), int(minutes[place])]))


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_rows_and_the_types_of_keys_change_nothing(tmp_path, data):
    rows = data.draw(st.dictionaries(st.tuples(st.integers(1, 4), st.integers(0, 5)), st.integers(0, 3), min_size=1))
    shuffled = dict(data.draw(st.permutations(list(rows.items()))))
    texts = [{(f"0{key}", at): value for (key, at), value in some.items()} for some in (rows, shuffled)]
    both = beside(*(written(tmp_path, f"{n}", some, pa.int64(), pa.string()) for n, some in enumerate(texts)))
    assert not differing(both).any()
    assert both.aligned.same_rows


@pytest.mark.parametrize(("before", "after"), [(0.0, -0.0), (0.3, 0.1 + 0.2), (None, 0.0), (1.0, np.nextafter(1.0, 2))])
def test_the_least_bit_is_a_difference(tmp_path, before, after):
    tables = [written(tmp_path, f"{n}", {(1, 0): one}, pa.float64()) for n, one in enumerate((before, after))]
    assert change_of(beside(*tables)).rows == 1


def test_int64_that_a_float_would_not_tell_apart_have_a_difference(tmp_path):
    tables = [written(tmp_path, f"{n}", {(1, 0): 2**62 + n}, pa.int64()) for n in range(2)]
    assert change_of(beside(*tables)).quantiles["0.5"] == 1.0


def test_no_rows_on_one_side_are_no_values_there(tmp_path):
    base, head = written(tmp_path, "base", {}, pa.int64()), written(tmp_path, "head", {(1, 0): 3}, pa.int64())
    found = change_of(beside(base, head))
    assert (found.rows, found.nulls_lost, found.of_keys) == (1, 1, 1)
    assert change_of(beside(base, base)).of_rows == 0


def test_rows_that_are_later_than_all_that_is_stored_are_left_out(tmp_path):
    base = written(tmp_path, "base", {(1, 0): 1, (2, 3): 1}, pa.int64())
    head = written(tmp_path, "head", {(1, 0): 1, (1, 4): 2, (2, 3): 1, (3, 9): 1}, pa.int64())
    both = beside(base, head, is_stored=True)
    assert (both.aligned.later, both.aligned.keys, change_of(both).rows) == (2, 2, 0)


def test_a_key_with_two_rows_at_one_instant_is_refused(tmp_path):
    base = written(tmp_path, "base", {(1, 0): 1}, pa.int64())
    twice = pq.read_table(base.features)
    pq.write_table(pa.concat_tables([twice, twice]), tmp_path / "head")
    with pytest.raises(UserError, match="the head has several rows of a key at one instant"):
        align(base, Table(tmp_path / "head", ("key",), "at"))


@pytest.mark.parametrize(
    ("before", "after", "rows"),
    [
        (pa.array([1, None, 3]), pa.array([1.0, None, 3.5]), 1),
        (pa.array([2**62 + 1, 0, 1]), pa.array([0.5, 0.0, 1.0]), 1),
        (pa.array([1, 2, None]), pa.array(["1", "x", None]), 1),
        (pa.array([True, False, None]), pa.array([1, 1, 1], pa.int32()), 2),
    ],
)
def test_values_of_another_type_are_compared_as_they_are_written(tmp_path, before, after, rows):
    views, computed = [], []
    for name, values, kind in (("base", before, "A"), ("head", after, "B")):
        table = written(tmp_path, name, {(1, at): None for at in range(3)}, INT64)
        pq.write_table(pq.read_table(table.features).set_column(2, "value", values), table.features)
        computed.append(Computed(table.features, None, 3, 1, 0, {}))
        features = [{"name": "value", "type": kind, "unit": None}]
        views.append({"name": "v", "keys": [["key", "Int64"]], "event": "at", "features": features, "rules": {}})
    [found] = ViewPair(*views, tuple(computed)).features()
    assert (found.status, found.verdict, found.change.rows) == ("type changed", "breaking", rows)


def test_constants_are_taken_for_one_feature_under_two_names_only_if_they_are_made_alike(tmp_path):
    table = written(tmp_path, "same", {(1, 0): 7, (2, 0): 7}, INT64)
    rules = [{"function": "count", "column": "a", "window": None}, {"function": "max", "column": "a", "window": None}]
    for rule, status in ((rules[0], "renamed"), (rules[1], "added")):
        sides = []
        for name, made in (("value", rules[0]), ("other", rule)):
            place = tmp_path / name
            pq.write_table(pq.read_table(table.features).rename_columns(["key", "at", name]), place)
            view = {"name": "v", "keys": [["key", "Int64"]], "event": "at", "rules": {name: made}}
            sides.append((view | {"features": [{"name": name, "type": "Int64", "unit": None}]}, place))
        computed = tuple(Computed(place, None, 2, 2, 0, {}) for _, place in sides)
        found = list(ViewPair(sides[0][0], sides[1][0], computed).features())
        assert found[0].status == status
