"""Prove that the model scores what it is served as it scores what it would be trained on: every customer, to the bit.

    python examples/cdnow/prove.py [-c REPO] [--service NAME] [--model FILE] [--present INSTANT] [--json FILE]

Offline, the features of all customers come of Feast's point-in-time join, and are scored all at once. Online, they are
read as the server reads them, and scored one by one, as it does. Features and scores have to be the same bits.
Exit status 0: all equal. 1: something differs, each customer named. 2: it could not be checked.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast

# isort: split

import pandas as pd
import pyarrow as pa
from cdnow import REPOSITORY
from feast import FeatureStore
from serve import (
    EXPIRED,
    KEY,
    OK,
    OUTDATED,
    UNKNOWN,
    Another,
    Scorer,
    Served,
    add_model_arguments,
    opened_as_trained,
    renewal,
    with_model,
)

from parity.definition.checks import FeatureTable
from parity.edge.command import argument_parser, file_named, run
from parity.edge.errors import UserError
from parity.edge.files import replacing
from parity.edge.shown import shown
from parity.offline.side import EVER, latest_events
from parity.online.side import clock_of, stored_events, unlogged
from parity.proof.causes import same

CUSTOMERS_AT_ONCE = 500
DIFFERENCES_SHOWN = 10


@dataclass(frozen=True)
class Difference:
    """A customer who is not scored alike, or not of the same features."""

    customer: str
    scores: tuple[float | None, float | None]
    """Offline, online."""
    features: dict[str, tuple[Any, Any]]
    """Those that differ: offline, online."""

    def __str__(self) -> str:
        offline, online = self.scores
        parts = [] if same(offline, online) else [f"score {offline!r} offline, {online!r} online"]
        parts += [f"{name} {shown(a)} offline, {shown(b)} online" for name, (a, b) in self.features.items()]
        return f"  {self.customer}: {'; '.join(parts)}"


@dataclass(frozen=True)
class Proven:
    """What a comparison of all customers comes to."""

    statuses: dict[str, int]
    """How many customers are served as what."""
    scored: int
    """How many have a score, offline or online."""
    differences: tuple[Difference, ...]

    @property
    def customers(self) -> int:
        return sum(self.statuses.values())

    @property
    def scores_differing(self) -> int:
        return sum(not same(*one.scores) for one in self.differences)


def main() -> int:
    args = arguments()
    with opened_as_trained(args) as (store, scorer, tables):
        proven = prove(store, scorer, tables, args.present)
    print("\n".join(lines(proven, scorer, args.present)))
    if args.json:
        write(args.json, proven, scorer, args.present)
    return 1 if proven.differences else 0


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    add_model_arguments(parser)
    parser.add_argument("--json", type=file_named(".json"), metavar="FILE.json", help="write down what was found")
    return with_model(parser.parse_args())


def prove(store: FeatureStore, scorer: Scorer, tables: Sequence[FeatureTable], at: datetime) -> Proven:
    """Compare features and scores of every customer who is known offline or online, as of ``at``."""
    customers = every_customer(store, tables, at)
    if not customers:
        raise UserError(f"there is no customer by {at.isoformat()}, so there is nothing to prove.")
    offline = offline_values(store, scorer, customers, at)
    expected = scorer.scores(offline, [at] * len(customers))
    statuses, differences, scored = dict.fromkeys((OK, EXPIRED, OUTDATED, UNKNOWN), 0), [], 0
    for place, (customer, status, values, score) in enumerate(served(store, scorer, customers, at)):
        statuses[status] += 1
        scored += score is not None or expected[place] is not None
        features = {name: (offline[name][place], value) for name, value in values.items()}
        features = {name: pair for name, pair in features.items() if not same(*pair)}
        if features or not same(expected[place], score):
            differences.append(Difference(customer, (expected[place], score), features))
    if not scored and not differences:
        raise UserError(
            f"none of {len(customers):,} customers has a score as of {at.isoformat()}, so nothing is proven. Name "
            "another --present, such as the end of the last materialization."
        )
    return Proven(statuses, scored, tuple(differences))


def every_customer(store: FeatureStore, tables: Sequence[FeatureTable], at: datetime) -> list[str]:
    """All ids that have a row in the offline store up to ``at``, or one online, sorted."""
    found: set[str] = set()
    for table in tables:
        found.update(latest_events(store, table, EVER, at)[KEY].to_pylist())
        found.update(stored_events(store, table).keys[KEY].to_pylist())
    return sorted(found)


def offline_values(store: FeatureStore, scorer: Scorer, customers: Sequence[str], at: datetime) -> dict[str, list]:
    """What training would get for each of ``customers`` at ``at``: features in columns, in their order."""
    asked = pd.DataFrame({KEY: customers, "event_timestamp": pd.Timestamp(at)})
    rows = store.get_historical_features(asked, scorer.service).to_arrow()
    order = pa.array(sorted(range(rows.num_rows), key=rows[KEY].to_pylist().__getitem__))  # Feast keeps none
    rows = rows.take(order)
    if rows[KEY].to_pylist() != list(customers):
        raise UserError("the offline store answered for other customers than it was asked for; nothing is compared.")
    names = [field.name for of_view in scorer.fields.values() for field in of_view]
    return {name: [None if value != value else value for value in rows[name].to_pylist()] for name in names}


def served(
    store: FeatureStore, scorer: Scorer, customers: Sequence[str], at: datetime
) -> Iterator[tuple[str, str, dict[str, Any], float | None]]:
    """Each customer as the server has them at ``at``: what becomes of them, their features, and their score."""
    with clock_of(store, at), unlogged(store):
        for begin in range(0, len(customers), CUSTOMERS_AT_ONCE):
            some = customers[begin : begin + CUSTOMERS_AT_ONCE]
            try:
                answer = Served.of(store.get_online_features(scorer.service, {KEY: list(some)}), scorer, at)
            except Another as error:
                raise UserError(f"{error}. Run: python materialize_to_online.py") from None
            for place, customer in enumerate(some):
                values = {name: column[place] for name, column in answer.values.items()}
                [score] = scorer.scores({name: [value] for name, value in values.items()}, [at])
                yield customer, answer.statuses[place], values, score


def lines(proven: Proven, scorer: Scorer, at: datetime) -> Iterator[str]:
    of = ", ".join(f"{count:,} {status}" for status, count in proven.statuses.items() if count)
    yield f"Model {scorer.id} of {scorer.service.name}, {proven.customers:,} customers as of {at.isoformat()}: {of}"
    if outdated := proven.statuses.get(OUTDATED):
        yield f"  {outdated:,} are past the horizon of their row online: {renewal(at)}"
    if not proven.differences:
        yield f"  every feature and each of the {proven.scored:,} scores is the same, to the bit, offline and online"
        return
    yield f"  {len(proven.differences):,} differ, {proven.scores_differing:,} of them in the score:"
    yield from map(str, proven.differences[:DIFFERENCES_SHOWN])
    if len(proven.differences) > DIFFERENCES_SHOWN:
        yield f"  and {len(proven.differences) - DIFFERENCES_SHOWN:,} more"


def write(path: Path, proven: Proven, scorer: Scorer, at: datetime) -> None:
    """Write down what was found, for a page or another program."""
    found = {
        "service": scorer.service.name,
        "model": scorer.id,
        "contract": scorer.contract.fingerprint,
        "as_of": at.isoformat(),
        "customers": proven.customers,
        "statuses": proven.statuses,
        "scored": proven.scored,
        "differ": len(proven.differences),
        "scores_differ": proven.scores_differing,
        "differences": [
            {
                "customer_id": one.customer,
                "scores": one.scores,
                "features": {n: [*map(str, v)] for n, v in one.features.items()},
            }
            for one in proven.differences[:DIFFERENCES_SHOWN]
        ],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
