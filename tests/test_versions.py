"""What the offline table was before, by its deltas, is what whole copies of it say that were made after every run."""

import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, ValueType
from feast.types import Float64, Int64, String

from parity.compute.history import compute_here, update_here
from parity.definition.instants import UTC_MICROSECONDS, utc_now
from parity.definition.table import COMPUTED_BY
from parity.offline import versions
from parity.offline.versions import (
    ADDED,
    AS_OF,
    CHANGED,
    COMPUTED_BY_THEN,
    KNOWN,
    KNOWN_AT,
    REMOVED,
    SUPERSEDED_AT,
    SUPERSEDED_HOW,
    SUPERSEDED_WITH,
    THEN_EVENT,
    Versions,
    superseding,
)
from tests.definition import aggregation, table
from tests.world import EVERY, KINDS

T = datetime(2026, 3, 8, 12, tzinfo=UTC)
MICROSECOND, DAY, TTL = timedelta(microseconds=1), timedelta(days=1), timedelta(days=5)
COLUMNS = {"amount": Float64, "quantity": Int64, "sku": String}
WINDOWED = [aggregation("mean", "amount", 3), aggregation("count", "amount", 3), aggregation("last", "sku", 3)]
ENDLESS = [*WINDOWED, aggregation("sum", "amount"), aggregation("var", "amount", 3)]
OTHER = [aggregation("mean", "amount", 4), aggregation("count", "amount", 3), aggregation("last", "quantity", 3)]
RETYPED = [aggregation("max", "sku", 3, "mean_amount_3d"), *WINDOWED[1:]]


class Copy(NamedTuple):
    """What the table was, some time after ``began``, up to the next copy."""

    began: datetime
    ended: datetime
    rows: dict[tuple, dict[datetime, tuple]]
    """By key and event, its features."""
    types: dict[str, pa.DataType]
    computed_by: str


class Shop:
    """A table of features that is computed again and again, in a folder of its own, and whole copies of it."""

    def __init__(self, folder: Path, seed: int = 0, kind: str = "int64", ttl: timedelta | None = TTL, features=ENDLESS):
        self.folder, self.kind, self.ttl = folder, KINDS[kind], ttl
        self.random = random.Random(seed)
        self.by_day = False
        self.rows: list[tuple] = []
        """Number of the key, instant, amount, quantity, sku."""
        self.copies: list[Copy] = []
        (folder / "transactions").mkdir(parents=True)
        self.declare(features)

    def declare(self, features: list) -> None:
        entities = [Entity(name=n, join_keys=[n], value_type=ValueType[t]) for n, t in self.kind.keys.items()]
        continuous = self.kind.continuous
        self.table = table(
            self.folder, "shop", entities, features, COLUMNS, None, self.ttl, None, "transactions", continuous
        )

    @property
    def place(self) -> Path:
        return Path(self.table.source.path)

    @property
    def kept(self) -> Path:
        return self.place.with_suffix(".versions")

    def write(self) -> None:
        """Write the transactions, a file for each day, so that one that has not changed stays as it is."""
        texts: dict[str, list[str]] = {}
        for number, time, *rest in self.rows:
            key = [value.decode() if isinstance(value, bytes) else str(value) for value in self.kind.key_of(number)]
            texts.setdefault(f"{time.date()}.csv", []).append(",".join([*key, time.isoformat(), *map(str, rest)]))
        header = ",".join([*self.kind.keys, "timestamp", *COLUMNS])
        folder = self.folder / "transactions"
        for path in folder.iterdir():
            if path.name not in texts:
                path.unlink()
        for name, lines in texts.items():
            text = "\n".join([header, *lines, ""])
            if not (folder / name).exists() or (folder / name).read_text() != text:
                (folder / name).write_text(text)

    def run(self) -> None:
        """What a run does, with nothing kept."""
        compute = update_here if self.by_day else compute_here
        compute(self.table, self.folder / "transactions", self.place)

    def compute(self) -> None:
        began = utc_now()
        self.write()
        with superseding(self.table, self.place):
            self.run()
        self.copy(began)

    def copy(self, began: datetime) -> None:
        paths = sorted(self.place.rglob("*.parquet")) if self.place.is_dir() else [self.place]
        read = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
        names = [*self.kind.keys, "event_timestamp"]
        types = {field.name: field.type for field in read.schema if field.name not in names}
        rows: dict[tuple, dict[datetime, tuple]] = {}
        for row in read.to_pylist():
            key = tuple(row[name] for name in self.kind.keys)
            rows.setdefault(key, {})[row["event_timestamp"]] = tuple(bits(row[name]) for name in types)
        by = pq.read_schema(paths[0]).metadata[COMPUTED_BY].decode()
        self.copies.append(Copy(began, utc_now(), rows, types, by))

    # What is drawn

    def draw(self) -> tuple:
        draw = self.random
        ages = [timedelta(days=draw.randint(0, 8)), draw.random() * 8 * DAY, 3 * DAY + MICROSECOND, 3 * DAY, TTL]
        amount = draw.choice([f"{draw.random() * 100:.2f}", "0.0", "1.5", repr(draw.random())])
        sku = draw.choice(["A-1", "é", "B 2"])
        return draw.randint(1, 5), T - draw.choice(ages), amount, draw.randint(-3, 9), sku

    def happen(self) -> None:
        """Let something happen to the transactions: late rows, corrections, deletions, something new, or nothing."""
        draw = self.random
        for _ in range(draw.choice([0, 1, 1, 2, 4])):
            what = draw.choice(["late", "late", "correct", "delete", "later"])
            if what == "late" or len(self.rows) < 3:
                self.rows.append(self.draw())
            elif what == "later":
                self.rows.append((draw.randint(1, 7), T + len(self.rows) * timedelta(hours=5), "7.5", 1, "A-1"))
            elif what == "correct":
                place = draw.randrange(len(self.rows))
                self.rows[place] = (*self.rows[place][:2], *self.draw()[2:])
            else:
                self.rows.pop(draw.randrange(len(self.rows)))

    def asked(self, number: int = 150) -> list[tuple[tuple, datetime, datetime]]:
        """Keys, known and not, instants on and beside events and the ttl after them, each at the time of any copy."""
        draw, asked = self.random, []
        events = [event for copy in self.copies for rows in copy.rows.values() for event in rows]
        for _ in range(number):
            key = self.kind.key_of(draw.choice([1, 2, 3, 4, 5, 6, 7, 99]))
            event = draw.choice(events)
            near = [event, event - MICROSECOND, event + TTL, event + TTL + MICROSECOND, T, T + 9 * DAY]
            copy = draw.choice(self.copies)
            asked.append((key, draw.choice([*near, T - draw.random() * 9 * DAY]), copy.ended))
        return asked


def bits(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


def table_of(shop: Shop, asked: list[tuple[tuple, datetime, datetime]]) -> pa.Table:
    keys = shop.table.definition.keys
    columns = {f.name: pa.array([key[place] for key, *_ in asked], f.type) for place, f in enumerate(keys)}
    columns |= {AS_OF: pa.array([as_of for _, as_of, _ in asked], UTC_MICROSECONDS)}
    return pa.table(columns | {KNOWN_AT: pa.array([known_at for *_, known_at in asked], UTC_MICROSECONDS)})


def as_of(copy: Copy, key: tuple, instant: datetime, ttl: timedelta | None) -> tuple[datetime, tuple] | None:
    """The event and features that training gets of a copy."""
    events = [event for event in copy.rows.get(key, {}) if event <= instant]
    if not events or (ttl and max(events) + ttl < instant):
        return None
    return max(events), copy.rows[key][max(events)]


def assert_right(shop: Shop, asked: list | None = None, since: int = 0) -> int:
    """Hold every answer to the copies from ``since`` on; before them nothing is known. The number that have changed."""
    asked, changed = asked or shop.asked(), 0
    answered = Versions.of(shop.table).known_then(table_of(shop, asked)).to_pylist()
    names = {rule.name: rule.type for rule in shop.table.definition.rules}
    for (key, instant, known_at), row in zip(asked, answered, strict=True):
        [place] = [n for n, copy in enumerate(shop.copies) if copy.ended == known_at]
        copy = shop.copies[place]
        assert row[KNOWN] == (place >= since)
        if not row[KNOWN]:
            assert set(row.values()) == {False, None}
            continue
        right = as_of(copy, key, instant, shop.ttl)
        values = [None] * len(names)
        if right:
            there = dict(zip(copy.types, right[1], strict=True))
            values = [there[name] if copy.types.get(name) == type else None for name, type in names.items()]
        assert (row[THEN_EVENT], [bits(row[name]) for name in names]) == (right and right[0], values)
        assert row[COMPUTED_BY_THEN] == copy.computed_by
        at, how, beside = superseded(shop, place, key, instant)
        assert (row[SUPERSEDED_HOW], row[SUPERSEDED_WITH]) == (how, beside)
        assert at is None if row[SUPERSEDED_AT] is None else at.began <= row[SUPERSEDED_AT] <= at.ended
        changed += how is not None
    return changed


def superseded(shop: Shop, place: int, key: tuple, instant: datetime) -> tuple[Copy | None, str | None, str | None]:
    """The copy in which an answer is first another one, how it is, and what else is new of the key."""
    held = as_of(shop.copies[place], key, instant, shop.ttl)
    for before, after in zip(shop.copies[place:], shop.copies[place + 1 :], strict=False):
        found = as_of(after, key, instant, shop.ttl)
        if found == held and (not held or before.types == after.types):
            continue
        if found and (not held or found[0] > held[0]):
            how, event = ADDED, found[0]
        else:
            how, event = (CHANGED if found and found[0] == held[0] else REMOVED), held[0]
        reach = datetime.min.replace(tzinfo=UTC)
        if not shop.table.definition.unwindowed:
            reach = event - max(shop.table.definition.windows) * MICROSECOND - MICROSECOND
        old, new = (
            {event_ for event_ in copy.rows.get(key, {}) if reach <= event_ < event} for copy in (before, after)
        )
        return after, how, ADDED if new - old else REMOVED if old - new else None
    return None, None, None


def live(folder: Path, seed: int, runs: int = 7) -> int:
    """A shop in which anything happens."""
    draw = random.Random(seed)
    kind = draw.choice([kind for kind in KINDS if not KINDS[kind].streamed])
    some = [WINDOWED, ENDLESS, list(EVERY)]
    shop = Shop(folder, seed, kind, draw.choice([TTL, TTL, None, 3 * DAY]), draw.choice(some))
    shop.by_day = draw.random() < 0.5
    shop.rows = [shop.draw() for _ in range(draw.choice([3, 10, 20]))]
    since = 0
    for _ in range(runs):
        shop.happen()
        what = draw.random()
        if what < 0.08 and shop.copies:  # a folder in the place of a file, or the other way round
            shutil.rmtree(shop.place) if shop.place.is_dir() else shop.place.unlink()
            shop.by_day, since = not shop.by_day, len(shop.copies)
        elif what < 0.16:
            shop.declare(draw.choice([*some, OTHER, RETYPED]))
        elif what < 0.22 and shop.copies:
            began, before = utc_now(), versions.stamps_of(shop.place)
            shop.write()
            shop.run()  # with nothing kept
            if versions.stamps_of(shop.place) != before:
                since = len(shop.copies)
                sleep(0.02)
                shop.copy(began)
        shop.compute()
    return assert_right(shop, since=since)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_known_then_is_what_copies_of_the_table_have(tmp_path, seed):
    live(tmp_path, seed)
