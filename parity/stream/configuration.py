"""stream.yaml: where the events of a source come from, and where they land.

    sources:
      orders:                     # the name of a TransactionSource in features.py
        type: kafka
        brokers: ${KAFKA_BROKERS}
        topic: orders
        options:                  # librdkafka's own
          security.protocol: SASL_SSL
          sasl.mechanism: SCRAM-SHA-512
          sasl.username: feature-store
          sasl.password_file: /run/secrets/kafka

Every option is in feature_repo/stream.yaml, with its default. ${NAME} is what the environment has for it. Paths count
from the folder of stream.yaml. A password is shown in no message.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from parity.definition.checks import FeatureTable
from parity.edge.configuration import HIDDEN, connection_of, read_configuration, without_secrets
from parity.edge.errors import UserError
from parity.edge.files import location
from parity.transactions.landed import PLACE

KINDS = ("redis", "kafka")
REDIS_TYPES = ("redis", "redis_cluster", "redis_sentinel")
NAME = re.compile(r"[\w.:-]+")
"""What a source may be called, whose name is a part of that of its partitions."""
SECRET = re.compile(r"(?i).*(password|secret|token|passphrase|jaas|key\.pem|credentials|\.userinfo).*")
"""The options of librdkafka whose values nobody is shown."""
OURS = {
    "bootstrap.servers": "write brokers: HOST:PORT,... beside options",
    "metadata.broker.list": "write brokers: HOST:PORT,... beside options",
    "group.id": "write group: NAME beside options",
    "enable.auto.commit": "leave it out: an offset is committed once its event has landed",
    "enable.auto.offset.store": "leave it out: an offset is committed once its event has landed",
    "auto.offset.reset": "leave it out: reading goes on where events have landed",
    "enable.partition.eof": "leave it out",
}


@dataclass(frozen=True)
class StreamSource:
    """A source of events, as stream.yaml has it, and the feature views that it feeds."""

    name: str
    tables: tuple[FeatureTable, ...]
    landing: Path
    file: Path
    """The stream.yaml that says so."""
    type: str = "redis"
    stream: str = ""
    topic: str = ""
    partitions: int = 1
    connection: str | None = field(default=None, repr=False)
    redis_type: str = "redis"
    sentinel_master: str | None = None
    brokers: str = ""
    group: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    event_field: str = "event"
    dead_letters: str = ""
    dead_letters_at_most: int = 100_000
    future_tolerance_seconds: float | None = None
    largest_event: int = 1_000_000
    batch: int = 2_000
    landing_seconds: float = 1
    landing_events: int = 50_000
    replay_seconds: float = 5
    generation: int = 0
    wait_seconds: float = 300

    def partition(self, number: int) -> str:
        """The name of a partition, "SOURCE/P"."""
        return f"{self.name}/{self.generation}.{number}" if self.generation else f"{self.name}/{number}"

    def number_of(self, partition: str) -> int:
        """The other way of `partition`."""
        return int(partition.rpartition("/")[2].rpartition(".")[2])

    def keys(self) -> list[str]:
        """The keys of the partitions in Redis."""
        many = self.partitions > 1
        return [f"{self.stream}:{number}" if many else self.stream for number in range(self.partitions)]

    @property
    def where(self) -> str:
        """The place of a setting, for a message."""
        return f"{self.file}: {self.name}"

    def without_secrets(self, message: object) -> str:
        """The ``message``, with nothing that is secret in this configuration."""
        text = str(message)
        secrets = {str(value) for name, value in self.options.items() if SECRET.fullmatch(name)}
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return without_secrets(text, self.connection) if self.connection else text

    def refuse(self, fault: str) -> UserError:
        return UserError(self.without_secrets(f"{self.where}: {fault}"))


def stream_sources(
    path: Path, tables: Sequence[FeatureTable], views: Sequence[str] | None = None, source: str | None = None
) -> list[StreamSource]:
    """Read a stream.yaml: the sources that it has, or those of these ``views``, or the one of this name.

    ``tables`` are all that features.py declares. Raises `UserError`, in one line, for any fault.
    """
    if not path.exists():
        raise UserError(
            f"{path}: there is no such file, and it says where events come from. See feature_repo/stream.yaml."
        )
    content = read_configuration(path)
    if unknown := content.keys() - {"sources"}:
        raise UserError(f"{path}: {sorted(map(str, unknown))[0]} is no option here. Its options are under sources:.")
    listed = content.get("sources") or {}
    if not isinstance(listed, dict):
        raise UserError(
            f"{path}: sources has to list sources by their names, as in sources: {{orders: {{type: redis}}}}."
        )
    fed = {table.definition.reading.name: [] for table in tables}
    for table in tables:
        fed[table.definition.reading.name].append(table)
    for name in listed:
        if name not in fed:
            raise UserError(f"{path}: features.py has no TransactionSource {name!r}; there is {', '.join(fed)}.")
    wanted = _wanted(path, listed, fed, views, source)
    sources = [_source(path, name, fed[name], listed[name]) for name in wanted]
    for source in sources:
        _require_apart(source, [*sources, *_others(path, fed, listed, wanted)])
    return sources


def _others(
    path: Path, fed: Mapping[str, Sequence[FeatureTable]], listed: Mapping[str, Any], wanted: Sequence[str]
) -> Iterator[StreamSource]:
    """The sources that are not wanted, but for those with a fault, which is theirs."""
    for name in listed.keys() - set(wanted):
        with suppress(UserError):
            yield _source(path, name, fed[name], listed[name])


def _require_apart(source: StreamSource, others: Sequence[StreamSource]) -> None:
    """Refuse dead letters that would be read as events, which they would be for ever."""
    for other in others:
        if (other.type, other.connection, other.brokers) != (source.type, source.connection, source.brokers):
            continue
        for one, place in ((source, other), (other, source)):
            if one.dead_letters in (place.topic, place.stream, *place.keys()):
                whose = "its" if source is other else f"the source {other.name}'s"
                own, events = ("its", whose) if one is source else (whose, "its")
                raise source.refuse(
                    f"{own} dead_letters, {one.dead_letters}, go where {events} events come from. Name another place."
                )


def _wanted(
    path: Path,
    listed: Mapping[str, Any],
    fed: Mapping[str, Sequence[FeatureTable]],
    views: Sequence[str] | None,
    source: str | None,
) -> list[str]:
    if source is not None and views:
        raise UserError("--view and --source both say what is streamed; give one of them.")
    if source is not None:
        wanted = [source]
    elif views:
        known = {table.name: name for name, some in fed.items() for table in some}
        for view in views:
            if view not in known:
                raise UserError(f"there is no AggregatedFeatureView {view!r}; there is {', '.join(known)}.")
        wanted = list(dict.fromkeys(known[view] for view in views))
    else:
        wanted = list(listed)
    for name in wanted:
        if name not in listed:
            example = f"sources: {{{name}: {{type: redis, landing: FOLDER}}}}"
            raise UserError(f"{path}: it has no source {name!r}. Add it, as in {example}.")
    if not wanted:
        raise UserError(f"{path}: it lists no sources, so there is nothing to read. Take out the # before one.")
    return wanted


def _source(path: Path, name: str, tables: Sequence[FeatureTable], given: Any) -> StreamSource:
    where = f"{path}: {name}"
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise UserError(f"{where}: its options have to be written as NAME: VALUE, one a line.")
    if not NAME.fullmatch(name):
        raise UserError(
            f"{where}: the name of a source of events has letters, digits and _ . : - only. Give its "
            'TransactionSource another, as in name="orders".'
        )
    kind = given.get("type", "redis")
    if kind not in KINDS:
        raise UserError(f"{where}: its type is {kind!r}. Write {' or '.join(KINDS)}.")
    found = dict(_options(where, kind, given))
    for table in tables:
        if table.transactions != tables[0].transactions:
            raise UserError(f"features.py: two TransactionSources are called {name!r}. Give each a name of its own.")
        for column in table.definition.raw.names:
            if table.definition.reading.in_file(column) in PLACE.names:
                raise UserError(
                    f"{where}: a column of its events is called {column}, as is one of landed rows. Rename it."
                )
    landing = _landing(where, path, tables[0], found.pop("landing", None))
    if kind == "redis":
        found["stream"] = found.get("stream") or name
    else:
        if not found.get("brokers"):
            raise UserError(f"{where}: it names no brokers. Write brokers: HOST:PORT,HOST:PORT")
        found["topic"] = found.get("topic") or name
    found.setdefault("dead_letters", f"{found.get('stream') or found.get('topic')}.dead")
    return StreamSource(name, tuple(tables), landing, path, **found)


def _landing(where: str, path: Path, table: FeatureTable, given: str | None) -> Path:
    declared = table.transactions
    if given is not None:
        place = location(given)
        if isinstance(place, Path):
            return Path(os.path.normpath(path.resolve().parent / place.expanduser()))
        raise UserError(
            f"{where}: landing is {given}: events can't land in a bucket, where no file is locked. Name a folder."
        )
    if isinstance(declared, str):
        raise UserError(
            f"{where}: its transactions are in a bucket, {declared}, and events can't land there. Write landing: "
            "FOLDER, a folder on a disk, whose files are copied to the bucket"
        )
    if declared.is_dir() or not declared.suffix:
        return declared
    folder = declared.with_suffix("")
    raise UserError(
        f"{where}: its transactions are one file, {declared.name}, and events land in a folder. Move that file into a "
        f"folder, such as {folder.name}, and declare path= that folder; or write landing: FOLDER here, and then "
        "compute_features.py --input FOLDER"
    )


def _options(where: str, kind: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if name not in _READERS:
            near = get_close_matches(str(name), _READERS, 1)
            hint = f"Perhaps {near[0]} is meant" if near else f"Its options are {', '.join(_READERS)}"
            raise UserError(f"{where}: {name} is no option of a source. {hint}.")
        only, read = _READERS[name]
        if only not in (None, kind):
            raise UserError(f"{where}: {name} is an option of type: {only}, and its type is {kind}. Leave it out.")
        if value is None:
            continue
        try:
            yield name, read(value)
        except UserError as error:
            reason = str(error).partition("can't be used: ")[2] or str(error)
            raise UserError(f"{where}: its {name} can't be used: {reason}") from None
        except ValueError as error:
            raise UserError(f"{where}: its {name} can't be used. {error}.") from None
    if "connection" in given and given["connection"] is not None:
        redis_type = given.get("redis_type", "redis")
        try:
            connection_of(given["connection"], redis_type)
        except UserError as error:
            reason = str(error).partition("can't be used: ")[2]
            raise UserError(f"{where}: its connection can't be used: {reason}") from None
        if redis_type == "redis_sentinel" and not given.get("sentinel_master"):
            raise UserError(f"{where}: its connection names sentinels. Write sentinel_master: NAME beside it.")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("Write a text")
    return value


def _key(value: Any) -> str:
    if not re.fullmatch(r"[^\s*?\[\]]{1,200}", str(value)):
        raise ValueError("Write a name without blanks, of at most 200 characters")
    return str(value)


def _one_of(*known: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(f"Write {', '.join(known[:-1])} or {known[-1]}")
        return value

    return read


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value) else value
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"Write a whole number from {least:,} to {most:,}")
        return number

    return read


def _seconds(least: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not least <= number < math.inf:
            raise ValueError(f"Write a number of seconds, {least:g} or more")
        return number

    return read


def _brokers(value: Any) -> str:
    brokers = [part.strip() for part in str(value).split(",")]
    for broker in brokers:
        if "@" in broker or not re.fullmatch(r"([A-Za-z_]+://)?(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}", broker):
            raise ValueError("Write HOST:PORT, with commas between several; users and passwords go into options")
    return ",".join(brokers)


def _topic(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", str(value)):
        raise ValueError("Write the name of a topic: letters, digits and . _ - only")
    return str(value)


def _librdkafka(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("Write librdkafka's options as NAME: VALUE, one a line")
    found = {}
    for name, setting in value.items():
        if name in OURS:
            raise ValueError(f"As for {name}: {OURS[name]}")
        if isinstance(setting, list | dict) or setting is None:
            raise ValueError(f"{name} needs one value")
        text = str(setting).lower() if isinstance(setting, bool) else str(setting)
        if str(name).endswith("_file"):
            found[str(name).removesuffix("_file")] = _secret_in(str(name), text)
        else:
            found[str(name)] = text
    return found


def _secret_in(name: str, file: str) -> str:
    place = Path(file).expanduser()
    if not place.is_absolute():
        raise ValueError(f"Write an absolute path for {name}")
    try:
        return place.read_text().strip("\r\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds bytes that are no text"
        raise ValueError(f"The file that {name} names can't be read: {reason}") from None


_READERS: dict[str, tuple[str | None, Callable[[Any], Any]]] = {
    "type": (None, _one_of(*KINDS)),
    "stream": ("redis", _key),
    "partitions": ("redis", _whole(1, 1024)),
    "event_field": ("redis", _text),
    "connection": ("redis", _text),
    "redis_type": ("redis", _one_of(*REDIS_TYPES)),
    "sentinel_master": ("redis", _text),
    "topic": ("kafka", _topic),
    "brokers": ("kafka", _brokers),
    "group": ("kafka", _text),
    "options": ("kafka", _librdkafka),
    "landing": (None, _text),
    "dead_letters": (None, _key),
    "dead_letters_at_most": ("redis", _whole(1, 10**9)),
    "future_tolerance_seconds": (None, _seconds(0)),
    "largest_event": (None, _whole(1, 10**8)),
    "batch": (None, _whole(1, 100_000)),
    "landing_seconds": (None, _seconds(0)),
    "landing_events": (None, _whole(1, 10_000_000)),
    "replay_seconds": (None, _seconds(0)),
    "generation": (None, _whole(0, 10**6)),
    "wait_seconds": (None, _seconds(0)),
}
"""The options of a source: of which type alone, and how each is read."""
