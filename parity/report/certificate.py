"""A certificate: what was compared, of what data and definitions, with which versions, and how to do it again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from parity.compare.equal import Coerced
from parity.compare.sample import CONFIDENCE, Sample, bound
from parity.definition.checks import FeatureTable
from parity.definition.declare import horizon_of
from parity.edge.errors import UserError
from parity.edge.files import Location, files_at, filesystem_of, replacing
from parity.edge.shown import cut, shown
from parity.online.side import online_store_of, replies
from parity.proof.found import Comparison
from parity.proof.proof import Proof
from parity.repository import computed_by
from parity.transactions.quarantine import quarantine_of

ROOT = Path(__file__).resolve().parents[2]
LISTED = 1000
LONGEST_TEXT = 10_000
"""Characters: file names and commands are whole, and no tampered value is."""


class Watched:
    """The files that are compared, as they were before they were read: their state, and their hashes if asked for.

    The state of a file on disk has the time of its last change, which nobody can set back: a file that was swapped for
    another and back again is found as well. So is a folder or a link on the way to it, as renaming one changes that
    time of its own and of the folder around it. Of an object in a bucket it is size and time of writing only.
    """

    def __init__(self, places: Sequence[Location], hashed: bool):
        self._places, self._hashed = places, hashed
        self._before = self._look()

    def _look(self) -> list[tuple[_States, str | None]]:
        states = [_states(place) for place in self._places]
        hashes = [
            file_hash(place) if self._hashed and state.contents else None
            for place, state in zip(self._places, states, strict=True)
        ]
        return list(zip(states, hashes, strict=True))

    def require_unchanged(self) -> None:
        """Raise a `UserError` if any of the files is another than before it was read."""
        for place, before, after in zip(self._places, self._before, self._look(), strict=True):
            if before[1] != after[1] or not before[0].are_those_of(after[0]):
                raise UserError(
                    f"{_from_root(place)}: it changed while it was compared, so nothing is proven. "
                    "Run this again when nothing writes there."
                )

    @property
    def hashes(self) -> dict[str, str | None]:
        """SHA-256 of what was compared, by place: the same before and after, if `require_unchanged` says so."""
        return {_from_root(place): digest for place, (_, digest) in zip(self._places, self._before, strict=True)}


@contextmanager
def watched(places: Sequence[Location], hashed: bool) -> Iterator[Watched]:
    """Watch the files at ``places`` from here on; they are read within the block. Hashes cost one more reading."""
    yield Watched(places, hashed)


class _States(NamedTuple):
    """What changes with what is read at a place.

    ``contents`` has the state of each file, of each link on the way to one, and of each folder of a table, by path.
    ``around`` has each folder on the way to the place. The names in it may change at any time, which dates both its
    change and that of its names. Moving it dates the folder around it and its own change, not that of its names; the
    nearest folder is taken for moved even if names that changed since have hidden that.
    """

    contents: dict[str, tuple]
    around: dict[str, _Folder]

    def note(self, path: Path, whole: bool, nearest: bool = False) -> None:
        """Take up the state of a file, a link or a folder, if there is one: a ``whole`` folder with what it holds."""
        with suppress(OSError):
            state = path.lstat()
            if whole or not stat.S_ISDIR(state.st_mode):
                self.contents[str(path)] = _state(state)
            elif path != path.parent:
                around = path.parent.stat().st_ctime_ns
                identity = state.st_dev, state.st_ino
                self.around[str(path)] = _Folder(identity, state.st_mtime_ns, state.st_ctime_ns, around, nearest)

    def are_those_of(self, other: _States) -> bool:
        """Whether nothing was written, or put in the place of something else, between the two."""
        return (
            self.contents == other.contents
            and self.around.keys() == other.around.keys()
            and not any(folder.was_moved(other.around[name]) for name, folder in self.around.items())
        )


class _Folder(NamedTuple):
    """A folder on the way: which it is, when it was last changed, and the one around it (nanoseconds)."""

    identity: tuple[int, int]
    names_changed: int
    changed: int
    around_changed: int
    nearest: bool
    """Whether it is the one that holds what is watched."""

    def was_moved(self, later: _Folder) -> bool:
        """Whether another is in its place, or it may have been moved and moved back."""
        if self.identity != later.identity:
            return True
        dated = self.changed != later.changed and self.around_changed != later.around_changed
        return dated and (later.nearest or later.changed != later.names_changed)


def _states(place: Location) -> _States:
    """The state of what is at ``place``; nothing where there is none."""
    if isinstance(place, str) and not place.startswith("file:"):
        return _States({info.path: (info.size, info.mtime_ns) for info in files_at(place)[2]}, {})
    path, found = Path(filesystem_of(place)[1]), _States({}, {})
    table = [path.resolve(), *path.rglob("*")] if path.is_dir() else []
    for step in _steps([path, *(inside for inside in table if inside.is_symlink())]):
        found.note(step, whole=False, nearest=step in (path.parent, path.resolve().parent))
    for inside in table:
        found.note(inside, whole=True)
    return found


def _state(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _steps(paths: Iterable[Path]) -> Iterable[Path]:
    """Every folder, link and file that is passed on the way to ``paths``, links followed, and themselves."""
    steps: dict[Path, None] = {}
    ahead = list(paths)
    while ahead:
        step = ahead.pop()
        for part in [step, *step.parents]:
            if part not in steps:
                steps[part] = None
                if part.is_symlink():
                    ahead.append(part.parent / part.readlink())
    return steps


def certificate(
    comparisons: Sequence[Comparison],
    proofs: Sequence[Proof],
    unseen: Sequence[str],
    hashes: dict[str, str | None],
    checked_at: datetime,
    every_view: bool = True,
) -> dict[str, Any]:
    """Put together the certificate of some comparisons, ready for JSON. No secret of the configuration is in it.

    ``hashes`` are those of the files that were compared. ``every_view`` is whether all views that are declared were.
    """
    first = comparisons[0]
    return {
        "verdict": "skew" if any(found.differences for found in comparisons) else "equal",
        "at": first.at.isoformat(),
        "checked_at": checked_at.isoformat(),
        "services": _services(comparisons),
        "views": [_view(found, proof) for found, proof in zip(comparisons, proofs, strict=True)],
        "feature_views_not_looked_at": list(unseen),
        "data_sha256": hashes,
        "versions": _versions(proofs[0]),
        "replay": _replay_command(comparisons, proofs, every_view),
    }


def _services(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The verdict on each service, where it is services that were compared, and not views."""
    verdicts: dict[str, str] = {}
    for found in comparisons:
        if found.service:
            skewed = found.differences or verdicts.get(found.service) == "skew"
            verdicts[found.service] = "skew" if skewed else "equal"
    return [{"feature_service": name, "verdict": verdict} for name, verdict in verdicts.items()]


def _view(found: Comparison, proof: Proof) -> dict[str, Any]:
    table = found.table
    listed = found.differences[:LISTED]
    return {
        "view": table.name,
        "feature_service": table.service.name,
        "join_keys": table.definition.keys.names,
        "features": found.features,
        "features_left_out": [r.name for r in table.definition.rules if r.name not in found.features],
        "keys": found.keys,
        "values": found.values,
        "counts": dict(found.counts),
        "causes": dict(found.causes),
        "differences": [difference._asdict() for difference in listed],
        "differences_not_listed": found.differing - len(listed),
        "null_on_all_sides": found.nulls,
        "keys_expired": found.expired,
        "keys_left_over_online": found.left_over,
        "keys_of_another_type_online": found.others.count,
        "history": {
            "rows": found.history.rows,
            "keys": found.history.keys,
            "rows_after_at": 0 if found.past else found.history.later,
            "rows_after_at_not_looked_at": found.history.later if found.past else 0,
            "counts": dict(found.history.counts),
        },
        "sliding": found.edges and _sliding(found, proof),
        "sample": found.sample and _bound(found.sample, found),
        "transactions": _from_root(proof.transactions),
        "quarantine": quarantine_of(proof.transactions),
        "definition_sha256": definition_hash(table),
        "fingerprint": table.definition.fingerprint,
        "computed_by": sorted(computed_by(table)),
    }


def _sliding(found: Comparison, proof: Proof) -> dict[str, Any]:
    """What was compared of a continuous table at edges: see `parity.proof.edges`."""
    edges = found.edges
    return {
        "horizon_seconds": horizon_of(proof.table.view) / 1_000_000,
        "edges": {"past": edges.past, "ahead": edges.ahead, "seed": edges.seed, "counts": dict(edges.counts)},
    }


def write_certificate(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=2, allow_nan=False, default=str) + "\n")


def _plain(content: Any) -> Any:
    """The same, with what JSON has no number for as text, and no text longer than people read."""
    if isinstance(content, datetime):
        return content.isoformat()
    if isinstance(content, Coerced) or (isinstance(content, float) and not math.isfinite(content)):
        return str(content)
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, bytes):
        return shown(content)
    if isinstance(content, str):
        return content if len(content) <= LONGEST_TEXT else cut(content)
    return [_plain(value) for value in content] if isinstance(content, list | tuple) else content


def definition_hash(table: FeatureTable) -> str:
    """SHA-256 of what the features mean: names, types, ttl, keys and aggregations, whatever machine they live on."""
    view = table.view
    definition = {
        "service": table.service.name,
        "view": view.name,
        "join_keys": view.join_keys,
        "features": [(feature.name, str(feature.dtype)) for feature in table.features],
        "ttl_seconds": view.ttl.total_seconds() if view.ttl else None,
        "computed_by": table.definition.fingerprint,
    }
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def file_hash(place: Location) -> str:
    """SHA-256 of a file, or of the names and hashes of the files in a folder."""
    if isinstance(place, str):
        return _bucket_hash(place)
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        return _listed_hash({file.relative_to(place).as_posix(): file_hash(file) for file in files})
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bucket_hash(uri: str) -> str:
    filesystem, folder, files = files_at(uri)
    hashes = {}
    for info in files:
        with filesystem.open_input_file(info.path) as file:
            hashes[info.path] = hashlib.file_digest(file, "sha256").hexdigest()
    if list(hashes) == [folder]:
        return hashes[folder]
    return _listed_hash({path.removeprefix(f"{folder}/"): digest for path, digest in hashes.items()})


def _listed_hash(hashes: dict[str, str]) -> str:
    listed = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    return hashlib.sha256(os.fsencode(listed)).hexdigest()


def _bound(sample: Sample, found: Comparison) -> dict[str, Any]:
    """State what a sample says of all keys."""
    differing = found.keys_skewed
    return {
        "keys": found.keys,
        "of": sample.of,
        "seed": sample.seed,
        "confidence": CONFIDENCE,
        "keys_differing": differing,
        "share_of_keys_differing_at_most": None if differing else bound(found.keys),
    }


def _versions(proof: Proof) -> dict[str, str]:
    packages = ["feature-store-mvp", "feast", "pandas", "numpy", "pyarrow", "duckdb", "redis"]
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "redis-server": _server_version(proof),
    }


def _server_version(proof: Proof) -> str:
    with replies(proof.table):
        return str(online_store_of(proof.store).server_version(proof.store.config))


def _from_root(place: Location) -> str:
    """Name a file as from the project's folder, where the command is to be run."""
    if isinstance(place, str):
        return place
    path = place.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _replay_command(comparisons: Sequence[Comparison], proofs: Sequence[Proof], every_view: bool) -> str:
    """The command that compares the same again, with an online side materialized anew up to the same instant."""
    command = ["python", "demo_fixed.py", "--at", comparisons[0].at.isoformat()]
    services = list(dict.fromkeys(found.service for found in comparisons if found.service))
    if services:
        command += ["--service", *services]
    elif not every_view:
        command += ["--view", *(found.view for found in comparisons)]
    if len({proof.transactions for proof in proofs}) == len({proof.table.transactions for proof in proofs}) == 1:
        command += ["--input", _from_root(proofs[0].transactions)]
    samples = [found.sample for found in comparisons if found.sample]
    if samples:
        command += ["--sample", str(samples[0].size)]
    seeds = [found.edges.seed for found in comparisons if found.edges] + [sample.seed for sample in samples]
    if seeds:
        command += ["--seed", str(seeds[0])]
    return shlex.join(command)
