"""How far a stream has come: which of its events are in a row online, and which are in the files. It knows no Feast.

A row that a stream has written says so in a field beside it (`parity.online.rows.APPLIED`): a fingerprint, and of each
partition of the stream that it had events of the greatest offset, PARTITION=OFFSET, in `DIGITS` digits. The marks are
those of the files that the offline table was computed from: `parity.offline.side.marks_of`.
"""

import re
from collections.abc import Mapping

DIGITS = 20
"""So that offsets compare as texts: a number in Lua is exact up to 2^53 only."""
EVERYTHING = "*"
"""Marks that no row is ahead of."""

Marks = Mapping[str, int]
"""The greatest offset of each partition."""
NO_MARKS: Marks = {}


def marks_text(marks: Marks) -> str:
    """The marks as they are stored, and as the scripts in Redis take them."""
    return " ".join(f"{partition}={offset:0{DIGITS}d}" for partition, offset in sorted(marks.items()))


def is_ahead(applied: bytes | None, marks: Marks) -> bool:
    """Whether a row with these ``applied`` offsets has events that files with these ``marks`` do not have."""
    if applied is None:
        return False
    known = _offsets(marks_text(marks).encode())
    return any(known.get(partition, b"") < offset for partition, offset in _offsets(applied).items())


def _offsets(text: bytes) -> dict[bytes, bytes]:
    return dict(re.findall(rb"(\S+)=([0-9]+)", text))
