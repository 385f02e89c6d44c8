"""The proof of a sample as a part of the watch: what differs for the same cause is one finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from parity.definition.checks import Declared, FeatureTable
from parity.edge.errors import UserError
from parity.edge.files import Location, location
from parity.offline.side import origins_of
from parity.proof.causes import MEANING
from parity.proof.found import Comparison, Difference, nothing_proven, require_same_definition
from parity.proof.proof import Proof, proving, unseen_views
from parity.report.certificate import Watched, certificate, watched, write_certificate
from parity.report.page import write_page
from parity.report.seen import Seen, look_at
from parity.report.terminal import verdict
from parity.repository import opened
from parity.watch import advice
from parity.watch.found import PIPELINE, PROOF, Finding, Part

PAGE, CERTIFICATE = "proof", "certificate"
FILE, CERTIFICATE_FILE = "proof.html", "certificate.json"
EXAMPLES = 3


class _Proven(NamedTuple):
    proof: Proof
    seen: Seen


@dataclass
class _Asked:
    """What is proven of each view, and as of when."""

    repository: Path
    at: datetime | None
    now: datetime
    sample: int
    seed: int

    def prove(self, table: FeatureTable, transactions: Location, stack: ExitStack) -> _Proven:
        """Prove a view by itself. The proof is open for as long as the ``stack``."""
        with ExitStack() as own:
            store = own.enter_context(opened(self.repository, [table], redefined=True))
            [proof] = own.enter_context(proving(store, [table], [transactions], self.at, self.now, self.seed))
            [seen] = look_at([proof], [proof.chosen(self.sample, self.seed)])
            require_same_definition([seen.found])
            stack.push(own.pop_all())
        return _Proven(proof, seen)


def watch_proof(
    chosen: Declared, repository: Path, folder: Path, at: datetime | None, now: datetime, sample: int, seed: int
) -> Part:
    """Prove ``sample`` keys of each table, of the present or of the past instant ``at``, and write the page and the
    certificate of those of which there is something to prove. `UserError` if a file changed meanwhile."""
    part, asked = Part(PROOF), _Asked(repository, at, now, sample, seed)
    tables = chosen.tables
    transactions = origins_of(tables, None)
    data = [*transactions, *(location(table.source.path) for table in tables)]
    with watched(data, hashed=True) as files, ExitStack() as stack:
        every, failed = [], {}
        for table, place in zip(tables, transactions, strict=True):
            try:
                every.append(asked.prove(table, place, stack))
            except UserError as error:
                failed.setdefault(str(error), []).append(f"{table.name} (not checked)")
        files.require_unchanged()
        for reason in failed:  # once, though it be that of all views
            part.unchecked(reason)
        idle = {one.seen.found.title: reason for one in every if (reason := nothing_proven(one.seen.found))}
        proven = [one for one in every if one.seen.found.title not in idle]
        if proven:
            left = [*chain(*failed.values()), *(f"{name} (nothing to prove now)" for name in idle)]
            unseen = [*unseen_views(proven[0].proof.store, tables, chosen.others), *left]
            _write(part, proven, unseen, len(proven) == len(tables), files, folder, now)
        elif idle and not failed:
            part.unchecked(f"nothing is proven: {'; '.join(f'{name}: {why}' for name, why in idle.items())}.")
    if proven:
        part.noted += [f"nothing to prove now of {name}: {reason}" for name, reason in idle.items()]
        part.summary += f" Nothing to prove now: {', '.join(idle)}." if idle else ""
    return part


def _write(
    part: Part,
    proven: Sequence[_Proven],
    unseen: Sequence[str],
    whole: bool,
    files: Watched,
    folder: Path,
    now: datetime,
) -> None:
    """Take up what was found, and write the page and the certificate."""
    proofs, seen = [one.proof for one in proven], [one.seen for one in proven]
    found = [one.found for one in seen]
    sealed = certificate(found, proofs, unseen, files.hashes, now, every_view=whole)
    write_certificate(sealed, folder / CERTIFICATE_FILE)
    write_page(folder / FILE, seen, [proof.latency(0) for proof in proofs], unseen, sealed)
    part.summary, part.pages = verdict(found), {PAGE: FILE, CERTIFICATE: CERTIFICATE_FILE}
    part.findings += [one for comparison in found for one in _findings(comparison)]
    part.noted += [f"not looked at: {name}" for name in unseen]


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
