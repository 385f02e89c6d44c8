"""Data or pipeline: whether the oracle, on the same transactions, agrees with the features that are stored.

If it does, the transactions themselves have become different. If it does not, the pipeline has. It is asked about the
current window's rows of some entities, half of them with rows among which there are more now than before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from parity.compare.equal import same
from parity.definition.checks import FeatureTable
from parity.definition.keys import as_tuples
from parity.drift.alarms import Moved
from parity.drift.spans import Span
from parity.drift.windows import NUMBER, Column, Rows, connected, name, text
from parity.edge.files import Location
from parity.offline.side import nan_as_null
from parity.proof.oracle import evaluate_each, slides_of
from parity.proof.raw import Purchase, raw_transactions


class Agreement(NamedTuple):
    """How many stored values of a feature were compared with the oracle's, of how many entities, and how many differ;
    with an example of one that does."""

    entities: int
    values: int
    differing: int
    example: str

    def said(self, noun: str) -> str:
        if not self.values:
            return "not known: none of the rows could be compared with the oracle"
        if not self.differing:
            return f"data: the oracle agrees with all {self.values:,} values of {self.entities:,} {noun} compared"
        return (
            f"PIPELINE: {self.differing:,} of {self.values:,} stored values of {self.entities:,} {noun} are not what "
            f"the transactions give, as {self.example}"
        )


def agreements(
    table: FeatureTable, rows: Rows, transactions: Location, span: Span, moved: dict[str, Moved], size: int
) -> dict[str, Agreement]:
    """Ask the oracle about some entities, of each feature that ``moved``. `UserError` if the transactions can't be
    read."""
    stored = _stored(table, rows, span, moved, size)
    names = table.definition.keys.names
    keys = as_tuples(stored.select(names))
    purchases = _purchases(table, transactions, set(keys))
    instants = stored[table.definition.event].to_pylist()
    slides = slides_of(table.definition)
    rules = {rule.name: rule for rule in table.definition.rules}
    found = {}
    for feature in moved:
        rule = rules.get(feature, table.definition.rules[0])  # of the time of the day: whether the rows are there
        right = {(key, at): value for key, some in purchases.items() for at, value in evaluate_each(rule, some, slides)}
        there = zip(keys, instants, nan_as_null(stored[rule.name].to_pylist()), strict=True)
        pairs = [(key, at, value, right.get((key, at), _NO_ROW)) for key, at, value in there]
        seen = {(key, at) for key, at, _, _ in pairs}
        pairs += [(*row, _NO_ROW, value) for row, value in right.items() if _is_missing(row, seen, span)]
        wrong = [pair for pair in pairs if _differs(pair, feature in rules)]
        example = ""
        if wrong:
            key, at, value, true = wrong[0]
            example = f"{value} where it gives {true}, of {', '.join(map(str, key))} at {at.isoformat()}"
        found[feature] = Agreement(len(set(keys)), len(pairs), len(wrong), example)
    return found


def _is_missing(row: tuple, seen: set, span: Span) -> bool:
    return row not in seen and span.begin <= row[1] <= span.end


def _differs(pair: tuple, by_value: bool) -> bool:
    _, _, value, true = pair
    if value is _NO_ROW or true is _NO_ROW:
        return True
    return by_value and not same(value, true)


_NO_ROW = "no row"


def _purchases(table: FeatureTable, transactions: Location, wanted: set) -> dict[Any, list[Purchase]]:
    with raw_transactions(transactions, table.definition) as raw:
        numbers = {key: number for number, key in enumerate(as_tuples(raw.keys)) if key in wanted}
        by_part: dict[int, list] = {}
        for key, number in numbers.items():
            by_part.setdefault(number % len(raw), []).append((key, number))
        found = {key: [] for key in wanted}
        for part, some in by_part.items():
            bought = raw.part(part)
            found |= {key: bought.get(number, []) for key, number in some}
        return found


def keys_asked(rows: Rows, span: Span, moved: dict[str, Moved], size: int) -> pa.Table:
    """The keys of some entities of the current window, half of them with rows of which there are more than before."""
    with connected(rows) as connection:
        _choose(connection, rows, span, moved, size)
        return connection.execute(f"SELECT {', '.join(map(name, rows.keys))} FROM chosen").fetch_arrow_table()


def _choose(connection: duckdb.DuckDBPyConnection, rows: Rows, span: Span, moved: dict[str, Moved], size: int) -> None:
    """Make the table `chosen` of keys."""
    keys, inside = ", ".join(map(name, rows.keys)), _inside(rows, span)
    columns = {column.name: column for column in rows.columns}
    regions = [f"({region})" for one, how in moved.items() if (region := _region(columns[one], how))]
    among = " OR ".join(regions) or "true"
    connection.execute(
        f"CREATE TEMP TABLE chosen AS "
        f"(SELECT DISTINCT {keys} FROM {rows.relation} WHERE {inside} AND ({among}) "
        f"ORDER BY hash({keys}) LIMIT {(size + 1) // 2}) UNION "
        f"(SELECT DISTINCT {keys} FROM {rows.relation} WHERE {inside} ORDER BY hash({keys}, 1) LIMIT {size // 2})"
    )


def _inside(rows: Rows, span: Span) -> str:
    """The condition of rows of these days, of known keys, in SQL."""
    known = "".join(f" AND {name(key)} IS NOT NULL" for key in rows.keys)
    return (
        f"{rows.instant} BETWEEN TIMESTAMPTZ '{span.begin:%Y-%m-%d %H:%M:%S.%f}+00' "
        f"AND TIMESTAMPTZ '{span.end:%Y-%m-%d %H:%M:%S.%f}+00'{known}"
    )


def _stored(table: FeatureTable, rows: Rows, span: Span, moved: dict[str, Moved], size: int) -> pa.Table:
    """The rows of the current window of some entities."""
    keys = ", ".join(map(name, rows.keys))
    wanted = [field.name for field in table.definition.schema]
    with connected(rows) as connection:
        _choose(connection, rows, span, moved, size)
        found = connection.execute(
            f"SELECT {', '.join(map(name, wanted))} FROM {rows.relation} SEMI JOIN chosen USING ({keys}) "
            f"WHERE {_inside(rows, span)}"
        ).fetch_arrow_table()
    return found.cast(pa.schema([(field.name, field.type) for field in table.definition.schema]))


def _region(column: Column, moved: Moved) -> str:
    """The condition of rows of which there are more than before, in SQL; nothing if there is none."""
    gained = moved.gained
    if gained.nulls:
        return f"{column.sql} IS NULL" + (f" OR isnan({column.sql})" if column.kind == NUMBER else "")
    if gained.category is not None:
        return f"{column.sql} = {text(gained.category)}"
    bounds = [(f"'{low!r}'::DOUBLE", f"'{high!r}'::DOUBLE") for low, high in gained.ranges]
    return " OR ".join(f"{column.sql} BETWEEN {low} AND {high}" for low, high in bounds)
