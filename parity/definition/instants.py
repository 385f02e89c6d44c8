"""Instants: aware UTC, in whole microseconds, which is the resolution of Feast, Python and the stores here."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MICROSECONDS_PER_DAY = 86_400_000_000
FIRST_INSTANT = datetime.min.replace(tzinfo=UTC)
LAST_INSTANT = datetime.max.replace(tzinfo=UTC)
"""What a Python datetime and a protobuf Timestamp, and so Feast, can hold."""


def utc_now() -> datetime:
    """The present instant. Scripts call it once, at the edge, and pass it on."""
    return datetime.now(UTC)


def day_of(times: np.ndarray) -> np.ndarray:
    """Number the UTC days of ``times``, in microseconds, from 1970-01-01."""
    return times // MICROSECONDS_PER_DAY
