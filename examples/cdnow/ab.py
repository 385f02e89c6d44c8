"""Two models side by side: do all features find more of those who buy again than recency and frequency alone?

    python examples/cdnow/train.py --service buys_again
    python examples/cdnow/train.py --service recency_and_frequency
    python examples/cdnow/ab.py [-c REPO] [--at INSTANT] [--share SHARE] [--sample N]

As of an instant after all that the models were trained on, each customer is served by the arm that the experiment
gives them, and that is logged. An offer goes to those of each arm with the highest scores; whoever gets one and buys
within 90 days, by their real purchases, is a hit. That what each arm serves equals training is proven first.
Exit status 0: proven, and there is a verdict. 1: skew. 2: there is no verdict, and why.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import csv
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import model as the_model  # first, as it says how many threads scikit-learn may have
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cdnow import PRESENT, REPOSITORY, model_of
from feast import FeatureStore

from parity.definition.checks import Declared, FeatureTable
from parity.definition.experiments import Experiment
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, instant, run, share, shown, whole_number
from parity.edge.errors import UserError
from parity.edge.files import location, replacing
from parity.experiment.analysis import analyse, exposed_by_log
from parity.experiment.command import shown as shown_analysis
from parity.experiment.exposures import Exposures, folder_of_exposures
from parity.experiment.outcomes import read_outcomes
from parity.model.contract import Contract
from parity.model.file import load
from parity.offline.side import origins_of
from parity.online.side import clock_of, unlogged
from parity.proof.proof import proving, unseen_views
from parity.report import terminal as report
from parity.report.certificate import watched
from parity.report.seen import look_through
from parity.repository import in_force, opened
from parity.transactions.read import read_transactions

EXPERIMENT = "scoring"
AT = datetime(1998, 4, 1, tzinfo=UTC)
"""90 days before the present, so that what follows is known; the models were trained on what was known in 1997."""
CUSTOMERS_AT_ONCE = 1000


class Arm(NamedTuple):
    """A model, and what it was trained on."""

    model: Any
    contract: Contract


def main() -> int:
    args, now = arguments(), utc_now()
    exposures, outcomes = (args.repository / "data" / name for name in ("exposures", "outcomes.csv"))
    everything = in_force(args.repository)
    experiment = everything.experiment(EXPERIMENT)
    arms = {arm: trained(everything, args.repository, service.name) for arm, service in experiment.arms.items()}
    chosen = everything.through([service.name for service in experiment.arms.values()])
    tables = list(chosen)
    transactions = origins_of(tables, None)
    data = [*transactions, *(location(table.source.path) for table in tables)]
    with (
        opened(args.repository, tables) as store,
        watched(data, hashed=False) as files,
        proving(store, tables, transactions, args.at, now, seed=0) as proofs,
    ):
        drawn = [proof.chosen(args.sample, seed=0) for proof in proofs]
        found = [one.found for one in look_through(proofs, drawn, files)]
        for arm in arms.values():
            arm.contract.require_applied(store)
        print(report.every_view(found, unseen_views(store, tables, chosen.others)))
        bought = purchases_after(tables[0], args.at)
        scores = serve(proofs[0].store, experiment, arms, bought.customers, args.at, exposures)
    write_outcomes(outcomes, bought, offers(scores, args.share))
    exposed = exposed_by_log(exposures, experiment)
    analysis = analyse(experiment, exposed, read_outcomes(outcomes, experiment))
    print(f"An offer goes to the {args.share:.0%} of each arm with the highest scores; who then buys is a hit")
    print(shown_analysis(analysis))
    print(
        f"The same again: python -m parity experiment {EXPERIMENT} -c {shown(args.repository)} "
        f"--exposures {shown(exposures)} --outcomes {shown(outcomes)}"
    )
    if any(one.differences for one in found):
        return 1
    if analysis.reasons:
        raise UserError(f"no verdict on {EXPERIMENT}: {'; '.join(analysis.reasons)}.")
    return 0


def trained(everything: Declared, repository: Path, service: str) -> Arm:
    """The model of a service, as train.py has left it."""
    path = model_of(repository, service)
    if not path.is_file():
        raise UserError(f"{shown(path)}: there is no model. Run: python examples/cdnow/train.py --service {service}")
    return Arm(*load(path, everything, service))


class Bought(NamedTuple):
    """Who had bought by an instant, and when each bought next within the model's horizon."""

    customers: list[str]
    next: dict[str, datetime]


def purchases_after(table: FeatureTable, at: datetime) -> Bought:
    [key], time = table.definition.keys.names, table.definition.reading.timestamp
    rows = read_transactions(table.transactions, table.definition).select([key, time])
    known = rows.filter(pc.less_equal(rows[time], pa.scalar(at))).column(key).unique()
    later = rows.filter(
        pc.and_(pc.greater(rows[time], pa.scalar(at)), pc.less_equal(rows[time], pa.scalar(at + the_model.HORIZON)))
    )
    first = later.group_by(key).aggregate([(time, "min")])
    following = dict(zip(first[key].to_pylist(), first[f"{time}_min"].to_pylist(), strict=True))
    return Bought(sorted(known.to_pylist()), following)


def serve(
    store: FeatureStore,
    experiment: Experiment,
    arms: Mapping[str, Arm],
    customers: Sequence[str],
    at: datetime,
    folder: Path,
) -> dict[str, dict[str, float]]:
    """Serve every customer by the arm that is theirs, and log it: the scores by customer, of each arm."""
    shutil.rmtree(folder_of_exposures(folder, experiment), ignore_errors=True)  # those of an earlier run
    scores: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    with Exposures(folder, experiment) as exposures, clock_of(store, at), unlogged(store):
        for start in range(0, len(customers), CUSTOMERS_AT_ONCE):
            some = customers[start : start + CUSTOMERS_AT_ONCE]
            of_arm: dict[str | None, list[str]] = {}
            for customer in some:
                of_arm.setdefault(exposures.arm_of(customer, as_of=at), []).append(customer)
            for arm, theirs in of_arm.items():
                if arm is not None:
                    served = store.get_online_features(experiment.arms[arm], {"customer_id": theirs}).to_dict()
                    inputs = the_model.matrix(served, [at] * len(theirs), arms[arm].contract.inputs)
                    scored = the_model.scores(arms[arm].model, inputs).tolist()
                    scores[arm] |= dict(zip(theirs, scored, strict=True))
    if exposures.dropped:
        raise UserError(f"{shown(folder)}: {exposures.dropped:,} exposures could not be written. Make room there.")
    return scores


def offers(scores: Mapping[str, Mapping[str, float]], share: float) -> set[str]:
    """Those who get an offer: this share of each arm, with the highest scores. Who has no score gets none."""
    chosen: set[str] = set()
    for of_arm in scores.values():
        scored = sorted(
            (customer for customer in of_arm if not np.isnan(of_arm[customer])), key=lambda c: (-of_arm[c], c)
        )
        chosen.update(scored[: round(share * len(of_arm))])
    return chosen


def write_outcomes(path: Path, bought: Bought, offered: set[str]) -> None:
    """Write the hits; whoever is not among them has none, and counts as 0."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer_id", "outcome", "timestamp"])
        for customer in sorted(offered & bought.next.keys()):
            writer.writerow([customer, 1, bought.next[customer].isoformat()])


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    at = f"when customers are served, ISO 8601, at least 90 days before the present (default: {AT.isoformat()})"
    parser.add_argument("--at", type=instant, default=AT, metavar="INSTANT", help=at)
    parser.add_argument("--share", type=share, default=0.1, help="of each arm, who gets an offer (default: 0.1)")
    parser.add_argument("--sample", type=whole_number(1), metavar="N", help="prove so many customers (default: all)")
    args = parser.parse_args()
    if args.at > PRESENT - the_model.HORIZON:
        parser.error(f"what follows --at is known until {(PRESENT - the_model.HORIZON).isoformat()}")
    return args


if __name__ == "__main__":
    run(main)
