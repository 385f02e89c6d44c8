"""How files of transactions are to be read: all that they do not say themselves, and nobody shall guess.

What a value is follows from its text, from the type of its column, and from what is declared here, and from nothing
else: not from other rows, the machine, its locale or its time zone.

**Kinds of files**, by suffix (in any capitals): text with columns (``.csv``, ``.tsv``, ``.txt``), JSON (``.json``,
``.jsonl``, ``.ndjson``) and Parquet (``.parquet``). Text and JSON may be compressed, as a further suffix says:
``.gz``, ``.bz2``, ``.xz``, ``.zst``. In a folder, of any depth, those whose path has no part that begins with ``.`` or
``_`` are read, all as one. Folders right above a file that are called ``name=value`` (one, or several in a row) give
each of its rows a column ``name`` with that text, percent-decoded; ``__HIVE_DEFAULT_PARTITION__`` is null. If the file
has a column of that name itself, that of the file counts.

**Text with columns** is decoded, a byte order mark at its start is left out, and then, line by line (a line ends with
LF, CR LF or CR, and what follows the last end is a line only if it is not empty):

1. the first ``skip_rows`` lines are left out, and the last ``skip_footer``;
2. of the others, lines that begin with ``comment`` are, whatever quotes are around them;
3. of those left, lines with nothing in them (outside of quotes) are, and the first one is if it begins with ``sep=`` in
   any capitals: what follows in it has to be the delimiter;
4. the first one left names the columns, unless ``column_names`` does; each other row has as many values as there are
   names. A value that begins with ``quote`` ends with the next one that is not doubled; it may hold delimiters and ends
   of lines. A ``quote`` elsewhere in a value is a sign like any other.

With the delimiter ``whitespace``, values are separated by one or more blanks or tabs, blanks and tabs around a line are
left out (so that a line of blanks has nothing in it), and no quotes are known.

**JSON** is an array of objects, or objects one after the other, one a line as a rule. A name with dots, as in
``customer.id``, is one in an object in an object, unless the object has just that name. What is not there is null. A
number is the text it is written as (with ``decimal`` for its point, unless the column is String or Bytes), ``true`` and
``false`` are texts, and a list or object in a column that is read is refused.

**Null** is an empty value of a text with columns, quoted or not, whatever the type of its column; a text, of any kind
of file, that is one of ``null_values`` to the letter; and null and NaN of JSON and Parquet: not the text ``NaN``. The
parts of a timestamp of several columns are null each; if one is, the timestamp is. A key, the timestamp or a column of
a feature may be null only in rows that the view's condition leaves out. A value that is neither null nor can be read
as the type of its column is refused in whatever row it is.

**Values**, by the type of their column, as texts of any kind of file:

- *Int32, Int64*: ``0``, or an optional ``-`` and digits ``0`` to ``9`` that do not begin with 0, in the range of the
  type. With ``whole_with_point``, ``decimal`` and one or more zeros may follow. In a column that is no key, blanks
  around it, a currency, separators of thousands and the forms of ``negative`` are taken as in an amount.
- *Float64* (an amount): blanks around it are left out. Digits with at most one ``decimal`` among, before or after them,
  then optionally ``e`` or ``E``, an optional sign and digits; before all that an optional ``+`` or ``-``. It is rounded
  to the nearest float64, which has to be finite. Digits before ``decimal`` (or the end) may have ``thousands`` among
  them: one to three digits, then groups of two or three, the last one of three. ``currency`` may stand once, before or
  after the number, with or without blanks between; the sign may be on either side of a currency that stands before.
- *String*: the text as it stands, blanks and leading zeros with it. *Bytes*: its UTF-8.
- *Bool*: ``true`` and ``1``, ``false`` and ``0``, in any capitals.
- *UnixTimestamp* (of keys only): ISO 8601, as below, in whole seconds.

In a Parquet file, integers are taken for Int32, Int64 and Float64 (up to 2**53 there), floats and decimals for Float64,
and with ``whole_with_point`` for Int32 and Int64 where they are whole (floats up to 2**53); integers for String and
Bytes (their decimal digits) and, 0 and 1, for Bool; booleans for Bool; binary for Bytes, and for String if it is UTF-8;
timestamps and dates for UnixTimestamp. Texts, also dictionaries of them, are read as above.

**Timestamps**, as texts:

- without ``timestamp_format``, ISO 8601: ``YYYY-MM-DD``, then optionally ``T`` or a blank, ``hh``, ``hh:mm``,
  ``hh:mm:ss`` or ``hh:mm:ss.f`` with up to six digits and any zeros after them; and, where there is a time, optionally
  ``Z``, ``+hh``, ``+hhmm`` or ``+hh:mm`` (or ``-``).
- with a ``timestamp_format`` that has a ``%``, what Python's `datetime.strptime` takes for it in the C locale, of these
  directives: ``%Y %y %m %b %B %d %j %H %I %p %M %S %f %z %Z %a %A %%``. So fields may have fewer digits, names of
  months and days are English, capitals do not matter, a blank stands for one or more blanks of any kind, ``%y`` from 69
  on is of the 1900s, a weekday is not compared with the date, and what is not in the format is the first there is
  (January, the 1st, 0 o'clock). Digits are ``0`` to ``9``. ``%Z`` takes ``UTC`` and ``GMT``, and is UTC. ``%z`` takes a
  capital ``Z``, and offsets with a colon at each place or at none. Unlike in Python, day 366 of a year that has 365 is
  refused.
- with one of `EPOCH_UNITS` as ``timestamp_format``, a number without blanks: an optional ``-`` or ``+``, digits, and
  optionally ``decimal`` and 0 to 18 digits; since ``origin``. It is exact, and refused if it is finer than a
  microsecond; but days, hours and minutes are rounded to a microsecond, half to even.

One that has no offset is a time in ``time_zone``; a date is its midnight. A time that the zone's clocks skip or show
twice is refused. Days count what such clocks show: the sum of ``origin`` and days is a time in ``time_zone``. The other
units count time that passes from ``origin`` on, which is in ``time_zone`` if it is declared and has no offset. Without
an ``origin`` they count from 1970-01-01 in UTC, whatever the ``time_zone``. The result lies in the years 1 to 9999,
UTC.

In a Parquet file, timestamps with a zone are instants, those without one and dates are times in ``time_zone``, whatever
the ``timestamp_format``, and nothing finer than a microsecond is taken. Integers, decimals and floats are taken where
there is a ``timestamp_format``: as the text of all their digits, for a float the fewest that read back the same.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import get_args, get_type_hints
from zoneinfo import ZoneInfo

EPOCH_UNITS = ("days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds")
"""What may be given as the format of timestamps that are numbers: what they count since the origin."""
WHITESPACE = "whitespace"
"""The delimiter of columns that are separated by blanks, any number of them."""
NEGATIVES = ("leading", "trailing", "parentheses")
BLANKS = " \u00a0\u2009\u202f"
"""What a blank as separator of thousands stands for."""
APOSTROPHES = "'\u2019"
"""What an apostrophe as separator of thousands stands for."""


def alike(thousands: str) -> str:
    """All characters that may separate thousands, where ``thousands`` is declared."""
    return next((some for some in (BLANKS, APOSTROPHES) if thousands and thousands == some[0]), thousands)


DIRECTIVES = "YymbBdjHIpMSfzZaA%"
"""What may follow a ``%`` in a strptime format."""
_OF_ONE_KIND = ("Yy", "mbBj", "dj", "HI", "aA", "zZ")
_NOT_AS_QUOTE_OR_SEPARATOR = "\r\n"


@dataclass(frozen=True)
class Reading:
    """The format of transactions, as `parity.TransactionSource` declares it. It can be pickled, and knows no Feast."""

    name: str = "transactions"
    """That of the source."""
    timestamp: str = "timestamp"
    """What the column of instants is called, once it is read."""
    timestamp_columns: tuple[str, ...] = ()
    """The columns of the file, under its own names, that are the timestamp together, a blank between two; if it is not
    one column. Numbers of a Parquet file are decimal digits there."""
    timestamp_format: str | None = None
    """A strptime format, or one of `EPOCH_UNITS`; by default ISO 8601."""
    time_zone: str | None = None
    """The IANA name of the zone of timestamps that have no offset, those of keys too; by default UTC."""
    origin: str | None = None
    """What timestamps that are numbers count from, ISO 8601; by default 1970-01-01 in UTC, and for days in `time_zone`.
    For days it has no offset."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Columns of the file, and what they are called once they are read. Another column of the file that has such a name
    already is not read."""
    delimiter: str | None = None
    """One character, or `WHITESPACE`; by default a tab in a file whose name ends in .tsv, and a comma in others."""
    quote: str = '"'
    """One ASCII character, or an empty text if there are no quotes."""
    decimal: str = "."
    """One character, in place of a decimal point."""
    thousands: str = ""
    """One character that may separate groups of digits; a blank stands for any of `BLANKS`, ' for any of `APOSTROPHES`.
    """
    currency: str = ""
    """A sign or word that may stand before or after an amount, in these capitals."""
    negative: str = "leading"
    """With "trailing", ``5.00-`` is negative too, with "parentheses", ``(5.00)`` is; a currency then is inside or
    outside of them. A leading minus always is taken; only one of these at a time."""
    whole_with_point: bool = False
    """Whether 17001.0 is the whole number 17001."""
    encoding: str = "utf-8"
    """That of text and JSON, by any name that Python has for it. What it can't decode is refused."""
    null_values: tuple[str, ...] = ()
    """Texts that are null, to the letter, beside an empty value of a text with columns."""
    skip_rows: int = 0
    """Lines above the header."""
    skip_footer: int = 0
    """Lines below the last row."""
    comment: str = ""
    """What lines begin with that are no rows."""
    column_names: tuple[str, ...] = ()
    """The names of the columns of text that has no header, in their order."""

    @property
    def counts(self) -> bool:
        """Whether timestamps are numbers."""
        return self.timestamp_format in EPOCH_UNITS

    def in_file(self, name: str) -> str:
        """What the file calls the column ``name``."""
        return next((before for before, after in self.renamed if after == name), name)

    def faults(self) -> Iterator[str]:
        """What is wrong with it, in words for people."""
        wrong = list(self._faults_of_types())
        yield from wrong
        if not wrong:
            yield from self._faults_of_time()
            yield from self._faults_of_text()
            yield from self._faults_of_names()

    def _faults_of_types(self) -> Iterator[str]:
        hints = get_type_hints(type(self))
        for option in fields(self):
            value, hint = getattr(self, option.name), hints[option.name]
            if hint == tuple[str, ...]:
                if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
                    yield f"{option.name} is {value!r}, and has to be a list of texts."
            elif option.name != "renamed" and type(value) not in (get_args(hint) or (hint,)):
                what = {bool: "True or False", int: "a whole number"}.get(hint, "a text")
                yield f"{option.name} is {value!r}, and has to be {what}."

    def _faults_of_time(self) -> Iterator[str]:
        if self.time_zone is not None and not _is_zone(self.time_zone):
            yield f"the time_zone {self.time_zone!r} is not the IANA name of one, such as Europe/Berlin."
        if self.timestamp_format is not None and not self.counts:
            yield from _faults_of_format(self.timestamp_format)
        if self.origin is None:
            return
        if not self.counts:
            yield f"an origin is for timestamps that count: timestamp_format= one of {', '.join(EPOCH_UNITS)}."
        try:
            origin = datetime.fromisoformat(self.origin)
        except ValueError:
            yield f"the origin {self.origin!r} is no ISO 8601 date, such as 1970-01-01 or 2020-01-01T00:00:00Z."
            return
        if self.timestamp_format == "days":
            if origin.tzinfo is not None:
                yield f"the origin {self.origin!r} of days has an offset. Leave it out, and declare time_zone instead."
        elif origin.tzinfo is None and self.time_zone is not None and _is_zone(self.time_zone):
            local = origin.replace(tzinfo=ZoneInfo(self.time_zone))
            if local.utcoffset() != local.replace(fold=1).utcoffset():
                yield f"the origin {self.origin!r} does not exist, or exists twice, in {self.time_zone}. Add an offset."

    def _faults_of_text(self) -> Iterator[str]:
        try:
            if not codecs.lookup(self.encoding)._is_text_encoding:
                raise LookupError
        except (LookupError, ValueError):
            yield f"the encoding {self.encoding!r} is not one that Python has, such as latin-1 or cp1252."
        if self.delimiter not in (None, WHITESPACE) and not _is_sign(self.delimiter):
            yield f"the delimiter {self.delimiter!r} is not one character, nor {WHITESPACE!r}."
        if self.quote and not (_is_sign(self.quote) and self.quote.isascii()):
            yield f"the quote {self.quote!r} is not one ASCII character, nor empty for none."
        if self.quote and self.quote in (",\t" if self.delimiter is None else self.delimiter):
            yield f"the quote and the delimiter are both {self.quote!r}."
        for option, value in [("decimal", self.decimal), ("thousands", self.thousands)]:
            if (value or option == "decimal") and (not _is_sign(value) or value.isalnum() or value in "+-"):
                yield f"{option} is {value!r}, and has to be one character that is no digit, letter or sign."
        if self.decimal == self.thousands:
            yield f"decimal and thousands are both {self.decimal!r}."
        if any(sign.isdigit() or sign in "+-" for sign in self.currency) or self.currency != self.currency.strip():
            yield f"the currency {self.currency!r} has digits, signs or blanks around it. Leave them out."
        if self.currency and self.currency in {self.decimal, *alike(self.thousands)}:
            yield f"the currency {self.currency!r} separates digits, too."
        if self.currency.lower() == "e" or {*self.currency} & {*"()"}:
            yield f"the currency {self.currency!r} may be a part of a number, as in 1e5 and (5). Take it out of them."
        if self.negative not in NEGATIVES:
            yield f"negative is {self.negative!r}, and has to be one of {', '.join(NEGATIVES)}."
        for option in ("skip_rows", "skip_footer"):
            if getattr(self, option) < 0:
                yield f"{option} is {getattr(self, option)}, and has to be 0 or more."
        if any(end in self.comment for end in "\r\n"):
            yield f"the comment {self.comment!r} has the end of a line in it."

    def _faults_of_names(self) -> Iterator[str]:
        names = list(self.column_names)
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield f"column_names has {name!r} {names.count(name)} times."
        new = [after for _, after in self.renamed]
        for name in dict.fromkeys(new):
            if new.count(name) > 1:
                yield f"field_mapping calls {new.count(name)} columns {name!r}."
        missing = [before for before, _ in self.renamed if names and before not in names]
        missing += [name for name in self.timestamp_columns if names and name not in names]
        for name in missing:
            yield f"column_names has no {name!r}, which it is to be read from."


def _is_zone(name: str) -> bool:
    """Say whether there is such a zone, wherever that is known from; ``localtime`` is another on every machine."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # LookupError: ZoneInfoNotFoundError is one
        return False
    return name not in ("localtime", "posixrules", "Factory")


def _is_sign(text: str | None) -> bool:
    return text is not None and len(text) == 1 and text not in _NOT_AS_QUOTE_OR_SEPARATOR


def _faults_of_format(text: str) -> Iterator[str]:
    """What is wrong with a strptime format: what Python would refuse, or guess."""
    told = f"the timestamp_format {text!r}"
    units = f"one of {', '.join(EPOCH_UNITS)}"
    if "%" not in text:
        yield f"{told} is neither a strptime format, such as %d.%m.%Y %H:%M, nor {units}."
        return
    found = re.findall(r"%(.?)", text, re.DOTALL)
    for directive in dict.fromkeys(found):
        if not directive or directive not in DIRECTIVES:
            known = " ".join(f"%{sign}" for sign in DIRECTIVES)
            yield f"{told} has %{directive}, which is none of {known}."
        elif directive != "%" and found.count(directive) > 1:
            yield f"{told} has %{directive} {found.count(directive)} times."
    for kind in _OF_ONE_KIND:
        both = [directive for directive in found if directive in kind]
        if len(set(both)) > 1:
            yield f"{told} has both %{both[0]} and %{both[1]}. Keep one."
    if not set(found) & set("Yy"):
        yield f"{told} has no year, %Y or %y. If it stands in another column, declare timestamp_columns."
    if ("I" in found) != ("p" in found):
        yield f"{told} has only one of %I, hours up to 12, and %p, AM or PM. For hours up to 23 write %H alone."
