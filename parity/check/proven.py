"""Views that carry aggregations: they are compared by the proof that demo_fixed.py prints, with the transactions as the
third side. What it finds becomes findings of a check, of the kinds that every repository has."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.check.found import LISTED, Compared, Example, Sample
from parity.compare import kinds
from parity.compare.kinds import Kind
from parity.compare.subjects import Subject
from parity.definition.declare import MADE
from parity.edge.shown import shown

if TYPE_CHECKING:
    from parity.proof.found import Comparison, Difference


def is_provable(subject: Subject) -> bool:
    """Whether a subject is a view that carries aggregations, by the registry."""
    return subject.what == "feature view" and MADE in (subject.sources[0].view.tags or {})


def proven(repository: Path, views: Collection[str], size: int | None, seed: int, now: datetime) -> dict[str, Compared]:
    """What the proof of the feature ``views`` found at the instant ``now``, by view; of each, ``size`` keys at most.

    Raises `UserError` if it can't be made: there are no transactions, say, or a file changes while it is read.
    """
    from parity.edge.files import location  # here: it takes Redis and DuckDB, which others need not have
    from parity.offline.side import origins_of
    from parity.proof.proof import proving
    from parity.report.certificate import watched
    from parity.report.seen import look_at
    from parity.repository import in_force, opened

    tables = [table for table in in_force(repository) if table.name in views]
    transactions = origins_of(tables, None)
    data = [*transactions, *(location(table.source.path) for table in tables)]
    with (
        opened(repository, tables, redefined=True) as store,
        watched(data, hashed=False) as files,
        proving(store, tables, transactions, None, now, seed) as proofs,
    ):
        seen = look_at(proofs, [proof.chosen(size, seed) for proof in proofs])
        files.require_unchanged()
        return {one.found.view: _compared(one.found, len(proof)) for proof, one in zip(proofs, seen, strict=True)}


def _compared(found: Comparison, keys: int) -> Compared:
    differing = found.counts.total() - found.counts["match"]
    one = Compared(found.view, "feature view", found.keys, keys, None, found.values, differing)
    if found.sample:
        one.sample = Sample(found.sample.size, found.sample.of, found.sample.seed)
    one.nulls.values, one.nulls.expired, one.ttl = found.nulls, found.expired, found.ttl
    one.notes.append(f"its {found.history.rows:,} rows offline were compared with the transactions, too")
    places: dict[Any, int] = {}
    for difference in found.differences:
        _add(one, found, difference, places.setdefault(difference.key, len(places)))
    unlisted = found.differing - one.differing
    one.values, one.differing = one.values + unlisted, found.differing
    for finding in one.findings.values():
        finding.listed = [_named(key, found) for key, place in places.items() if place in finding.places][:LISTED]
    return one


def _named(key: Any, found: Comparison) -> dict[str, Any]:
    """The key of a difference, by the names of the join keys; of one of another type there is no more than a text."""
    names = found.table.requested_keys
    if isinstance(key, tuple):
        return dict(zip(names, key, strict=True))
    return {names[0] if len(names) == 1 else "key": key}


def _add(one: Compared, found: Comparison, difference: Difference, place: int) -> None:
    kind = kind_of(difference)
    finding = one.finding(kind, found.view)
    finding.features[difference.feature] += 1
    oracle = "" if kind is not kinds.ORACLE else f" ({shown(difference.oracle)} by the transactions)"
    key, sides = _named(difference.key, found), (difference.training, _served(difference))
    example = Example(key, f"{difference.feature}{oracle}", *sides)
    finding.add(place, difference.instant, example)
    finding.about |= {
        "cause": difference.cause,
        "timestamp": found.table.source.timestamp_field,
        "ttl": str(found.ttl or "none"),
    }
    one.differing_places.add(place)


def _served(difference: Difference) -> Any:
    """What serving has; of a row of the past it is asked for nothing, and the offline store is what is at odds."""
    from parity.proof.found import NOT_ASKED

    return difference.training if difference.serving is NOT_ASKED else difference.serving


def kind_of(difference: Difference) -> Kind:
    """The kind of a difference: by its cause where training and serving differ, and else that of the transactions."""
    from parity.proof import causes
    from parity.proof.found import NOT_ASKED, WRONG

    if difference.kind == WRONG or difference.serving is NOT_ASKED or difference.instant is not None:
        return kinds.ORACLE
    return {
        causes.EXPIRED: kinds.TTL if difference.training is None else kinds.UNEXPLAINED,
        causes.LATE_ROW: kinds.LATE,
        causes.CORRECTION: kinds.CORRECTION,
        causes.TIME_ZONE: kinds.TIME_ZONE,
        causes.COERCION: kinds.COERCION,
        causes.TIE: kinds.TIE,
        causes.DELETED: kinds.DELETED,
        causes.NEVER: kinds.NEVER,
        causes.FUTURE: kinds.FUTURE,
        causes.PAST_HORIZON: kinds.BEHIND,
        causes.NOT_LANDED: kinds.PUSHED,
        causes.TAMPERED: kinds.UNEXPLAINED,
    }.get(difference.cause, kinds.ORACLE)
