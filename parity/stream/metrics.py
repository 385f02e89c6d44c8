"""What a worker counts: for Prometheus, for the live line on a terminal, and for the line at its end."""

import time
from collections import Counter as Counts
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from tqdm import tqdm

from parity.edge.errors import UserError
from parity.stream.broker import Lag

EVENTS = {
    "applied": "changed what is served",
    "already": "were delivered again, and changed nothing",
    "duplicate": "had the id of an earlier event, and its content",
    "correction": "had the id of an earlier event, and other content",
    "late": "were too old to change what is served before the next batch run",
    "passed": "are taken by no feature view, as their conditions have it",
    "dead": "could not be read, and went to the dead letters",
}
"""What becomes of events; of one that several views take, the first of these that is true of any."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
SECONDS_PER_LINE = 0.2


class Metrics:
    """The counts of one worker."""

    def __init__(self, source: str):
        self.source, self.counts = source, Counts()
        self.registry = CollectorRegistry()
        made = {"registry": self.registry}
        of_partition = ["source", "partition"]
        self._events = Counter("parity_stream_events", "Events, by what became of them", ["source", "became"], **made)
        self._batches = Counter("parity_stream_batches", "Micro-batches", ["source"], **made)
        self._landed = Counter("parity_stream_landed", "Events that have landed", ["source"], **made)
        self._seconds = Histogram(
            "parity_stream_batch_seconds", "From the read of a micro-batch to its last write", ["source"],
            buckets=SECONDS, **made,
        )  # fmt: skip
        self._lag = Gauge("parity_stream_lag_events", "Events that are not read yet", of_partition, **made)
        self._lag_seconds = Gauge("parity_stream_lag_seconds", "How long the oldest waits", of_partition, **made)
        self._offset = Gauge("parity_stream_landed_offset", "Up to which all have landed", of_partition, **made)
        self._connected = Gauge("parity_stream_connected", "1, or 0 while a server is waited for", ["source"], **made)
        for became in EVENTS:
            self._events.labels(source, became)
        self.connected(True)
        self._line = tqdm(bar_format="{desc}", leave=False, disable=None)
        self._shown, self._rate, self._since = 0.0, 0, time.monotonic()

    def serve(self, port: int) -> None:
        """Answer Prometheus at a port of this machine."""
        try:
            start_http_server(port, registry=self.registry)
        except OSError as error:
            raise UserError(f"--metrics-port {port}: {error.strerror}. Name another port.") from None

    def batch(self, became: Mapping[str, int], seconds: float) -> None:
        """Count a micro-batch."""
        self.counts.update(became)
        for kind, count in became.items():
            self._events.labels(self.source, kind).inc(count)
        self._batches.labels(self.source).inc()
        self._seconds.labels(self.source).observe(seconds)

    def landed(self, count: int, until: Mapping[str, int]) -> None:
        """Count events that have landed."""
        self.counts["landed"] += count
        self._landed.labels(self.source).inc(count)
        for partition, offset in until.items():
            self._offset.labels(self.source, partition).set(offset)

    def connected(self, is_so: bool) -> None:
        self._connected.labels(self.source).set(is_so)

    def show(self, lag: Mapping[str, Lag]) -> None:
        """Bring the lag, and the line on a terminal, up to date."""
        for partition, (events, seconds) in lag.items():
            self._lag.labels(self.source, partition).set(events)
            self._lag_seconds.labels(self.source, partition).set(seconds)
        if not self._line.disable:
            read, now = sum(self.counts[kind] for kind in EVENTS), time.monotonic()
            rate, self._rate = (read - self._rate) / max(now - self._since, 1e-9), read
            self._since = now
            behind = sum(events for events, _ in lag.values())
            self._line.set_description_str(f"{self.source}: {self}, {rate:,.0f}/s, {behind:,} to read")

    @property
    def is_due(self) -> bool:
        """Whether `show` has been a while ago."""
        now = time.monotonic()
        if now - self._shown < SECONDS_PER_LINE:
            return False
        self._shown = now
        return True

    def close(self) -> None:
        self._line.close()

    def __str__(self) -> str:
        parts = [f"{sum(self.counts[kind] for kind in EVENTS):,} events"]
        parts += [f"{self.counts[kind]:,} {kind}" for kind in EVENTS if self.counts[kind]]
        return ", ".join([*parts, f"{self.counts['landed']:,} landed"])
