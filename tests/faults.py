"""The faults of the zoo: each a way in which feature stores really go wrong, planted in a world.

A fault returns the values that it spoils, and is declared with the kind of difference and the cause that the checker
has to find in each of them.
"""

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.features import user
from parity.proof import causes
from parity.proof.compare import EXTRA, EXTRA_ROW, MISMATCH, MISSING, MISSING_ROW, WRONG, WRONG_ROW
from tests.world import AVERAGE, DAY, MICROSECOND, OFFLINE, OURS, STOCK, TOTAL, TTL, WINDOW, T, World

Planted = set[tuple]
"""The values that a fault makes wrong: (user, feature) at the instant of the comparison, and (user, feature, instant,
kind of difference) in the row of an instant."""


class Fault:
    """A fault: what it does to a world, and what the checker has to say of the values that it spoils."""

    def __init__(self, plant: Callable[[World], Planted], kind: str, cause: str, online: str, offline: str):
        self.plant, self.kind, self.cause, self.online, self.offline = plant, kind, cause, online, offline
        self.name = plant.__name__.replace("_", " ")

    def expected(self, value: tuple) -> tuple[tuple, str]:
        """A planted value as (user, feature, instant of the row, if any), and the kind of difference it has to be."""
        who, feature, *row = value
        instant, kind = row or (None, self.kind)
        return (who, feature, instant), kind


FAULTS: list[Fault] = []


def fault(kind: str, cause: str, online: str = OURS, offline: str = OFFLINE):
    def enter(plant: Callable[[World], Planted]) -> Callable[[World], Planted]:
        FAULTS.append(Fault(plant, kind, cause, online, offline))
        return plant

    return enter


EVENT = "event_timestamp"


def both(*users: int) -> Planted:
    return {(user_id, feature) for user_id in users for feature in (AVERAGE, TOTAL)}


def rows_of(who: int, kind: str, *instants: datetime, features: Iterable[str] = (AVERAGE, TOTAL)) -> Planted:
    return {(who, feature, instant, kind) for instant in instants for feature in features}


def expired(world: World) -> set[int]:
    """The users whose values are older than the ttl when the world is compared, a minute from now."""
    return {who for who in world.users if world.now + timedelta(minutes=1) - world.last(who) > TTL}


def _forget_expired(world: World) -> None:
    """Leave the world without users who are expired or soon will be, which stock Redis gets wrong by itself."""
    world.rows = [row for row in world.rows if T - world.last(row[0]) < TTL - DAY]
    world.write()
    world.compute()
    world.materialize()


# Expired


@fault(EXTRA, causes.EXPIRED, online=STOCK)
def stock_redis_serves_what_is_older_than_the_ttl(world: World) -> Planted:
    return both(*expired(world))


@fault(EXTRA, causes.EXPIRED, offline="file")
def the_file_offline_store_drops_the_rows_of_expired_users(world: World) -> Planted:
    return both(*expired(world))


# Late rows


@fault(MISMATCH, causes.LATE_ROW)
def a_purchase_is_computed_and_not_materialized(world: World) -> Planted:
    who = world.fresh()
    world.rows.append((who, world.last(who) + DAY, "1234.56"))
    world.write()
    world.compute()
    return both(who)


@fault(WRONG, causes.LATE_ROW)
def a_purchase_is_in_the_transactions_and_not_computed(world: World) -> Planted:
    who = world.fresh()
    world.rows.append((who, world.last(who) + DAY, "1234.56"))
    world.write()
    return both(who)


@fault(MISMATCH, causes.LATE_ROW)
def an_older_event_overwrites_a_newer_one(world: World) -> Planted:
    who = world.fresh()
    old = world.row(who)
    world.rows.append((who, world.last(who) + DAY, "1234.56"))
    world.write()
    world.compute()
    world.materialize()
    world.push(who, old["event_timestamp"], old)
    return both(who)


@fault(MISMATCH, causes.LATE_ROW)
def an_incremental_materialization_passes_over_a_row_that_came_late(world: World) -> Planted:
    who = world.fresh()
    world.rows.append((who, world.last(who) + DAY, "1234.56"))
    world.write()
    world.compute()
    stock = FeatureStore(config=RepoConfig(**world.options | {"batch_engine": {"type": "local"}}))  # ours would see it
    with redirect_stdout(io.StringIO()):
        stock.materialize_incremental(world.now, [world.view.name])
    return both(who)


# Corrections


def _correct(world: World) -> Planted:
    who = world.fresh()
    place = next(i for i, row in enumerate(world.rows) if row[:2] == (who, world.last(who)))
    world.rows[place] = (*world.rows[place][:2], "4321.09")
    return {(who, AVERAGE)}


@fault(MISMATCH, causes.CORRECTION)
def a_correction_is_computed_and_not_materialized(world: World) -> Planted:
    planted = _correct(world)
    world.write()
    world.compute()
    return planted


@fault(WRONG, causes.CORRECTION)
def a_correction_is_not_computed(world: World) -> Planted:
    planted = _correct(world)
    world.write()
    return planted


@fault(MISMATCH, causes.CORRECTION, online=STOCK)
def stock_redis_skips_a_correction(world: World) -> Planted:
    _forget_expired(world)
    planted = _correct(world)
    world.write()
    world.compute()
    world.materialize()
    return planted


# Time zones


@fault(MISSING, causes.TIME_ZONE)
def a_writer_takes_utc_for_local_time_west(world: World) -> Planted:
    who = world.fresh()
    last = T - TTL + timedelta(hours=1)
    world.rows = [row for row in world.rows if row[0] != who or row[1] <= last] + [(who, last, "10.00")]
    world.write()
    world.compute()
    world.materialize()
    row = world.row(who)
    world.push(who, row["event_timestamp"] - timedelta(hours=8), row)
    return both(who)


@fault(MISMATCH, causes.TIME_ZONE)
def an_event_time_is_shifted_and_no_value_differs_yet(world: World) -> Planted:
    who = world.fresh()
    row = world.row(who)
    world.push(who, row["event_timestamp"] - timedelta(hours=5), row)
    return {(who, world.view.batch_source.timestamp_field)}


@fault(MISMATCH, causes.COERCION)
def the_total_is_stored_as_an_instant(world: World) -> Planted:
    who = world.fresh()
    world.put(who, TOTAL, Value(unix_timestamp_val=world.row(who)[TOTAL]))
    return {(who, TOTAL)}


@fault(MISSING, causes.TIME_ZONE)
def a_writer_takes_utc_for_local_time_east_into_the_future(world: World) -> Planted:
    who = world.fresh()
    world.rows.append((who, world.now - timedelta(hours=2), "55.55"))
    world.write()
    world.compute()
    world.materialize()
    row = world.row(who)
    world.push(who, row["event_timestamp"] + timedelta(hours=9), row)
    return both(who)


@fault(WRONG, causes.TIME_ZONE)
def features_are_computed_in_local_time(world: World) -> Planted:
    who = world.fresh()
    world.rows = [row for row in world.rows if T - world.last(row[0]) < TTL - 2 * DAY]
    world.rows.append((who, world.now - timedelta(hours=2), "55.55"))
    world.write()
    shift = timedelta(hours=5, minutes=30)
    world.compute(shift=shift)
    world.materialize()
    at = world.now + timedelta(minutes=1)
    late = {user_id for user_id, time, _ in world.rows if time > at - shift}
    planted = both(*late)
    for user_id in world.users:
        raw = world.events(user_id)
        moved = {time + shift for time in raw}
        named = {max(time for time in raw | moved if time <= at)} if user_id in late else set()
        planted |= rows_of(user_id, MISSING_ROW, *(raw - named)) | rows_of(user_id, EXTRA_ROW, *(moved - named))
    return planted


# Rounding and types


@fault(MISMATCH, causes.COERCION)
def the_average_is_rounded_to_whole_dollars(world: World) -> Planted:
    who = world.fresh()
    world.put(who, AVERAGE, Value(double_val=float(round(world.row(who)[AVERAGE]))))
    return {(who, AVERAGE)}


@fault(MISMATCH, causes.COERCION)
def the_average_is_kept_in_single_precision(world: World) -> Planted:
    who = world.fresh()
    exact = world.row(who)[AVERAGE]
    single = float(np.float32(exact))
    world.put(who, AVERAGE, Value(double_val=single))
    return {(who, AVERAGE)} if single != exact else set()


@fault(MISMATCH, causes.COERCION)
def the_average_is_cut_off_to_an_integer(world: World) -> Planted:
    who = world.fresh()
    world.put(who, AVERAGE, Value(int64_val=int(world.row(who)[AVERAGE])))
    return {(who, AVERAGE)}


@fault(MISMATCH, causes.COERCION)
def the_total_is_stored_as_a_float(world: World) -> Planted:
    who = world.fresh()
    world.put(who, TOTAL, Value(double_val=float(world.row(who)[TOTAL])))
    return {(who, TOTAL)}


@fault(MISMATCH, causes.COERCION)
def the_total_is_stored_as_text(world: World) -> Planted:
    who = world.fresh()
    world.put(who, TOTAL, Value(string_val=str(world.row(who)[TOTAL])))
    return {(who, TOTAL)}


# Windows and ties


@fault(WRONG, causes.WINDOW_EDGE)
def the_window_leaves_out_its_start(world: World) -> Planted:
    who = world.fresh()
    event = world.last(who) + DAY
    world.rows += [(who, event, "10.00"), (who, event - WINDOW, "7777.77")]
    world.write()
    world.compute()
    inside = [amount for name, time, amount in world.rows if name == who and event - WINDOW < time <= event]
    world.change_history(who, event, **{AVERAGE: _mean(inside)})
    world.materialize()
    return {(who, AVERAGE)}


@fault(WRONG, causes.WINDOW_EDGE)
def the_total_leaves_out_the_purchase_itself(world: World) -> Planted:
    who = world.fresh()
    row = world.row(who)
    tied = sum(1 for name, time, _ in world.rows if (name, time) == (who, world.last(who)))
    world.change_history(who, row["event_timestamp"], **{TOTAL: row[TOTAL] - tied})
    world.materialize()
    return {(who, TOTAL)}


@fault(WRONG, causes.TIE)
def the_first_of_two_tied_purchases_does_not_see_the_second(world: World) -> Planted:
    who = world.fresh()
    event = world.last(who) + DAY
    world.rows += [(who, event, "10.00"), (who, event, "7777.77")]
    world.write()
    world.compute()
    seen = [amount for name, time, amount in world.rows if name == who and event - WINDOW <= time <= event]
    seen.remove("7777.77")
    world.change_history(who, event, **{AVERAGE: _mean(seen), TOTAL: world.row(who)[TOTAL] - 1})
    world.materialize()
    return both(who)


@fault(WRONG, causes.TIE)
def the_history_has_two_rows_of_one_user_at_one_instant(world: World) -> Planted:
    who = world.fresh()
    rows = pq.read_table(world.features).to_pylist()
    row = world.row(who)
    twins = [row | {AVERAGE: -1.0, TOTAL: 1001}, row | {AVERAGE: -1.0, TOTAL: 1001}]
    others = [other for other in rows if other != row]
    world.save(pa.Table.from_pylist(others + twins, pq.read_schema(world.features)))
    world.materialize()
    return both(who)


# Deleted rows


@fault(EXTRA, causes.DELETED)
def a_user_is_gone_offline_and_still_served(world: World) -> Planted:
    who = world.fresh()
    world.rows = [row for row in world.rows if row[0] != who]
    world.write()
    world.compute()
    return both(who)


@fault(MISMATCH, causes.DELETED)
def a_purchase_is_gone_offline_and_still_served(world: World) -> Planted:
    who = world.fresh()
    event = world.last(who) + DAY
    world.rows.append((who, event, "9999.99"))
    world.write()
    world.compute()
    world.materialize()
    world.rows.pop()
    world.write()
    world.compute()
    return both(who)


@fault(EXTRA, causes.DELETED)
def the_offline_store_lost_a_user(world: World) -> Planted:
    who = world.fresh()
    rows = [row for row in pq.read_table(world.features).to_pylist() if row[user.join_key] != who]
    world.save(pa.Table.from_pylist(rows, pq.read_schema(world.features)))
    return both(who) | rows_of(who, MISSING_ROW, *(world.events(who) - {world.last(who)}))


@fault(EXTRA, causes.DELETED)
def a_user_whom_nobody_knows_has_an_event_online_and_no_values(world: World) -> Planted:
    field = f"_ts:{world.view.name}"
    world.client.hset(world.key(777), field, world.client.hget(world.key(world.fresh()), field))
    return {(777, EVENT)}


@fault(EXTRA, causes.DELETED)
def a_user_whom_nobody_knows_is_served(world: World) -> Planted:
    world.client.hset(world.key(777), mapping=world.client.hgetall(world.key(world.fresh())))
    return both(777)


# Never materialized


@fault(MISSING, causes.NEVER)
def a_key_is_lost(world: World) -> Planted:
    who = world.fresh()
    world.client.delete(world.key(who))
    return both(who)


@fault(MISSING, causes.NEVER)
def a_new_user_is_computed_and_not_materialized(world: World) -> Planted:
    world.rows.append((888, world.now - DAY, "1.00"))
    world.write()
    world.compute()
    return both(888)


@fault(MISSING, causes.NEVER)
def a_feature_was_never_written(world: World) -> Planted:
    who = world.fresh()
    world.client.hdel(world.key(who), _mmh3(f"{world.view.name}:{TOTAL}"))
    return {(who, TOTAL)}


@fault(MISSING, causes.NEVER)
def most_of_redis_was_lost(world: World) -> Planted:
    fresh = [who for who in world.users if T - world.last(who) < TTL - DAY]
    for who in fresh[1:]:
        world.client.delete(world.key(who))
    return both(*fresh[1:])


# From the future


@fault(MISSING, causes.FUTURE)
def a_row_was_pushed_with_an_instant_in_the_future(world: World) -> Planted:
    who = world.fresh()
    world.push(who, world.now + timedelta(days=3, minutes=7), {AVERAGE: 3.5, TOTAL: 99})
    return both(who)


@fault(EXTRA, causes.FUTURE)
def a_user_whom_nobody_knows_is_served_in_some_seconds(world: World) -> Planted:
    world.push(777, world.now + timedelta(minutes=1, seconds=15), {AVERAGE: 3.5, TOTAL: 99})
    return {(777, EVENT)}


@fault(EXTRA, causes.FUTURE)
def a_user_whom_nobody_knows_has_a_row_of_the_last_year(world: World) -> Planted:
    world.push(777, datetime(9999, 12, 31, tzinfo=UTC), {AVERAGE: 3.5, TOTAL: 99})
    return {(777, EVENT)}


@fault(EXTRA, causes.FUTURE)
def a_user_who_has_bought_nothing_yet_is_online(world: World) -> Planted:
    event = world.now + 2 * DAY
    world.rows.append((777, event, "5.00"))
    world.write()
    world.compute()
    world.materialize()
    world.push(777, event, {AVERAGE: 5.0, TOTAL: 1})
    return {(777, EVENT)}


@fault(EXTRA, causes.FUTURE, online=STOCK)
def stock_redis_serves_a_user_whom_nobody_knows_from_the_future(world: World) -> Planted:
    _forget_expired(world)
    world.push(777, world.now + 2 * DAY, {AVERAGE: 3.5, TOTAL: 99})
    return both(777)


@fault(MISMATCH, causes.FUTURE, online=STOCK)
def stock_redis_serves_a_row_from_the_future(world: World) -> Planted:
    _forget_expired(world)
    who = world.fresh()
    world.push(who, world.now + timedelta(days=3, minutes=7), {AVERAGE: 3.5, TOTAL: 99})
    return both(who)


# Tampered


@fault(MISMATCH, causes.TAMPERED)
def an_event_was_moved_by_a_microsecond_in_redis(world: World) -> Planted:
    who = world.fresh()
    field, event = f"_ts:{world.view.name}", Timestamp()
    event.FromDatetime(world.last(who) + MICROSECOND)
    world.client.hset(world.key(who), field, event.SerializeToString())
    return {(who, EVENT)}


@fault(MISMATCH, causes.TAMPERED)
def a_total_was_changed_in_redis(world: World) -> Planted:
    who = world.fresh()
    world.put(who, TOTAL, Value(int64_val=world.row(who)[TOTAL] + 1000))
    return {(who, TOTAL)}


@fault(MISMATCH, causes.TAMPERED)
def the_sign_of_an_average_was_changed_in_redis(world: World) -> Planted:
    who = world.fresh()
    world.put(who, AVERAGE, Value(double_val=-world.row(who)[AVERAGE]))
    return {(who, AVERAGE)}


@fault(MISMATCH, causes.TAMPERED)
def the_last_bit_of_an_average_was_changed_in_redis(world: World) -> Planted:
    who = world.fresh()
    world.put(who, AVERAGE, Value(double_val=float(np.nextafter(world.row(who)[AVERAGE], np.inf))))
    return {(who, AVERAGE)}


@fault(MISMATCH, causes.TAMPERED)
def an_average_is_infinite_in_redis(world: World) -> Planted:
    who = world.fresh()
    world.put(who, AVERAGE, Value(double_val=np.inf))
    return {(who, AVERAGE)}


@fault(MISSING, causes.TAMPERED)
def an_average_is_not_a_number_in_redis(world: World) -> Planted:
    who = world.fresh()
    world.put(who, AVERAGE, Value(double_val=np.nan))
    return {(who, AVERAGE)}


@fault(MISSING, causes.TAMPERED)
def the_bytes_of_a_value_are_broken(world: World) -> Planted:
    who = world.fresh()
    world.put(who, TOTAL, b"\xff\xff\xff")
    return {(who, TOTAL)}


@fault(MISSING, causes.TAMPERED)
def the_bytes_of_an_event_timestamp_are_broken(world: World) -> Planted:
    who = world.fresh()
    world.client.hset(world.key(who), f"_ts:{world.view.name}", b"\xff\xff\xff")
    return both(who)


@fault(WRONG, causes.TAMPERED)
def a_total_was_changed_in_the_parquet_and_materialized(world: World) -> Planted:
    who = world.fresh()
    row = world.row(who)
    world.change_history(who, row["event_timestamp"], **{TOTAL: row[TOTAL] + 1000})
    world.materialize()
    return {(who, TOTAL)}


@fault(MISMATCH, causes.TAMPERED)
def a_total_was_changed_in_the_parquet(world: World) -> Planted:
    who = world.fresh()
    row = world.row(who)
    world.change_history(who, row["event_timestamp"], **{TOTAL: row[TOTAL] + 1000})
    return {(who, TOTAL)}


# The sign of a zero


def _zero(world: World) -> tuple[int, datetime]:
    """A user whose average is zero, and the event."""
    world.rows += [(900, T - DAY, "5.00"), (900, T - DAY, "-5.00")]
    world.write()
    world.compute()
    world.materialize()
    return 900, T - DAY


@fault(MISMATCH, causes.COERCION)
def a_zero_is_negative_in_redis(world: World) -> Planted:
    who, _ = _zero(world)
    world.put(who, AVERAGE, Value(double_val=-0.0))
    return {(who, AVERAGE)}


@fault(MISMATCH, causes.COERCION)
def a_zero_is_negative_in_the_parquet(world: World) -> Planted:
    who, event = _zero(world)
    world.change_history(who, event, **{AVERAGE: -0.0})
    return {(who, AVERAGE)}


@fault(WRONG, causes.COERCION)
def a_zero_is_negative_in_both_stores(world: World) -> Planted:
    who, event = _zero(world)
    world.change_history(who, event, **{AVERAGE: -0.0})
    world.materialize()
    return {(who, AVERAGE)}


# Rows that are not their user's latest: training reads them, serving does not


def _past(world: World) -> tuple[int, datetime]:
    """A user with an old purchase, far from any other, and the event."""
    who = world.fresh()
    event = world.last(who) - 20 * DAY
    world.rows.append((who, event, "123.45"))
    world.write()
    world.compute()
    world.materialize()
    return who, event


def _save(world: World, rows: list[dict]) -> None:
    world.save(pa.Table.from_pylist(rows, pq.read_schema(world.features)))


def _is_row(row: dict, who: int, event: datetime) -> bool:
    return (row[user.join_key], row["event_timestamp"]) == (who, event)


@fault(WRONG_ROW, causes.TAMPERED)
def a_total_was_changed_in_an_older_row(world: World) -> Planted:
    who, event = _past(world)
    world.change_history(who, event, **{TOTAL: 1001})
    return rows_of(who, WRONG_ROW, event, features=[TOTAL])


@fault(WRONG_ROW, causes.TAMPERED)
def the_last_bit_of_an_average_was_changed_in_an_older_row(world: World) -> Planted:
    who, event = _past(world)
    world.change_history(who, event, **{AVERAGE: float(np.nextafter(123.45, np.inf))})
    return rows_of(who, WRONG_ROW, event, features=[AVERAGE])


@fault(WRONG_ROW, causes.TAMPERED)
def a_total_of_an_expired_user_was_changed(world: World) -> Planted:
    event = world.now - TTL - DAY
    world.rows.append((901, event, "1.00"))
    world.write()
    world.compute()
    world.materialize()
    world.change_history(901, event, **{TOTAL: 1001})
    return rows_of(901, WRONG_ROW, event, features=[TOTAL])


@fault(WRONG_ROW, causes.COERCION)
def an_average_is_rounded_in_an_older_row(world: World) -> Planted:
    who, event = _past(world)
    world.change_history(who, event, **{AVERAGE: 123.0})
    return rows_of(who, WRONG_ROW, event, features=[AVERAGE])


@fault(WRONG_ROW, causes.WINDOW_EDGE)
def the_total_leaves_out_the_purchase_itself_in_an_older_row(world: World) -> Planted:
    who, event = _past(world)
    world.change_history(who, event, **{TOTAL: 0})
    return rows_of(who, WRONG_ROW, event, features=[TOTAL])


@fault(WRONG_ROW, causes.CORRECTION)
def a_correction_of_an_older_purchase_is_not_computed(world: World) -> Planted:
    who, event = _past(world)
    world.rows = [(*row[:2], "543.21") if row[:2] == (who, event) else row for row in world.rows]
    world.write()
    return rows_of(who, WRONG_ROW, event, features=[AVERAGE])


@fault(WRONG, causes.LATE_ROW)
def an_older_purchase_is_in_the_transactions_and_not_computed(world: World) -> Planted:
    who = world.fresh()
    event, later = world.last(who) - 20 * DAY, world.events(who) - {world.last(who)}
    world.rows.append((who, event, "123.45"))
    world.write()
    wrong = rows_of(who, WRONG_ROW, *later, features=[TOTAL])
    return {(who, TOTAL)} | wrong | rows_of(who, MISSING_ROW, event)


@fault(MISSING_ROW, causes.DELETED)
def an_older_row_was_deleted(world: World) -> Planted:
    who, event = _past(world)
    _save(world, [row for row in pq.read_table(world.features).to_pylist() if not _is_row(row, who, event)])
    return rows_of(who, MISSING_ROW, event)


@fault(EXTRA_ROW, causes.TIE)
def an_older_row_is_there_twice(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    _save(world, rows + [row for row in rows if _is_row(row, who, event)])
    return rows_of(who, EXTRA_ROW, event, features=["event_timestamp"])


@fault(WRONG_ROW, causes.TIE)
def an_older_row_has_a_twin_of_another_value(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    _save(world, rows + [row | {TOTAL: 1001} for row in rows if _is_row(row, who, event)])
    return rows_of(who, WRONG_ROW, event, features=[TOTAL])


@fault(EXTRA_ROW, causes.TAMPERED)
def an_older_row_was_added(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    _save(world, [*rows, *(row | {"event_timestamp": event - DAY} for row in rows if _is_row(row, who, event))])
    return rows_of(who, EXTRA_ROW, event - DAY)


@fault(EXTRA_ROW, causes.DELETED)
def an_older_purchase_is_gone_from_the_transactions(world: World) -> Planted:
    who = world.fresh()
    event = world.last(who) - 20 * DAY
    later = world.events(who) - {world.last(who)}
    world.rows.append((who, event, "123.45"))
    world.write()
    world.compute()
    world.materialize()
    world.rows.pop()
    world.write()
    wrong = rows_of(who, WRONG_ROW, *later, features=[TOTAL])
    return {(who, TOTAL, None, WRONG)} | wrong | rows_of(who, EXTRA_ROW, event)


@fault(EXTRA_ROW, causes.TIME_ZONE)
def an_older_row_is_of_another_time_zone(world: World) -> Planted:
    who, event = _past(world)
    moved = event + timedelta(hours=5, minutes=45)
    rows = pq.read_table(world.features).to_pylist()
    _save(world, [row | {"event_timestamp": moved} if _is_row(row, who, event) else row for row in rows])
    return rows_of(who, EXTRA_ROW, moved) | rows_of(who, MISSING_ROW, event)


@fault(EXTRA_ROW, causes.FUTURE)
def a_row_from_the_future_was_added(world: World) -> Planted:
    who, event = _past(world)
    future = world.now + timedelta(days=3, minutes=7)
    rows = pq.read_table(world.features).to_pylist()
    _save(world, [*rows, *(row | {"event_timestamp": future} for row in rows if _is_row(row, who, event))])
    return rows_of(who, EXTRA_ROW, future)


@fault(EXTRA_ROW, causes.TAMPERED)
def a_user_whom_nobody_knows_has_an_old_row(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    old = world.now - TTL - DAY
    _save(
        world,
        [*rows, *(row | {user.join_key: 902, "event_timestamp": old} for row in rows if _is_row(row, who, event))],
    )
    return rows_of(902, EXTRA_ROW, old)


def _mean(amounts: list[str]) -> float:
    return float(sum(Fraction(amount) for amount in amounts) / len(amounts))
