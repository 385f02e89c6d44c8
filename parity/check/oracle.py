"""The third side, where a repository declares what its features are computed of: what the transactions give.

A view that carries aggregations is marked so in the registry. Of these the proof of `demo_fixed.py` is made as well, by
the very code that it has, and what is not as the oracle says becomes a finding like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from parity.check.found import Compared, Example, Sample
from parity.compare.kinds import ORACLE
from parity.compare.subjects import Source
from parity.definition.declare import MADE
from parity.edge.errors import UserError


def is_own(source: Source) -> bool:
    """Whether a view carries aggregations, by the registry."""
    return MADE in (source.view.tags or {})


def held_against_oracle(
    repository: Path, names: set[str], size: int | None, seed: int, at: datetime | None, now: datetime
) -> Iterator[Compared]:
    """Hold the views with these ``names`` against their transactions; of each, ``size`` keys at most."""
    from parity.definition.checks import declared  # here: it takes Redis and DuckDB, which others need not have
    from parity.offline.side import origins_of
    from parity.proof.proof import proving
    from parity.repository import opened

    try:
        tables = [table for table in declared(repository) if table.name in names]
        with (
            opened(repository, tables, redefined=True) as store,
            proving(store, tables, origins_of(tables, None), at, now, seed) as proofs,
        ):
            for proof in proofs:
                yield _held(proof, size, seed)
    except UserError as error:
        yield Compared("the oracle", "oracle", error=str(error))


def _held(proof, size: int | None, seed: int) -> Compared:
    numbers, sample = proof.chosen(size, seed)
    found, batches = proof.compared(numbers, sample)
    list(batches)
    one = Compared(f"{found.view}, by the oracle", "oracle", len(numbers), len(proof), None, found.values)
    one.sample = Sample(sample.size, sample.of, sample.seed) if sample else None
    one.nulls.values, one.ttl = found.nulls, found.ttl
    places: dict[str, int] = {}
    for difference in found.differences:
        finding = one.finding(ORACLE, found.view)
        finding.features[difference.feature] += 1
        place = places.setdefault(found.shown(difference.key), len(places))
        key = {"key": found.shown(difference.key)}
        sides = difference.training, difference.serving
        example = Example(key, f"{difference.feature} ({difference.oracle} by the transactions)", *sides)
        finding.add(place, difference.instant, example)
        one.differing_places.add(place)
        finding.about["cause"] = difference.cause
    one.differing = found.differing
    one.values = max(one.values, one.differing)
    return one
