"""The faults of the zoo: each a way in which feature stores really go wrong, planted in a world.

A fault returns the values that it spoils, and is declared with the kind of difference and the cause that the checker
has to find in each of them.
"""

import io
import statistics
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from parity.compare.equal import same
from parity.definition.keys import Key
from parity.definition.table import Definition, Rule
from parity.proof import causes
from parity.proof.found import EXTRA, EXTRA_ROW, MISMATCH, MISSING, MISSING_ROW, WRONG, WRONG_ROW, OtherKey
from parity.stream.apply import Applier
from parity.stream.seed import seed
from parity.stream.state import FINGERPRINT_DIGITS, write_applied
from tests.world import (
    AVERAGE,
    DAY,
    EVENT,
    KINDS,
    LOCAL,
    MICROSECOND,
    OFFLINE,
    OURS,
    SIMPLE,
    STOCK,
    TOTAL,
    TTL,
    WINDOW,
    Event,
    T,
    World,
)

SLIDING = ["sliding", "sliding texts"]
"""Kinds whose windows slide, with the same two features."""
STREAMED = ["streamed", "streamed texts", "streamed, sliding"]
"""Kinds that a stream writes beside the batch, with the same two features."""

Planted = set[tuple]
"""The values that a fault makes wrong: (key, feature) at the instant of the comparison, and (key, feature, instant,
kind of difference) in the row of an instant; with the cause behind, if it is not that of the fault. Keys are numbers,
or texts that name keys of other types."""


class Fault:
    """A fault: what it does to a world, and what the checker has to say of the values that it spoils."""

    def __init__(
        self, plant: Callable[[World], Planted], kind: str, cause: str, online: str, offline: str, of: Sequence[str]
    ):
        self.plant, self.kind, self.cause, self.online, self.offline, self.of = plant, kind, cause, online, offline, of
        self.is_of_stream = all(KINDS[name].streamed for name in of)
        self.name = plant.__name__.replace("_", " ")

    def world(self, seed: int) -> str:
        """The kind of the world in which it is planted: another one for another ``seed``."""
        return self.of[(zlib.crc32(self.name.encode()) + seed) % len(self.of)]

    def expected(self, value: tuple) -> tuple[tuple, tuple[str, str]]:
        """A planted value as (key, feature, instant of the row, if any), and the kind and cause it has to have."""
        who, feature, *row = value
        instant, kind, cause = (*row, *(None, self.kind, self.cause)[len(row) :])
        return (who, feature, instant), (kind or self.kind, cause)


FAULTS: list[Fault] = []


def fault(kind: str, cause: str, online: str = OURS, offline: str = OFFLINE, of: Sequence[str] = SIMPLE):
    def enter(plant: Callable[[World], Planted]) -> Callable[[World], Planted]:
        FAULTS.append(Fault(plant, kind, cause, online, offline, of))
        return plant

    return enter


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
    world.push(who, old[EVENT], old)
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
    world.push(who, row[EVENT] - timedelta(hours=8), row)
    return both(who)


@fault(MISMATCH, causes.TIME_ZONE)
def an_event_time_is_shifted_and_no_value_differs_yet(world: World) -> Planted:
    who = world.fresh()
    row = world.row(who)
    world.push(who, row[EVENT] - timedelta(hours=5), row)
    return {(who, EVENT)}


@fault(MISMATCH, causes.COERCION, of=[*SIMPLE, *SLIDING])
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
    world.push(who, row[EVENT] + timedelta(hours=9), row)
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


@fault(MISMATCH, causes.COERCION, of=[*SIMPLE, *SLIDING])
def the_total_is_stored_as_a_float(world: World) -> Planted:
    who = world.fresh()
    world.put(who, TOTAL, Value(double_val=float(world.row(who)[TOTAL])))
    return {(who, TOTAL)}


@fault(MISMATCH, causes.COERCION, of=[*SIMPLE, *SLIDING])
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
    world.change_history(who, row[EVENT], **{TOTAL: row[TOTAL] - tied})
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
    world.save_rows(others + twins)
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
    world.save_rows([row for row in pq.read_table(world.features).to_pylist() if not world.is_of(row, who)])
    return both(who) | rows_of(who, MISSING_ROW, *(world.events(who) - {world.last(who)}))


@fault(EXTRA, causes.DELETED)
def a_user_whom_nobody_knows_has_an_event_online_and_no_values(world: World) -> Planted:
    field = f"_ts:{world.view.name}"
    world.client.hset(world.redis_key(777), field, world.client.hget(world.redis_key(world.fresh()), field))
    return {(777, EVENT)}


@fault(EXTRA, causes.DELETED)
def a_user_whom_nobody_knows_is_served(world: World) -> Planted:
    world.client.hset(world.redis_key(777), mapping=world.client.hgetall(world.redis_key(world.fresh())))
    return both(777)


# Never materialized


@fault(MISSING, causes.NEVER)
def a_key_is_lost(world: World) -> Planted:
    who = world.fresh()
    world.client.delete(world.redis_key(who))
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
    world.client.hdel(world.redis_key(who), _mmh3(f"{world.view.name}:{TOTAL}"))
    return {(who, TOTAL)}


@fault(MISSING, causes.NEVER)
def most_of_redis_was_lost(world: World) -> Planted:
    fresh = [who for who in world.users if T - world.last(who) < TTL - DAY]
    for who in fresh[1:]:
        world.client.delete(world.redis_key(who))
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
    world.client.hset(world.redis_key(who), field, event.SerializeToString())
    return {(who, EVENT)}


@fault(MISMATCH, causes.TAMPERED, of=[*SIMPLE, *SLIDING])
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
    world.client.hset(world.redis_key(who), f"_ts:{world.view.name}", b"\xff\xff\xff")
    return both(who)


@fault(WRONG, causes.TAMPERED)
def a_total_was_changed_in_the_parquet_and_materialized(world: World) -> Planted:
    who = world.fresh()
    row = world.row(who)
    world.change_history(who, row[EVENT], **{TOTAL: row[TOTAL] + 1000})
    world.materialize()
    return {(who, TOTAL)}


@fault(MISMATCH, causes.TAMPERED)
def a_total_was_changed_in_the_parquet(world: World) -> Planted:
    who = world.fresh()
    row = world.row(who)
    world.change_history(who, row[EVENT], **{TOTAL: row[TOTAL] + 1000})
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


def _is_row(world: World, row: dict, who: int, event: datetime) -> bool:
    return world.is_of(row, who) and row[EVENT] == event


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
    world.save_rows([row for row in pq.read_table(world.features).to_pylist() if not _is_row(world, row, who, event)])
    return rows_of(who, MISSING_ROW, event)


@fault(EXTRA_ROW, causes.TIE)
def an_older_row_is_there_twice(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    world.save_rows(rows + [row for row in rows if _is_row(world, row, who, event)])
    return rows_of(who, EXTRA_ROW, event, features=[EVENT])


@fault(WRONG_ROW, causes.TIE)
def an_older_row_has_a_twin_of_another_value(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    world.save_rows(rows + [row | {TOTAL: 1001} for row in rows if _is_row(world, row, who, event)])
    return rows_of(who, WRONG_ROW, event, features=[TOTAL])


@fault(EXTRA_ROW, causes.TAMPERED)
def an_older_row_was_added(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    world.save_rows([*rows, *(row | {EVENT: event - DAY} for row in rows if _is_row(world, row, who, event))])
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
    world.save_rows([row | {EVENT: moved} if _is_row(world, row, who, event) else row for row in rows])
    return rows_of(who, EXTRA_ROW, moved) | rows_of(who, MISSING_ROW, event)


@fault(EXTRA_ROW, causes.FUTURE)
def a_row_from_the_future_was_added(world: World) -> Planted:
    who, event = _past(world)
    future = world.now + timedelta(days=3, minutes=7)
    rows = pq.read_table(world.features).to_pylist()
    world.save_rows([*rows, *(row | {EVENT: future} for row in rows if _is_row(world, row, who, event))])
    return rows_of(who, EXTRA_ROW, future)


@fault(EXTRA_ROW, causes.TAMPERED)
def a_user_whom_nobody_knows_has_an_old_row(world: World) -> Planted:
    who, event = _past(world)
    rows = pq.read_table(world.features).to_pylist()
    old = world.now - TTL - DAY
    other = {name: value for name, [value] in world.columns_of(902).items()} | {EVENT: old}
    world.save_rows([*rows, *(row | other for row in rows if _is_row(world, row, who, event))])
    return rows_of(902, EXTRA_ROW, old)


# Keys of other kinds than numbers


def _is_online_as(world: World, who: int, wrong: Key) -> Planted:
    """Move the row of a key online to a ``wrong`` key, which nobody knows; values of both are spoiled."""
    world.named[901] = wrong
    row = world.row(who)
    world.client.rename(world.redis_key(who), world.redis_key(901))
    assert row[EVENT] == world.last(who)
    gone = {(901, feature, None, EXTRA, causes.DELETED) for feature in (AVERAGE, TOTAL)}
    return both(who) | gone


def _known_as(world: World, key: Key) -> int:
    """A key, as of a customer of these names, with a purchase of yesterday."""
    world.named[900] = key
    world.rows.append((900, T - DAY, "5.00"))
    world.write()
    world.compute()
    world.materialize()
    return 900


@fault(MISSING, causes.NEVER, of=["text"])
def a_writer_loses_the_zeros_that_an_id_begins_with(world: World) -> Planted:
    who = world.fresh()
    [key] = world.key(who)
    return _is_online_as(world, who, (key.lstrip("0"),))


@fault(MISSING, causes.NEVER, of=["text"])
def a_writer_trims_ids(world: World) -> Planted:
    return _is_online_as(world, _known_as(world, (" 0042 ",)), ("0042",))


@fault(MISSING, causes.NEVER, of=["text"])
def a_writer_changes_the_capitals_of_ids(world: World) -> Planted:
    return _is_online_as(world, _known_as(world, ("Ada@Example.org",)), ("ada@example.org",))


@fault(MISSING, causes.NEVER, of=["text"])
def a_writer_has_another_normal_form_of_unicode(world: World) -> Planted:
    return _is_online_as(world, _known_as(world, ("caf\u00e9",)), ("cafe\u0301",))


@fault(MISSING, causes.NEVER, of=["two texts"])
def a_writer_swaps_two_join_keys(world: World) -> Planted:
    who = world.fresh()
    return _is_online_as(world, who, world.key(who)[::-1])


@fault(MISSING, causes.NEVER, of=["text and int64"])
def a_writer_puts_one_join_key_together_with_that_of_another(world: World) -> Planted:
    who = world.fresh()
    customer, store = world.key(who)
    return _is_online_as(world, who, (customer, store + 10))


@fault(EXTRA, causes.COERCION, of=["int64", "int32", "text"])
def a_row_is_online_under_a_key_of_another_type(world: World) -> Planted:
    who = world.fresh()
    [name] = world.kind.keys
    is_int64 = world.kind.keys[name] == "INT64"
    value = Value(string_val="7") if is_int64 else Value(int64_val=7)
    key = serialize_entity_key(EntityKey(join_keys=[name], entity_values=[value]), 3)
    mapping = world.client.hgetall(world.redis_key(who))
    world.client.hset(key + world.store.config.project.encode(), mapping=mapping)
    return {(OtherKey(f"{name} '7' of type string" if is_int64 else f"{name} 7 of type int64"), EVENT)}


# Each function, as it is commonly got wrong

DEVIATION, VARIANCE, FIRST, LAST = "std_amount_30d", "var_amount_7d", "first_sku_7d", "last_sku_ever"
SUM, LEAST, MOST, DISTINCT = "sum_amount_7d", "min_amount_7d", "max_amount_7d", "count_distinct_sku_7d"
PIECES, GREATEST_TEXT, LAST_QUANTITY = "sum_quantity_7d", "max_sku_7d", "last_quantity_ever"
WEEK, MONTH = timedelta(days=7), timedelta(days=30)
RICH = ["every function", "every function of two keys", "local times"]


def _bought(world: World, *purchases: tuple[timedelta, str, int, str]) -> list[datetime]:
    """Let key 900 buy at these ages before yesterday, for these amounts, quantities and skus; give the instants."""
    instants = []
    for age, amount, quantity, sku in purchases:
        row = (900, T - DAY - age, amount)
        world.others[row] = (quantity, sku, "paid")
        world.rows.append(row)
        instants.append(row[1])
    world.write()
    world.compute()
    world.materialize()
    return instants


def _is_computed_as(world: World, **values: Any) -> Planted:
    """Let the last row of key 900 have other values offline, and online."""
    world.change_history(900, T - DAY, **values)
    world.materialize()
    return {(900, feature) for feature in values}


NOTHING = timedelta()
THREE = [(NOTHING, "10.00", 1, "b"), (DAY, "20.00", 2, "c"), (2 * DAY, "60.00", 3, "a")]


@fault(WRONG, causes.DEFINITION, of=RICH)
def a_variance_is_that_of_a_population(world: World) -> Planted:
    _bought(world, *THREE)
    variance = statistics.pvariance([10.0, 20.0, 60.0])
    return _is_computed_as(world, **{VARIANCE: variance, DEVIATION: variance**0.5})


@fault(WRONG, causes.DEFINITION, of=RICH)
def a_deviation_of_one_value_is_zero(world: World) -> Planted:
    _bought(world, (NOTHING, "10.00", 1, "b"))
    return _is_computed_as(world, **{DEVIATION: 0.0})


@fault(WRONG, causes.COERCION, of=RICH)
def a_deviation_is_kept_in_single_precision(world: World) -> Planted:
    _bought(world, *THREE)
    return _is_computed_as(world, **{DEVIATION: float(np.float32(statistics.stdev([10.0, 20.0, 60.0])))})


@fault(WRONG, causes.DEFINITION, of=RICH)
def a_maximum_never_forgets(world: World) -> Planted:
    _bought(world, *THREE, (WEEK + DAY, "999.00", 1, "z"))
    return _is_computed_as(world, **{MOST: 999.0, GREATEST_TEXT: "z"})


@fault(WRONG, causes.DEFINITION, of=RICH)
def a_minimum_never_forgets(world: World) -> Planted:
    _bought(world, *THREE, (WEEK + DAY, "-999.00", 1, "b"))
    return _is_computed_as(world, **{LEAST: -999.0})


@fault(WRONG, causes.WINDOW_EDGE, of=RICH)
def a_minimum_leaves_out_the_start_of_its_window(world: World) -> Planted:
    _bought(world, *THREE, (WEEK, "-999.00", 1, "b"))
    return _is_computed_as(world, **{LEAST: 10.0, SUM: 90.0, PIECES: 6})


@fault(WRONG, causes.DEFINITION, of=RICH)
def distinct_values_are_counted_of_all_rows(world: World) -> Planted:
    _bought(world, *THREE, (WEEK + DAY, "5.00", 1, "z"))
    return _is_computed_as(world, **{DISTINCT: 4})


@fault(WRONG, causes.WINDOW_EDGE, of=RICH)
def distinct_values_leave_out_the_row_itself(world: World) -> Planted:
    _bought(world, *THREE)
    return _is_computed_as(world, **{DISTINCT: 2})


@fault(WRONG, causes.TIE, of=RICH)
def the_last_of_two_tied_values_is_the_other_one(world: World) -> Planted:
    _bought(world, *THREE, (NOTHING, "11.00", 7, "z"), (NOTHING, "12.00", 5, "m"))
    return _is_computed_as(world, **{LAST: "m", LAST_QUANTITY: 1})


@fault(WRONG, causes.TIE, of=RICH)
def the_first_of_two_tied_values_is_the_other_one(world: World) -> Planted:
    _bought(world, *THREE, (2 * DAY, "61.00", 3, "q"))
    return _is_computed_as(world, **{FIRST: "q"})


@fault(WRONG, causes.WINDOW_EDGE, of=RICH)
def the_last_value_is_that_of_the_row_before(world: World) -> Planted:
    _bought(world, *THREE)
    return _is_computed_as(world, **{LAST: "c", LAST_QUANTITY: 2})


@fault(MISMATCH, causes.COERCION, of=RICH)
def a_text_is_trimmed_online(world: World) -> Planted:
    _bought(world, (NOTHING, "10.00", 1, " A-1 "))
    world.put(900, LAST, Value(string_val="A-1"))
    return {(900, LAST)}


@fault(MISMATCH, causes.COERCION, of=RICH)
def a_text_loses_its_zeros_online(world: World) -> Planted:
    _bought(world, (NOTHING, "10.00", 1, "007"))
    world.put(900, LAST, Value(string_val="7"))
    world.put(900, FIRST, Value(int64_val=7))
    return {(900, LAST), (900, FIRST)}


@fault(WRONG, causes.COERCION, of=RICH)
def the_capitals_of_a_text_are_changed(world: World) -> Planted:
    _bought(world, (NOTHING, "10.00", 1, "a-\u00e9"))
    return _is_computed_as(world, **{LAST: "A-\u00c9"})


@fault(WRONG, causes.COERCION, of=RICH)
def a_whole_sum_is_kept_in_32_bits(world: World) -> Planted:
    _bought(world, (NOTHING, "10.00", 2**31 + 5, "b"))
    return _is_computed_as(world, **{PIECES: -(2**31) + 5})


@fault(MISMATCH, causes.TAMPERED, of=RICH)
def a_text_was_changed_in_redis(world: World) -> Planted:
    _bought(world, (NOTHING, "10.00", 1, "b"))
    world.put(900, LAST, Value(string_val="other"))
    return {(900, LAST)}


@fault(MISSING, causes.NEVER, of=RICH)
def a_text_was_never_written(world: World) -> Planted:
    who = world.fresh()
    world.client.hdel(world.redis_key(who), _mmh3(f"{world.view.name}:{LAST}"))
    return {(who, LAST)}


# Conditions, zones and definitions


def _is_beside(world: World, status: str) -> Planted:
    """Let key 900 have a row that its condition leaves out, at the instant of one that it does not leave out, and the
    engine look at both."""
    world.others[(900, T - DAY, "5.00")] = (1, "a", "paid")
    world.others[(900, T - DAY, "7.00")] = (1, "a", status)
    world.rows += [(900, T - DAY, "5.00"), (900, T - DAY, "7.00")]
    world.write()
    world.compute()
    world.materialize()
    return _is_computed_as(world, **{AVERAGE: 6.0, TOTAL: 2, SUM: 12.0, PIECES: 2})


@fault(WRONG, causes.TAMPERED, of=["condition"])
def the_condition_is_not_looked_at(world: World) -> Planted:
    return _is_beside(world, "open")


@fault(WRONG, causes.TAMPERED, of=["condition"])
def null_is_taken_to_meet_the_condition(world: World) -> Planted:
    return _is_beside(world, "")


@fault(EXTRA_ROW, causes.TAMPERED, of=["condition"])
def a_row_that_the_condition_leaves_out_is_computed(world: World) -> Planted:
    who = world.fresh()
    event = world.last(who) - 20 * DAY
    world.others[(who, event, "7.00")] = (1, "a", "open")
    world.rows.append((who, event, "7.00"))
    world.write()
    world.compute()
    row = next(row for row in pq.read_table(world.features).to_pylist() if world.is_of(row, who))
    world.save_rows([*pq.read_table(world.features).to_pylist(), row | {EVENT: event}])
    world.materialize()
    return rows_of(who, EXTRA_ROW, event, features=world.every_feature)


@fault(MISSING_ROW, causes.TIME_ZONE, of=["local times"])
def the_zone_of_local_times_is_not_looked_at(world: World) -> Planted:
    settled = [who for who in world.users if T - TTL + DAY < world.last(who) < T - DAY]
    world.rows = [row for row in world.rows if row[0] in settled[:5]]
    world.write()
    reading = replace(world.table.definition.reading, time_zone=None)
    world.compute(definition=replace(world.table.definition, reading=reading))
    world.materialize()
    planted: Planted = set()
    for who in world.users:
        raw = world.events(who)
        moved = {time + LOCAL for time in raw}
        planted |= rows_of(who, MISSING_ROW, *(raw - moved), features=world.every_feature)
        planted |= rows_of(who, EXTRA_ROW, *(moved - raw), features=world.every_feature)
    return planted


def _is_redefined(world: World, definition: Definition, materialized: bool = True) -> Planted:
    """Let the features be those of another definition, as its file says, and not of the one that is declared."""
    right = world.history()
    found = world.history(definition).replace_schema_metadata(definition.schema.metadata)
    world.save(found)
    world.materialize()
    return _between(world, right, found)


def _between(world: World, right: pa.Table, wrong: pa.Table, served: pa.Table | None = None) -> Planted:
    """Every value in which the history that both stores have is ``wrong``: at the instant when the world is compared, a
    minute from now, and in its rows. Serving may have another history, that of ``served``."""
    at, planted = world.now + timedelta(minutes=1), set()
    here, there = _by_row(world, right), _by_row(world, wrong)
    for who in world.users:
        events = {event for number, event in here.keys() | there.keys() if number == who}
        last = [max((e for n, e in rows if n == who and e <= at), default=None) for rows in (here, there)]
        for feature in world.every_feature:
            now = [
                rows[who, event][feature] if event and at - event <= world.kind.ttl else None
                for rows, event in zip((here, there), last, strict=True)
            ]
            is_named = not same(*now)
            if is_named and served is right:
                kind = EXTRA if now[1] is None else MISSING if now[0] is None else MISMATCH
                planted.add((who, feature, None, kind))
            elif is_named:
                planted.add((who, feature, None, WRONG))
            for event in events:
                rows = here.get((who, event)), there.get((who, event))
                if all(rows) and same(*(row[feature] for row in rows)):
                    continue
                kind = WRONG_ROW if all(rows) else EXTRA_ROW if rows[1] else MISSING_ROW
                if not (is_named and event == max(filter(None, last))):
                    planted.add((who, feature, event, kind))
    return planted


def _by_row(world: World, history: pa.Table) -> dict[tuple[int, datetime], dict]:
    numbers = {world.key(who): who for who in world.users}
    rows = history.to_pylist()
    return {(numbers[tuple(row[name] for name in world.kind.keys)], row[EVENT]): row for row in rows}


def _with_rules(definition: Definition, change: Callable[[Rule], Rule]) -> Definition:
    return replace(definition, rules=tuple(map(change, definition.rules)))


@fault(WRONG, causes.DEFINITION, of=[*SIMPLE, *RICH])
def a_window_was_made_longer_and_not_computed(world: World) -> Planted:
    def change(rule: Rule) -> Rule:
        return replace(rule, time_window=timedelta(days=4)) if rule.time_window == WINDOW else rule

    return _is_redefined(world, _with_rules(world.table.definition, change))


@fault(WRONG, causes.DEFINITION, of=[*SIMPLE, *RICH])
def a_mean_became_a_minimum_and_was_not_computed(world: World) -> Planted:
    def change(rule: Rule) -> Rule:
        return replace(rule, function="min") if rule.name == AVERAGE else rule

    return _is_redefined(world, _with_rules(world.table.definition, change))


# Windows that slide

LEFT = WINDOW + MICROSECOND
"""How long after a purchase it has left the window of `AVERAGE`."""


def _slides(world: World) -> datetime:
    """Let key 900 buy once yesterday and once the day before, and long ago; give the instant at which the older one of
    the two leaves the window, which is yet to come."""
    for age in (DAY, 2 * DAY, 20 * DAY, 21 * DAY):
        world.rows.append((900, T - age, f"{age.days * 7}.31"))
    world.write()
    world.compute()
    world.materialize()
    return T - 2 * DAY + LEFT


def _holds(instant: datetime) -> Planted:
    """The average of key 900 from the ``instant`` of `_slides` on, at its edges and at that of the next step."""
    around = (instant, instant + MICROSECOND, T - DAY + LEFT - MICROSECOND)
    return {(900, AVERAGE, edge) for edge in around}


def _rows(world: World) -> list[dict]:
    return pq.read_table(world.features).to_pylist()


def _of_900(world: World) -> list[dict]:
    return [row for row in _rows(world) if world.is_of(row, 900)]


@fault(MISSING_ROW, causes.DELETED, of=SLIDING)
def a_step_is_missing(world: World) -> Planted:
    _slides(world)
    step = T - 20 * DAY + LEFT
    world.save_rows([row for row in _rows(world) if not _is_row(world, row, 900, step)])
    return rows_of(900, MISSING_ROW, step)


@fault(MISSING_ROW, causes.DELETED, of=SLIDING)
def a_step_to_come_is_missing_in_both_stores(world: World) -> Planted:
    step = _slides(world)
    world.save_rows([row for row in _rows(world) if not _is_row(world, row, 900, step)])
    world.materialize()
    return rows_of(900, MISSING_ROW, step)


@fault(EXTRA_ROW, causes.WINDOW_EDGE, of=SLIDING)
def a_purchase_leaves_its_window_a_microsecond_early(world: World) -> Planted:
    _slides(world)
    step = T - 20 * DAY + LEFT
    early = step - MICROSECOND
    world.save_rows([row | {EVENT: early} if _is_row(world, row, 900, step) else row for row in _rows(world)])
    return rows_of(900, EXTRA_ROW, early) | rows_of(900, MISSING_ROW, step)


@fault(EXTRA_ROW, causes.WINDOW_EDGE, of=SLIDING)
def a_purchase_leaves_its_window_a_microsecond_late(world: World) -> Planted:
    _slides(world)
    step = T - 21 * DAY + LEFT
    late = step + MICROSECOND
    world.save_rows([row | {EVENT: late} if _is_row(world, row, 900, step) else row for row in _rows(world)])
    return rows_of(900, EXTRA_ROW, late) | rows_of(900, MISSING_ROW, step)


@fault(WRONG_ROW, causes.WINDOW_EDGE, of=SLIDING)
def a_step_still_has_the_purchase_that_leaves(world: World) -> Planted:
    _slides(world)
    step = T - 21 * DAY + LEFT
    world.change_history(900, step, **{AVERAGE: 143.81})
    return rows_of(900, WRONG_ROW, step, features=[AVERAGE])


@fault(WRONG_ROW, causes.WINDOW_EDGE, of=SLIDING)
def a_purchase_does_not_see_one_at_the_start_of_its_window(world: World) -> Planted:
    _slides(world)
    event = T - 20 * DAY + WINDOW
    world.rows.append((900, event, "7.50"))
    world.write()
    world.compute()
    world.materialize()
    world.change_history(900, event, **{AVERAGE: 7.5})
    return rows_of(900, WRONG_ROW, event, features=[AVERAGE])


@fault(WRONG_ROW, causes.DEFINITION, of=SLIDING)
def a_mean_of_nothing_is_zero(world: World) -> Planted:
    _slides(world)
    step = T - 20 * DAY + LEFT
    world.change_history(900, step, **{AVERAGE: 0.0})
    return rows_of(900, WRONG_ROW, step, features=[AVERAGE])


@fault(WRONG_ROW, causes.DEFINITION, of=SLIDING)
def a_value_stays_until_the_next_purchase(world: World) -> Planted:
    _slides(world)
    step = T - 20 * DAY + LEFT
    world.change_history(900, step, **{AVERAGE: 143.81})
    return rows_of(900, WRONG_ROW, step, features=[AVERAGE])


@fault(WRONG_ROW, causes.TAMPERED, of=SLIDING)
def a_step_to_come_was_changed_in_both_stores(world: World) -> Planted:
    step = _slides(world)
    world.change_history(900, step, **{AVERAGE: 1001.0})
    world.materialize()
    return rows_of(900, WRONG_ROW, step, features=[AVERAGE])


@fault(MISSING_ROW, causes.DEFINITION, of=SLIDING)
def a_table_is_computed_without_sliding(world: World) -> Planted:
    right = world.history()
    definition = replace(world.table.definition, continuous=False)
    wrong = world.history(definition)
    world.save(wrong)
    world.materialize()
    return _between(world, right, wrong)


@fault(WRONG, causes.TIME_ZONE, of=SLIDING)
def a_table_that_slides_is_computed_in_local_time(world: World) -> Planted:
    world.rows = [row for row in world.rows if row[0] <= 5]
    world.write()
    right = world.history()
    wrong = world.history(shift=timedelta(hours=5, minutes=30))
    world.save(wrong)
    world.materialize()
    return _between(world, right, wrong)


@fault(EXTRA, causes.LATE_ROW, online=STOCK, of=["sliding"])
def stock_redis_does_not_slide(world: World) -> Planted:
    left = world.now + timedelta(minutes=3, seconds=50)
    world.rows = [(900, left - LEFT, "7.31")]
    world.write()
    world.compute()
    world.materialize()
    return {(900, AVERAGE)}


def _has_just_left(world: World, *earlier: timedelta) -> datetime:
    """Let key 900 buy, after purchases so much ``earlier``, what leaves the window between the materialization and the
    comparison; give when it was bought."""
    bought = world.now + timedelta(minutes=3, seconds=50) - LEFT
    world.rows = [row for row in world.rows if row[0] <= 5]
    world.rows += [(900, bought - age, "7.31") for age in (timedelta(), *earlier)]
    world.write()
    world.compute()
    world.materialize()
    return bought


@fault(MISMATCH, causes.DELETED, of=SLIDING)
def the_last_purchase_is_deleted_when_it_has_left_its_window(world: World) -> Planted:
    last = _has_just_left(world, 20 * DAY)
    world.rows = [row for row in world.rows if row[:2] != (900, last)]
    world.write()
    world.compute()
    return {(900, TOTAL)}


@fault(MISMATCH, causes.DELETED, of=SLIDING)
def a_purchase_before_the_last_is_deleted_when_it_has_left_its_window(world: World) -> Planted:
    bought = _has_just_left(world, -DAY / 2, -DAY)
    world.now += 3 * DAY / 4
    world.rows = [row for row in world.rows if row[:2] != (900, bought + DAY / 2)]
    world.write()
    world.compute()
    return {(900, TOTAL)}


@fault(EXTRA, causes.DEFINITION, of=SLIDING)
def a_row_online_knows_no_step_of_the_windows_that_are_declared_since(world: World) -> Planted:
    bought = _has_just_left(world, 20 * DAY)
    world.put_steps(900, [row for row in _of_900(world) if row[EVENT] == bought])
    world.compute()
    return {(900, AVERAGE)}


@fault(WRONG, causes.DEFINITION, of=SLIDING)
def a_window_that_slides_was_made_longer_and_not_computed(world: World) -> Planted:
    def change(rule: Rule) -> Rule:
        return replace(rule, time_window=timedelta(days=4)) if rule.time_window == WINDOW else rule

    return _is_redefined(world, _with_rules(world.table.definition, change))


@fault(WRONG, causes.LATE_ROW, of=[*SLIDING, "sliding, every function"])
def a_late_purchase_is_not_computed(world: World) -> Planted:
    _slides(world)
    wrong = world.history()
    world.rows.append((900, T - 36 * timedelta(hours=1), "99.50"))
    world.write()
    return _between(world, world.history(), wrong)


@fault(MISMATCH, causes.CORRECTION, of=["sliding"])
def a_late_purchase_is_computed_and_not_materialized(world: World) -> Planted:
    _slides(world)
    world.rows.append((900, T - 36 * timedelta(hours=1), "99.50"))
    world.write()
    world.compute()
    return both(900)


@fault(MISMATCH, causes.WINDOW_EDGE, of=SLIDING)
def a_step_online_still_has_the_purchase_that_leaves(world: World) -> Planted:
    step = _slides(world)
    world.put_steps(900, [row | ({AVERAGE: 10.81} if row[EVENT] == step else {}) for row in _of_900(world)])
    return _holds(step)


@fault(MISMATCH, causes.TAMPERED, of=SLIDING)
def a_step_online_was_changed(world: World) -> Planted:
    step = _slides(world)
    world.put_steps(900, [row | ({AVERAGE: 1001.0} if row[EVENT] == step else {}) for row in _of_900(world)])
    return _holds(step)


@fault(MISMATCH, causes.TAMPERED, of=SLIDING)
def a_step_online_is_missing(world: World) -> Planted:
    step = _slides(world)
    world.put_steps(900, [row for row in _of_900(world) if row[EVENT] != step])
    return _holds(step)


@fault(MISMATCH, causes.WINDOW_EDGE, of=SLIDING)
def a_step_online_comes_a_microsecond_early(world: World) -> Planted:
    step = _slides(world)
    early = step - MICROSECOND
    world.put_steps(900, [row | ({EVENT: early} if row[EVENT] == step else {}) for row in _of_900(world)])
    return {(900, AVERAGE, early)}


@fault(MISMATCH, causes.WINDOW_EDGE, of=SLIDING)
def a_step_online_comes_a_microsecond_late(world: World) -> Planted:
    step = _slides(world)
    late = step + MICROSECOND
    world.put_steps(900, [row | ({EVENT: late} if row[EVENT] == step else {}) for row in _of_900(world)])
    return {(900, AVERAGE, step)}


@fault(MISMATCH, causes.DEFINITION, of=SLIDING)
def the_steps_online_are_those_of_another_window(world: World) -> Planted:
    def change(rule: Rule) -> Rule:
        return replace(rule, time_window=timedelta(days=2)) if rule.time_window == WINDOW else rule

    _slides(world)
    other = world.history(_with_rules(world.table.definition, change)).to_pylist()
    world.put_steps(900, [row for row in other if world.is_of(row, 900)])
    return {(900, AVERAGE)}


@fault(MISSING, causes.TAMPERED, of=SLIDING)
def the_steps_online_are_cut_off(world: World) -> Planted:
    _slides(world)
    world.put_steps(900, world.steps(900)[:-3])
    return both(900)


@fault(MISSING, causes.PAST_HORIZON, of=SLIDING)
def a_row_online_has_no_steps(world: World) -> Planted:
    _slides(world)
    world.client.hdel(world.redis_key(900), world.steps_field)
    return both(900)


@fault(MISSING, causes.PAST_HORIZON, of=[*SLIDING, "streamed, sliding"])
def nothing_was_materialized_for_longer_than_the_horizon(world: World) -> Planted:
    _slides(world)
    world.now += 2 * DAY
    at = world.now + timedelta(minutes=1)
    planted: Planted = set()
    for who in world.users:
        moments = {time for moment in world.events(who) for time in (moment, moment + LEFT) if time <= at}
        if at - max(moments) <= world.kind.ttl:
            planted.add((who, TOTAL))
            if any(at - event <= WINDOW for event in world.events(who)):
                planted.add((who, AVERAGE))
    return planted


# A stream beside the batch

HOUR = timedelta(hours=1)


def _streams(world: World) -> World:
    """Let key 900 have two purchases in its window, in both stores, before the stream brings any."""
    world.rows += [(900, T - 2 * DAY, "7.00"), (900, T - DAY, "14.00")]
    world.write()
    world.compute()
    world.materialize()
    return world


def _brings(world: World, *ages: timedelta, number: int = 900, id: str | None = None) -> list[Event]:
    """Events of a key, of these ages, each of another amount."""
    return [
        world.event(number, world.now - age, f"{100 + 31 * place}.25", id) for place, age in enumerate(ages, len(ages))
    ]


def _came(world: World, *ages: timedelta, id: str | None = None) -> list[Event]:
    """Events of key 900 that have come everywhere."""
    events = _brings(_streams(world), *ages, id=id)
    world.apply(*events)
    world.land(*events)
    world.compute()
    world.materialize()
    return events


def _is_ahead(world: World, *events: Event) -> Planted:
    """Let events come online and land, and not be computed."""
    computed = world.history()
    world.apply(*events)
    world.land(*events)
    right = world.history()
    return _between(world, right, computed, served=right)


@fault(MISMATCH, causes.AHEAD, of=STREAMED)
def an_event_is_online_and_landed_and_not_computed(world: World) -> Planted:
    return _is_ahead(world, *_brings(_streams(world), NOTHING))


@fault(MISMATCH, causes.AHEAD, of=STREAMED)
def a_late_event_is_online_and_landed_and_not_computed(world: World) -> Planted:
    return _is_ahead(world, *_brings(_streams(world), 36 * HOUR))


@fault(MISMATCH, causes.AHEAD, of=STREAMED)
def an_event_of_the_instant_of_another_is_online_and_landed_and_not_computed(world: World) -> Planted:
    _streams(world)
    return _is_ahead(world, world.event(900, T - DAY, "99.50"))


@fault(MISMATCH, causes.AHEAD, of=STREAMED)
def a_correction_is_online_and_landed_and_not_computed(world: World) -> Planted:
    [event] = _came(world, HOUR, id="e")
    return _is_ahead(world, world.event(900, event.row[1], "99.50", "e"))


@fault(EXTRA, causes.AHEAD, of=STREAMED)
def a_new_key_is_online_and_landed_and_not_computed(world: World) -> Planted:
    return _is_ahead(world, *_brings(world, 2 * HOUR, HOUR, number=901))


@fault(MISMATCH, causes.NOT_LANDED, of=STREAMED)
def an_event_is_online_and_not_landed(world: World) -> Planted:
    world.apply(*_brings(_streams(world), NOTHING))
    return both(900)


@fault(MISMATCH, causes.NOT_LANDED, of=STREAMED)
def a_late_event_is_online_and_not_landed(world: World) -> Planted:
    world.apply(*_brings(_streams(world), 36 * HOUR))
    return both(900)


@fault(MISMATCH, causes.NOT_LANDED, of=STREAMED)
def a_correction_is_online_and_not_landed(world: World) -> Planted:
    [event] = _came(world, HOUR, id="e")
    world.apply(world.event(900, event.row[1], "99.50", "e"))
    return {(900, AVERAGE)}


@fault(EXTRA, causes.NOT_LANDED, of=STREAMED)
def a_new_key_is_online_and_not_landed(world: World) -> Planted:
    world.apply(*_brings(world, HOUR, number=901))
    return both(901)


@fault(MISMATCH, causes.NOT_LANDED, of=STREAMED)
def an_event_is_online_and_one_before_it_is_not_computed(world: World) -> Planted:
    first, second = _brings(_streams(world), 2 * HOUR, HOUR)
    computed = world.history()
    world.apply(first, second)
    world.land(first)
    rows = {value for value in _between(world, world.history(), computed) if value[2]}
    named = rows_of(900, MISSING_ROW, first.row[1])  # of the last row, whose values differ at the present
    return both(900) | {(*value, causes.AHEAD) for value in rows - named}


@fault(MISMATCH, causes.NOT_LANDED, of=STREAMED)
def the_file_of_an_event_is_lost_before_it_is_computed(world: World) -> Planted:
    events = _brings(_streams(world), HOUR)
    world.apply(*events)
    world.land(*events)
    world.landed[-1].unlink()
    world.came.clear()
    return both(900)


@fault(WRONG, causes.DELETED, of=STREAMED)
def the_file_of_an_event_is_lost_after_it_was_computed(world: World) -> Planted:
    _came(world, HOUR)
    computed = world.history()
    world.landed[-1].unlink()
    return _between(world, world.history(), computed)


@fault(MISMATCH, causes.DELETED, of=STREAMED)
def the_file_of_an_event_is_lost_and_a_later_one_is_there(world: World) -> Planted:
    first, second = _brings(_streams(world), 2 * HOUR, HOUR)
    world.apply(first, second)
    world.land(first, rows_per_file=1)
    world.land(second, rows_per_file=1)
    world.landed[0].unlink()
    world.compute()
    return both(900)


@fault(MISMATCH, causes.LATE_ROW, of=STREAMED)
def an_event_has_landed_and_never_came_online(world: World) -> Planted:
    world.land(*_brings(_streams(world), HOUR))
    world.compute()
    return both(900)


@fault(MISMATCH, causes.LATE_ROW, of=STREAMED)
def a_late_event_has_landed_and_never_came_online(world: World) -> Planted:
    _came(world, 2 * HOUR)
    world.land(*_brings(world, 36 * HOUR))
    world.compute()
    return both(900)


@fault(WRONG, causes.LATE_ROW, of=STREAMED)
def an_event_has_landed_and_nobody_looked_at_it(world: World) -> Planted:
    _streams(world)
    computed = world.history()
    world.land(*_brings(world, HOUR))
    return _between(world, world.history(), computed)


@fault(MISMATCH, causes.LATE_ROW, of=STREAMED)
def two_events_of_a_partition_came_online_in_the_wrong_order(world: World) -> Planted:
    first, second = _brings(_streams(world), 3 * HOUR, 2 * HOUR)
    world.apply(second)
    world.apply(first)
    world.land(first, second)
    world.compute()
    return both(900)


@fault(MISMATCH, causes.LATE_ROW, of=STREAMED)
def an_event_has_landed_twice_and_came_online_once(world: World) -> Planted:
    [event] = _brings(_streams(world), HOUR)
    world.apply(event)
    world.land(event)
    world.land(event._replace(offset=event.offset + 1))
    world.compute()
    return both(900)


@fault(MISMATCH, causes.CORRECTION, of=STREAMED)
def an_event_is_later_than_can_be_computed_online(world: World) -> Planted:
    events = _brings(_streams(world), 20 * DAY)
    world.apply(*events)
    world.land(*events)
    world.compute()
    return {(900, TOTAL)}


@fault(MISMATCH, causes.CORRECTION, of=STREAMED)
def a_correction_has_landed_and_never_came_online(world: World) -> Planted:
    [event] = _came(world, HOUR, id="e")
    world.land(world.event(900, event.row[1], "99.50", "e"))
    world.compute()
    return {(900, AVERAGE)}


@fault(MISMATCH, causes.FUTURE, of=STREAMED)
def a_producers_clock_is_ahead_within_the_tolerance(world: World) -> Planted:
    world.store.config.online_store.future_tolerance_seconds = 3600
    _came(world, -HOUR / 2)
    return both(900)


@fault(MISMATCH, causes.LATE_ROW, of=["streamed", "streamed texts"])
def an_event_from_the_future_is_due_and_none_has_come_since(world: World) -> Planted:
    _came(world, -timedelta(minutes=4, seconds=30))
    return both(900)


@fault(MISMATCH, causes.OFFSET_RESET, of=STREAMED)
def a_stream_was_made_anew_with_its_files(world: World) -> Planted:
    _came(world, 3 * HOUR, 2 * HOUR)
    return _began_anew(world)


@fault(MISMATCH, causes.OFFSET_RESET, of=STREAMED)
def a_stream_was_made_anew_and_its_files_became_others(world: World) -> Planted:
    events = _came(world, 3 * HOUR, 2 * HOUR)
    world.rows += [event.row for event in events]
    world.write()
    return _began_anew(world)


def _began_anew(world: World) -> Planted:
    for path in world.landed:
        path.unlink()
    world.came.clear()
    world.offsets.clear()
    events = _brings(world, HOUR)
    world.apply(*events)
    world.land(*events)
    world.compute()
    return both(900)


@fault(MISMATCH, causes.OFFSET_RESET, of=STREAMED)
def what_is_applied_was_set_beyond_all_offsets(world: World) -> Planted:
    _came(world, 2 * HOUR)
    _set_applied(world, 10**6)
    events = _brings(world, HOUR)
    world.apply(*events)
    world.land(*events)
    world.compute()
    return both(900)


@fault(MISMATCH, causes.DOUBLED, of=STREAMED)
def what_is_applied_was_set_back_and_an_event_came_again(world: World) -> Planted:
    events = _came(world, HOUR)
    _set_applied(world, 0)
    world.apply(*events)
    return both(900)


@fault(MISMATCH, causes.DOUBLED, of=STREAMED)
def a_duplicate_is_counted_online(world: World) -> Planted:
    [event] = _brings(_streams(world), HOUR, id="e")
    again = world.event(*event.row, "e")
    world.apply(event, again._replace(id=None))
    world.land(event, again)
    world.compute()
    return both(900)


@fault(MISMATCH, causes.LATE_ROW, of=STREAMED)
def a_state_was_rolled_back_and_an_event_came(world: World) -> Planted:
    first, second = _brings(_streams(world), 2 * HOUR, HOUR)
    before = world.client.hget(world.redis_key(900), "_state:zoo")
    world.apply(first)
    world.client.hset(world.redis_key(900), "_state:zoo", before)
    world.apply(second)
    world.land(first, second)
    world.compute()
    return both(900)


@fault(MISMATCH, causes.LATE_ROW, of=STREAMED)
def a_state_is_damaged_and_its_event_was_left(world: World) -> Planted:
    _came(world, 2 * HOUR)
    world.client.hset(world.redis_key(900), "_state:zoo", b"\x01damaged")
    world.land(*_brings(world, HOUR))
    world.compute()
    return both(900)


@fault(MISMATCH, causes.DEFINITION, of=STREAMED)
def a_row_is_marked_as_of_another_definition_and_its_event_was_left(world: World) -> Planted:
    _came(world, 2 * HOUR)
    _set_applied(world, 1, "0123456789abcdef")
    events = _brings(world, HOUR)
    world.apply(*events)
    world.land(*events)
    world.compute()
    return both(900)


@fault(MISMATCH, causes.DEFINITION, of=STREAMED)
def a_worker_of_yesterday_brings_a_new_key(world: World) -> Planted:
    events = _brings(world, 84 * HOUR, NOTHING, number=901)
    yesterday = world.with_window(4)
    Applier(world.store, yesterday).note_seeded({})
    world.apply(*events, table=yesterday)
    world.land(*events)
    world.compute()
    return {(901, AVERAGE)}


@fault(MISMATCH, causes.DEFINITION, of=STREAMED)
def a_worker_of_yesterday_seeds_all_keys(world: World) -> Planted:
    _streams(world)
    yesterday = world.with_window(4)
    world.rows = [row for row in world.rows if row[0] == 900]
    world.rows += [(900, T - age * HOUR, f"{age}.25") for age in (84, 108)]
    world.write()
    world.compute()
    world.materialize()
    seed(world.store, yesterday, world.transactions, world.now)
    return {(900, AVERAGE)}


@fault(MISMATCH, causes.TAMPERED, of=STREAMED)
def an_average_that_a_stream_has_written_was_changed(world: World) -> Planted:
    events = _brings(_streams(world), HOUR)
    world.apply(*events)
    world.land(*events)
    world.compute()
    world.put(900, AVERAGE, Value(double_val=1001.0))
    return {(900, AVERAGE)}


@fault(MISMATCH, causes.COERCION, of=STREAMED)
def an_average_that_a_stream_has_written_was_rounded(world: World) -> Planted:
    event = world.event(900, _streams(world).now, "8.25")
    world.apply(event)
    world.land(event)
    world.compute()
    world.put(900, AVERAGE, Value(double_val=9.8))  # of 9.75
    return {(900, AVERAGE)}


@fault(MISMATCH, causes.TAMPERED, of=["streamed", "streamed texts"])
def an_event_that_a_stream_has_written_was_moved(world: World) -> Planted:
    events = _brings(_streams(world), HOUR)
    world.apply(*events)
    world.land(*events)
    world.compute()
    event = Timestamp()
    event.FromDatetime(events[0].row[1] - 7 * MICROSECOND)
    world.client.hset(world.redis_key(900), "_ts:zoo", event.SerializeToString())
    return {(900, EVENT)}


@fault(MISSING, causes.TAMPERED, of=["streamed, sliding"])
def a_row_that_a_stream_has_written_has_the_steps_of_the_row_before(world: World) -> Planted:
    _streams(world)
    before = world.steps(900)
    events = _brings(world, HOUR)
    world.apply(*events)
    world.land(*events)
    world.compute()
    world.put_steps(900, before)
    return both(900)


@fault(MISMATCH, causes.TAMPERED, of=["streamed, sliding"])
def a_step_that_a_stream_has_written_is_missing(world: World) -> Planted:
    events = _brings(_streams(world), HOUR)
    world.apply(*events)
    world.land(*events)
    world.compute()
    step = T - 2 * DAY + LEFT
    world.put_steps(900, [row for row in _of_900(world) if row[EVENT] != step])
    return _holds(step)


def _set_applied(world: World, offset: int, fingerprint: str | None = None) -> None:
    """Let the row of key 900 say that so many events of its partition are in it."""
    fingerprint = fingerprint or world.table.definition.fingerprint[:FINGERPRINT_DIGITS]
    applied = write_applied(fingerprint, {"zoo/0": offset})
    world.client.hset(world.redis_key(900), "_applied:zoo", applied)


def _mean(amounts: list[str]) -> float:
    return float(sum(Fraction(amount) for amount in amounts) / len(amounts))
