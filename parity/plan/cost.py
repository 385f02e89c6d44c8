"""What a view costs once it is applied: its backfill and its rows online, measured on what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parity.plan.side import Computed


@dataclass(frozen=True)
class Cost:
    """Of all keys: what was measured, times how many times as many keys there are."""

    rows: int
    bytes: int
    seconds: float
    keys: int
    online_bytes: int | None
    """None where it was not measured."""
    online_seconds: float | None
    times: float
    """How many times as many keys there are as were measured."""
    online_times: float

    def lines(self, noun: str) -> Iterator[str]:
        """In words."""
        yield (
            f"backfill: {self.rows:,} rows, {size(self.bytes)} of Parquet, {self.seconds:.2g} s on this machine, "
            f"{self._measured(self.times)}"
        )
        if self.online_bytes is None or self.online_seconds is None:
            yield f"online: {self.keys:,} {noun}; what they take is not measured: no redis-server here, or other types"
            return
        yield (
            f"online: {self.keys:,} {noun}, {size(self.online_bytes)} of memory, {self.online_seconds:.2g} s to "
            f"write them to a Redis on this machine, {self._measured(self.online_times)}"
        )

    def _measured(self, times: float) -> str:
        if times <= 1:
            return "measured"
        return f"measured on {round(self.keys / times):,} of {self.keys:,} keys and multiplied"

    def as_json(self) -> dict[str, Any]:
        return {
            "offline": {"rows": self.rows, "bytes": self.bytes, "seconds": self.seconds},
            "online": {"keys": self.keys, "bytes": self.online_bytes, "seconds": self.online_seconds},
            "extrapolated": {"offline": self.times, "online": self.online_times},
        }


def cost_of(computed: Computed, online: Mapping[str, Any] | None, times: float) -> Cost:
    """The cost of a view that has so many ``times`` as many keys as were computed."""
    seconds = sum(computed.seconds.values())
    written = online and online["written"]
    part = computed.keys / written * times if written else times
    return Cost(
        rows=round(computed.count * times),
        bytes=round(computed.bytes * times),
        seconds=seconds * times,
        keys=round(computed.keys * times),
        online_bytes=round(online["bytes"] * part) if written else None,
        online_seconds=online["seconds"] * part if written else None,
        times=times,
        online_times=part,
    )


def size(count: int) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.3g} {unit}" if unit != "B" else f"{count} B"
        count /= 1024
    raise AssertionError
