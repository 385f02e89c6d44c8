"""The stream as a job of Apache Flink: Flink reads the topic, and does with its events what a worker does.

    .venv/flink/bin/python -m parity.stream.flink --connector JAR --checkpoints FOLDER [--source NAME]

Flink shares the partitions among its tasks, keeps in its checkpoints how far they are, and starts them again. The
events of a partition, which has all of an entity, come to one task, some of them at a time: it applies and lands them
as `parity.stream.worker` does, with the same state and the same offsets in Redis. So what Flink delivers again after a
failure is refused there, and workers may take over from a job, or a job from workers. What a Redis has lost that it had
confirmed, a job does not notice, as workers do: let it fsync always, or begin anew with another folder of checkpoints.

The job needs the packages of requirements-flink.txt, Java 17, and the connector from Maven Central:
org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2. Each task opens the repository, where the client has it. Without a
cluster it runs on this machine; `flink run -py parity/stream/flink.py` hands it to one.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import re
import sys
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
from parity.edge.command import argument_parser, run, shown, whole_number
from parity.edge.errors import UserError
from parity.repository import in_force, opened
from parity.stream.command import REPOSITORY, marks_of, one_of, worker_of
from parity.stream.configuration import StreamSource, stream_sources
from parity.stream.events import Raw
from parity.stream.kafka_source import KafkaBroker
from parity.stream.metrics import Metrics
from parity.transactions.landed import high_water

warnings.simplefilter("ignore", DeprecationWarning)  # those of PyFlink and Beam, which only they can heed
try:
    from py4j.protocol import Py4JJavaError
    from pyflink.common import Configuration, Row, Time, Types
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.datastream.functions import ProcessWindowFunction, RuntimeContext
    from pyflink.datastream.window import TumblingProcessingTimeWindows
    from pyflink.table import DataTypes, Schema, StreamTableEnvironment, TableDescriptor
except ModuleNotFoundError as missing:
    raise UserError(
        f"{missing.name} is not installed, which Flink takes. Run: python -m venv .venv/flink && "
        ".venv/flink/bin/pip install --no-deps -r requirements-flink.txt, and this with .venv/flink/bin/python"
    ) from None

SETTINGS = {
    "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
    "execution.state-recovery.claim-mode": "CLAIM",
    "restart-strategy.type": "exponential-delay",
    "restart-strategy.exponential-delay.initial-backoff": "1 s",
    "restart-strategy.exponential-delay.max-backoff": "30 s",
    "restart-strategy.exponential-delay.attempts-before-reset-backoff": "20",
    "python.fn-execution.bundle.time": "10",
}
"""Of a job without settings of its own: a checkpoint outlives it, and what fails is tried again for some minutes."""
JAVA_OPTIONS = {
    "ssl.ca.location": {"ssl.truststore.type": "PEM", "ssl.truststore.location": "{}"},
    "sasl.mechanisms": {"sasl.mechanism": "{}"},
}
"""What librdkafka calls otherwise than Kafka's own client, which Flink has."""
OF_LIBRDKAFKA = ("ssl.certificate.", "ssl.key.", "ssl.keystore.", "sasl.oauthbearer.", "sasl.kerberos.")
"""The beginnings of options for which there is no simple counterpart."""


class Work(ProcessWindowFunction):
    """What is done with some events of a partition: what a worker does, in a process of a task."""

    def __init__(self, config: Path, name: str):
        self._config, self._name = config, name

    def open(self, _context: RuntimeContext) -> None:
        tables = in_force(REPOSITORY).tables
        [self._source] = stream_sources(self._config, tables, source=self._name)
        self._open = ExitStack()
        store = self._open.enter_context(opened(REPOSITORY, self._source.tables, may_be_new=True))
        self._worker = worker_of(self._source, store, KafkaBroker(self._source), Metrics(self._name))
        self._worker.reached()

    def process(self, partition: int, _context: Any, events: Iterable[Row]) -> Iterable[str]:
        rows = sorted(events, key=lambda row: row[2])
        for start in range(0, len(rows), self._source.batch):
            payloads, _, offsets = zip(*rows[start : start + self._source.batch], strict=True)
            self._worker.take([Raw(self._source.partition(partition), list(offsets), list(payloads))])
        self._worker.settle()  # before Flink counts them as done
        return ()

    def clear(self, _context: Any) -> None:
        """Nothing: the events of a window go with it."""

    def close(self) -> None:
        self._open.close()


def job(source: StreamSource, connector: Path, checkpoints: Path, every: int, parallelism: int | None) -> None:
    """Run the job until it is ended, or has failed too often."""
    settings = SETTINGS | {
        "pipeline.name": f"stream {source.name}",
        "pipeline.jars": connector.resolve().as_uri(),
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "python.pythonpath": str(REPOSITORY.parent),
        "execution.checkpointing.dir": checkpoints.resolve().as_uri(),
        "execution.checkpointing.interval": f"{every} ms",
    }
    if newest := newest_checkpoint(checkpoints):
        settings["execution.state-recovery.path"] = newest.resolve().as_uri()
        print(f"{source.name}: going on from {shown(newest)}", flush=True)
    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    if parallelism:
        environment.set_parallelism(parallelism)
    (
        _events(StreamTableEnvironment.create(environment), source)
        .key_by(lambda event: event[1], key_type=Types.INT())
        .window(TumblingProcessingTimeWindows.of(Time.milliseconds(round(source.landing_seconds * 1000))))
        .process(Work(source.file, source.name), Types.STRING())
        .uid("work")
        .print()  # of which there is nothing, but a stream has to lead somewhere
    )
    try:
        environment.execute()
    except Py4JJavaError as error:
        text = str(error)
        refused = re.findall(r"parity\.\S+Error: (.*)", text)
        causes = re.findall(r"Caused by: (.*)", text)
        raise UserError(
            refused[-1] if refused else f"the job has failed: {(causes or text.splitlines())[-1]:.500}"
        ) from None


def _events(tables: StreamTableEnvironment, source: StreamSource) -> Any:
    """The events of the topic: payload, partition, offset. Without a checkpoint they begin where rows have them all."""
    with opened(REPOSITORY, source.tables, may_be_new=True) as store:
        marks = marks_of(source, store) or {}
    schema = (
        Schema.new_builder()
        .column("payload", DataTypes.BYTES())
        .column_by_metadata("partition", DataTypes.INT(), is_virtual=True)
        .column_by_metadata("offset", DataTypes.BIGINT(), is_virtual=True)
        .build()
    )
    landed = {
        source.number_of(partition): min(offset, *marks.get(partition, (offset, offset))) + 1
        for partition, offset in high_water(source.landing).items()
        if partition.startswith(f"{source.name}/")
    }
    options = {"topic": source.topic, "format": "raw", "properties.bootstrap.servers": source.brokers}
    options |= {f"properties.{name}": value for name, value in java_options(source).items()}
    if source.group:
        options["properties.group.id"] = source.group
    if landed:
        options["scan.startup.mode"] = "specific-offsets"
        places = (f"partition:{number},offset:{offset}" for number, offset in sorted(landed.items()))
        options["scan.startup.specific-offsets"] = ";".join(places)
    else:
        options["scan.startup.mode"] = "earliest-offset"
    descriptor = TableDescriptor.for_connector("kafka").schema(schema)
    for name, value in options.items():
        descriptor = descriptor.option(name, value)
    table = tables.from_descriptor(descriptor.build())
    return tables.to_data_stream(table)


def java_options(source: StreamSource) -> dict[str, str]:
    """The options of a source, which are those of librdkafka, as Kafka's own client has them."""
    given, found = dict(source.options), {}
    user, password = given.pop("sasl.username", None), given.pop("sasl.password", None)
    for name, value in given.items():
        if name.startswith(OF_LIBRDKAFKA):
            raise source.refuse(f"the option {name} is one of librdkafka, and a job of Flink has no such option")
        found |= {java: text.format(value) for java, text in JAVA_OPTIONS.get(name, {name: "{}"}).items()}
    if user is not None:
        module = "scram.Scram" if "SCRAM" in found.get("sasl.mechanism", "") else "plain.Plain"
        found["sasl.jaas.config"] = (
            f"org.apache.kafka.common.security.{module}LoginModule required "
            f"username={_quoted(user)} password={_quoted(password or '')};"
        )
    return found


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that was completed last, of any run."""
    found = [path for path in folder.glob("*/chk-*/_metadata") if path.stat().st_size]
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent if found else None


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--connector", type=Path, required=True, metavar="JAR", help="by which Flink reads Kafka")
    checkpoints = "where checkpoints are kept; the newest one there is gone on from"
    parser.add_argument("--checkpoints", type=Path, required=True, metavar="FOLDER", help=checkpoints)
    parser.add_argument("--source", metavar="NAME", help="the source of stream.yaml (default: the one that it has)")
    config = "where events come from (default: feature_repo/stream.yaml)"
    parser.add_argument("--config", type=Path, default=REPOSITORY / "stream.yaml", metavar="FILE", help=config)
    every = "milliseconds between two checkpoints (default: 10000)"
    parser.add_argument("--every", type=whole_number(10), default=10_000, metavar="N", help=every)
    tasks = "how many tasks work at a time (default: what Flink is configured to)"
    parser.add_argument("--parallelism", type=whole_number(1, 1024), metavar="N", help=tasks)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    source = one_of(stream_sources(args.config, in_force(REPOSITORY).tables, None, args.source), args.config)
    if source.type != "kafka":
        raise source.refuse(
            "a job of Flink reads Kafka, and its type is redis. Have it read by: python -m parity stream"
        )
    if not args.connector.is_file():
        raise UserError(f"--connector {args.connector}: there is no such file. Get it from Maven Central: see --help")
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    job(source, args.connector, args.checkpoints, args.every, args.parallelism)


if __name__ == "__main__":
    run(main)
