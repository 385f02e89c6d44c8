"""The proof of a sample as a part of the watch: what differs for the same cause is one finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

from parity.definition.checks import Declared
from parity.edge.files import location
from parity.offline.side import origins_of
from parity.proof.causes import MEANING
from parity.proof.found import Comparison, Difference
from parity.proof.proof import proving, unseen_views
from parity.report.certificate import certificate, watched, write_certificate
from parity.report.page import write_page
from parity.report.seen import look_through
from parity.report.terminal import verdict
from parity.repository import opened
from parity.watch import advice
from parity.watch.found import PIPELINE, PROOF, Finding, Part

PAGE, CERTIFICATE = "proof", "certificate"
FILE, CERTIFICATE_FILE = "proof.html", "certificate.json"
EXAMPLES = 3


def watch_proof(
    chosen: Declared, repository: Path, folder: Path, at: datetime | None, now: datetime, sample: int, seed: int
) -> Part:
    """Prove ``sample`` keys of each table, of the present or of the past instant ``at``, and write the page and the
    certificate. `UserError` if it could not be done."""
    tables = chosen.tables
    transactions = origins_of(tables, None)
    data = [*transactions, *(location(table.source.path) for table in tables)]
    with (
        opened(repository, tables, redefined=True) as store,
        watched(data, hashed=True) as files,
        proving(store, tables, transactions, at, now, seed) as proofs,
    ):
        unseen = unseen_views(store, tables, chosen.others)
        seen = look_through(proofs, [proof.chosen(sample, seed) for proof in proofs], files)
        found = [one.found for one in seen]
        proven = certificate(found, proofs, unseen, files.hashes, now)
        write_certificate(proven, folder / CERTIFICATE_FILE)
        write_page(folder / FILE, seen, [proof.latency(0) for proof in proofs], unseen, proven)
    part = Part(PROOF, verdict(found), pages={PAGE: FILE, CERTIFICATE: CERTIFICATE_FILE})
    part.findings = [one for comparison in found for one in _findings(comparison)]
    part.noted = [f"not looked at: {name}" for name in unseen]
    return part


def _findings(found: Comparison) -> list[Finding]:
    """One for each cause."""
    by_cause: dict[str, list[Difference]] = {}
    for difference in found.differences:
        by_cause.setdefault(difference.cause, []).append(difference)
    return [_finding(found, cause, some) for cause, some in by_cause.items()]


def _finding(found: Comparison, cause: str, some: Sequence[Difference]) -> Finding:
    noun, users = found.table.noun, len({one.key for one in some})
    features = ", ".join(dict.fromkeys(one.feature for one in some))
    of = f" of {found.keys:,} compared" if found.sample else f" of {found.keys:,}"
    whose = f"{noun(users)}{of}"
    if found.sample:
        about = math.ceil(users * found.sample.of / found.sample.size)
        whose += f", so about {about:,} of all {found.sample.of:,}"
    return Finding(
        PIPELINE,
        (PROOF,),
        f"{found.title}: {features}: {cause} ({MEANING[cause]})",
        tuple(dict.fromkeys(advice.for_repository(advice.of_cause(one)) for one in some)),
        _since(some),
        None,
        users,
        whose,
        tuple(
            f"{found.named(one.key)}{f' at {one.instant.isoformat()}' if one.instant else ''}: {one.feature} is "
            f"{one.training} in training, {one.serving} in serving, {one.oracle} by the oracle"
            for one in some[:EXAMPLES]
        ),
        PAGE,
    )


def _since(some: Sequence[Difference]) -> date | None:
    """The first day of the history that differs; None if only what holds now does."""
    return min((one.instant.date() for one in some if one.instant), default=None)
