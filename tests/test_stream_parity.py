"""After every event serving gives what all events so far are worth, bit for bit, whatever happens on the way."""

import gzip
import json
import random
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
from feast.types import Float64, String

from parity import repository
from parity.compute.windows import aggregate
from parity.definition.checks import declared
from parity.definition.instants import utc_now
from parity.definition.keys import as_table, as_tuples
from parity.edge.errors import UserError
from parity.edge.files import kind_of
from parity.materialization import materialize_all
from parity.offline.side import note_marks
from parity.online.encoding import KeyEncoding, schema_of
from parity.online.side import online_store_of
from parity.proof.sides import serving_values
from parity.stream import apply
from parity.stream.apply import Applier
from parity.stream.decisions import Became
from parity.stream.seed import seed
from parity.stream.state import LEFT_OUT, read_applied
from parity.transactions.landed import ID, Landing, high_water
from parity.transactions.read import read_transactions
from tests import deployments
from tests.brute_force import MICROSECOND, Row
from tests.definition import aggregation, table, user
from tests.online import NOW, opened
from tests.streams import (
    EVERY_FUNCTION,
    HORIZON,
    LONG,
    SHORT,
    Drawn,
    Event,
    batch,
    drawn_table,
    effective,
    require_right,
)

NOTHING = Path("nothing")
"""A folder of transactions that is not there."""


class World:
    """A table, its store, and events that come."""

    def __init__(
        self, folder: Path, port: int, continuous: bool, seed: int, features: Sequence = EVERY_FUNCTION, **options
    ):
        self.folder, self.continuous = folder / "transactions", continuous
        self.table = drawn_table(folder, f"stream_{continuous}_{seed}", continuous, features)
        self.store = opened(folder, port, [self.table], **options)
        self.drawn, self.random = Drawn(seed), random.Random(seed)
        self.workers = [Applier(self.store, self.table) for _ in range(2)]
        self.applied, self.landed, self.written = 0, 0, {}
        self.landing = Landing(self.folder, [self.table.definition.keys.names])

    @property
    def now(self) -> datetime:
        return self.drawn.now

    def seed(self):
        self.written |= {event.row.key: self.now for event in self.drawn.log[: self.landed]}
        return seed(self.store, self.table, self.folder, self.now)

    def step(self, most: int = 3) -> list[Event]:
        """Some more events, and perhaps some of those before them again, through one of the workers."""
        new = [self.drawn.next() for _ in range(self.random.choice(range(1, most + 1)))]
        again = []
        if self.random.random() < 0.2:  # a crash before the offsets were kept, or a worker that begins further back
            again = self.drawn.log[max(0, self.applied - self.random.randrange(12)) : self.applied]
        self.tell()
        result = self.random.choice(self.workers).apply(batch([*again, *new], self.table), self.now)
        became = result.became.tolist()
        assert not {Became.LEFT, Became.LATE} & set(became)
        assert not {Became.APPLIED} & set(became[: len(again)])
        self.applied = len(self.drawn.log)
        self.written |= {event.row.key: self.now for event in new}
        return new

    def tell(self) -> None:
        """Let the store's clock stand where the events are."""
        now = self.now
        online_store_of(self.store).now = lambda: now

    def require_right(self, keys=None) -> None:
        """Of all keys, if none are given; of sliding windows those whose rows still know their future."""
        self.tell()
        known = [key for key, at in self.written.items() if at >= self.now - HORIZON or not self.continuous]
        keys = known if keys is None else keys
        require_right(self.store, self.table, effective(self.drawn.log).values(), keys, self.now)

    def require_right_at_edges(self, key: tuple) -> None:
        """The same at instants to come: around those at which events leave a window, up to the horizon."""
        rows = effective(self.drawn.log).values()
        leaving = [row.time + window for row in rows for window in (LONG, SHORT) if row.key == key]
        to_come = [instant for instant in leaving if self.now < instant < self.now + HORIZON - MICROSECOND]
        for instant in self.random.sample(to_come, min(2, len(to_come))):
            for at in (instant, instant + MICROSECOND):
                online_store_of(self.store).now = lambda at=at: at
                require_right(self.store, self.table, rows, [key], at)

    def land(self, to: int | None = None) -> None:
        """Land all events, or those up to a place in the log."""
        to = len(self.drawn.log) if to is None else to
        events = self.drawn.log[self.landed : to]
        until, rows, self.landed = {event.partition: event.offset for event in events}, batch(events, self.table), to
        self.landing.land(rows, until, pc.is_valid(rows[ID]).to_numpy())

    def materialize(self) -> None:
        """What compute_features.py and materialize_to_online.py do with what has landed."""
        marks = high_water(self.folder)
        history = aggregate(read_transactions(self.folder, self.table.definition), self.table.definition)
        pq.write_table(history, self.table.source.path)
        note_marks(self.table, Path(self.table.source.path), marks)
        self.tell()
        materialize_all(self.store, [self.table], None, self.now, self.now, any_share=True)


@pytest.mark.parametrize(
    ("continuous", "seed", "events"),
    [
        (False, 1, 200),
        (True, 2, 200),
        pytest.param(False, 1, 500, marks=pytest.mark.scale),
        pytest.param(False, 3, 3000, marks=pytest.mark.scale),
        pytest.param(True, 4, 2000, marks=pytest.mark.scale),
    ],
)
def test_after_every_event_serving_gives_what_all_events_are_worth(tmp_path, redis_port, continuous, seed, events):
    world = World(tmp_path, redis_port, continuous, seed)
    world.seed()
    while len(world.drawn.log) < events:
        world.require_right({event.row.key for event in world.step()})
        if continuous and world.random.random() < 0.2:
            world.require_right_at_edges(world.drawn.log[-1].row.key)
    world.land()
    world.seed()
    world.require_right()


@pytest.mark.parametrize(("seed", "rounds"), [(5, 3), pytest.param(6, 40, marks=pytest.mark.scale)])
@pytest.mark.parametrize("continuous", [False, True])
def test_batch_and_stream_never_count_an_event_twice_nor_lose_one(tmp_path, redis_port, continuous, seed, rounds):
    world = World(tmp_path, redis_port, continuous, seed)
    world.seed()
    for _ in range(rounds):
        for _ in range(world.random.choice((5, 30))):
            world.step()
        world.land(max(world.landed, len(world.drawn.log) - world.random.choice((0, 0, 3))))
        if world.landed and world.random.random() < 0.7:
            world.materialize()
            world.require_right()
            world.step()
        if world.random.random() < 0.5:
            assert world.seed().left <= len(world.drawn.log) - world.landed
        world.require_right()
        world.step()
        world.require_right()


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(
    "features",
    [
        [aggregation("count", "total", 3), aggregation("max", "sku", 3)],
        [aggregation("sum", "total", 3), aggregation("mean", "quantity", 40_000), aggregation("last", "sku")],
    ],
    ids=["with windows only", "with a window of a century"],
)
def test_what_is_declared_is_all_that_is_kept(tmp_path, redis_port, continuous, features):
    world = World(tmp_path, redis_port, continuous, 7, features)
    world.seed()
    for _ in range(40):
        world.require_right({event.row.key for event in world.step()})
    world.land()
    world.seed()
    world.require_right()


@pytest.mark.scale
@pytest.mark.parametrize("continuous", [False, True])
def test_a_cluster_takes_events_as_one_node_does(tmp_path, continuous):
    (tmp_path / "servers").mkdir()
    with deployments.cluster(tmp_path / "servers") as deployment:
        options = {"connection_string": deployment.connection_string, "redis_type": deployment.redis_type}
        world = World(tmp_path, 0, continuous, 8, **options)
        world.seed()
        for _ in range(30):
            world.require_right({event.row.key for event in world.step()})
        world.land()
        assert world.seed().keys == len(world.written)
        world.require_right()


def test_features_without_windows_take_events_in_order_and_say_which_are_late(tmp_path, redis_port):
    """Nothing is in a window, so an event is late as soon as there is a later one; the files bring it in."""
    features = [aggregation(function, "amount", None, function) for function in ("count", "mean", "count_distinct")]
    of_shop = table(tmp_path, "unwindowed", [user], features, {"amount": Float64}, ttl=None)
    store = opened(tmp_path, redis_port, [of_shop])
    seed(store, of_shop, NOTHING, NOW)
    events = [bought(-2, 0.1, 1), bought(-1, 0.2, 2), bought(-1, 0.2, 3), bought(-3, 0.6, 4), bought(0, 0.7, 5)]
    assert became(store, of_shop, *events) == [*[Became.APPLIED] * 3, Became.LATE, Became.APPLIED]
    assert served(store, of_shop) == {"count": 4, "mean": 0.3, "count_distinct": 3}
    Landing(tmp_path / "files").land(batch(events, of_shop), {"s/0": 5})
    seed(store, of_shop, tmp_path / "files", NOW)
    assert served(store, of_shop) == {"count": 5, "mean": 0.36, "count_distinct": 4}


def test_only_transactions_that_meet_the_condition_are_seeded(tmp_path, redis_port):
    features = [aggregation("count", "amount", None, "count")]
    of_shop = table(tmp_path, "paid", [user], features, {"status": String}, "status = 'paid'", ttl=None)
    store = opened(tmp_path, redis_port, [of_shop])
    columns = {
        "user_id": [1, 1, 1],
        "timestamp": [NOW] * 3,
        "amount": [1.0, 2.0, None],
        "status": ["paid", "open", "no"],
    }
    places = {"_partition": ["s/0"] * 3, "_offset": [1, 2, 3], "_id": ["a", None, "c"]}
    Landing(tmp_path / "files").land(pa.table(columns | places), {"s/0": 3})
    (tmp_path / "files" / "before.csv").write_text(f"user_id,timestamp,amount,status\n1,{NOW},1,paid\n1,{NOW},1,open\n")
    assert seed(store, of_shop, tmp_path / "files", NOW).keys == 1
    assert served(store, of_shop) == {"count": 2}
    assert became(store, of_shop, bought(0, 1.0, 1, "a"), bought(0, 1.0, 4)) == [Became.ALREADY, Became.APPLIED]


@pytest.mark.parametrize("name", ["old.txt", "old.tsv", "old.jsonl", "old.csv.gz", "old.PARQUET"])
def test_all_files_that_features_are_computed_of_are_seeded(tmp_path, redis_port, name):
    store, of_shop = shop(tmp_path, redis_port)
    file, row = tmp_path / "files" / name, {"user_id": 1, "timestamp": NOW, "amount": 2.0}
    Landing(file.parent).land(batch([bought(-1, 1.0, 1)], of_shop), {"s/0": 1})
    if kind_of(file) == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), file)
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        text = "\n".join([separator.join(row), separator.join(map(str, row.values())), ""])
        text = json.dumps(row, default=str) if name.endswith(".jsonl") else text
        file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert read_transactions(file.parent, of_shop.definition).num_rows == 2
    assert seed(store, of_shop, file.parent, NOW).keys == 1
    assert served(store, of_shop)["recent"] == 3.0


def test_a_folder_with_nothing_but_what_is_not_looked_at_has_no_transactions_yet(tmp_path, redis_port):
    store, of_shop = shop(tmp_path, redis_port)
    for name in ("files/.stream.lock", "files/.landing.tmp/new", "files/_notes/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert seed(store, of_shop, tmp_path / "files", NOW).keys == 0


def test_seeding_twice_writes_the_same_bytes_and_a_lost_redis_is_filled_from_the_files(tmp_path, redis_port):
    world = World(tmp_path, redis_port, False, 5)
    world.seed()
    for _ in range(40):
        world.step()
    world.land()
    world.seed()
    client, names = redis.Redis(port=redis_port), names_of(world)
    before = [client.hgetall(name) for name in names]
    assert world.seed().ahead == 0
    assert [client.hgetall(name) for name in names] == before
    client.delete(*filter(client.exists, names), world.workers[0]._seeded)
    key = next(event.row.key for event in world.drawn.log)
    late = Event(Row(key, world.now, world.drawn._values()), "orders/9", 1)
    found = world.workers[0].apply(batch([late], world.table), world.now)
    assert found.became.tolist() == [Became.LEFT]
    assert as_tuples(found.unseeded) == [key]
    world.seed()
    world.require_right()
    assert [client.hgetall(name) for name in names] == before


def test_a_clock_that_may_be_ahead_brings_no_value_forward(tmp_path, redis_port):
    """What leaves a window within the tolerance is in it until then."""
    world = World(tmp_path, redis_port, True, 9, future_tolerance_seconds=3600)
    world.seed()
    for _ in range(60):
        world.require_right({event.row.key for event in world.step()})
        world.require_right_at_edges(world.drawn.log[-1].row.key)
    world.land()
    world.seed()
    world.require_right()


def test_an_event_ahead_of_the_clock_is_served_at_once_and_what_leaves_a_window_before_it_leaves_with_it(
    tmp_path, redis_port
):
    features = [aggregation("sum", "amount", 3, "recent"), aggregation("count", "amount", None, "count")]
    of_shop = table(tmp_path, "ahead", [user], features, ttl=None, continuous=True)
    store = opened(tmp_path, redis_port, [of_shop], future_tolerance_seconds=3600)
    seed(store, of_shop, NOTHING, NOW)
    minute = 1 / 1440
    became(store, of_shop, bought(-3 + 10 * minute, 1.0, 1), bought(-3 + 40 * minute, 2.0, 2))
    assert served(store, of_shop) == {"recent": 3.0, "count": 2}
    became(store, of_shop, bought(20 * minute, 4.0, 3))
    for after, recent in ((0, 6.0), (20, 6.0), (41, 4.0)):
        online_store_of(store).now = lambda after=after: NOW + timedelta(minutes=after)
        assert served(store, of_shop) == {"recent": recent, "count": 3}


def names_of(world: World) -> list[bytes]:
    encoding = KeyEncoding(schema_of(world.table.view), world.store.config.project)
    return encoding.encode(as_table(world.drawn.keys, world.table.definition.keys))


def test_two_workers_on_the_same_events_at_once_change_nothing(tmp_path, redis_port):
    world = World(tmp_path, redis_port, False, 6)
    world.seed()
    events = [world.drawn.next() for _ in range(400)]
    failures = []

    def work(size: int) -> None:
        try:
            applier = Applier(world.store, world.table)
            for start in range(0, len(events), size):
                applier.apply(batch(events[max(0, start - size) : start + size], world.table), world.now)
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=work, args=(size,)) for size in (7, 16, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    world.require_right({event.row.key for event in events})
    assert set(world.workers[0].apply(batch(events, world.table), world.now).became.tolist()) <= {
        Became.ALREADY,
        Became.DUPLICATE,
        Became.CORRECTION,
    }


def test_a_materialization_seeds_the_views_that_a_stream_writes(project):
    project.prepare()
    assert "seeded" not in project.succeed("materialize_to_online.py")
    tables = declared(project.root / "feature_repo").tables
    with repository.opened(project.root / "feature_repo", tables) as store:
        [users] = {seed(store, table, project.transactions, utc_now()).keys for table in tables}
    assert f"{users} users seeded for the stream" in project.succeed("materialize_to_online.py")


# One table of two features, and events by hand


def shop_of(folder: Path, name: str = "shop", days: float = 3):
    features = [aggregation("sum", "amount", days, "recent"), aggregation("sum", "amount", None, "total")]
    features += [aggregation("first", "amount", None, "first"), aggregation("count", "amount", None, "count")]
    return table(folder, name, [user], features, ttl=None)


def shop(folder: Path, port: int, name: str = "shop", **options):
    of_shop = shop_of(folder, name)
    store = opened(folder, port, [of_shop], **options)
    seed(store, of_shop, NOTHING, NOW)
    return store, of_shop


def bought(days: float, amount: float, offset: int, id: str | None = None, key: int = 1, partition: str = "s/0"):
    return Event(Row((key,), NOW + timedelta(days=days), {"amount": amount}), partition, offset, id)


def served(store, of_shop, key: int = 1) -> dict:
    found = serving_values(store, of_shop, as_table([(key,)], of_shop.definition.keys))
    return {name: values[0] for name, values in found.items()}


def became(store, of_shop, *events: Event, now: datetime = NOW) -> list[Became]:
    found = Applier(store, of_shop).apply(batch(events, of_shop), now)
    return [Became(number) for number in found.became.tolist()]


def test_a_producers_duplicate_is_one_event_and_a_correction_takes_its_place(tmp_path, redis_port):
    shopping = shop(tmp_path, redis_port)
    first, again = bought(-2, 10.0, 1, "a"), bought(-2, 10.0, 2, "a")
    assert became(*shopping, first, again) == [Became.APPLIED, Became.DUPLICATE]
    assert served(*shopping) == {"recent": 10.0, "total": 10.0, "first": 10.0, "count": 1}
    corrected = bought(-1, 0.3, 3, "a")
    applier = Applier(*shopping)
    found = applier.apply(batch([corrected], shopping[1]), NOW)
    assert (found.became.tolist(), found.first.tolist(), found.again.tolist()) == ([Became.CORRECTION], [1], [True])
    assert served(*shopping) == {"recent": 0.3, "total": 0.3, "first": 0.3, "count": 1}


def test_what_became_of_events_is_said_again_when_they_are_delivered_again(tmp_path, redis_port):
    shopping = shop(tmp_path, redis_port)
    events = [
        bought(-2, 10.0, 1, "a"),
        bought(-2, 10.0, 2, "a"),
        bought(-1, 5.0, 3, "b"),
        bought(-1, 6.0, 4, "b"),
        bought(0, 7.0, 5),
    ]
    before = became(*shopping, *events)
    assert before == [Became.APPLIED, Became.DUPLICATE, Became.APPLIED, Became.CORRECTION, Became.APPLIED]
    once_more = [Became.ALREADY if what is Became.APPLIED else what for what in before]
    assert became(*shopping, *events) == once_more
    for start in range(len(events)):
        assert became(*shopping, *events[start:]) == once_more[start:]
    assert served(*shopping) == {"recent": 23.0, "total": 23.0, "first": 10.0, "count": 3}


def test_an_event_is_late_from_a_microsecond_beyond_the_longest_window_on(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    assert became(*shopping, bought(0, 1.0, 1)) == [Became.APPLIED]
    edge = bought(-3, 0.1, 2)
    assert became(*shopping, edge) == [Became.APPLIED]
    assert served(*shopping) == {"recent": 1.1, "total": 1.1, "first": 0.1, "count": 2}
    beyond = edge._replace(row=edge.row._replace(time=edge.row.time - MICROSECOND), offset=3)
    found = Applier(store, of_shop).apply(batch([beyond], of_shop), NOW)
    assert (found.became.tolist(), found.late.tolist()) == ([Became.LATE], [True])
    assert served(*shopping) == {"recent": 1.1, "total": 1.1, "first": 0.1, "count": 2}
    assert became(*shopping, beyond) == [Became.ALREADY]


def test_late_events_heal_when_they_have_landed_and_the_key_is_seeded(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    events = [bought(-1, 1.0, 1), bought(-20, 0.1, 2), bought(0, 2.0, 3)]
    assert became(*shopping, *events) == [Became.APPLIED, Became.LATE, Became.APPLIED]
    landing = Landing(tmp_path / "files")
    landing.land(batch(events, of_shop), {"s/0": 3})
    assert seed(store, of_shop, tmp_path / "files", NOW).keys == 1
    assert served(*shopping) == {"recent": 3.0, "total": 3.1, "first": 0.1, "count": 3}
    assert became(*shopping, *events) == [Became.ALREADY] * 3


def test_a_key_that_is_ahead_of_the_files_keeps_what_they_do_not_have(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    events = [bought(-2, 1.0, 1, "a"), bought(-30, 0.1, 2), bought(-1, 2.0, 3), bought(-2, 4.0, 4, "a")]
    became(*shopping, *events)
    Landing(tmp_path / "files").land(batch(events[:2], of_shop), {"s/0": 2})
    seeded = seed(store, of_shop, tmp_path / "files", NOW)
    assert (seeded.keys, seeded.ahead, seeded.left) == (1, 1, 0)
    assert served(*shopping) == {"recent": 6.0, "total": 6.1, "first": 0.1, "count": 3}
    assert became(*shopping, *events[2:]) == [Became.ALREADY, Became.CORRECTION]
    assert became(*shopping, bought(0, 8.0, 5)) == [Became.APPLIED]
    assert served(*shopping) == {"recent": 14.0, "total": 14.1, "first": 0.1, "count": 4}


def test_a_key_whose_events_beyond_the_files_are_no_rows_any_more_is_left_alone(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    events = [bought(-30, 1.0, 1), bought(-20, 2.0, 2), bought(-1, 4.0, 3)]
    became(*shopping, *events)
    Landing(tmp_path / "files").land(batch(events[:1], of_shop), {"s/0": 1})
    seeded = seed(store, of_shop, tmp_path / "files", NOW)
    assert (seeded.keys, seeded.left) == (0, 1)
    assert served(*shopping) == {"recent": 4.0, "total": 7.0, "first": 1.0, "count": 3}


def test_a_correction_that_would_need_rows_that_are_gone_is_late(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    events = [bought(-20, 1.0, 1), bought(-1, 2.0, 2, "a")]
    became(*shopping, *events)
    moved = bought(-3.5, 4.0, 3, "a")
    found = Applier(store, of_shop).apply(batch([moved], of_shop), NOW)
    assert (found.became.tolist(), found.late.tolist()) == ([Became.CORRECTION], [True])
    assert served(*shopping) == {"recent": 2.0, "total": 3.0, "first": 1.0, "count": 2}
    again = Applier(store, of_shop).apply(batch([bought(-1, 8.0, 4, "a")], of_shop), NOW)
    assert (again.became.tolist(), again.first.tolist(), again.late.tolist()) == ([Became.CORRECTION], [2], [False])
    assert served(*shopping) == {"recent": 8.0, "total": 9.0, "first": 1.0, "count": 2}


def test_how_events_are_cut_into_batches_does_not_matter(tmp_path, redis_port):
    events = [
        bought(-1, 1.0, 1, "a"),
        bought(-5, 2.0, 2, "b"),
        bought(-2, 4.0, 3),
        bought(0, 8.0, 4),
        bought(-2, 3.0, 5, "a"),
    ]
    events += [bought(-3.5, 1.5, 6), bought(-2, 1.0, 7, "a")]
    at_once, by_one = shop(tmp_path, redis_port, "at_once"), shop(tmp_path, redis_port, "by_one")
    whole = became(*at_once, *events)
    assert whole == [what for event in events for what in became(*by_one, event)]
    assert Became.LATE in whole
    assert served(*at_once) == served(*by_one)


def changed(event: Event, offset: int, days: float | None = None, amount: float | None = None) -> Event:
    """A correction of an event."""
    row = event.row
    row = row._replace(time=row.time if days is None else NOW + timedelta(days=days))
    return Event(
        row._replace(values=row.values if amount is None else {"amount": amount}), event.partition, offset, event.id
    )


def applied(store, of_shop, event: Event, left_out: bool = False) -> tuple[int, bool]:
    rows = batch([event], of_shop).append_column(LEFT_OUT, pa.array([left_out]))
    found = Applier(store, of_shop).apply(rows, NOW)
    return found.became[0], found.late[0]


@pytest.mark.parametrize("others", [[], [-5], [-6], [-1], [-6, -1], [-2, -2]], ids=str)
def test_a_correction_that_the_view_leaves_out_takes_its_event_out_until_one_brings_it_back(
    tmp_path, redis_port, others
):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    event = bought(-2, 8.0, 100, "a")
    for number, days in enumerate(others):
        became(*shopping, bought(days, float(2**number), number))
    rest = [float(2**number) for number in range(len(others))]
    assert became(*shopping, event) == [Became.APPLIED]
    before = served(*shopping)
    gone = changed(event, 101)
    assert applied(*shopping, gone, True) == (Became.CORRECTION, others == [-6])
    if others == [-6]:  # which only the files have by now
        assert served(*shopping) == before
        return
    if others:
        assert served(*shopping)["count"] == len(others)
        assert served(*shopping)["total"] == sum(rest)
    else:
        assert served(*shopping) == dict.fromkeys(before)
    for one, is_out, what in ((gone, True, Became.CORRECTION), (event, False, Became.ALREADY)):
        assert applied(*shopping, one, is_out)[0] == what  # delivered again
    files = tmp_path / "files"
    Landing(files).land(batch([*(bought(d, rest[n], n) for n, d in enumerate(others)), event], of_shop), {"s/0": 100})
    assert seed(store, of_shop, files, NOW).ahead == 1
    assert served(*shopping)["count"] == (len(others) or None)
    assert applied(*shopping, changed(event, 102), True)[0] == Became.DUPLICATE
    assert applied(*shopping, changed(event, 103, amount=16.0)) == (Became.CORRECTION, False)
    assert served(*shopping)["total"] == sum(rest) + 16.0
    seed(store, of_shop, files, NOW)
    assert served(*shopping)["total"] == sum(rest) + 16.0
    assert served(*shopping)["count"] == len(others) + 1


def test_an_event_that_the_view_leaves_out_and_of_which_it_has_none_changes_nothing(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    assert applied(*shopping, bought(-1, 1.0, 1, "a"), True) == (Became.PASSED, False)
    assert Applier(store, of_shop).read(names_in(store, of_shop)) == [[None, None, None]]
    assert applied(*shopping, bought(-1, 2.0, 2, "a")) == (Became.APPLIED, False)
    assert served(*shopping)["total"] == 2.0


def names_in(store, of_shop) -> list[bytes]:
    return Applier(store, of_shop).encoding.encode(as_table([(1,)], of_shop.definition.keys))


@pytest.mark.parametrize("days", [-1, -3.5, -40, 0.0005, 5])
@pytest.mark.parametrize("others", [[], [-1], [-4, -1.5]], ids=str)
def test_a_correction_to_another_time_is_served_at_once(tmp_path, redis_port, days, others):
    """Late or ahead of the clock, as all rows that there ever were are there, or are enough."""
    store, of_shop = shopping = shop(tmp_path, redis_port, future_tolerance_seconds=60)
    rows = [bought(days, float(2**number), number) for number, days in enumerate(others)]
    event = bought(-2, 8.0, 100, "a")
    became(*shopping, *rows, event)
    became_late = applied(*shopping, moved := changed(event, 101, days))
    assert became_late[0] == Became.CORRECTION
    Landing(tmp_path / "files").land(batch([*rows, moved], of_shop), {"s/0": 101})
    seen = served(*shopping)
    seed(store, of_shop, tmp_path / "files", NOW)
    assert became_late[1] or served(*shopping) == seen
    assert not became_late[1] or days < -3 < min(others, default=0) or others == [-4, -1.5]


def test_events_ahead_of_the_clock_wait_in_the_state_until_they_are_due(tmp_path, redis_port):
    store, _ = shopping = shop(tmp_path, redis_port, future_tolerance_seconds=60)
    soon, later = timedelta(seconds=60) / timedelta(days=1), timedelta(seconds=61) / timedelta(days=1)
    became(*shopping, bought(-1, 1.0, 1), bought(soon, 2.0, 2), bought(later, 4.0, 3))
    assert served(*shopping) == {"recent": 3.0, "total": 3.0, "first": 1.0, "count": 2}
    became(*shopping, bought(-1, 8.0, 4), now=NOW + timedelta(seconds=1))
    online_store_of(store).now = lambda: NOW + timedelta(seconds=1)
    assert served(*shopping) == {"recent": 15.0, "total": 15.0, "first": 1.0, "count": 4}


def test_a_row_without_a_state_is_seeded_from_the_files_before_it_is_written(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    (tmp_path / "transactions.csv").write_text(f"user_id,timestamp,amount\n1,{NOW - timedelta(days=9)},0.1\n")
    history = aggregate(read_transactions(tmp_path / "transactions.csv", of_shop.definition), of_shop.definition)
    pq.write_table(history, of_shop.source.path)
    materialize_all(store, [of_shop], None, NOW, NOW)
    event, other = bought(0, 0.2, 1), bought(0, 5.0, 2, key=2)
    applier = Applier(store, of_shop)
    found = applier.apply(batch([event, other], of_shop), NOW)
    assert (found.became.tolist(), as_tuples(found.unseeded)) == ([Became.LEFT, Became.APPLIED], [(1,)])
    assert served(*shopping)["total"] == 0.1
    seed(store, of_shop, tmp_path / "transactions.csv", NOW, keys=found.unseeded)
    assert became(*shopping, event, other) == [Became.APPLIED, Became.ALREADY]
    assert served(*shopping) == {"recent": 0.2, "total": 0.3, "first": 0.1, "count": 2}


@pytest.mark.parametrize("field", ["state", "applied"])
def test_what_is_stored_and_not_readable_is_seeded_anew(tmp_path, redis_port, field):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    became(*shopping, bought(-20, 1.0, 1), bought(-1, 2.0, 2))
    Landing(tmp_path / "files").land(batch([bought(-20, 1.0, 1), bought(-1, 2.0, 2)], of_shop), {"s/0": 2})
    applier = Applier(store, of_shop)
    [name] = applier.encoding.encode(as_table([(1,)], of_shop.definition.keys))
    redis.Redis(port=redis_port).hset(name, getattr(applier.fields, field), b"\x01garbage\xff")
    found = applier.apply(batch([bought(0, 4.0, 3)], of_shop), NOW)
    assert as_tuples(found.unseeded) == [(1,)]
    seed(store, of_shop, tmp_path / "files", NOW, keys=found.unseeded)
    assert became(*shopping, bought(0, 4.0, 3)) == [Became.APPLIED]
    assert served(*shopping) == {"recent": 6.0, "total": 7.0, "first": 1.0, "count": 3}


def test_a_partition_has_a_name_without_blanks(tmp_path, redis_port):
    shopping = shop(tmp_path, redis_port)
    for name in ("", "a b", "a\n"):
        with pytest.raises(ValueError, match="the name of a partition"):
            became(*shopping, bought(0, 1.0, 1, partition=name))


def test_a_worker_with_another_definition_changes_nothing(tmp_path, redis_port):
    store, _ = shopping = shop(tmp_path, redis_port)
    became(*shopping, bought(-1, 1.0, 1))
    other = shop_of(tmp_path, days=4)
    found = Applier(store, other).apply(batch([bought(0, 2.0, 2), bought(0, 2.0, 3, key=9)], other), NOW)
    assert set(found.became.tolist()) == {Became.LEFT}
    assert sorted(as_tuples(found.fenced)) == [(1,), (9,)]
    some = seed(store, other, NOTHING, NOW, keys=found.fenced)
    assert some.left == 1
    assert served(*shopping) == {"recent": 1.0, "total": 1.0, "first": 1.0, "count": 1}


@pytest.mark.parametrize("field", ["state", "applied"])
def test_a_worker_with_another_definition_leaves_a_row_alone_of_which_a_stream_knows_nothing(
    tmp_path, redis_port, field
):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    became(*shopping, bought(-1, 1.0, 1))
    applier, other = Applier(store, of_shop), shop_of(tmp_path, days=4)
    [name] = applier.encoding.encode(as_table([(1,)], of_shop.definition.keys))
    redis.Redis(port=redis_port).hdel(name, getattr(applier.fields, field))
    found = Applier(store, other).apply(batch([bought(0, 2.0, 2)], other), NOW)
    assert (as_tuples(found.fenced), found.unseeded.num_rows) == ([(1,)], 0)
    assert as_tuples(applier.apply(batch([bought(0, 2.0, 2)], of_shop), NOW).unseeded) == [(1,)]


def test_a_key_that_holds_something_else_is_left_alone_and_named(tmp_path, redis_port):
    store, of_shop = shop(tmp_path, redis_port)
    applier = Applier(store, of_shop)
    [name] = applier.encoding.encode(as_table([(1,)], of_shop.definition.keys))
    client = redis.Redis(port=redis_port)
    client.set(name, "something else")
    found = applier.apply(batch([bought(0, 1.0, 1), bought(0, 2.0, 2, key=2)], of_shop), NOW)
    assert (found.became.tolist(), as_tuples(found.foreign)) == ([Became.LEFT, Became.APPLIED], [(1,)])
    assert client.get(name) == b"something else"
    assert seed(store, of_shop, NOTHING, NOW, keys=found.foreign).foreign == 1


def test_an_event_that_no_type_holds_is_left_with_its_reason_and_stops_nothing(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    became(*shopping, bought(-1, 1e308, 1))
    events = [bought(0, 1e308, 2), bought(0, 3.0, 3, key=2)]
    found = Applier(store, of_shop).apply(batch(events, of_shop), NOW)
    assert (found.became.tolist(), as_tuples(found.beyond)) == ([Became.LEFT, Became.APPLIED], [(1,)])
    assert "the sum of amount is beyond what a float64 holds" in found.reasons[0]
    assert served(*shopping)["recent"] == 1e308
    assert served(*shopping, key=2)["recent"] == 3.0
    assert became(*shopping, bought(0, 0.5, 4)) == [Became.APPLIED]


def test_keys_live_as_long_as_the_store_says_and_what_expired_is_not_taken_for_new(tmp_path, redis_port):
    store, of_shop = shop(tmp_path, redis_port, key_ttl_seconds=1000)
    applier, client = Applier(store, of_shop), redis.Redis(port=redis_port)
    [name] = applier.encoding.encode(as_table([(1,)], of_shop.definition.keys))
    found = applier.apply(batch([bought(-9, 1.0, 1)], of_shop), NOW)
    assert as_tuples(found.unseeded) == [(1,)]
    seed(store, of_shop, NOTHING, NOW, keys=found.unseeded)
    assert became(store, of_shop, bought(-9, 1.0, 1)) == [Became.APPLIED]
    assert 990 < client.ttl(name) <= 1000
    Landing(tmp_path / "files").land(batch([bought(-9, 1.0, 1)], of_shop), {"s/0": 1})
    client.delete(name)  # as time does
    found = applier.apply(batch([bought(0, 2.0, 2)], of_shop), NOW)
    seed(store, of_shop, tmp_path / "files", NOW, keys=found.unseeded)
    assert became(store, of_shop, bought(0, 2.0, 2)) == [Became.APPLIED]
    assert served(store, of_shop) == {"recent": 2.0, "total": 3.0, "first": 1.0, "count": 2}


def test_who_never_gets_to_write_says_so(tmp_path, redis_port, monkeypatch):
    store, of_shop = shop(tmp_path, redis_port)
    monkeypatch.setattr(apply, "ATTEMPTS", 3)
    monkeypatch.setattr(apply, "LONGEST_REST", 0)
    applier, rival = Applier(store, of_shop), Applier(store, of_shop)
    offsets, write = iter(range(1, 100)), applier.write

    def slow(*arguments, **options):
        rival.apply(batch([bought(0, 1.0, next(offsets), partition="s/7")], of_shop), NOW)
        return write(*arguments, **options)

    monkeypatch.setattr(applier, "write", slow)
    with pytest.raises(UserError, match="other workers have written 1 user 3 times"):
        applier.apply(batch([bought(0, 5.0, 1)], of_shop), NOW)
    assert served(store, of_shop)["total"] == 3.0


def test_an_entity_may_come_from_several_partitions(tmp_path, redis_port):
    store, of_shop = shopping = shop(tmp_path, redis_port)
    events = [bought(-1, float(2**i), 10 - i, partition=f"s/{i}") for i in range(5)]
    assert became(*shopping, *events) == [Became.APPLIED] * 5
    assert became(*shopping, *events[::-1]) == [Became.ALREADY] * 5
    assert served(*shopping)["total"] == 31.0
    applier = Applier(store, of_shop)
    [[_, _, applied]] = applier.read(applier.encoding.encode(as_table([(1,)], of_shop.definition.keys)))
    assert read_applied(applied) == (of_shop.definition.fingerprint[:16], {f"s/{i}": 10 - i for i in range(5)})
