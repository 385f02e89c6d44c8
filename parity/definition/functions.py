"""The functions of an aggregation: what each takes, the type of what it gives, and whether it can be continued.

What they compute is defined in `parity.compute.windows`, and once more, apart on purpose, in `parity.proof.oracle`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

WHOLE_NUMBERS = (pa.int32(), pa.int64())
NUMBERS = (*WHOLE_NUMBERS, pa.float64())
COLUMN_TYPES = (*NUMBERS, pa.string(), pa.bool_())
"""The types that a column of transactions can have."""
TYPE_NAMES = dict(zip(COLUMN_TYPES, ("Int32", "Int64", "Float64", "String", "Bool"), strict=True))
"""What people call them."""


def _own(column: pa.DataType) -> pa.DataType:
    return column


def _summed(column: pa.DataType) -> pa.DataType:
    return pa.int64() if column in WHOLE_NUMBERS else pa.float64()


def _totals(column: pa.DataType) -> pa.DataType:
    return pa.string()


@dataclass(frozen=True)
class Function:
    """A function over the rows in a window."""

    takes: tuple[pa.DataType, ...]
    """The types of the columns that it is defined on."""
    gives: Callable[[pa.DataType], pa.DataType]
    """The type of its result, by that of the column."""
    continues: Callable[[pa.DataType], bool] = lambda column: False
    """Whether its result over some rows, and later rows, give its result over all: without a window, that is cheap."""
    nullable: bool = False
    """Whether it gives null, as it is not defined on few rows."""
    of_nothing: int | None = None
    """What it gives of no rows at all, as a window has once its last row has left it."""
    totals: Callable[[pa.DataType], pa.DataType] | None = None
    """The type of what is kept of rows to continue from where the result does not hold enough; by that of the column.
    A text is one of `parity.compute.exact.Totals`; a list has each value once."""

    def kept(self, column: pa.DataType) -> pa.DataType:
        """The type of what is kept of rows, to continue from."""
        return self.gives(column) if self.continues(column) else self.totals(column)


FUNCTIONS = {
    "count": Function(COLUMN_TYPES, lambda column: pa.int64(), continues=lambda column: True, of_nothing=0),
    "sum": Function(NUMBERS, _summed, continues=lambda column: column in WHOLE_NUMBERS, of_nothing=0, totals=_totals),
    "mean": Function(NUMBERS, lambda column: pa.float64(), totals=_totals),
    "min": Function((*NUMBERS, pa.string()), _own, continues=lambda column: True),
    "max": Function((*NUMBERS, pa.string()), _own, continues=lambda column: True),
    "first": Function((*NUMBERS, pa.string()), _own, continues=lambda column: True),
    "last": Function((*NUMBERS, pa.string()), _own, continues=lambda column: True),
    "count_distinct": Function((*NUMBERS, pa.string()), lambda column: pa.int64(), of_nothing=0, totals=pa.list_),
    "var": Function(NUMBERS, lambda column: pa.float64(), nullable=True, totals=_totals),
    "std": Function(NUMBERS, lambda column: pa.float64(), nullable=True, totals=_totals),
}
"""By name. ``var`` and ``std`` are those of a sample, and null below two rows."""
