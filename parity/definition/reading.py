"""How a file of transactions is to be read: all that it does not say itself, and nobody shall guess."""

from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import available_timezones

EPOCH_UNITS = ("days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds")
"""What may be given as the format of timestamps that are numbers: what they count since the origin."""
WHITESPACE = "whitespace"
"""The delimiter of columns that are separated by blanks, any number of them."""


@dataclass(frozen=True)
class Reading:
    """The format of transactions, as `parity.TransactionSource` declares it. It can be pickled, and knows no Feast."""

    name: str = "transactions"
    """That of the source."""
    timestamp: str = "timestamp"
    """What the column of instants is called, once it is read."""
    timestamp_columns: tuple[str, ...] = ()
    """The columns of the file that are the timestamp together, a blank between two; if not the one of its name."""
    timestamp_format: str | None = None
    """A strptime format, or one of `EPOCH_UNITS`; by default ISO 8601."""
    time_zone: str | None = None
    """The IANA name of the zone of timestamps that have no offset; by default UTC."""
    origin: str | None = None
    """What timestamps that are numbers count from, ISO 8601; by default 1970-01-01."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Columns of the file, and what they are called once they are read."""
    delimiter: str = ","
    quote: str = '"'
    decimal: str = "."
    thousands: str = ""
    currency: str = ""
    """A sign that may stand before or after an amount."""
    whole_with_point: bool = False
    """Whether 17001.0 is the whole number 17001."""
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ("",)
    skip_rows: int = 0
    """Lines above the header."""
    skip_footer: int = 0
    """Lines below the last row."""
    comment: str = ""
    """What lines begin with that are no rows."""
    column_names: tuple[str, ...] = ()
    """The names of the columns of a file that has no header."""

    def faults(self) -> Iterator[str]:
        """What is wrong with it, in words for people."""
        if self.time_zone is not None and self.time_zone not in available_timezones():
            yield f"the time_zone {self.time_zone!r} is not the IANA name of one, such as Europe/Berlin."
