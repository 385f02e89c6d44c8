"""An event is an earlier one if it has its id and its keys in every view: online, in the files, and after a seeding."""

import json
import random
from dataclasses import replace
from datetime import timedelta
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast import Entity, ValueType
from feast.types import Float64, String

from parity.definition.keys import as_table
from parity.online.side import serving_values
from parity.stream.apply import Applier
from parity.stream.events import EventReader, Raw, microseconds
from parity.stream.identity import identities, keys_beside, known_ids
from parity.stream.seed import seed
from parity.transactions.landed import ID, OFFSET, Landing
from parity.transactions.read import read_transactions
from tests.definition import aggregation, table, user
from tests.online import NOW, opened

item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def views(folder):
    """By user, of what no bot has bought, and by item, of all; in the files items are called otherwise."""
    features = [aggregation(function, "amount", 3, function) for function in ("count", "sum")]
    options = {"transactions": "transactions", "ttl": None, "field_mapping": {"what": "item_id"}}
    schema = {"amount": Float64, "kind": String}
    by_user = table(folder, "by_user", [user], features, schema, "item_id <> 'none'", **options)
    by_item = table(folder, "by_item", [item], features, schema, "kind <> 'bot'", **options)
    both = (by_user.definition, by_item.definition)
    return [replace(view, beside=both) for view in (by_user, by_item)]


def test_identities_are_those_of_ids_and_keys_whatever_these_hold():
    texts = ["", " ", "-", "0", "1 1", "a", "a ", None, "é"]
    rows = list(product(["x", "x 1", "x  1"], texts, texts))
    ids, *keys = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    assert pc.count_distinct(identities(ids, keys)).as_py() == len(rows)
    assert identities(pa.array([None, "a"], pa.string()), [pa.array([b"\xff", None], pa.binary())])[0].as_py() is None
    assert known_ids(pa.array(["", None, "a"], pa.string())).to_pylist() == [None, None, "a"]


def test_ids_of_views_of_one_key_are_what_they_are(tmp_path):
    by_user, by_item = (view.definition for view in views(tmp_path))
    assert keys_beside(by_user, [by_user, by_user]) == []
    assert [key.name for key in keys_beside(by_user, [by_user, by_item])] == ["item_id"]


@pytest.mark.parametrize(
    "draw", [1, pytest.param(2, marks=pytest.mark.scale), pytest.param(3, marks=pytest.mark.scale)]
)
def test_views_of_other_keys_serve_and_land_the_same_events(tmp_path, redis_port, draw):
    draw = random.Random(draw)
    tables = views(tmp_path)
    store = opened(tmp_path, redis_port, tables)
    folder, reader = tmp_path / "transactions", EventReader(tables, "eid")
    landing = Landing(folder, reader.keys)
    events, wanted = [], {}
    for offset in range(300):
        id, one, what = draw.choice("abcde"), draw.randrange(3), draw.choice(["i", "j", "", None])
        at = wanted.get((id, one, what), {}).get("timestamp")  # so that no correction is late
        at = at or (NOW - timedelta(minutes=draw.randrange(2000))).isoformat()
        event = {"eid": id, "user_id": one, "what": what, "amount": draw.randrange(1, 3), "timestamp": at}
        event["kind"] = "bot" if what is None else "human"
        events.append(Raw("s/0", [offset], [json.dumps(event).encode()]))
        wanted[id, one, what] = event
    for table_ in tables:
        seed(store, table_, tmp_path / "nothing", NOW)
    appliers = [Applier(store, table_) for table_ in tables]
    for start in range(0, len(events), 30):
        for size in (30, 7) if start % 60 else (30,):  # some are delivered again
            some = events[start : start + size]
            raw = Raw("s/0", [one.offsets[0] for one in some], [one.values[0] for one in some])
            found = reader.read([raw], microseconds(NOW))
            assert not found.bad
            for applier in appliers:
                applier.apply(found.of_views[applier.table.name].rows, NOW)
            landing.land(found.rows, found.until, np.ones(found.rows.num_rows, bool))
    rows = pa.concat_tables([pq.read_table(file) for file in folder.glob("*.parquet")]).to_pylist()
    assert {(row[ID], row["user_id"], row["what"]): row["amount"] for row in rows} == {
        at: event["amount"] for at, event in wanted.items()
    }
    assert len(rows) == len(wanted)
    for _ in range(2):
        for table_ in tables:
            definition = table_.definition
            [name] = definition.keys.names
            taken = read_transactions(folder, definition).to_pylist()
            keys = sorted({row[name] for row in taken})
            served = serving_values(store, table_, as_table([(key,) for key in keys], definition.keys))
            amounts = [[row["amount"] for row in taken if row[name] == key] for key in keys]
            assert served["count"] == [len(some) for some in amounts]
            assert served["sum"] == [sum(some) for some in amounts]
            assert seed(store, table_, folder, NOW).keys == len(keys)
    for applier in appliers:
        last = found.of_views[applier.table.name].rows
        last = last.set_column(last.schema.get_field_index(OFFSET), OFFSET, pc.add(last[OFFSET], 1000))
        assert applier.apply(last, NOW).again.all()
