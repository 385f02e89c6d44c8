"""A certificate: what was compared, of what data and definitions, with which versions, and how to do it again."""

import hashlib
import json
import math
import os
import platform
import shlex
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parity.files import Location, files_at, location, replacing
from parity.online import Coerced, online_store_of
from parity.proof import Comparison, Sample, Subject

ROOT = Path(__file__).resolve().parent.parent
LISTED = 1000
CONFIDENCE = 0.95


def certificate(
    subject: Subject, found: Comparison, sample: Sample | None, transactions: Location, checked_at: datetime
) -> dict[str, Any]:
    """Put together the certificate of a comparison, ready for JSON. No secret of the configuration is in it."""
    return {
        "verdict": "skew" if found.differences else "equal",
        "at": found.at.isoformat(),
        "checked_at": checked_at.isoformat(),
        "feature_service": subject.service.name,
        "features": found.features,
        "users": found.users,
        "values": found.values,
        "counts": dict(found.counts),
        "causes": dict(found.causes),
        "differences": [difference._asdict() for difference in found.differences[:LISTED]],
        "differences_not_listed": max(0, len(found.differences) - LISTED),
        "sample": sample and _bound(sample, found),
        "definition_sha256": definition_hash(subject),
        "data_sha256": {
            _from_root(place): file_hash(place) for place in (transactions, location(subject.view.batch_source.path))
        },
        "versions": _versions(subject),
        "replay": _replay_command(found, sample, transactions),
    }


def write_certificate(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=2, allow_nan=False, default=str) + "\n")


def _plain(content: Any) -> Any:
    """The same, with what JSON has no number for as text."""
    if isinstance(content, Coerced) or (isinstance(content, float) and not math.isfinite(content)):
        return str(content)
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, list) else content


def definition_hash(subject: Subject) -> str:
    """SHA-256 of what the features mean: names, types, ttl, keys and aggregations, whatever machine they live on."""
    view = subject.view
    definition = {
        "service": subject.service.name,
        "view": view.name,
        "join_keys": view.join_keys,
        "features": [(feature.name, str(feature.dtype)) for feature in view.features],
        "ttl_seconds": view.ttl.total_seconds() if view.ttl else None,
        "aggregations": [
            (a.name, a.function, a.column, a.time_window.total_seconds() if a.time_window else None)
            for a in subject.aggregations
        ],
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
    """State what a sample says of all users.

    With no differing user among n drawn at random, the share of differing users is at most 3/n at 95 % confidence (the
    rule of three: Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 1983).
    """
    differing = len(found.users_skewed)
    bound = None if differing else min(1.0, 3 / found.users)
    return {
        "users": found.users,
        "of": sample.of,
        "seed": sample.seed,
        "confidence": CONFIDENCE,
        "users_differing": differing,
        "share_of_users_differing_at_most": bound,
    }


def _versions(subject: Subject) -> dict[str, str]:
    packages = ["feature-store-mvp", "feast", "pandas", "numpy", "pyarrow", "duckdb", "redis"]
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "redis-server": online_store_of(subject.store).server_version(subject.store.config),
    }


def _from_root(place: Location) -> str:
    """Name a file as from the project's folder, where the command is to be run."""
    if isinstance(place, str):
        return place
    path = place.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _replay_command(found: Comparison, sample: Sample | None, transactions: Location) -> str:
    """The command that compares the same again, with an online side materialized anew up to the same instant."""
    command = ["python", "demo_fixed.py", "--at", found.at.isoformat(), "--input", _from_root(transactions)]
    if sample:
        command += ["--sample", str(sample.size), "--seed", str(sample.seed)]
    return shlex.join(command)
