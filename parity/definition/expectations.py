"""What features.py expects of data: expectations of Great Expectations, written beside what they are of.

    transactions = TransactionSource(
        ...,
        expectations=[
            Expectation("expect_column_values_to_be_between", column="purchase_amount", min_value=0, max_value=1000),
            Expectation("expect_table_row_count_to_be_between", min_value=same_weekday(0.5)),
        ],
    )

The first argument is the name of any expectation that Great Expectations has, and the others are its own. Each is
asked of one day (UTC) at a time. Great Expectations itself is needed where data is checked, and not where features.py
is read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

SEVERITIES = ("critical", "warning", "info")
ROW_WISE = (
    "expect_column_values_",
    "expect_column_value_lengths_",
    "expect_column_pair_values_",
    "expect_compound_columns_",
    "expect_multicolumn_",
    "expect_select_column_values_",
)
"""What the names of expectations begin with that say of each row whether it is as expected."""
OF_TABLE = "expect_table_"
COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")


@dataclass(frozen=True)
class SameWeekday:
    """A share of what the same expectation saw on the same weekday before: see `same_weekday`."""

    share: float


@dataclass(frozen=True)
class Usually:
    """The share of rows that are expected to be so in the long run: see `usually`."""

    share: float


@dataclass(frozen=True)
class Ago:
    """An instant before now: see `ago`."""

    time: timedelta


def same_weekday(share: float) -> SameWeekday:
    """A bound of what is observed of a day: ``share`` times the median of the same weekday in the eight weeks before.

    For an expectation of one number a day, such as a row count or a mean. Nothing is judged before there are three such
    weekdays, and the lower bound not before the day is over. A count may be as far beyond the bound as chance
    gives on fewer than one day in 10,000.
    """
    return SameWeekday(share)


def usually(share: float) -> Usually:
    """A ``mostly`` for days of few rows: those that are not as expected are too many when chance alone, with a rate of
    1 - share, gives as many on fewer than one day in 10,000."""
    return Usually(share)


def ago(**time: float) -> Ago:
    """The instant that is so long before now: ``ago(days=2)``, with the arguments of `timedelta`."""
    return Ago(timedelta(**time))


@dataclass(frozen=True, init=False)
class Expectation:
    """An expectation of Great Expectations, of the days of transactions or of the features of a view.

    ``type`` is its name there, such as ``expect_column_values_to_be_between``, and the other arguments are its own; a
    number or an instant may also be `same_weekday`, `usually` or `ago`. One of the ``severity`` "warning" or "info" is
    reported, and fails nothing. With ``newest_day`` it is asked of the newest day alone, as of how fresh data is. With
    ``quarantine``, which is for rows of transactions, rows that fail are set aside and the others used.
    """

    type: str
    arguments: Mapping[str, Any]
    severity: str
    newest_day: bool
    quarantine: bool

    def __init__(
        self,
        type: str,
        /,
        *,
        severity: str = "critical",
        newest_day: bool = False,
        quarantine: bool = False,
        **arguments: Any,
    ):
        for name, value in [
            ("type", type),
            ("arguments", dict(arguments)),
            ("severity", severity),
            ("newest_day", newest_day),
            ("quarantine", quarantine),
        ]:
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        told = ", ".join(f"{name}={_shown(value)}" for name, value in self.arguments.items())
        return f"{self.type}({told})"

    @property
    def columns(self) -> list[str]:
        """The columns that it looks at."""
        named = [self.arguments[name] for name in COLUMN_ARGUMENTS if name in self.arguments]
        return [one for name in named for one in (name if isinstance(name, list | tuple) else [name])]

    @property
    def is_row_wise(self) -> bool:
        return self.type.startswith(ROW_WISE)


def _shown(value: Any) -> str:
    match value:
        case SameWeekday(share):
            return f"same_weekday({share!r})"
        case Usually(share):
            return f"usually({share!r})"
        case Ago(time):
            span = str(abs(time)).removesuffix(", 0:00:00")
            return f"now - {span}" if time >= timedelta(0) else f"now + {span}"
        case datetime():
            return value.isoformat()
    return repr(value)


def faults_of_expectations(
    expectations: Any, columns: Sequence[str] | None = None, rows_can_go: bool = False
) -> Iterator[str]:
    """What is wrong with ``expectations``, which look at some of ``columns`` (None: at any), in words for people.

    ``rows_can_go`` is whether rows can be set aside.
    """
    if not isinstance(expectations, list | tuple):
        yield f"its expectations are {expectations!r}. Write them as a list: expectations=[Expectation(...), ...]."
        return
    for one in expectations:
        if not isinstance(one, Expectation):
            yield f"{one!r} among its expectations is no Expectation."
            continue
        yield from (f"{one}: {fault}" for fault in _faults(one, columns, rows_can_go))
    for number, one in enumerate(expectations):
        if one in expectations[:number]:
            yield f"{one}: it is there twice. Keep one."


def _faults(one: Expectation, columns: Sequence[str] | None, rows_can_go: bool) -> Iterator[str]:
    if not isinstance(one.type, str) or not one.type.startswith("expect_"):
        yield "name one of Great Expectations, such as 'expect_column_values_to_be_between'."
        return
    if one.severity not in SEVERITIES:
        yield f"its severity is {one.severity!r}, and has to be one of {', '.join(SEVERITIES)}."
    for column in one.columns:
        if not isinstance(column, str) or not column or (columns is not None and column not in columns):
            there = "" if columns is None else f": there is {', '.join(columns)}"
            yield f"{column!r} is none of the columns{there}."
    if one.quarantine and not (rows_can_go and one.is_row_wise and one.severity == "critical"):
        yield "a quarantine is for rows of transactions, which a critical expectation of each row finds. Leave it out."
    for name, value in one.arguments.items():
        if isinstance(value, SameWeekday) and (one.is_row_wise or not _is_number(value.share) or value.share < 0):
            yield f"{name} is {_shown(value)}: a positive share, for an expectation of one number a day."
        if isinstance(value, Usually) and (name != "mostly" or not _is_share(value.share)):
            yield f"{name} is {_shown(value)}: a share between 0 and 1, for mostly alone."
        if not isinstance(value, SameWeekday | Usually | Ago | datetime) and not _is_json(value):
            yield f"{name} is {value!r}, which can't be kept as JSON."
        if isinstance(value, datetime) and value.tzinfo is None:
            yield f"{name} is {value!r}, without a time zone: datetime(..., tzinfo=UTC)."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
