"""The whole history of a feature table, computed and put in its place: here, from what has changed, or on Spark."""

from collections.abc import Iterable, Sequence
from pathlib import PurePath

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from parity.compute.days import Staged
from parity.compute.incremental import update
from parity.compute.windows import aggregate
from parity.definition.checks import FeatureTable, require_one_source
from parity.edge.errors import UserError
from parity.edge.files import Location, absolute, filesystem_of, on_disk, write_table
from parity.transactions.read import read_transactions


def require_one(tables: Sequence[FeatureTable], source: Location | None, output: Location | None) -> None:
    """Refuse a ``source`` or an ``output`` from a command line that can't be that of all ``tables``."""
    if source is not None:
        require_one_source(tables)
    if output is not None and len(tables) > 1:
        raise UserError("--output names one place, and there are several feature views. Say of which: --view")


def require_apart(source: Location, output: Location) -> None:
    """Refuse an output that would overwrite the transactions, or be read with them."""
    places = [PurePath(absolute(place)) for place in (source, output)]
    if places[1] == places[0]:
        raise UserError("--output is the same file as --input; name another.")
    if places[1].is_relative_to(places[0]):
        raise UserError("--output lies in the folder that is --input, and would be read with it; name another.")


def is_by_day(place: Location, beside: Iterable[Location] = ()) -> bool:
    """Whether the table at ``place`` is kept by day, in a folder, under whatever name. Of one that is not there yet it
    follows from the first that is there of those ``beside`` it; and where none is, it is to be a folder, which can be
    computed anew and brought up to date, while of one file only the first is true."""
    for one in (place, *beside):
        filesystem, path = filesystem_of(one)
        there = filesystem.get_file_info(path).type
        if there != FileType.NotFound:
            return there == FileType.Directory
    return True


def compute_here(table: FeatureTable, source: Location, output: Location) -> str:
    """Compute all of it on this machine, into one file; say in words what was written."""
    definition = table.definition
    with on_disk(source) as file:
        history = aggregate(read_transactions(file, definition), definition)
    return write_here(table, history, output)


def write_here(table: FeatureTable, history: pa.Table, output: Location) -> str:
    """Write features that were computed, into one file; say in words what was written."""
    write_table(history, output)
    keys = _distinct(history.select(table.definition.keys.names))
    return f"{history.num_rows:,} feature rows of {keys:,} {table.noun(keys)}"


def _distinct(keys: pa.Table) -> int:
    if keys.num_columns == 1:
        return pc.count_distinct(keys[0]).as_py()
    return keys.group_by(keys.column_names).aggregate([]).num_rows


def update_here(table: FeatureTable, source: Location, output: Location) -> str:
    """Compute what can have changed since the last time, into a folder with a file a day."""
    days = update(source, output, table.definition)
    return "nothing has changed" if days is None else _by_day(days)


def compute_on_spark(table: FeatureTable, source: Location, output: Location) -> str:
    """Compute all of it on Spark, into a folder with a file a day."""
    try:
        from parity.compute.spark import compute  # an extra, and slow to import
    except ModuleNotFoundError:
        raise UserError("PySpark is not installed. Run: pip install -r requirements-spark.txt") from None
    return _by_day(compute(source, output, table.definition))


def _by_day(days: list[Staged]) -> str:
    return f"{sum(day.rows for day in days):,} feature rows of {len(days):,} days"
