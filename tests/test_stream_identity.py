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
from feast import Entity, FeatureService, FileSource, ValueType
from feast.types import Float64, String

from parity import AggregatedFeatureView, TransactionSource
from parity.definition.checks import check_definitions
from parity.definition.keys import as_table
from parity.proof.sides import serving_values
from parity.stream.apply import Applier
from parity.stream.events import EventReader, Raw, microseconds
from parity.stream.identity import identities, keys_beside, known_ids
from parity.stream.ids_of_files import IdsOfFiles
from parity.stream.seed import seed
from parity.stream.state import LEFT_OUT
from parity.transactions.landed import ID, OFFSET, Landing
from parity.transactions.read import read_transactions
from tests.definition import aggregation, table, user
from tests.online import NOW, opened

item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def views(folder, **more):
    """By user, of what no bot has bought, and by item, of all; in the files items are called otherwise."""
    features = [aggregation(function, "amount", 3, function) for function in ("count", "sum")]
    options = {"transactions": "transactions", "ttl": None, "field_mapping": {"what": "item_id"}} | more
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


def test_all_views_of_a_source_are_known_to_each_other(tmp_path):
    sources = [
        TransactionSource(name=name, path=f"{name}.csv", event_id=id) for name, id in (("a", "eid"), ("b", None))
    ]
    of = {"by_user": (user, sources[0]), "by_item": (item, sources[0]), "others": (user, sources[1])}
    made = {
        name: AggregatedFeatureView(
            name=name,
            entities=[entity],
            transactions=source,
            aggregations=[aggregation("count", "amount", None, f"count_{name}")],
            source=FileSource(name=f"{name}_s", path=str(tmp_path / f"{name}.parquet"), timestamp_field="at"),
        )
        for name, (entity, source) in of.items()
    }
    services = {f"{name}_service": FeatureService(name=f"{name}_service", features=[made[name]]) for name in made}
    entities = {"user": user, "item": item}
    found = check_definitions({"__file__": str(tmp_path / "features.py"), **entities, **made, **services})
    assert {table.name: {one.name for one in table.beside} for table in found} == {
        "by_user": {"by_user", "by_item"},
        "by_item": {"by_user", "by_item"},
        "others": {"others"},
    }
    assert {table.name: table.event_id for table in found} == {"by_user": "eid", "by_item": "eid", "others": None}


def test_an_event_that_a_file_has_does_not_land_whatever_views_take_it(tmp_path):
    tables = views(tmp_path, event_id="eid")
    folder, reader = tmp_path / "transactions", EventReader(tables, "eid")
    folder.mkdir()
    names = ("eid", "user_id", "what", "amount", "timestamp", "kind")
    of_file = [("a", 1, "i", 2, NOW, "human"), ("b", 1, "i", 2, NOW, "bot"), ("a", 1, "none", 2, NOW, "bot")]
    lines = [",".join(map(str, row)) for row in [names, *of_file, ("", 1, "j", 2, NOW, "human")]]
    (folder / "old.csv").write_text("\n".join(lines))
    (folder / "without.csv").write_text("user_id,what,amount,timestamp,kind\n1,i,2,2026-01-01,bot\n")
    others = [("a", 2, "i", 2, NOW, "human"), ("a", 1, "j", 2, NOW, "human"), ("", 1, "j", 2, NOW, "human")]
    events = [json.dumps(dict(zip(names, row, strict=True)), default=str).encode() for row in of_file + others]
    found = reader.read([Raw("s/0", list(range(len(events))), events)], microseconds(NOW))
    assert not found.bad
    landing = Landing(folder, reader.keys, others=IdsOfFiles(tables, folder))
    assert landing.land(found.rows, found.until, np.ones(len(events), bool)) == len(others)
    [landed] = folder.glob("*.parquet")
    assert pq.read_table(landed)[OFFSET].to_pylist() == [3, 4, 5]
    more = "\n".join([lines[0], f"c,1,i,2,{NOW},bot"])
    (folder / "notes.md").touch()
    (folder / "more.csv").write_text(more[:-20])  # as one that is being copied
    assert list(IdsOfFiles(tables, folder)(pa.array(["c"]))) == []
    (folder / "more.csv").write_text(more)
    event = json.dumps(dict(zip(names, ("c", 1, "i", 2, NOW, "bot"), strict=True)), default=str).encode()
    found = reader.read([Raw("s/0", [9], [event])], microseconds(NOW))
    assert landing.land(found.rows, found.until, np.ones(1, bool)) == 0


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
        left_out = last[LEFT_OUT].to_numpy() if LEFT_OUT in last.column_names else np.zeros(last.num_rows, bool)
        assert (applier.apply(last, NOW).again == ~left_out).all()
