"""A world whose answers are logged as in production, and faults of what is served, each planted with a known cause.

Of every value that was served it notes, apart from the audit and in the plainest way, what the truth was by the rows
that the features were computed of then, and by those of today.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig
from feast.protos.feast.types.Value_pb2 import Value

from parity.audit import causes
from parity.audit.found import Audit
from parity.definition.table import Definition, Rule
from parity.offline.versions import superseding
from parity.online.side import clock_of, online_store_of
from parity.served.options import folder_of_log
from tests import brute_force
from tests.audits import audited
from tests.brute_force import moments_of
from tests.world import AVERAGE, DAY, EVENT, KINDS, MICROSECOND, World, applied, world

HOUR = timedelta(hours=1)
BATCH = [name for name in KINDS if not KINDS[name].streamed]
STEADY = [name for name in BATCH if not KINDS[name].continuous]
STREAMED = ["streamed", "streamed texts", "streamed, every function"]


class Version(NamedTuple):
    """What the features were computed of."""

    purchases: dict[int, list[brute_force.Row]]
    """By the number of the key, those that meet the condition."""
    definition: Definition


class Served(NamedTuple):
    """A value that was served."""

    number: int
    rule: Rule
    value: Any
    as_of: datetime
    version: int
    """The last one that was computed by then."""


class ServedWorld:
    """A world with `log_served` on, and what was asked of it."""

    def __init__(self, world: World, **log: Any):
        self.world, self.random = world, world.random
        folder = Path(world.features).parent / "served"
        world.options["online_store"] |= {"log_served": {"path": str(folder), **log}}
        world.store = FeatureStore(config=RepoConfig(**world.options))
        online_store_of(world.store).now = lambda: world.now
        self.served: list[Served] = []
        self.versions: list[Version] = []
        self.rows_asked = 0
        self.recompute()
        world.materialize()

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self.world.table.definition.rules

    def recompute(self, definition: Definition | None = None) -> None:
        """Compute the features as compute_features.py does, perhaps by another definition, and say so."""
        world = self.world
        with superseding(world.table, world.features):
            if definition:
                found = world.history(definition)
                world.save(found.replace_schema_metadata(definition.schema.metadata))
            else:
                world.compute()
        self.versions.append(self.version(definition))

    def rewrite(self) -> None:
        """Have the transactions be what they are now, compute, and bring it online."""
        self.world.write()
        self.recompute()
        self.world.materialize()

    def version(self, definition: Definition | None = None) -> Version:
        """What is computed of the transactions of now."""
        purchases: dict[int, list[brute_force.Row]] = {}
        for row in self.world.every_row:
            quantity, sku, status = self.world.beside(row)
            if status == "paid":
                values = {"amount": float(row[2]), "quantity": quantity, "sku": sku}
                purchases.setdefault(row[0], []).append(brute_force.Row((row[0],), row[1], values))
        return Version(purchases, definition or self.world.table.definition)

    def ask(self, *numbers: int) -> None:
        """Ask for some keys in one request, as a model server does."""
        world, as_of = self.world, online_store_of(self.world.store).now()
        keys = [world.key(number) for number in numbers]
        entities = {name: [key[place] for key in keys] for place, name in enumerate(world.kind.keys)}
        found = world.store.get_online_features(world.table.service, entities).to_dict()
        self.rows_asked += len(numbers)
        for rule in self.rules:
            for number, value in zip(numbers, found[rule.name], strict=True):
                self.served.append(Served(number, rule, value, as_of, len(self.versions) - 1))

    def ask_all(self) -> None:
        self.ask(*self.world.users, 998, 999)  # of the last two nobody knows

    def step(self, ask: Callable[[], None] | None = None) -> None:
        """Let time pass, let keys old and new buy, and serve when all is in step."""
        world, draw = self.world, self.random
        before = world.now
        world.now += draw.choice([MICROSECOND, HOUR, draw.random() * 5 * DAY, 3 * DAY])
        for _ in range(draw.choice([0, 1, 3, 10])):
            time = draw.choice([world.now, before + (world.now - before) * draw.random()])
            if time > before:
                world.rows.append((draw.choice([*world.users, 600 + draw.randrange(5)]), time, world.amount()))
        self.rewrite()
        (ask or self.ask_all)()

    @property
    def log(self) -> Path:
        """The folder of the log, when all is written."""
        online_store_of(self.world.store)._recorder.close()
        return folder_of_log(self.world.store.config)

    def audit(self) -> Audit:
        return audited(self.world.store, [self.world.table], self.log, self.world.now)

    # The truth, in the plainest way

    def truth(self, number: int, rule: Rule, as_of: datetime, version: Version) -> Any:
        purchases, ttl = version.purchases.get(number, []), self.world.view.ttl
        moments = {moment for row in purchases for moment in moments_of(row, version.definition)}
        event = max((moment for moment in moments if moment <= as_of), default=None)
        if event is None or as_of - event > ttl:
            return None
        [rule] = [other for other in version.definition.rules if other.name == rule.name]
        return brute_force.evaluate(rule, purchases, event)

    def training(self) -> dict[int, list[dict]]:
        """The rows of the offline table by key."""
        found: dict[int, list[dict]] = {}
        for row in pq.read_table(self.world.features).to_pylist():
            number = self.world.numbers.get(_plain(row[name] for name in self.world.kind.keys))
            found.setdefault(number, []).append(row)
        return found

    def differing(self) -> tuple[Counter, Counter]:
        """How many values of each key are not the truth as known today, on any side, and as known then."""
        today, then, now, training = Counter(), Counter(), self.version(), self.training()
        for one in self.served:
            right = self.truth(one.number, one.rule, one.as_of, now)
            rows = [row for row in training.get(one.number, []) if row[EVENT] <= one.as_of]
            last = max(rows, key=lambda row: row[EVENT], default=None)
            alive = last is not None and one.as_of - last[EVENT] <= self.world.view.ttl
            trained = last[one.rule.name] if alive else None
            today[one.number] += not (alike(one.value, right) and alike(trained, right))
            was = self.truth(one.number, one.rule, one.as_of, self.versions[one.version])
            then[one.number] += not alike(one.value, was)
        return +today, +then


def _plain(key: Iterator[Any]) -> Any:
    values = tuple(key)
    return values if len(values) > 1 else values[0]


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex() or (a != a and b != b)
    return a == b


Planted = dict[int, str]
"""The keys of which something is served that is not the truth, of today or of then, each with the cause."""


class Fault(NamedTuple):
    plant: Callable[[ServedWorld], Planted]
    of: list[str]
    is_then_known: bool
    alone: bool
    """Whether it can't be planted with others."""

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


FAULTS: list[Fault] = []


def fault(of: list[str] = BATCH, is_then_known: bool = True, alone: bool = False):
    def enter(plant: Callable[[ServedWorld], Planted]) -> Callable[[ServedWorld], Planted]:
        FAULTS.append(Fault(plant, of, is_then_known, alone))
        return plant

    return enter


def taken(served: ServedWorld) -> int:
    """A key with a value that is far from expiring, which no other fault has."""
    world = served.world
    used = served.__dict__.setdefault("used", set())
    ttl = world.view.ttl
    ages = {n: world.now - world.last(n) for n in world.users if n not in used}
    number = min(ages, key=lambda n: (ages[n] > ttl - 4 * HOUR, world.random.random()))
    if ages[number] > ttl - 4 * HOUR or ages[number] < 2 * HOUR:
        world.now += 3 * HOUR  # so that it is late for nothing that was asked before
        world.rows.append((number, world.now - 2 * HOUR, "12.25"))
        world.others[world.rows[-1]] = (1, "A-1", "paid")
        served.rewrite()
    used.add(number)
    return number


@fault()
def a_row_that_comes_late(served: ServedWorld) -> Planted:
    number = taken(served)
    served.ask(number)
    served.world.rows.append((number, served.world.last(number) - HOUR, "3.25"))
    served.world.others[served.world.rows[-1]] = (77, "late", "paid")
    served.rewrite()
    return {number: causes.LATE_ROW}


@fault()
def a_row_that_comes_late_and_is_the_last(served: ServedWorld) -> Planted:
    number = taken(served)
    served.ask(number)
    served.world.rows.append((number, served.world.now - 5 * timedelta(minutes=1), "3.25"))
    served.world.others[served.world.rows[-1]] = (77, "late", "paid")
    served.rewrite()
    return {number: causes.LATE_ROW}


@fault()
def a_correction(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    served.ask(number)
    last = world.last(number)
    world.rows = [(n, at, "99.75" if (n, at) == (number, last) else amount) for n, at, amount in world.rows]
    for row in world.rows:
        if row[:2] == (number, last):
            world.others[row] = (55, "corrected", "paid")
    served.rewrite()
    return {number: causes.CORRECTION}


@fault()
def a_row_that_is_deleted(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    served.ask(number)
    world.rows = [row for row in world.rows if row[:2] != (number, world.last(number))]
    served.rewrite()
    return {number: causes.DELETED}


@fault()
def a_key_that_is_deleted(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    served.ask(number)
    world.rows = [row for row in world.rows if row[0] != number]
    served.rewrite()
    return {number: causes.DELETED}


@fault()
def features_that_are_not_online_yet(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    world.tick()
    world.rows.append((number, world.now, "4.5"))
    world.others[world.rows[-1]] = (66, "new", "paid")
    world.write()
    served.recompute()
    served.ask(number)
    return {number: causes.BEHIND}


@fault()
def a_new_key_that_is_not_online_yet(served: ServedWorld) -> Planted:
    world = served.world
    world.tick()
    world.rows.append((777, world.now, "4.5"))
    world.others[world.rows[-1]] = (66, "new", "paid")
    world.write()
    served.recompute()
    served.ask(777)
    return {777: causes.BEHIND}


@fault()
def a_correction_that_is_not_online_yet(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    world.tick()
    world.rows.append((number, world.now, "4.5"))
    world.others[world.rows[-1]] = (66, "new", "paid")
    served.rewrite()
    last = world.last(number)
    world.rows = [(n, at, "99.75" if (n, at) == (number, last) else amount) for n, at, amount in world.rows]
    for row in world.rows:
        if row[:2] == (number, last):
            world.others[row] = (55, "corrected", "paid")
    world.write()
    served.recompute()
    served.ask(number)
    return {number: causes.BEHIND}


@fault(of=STEADY)
def a_value_that_is_altered_in_redis(served: ServedWorld) -> Planted:
    number = taken(served)
    served.world.put(number, AVERAGE, Value(double_val=1234.5))
    served.ask(number)
    return {number: causes.ALTERED}


@fault(of=STEADY)
def a_value_that_is_rounded_in_redis(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    world.tick()
    world.rows.append((number, world.now, "1.0625"))
    world.others[world.rows[-1]] = (1, "A-1", "paid")
    served.rewrite()
    value = world.row(number)[AVERAGE]
    world.put(number, AVERAGE, Value(double_val=float(round(value))))
    served.ask(number)
    return {number: causes.COERCION}


@fault(of=STEADY)
def a_row_that_is_lost_in_redis(served: ServedWorld) -> Planted:
    number = taken(served)
    served.world.client.delete(served.world.redis_key(number))
    served.ask(number)
    return {number: causes.BEHIND}


@fault(of=STEADY, alone=True)
def a_ttl_that_is_too_long_where_it_is_served(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    world.now = world.last(number) + world.view.ttl + HOUR
    with _other_ttl(world, 3 * world.view.ttl):
        served.ask(number)
    return {number: causes.EXPIRED}


@fault(of=STEADY, alone=True)
def a_ttl_that_is_too_short_where_it_is_served(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    with _other_ttl(world, HOUR):
        served.ask(number)
    return {number: causes.EXPIRED}


@contextmanager
def _other_ttl(world: World, ttl: timedelta) -> Iterator[None]:
    """Have the registry that is served from hold another ttl."""
    view = copy(world.view)
    view.ttl = ttl
    world.store.apply(applied([replace(world.table, view=view)]))
    yield
    world.store.apply(applied([world.table]))


@fault(of=STEADY)
def a_row_from_the_future(served: ServedWorld) -> Planted:
    """It is not served, and neither is what it has taken the place of: an answer says no more of it than of nothing."""
    number, world = taken(served), served.world
    world.push(number, world.now + DAY, world.row(number))
    served.ask(number)
    return {number: causes.BEHIND}


@fault(alone=True)
def a_definition_that_has_changed(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    world.now += 90 * HOUR
    for age in (84 * HOUR, timedelta()):  # of which one lies in a window of four days, and not in one of three
        world.rows.append((number, world.now - age, f"{500 + age / DAY}"))
        world.others[world.rows[-1]] = (1, "A-1", "paid")
    world.write()
    served.recompute(world.with_window(4).definition)
    world.materialize()
    served.ask_all()
    served.recompute()
    world.materialize()
    return dict.fromkeys(world.users, causes.DEFINITION)


@fault(of=STEADY, is_then_known=False, alone=True)
def an_offline_table_that_is_altered(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    served.ask(number)
    world.change_history(number, world.row(number)[EVENT], **{AVERAGE: 4321.5})
    return {number: causes.OFFLINE_WRONG}


@fault(of=STREAMED, alone=True)
def a_stream_that_is_ahead_of_the_files(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    world.tick()
    event = world.event(number, world.now, "8.75")
    world.apply(event)
    served.ask(number)
    world.land(event)
    served.recompute()
    return {number: causes.AHEAD}


@fault(of=STREAMED, alone=True)
def a_stream_whose_events_are_landed_and_not_computed(served: ServedWorld) -> Planted:
    number, world = taken(served), served.world
    world.tick()
    event = world.event(number, world.now, "8.75")
    world.apply(event)
    served.ask(number)
    world.land(event)
    return {number: causes.AHEAD}


@fault(of=STREAMED, alone=True)
def a_stream_whose_event_never_lands(served: ServedWorld) -> Planted:
    number, other, world = taken(served), taken(served), served.world
    world.tick()
    landed = world.event(other, world.now, "2.5")
    world.apply(landed)
    world.land(landed)
    served.recompute()
    world.tick()
    world.apply(world.event(number, world.now, "8.75"))
    served.ask(number)
    return {number: causes.NOT_LANDED}


class Score(NamedTuple):
    """What an audit found of planted faults: values of each cause, as they have to be and as they were."""

    right: dict[str, dict[str, int]]
    found: dict[str, dict[str, int]]


def score(served: ServedWorld, planted: Planted, is_then_known: bool = True) -> Score:
    """Audit, and count by cause what differs, with what has to."""
    [view] = served.audit().views
    found = {
        "today": {cause: one.today for cause, one in view.causes.items() if one.today},
        "then": {cause: one.then for cause, one in view.causes.items() if one.then},
    }
    right: dict[str, dict[str, int]] = {}
    for when, counted in zip(("today", "then"), served.differing(), strict=True):
        by_cause: Counter = Counter()
        for number, count in counted.items() if when == "today" or is_then_known else []:
            by_cause[planted.get(number, f"nothing was done to {number}")] += count
        right[when] = dict(by_cause)
    return Score(right, found)


@contextmanager
def served_world(port: int, seed: int, kind: str, **log: Any) -> Iterator[ServedWorld]:
    with world(port, seed, kind=kind) as healthy:
        made = ServedWorld(healthy, **log)
        try:
            yield made
        finally:
            with suppress(AttributeError):
                online_store_of(healthy.store)._recorder.close()


def try_fault(fault: Fault, port: int, seed: int) -> Score:
    """Plant a fault in a world that has served before."""
    kind = fault.of[random.Random(f"{fault.name} {seed}").randrange(len(fault.of))]
    with served_world(port, seed, kind) as served:
        served.ask_all()
        if kind in BATCH:
            served.step()
        return score(served, fault.plant(served), fault.is_then_known)


def try_healthy(port: int, seed: int, steps: int = 4) -> Score:
    """Serve for a while from a world in which all is well."""
    kind = BATCH[seed % len(BATCH)]
    with served_world(port, seed, kind) as served:
        served.ask_all()
        for _ in range(steps):
            served.step()
            if served.random.random() < 0.3:
                with clock_of(served.world.store, served.world.now - MICROSECOND):  # of another server, a bit behind
                    served.ask(*served.random.sample(served.world.users, 3))
        return score(served, {})


def try_several(port: int, seed: int, faults: int = 6) -> Score:
    """Plant several faults, each in a key of its own, in one log."""
    kind = STEADY[seed % len(STEADY)]
    with served_world(port, seed, kind) as served:
        served.ask_all()
        planted: Planted = {}
        some = served.random.sample([fault for fault in FAULTS if not fault.alone and kind in fault.of], faults)
        for fault in some:
            planted |= fault.plant(served)
        return score(served, planted)
