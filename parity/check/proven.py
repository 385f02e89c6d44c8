"""Views that carry aggregations, and services of such views: they are compared by the proof that demo_fixed.py prints,
with the transactions as the third side. What it finds becomes findings of a check, of the kinds that every repository
has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from parity.check.found import LISTED, NOT_ASKED, Compared, Example
from parity.compare import kinds
from parity.compare.answers import ROW_DROPPED
from parity.compare.equal import Coerced, difference
from parity.compare.kinds import Harm, Kind
from parity.compare.subjects import Source, Subject
from parity.definition.declare import MADE
from parity.edge.shown import counted, shown

if TYPE_CHECKING:
    from parity.proof.found import Comparison, Difference
    from parity.proof.proof import Proof

AGAIN = "materialize {view} again: something else wrote these values online"


def is_provable(subject: Subject) -> bool:
    """Whether all of a subject is of views that carry aggregations, by the registry."""
    of_views = subject.what in ("feature view", "feature service") and not subject.is_on_demand
    return of_views and all(map(is_own, subject.sources))


def is_own(source: Source) -> bool:
    """Whether a view carries aggregations, by the registry."""
    return MADE in (source.view.tags or {})


def proven(
    repository: Path, subjects: Collection[Subject], size: int | None, seed: int, now: datetime
) -> dict[str, list[Compared]]:
    """What the proof found at the instant ``now`` of ``subjects`` that are provable, by their names: of a service,
    each of its views. Of each, ``size`` keys are compared at most.

    Raises `UserError` if it can't be made: there are no transactions, say, or a file changes while it is read.
    """
    from parity.repository import in_force  # here: it takes Redis and DuckDB, which others need not have

    declared, found = in_force(repository), {}
    sources = {source.name: source for subject in subjects for source in subject.sources}
    views = [subject.name for subject in subjects if subject.what == "feature view"]
    tables = [table for table in declared if table.name in views]
    for one in _proven(repository, tables, sources, size, seed, now):
        found[one.name] = [one]
    for subject in subjects:
        if subject.what == "feature service":
            tables = list(declared.through([subject.name]))
            found[subject.name] = _proven(repository, tables, sources, size, seed, now)
    return found


def _proven(
    repository: Path,
    tables: Sequence[Any],
    sources: dict[str, Source],
    size: int | None,
    seed: int,
    now: datetime,
) -> list[Compared]:
    from parity.edge.files import location
    from parity.offline.side import origins_of
    from parity.proof.proof import proving
    from parity.report.certificate import watched
    from parity.report.seen import look_at
    from parity.repository import opened

    if not tables:
        return []
    transactions = origins_of(tables, None)
    data = [*transactions, *(location(table.source.path) for table in tables)]
    with (
        opened(repository, tables, redefined=True) as store,
        watched(data, hashed=False) as files,
        proving(store, tables, transactions, None, now, seed) as proofs,
    ):
        seen = look_at(proofs, [proof.chosen(size, seed) for proof in proofs])
        files.require_unchanged()
        return [_compared(proof, one.found, sources[one.found.view]) for proof, one in zip(proofs, seen, strict=True)]


def _compared(proof: Proof, found: Comparison, source: Source) -> Compared:
    one = Compared(found.title, "feature view", found.keys, len(proof), None, found.counts.total())
    one.differing = found.counts.total() - found.counts["match"]
    one.sample = found.sample
    one.nulls.values, one.nulls.expired, one.ttl = found.nulls, found.expired, found.ttl
    rows = counted(found.history.rows, "row")
    one.notes.append(
        f"its {rows} offline {'was' if found.history.rows == 1 else 'were'} compared with the transactions, too"
    )
    places: dict[Any, int] = {}
    events = _events_of(proof, found)
    for each in found.differences:
        place = places.setdefault(each.key, len(places))
        _add(one, found, each, place, events.get(each.key, _NO_EVENTS), source)
    unlisted = found.differing - one.differing
    one.values, one.differing = one.values + unlisted, found.differing
    for finding in one.findings.values():
        finding.listed = [_named(key, found) for key, place in places.items() if place in finding.places][:LISTED]
    return one


class _Events(NamedTuple):
    """The event of the last row of a key offline, and of its row online."""

    trained: datetime | None
    served: datetime | None


_NO_EVENTS = _Events(None, None)


def _events_of(proof: Proof, found: Comparison) -> dict[Any, _Events]:
    """The events of the keys that differ now, as they are in the differences."""
    from parity.definition.keys import as_table
    from parity.offline.side import history_of
    from parity.online.side import stored_rows
    from parity.proof.found import OtherKey

    keys = list(
        dict.fromkeys(one.key for one in found.differences if one.instant is None and not isinstance(one.key, OtherKey))
    )
    if not keys:
        return {}
    table = as_table([key if isinstance(key, tuple) else (key,) for key in keys], proof.schema)
    offline = history_of(proof.store, proof.table, table, found.at)
    online = stored_rows(proof.store, proof.table, table)
    return {
        key: _Events(max((event for event, _ in rows), default=None), served)
        for key, rows, (served, _) in zip(keys, offline, online, strict=True)
    }


def _named(key: Any, found: Comparison) -> dict[str, Any]:
    """The key of a difference, by the names of the join keys; of one of another type there is no more than a text."""
    from parity.proof.found import OtherKey

    names = found.table.requested_keys
    if isinstance(key, OtherKey):
        return {"key": str(key)}
    return dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))


def _add(one: Compared, found: Comparison, each: Difference, place: int, events: _Events, source: Source) -> None:
    from parity.proof.found import NOT_ASKED as OF_THE_PAST

    declared = {field.name: str(field.dtype) for field in found.table.features}.get(each.feature, "")
    kind = kind_of(each, declared, events, source)
    finding = one.finding(kind, found.view)
    finding.features[each.feature] += 1
    oracle = "" if kind is not kinds.ORACLE else f" ({shown(each.oracle)} by the transactions)"
    served = NOT_ASKED if each.serving is OF_THE_PAST else each.serving
    example = Example(_named(each.key, found), f"{each.feature}{oracle}", each.training, served, *events)
    finding.add(place, each.instant or events.trained, example)
    finding.about |= {
        "cause": each.cause,
        "timestamp": found.table.source.timestamp_field,
        "ttl": str(found.ttl or "none"),
    }
    if kind.harm == Harm.TYPE:
        finding.about["instead"] = AGAIN  # materialization writes what is declared
    one.differing_places.add(place)


def kind_of(each: Difference, declared: str, events: _Events, source: Source) -> Kind:
    """The kind of a difference: by its cause where training and serving differ, and else that of the transactions."""
    from parity.proof import causes
    from parity.proof.found import NOT_ASKED as OF_THE_PAST
    from parity.proof.found import WRONG, OtherKey

    if isinstance(each.key, OtherKey):
        return kinds.KEY_CAST
    if each.kind == WRONG or each.serving is OF_THE_PAST or each.instant is not None:
        return kinds.ORACLE
    if each.cause == causes.COERCION and ROW_DROPPED not in (each.training, each.serving):
        stored = each.serving.value if isinstance(each.serving, Coerced) else each.serving
        kind = difference(each.training, stored, declared)
        if kind is None:
            return kinds.TYPE
        return kind if isinstance(kind, Kind) else kinds.COERCION
    is_new = source.watermark is None or (events.trained is not None and events.trained > source.watermark)
    if each.cause == causes.LATE_ROW:
        return kinds.BEHIND if is_new else kinds.LATE
    if each.cause == causes.NEVER:
        is_lost = events.trained is not None and source.was_materialized(events.trained)
        return kinds.LOST if is_lost else kinds.BEHIND if source.intervals and is_new else kinds.NEVER
    return {
        causes.EXPIRED: kinds.TTL if each.training is None else kinds.UNEXPLAINED,
        causes.CORRECTION: kinds.CORRECTION,
        causes.TIME_ZONE: kinds.TIME_ZONE,
        causes.COERCION: kinds.COERCION,
        causes.TIE: kinds.TIE,
        causes.DELETED: kinds.DELETED,
        causes.FUTURE: kinds.FUTURE,
        causes.PAST_HORIZON: kinds.BEHIND,
        causes.NOT_LANDED: kinds.PUSHED,
        causes.TAMPERED: kinds.UNEXPLAINED,
    }.get(each.cause, kinds.ORACLE)
