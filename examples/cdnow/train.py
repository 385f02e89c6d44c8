"""Train a model on real purchases: does this customer buy again within 90 days?

    python examples/cdnow/train.py [-c REPO] [--service NAME] [--model FILE] [--repeats N] [--seed N] [--untracked]

An example is a customer at the beginning of a month, with features as they were at that instant, by Feast's own
point-in-time join, and a label that looks forward only. The split is by time: all labels of the training are known
before the first instant that the model is measured at. It is measured beside what it has to beat.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import model as the_model  # first, as it says how many threads scikit-learn may have
import numpy as np
import pandas as pd
import pyarrow as pa
import tracking
from baselines import BetaGeometric, Histories, histories
from cdnow import BEGIN, CALIBRATION, KEY, PRESENT, REPOSITORY, beside, model_of
from feast import FeatureStore
from model import HORIZON, SERVICE, inputs_of, matrix, scores
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from parity.edge.command import argument_parser, run, shown, whole_number
from parity.edge.errors import UserError
from parity.edge.files import replacing
from parity.model.contract import Contract
from parity.model.file import save
from parity.repository import in_force, opened
from parity.transactions.read import read_transactions

HELD_OUT = datetime(1998, 1, 1, tzinfo=UTC)
"""The first instant that the model is measured at. No label of the training reaches it."""
TREES = {"max_iter": 60, "max_leaf_nodes": 15, "min_samples_leaf": 200, "early_stopping": False}
"""Of gradient boosted trees; see docs/models.md for what else was tried."""
RECENCY, FREQUENCY = "days_since_last", "days_with_purchases"
MEASURES = {
    "roc_auc": roc_auc_score,
    "average_precision": average_precision_score,
    "brier": brier_score_loss,
    "log_loss": log_loss,
}
HIGHER_IS_BETTER = ("roc_auc", "average_precision")
SPREAD_REPEATS = 30
BINS = 10


class Examples(NamedTuple):
    """Customers at instants, in the order of both, with what is known of them then, and what follows."""

    customers: np.ndarray
    instants: np.ndarray
    """datetime64[us], UTC."""
    inputs: np.ndarray
    """As of `model.matrix`."""
    buys: np.ndarray
    """Whether they buy within `HORIZON`, strictly after the instant."""

    def where(self, rows: np.ndarray) -> "Examples":
        return Examples(*(column[rows] for column in self))


class Purchases(NamedTuple):
    """Who bought when, in the order of both."""

    customers: np.ndarray
    times: np.ndarray
    """datetime64[us], UTC."""


def main() -> None:
    args = arguments()
    everything = in_force(args.repository)
    contract = Contract.of(everything, args.service)
    inputs = inputs_of(feature.name for feature in contract.features)
    tables = everything.of(service=args.service).tables
    if len(tables) > 1 or tables[0].definition.keys.names != [KEY]:
        keys = "; ".join(f"{table.name} by {', '.join(table.definition.keys.names)}" for table in tables)
        raise UserError(f"{args.service} has {keys}, and this trains on one view by {KEY}. Name another: --service")
    with opened(args.repository, tables) as store:
        contract = Contract.of(everything, args.service, inputs, store.project)
        contract.require_applied(store)
        client = None if args.untracked else tracking.tracker(store)
        with tracking.run(client, args.service) if client else nullcontext() as run_id:
            purchases = purchases_of(tables[0])
            examples = examples_of(store, contract, purchases, months())
            training, held_out = split(examples)
            model = trained(training.inputs, training.buys, args.seed)
            compared = compare(store, contract, purchases, training, held_out, model, args.seed)
            importance = importance_of(model, held_out, inputs, args.repeats, args.seed)
            earlier = {}
            if client:
                with tracking.named(tracking.uri_of(client)):
                    earlier = tracking.earlier_importance(client, store.project, args.service)
            save(model, contract, args.model)  # with its measures beside it, whatever becomes of the tracking
            found = {
                "service": args.service,
                "contract": contract.fingerprint,
                "model": hashlib.sha256(args.model.read_bytes()).hexdigest(),
                "run": run_id,
                "seed": args.seed,
                "training": shape(training),
                "held_out": shape(held_out),
                **compared,
                "importance": importance,
                "ranks_changed": ranks_changed(earlier, importance),
            }
            with replacing(beside(args.model)) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")
            if client:
                with tracking.named(tracking.uri_of(client)):
                    track(client, model, contract, found)
    print("\n".join(lines(found, bool(earlier), args.model)))


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument(
        "--service", default=SERVICE, metavar="NAME", help=f"train on this service (default: {SERVICE})"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="(default: REPO/data/SERVICE.model)")
    parser.add_argument("--repeats", type=whole_number(2, 1000), default=10, help="of each permutation (default: 10)")
    parser.add_argument("--seed", type=whole_number(0, 2**31), default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--untracked", action="store_true", help="keep no run in MLflow")
    args = parser.parse_args()
    args.model = args.model or model_of(args.repository, args.service)
    return args


# Examples


def months() -> list[datetime]:
    """The beginnings of months from the second on whose labels are known by the present."""
    numbers = range(1, (PRESENT.year - BEGIN.year) * 12 + PRESENT.month)
    beginnings = [BEGIN.replace(year=BEGIN.year + number // 12, month=number % 12 + 1) for number in numbers]
    return [at for at in beginnings if at + HORIZON < PRESENT]


def split(examples: Examples) -> tuple[Examples, Examples]:
    """Those to train on, and those to measure on: between them are those whose labels reach into the latter."""
    held_out, horizon = np.datetime64(HELD_OUT.replace(tzinfo=None), "us"), np.timedelta64(HORIZON)
    return examples.where(examples.instants + horizon < held_out), examples.where(examples.instants >= held_out)


def purchases_of(table: Any) -> Purchases:
    """The purchases, read as the features are computed of them."""
    rows = read_transactions(table.transactions, table.definition)
    time, [key] = table.definition.reading.timestamp, table.definition.keys.names
    rows = rows.select([key, time]).sort_by([(key, "ascending"), (time, "ascending")])
    return Purchases(rows[key].to_numpy(), rows[time].cast(pa.timestamp("us")).to_numpy())


def examples_of(
    store: FeatureStore,
    contract: Contract,
    purchases: Purchases,
    instants: Sequence[datetime],
    horizon: timedelta = HORIZON,
    features_after: timedelta = timedelta(0),
) -> Examples:
    """All customers who have bought by each of ``instants``, with features of just then and labels of ``horizon``.

    With ``features_after``, features are as of so much later: a leak, which a model has to be too good with.
    """
    customers, first = np.unique(purchases.customers, return_index=True)
    parts = []
    for instant in instants:
        at = np.datetime64(instant.replace(tzinfo=None), "us")
        known = purchases.times[first] <= at
        following = (purchases.times > at) & (purchases.times <= at + np.timedelta64(horizon))
        buys = np.isin(customers[known], purchases.customers[following])
        parts.append(pd.DataFrame({KEY: customers[known], "at": at, "buys": buys}))
    asked = pd.concat(parts, ignore_index=True)
    asked["event_timestamp"] = (asked["at"] + features_after).dt.tz_localize(UTC)
    rows = store.get_historical_features(asked, store.get_feature_service(contract.service)).to_df()
    rows = rows.sort_values(["at", KEY], ignore_index=True)  # as they come in any order
    at = rows["at"].dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    features = {feature.name: rows[feature.name].to_numpy(np.float64, na_value=np.nan) for feature in contract.features}
    inputs = matrix(features, at + np.timedelta64(features_after), contract.inputs)
    there = ~np.isnan(inputs).any(axis=1)
    return Examples(rows[KEY].to_numpy(), at, inputs, rows["buys"].to_numpy()).where(there)


def shape(examples: Examples) -> dict[str, Any]:
    instants = np.unique(examples.instants)
    return {
        "examples": len(examples.buys),
        "buy": int(examples.buys.sum()),
        "instants": [str(at)[:10] for at in instants],
        "labels_end": str(instants[-1] + np.timedelta64(HORIZON))[:10],
    }


# The model, and what it is compared with


def trained(inputs: np.ndarray, buys: np.ndarray, seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(random_state=seed, **TREES).fit(inputs, buys)


def compare(
    store: FeatureStore,
    contract: Contract,
    purchases: Purchases,
    training: Examples,
    held_out: Examples,
    model: Any,
    seed: int,
) -> dict[str, Any]:
    """Measure the model and its baselines in the held-out period, and in the last 39 weeks, those of the paper."""
    whole = contract.inputs == the_model.INPUTS
    simple = [contract.inputs.index(name) for name in (RECENCY, FREQUENCY) if name in contract.inputs]
    given = {"model": scores(model, held_out.inputs)}
    found: dict[str, Any] = {}
    if len(simple) == 2 and len(contract.inputs) > 2:
        two = trained(training.inputs[:, simple], training.buys, seed)
        given["recency_and_frequency"] = scores(two, held_out.inputs[:, simple])
    if whole:
        forecast, given["bg_nbd"] = forecasted(store, contract, purchases, training, held_out, seed)
        found["last_39_weeks"] = forecast
    given["share_of_all"] = np.full(len(held_out.buys), training.buys.mean())
    found["measures"] = {name: measured(held_out.buys, score) for name, score in given.items()}
    baselines = [name for name in given if name not in ("model", "share_of_all")]
    found["gains"] = gains(held_out, given["model"], {name: given[name] for name in baselines}, seed)
    found["calibration"] = {name: calibration(held_out.buys, given[name]) for name in ["model", *baselines]}
    return found


def forecasted(
    store: FeatureStore, contract: Contract, purchases: Purchases, training: Examples, held_out: Examples, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Fit BG/NBD on the first 39 weeks; measure it on the last 39 beside trees that know no more; and score with it.

    The trees are of those instants whose labels end within the first 39 weeks. They say who buys again within 90 days,
    so of 39 weeks only their order is measured.
    """
    end, weeks = BEGIN + CALIBRATION - timedelta(days=1), CALIBRATION / timedelta(weeks=1)
    then = examples_of(store, contract, purchases, [end], CALIBRATION)
    known = known_of(then, contract)
    fitted = BetaGeometric.fit(known)
    early = training.where(training.instants + np.timedelta64(HORIZON) < then.instants[0])
    order = scores(trained(early.inputs, early.buys, seed), then.inputs)
    following = (purchases.times > then.instants[0]) & (
        purchases.times <= then.instants[0] + np.timedelta64(CALIBRATION)
    )
    days = len(set(zip(purchases.customers[following], purchases.times[following], strict=True)))
    by_chance = fitted.buys(known, weeks)
    forecast = {
        "customers": len(then.buys),
        "parameters": {name: getattr(fitted, name) for name in ("r", "alpha", "a", "b")},
        "purchases_forecast": float(fitted.expected(known, weeks).sum()),
        "purchases": days,
        "buyers_forecast": float(by_chance.sum()),
        "buyers": int(then.buys.sum()),
        "bg_nbd": measured(then.buys, by_chance),
        "model": {name: measured(then.buys, order)[name] for name in HIGHER_IS_BETTER},
    }
    return forecast, fitted.buys(known_of(held_out, contract), HORIZON / timedelta(weeks=1))


def known_of(examples: Examples, contract: Contract) -> Histories:
    """What BG/NBD knows of customers, from the very inputs of the model."""
    names = (FREQUENCY, "days_since_first", RECENCY)
    return histories(*(examples.inputs[:, contract.inputs.index(name)] for name in names))


def measured(buys: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    return {name: float(measure(buys, score, sample_weight=weights)) for name, measure in MEASURES.items()}


def gains(
    examples: Examples, score: np.ndarray, others: Mapping[str, np.ndarray], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """By how much a score is better than each other, by each measure, and the spread of that over draws of customers.

    A customer is drawn with all their instants, which are not independent of each other.
    """
    draw = np.random.default_rng(seed)
    customers, numbers = np.unique(examples.customers, return_inverse=True)
    gained = {name: {measure: [] for measure in MEASURES} for name in others}
    for repeat in range(1 + SPREAD_REPEATS):
        each = np.bincount(draw.integers(len(customers), size=len(customers)), minlength=len(customers))[numbers]
        weights = each if repeat else None  # the first is that of the customers as they are
        ours = measured(examples.buys, score, weights)
        for name, other in others.items():
            theirs = measured(examples.buys, other, weights)
            for measure, some in gained[name].items():
                gain = ours[measure] - theirs[measure]
                some.append(gain if measure in HIGHER_IS_BETTER else -gain)
    return {
        name: {
            measure: {"gain": some[0], "spread": float(np.std(some[1:], ddof=1))} for measure, some in of_each.items()
        }
        for name, of_each in gained.items()
    }


def calibration(buys: np.ndarray, score: np.ndarray) -> list[dict[str, float]]:
    """Of tenths of the examples, by ascending score: what was said, and what came."""
    parts = np.array_split(np.argsort(score, kind="stable"), BINS)
    return [
        {"examples": len(part), "said": float(score[part].mean()), "came": float(buys[part].mean())} for part in parts
    ]


def importance_of(
    model: Any, examples: Examples, inputs: Sequence[str], repeats: int, seed: int
) -> list[dict[str, Any]]:
    """How much ROC AUC is lost when an input is shuffled among examples, and its spread over repeats; most first."""
    found = permutation_importance(
        model, examples.inputs, examples.buys, scoring="roc_auc", n_repeats=repeats, random_state=seed
    )
    each = zip(inputs, found.importances_mean, found.importances_std, strict=True)
    ordered = sorted(each, key=lambda one: (-one[1], one[0]))
    return [
        {"input": name, "importance": float(mean), "spread": float(spread), "rank": rank}
        for rank, (name, mean, spread) in enumerate(ordered, 1)
    ]


def ranks_changed(earlier: Mapping[str, float], importance: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The inputs that are at another rank than in the run before."""
    before = sorted(earlier, key=lambda name: (-earlier[name], name))
    ranks = {name: rank for rank, name in enumerate(before, 1)}
    now = {one["input"]: one["rank"] for one in importance}
    return [
        {"input": name, "before": ranks.get(name), "now": now.get(name)}
        for name in dict.fromkeys([*now, *before])
        if earlier and ranks.get(name) != now.get(name)
    ]


# What is said and kept


def track(client: Any, model: Any, contract: Contract, found: Mapping[str, Any]) -> None:
    """Keep a run in MLflow: what went in, the measures, the importance of each input, the contract and the model."""
    mlflow = client.mlflow
    mlflow.log_params(
        {"service": contract.service, "seed": found["seed"], "inputs": len(contract.inputs), **TREES}
        | {f"{part}_examples": found[part]["examples"] for part in ("training", "held_out")}
    )
    mlflow.set_tags({"parity.contract": contract.fingerprint, "parity.model": found["model"]})
    metrics = {
        measure if name == "model" else f"{measure}/{name}": value
        for name, measures in found["measures"].items()
        for measure, value in measures.items()
    }
    for one in found["importance"]:
        metrics[f"{tracking.IMPORTANCE}{one['input']}"] = one["importance"]
        metrics[f"{tracking.SPREAD}{one['input']}"] = one["spread"]
    mlflow.log_metrics(metrics)
    mlflow.log_text(contract.to_json(), "contract.json")
    mlflow.log_dict(dict(found), "training.json")
    client.log_model(
        model,
        "model",
        serialization_format="skops",
        skops_trusted_types=["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"],
        pip_requirements=[f"{name}=={version}" for name, version in contract.versions.items()],
    )


def lines(found: Mapping[str, Any], compared: bool, path: Path) -> Iterator[str]:
    """What is printed."""
    for part, what in (("training", "Trained on"), ("held_out", "Measured on")):
        one = found[part]
        yield (
            f"{what} {one['examples']:,} examples, {one['buy'] / one['examples']:.1%} of which buy again, at "
            f"{len(one['instants'])} instants from {one['instants'][0]} to {one['instants'][-1]}; their labels end "
            f"{one['labels_end']}"
        )
    yield f"{'':24}{'ROC AUC':>10}{'avg. precision':>16}{'Brier':>9}{'log loss':>10}"
    for name, measures in found["measures"].items():
        roc, precision, brier, loss = measures.values()
        yield f"  {name.replace('_', ' '):22}{roc:10.4f}{precision:16.4f}{brier:9.4f}{loss:10.4f}"
    for name, gained in found["gains"].items():
        said = ", ".join(f"{of.replace('_', ' ')} {verdict(**one)}" for of, one in gained.items())
        yield f"Against {name.replace('_', ' ')} the model: {said}"
    if last := found.get("last_39_weeks"):
        yield (
            f"Last 39 weeks of {last['customers']:,} customers, by what the first 39 know: BG/NBD forecasts "
            f"{last['purchases_forecast']:,.0f} purchases and {last['buyers_forecast']:,.0f} buyers, and "
            f"{last['purchases']:,} and {last['buyers']:,} came; ROC AUC of who buys: BG/NBD "
            f"{last['bg_nbd']['roc_auc']:.4f}, the model {last['model']['roc_auc']:.4f}"
        )
    yield "Importance: ROC AUC that is lost when an input is shuffled"
    for one in found["importance"]:
        yield f"  {one['rank']:2} {one['input']:22}{one['importance']:10.5f} ± {one['spread']:.5f}"
    for change in found["ranks_changed"]:
        yield f"  {change['input']}: rank {change['before'] or 'none'} in the run before, {change['now'] or 'none'} now"
    if compared and not found["ranks_changed"]:
        yield "  the ranks are those of the run before"
    tracked = f", run {found['run']} of MLflow" if found["run"] else ""
    yield f"-> {shown(path)}{tracked}"


def verdict(gain: float, spread: float) -> str:
    """A gain in words: nothing is won or lost that lies within twice its spread."""
    said = "wins" if gain > 2 * spread else "loses" if gain < -2 * spread else "is level"
    return f"{said} ({gain:+.4f} ± {spread:.4f})"


if __name__ == "__main__":
    run(main)
