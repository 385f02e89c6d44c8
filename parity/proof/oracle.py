"""The oracle: what a feature is worth, worked out the slow way from the raw transactions, to check everything else.

It shares nothing with the code that it checks: it reads the files anew, one row after another, and computes with exact
fractions and Python's own calendar. What it knows of the features it reads in their declaration, a Feast `Aggregation`.
"""

import csv
import math
import pickle
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parity.definition.table import Definition, Rule
from parity.edge.errors import UserError
from parity.edge.files import Location, is_parquet, on_disk, progress

BYTES_PER_PART = 8 << 20
BYTES_PER_ROW = 40
MOST_PARTS = 200
_ISO = re.compile(
    r"[0-9]{4}(-[0-9]{2}){2}([T ][0-9]{2}(:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6}0*)?)?)?(Z|[+-][0-9]{2}(:?[0-5][0-9])?)?)?"
)
csv.field_size_limit(1 << 25)  # a column that nobody asks for may hold anything; a quote that is left open, not all


class Purchase(NamedTuple):
    """One raw transaction: when, and what the file shows in the columns that features are made of."""

    time: datetime
    amounts: dict[str, str]


def evaluate(aggregation: Rule, purchases: Iterable[Purchase], instant: datetime) -> float | int | None:
    """Work out ``aggregation`` for one user at ``instant``; a mean of nothing is null.

    Raises `UserError` for a result that float64 does not hold.
    """
    amounts = [
        purchase.amounts[aggregation.column]
        for purchase in purchases
        if purchase.time <= instant and _within(aggregation.time_window, instant - purchase.time)
    ]
    if aggregation.function == "count":
        return len(amounts)
    total = sum(Fraction(*_exact(amount)) for amount in amounts)
    if aggregation.function == "sum":
        return _nearest(aggregation, instant, total.numerator, total.denominator)
    if aggregation.function == "mean":
        return _nearest(aggregation, instant, total.numerator, total.denominator * len(amounts)) if amounts else None
    raise ValueError(f"the oracle does not know the function {aggregation.function!r}")


def evaluate_each(aggregation: Rule, purchases: Iterable[Purchase]) -> list[tuple[datetime, float | int | None]]:
    """Work out what `evaluate` gives at each instant of one user's purchases, in their order: (instant, value).

    Goes through the sorted purchases once: each enters the window and leaves it, and the sum is of whole numbers.
    """
    known = sorted(purchases, key=lambda purchase: purchase.time)
    times, window = [purchase.time for purchase in known], aggregation.time_window
    if aggregation.function not in ("count", "sum", "mean"):
        raise ValueError(f"the oracle does not know the function {aggregation.function!r}")
    if aggregation.function == "count":
        wholes, unit = [0] * len(known), 1
    else:
        wholes, unit = _whole_numbers([purchase.amounts[aggregation.column] for purchase in known])
    found = []
    total = start = end = 0
    while end < len(known):
        instant = times[end]
        while end < len(known) and times[end] == instant:
            total += wholes[end]
            end += 1
        while start < end and not _within(window, instant - times[start]):
            total -= wholes[start]
            start += 1
        if aggregation.function == "count":
            found.append((instant, end - start))
        elif aggregation.function == "sum":
            found.append((instant, _nearest(aggregation, instant, total, unit)))
        else:
            mean = _nearest(aggregation, instant, total, unit * (end - start)) if end > start else None
            found.append((instant, mean))
    return found


def expected(
    aggregation: Rule,
    purchases: Sequence[Purchase],
    at: datetime,
    ttl: timedelta | None,
    user: int | None = None,
) -> float | int | None:
    """Work out what both stores have to answer for one user at the instant ``at``: null if nothing is known, or no
    longer, because the user's last purchase is more than ``ttl`` ago. A ttl of zero is none, as in Feast. An error
    names the ``user``, if given."""
    last = last_event(purchases, at)
    if last is None or is_expired(last, at, ttl):
        return None
    try:
        return evaluate(aggregation, purchases, last)
    except UserError as error:
        raise UserError(str(error) if user is None else f"user {user}: {error}") from None


def last_event(purchases: Iterable[Purchase], at: datetime) -> datetime | None:
    """The instant of the last of ``purchases`` up to ``at``."""
    return max((purchase.time for purchase in purchases if purchase.time <= at), default=None)


def is_expired(event: datetime, at: datetime, ttl: timedelta | None) -> bool:
    return not _within(ttl or None, at - event)


def _within(limit: timedelta | None, age: timedelta) -> bool:
    return limit is None or age <= limit


def _exact(amount: str) -> tuple[int, int]:
    """The shortest decimal that reads back as the same float64, as a ratio: what features are defined on."""
    return Decimal(repr(float(amount))).as_integer_ratio()


def _whole_numbers(amounts: Sequence[str]) -> tuple[list[int], int]:
    """The exact amounts as whole numbers of one unit, which is 1 / the number that is given with them."""
    ratios = [_exact(amount) for amount in amounts]
    unit = math.lcm(*{denominator for _, denominator in ratios})
    return [numerator * (unit // denominator) for numerator, denominator in ratios], unit


def _nearest(aggregation: Rule, instant: datetime, numerator: int, denominator: int) -> float:
    """The float64 nearest to a quotient. Zero has no sign: what underflows from below is 0.0, never -0.0."""
    try:
        return numerator / denominator + 0.0
    except OverflowError:
        raise UserError(
            f"{aggregation.name} at {instant.isoformat()}: the {aggregation.function} of {aggregation.column} "
            "is beyond what a float64 holds. Correct the amounts."
        ) from None


class RawTransactions:
    """All purchases of a file, by user, a part of the users at a time, so that memory does not grow with the file."""

    def __init__(self, parts: list, users: np.ndarray):
        self._parts = parts
        self.users = users
        """The ids of all users in the file, int64 and ascending."""

    def __len__(self) -> int:
        return len(self._parts)

    def part_of(self, ids: np.ndarray) -> np.ndarray:
        """The number of the part that holds each user."""
        return ids % len(self._parts)

    def of(self, user: int) -> list[Purchase]:
        """The purchases of one user, in the order of the file."""
        return self.part(user % len(self._parts)).get(user, [])

    def part(self, number: int) -> dict[int, list[Purchase]]:
        """The purchases of each user of this part, in the order of the file."""
        users: dict[int, list[Purchase]] = {}
        file = self._parts[number]
        file.seek(0)
        while True:
            try:
                rows = pickle.load(file)
            except EOFError:
                return users
            for user, *purchase in rows:
                users.setdefault(user, []).append(Purchase(*purchase))


@contextmanager
def raw_transactions(place: Location, definition: Definition) -> Iterator[RawTransactions]:
    """Read the transactions of ``definition``, a file or a folder of them. `UserError` if they can't be read."""
    [key], timestamp, amounts = definition.keys.names, definition.reading.timestamp, list(definition.columns)
    with ExitStack() as stack:
        with on_disk(place) as path:
            size = sum(map(_weight, _files(path))) if path.exists() else 0
            count = min(MOST_PARTS, 1 + size // BYTES_PER_PART)
            parts = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
            raw = _read(path, key, timestamp, amounts, parts)
        yield raw


def _read(path: Path, key: str, timestamp: str, amounts: Sequence[str], parts: list) -> RawTransactions:
    try:
        users: set[int] = set()
        for rows in chain.from_iterable(_blocks(file, (key, timestamp, *amounts)) for file in _files(path)):
            by_part: list[list] = [[] for _ in parts]
            for user, when, *values in rows:
                number = _number(int, user)
                if not all(math.isfinite(_number(float, value)) for value in values):
                    raise ValueError(f"an amount of user {number} is not finite")
                shown = dict(zip(amounts, map(str, values), strict=True))
                by_part[number % len(parts)].append((number, _utc(when), shown))
                users.add(number)
            _sort_away(by_part, parts)
        return RawTransactions(parts, np.array(sorted(users), np.int64))
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such file, and without the raw transactions nothing can be proven. "
            "Name the file that the features were computed from: --input FILE"
        ) from None
    except (ValueError, TypeError, KeyError, OSError, OverflowError, csv.Error, pa.ArrowException) as error:
        raise UserError(
            f"{path}: the oracle can't read it: {error!s:.300}. Run compute_features.py on it to see where."
        ) from None


def _sort_away(by_part: Sequence[list], parts: Sequence[IO[bytes]]) -> None:
    try:
        for rows, part in zip(by_part, parts, strict=True):
            pickle.dump(rows, part, pickle.HIGHEST_PROTOCOL)
            part.flush()
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: {error.strerror}. The oracle sorts the transactions there: make room, or name "
            "another folder in TMPDIR."
        ) from None


def _weight(file: Path) -> int:
    """The size of a file, or of a Parquet file what its rows take as text: packed they may take next to nothing."""
    size = file.stat().st_size
    try:
        return max(size, pq.read_metadata(file).num_rows * BYTES_PER_ROW) if is_parquet(file) else size
    except (OSError, pa.ArrowException):  # which reading it tells
        return size


def _files(path: Path) -> list[Path]:
    """The file itself, or those in a folder, but for the ones that are hidden."""
    if not path.is_dir():
        return [path]
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    ]


def _blocks(path: Path, columns: Sequence[str]) -> Iterator[list[tuple]]:
    """Go through the file, some rows at a time, each row as the values of ``columns``."""
    if is_parquet(path):
        with pq.ParquetFile(path) as file, progress(f"read {path.name}", file.metadata.num_rows, "row") as bar:
            _require_numbers(file.schema_arrow, columns)
            for batch in file.iter_batches(columns=list(columns)):
                yield list(zip(*(_in_utc(batch.column(name)).to_pylist() for name in columns), strict=True))
                bar.update(batch.num_rows)
        return
    with open(path, encoding="utf-8-sig", newline="") as file, progress(f"read {path.name}", None, "row") as bar:
        lines = csv.reader(file, strict=True)  # or a quote that is not closed swallows the rows after it
        rows = _sound_rows(lines)
        header = next(rows, [])
        places = [header.index(name) for name in columns]
        block = []
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"line {lines.line_num} has {len(row)} values, and the header {len(header)}")
            block.append(tuple(row[place] for place in places))
            if len(block) == 100_000:
                yield block
                bar.update(len(block))
                block = []
        yield block


def _sound_rows(lines: Any) -> Iterator[list[str]]:
    """The rows of a strict `csv.reader` but for empty ones; `ValueError` names the line where an unsound one starts."""
    end = 0
    try:
        for row in lines:
            end = lines.line_num
            if row:
                yield row
    except csv.Error as error:
        raise ValueError(f"the row that starts in line {end + 1} can't be read: {error}") from None


def _require_numbers(schema: pa.Schema, columns: Sequence[str]) -> None:
    """Texts are for CSV: in Parquet an id is a whole number, and an instant a date or a timestamp."""
    key, timestamp, *amounts = (schema.field(name).type for name in columns)
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if not pa.types.is_integer(key) or not all(any(is_kind(amount) for is_kind in numeric) for amount in amounts):
        raise TypeError("an id or an amount is not a number")
    if not (pa.types.is_timestamp(timestamp) or pa.types.is_date(timestamp)):
        raise TypeError("an instant is not a timestamp")


def _in_utc(values: pa.Array) -> pa.Array:
    """The same instants, told in UTC: Python does not know every time zone, nor every instant in each."""
    aware = pa.types.is_timestamp(values.type) and values.type.tz
    return values.cast(pa.timestamp(values.type.unit, "UTC")) if aware else values


def _number(kind: type, value: Any) -> Any:
    """Read a number. Python alone would take 1_0 for 10, digits of any script, and 007 or " 7" for the user 7."""
    if not isinstance(value, str):
        return kind(value)
    digits = value if kind is int else value.strip()
    number = kind(digits)
    if not digits.isascii() or "_" in digits or (kind is int and str(number) != digits):
        raise ValueError(f"{value!r:.80} is not a number, or an id that does not read back as it was written")
    return number


def _utc(value: Any) -> datetime:
    if isinstance(value, str):
        if not _ISO.fullmatch(value):  # Python alone takes other forms too, and cuts what is finer than a microsecond
            raise ValueError(f"{value!r:.80} is not an ISO 8601 date and time")
        value = datetime.fromisoformat(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return (
        value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value
    )  # Arrow gives pandas' own for ns
