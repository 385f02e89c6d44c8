"""What was served, as it is read back: the parts of the log, and the rows of each.

for part in parts(folder, service="user_features", since=yesterday):
    rows = read(part)
"""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from parity.edge.errors import UserError
from parity.served.hourly import HOUR, facts_of

LONGEST_NAME = 200
T = TypeVar("T")
TRIES = 20
"""How often to look again for parts that were merged meanwhile."""


class Part(NamedTuple):
    """A file of rows. ``service`` is None where features were asked for by ``references``."""

    path: Path
    service: str | None
    project: str
    references: list[str]
    dropped: int
    """Rows that were dropped since the part before."""
    hour: datetime
    """The begin of the hour in which its rows were served."""
    rows: int


def folder_of(service: str) -> str:
    """The name of the folder of a service's parts; of a long one, the beginning and a hash."""
    name = quote(service, safe=" ")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(service.encode()).hexdigest()[:12]}"
    return f"service={name}"


def parts(
    folder: Path, service: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> list[Part]:
    """List the parts of all hours that reach into [``since``, ``until``], by service and hour. No row is in two.

    Raises `UserError` for a file that is not readable, or that is no part.
    """
    found = []
    for place in sorted(folder.glob("service=*" if service is None else _escaped(folder_of(service)))):
        for hours in sorted(place.glob("hour=*")):
            hour = _hour_of(hours)
            if (until is None or hour <= until) and (since is None or hour + timedelta(hours=1) > since):
                found += [_part(path, hour, facts, rows) for path, facts, rows in _present(hours)]
    return found


def read(part: Part, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of a part, also where it has been merged into another since it was listed."""
    for _ in range(TRIES):
        try:
            return _readable(part.path, lambda: pq.read_table(part.path, columns=columns, partitioning=None))
        except FileNotFoundError:
            for path, facts, _ in _present(part.path.parent):
                for name, first, rows in facts.get("merged", ()):
                    if name == part.path.name:
                        try:
                            whole = pq.read_table(path, columns=columns, partitioning=None)
                        except FileNotFoundError:
                            continue  # merged once more
                        return whole.slice(first, rows)
            if not part.path.parent.exists():
                break
    raise UserError(f"{part.path}: it was removed while it was read. Run again.")


def _escaped(name: str) -> str:
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _hour_of(folder: Path) -> datetime:
    try:
        return datetime.strptime(folder.name.removeprefix("hour="), HOUR).replace(tzinfo=UTC)
    except ValueError:
        raise UserError(f"{folder}: this is not an hour of a log, such as hour=2026-03-01T10. Move it away.") from None


def _present(folder: Path) -> list[tuple[Path, dict[str, Any], int]]:
    """The parts in a folder that no other takes the place of, with what their metadata says, and their rows."""
    for _ in range(TRIES):
        paths = _settled(folder)
        try:
            found = [(path, *_footer(path)) for path in paths]
        except FileNotFoundError:
            continue  # merged meanwhile
        replaced = {name for _, facts, _ in found for name, _, _ in facts.get("merged", ())}
        return [one for one in found if one[0].name not in replaced]
    raise UserError(f"{folder}: its files change while they are read. Run again.")


def _settled(folder: Path) -> list[Path]:
    """List a folder until it is the same twice: one listing may miss parts and what they are merged into."""
    before: list[Path] | None = None
    while True:
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix == ".parquet" and path.name[0] not in "._")
        except FileNotFoundError:
            return []
        if paths == before:
            return paths
        before = paths


def _footer(path: Path) -> tuple[dict[str, Any], int]:
    def footer() -> tuple[dict[str, Any] | None, int]:
        with pq.ParquetFile(path) as file:
            return facts_of(file.schema_arrow), file.metadata.num_rows

    facts, rows = _readable(path, footer)
    if facts is None:
        raise UserError(f"{path}: this is no part of a log of what was served. Move it away.")
    return facts, rows


def _readable(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(f"{path}: this is not a Parquet file, or a damaged one. Move it away.") from None
    except OSError as error:
        raise UserError(f"{path}: it can't be read: {os.strerror(error.errno) if error.errno else error}.") from None


def _part(path: Path, hour: datetime, facts: dict[str, Any], rows: int) -> Part:
    return Part(
        path, facts.get("service"), facts.get("project", ""), facts.get("references", []), facts["dropped"], hour, rows
    )
