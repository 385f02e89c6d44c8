"""Events, brought online milliseconds after they happened, and landed among the transactions.

    python -m parity stream [--source NAME] [--partitions 0,2] [--metrics-port 9109]
    python -m parity stream --produce user_transactions.csv --speed 1000x

Where they come from and where they land is in feature_repo/stream.yaml. Ctrl-C or SIGTERM ends it once all that was
applied has landed.
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast

# isort: split
import pyarrow as pa
from feast import FeatureStore

from parity.definition.checks import FeatureTable
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, shown, whole_number
from parity.edge.configuration import addresses
from parity.edge.errors import UserError
from parity.edge.files import absolute
from parity.edge.signals import ending_by
from parity.offline.side import origin_of
from parity.online.side import online_store_of
from parity.repository import in_force, opened
from parity.stream.apply import Applier
from parity.stream.broker import Broker
from parity.stream.configuration import StreamSource, stream_sources
from parity.stream.events import EventReader
from parity.stream.kafka_source import KafkaBroker
from parity.stream.metrics import Metrics
from parity.stream.produce import produced, send, speed
from parity.stream.redis_source import RedisBroker
from parity.stream.seed import seed
from parity.stream.worker import OnlineStore, Worker
from parity.transactions.landed import Landing
from parity.transactions.listing import partition_columns

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"


def main() -> None:
    args = arguments()
    source = one_of(stream_sources(args.config, in_force(REPOSITORY).tables, args.view, args.source), args.config)
    if args.produce:
        _produce(source, args)
    else:
        _stream(source, args)


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--source", metavar="NAME", help="the source of stream.yaml (default: the one that it has)")
    views = "the source of these feature views; it feeds all of its views"
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help=views)
    config = "where events come from (default: feature_repo/stream.yaml)"
    parser.add_argument("--config", type=Path, default=REPOSITORY / "stream.yaml", metavar="FILE", help=config)
    only = "read only these, as in 0,2 (default: all, or with a group of Kafka those that it gives)"
    parser.add_argument("--partitions", type=_partitions, metavar="NUMBERS", help=only)
    idle = "end once no event has come for so long (default: never)"
    parser.add_argument("--until-idle", type=_seconds, metavar="SECONDS", help=idle)
    port = "answer Prometheus at this port, under /metrics"
    parser.add_argument("--metrics-port", type=whole_number(1, 65535), metavar="PORT", help=port)
    lost = "go on although events are gone that were not read: deleted, or beyond what is kept"
    parser.add_argument("--skip-lost", action="store_true", help=lost)
    more = parser.add_argument_group("to produce events from a file, for tries and tests")
    more.add_argument("--produce", type=Path, metavar="FILE", help="send the transactions of this file as events")
    pace = "1000x is a thousand times as fast as they happened; max as fast as it goes (default)"
    more.add_argument("--speed", type=speed, default="max", metavar="SPEED", help=pace)
    more.add_argument("--now", action="store_true", help="move all in time, so that the last one happens now")
    args = parser.parse_args()
    if not args.produce and args.now:
        parser.error("--now is for --produce")
    return args


def _partitions(written: str) -> list[int]:
    try:
        return sorted({whole_number(0, 100_000)(part) for part in written.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{written!r} is no list of numbers, as 0,2 is") from None


def _seconds(written: str) -> float:
    try:
        seconds = float(written)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{written!r} is no number of seconds, 0 or more")
    return seconds


def one_of(sources: list[StreamSource], path: Path) -> StreamSource:
    """The one source of a stream.yaml, of which a worker has one."""
    if len(sources) > 1:
        names = " or ".join(f"--source {source.name}" for source in sources)
        raise UserError(f"{path}: a worker streams one source, and these are {len(sources)}. Say which: {names}")
    return sources[0]


def _event_id(table: FeatureTable) -> str | None:
    return table.event_id


def _broker(source: StreamSource, store: FeatureStore, only: list[int] | None) -> Broker:
    if source.type == "kafka":
        return KafkaBroker(source, only)
    online = store.config.online_store
    client, address = online_store_of(store)._get_client(online), addresses(online.connection_string)
    return RedisBroker(source, client, address, only, f"feature-store:{store.project}")


def _stream(source: StreamSource, args: argparse.Namespace) -> None:
    Landing(source.landing)  # says in one line what is wrong with it
    _require_computed_from_there(source)
    with opened(REPOSITORY, source.tables, may_be_new=True) as store:
        broker = _broker(source, store, args.partitions)
        metrics = Metrics(source.name)
        if args.metrics_port:
            metrics.serve(args.metrics_port)
        worker = worker_of(source, store, broker, metrics)
        with ending_by(worker.end):
            print(f"{source.name}: from {broker.place} to {shown(source.landing)}", flush=True)
            worker.run(args.until_idle, args.skip_lost)
    print(f"{source.name}: {metrics}")


def worker_of(source: StreamSource, store: FeatureStore, broker: Broker, metrics: Metrics) -> Worker:
    """Make a worker, for whose work the rows online have what they need."""
    appliers = {table.name: Applier(store, table) for table in source.tables}
    folders = partition_columns(source.landing / "file")
    reader = EventReader(source.tables, _event_id(source.tables[0]), folders, source.largest_event)
    _require_definition(appliers)
    return Worker(source, broker, appliers, reader, metrics, _tolerance(source, store), _online(store, appliers))


def _tolerance(source: StreamSource, store: FeatureStore) -> float:
    of_store = getattr(store.config.online_store, "future_tolerance_seconds", 0)
    if source.future_tolerance_seconds is None:
        return of_store
    if source.future_tolerance_seconds > of_store:
        raise source.refuse(
            f"its future_tolerance_seconds, {source.future_tolerance_seconds:g}, is more than the {of_store:g} of the "
            "online store, which would not take such rows. Write it in feature_store.yaml too, under online_store."
        )
    return source.future_tolerance_seconds


def _require_computed_from_there(source: StreamSource) -> None:
    """Refuse to land events where the features are not computed from, as no batch run would know of them."""
    for table in source.tables:
        origin = absolute(origin_of(table))
        if not (isinstance(origin, Path) and absolute(source.landing).is_relative_to(origin)):
            folder = shown(source.landing)
            raise source.refuse(
                f"events land in {folder}, and {table.name} is computed from {shown(origin)}. Put all of its "
                f"transactions into {folder}, and run: python compute_features.py --view {table.name} --input {folder}"
            )


def _produce(source: StreamSource, args: argparse.Namespace) -> None:
    now = utc_now() if args.now else None
    events = produced(args.produce, source.tables, _event_id(source.tables[0]), now)
    keys = {tuple(table.definition.keys.names) for table in source.tables}
    with opened(REPOSITORY, []) as store:
        broker = _broker(source, store, None)
        if len(keys) > 1 and broker.partitions() > 1:
            first = source.tables[0]
            print(f"Its partitions are by {' and '.join(first.definition.keys.names)}, the keys of {first.name}.")
        ended: list[bool] = []
        with ending_by(lambda: ended.append(True)):
            sent = send(events, broker, args.speed, lambda: bool(ended))
        with suppress(Exception):
            broker.close()
    print(f"{sent:,} of {len(events):,} events of {shown(args.produce)} -> {source.name}, {broker.place}")


def _online(store: FeatureStore, appliers: Mapping[str, Applier]) -> OnlineStore:
    some = list(appliers.values())

    def seed_keys(name: str, keys: pa.Table) -> None:
        table = appliers[name].table
        seed(store, table, origin_of(table), utc_now(), keys=keys)

    def fill() -> None:
        for table in (applier.table for applier in some):
            seeded = seed(store, table, origin_of(table), utc_now())
            print(f"{table.name}: {seeded.keys:,} {table.noun(seeded.keys)} seeded", flush=True)

    def note(places: Mapping[str, tuple[int, int]]) -> None:
        for applier in some:
            applier.note_marks(places)

    def ping() -> str:
        return f"{online_store_of(store).identity(store.config)} {some[0].life()}"

    place = f"Redis at {addresses(store.config.online_store.connection_string)}"
    return OnlineStore(place, ping, seed_keys, fill, partial(_marks, some), note)


def marks_of(source: StreamSource, store: FeatureStore) -> dict[str, tuple[int, int]] | None:
    """Up to which offsets the rows of all views of a source are known to have what has landed: `Applier.marks`."""
    return _marks([Applier(store, table) for table in source.tables])


def _marks(appliers: Sequence[Applier]) -> dict[str, tuple[int, int]] | None:
    found = [applier.marks() for applier in appliers]
    if any(marks is None for marks in found):
        return None
    of_all = set.intersection(*map(set, found))
    return {name: tuple(map(min, zip(*(marks[name] for marks in found), strict=True))) for name in of_all}


def _require_definition(appliers: Mapping[str, Applier]) -> None:
    """Refuse rows online that a stream wrote by another definition: which of the two holds, a worker does not know."""
    for applier in appliers.values():
        seeded_by = applier.seeded_by()
        if seeded_by not in (None, applier.fingerprint):
            raise UserError(
                f"{applier.table.name}: its rows online were seeded for a stream by another definition than features.py"
                " has here. If this is the one that holds, run compute_features.py and materialize_to_online.py, and "
                "start again."
            )
