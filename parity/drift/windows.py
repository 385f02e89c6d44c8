"""Two windows of a table, counted: one pass in DuckDB, and what is left is rows by entity and bin.

Memory does not grow with the number of rows; with that of entities by some bytes each. If there are more than `Units`
hold, several entities, at random but always the same, are one unit, which is as independent as one of them.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from parity.drift.bins import Grid, grid_of
from parity.drift.spans import Spans, TooLittleError
from parity.drift.test import FREQUENT_CATEGORIES, NEW, NULL, OTHERS, Bins, Counts
from parity.edge.errors import UserError

NUMBER, CATEGORY, INSTANT = "number", "category", "instant"
TIME_OF_DAY = "time of day"
SAMPLED = 50_000
"""Rows of each window by which bins are laid."""
MEMORY_OF_DUCKDB = "320MB"
BYTES_OF_COUNTS = 160 << 20
MOST_UNITS, LEAST_UNITS = 1 << 14, 1 << 11
ROWS_AT_ONCE = 1 << 17
NEW_CATEGORIES_KEPT = 100_000


@dataclass(frozen=True)
class Column:
    """What is compared: an SQL expression, of a DOUBLE or a VARCHAR, and its unit for people."""

    name: str
    sql: str
    kind: str = NUMBER
    unit: str = ""
    grows: bool = False
    """Whether it becomes another by definition, as time goes on: a count of all there ever was."""


@dataclass(frozen=True)
class Rows:
    """A table with a row per entity and instant: an SQL relation, with its ``keys``, and its instant in UTC."""

    title: str
    relation: str
    keys: tuple[str, ...]
    instant: str
    columns: tuple[Column, ...]
    noun: str = "users"
    tables: dict[str, Any] = field(default_factory=dict)
    """Arrow tables that the relation names."""


class Entities(NamedTuple):
    """How many have rows in which window."""

    reference: int
    current: int
    both: int

    @property
    def in_any(self) -> int:
        return self.reference + self.current - self.both


@dataclass
class Counted:
    """A column of both windows, counted by unit, and by day."""

    column: Column
    counts: Counts
    bins: Bins
    labels: list[str] | None
    """Of a category's bins; None of numbers."""
    by_day: np.ndarray
    """Rows by day of `Spans.days` and bin."""
    new: tuple[str, float] | None = None
    """The first of the categories that the reference does not have, and the chance that they are as many."""


class Counting(NamedTuple):
    """What the pass over a table came to."""

    rows: tuple[int, int]
    entities: Entities
    columns: list[Counted]


@contextmanager
def connected(rows: Rows) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with little memory, which spills to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET memory_limit = '{MEMORY_OF_DUCKDB}'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET temp_directory = ?", [folder])
        for name, table in rows.tables.items():
            connection.register(name, table)
        try:
            yield connection
        except duckdb.OutOfMemoryException:
            raise UserError(
                f"{rows.title}: {MEMORY_OF_DUCKDB} of memory and the room in {tempfile.gettempdir()} are too little "
                f"for so many {rows.noun}. Compare fewer days, or name another folder in TMPDIR."
            ) from None
        except duckdb.Error as error:
            raise UserError(f"{rows.title}: it can't be read: {str(error).splitlines()[0]:.300}") from None


def parquet(paths: Sequence[str | Path]) -> str:
    """The relation of the rows of Parquet files; a column that some of them don't have is null there."""
    names = ", ".join(text(glob.escape(str(path))) for path in paths)
    return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"


def _quoted(text: str, sign: str = '"') -> str:
    return f"{sign}{text.replace(sign, sign * 2)}{sign}"


def name(text: str) -> str:
    """A name as SQL has it."""
    return _quoted(text)


def text(value: str) -> str:
    """A text as SQL has it."""
    return _quoted(value, "'")


def columns_of(
    schema: pa.Schema,
    names: Sequence[str],
    instant: str,
    units: Mapping[str, str],
    called: Mapping[str, str],
    growing: Container[str] = (),
) -> tuple[tuple[Column, ...], list[str]]:
    """The columns that can be compared, and the time of the day of the rows; and the names of those that can't."""
    found, left = [], []
    for one in names:
        type, sql, shown = schema.field(one).type, name(one), called.get(one, one)
        unit, grows = units.get(shown, ""), shown in growing
        kind = kind_of(type)
        if kind == INSTANT:
            age = f"epoch({instant}) - epoch({sql}::TIMESTAMPTZ)"
            found.append(Column(shown, age, NUMBER, "s before the row", grows))
        elif kind == NUMBER:
            found.append(Column(shown, f"{sql}::DOUBLE", NUMBER, unit, grows))
        elif kind == CATEGORY:
            found.append(Column(shown, f"{sql}::VARCHAR", CATEGORY, unit))
        else:
            left.append(shown)
    hours = Column(TIME_OF_DAY, f"(epoch_us({instant}) % 86400000000) / 3.6e9", NUMBER, "h")
    return (*found, hours), left


def kind_of(type: pa.DataType) -> str | None:
    """How values of a type are compared: as an instant, a number or a category; None if they can't be."""
    if pa.types.is_timestamp(type):
        return INSTANT
    if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
        return NUMBER
    if pa.types.is_boolean(type) or pa.types.is_string(type) or pa.types.is_large_string(type):
        return CATEGORY
    return None


def newest_day(rows: Rows, until: datetime, now: datetime) -> date:
    """The day of the newest row up to ``until``. `UserError` if there is none up to ``now``, and `TooLittleError` if
    there are only later ones."""
    with connected(rows) as connection:
        query = (
            f"SELECT max(epoch_us({rows.instant})) FILTER ({rows.instant} <= $1), count(*) FROM {rows.relation} "
            f"WHERE {rows.instant} <= $2"
        )
        newest, there = connection.execute(query, [until, now]).fetchone()
    if not there:
        raise UserError(f"{rows.title}: it has no rows up to {now:%Y-%m-%d %H:%M} UTC, so there is nothing to compare.")
    if newest is None:
        raise TooLittleError(f"{rows.title}: it has no rows of a day that is over", "Wait for more days.")
    return datetime.fromtimestamp(newest // 1_000_000, UTC).date()


def count(rows: Rows, spans: Spans) -> Counting:
    """Count both windows of ``rows``. `UserError` if the current one has none, `TooLittleError` if the reference has
    none."""
    with connected(rows) as connection:
        _window_view(connection, rows, spans)
        entities = _number_entities(connection, rows)
        found = _row_counts(connection)
        of = "" if len(rows.keys) > 1 else f" that have a {rows.keys[0]}"
        advice = "Name days that have some."
        if not found[1]:
            raise UserError(f"{rows.title}: the current window, {spans.current}, has no rows{of}. {advice}")
        if not found[0]:
            raise TooLittleError(f"{rows.title}: the reference, {spans.reference}, has no rows{of}", advice)
        samples = _samples(connection, len(rows.columns), found)
        made = [_Making(connection, number, column, samples) for number, column in enumerate(rows.columns)]
        places = _Places.of(connection, sum(map(len, made)))
        days = len(spans.days)
        for one in made:
            one.begin(places.size, days)
        for batch in _batches(connection, rows):
            current = batch["current"].to_numpy(zero_copy_only=False).astype(bool)
            unit = places.unit(batch["number"].to_numpy(), batch["paired"].to_numpy(zero_copy_only=False).astype(bool))
            day = batch["day"].to_numpy().astype(np.int64)
            for one in made:
                one.add(unit, current, day, batch[f"c{one.number}"])
        return Counting(found, entities, [one.counted(places) for one in made])


def _window_view(connection: duckdb.DuckDBPyConnection, rows: Rows, spans: Spans) -> None:
    """Make the relation `windowed`: keys, columns, which window, and the number of the day."""
    keys = ", ".join(f"{name(key)} AS k{number}" for number, key in enumerate(rows.keys))
    values = "".join(f", {column.sql} AS c{number}" for number, column in enumerate(rows.columns))
    instant, (reference, current) = rows.instant, spans
    known = "".join(f" AND {name(key)} IS NOT NULL" for key in rows.keys)
    begin, end, now, last = (
        f"TIMESTAMPTZ '{moment:%Y-%m-%d %H:%M:%S.%f}+00'"
        for moment in (reference.begin, reference.end, current.begin, current.end)
    )
    connection.execute(
        f"CREATE TEMP VIEW windowed AS SELECT {keys}{values}, {instant} >= {now} AS current, "
        f"((epoch_us({instant}) - epoch_us({begin})) // 86400000000)::INTEGER AS day, {instant} AS instant "
        f"FROM {rows.relation} WHERE ({instant} BETWEEN {begin} AND {end} OR {instant} BETWEEN {now} AND {last}){known}"
    )


def _number_entities(connection: duckdb.DuckDBPyConnection, rows: Rows) -> Entities:
    """Number the entities of both windows in an order that has nothing to do with them, and is always the same."""
    keys = ", ".join(f"k{number}" for number in range(len(rows.keys)))
    connection.execute(
        f"CREATE TEMP TABLE entities AS SELECT {keys}, "
        f"(row_number() OVER (ORDER BY h, {keys}) - 1)::INTEGER AS number, "
        "before AND after AS paired, before, after "
        f"FROM (SELECT {keys}, hash({keys}) AS h, "
        f"bool_or(NOT current) AS before, bool_or(current) AS after FROM windowed GROUP BY ALL)"
    )
    query = "SELECT count(*) FILTER (before), count(*) FILTER (after), count(*) FILTER (paired) FROM entities"
    return Entities(*connection.execute(query).fetchone())


def _row_counts(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    query = "SELECT count(*) FILTER (NOT current), count(*) FILTER (current) FROM windowed"
    return connection.execute(query).fetchone()


def _batches(connection: duckdb.DuckDBPyConnection, rows: Rows) -> Iterator[pa.RecordBatch]:
    keys = ", ".join(f"k{number}" for number in range(len(rows.keys)))
    values = ", ".join(f"c{number}" for number in range(len(rows.columns)))
    query = f"SELECT number, paired, current, day, {values} FROM windowed JOIN entities USING ({keys})"
    yield from connection.execute(query).fetch_record_batch(ROWS_AT_ONCE)


class _Places(NamedTuple):
    """Which unit an entity is of: one of its own if there are not too many, else with others that are paired as it
    is."""

    entities: int
    most: int
    paired_entities: np.ndarray | None

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, bins: int) -> _Places:
        most = int(np.clip(BYTES_OF_COUNTS // (2 * 2 * 4 * bins), LEAST_UNITS, MOST_UNITS))
        [entities] = connection.execute("SELECT count(*) FROM entities").fetchone()
        if entities > 2 * most:
            return cls(entities, most, None)
        paired = connection.execute("SELECT paired FROM entities ORDER BY number").fetchnumpy()["paired"]
        return cls(entities, most, np.asarray(paired).astype(bool))

    @property
    def size(self) -> int:
        return self.entities if self.paired_entities is not None else 2 * self.most

    @property
    def paired(self) -> np.ndarray:
        if self.paired_entities is not None:
            return self.paired_entities
        return np.arange(self.size) < self.most

    def unit(self, numbers: np.ndarray, paired: np.ndarray) -> np.ndarray:
        numbers = numbers.astype(np.int64)
        if self.paired_entities is not None:
            return numbers
        return numbers % self.most + np.where(paired, 0, self.most)


class _Making:
    """The counts of one column, while they are made."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, number: int, column: Column, samples: tuple[pa.Table, pa.Table]
    ):
        self.number, self.column, self.new = number, column, None
        self.grid: Grid | None = None
        if column.kind == NUMBER:
            self.grid = grid_of(*(_floats(some[f"c{number}"]) for some in samples))
            self.bins, self.labels = self.grid.bins, None
        else:
            self._lay_categories(connection)

    def __len__(self) -> int:
        return len(self.bins.values)

    def begin(self, units: int, days: int) -> None:
        self.cells = np.zeros(2 * units * len(self), np.uint32)
        self.by_day = np.zeros((days, len(self)), np.int64)
        self.units = units

    def add(self, unit: np.ndarray, current: np.ndarray, day: np.ndarray, values: pa.Array) -> None:
        place = self._place(values)
        np.add.at(self.cells, (current * self.units + unit) * len(self) + place, np.uint32(1))
        cells = np.bincount(day * len(self) + place, minlength=self.by_day.size)
        self.by_day += cells.reshape(self.by_day.shape)

    def counted(self, places: _Places) -> Counted:
        reference, current = self.cells.reshape(2, self.units, len(self))
        return Counted(
            self.column, Counts(reference, current, places.paired), self.bins, self.labels, self.by_day, self.new
        )

    def _place(self, values: pa.Array) -> np.ndarray:
        if self.grid:
            return self.grid.place(_floats(values))
        found = pc.fill_null(pc.index_in(values, value_set=self.known), -1).to_numpy(zero_copy_only=False)
        place = np.where(found >= 0, found + 1, len(self.known) + 1)
        is_new = pc.is_in(values, value_set=self.unseen).to_numpy(zero_copy_only=False).astype(bool)
        place[is_new] = len(self.known) + 2
        place[values.is_null().to_numpy(zero_copy_only=False)] = 0
        return place.astype(np.int64)

    def _lay_categories(self, connection: duckdb.DuckDBPyConnection) -> None:
        """A bin for nulls, for each of the most frequent categories, for the others, and for those that are new."""
        value, keys = f"c{self.number}", _keys_of(connection)
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE categories AS SELECT category, sum(before) AS before, sum(after) AS after, "
            f"count(*) AS entities FROM (SELECT {value} AS category, number, "
            "count(*) FILTER (NOT current) AS before, count(*) FILTER (current) AS after "
            f"FROM windowed JOIN entities USING ({keys}) WHERE {value} IS NOT NULL GROUP BY ALL) GROUP BY ALL"
        )
        top = connection.execute(
            "SELECT category FROM categories WHERE before > 0 ORDER BY before + after DESC, category LIMIT ?",
            [FREQUENT_CATEGORIES],
        ).fetchall()
        unseen = connection.execute(
            "SELECT category FROM categories WHERE before = 0 ORDER BY entities DESC, category LIMIT ?",
            [NEW_CATEGORIES_KEPT],
        ).fetchall()
        self.known = pa.array([one for (one,) in top], pa.string())
        self.unseen = pa.array([one for (one,) in unseen], pa.string())
        self.labels = [NULL, *self.known.to_pylist(), OTHERS, NEW]
        size = len(self.labels)
        places = {NULL: 0, OTHERS: size - 2, NEW: size - 1}
        self.bins = Bins(np.full(size, np.nan), {name: np.arange(size) == place for name, place in places.items()})
        if len(unseen):
            self.new = (unseen[0][0], _chance_of_new(connection))


def _keys_of(connection: duckdb.DuckDBPyConnection) -> str:
    described = connection.execute("DESCRIBE entities").fetchall()
    return ", ".join(column for column, *_ in described if column[0] == "k")


def _chance_of_new(connection: duckdb.DuckDBPyConnection) -> float:
    """The chance that categories come up in the current window only, as many or of as many entities as they do.

    Two ways, and twice the lesser chance. Each entity that has a category alone falls on the current window with the
    share of that in rows or in entities, whichever is less favourable; and all entities of the most widespread new
    category do, of which there are as many as there are categories.
    """
    rows = _row_counts(connection)
    entities = connection.execute(
        "SELECT count(*) FILTER (before AND NOT after), count(*) FILTER (after AND NOT before), "
        "count(*) FILTER (paired) FROM entities"
    ).fetchone()
    share = max(rows[1] / sum(rows), (entities[1] + entities[2]) / max(1, sum(entities)) / 2)
    alone, came, most, categories = connection.execute(
        "SELECT count(*) FILTER (entities = 1), count(*) FILTER (entities = 1 AND before = 0), "
        "max(entities) FILTER (before = 0), count(*) FROM categories"
    ).fetchone()
    many = float(stats.binom.sf(came - 1, alone, share)) if came else 1.0
    return min(1.0, 2 * min(many, categories * share ** float(most)))


def _samples(connection: duckdb.DuckDBPyConnection, columns: int, rows: tuple[int, int]) -> tuple[pa.Table, ...]:
    """Some rows of the reference and of the current window, always the same."""
    below = [int(min(1, SAMPLED / count) * (2**64 - 1)) for count in rows]
    values = ", ".join(f"c{number}" for number in range(columns))
    found = connection.execute(
        f"SELECT {values}, current FROM windowed "
        f"WHERE hash(instant, {_keys_of(connection)}) <= "
        f"CASE WHEN current THEN {below[1]}::UBIGINT ELSE {below[0]}::UBIGINT END"
    ).fetch_arrow_table()
    return tuple(found.filter(pc.equal(found["current"], current)) for current in (False, True))


def _floats(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Numbers, with NaN for null."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], pa.float64())
    return pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
