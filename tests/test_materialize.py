"""materialize_to_online.py: whatever happened before, afterwards the online store is in step."""

from datetime import UTC, datetime, timedelta

import pytest
import yaml
from feast import Entity, FeatureStore, ValueType
from feast.feature_view import FeatureViewState
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from parity.definition.checks import FeatureTable, declared
from parity.definition.keys import as_table, as_tuples
from parity.edge.errors import UserError
from parity.materialization import Materialized, materialize, materialize_all, repair
from parity.online.encoding import redis_key
from parity.online.scanning import Leftovers
from parity.online.side import online_store_of, redis_keys, stored_events
from parity.proof.sides import serving_values
from tests.definition import aggregation, customers_in_stores
from tests.definition import table as table_of
from tests.online import opened, require_in_step, write_history

NOW = datetime.now(UTC).replace(microsecond=0)
VIEW = "user_purchase_features"


def hours_ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def purchase(user: int, hours: float, amount: float) -> str:
    return f"{user},100,{hours_ago(hours).isoformat()},{amount}"


def open_store(project) -> tuple[FeatureStore, FeatureTable]:
    repository = project.root / "feature_repo"
    [table] = declared(repository)
    return FeatureStore(repo_path=str(repository)), table


def events(store: FeatureStore, table: FeatureTable) -> dict[tuple, datetime]:
    """Which keys are in Redis, and with which event."""
    stored = stored_events(store, table, Leftovers())
    instants = [event.replace(tzinfo=UTC) for event in stored.events.tolist()]
    return dict(zip(as_tuples(stored.keys), instants, strict=True))


def online(project) -> dict[int, datetime]:
    """Who is in Redis, and with which event."""
    return {user: event for (user,), event in events(*open_store(project)).items()}


def compute(project, *purchases: str) -> None:
    project.write_transactions(*purchases)
    project.succeed("compute_features.py")


def bring_in_step(project) -> str:
    """Materialize; training and serving have to be equal then."""
    out = project.succeed("materialize_to_online.py")
    require_in_step(*open_store(project), datetime.now(UTC))
    return out


@pytest.fixture
def materialized(project):
    """Three users online: 1 with two purchases, 2 and 3 with one each."""
    project.apply()
    compute(project, purchase(1, 30, 10), purchase(1, 20, 20), purchase(2, 20, 30), purchase(3, 20, 40))
    assert bring_in_step(project).startswith("3 users in Redis")
    return project


@pytest.mark.smoke
def test_a_correction_of_an_amount_arrives(materialized):
    compute(materialized, purchase(1, 30, 10), purchase(1, 20, 21), purchase(2, 20, 30), purchase(3, 20, 40))
    bring_in_step(materialized)


@pytest.mark.parametrize("nanoseconds", [1, 999])
def test_a_stored_instant_that_is_finer_than_a_microsecond_is_mended(materialized, nanoseconds):
    for key, event in stored_events(*open_store(materialized)).found:
        finer = Timestamp.FromString(event)
        finer.nanos += nanoseconds
        materialized.client.hset(key, f"_ts:{VIEW}", finer.SerializeToString())
    compute(materialized, purchase(1, 30, 10), purchase(1, 20, 21), purchase(2, 20, 30))
    assert bring_in_step(materialized).startswith("2 users in Redis")


@pytest.mark.parametrize("event", [b"\xff", b"", b"\x18\x01"])
def test_a_row_whose_instant_can_not_be_read_is_mended_or_taken_out(materialized, event):
    for key in materialized.client.scan_iter(
        b"*" + FeatureStore(str(materialized.root / "feature_repo")).project.encode()
    ):
        materialized.client.hset(key, f"_ts:{VIEW}", event)
    compute(materialized, purchase(1, 30, 10), purchase(2, 20, 30))
    assert bring_in_step(materialized).startswith("2 users in Redis")


def test_a_late_purchase_arrives(materialized):
    compute(
        materialized,
        *[purchase(1, 30, 10), purchase(1, 25, 99), purchase(1, 20, 20), purchase(2, 20, 30), purchase(3, 20, 40)],
    )
    bring_in_step(materialized)


def test_a_retracted_latest_purchase_gives_way_to_the_one_before(materialized):
    compute(materialized, purchase(1, 30, 10), purchase(2, 20, 30), purchase(3, 20, 40))
    bring_in_step(materialized)
    assert online(materialized)[1] == hours_ago(30)


def test_a_user_who_is_gone_offline_is_gone_online(materialized):
    compute(materialized, purchase(2, 20, 30), purchase(3, 20, 40))
    assert bring_in_step(materialized).startswith("2 users in Redis")
    assert set(online(materialized)) == {2, 3}


def test_a_redis_that_came_back_empty_is_filled(materialized):
    name = FeatureStore(repo_path=str(materialized.root / "feature_repo")).project.encode()
    materialized.client.delete(*materialized.client.scan_iter(b"*" + name))
    assert bring_in_step(materialized).startswith("3 users in Redis")


def test_with_a_start_only_newer_events_are_brought_and_nothing_is_taken_out(materialized):
    compute(materialized, purchase(1, 1, 50), purchase(2, 40, 1))
    out = materialized.succeed("materialize_to_online.py", "--start", hours_ago(2).isoformat())
    assert out.startswith("3 users in Redis")
    assert online(materialized) == {1: hours_ago(1), 2: hours_ago(20), 3: hours_ago(20)}


def test_an_end_in_the_past_leaves_out_what_came_after(project):
    project.apply()
    compute(project, purchase(1, 30, 10), purchase(1, 20, 20), purchase(2, 10, 30))
    project.succeed("materialize_to_online.py", "--end", hours_ago(20).isoformat())
    assert online(project) == {1: hours_ago(20)}


def test_an_end_in_the_past_takes_out_nothing_newer(materialized):
    materialized.succeed("materialize_to_online.py", "--end", hours_ago(25).isoformat())
    assert online(materialized) == {1: hours_ago(20), 2: hours_ago(20), 3: hours_ago(20)}


def test_a_purchase_in_the_future_is_kept_offline_and_left_out_online(project):
    project.apply()
    compute(project, purchase(1, 1, 10), purchase(1, -100, 20), purchase(2, -100, 20))
    assert bring_in_step(project).startswith("1 user in Redis")
    assert online(project) == {1: hours_ago(1)}


def test_a_user_whose_last_purchase_is_older_than_the_ttl_is_null_on_both_sides(project):
    project.apply()
    compute(project, purchase(1, 1, 10), purchase(2, 24 * 30 + 1, 20))
    bring_in_step(project)
    store, table = open_store(project)
    served = serving_values(store, table, as_table([(1,), (2,)], table.definition.keys))
    assert [(one is None, two is None) for one, two in served.values()] == [(False, True)] * 2


@pytest.mark.parametrize("end", [timedelta(minutes=5), timedelta(days=400)])
def test_an_end_in_the_future_is_refused(materialized, end):
    before = online(materialized)
    error = materialized.fail("materialize_to_online.py", "--end", (datetime.now(UTC) + end).isoformat())
    assert "in the future" in error
    assert online(materialized) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--end", hours_ago(1000).isoformat()], "has no rows up to"),
        (["--start", hours_ago(2).isoformat()], "has no rows from"),
        (["--start", hours_ago(1).isoformat(), "--end", hours_ago(2).isoformat()], "lies after the end"),
    ],
)
def test_an_interval_without_rows_is_an_error_and_changes_nothing(materialized, arguments, message):
    before = online(materialized)
    assert message in materialized.fail("materialize_to_online.py", *arguments)
    assert online(materialized) == before


def test_an_interval_that_is_no_instant_is_refused(project):
    outcome = project.run("materialize_to_online.py", "--end", "today")
    assert outcome.status == 2
    assert "invalid instant value" in outcome.err


def test_start_and_end_without_an_offset_are_utc_whatever_the_machines_zone(materialized, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    naive = hours_ago(25).replace(tzinfo=None).isoformat()
    out = materialized.succeed("materialize_to_online.py", "--end", naive)
    assert hours_ago(25).isoformat() in out


def test_a_host_whose_clock_is_behind_takes_out_nothing(project, monkeypatch):
    project.apply()
    compute(project, *[purchase(user, 1, 10) for user in (1, 2, 3)], purchase(4, 10, 20), purchase(5, 10, 20))
    bring_in_step(project)
    before = online(project)
    monkeypatch.setattr("parity.definition.instants.utc_now", lambda: hours_ago(5))
    error = project.fail("materialize_to_online.py")
    assert "3 of 5 rows online would be removed, 3 of them from after" in error
    assert "--retract" in error
    assert online(project) == before
    project.succeed("materialize_to_online.py", "--retract")
    assert set(online(project)) == {4, 5}


def test_what_is_taken_out_is_counted(materialized):
    compute(materialized, purchase(1, 30, 10), purchase(2, 20, 30), purchase(3, 20, 40))
    assert "1 rows removed that the features no longer have" in bring_in_step(materialized)


def test_of_many_rows_a_sample_is_looked_at_first(project):
    users = range(1, 2_001)
    project.apply()
    compute(project, *[purchase(user, 20, user) for user in users])
    bring_in_step(project)
    compute(project, *[purchase(user, 20, user) for user in users if user > 1_200])
    assert "1,200 of 2,000 rows online would be removed" in project.fail("materialize_to_online.py")
    compute(project, *[purchase(user, 20, user) for user in users if user > 800])
    assert "800 rows removed" in bring_in_step(project)


def test_fields_of_a_feature_that_was_renamed_leave_redis(materialized):
    features = materialized.root / "feature_repo" / "features.py"
    project = FeatureStore(repo_path=str(materialized.root / "feature_repo")).project.encode()
    keys = list(materialized.client.scan_iter(b"*" + project))
    before = {key: set(materialized.client.hkeys(key)) for key in keys}
    features.write_text(features.read_text().replace("user_total_transactions", "user_purchase_count"))
    materialized.apply()
    materialized.succeed("compute_features.py")
    bring_in_step(materialized)
    for key in keys:
        fields = set(materialized.client.hkeys(key))
        assert len(fields) == len(before[key])
        assert len(fields - before[key]) == 1


def test_a_materialization_that_was_killed_changes_nothing_for_training_and_serving(materialized):
    """Feast leaves its view in the state MATERIALIZING then, and in GENERATED if the next run fails."""
    for state in (FeatureViewState.MATERIALIZING, FeatureViewState.GENERATED):
        config = yaml.safe_load((materialized.root / "feature_repo" / "feature_store.yaml").read_text())
        path = (materialized.root / "feature_repo" / config["registry"]["path"]).resolve()
        registry = Registry.FromString(path.read_bytes())
        for view in registry.feature_views:
            view.meta.state = state.to_proto()
        path.write_bytes(registry.SerializeToString())
        require_in_step(*open_store(materialized), datetime.now(UTC))
        bring_in_step(materialized)


SECOND = timedelta(seconds=1)
KEYS = {
    "INT32": [(1,), (-2,), (3,), (4,)],
    "INT64": [(1,), (-2,), (2**63 - 1,), (4,)],
    "STRING": [("0042",), ("42",), ("ü",), ("a b",)],
    "BYTES": [(b"a",), (b"\xff",), (b"",), (b"d",)],
    "UNIX_TIMESTAMP": [(NOW - SECOND * number,) for number in range(4)],
    "several": [("0042", 1), ("0042", 2), ("42", 1), ("", -1)],
}


class Shop:
    """A table with keys of one kind, online and offline."""

    def __init__(self, folder, port: int, kind: str):
        self.keys = KEYS[kind]
        if kind == "several":
            self.table = customers_in_stores(folder)
        else:
            entity = Entity(name="thing", join_keys=["id"], value_type=ValueType[kind])
            features = [aggregation("sum", "x"), aggregation("std", "x", 3), aggregation("count", "x")]
            self.table = table_of(folder, "things", [entity], features)
        self.store = opened(folder, port, [self.table], now=NOW)

    def write(self, *rows: tuple[int, float]) -> None:
        """Write the offline table: rows of (the number of a key, hours ago)."""
        values = [
            (*self.keys[key], hours_ago(hours), *(self._value(rule, hours) for rule in self.table.definition.rules))
            for key, hours in rows
        ]
        write_history(self.table, *values)

    @staticmethod
    def _value(rule, hours: float) -> float | int | None:
        return None if rule.nullable and hours % 2 else rule.type.to_pandas_dtype()(hours)

    def materialize(self, **options) -> Materialized:
        done = materialize(self.store, self.table, None, NOW, NOW, **options)
        require_in_step(self.store, self.table, NOW)
        return done

    def events(self) -> dict[int, float]:
        """Hours ago, by the numbers of keys."""
        found = events(self.store, self.table)
        return {self.keys.index(key): (NOW - event) / timedelta(hours=1) for key, event in found.items()}


class TestKeysOfAnyType:
    @pytest.fixture(params=KEYS)
    def shop(self, request, tmp_path, redis_port):
        shop = Shop(tmp_path, redis_port, request.param)
        shop.write((0, 30), (0, 20), (1, 20), (2, 20), (3, 20))
        assert shop.materialize() == Materialized(4, 0)
        return shop

    def test_a_late_row_a_row_taken_back_and_a_key_that_is_gone(self, shop):
        shop.write((0, 30), (1, 20), (1, 19), (3, 20))
        assert shop.materialize() == Materialized(3, 2)
        assert shop.events() == {0: 30, 1: 19, 3: 20}

    def test_a_repair_touches_the_keys_that_it_is_given(self, shop):
        shop.write((0, 30), (1, 20), (1, 19), (3, 20))
        some = as_table([shop.keys[0], shop.keys[1]], shop.table.definition.keys)
        repair(shop.store, shop.table, some, NOW, NOW)
        assert shop.events() == {0: 30, 1: 19, 2: 20, 3: 20}
        gone = as_table([shop.keys[2]], shop.table.definition.keys)
        repair(shop.store, shop.table, gone, NOW, NOW)
        assert shop.events() == {0: 30, 1: 19, 3: 20}
        require_in_step(shop.store, shop.table, NOW)

    def test_a_row_under_a_key_of_another_type_is_taken_out_and_counted(self, shop):
        names = shop.table.definition.keys.names
        client = online_store_of(shop.store)._get_client(shop.store.config.online_store)
        strange = redis_key(
            shop.store.project, EntityKey(join_keys=names, entity_values=[Value(bool_val=True) for _ in names])
        )
        event = Timestamp(seconds=int(hours_ago(1).timestamp())).SerializeToString()
        everything = as_table(shop.keys, shop.table.definition.keys)
        for act in (shop.materialize, lambda: repair(shop.store, shop.table, everything, NOW, NOW)):
            client.hset(strange, f"_ts:{shop.table.name}", event)
            assert stored_events(shop.store, shop.table).others.count == 1
            assert act() in (Materialized(4, 1), None)
            assert not client.exists(strange)
            assert len(shop.events()) == 4


def test_a_type_that_has_changed_leaves_nothing_behind(tmp_path, redis_port):
    """int64 ids that have become text: with --retract, as all the rows online are of another type."""
    project = f"changed_{abs(hash(str(tmp_path)))}"
    for type, ids in (("INT64", [7, 8]), ("STRING", ["07", "08"])):
        entity = Entity(name="thing", join_keys=["id"], value_type=ValueType[type])
        table = table_of(tmp_path, "things", [entity], [aggregation("count", "x")])
        store = opened(tmp_path, redis_port, [table], project=project, now=NOW)
        write_history(table, *((one, hours_ago(2), 1) for one in ids))
        if type == "STRING":
            with pytest.raises(UserError, match="2 of 2 rows online would be removed"):
                materialize(store, table, None, NOW, NOW)
        assert materialize(store, table, None, NOW, NOW, any_share=True) == Materialized(2, 2 * (type == "STRING"))
    assert set(events(store, table)) == {("07",), ("08",)}
    assert stored_events(store, table).others.count == 0


def test_a_key_with_a_fraction_of_a_second_is_refused(tmp_path, redis_port):
    shop = Shop(tmp_path, redis_port, "UNIX_TIMESTAMP")
    shop.keys = [(NOW - timedelta(milliseconds=1),)]
    shop.write((0, 1))
    with pytest.raises(UserError, match="fraction of a second"):
        materialize(shop.store, shop.table, None, NOW, NOW)


class TestForeignKeys:
    """Keys of this project that hold something else than a row."""

    @pytest.fixture(params=["STRING", "several"])
    def shop(self, request, tmp_path, redis_port):
        shop = Shop(tmp_path, redis_port, request.param)
        shop.write((0, 20), (1, 20), (2, 20), (3, 20))
        shop.materialize()
        return shop

    def spoil(self, shop, number: int) -> bytes:
        client = online_store_of(shop.store)._get_client(shop.store.config.online_store)
        [key] = redis_keys(shop.store, shop.table, as_table([shop.keys[number]], shop.table.definition.keys))
        client.delete(key)
        client.rpush(key, "something")
        return key

    def test_one_of_a_key_that_is_gone_is_named_and_all_else_is_done(self, shop):
        self.spoil(shop, 3)
        shop.write((0, 19), (1, 20))
        with pytest.raises(UserError, match=f"{shop.keys[3][0]}.*is not a hash.*Delete that key"):
            materialize(shop.store, shop.table, None, NOW, NOW)
        assert shop.events() == {0: 19, 1: 20}

    def test_one_of_a_key_that_is_there_is_named_and_all_others_are_written(self, shop):
        key = self.spoil(shop, 3)
        shop.write((0, 19), (1, 20), (2, 20), (3, 20))
        with pytest.raises(Exception, match="WRONGTYPE") as error:
            materialize(shop.store, shop.table, None, NOW, NOW)
        assert repr(key) in str(error.value)
        assert shop.events()[0] == 19


class TestSeveralTables:
    """Two views of one entity, in one hash of Redis, and one of several keys."""

    @pytest.fixture
    def tables(self, tmp_path):
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
        one, two = (
            table_of(tmp_path, name, [user], [aggregation("count", "x", name=f"{name}_count")])
            for name in ("visits", "orders")
        )
        return [one, two, customers_in_stores(tmp_path)]

    @pytest.fixture
    def store(self, tables, tmp_path, redis_port):
        store = opened(tmp_path, redis_port, tables, now=NOW)
        for table in tables[:2]:
            write_history(table, *((user, hours_ago(20), 1) for user in "abcd"))
        write_history(tables[2], ("a", 1, hours_ago(20), 1.5, None, 1, 2))
        done = materialize_all(store, tables, None, NOW, NOW)
        assert done == [Materialized(4, 0), Materialized(4, 0), Materialized(1, 0)]
        return store

    def test_what_is_taken_out_of_one_view_stays_in_the_other(self, store, tables):
        write_history(tables[0], ("a", hours_ago(30), 2), ("b", hours_ago(20), 1), ("c", hours_ago(20), 1))
        assert materialize_all(store, tables, None, NOW, NOW) == [
            Materialized(3, 2),
            Materialized(4, 0),
            Materialized(1, 0),
        ]
        for table in tables:
            require_in_step(store, table, NOW)
        assert set(events(store, tables[1])) == {("a",), ("b",), ("c",), ("d",)}

    def test_one_view_of_which_too_much_would_be_taken_out_keeps_all_as_they_are(self, store, tables):
        write_history(tables[0], ("e", hours_ago(1), 9))
        write_history(tables[1], ("a", hours_ago(20), 1))
        with pytest.raises(UserError, match="3 of 4 rows online would be removed, as orders"):
            materialize_all(store, [tables[1], tables[0]], None, NOW, NOW)
        with pytest.raises(UserError, match="rows online would be removed, as orders"):
            materialize_all(store, [tables[2], tables[1]], None, NOW, NOW)
        assert set(events(store, tables[0])) == set(events(store, tables[1])) == {("a",), ("b",), ("c",), ("d",)}
        assert materialize_all(store, tables, None, NOW, NOW, any_share=True)[:2] == [
            Materialized(1, 4),
            Materialized(1, 3),
        ]

    def test_one_view_without_rows_keeps_all_as_they_are(self, store, tables):
        write_history(tables[0], *((user, hours_ago(1), 9) for user in "abcd"))
        write_history(tables[2], ("a", 1, hours_ago(-5), 1.5, None, 1, 2))
        with pytest.raises(UserError, match="customers_in_stores has no rows up to"):
            materialize_all(store, tables, None, NOW, NOW)
        assert set(events(store, tables[0]).values()) == {hours_ago(20)}

    def test_their_progress_is_shown_as_one(self, store, tables, monkeypatch):
        bars = []

        class Bar:
            def __init__(self, what, total, unit):
                self.total, self.done = total, 0
                bars.append(self)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def update(self, count):
                self.done += count

        monkeypatch.setattr("parity.online.engine.progress", Bar)
        materialize_all(store, tables, None, NOW, NOW)
        assert [(bar.total, bar.done) for bar in bars] == [(9, 9)]


class TestNouns:
    @pytest.mark.parametrize(
        ("names", "one", "many"),
        [
            (["user"], "user", "users"),
            (["user_account"], "user account", "user accounts"),
            (["city"], "city", "cities"),
            (["box"], "box", "boxes"),
            (["customer", "store"], "pair of customer and store", "pairs of customer and store"),
            (["a", "b", "c"], "combination of a, b and c", "combinations of a, b and c"),
        ],
    )
    def test_keys_are_called_by_their_entities(self, tmp_path, names, one, many):
        entities = [Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64) for name in names]
        table = table_of(tmp_path, "things", entities, [aggregation("count", "x")])
        assert (table.noun(1), table.noun(20)) == (one, many)


THREE = """
from datetime import timedelta
from feast import Entity, FeatureService, ValueType
from feast.aggregation import Aggregation
from parity import AggregatedFeatureView, TransactionSource, check_definitions

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
store = Entity(name="store", join_keys=["store_id"], value_type=ValueType.INT64)
orders = TransactionSource(name="orders", path="../orders.csv")

def view(name, *entities):
    count = Aggregation(name=f"{name}_count", function="count", column="total")
    return AggregatedFeatureView(name=name, entities=entities, transactions=orders, aggregations=[count])

customers, stores, pairs = view("customers", customer), view("stores", store), view("pairs", customer, store)
by_customer = FeatureService(name="by_customer", features=[customers, pairs])
by_store = FeatureService(name="by_store", features=[stores])
check_definitions(globals())
"""


class TestCommand:
    @pytest.fixture
    def three(self, project):
        (project.root / "feature_repo" / "features.py").write_text(THREE)
        project.apply()
        self.tables = {table.name: table for table in declared(project.root / "feature_repo")}
        (project.root / "data").mkdir(exist_ok=True)
        write_history(self.tables["customers"], ("a", hours_ago(2), 1), ("b", hours_ago(2), 1))
        write_history(self.tables["stores"], (1, hours_ago(2), 1))
        write_history(self.tables["pairs"], *((who, 1, hours_ago(2), 1) for who in "abc"))
        return project

    def test_every_view_has_a_line(self, three):
        end = f"in Redis, materialized up to {NOW.isoformat()}"
        assert three.succeed("materialize_to_online.py", "--end", NOW.isoformat()).splitlines() == [
            f"customers: 2 customers {end}",
            f"stores: 1 store {end}",
            f"pairs: 3 pairs of customer and store {end}",
        ]
        write_history(self.tables["pairs"], *((who, 1, hours_ago(2), 1) for who in "ab"))
        out = three.succeed("materialize_to_online.py", "--end", NOW.isoformat())
        assert out.splitlines()[-1] == "pairs: 1 rows removed that the features no longer have"

    @pytest.mark.parametrize(
        ("arguments", "views"),
        [
            (["--service", "by_customer"], ["customers", "pairs"]),
            (["--view", "stores", "--view", "pairs"], ["stores", "pairs"]),
            (["--view", "stores", "customers"], ["customers", "stores"]),
        ],
    )
    def test_views_can_be_named(self, three, arguments, views):
        out = three.succeed("materialize_to_online.py", *arguments)
        assert [line.partition(":")[0] for line in out.splitlines()] == views

    def test_views_are_named_one_way_or_the_other(self, three):
        outcome = three.run("materialize_to_online.py", "--view", "pairs", "--service", "by_store")
        assert outcome.status == 2
        assert "give one of them" in outcome.err

    def test_one_view_that_is_named_has_the_line_of_an_only_one(self, three):
        assert three.succeed("materialize_to_online.py", "--view", "pairs").startswith(
            "3 pairs of customer and store in"
        )

    @pytest.mark.parametrize(("option", "kind"), [("--view", "AggregatedFeatureView"), ("--service", "FeatureService")])
    def test_a_name_that_is_not_declared_is_refused(self, three, option, kind):
        assert f"there is no {kind} 'nothing'" in three.fail("materialize_to_online.py", option, "nothing")
