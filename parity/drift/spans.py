"""Which days are compared: a reference and a current window, of whole days in UTC, both ends included."""

import argparse
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from parity.definition.instants import MICROSECOND
from parity.edge.errors import UserError

CURRENT_DAYS, REFERENCE_DAYS = 7, 28
MOST_DAYS = 3660
"""From the first day of the reference to the last of the current window: rows are counted by day."""
DAY = timedelta(days=1)


class TooLittleError(UserError):
    """There is too little data to judge a table yet, for a ``reason``: no fault of anybody, and time may mend it."""

    def __init__(self, reason: str, advice: str):
        super().__init__(f"{reason}. {advice}")
        self.reason = reason


class Span(NamedTuple):
    """Days from ``first`` to ``last``."""

    first: date
    last: date

    @property
    def begin(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """The last microsecond of it."""
        return datetime.combine(self.last, time.max, UTC)

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"


class Spans(NamedTuple):
    reference: Span
    current: Span

    @property
    def days(self) -> list[date]:
        """From the first day to the last, also those between the windows."""
        count = (self.current.last - self.reference.first).days + 1
        return [self.reference.first + number * DAY for number in range(count)]


def span(text: str) -> Span:
    """Read ``2026-03-01..2026-03-07``, or one day, for argparse."""
    first, dots, last = text.partition("..")
    try:
        found = Span(date.fromisoformat(first), date.fromisoformat(last if dots else first))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two days, such as 2026-03-01..2026-03-07") from None
    if found.last < found.first:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins")
    return found


def end_of_yesterday(at: datetime) -> datetime:
    """The last instant that is of a day (UTC) which is over: half a day is no day to compare."""
    return datetime.combine(at.astimezone(UTC).date(), time(), UTC) - MICROSECOND


def spans_of(reference: Span | None, current: Span | None, newest: date) -> Spans:
    """The windows that were asked for; by default the last week of the data, up to the day ``newest``, and
    the four weeks before.

    Raises `UserError` if the reference is not the older one, or if they share a day.
    """
    try:
        current = current or Span(newest - (CURRENT_DAYS - 1) * DAY, newest)
        reference = reference or Span(current.first - REFERENCE_DAYS * DAY, current.first - DAY)
    except OverflowError:
        raise UserError(f"the newest row is of {newest}, before which there are no days to compare with.") from None
    if reference.first > current.last:
        raise UserError(
            f"the reference, {reference}, is newer than the current window, {current}. "
            "Exchange --reference and --current."
        )
    if reference.last >= current.first:
        raise UserError(
            f"the reference, {reference}, and the current window, {current}, share days, so they are no two windows. "
            f"Let the reference end before {current.first}."
        )
    found = Spans(reference, current)
    if (current.last - reference.first).days >= MOST_DAYS:
        raise UserError(f"{reference} and {current} span more than {MOST_DAYS:,} days. Name windows that lie closer.")
    return found
