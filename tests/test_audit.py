"""What was served is held against the truth as known today and as known then, and what differs has the right cause."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureView, Field, FileSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64

from parity.audit import audit as auditing
from parity.audit import causes as meaning
from parity.audit.audit import Question
from parity.audit.causes import (
    AHEAD,
    ALTERED,
    BEHIND,
    CHANGED,
    CORRECTION,
    DEFINITION,
    DELETED,
    EARLIER,
    EXPIRED,
    FUTURE,
    LATE_ROW,
    OFFLINE_WRONG,
    PAST_HORIZON,
    REPAIRED,
)
from parity.audit.found import Audit, share
from parity.audit.logged import (
    NO_SUCH_FEATURE,
    NOT_DECLARED,
    ON_DEMAND,
    OTHER_KEYS,
    Requests,
    View,
    targets_of,
    views_of,
)
from parity.audit.terminal import summary
from parity.definition.instants import utc_now
from parity.offline.versions import superseding
from parity.proof.found import EXTRA, MATCH, MISSING, WRONG
from parity.served.hourly import HourlyParts
from parity.served.log import parts, read
from tests.audits import Logged, causes, serve, write_log
from tests.world import AVERAGE, DAY, OURS, STOCK, TOTAL, TTL, world

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


@pytest.fixture
def logged(request, redis_port):
    kind, online = getattr(request, "param", ("int64", OURS))
    with world(redis_port, 5, online, kind=kind) as healthy:
        yield Logged(healthy)


def of(*kinds: str, online: str = OURS):
    return pytest.mark.parametrize("logged", [(kind, online) for kind in kinds], indirect=True)


class TestWhatIsRight:
    @of("int64", "text and int64", "bytes", "every function", "streamed, sliding, every function")
    def test_what_was_served_equals_training_and_the_oracle_at_its_own_instant(self, logged):
        for _ in range(2):
            logged.ask(*logged.world.users, 999)  # which no side knows
            logged.world.now += 20 * HOUR
        found = logged.audit()
        [view] = found.views
        assert view.counts == {MATCH: view.values} | dict.fromkeys(set(view.counts) - {MATCH}, 0)
        assert view.rows == 2 * (len(logged.world.users) + 1)
        assert view.keys == len(logged.world.users) + 1
        assert view.then_known == view.values
        assert (view.then_differing, found.audited, found.known_then) == (0, 2, 2)
        assert 0 < view.checked <= view.values
        assert "What was served equals training equals the oracle" in summary(found)

    def test_a_value_that_stays_true_is_equal_although_others_of_its_key_came_since(self, logged):
        user = logged.world.fresh()
        logged.ask(user)
        logged.world.rows.append((user, logged.world.now + HOUR, "3.25"))
        logged.rewrite()
        assert logged.view().differing == 0

    def test_many_parts_of_keys_come_to_the_same(self, logged, monkeypatch):
        logged.ask(*logged.world.users)
        logged.world.put(logged.world.fresh(), AVERAGE, Value(double_val=1.5))
        logged.ask(*logged.world.users)
        monkeypatch.setattr(auditing, "ROWS_AT_ONCE", 7)
        found = logged.view()
        assert (found.rows, found.differing) == (2 * len(logged.world.users), 1)
        assert found.keys == len(logged.world.users)


class TestCauses:
    """Each is planted in a world that is healthy otherwise."""

    def test_a_row_that_came_late_was_not_known_then(self, logged):
        user, world = logged.world.fresh(), logged.world
        logged.ask(user)
        world.rows.append((user, world.last(user) - HOUR, "3.25"))
        logged.rewrite()
        found = logged.view()
        assert causes(found) == ({LATE_ROW: 2}, {})
        example = found.causes[LATE_ROW].example
        assert (example.key, example.served, example.then) == (world.key(user)[0], example.then, example.served)
        assert example.truth != example.served

    def test_a_newer_row_that_came_late_too(self, logged):
        user, world = logged.world.fresh(), logged.world
        logged.ask(user)
        world.rows.append((user, world.now - SECOND, "3.25"))
        logged.rewrite()
        assert causes(logged.view()) == ({LATE_ROW: 2}, {})

    def test_a_correction_was_not_known_then(self, logged):
        user, world = logged.world.fresh(), logged.world
        logged.ask(user)
        world.rows = [(n, at, "77.5" if (n, at) == (user, world.last(user)) else a) for n, at, a in world.rows]
        logged.rewrite()
        assert causes(logged.view()) == ({CORRECTION: 1}, {})

    def test_a_row_that_was_deleted_was_known_then(self, logged):
        user, world = logged.world.fresh(), logged.world
        logged.ask(user)
        world.rows = [row for row in world.rows if row[:2] != (user, world.last(user))]
        logged.rewrite()
        found = causes(logged.view())
        assert (set(found.today), found.then) == ({DELETED}, {})

    def test_what_is_computed_and_not_online_yet_is_behind(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.rows.append((user, world.now - SECOND, "3.25"))
        logged.rewrite()
        logged.ask(user, 999)
        assert causes(logged.view()) == ({BEHIND: 2}, {BEHIND: 2})

    def test_a_key_that_is_not_online_yet_is_behind(self, logged):
        world = logged.world
        world.rows.append((700, world.now - SECOND, "3.25"))
        logged.rewrite()
        logged.ask(700)
        found = logged.view()
        assert causes(found) == ({BEHIND: 2}, {BEHIND: 2})
        assert found.counts[MISSING] == 2

    def test_a_correction_that_is_not_online_yet_is_behind(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.rows = [(n, at, "77.5" if (n, at) == (user, world.last(user)) else a) for n, at, a in world.rows]
        logged.rewrite()
        logged.ask(user)
        assert causes(logged.view()) == ({BEHIND: 1}, {BEHIND: 1})

    def test_a_row_that_is_gone_from_the_files_and_still_online_is_behind(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.rows = [row for row in world.rows if row[:2] != (user, world.last(user))]
        logged.rewrite()
        logged.ask(user)
        found = causes(logged.view())
        assert (set(found.today), set(found.then)) == ({BEHIND}, {BEHIND})

    @of("streamed")
    def test_a_stream_that_knew_it_before_the_files_is_ahead_and_right(self, logged):
        user, world = logged.world.fresh(), logged.world
        event = world.event(user, world.now, "3.25", "e1")
        world.apply(event)
        logged.ask(user)
        world.land(event)
        logged.recompute()
        found = logged.view()
        assert causes(found) == ({}, {AHEAD: 2})
        assert found.differing == 0

    def test_a_table_that_was_wrong_and_is_put_right_is_no_stream(self, logged):
        user, world = logged.world.fresh(), logged.world
        with superseding(world.table, world.features):
            world.change_history(user, world.last(user), **{AVERAGE: 123.25})
        logged.ask(user)
        logged.recompute()
        found = logged.view()
        assert causes(found) == ({}, {REPAIRED: 1})
        assert found.differing == 0

    def test_what_nothing_explains_was_altered(self, logged):
        user = logged.world.fresh()
        logged.world.put(user, AVERAGE, Value(double_val=123.25))
        logged.ask(user)
        assert causes(logged.view()) == ({ALTERED: 1}, {ALTERED: 1})

    def test_a_rounded_value_is_named(self, logged):
        world = logged.world
        user = next(
            n for n in world.users if round(v := world.row(n)[AVERAGE], 1) != v and world.now - world.last(n) < DAY * 20
        )
        world.put(user, AVERAGE, Value(double_val=round(world.row(user)[AVERAGE], 1)))
        logged.ask(user)
        assert causes(logged.view()) == ({meaning.COERCION: 1}, {meaning.COERCION: 1})

    def test_a_value_that_was_served_as_another_type_is_not_equal(self, logged):
        user, world = logged.world.fresh(), logged.world
        columns = {"user_id": pa.array([user])}
        for name, value in ((AVERAGE, str(world.row(user)[AVERAGE])), (TOTAL, world.row(user)[TOTAL])):
            columns |= {f"zoo__{name}": pa.array([value]), f"zoo__{name}__status": pa.array([1], pa.int32())}
            columns[f"zoo__{name}__timestamp"] = pa.array([world.last(user)], pa.timestamp("us", "UTC"))
        logged.ask(user)
        write_log(logged.folder, world.table.service, columns, world.now, project=world.store.project)
        found = logged.view()
        assert (found.values, causes(found)) == (4, ({meaning.COERCION: 1}, {meaning.COERCION: 1}))

    def test_minus_zero_is_not_zero(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.rows.append((user, world.now, "0"))
        world.rows = [row for row in world.rows if row[0] != user or row[2] == "0"]
        logged.rewrite()
        world.materialize()
        logged.ask(user)
        assert logged.view().differing == 0
        world.put(user, AVERAGE, Value(double_val=-0.0))
        logged.ask(user)
        assert logged.view().differing == 1

    @of("int64", online=STOCK)
    def test_what_a_store_serves_beyond_the_ttl_is_expired(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.now = world.last(user) + TTL
        logged.ask(user)
        world.now += timedelta(microseconds=1)
        logged.ask(user)
        found = logged.view()
        assert causes(found) == ({EXPIRED: 2}, {EXPIRED: 2})
        assert found.counts[EXTRA] == 2

    @of("int64", online=STOCK)
    def test_what_lies_after_the_instant_is_from_the_future(self, logged):
        user, world = logged.world.fresh(), logged.world
        values = {name: world.row(user)[name] for name in world.every_feature}
        world.push(user, world.now + HOUR, values | {TOTAL: 99})
        logged.ask(user)
        found = causes(logged.view())
        assert (found.today, found.then) == ({FUTURE: 1}, {FUTURE: 1})

    @of("sliding")
    def test_past_its_horizon_nothing_is_served_by_rule(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.now += 3 * DAY
        logged.ask(user)
        found = logged.view()
        assert set(causes(found).today) == {PAST_HORIZON}
        assert found.counts[MISSING] == found.differing > 0
        assert "as is the rule of continuous views" in summary(logged.audit())

    @of("sliding")
    def test_a_row_that_slides_on_without_the_newest_purchase_is_behind(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.rows.append((user, world.now - SECOND, "3.25"))
        logged.rewrite()
        logged.ask(user)
        found = causes(logged.view())
        assert set(found.today) == set(found.then) == {BEHIND}

    def test_a_table_that_is_wrong_is_said_to_be_although_serving_equals_it(self, logged):
        user, world = logged.world.fresh(), logged.world
        world.change_history(user, world.last(user), **{AVERAGE: 3.25})
        world.materialize()
        logged.ask(user)
        found = logged.view()
        assert causes(found).today == {OFFLINE_WRONG: 1}
        assert found.counts[WRONG] == 1

    def test_transactions_that_are_newer_than_the_table_are_late(self, logged):
        user, world = logged.world.fresh(), logged.world
        logged.ask(user)
        world.rows.append((user, world.last(user) - HOUR, "3.25"))
        world.write()
        assert causes(logged.view()) == ({LATE_ROW: 2}, {})

    def test_another_definition_than_then_is_named(self, logged):
        user, world = logged.world.fresh(), logged.world
        logged.ask(user)
        rows = pq.read_table(world.features).replace_schema_metadata({b"parity.computed_by": b"another"})
        pq.write_table(rows.set_column(2, AVERAGE, pa.array([1.5] * rows.num_rows)), world.features)
        world.materialize()
        logged.ask(user)
        logged.recompute()
        found = causes(logged.view())
        assert found.today == {DEFINITION: 1}

    def test_without_versions_it_is_said_that_it_is_not_known(self, logged):
        user, world = logged.world.fresh(), logged.world
        logged.ask(user, 700)
        world.rows += [(user, world.last(user) - HOUR, "3.25"), (700, world.now - SECOND, "1.5")]
        world.write()
        world.compute()  # and nobody keeps what was before
        found = logged.audit()
        [view] = found.views
        assert causes(view) == ({CHANGED: 2, EARLIER: 2}, {})
        assert (view.then_known, found.known_then) == (0, 0)
        assert "it is not known what was known then" in summary(found)


class TestWhatIsAskedFor:
    def test_aliases_and_renamed_keys_are_the_same_views(self, logged):
        world = logged.world
        buyer = world.view.with_name("buyer").with_join_key_map({"user_id": "buyer_id"})
        seller = world.view[[TOTAL]].with_name("seller").with_join_key_map({"user_id": "seller_id"})
        service = FeatureService(name="both", features=[buyer, seller])
        world.store.apply([service])
        one, other = world.fresh(), world.users[0]
        world.put(one, TOTAL, Value(int64_val=77))
        asked = {"buyer_id": [one, other], "seller_id": [other, one]}
        serve(world.store, logged.folder, service, asked, full_feature_names=True)
        found = logged.audit()
        [view] = found.views
        assert (view.rows, view.values, view.differing) == (4, 6, 2)
        assert (found.requests.count, found.wrong_today) == (1, 1)

    def test_features_by_reference_and_a_part_of_them(self, logged):
        world = logged.world
        user = world.fresh()
        serve(world.store, logged.folder, [f"zoo:{TOTAL}"], {"user_id": [user]})
        logged.ask(user)
        found = logged.audit()
        [view] = found.views
        assert (view.values, view.differing, found.requests.count) == (3, 0, 2)

    def test_what_is_not_declared_any_more_is_counted(self, logged):
        world = logged.world
        columns = {"user_id": pa.array([1, 2])}
        for name in ("old__spent", "zoo__gone", f"zoo__{TOTAL}"):
            columns |= {name: pa.array([1, 2]), f"{name}__status": pa.array([1, 1], pa.int32())}
            columns[f"{name}__timestamp"] = pa.array([world.now] * 2, pa.timestamp("us", "UTC"))
        write_log(logged.folder, ["old:spent"], columns, world.now, project=world.store.project)
        found = logged.audit()
        assert found.unseen == {("old", NOT_DECLARED): 2, ("zoo", NO_SUCH_FEATURE): 2}
        assert found.views[0].values == 2
        assert "not audited: 2 values of old, as the view is not declared any more" in summary(found)

    def test_keys_of_another_type_are_not_audited(self, logged):
        world = logged.world
        columns = {"user_id": pa.array(["1"]), f"zoo__{TOTAL}": pa.array([1])}
        columns |= {f"zoo__{TOTAL}__status": pa.array([1], pa.int32())}
        columns[f"zoo__{TOTAL}__timestamp"] = pa.array([world.now], pa.timestamp("us", "UTC"))
        write_log(logged.folder, [f"zoo:{TOTAL}"], columns, world.now, project=world.store.project)
        found = logged.audit()
        assert (found.unseen, found.views) == ({("zoo", OTHER_KEYS): 1}, [])

    def test_a_view_without_aggregations_is_held_against_training_alone(self, logged):
        world, folder = logged.world, logged.folder.parent
        entity = world.store.get_entity("user_id")
        rows = {"user_id": pa.array([1, 2]), "score": pa.array([0.5, 1.5])}
        rows["event_timestamp"] = pa.array([world.now - HOUR] * 2, pa.timestamp("us", "UTC"))
        pq.write_table(pa.table(rows), folder / "scores.parquet")
        source = FileSource(name="scores", path=str(folder / "scores.parquet"), timestamp_field="event_timestamp")
        view = FeatureView(name="scores", entities=[entity], schema=[Field(name="score", dtype=Float64)], source=source)
        service = FeatureService(name="scored", features=[view, world.view])
        world.store.apply([view, service])
        world.store.write_to_online_store("scores", pa.table(rows).slice(0, 1).to_pandas())
        serve(world.store, logged.folder, service, {"user_id": [1, 2, 3]})
        found = logged.audit()
        scores, zoo = found.views
        assert (scores.name, scores.values, scores.counts[MISSING]) == ("scores", 3, 1)
        assert zoo.differing == 0
        assert "no oracle: the view has no aggregations" in summary(found)

    def test_names_with_two_underscores_are_those_of_the_features_that_there_are(self, logged):
        store = logged.world.store
        keys = pa.schema([("user_id", pa.int64())])
        views = {"a": View("a", keys, {"b__c": pa.int64()}), "a__b": View("a__b", keys, {"d": pa.int64()})}
        names = ["user_id", *(f"a__b__{end}{more}" for end in "cd" for more in ("", "__status"))]
        targets, unseen = targets_of(store, None, pa.schema([(name, pa.int64()) for name in names]), views)
        assert [(target.view.name, target.features) for target in targets] == [("a", ("b__c",)), ("a__b", ("d",))]
        assert not unseen

    def test_parts_that_are_merged_after_they_were_listed_are_read_once(self, logged):
        world, now = logged.world, utc_now()
        kind = {"project": world.store.project, "service": world.table.service.name, "references": []}
        logged.ask(world.fresh())
        [part] = parts(logged.folder)
        rows = read(part)
        log = HourlyParts(part.path.parent.parent, rows.schema.remove_metadata(), kind)
        log.append(rows)
        log.append(rows)
        listed = parts(logged.folder)
        log.close()
        assert len(parts(logged.folder)) < len(listed) == 3
        found = Audit("", [], Requests())
        views = views_of(world.store, [world.table])
        question = Question(listed, views, [], {"zoo": world.table.transactions}, None, None, now)
        auditing.audit(world.store, question, found)
        assert (found.rows, found.requests.count, found.differing) == (3, 1, 0)

    def test_what_is_worked_out_on_demand_is_counted_and_not_audited(self, logged):
        world = logged.world

        @on_demand_feature_view(sources=[world.view], schema=[Field(name="doubled", dtype=Float64)], mode="python")
        def doubling(inputs: dict) -> dict:
            return {"doubled": [2.0 * (value or 0) for value in inputs["purchases"]]}

        service = FeatureService(name="both", features=[world.view, doubling])
        world.store.apply([doubling, service])
        serve(world.store, logged.folder, service, {"user_id": [world.fresh(), 999]})
        found = logged.audit()
        [view] = found.views
        assert (view.values, view.differing) == (4, 0)
        assert found.unseen == {("doubling", ON_DEMAND): 2}

    def test_an_instant_that_has_not_come_is_said_to_be_one(self, logged):
        logged.world.now += DAY
        logged.ask(logged.world.users[0])
        logged.world.now -= DAY
        found = logged.audit()
        assert found.views[0].to_come == 1
        assert "asked about an instant to come: 1 row" in summary(found)

    def test_a_part_without_rows_is_gone_through(self, logged):
        logged.ask(logged.world.users[0])
        nothing = {name: pa.array([], type) for name, type in [("user_id", pa.int64()), (f"zoo__{TOTAL}", pa.int64())]}
        write_log(logged.folder, ["zoo:x"], nothing, logged.world.now, project=logged.world.store.project)
        assert len(logged.audit().views) == 1


def test_every_cause_has_its_meaning():
    named = {value for name, value in vars(meaning).items() if name.isupper() and isinstance(value, str)}
    assert named - set(meaning.MEANING) == {meaning.NOT_THERE}


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0 %"), (0, 9, "0 %"), (1, 3, "33.33 %"), (1, 10**6, "under 0.01 %"), (10**6 - 1, 10**6, "over 99.99 %")],
)
def test_a_share_is_never_rounded_to_none_or_all(part, whole, text):
    assert share(part, whole) == text


class TestRequests:
    def test_the_rows_of_a_request_may_lie_apart(self):
        requests = Requests()
        first = requests.number(pa.array(["t-0", "t-0", "t-65536", "s-0", "t-1"]))
        again = requests.number(pa.array(["t-0", "s-0", "t-65536"]))
        assert len(set(first.tolist())) == 4
        assert again.tolist() == [first[0], first[3], first[2]]
        assert requests.count == 4

    def test_other_ids_are_told_apart_where_they_follow_each_other(self):
        requests = Requests()
        numbers = requests.number(pa.array(["a", "a", None, None, "b"]))
        assert numbers[0] == numbers[1]
        assert len(set(numbers.tolist())) == 4
        assert requests.number(pa.array(["b"])).tolist() == [numbers[-1]]
        assert requests.count == 4

    def test_a_mark_is_one_of_a_request_and_not_of_a_row(self):
        requests = Requests()
        numbers = requests.number(pa.array([f"t-{number // 3}" for number in range(200_000)]))
        requests.mark(numbers[:5], 1)
        assert (requests.marked(1), requests.count) == (2, 66_667)


def test_what_the_log_has_dropped_is_said(logged):
    world = logged.world
    logged.ask(world.users[0])
    [part] = parts(logged.folder)
    log = HourlyParts(part.path.parent.parent, read(part).schema.remove_metadata(), {"project": world.store.project})
    log.drop(12)
    log.close()
    assert logged.audit().dropped == 12
    assert "dropped: the log says that 12 rows could not be written, and are not here" in summary(logged.audit())
