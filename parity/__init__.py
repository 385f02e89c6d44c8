"""The library behind the four scripts: from raw transactions to a proof that training equals serving.

Data flows one way, and each folder is one station of it:

    definition     what a feature is: of which key, by which function, over which window and which rows
    transactions   raw files: read, typed, and refused where they can't be read exactly
    compute        transactions to features: at once, by day, from what has changed, on a cluster
    compare        training and serving, asked as a team asks them for some keys, and whether their values are equal
    offline        the feature history, and what training reads of it
    served         the log of what was answered, for the audit
    online         what Redis holds, and what serving reads of it
    stream         events, served milliseconds after they happened, and landed among the transactions
    proof          the three sides, compared for equality, and why two of them differ
    report         what a proof found: on a terminal, as a page, as a certificate
    audit          what was really served, held against the sides, as known today and as known then
    model          what a model was trained on, kept with it, and held against what it is served with
    experiment     services served side by side: who was exposed to which, and what came of it
    quality        whether transactions and features are as expected, day by day, by Great Expectations
    drift          two windows of features, of transactions or of what was served, and whether anything moved
    watch          quality, drift and the proof of a sample in one go, for whoever is on call
    plan           what a change of the definitions does to their values, before it ships
    deploy         what is declared, brought into force beside what is served, and back
    check          anybody's Feast repository, only read: training held against serving, why they differ, what to do

`materialization` goes from offline to online. `repository` opens the Feast repository that ties all together, and
`registry_store` keeps its registry. `edge` is where the outside begins: the command line, files, configuration, Redis
servers, and what is not public of Feast.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "AggregatedFeatureView",
    "Expectation",
    "Experiment",
    "TransactionSource",
    "ago",
    "check_definitions",
    "same_weekday",
    "usually",
]

_HOMES = {
    "AggregatedFeatureView": "parity.definition.declare",
    "Expectation": "parity.definition.expectations",
    "Experiment": "parity.definition.experiments",
    "TransactionSource": "parity.definition.declare",
    "ago": "parity.definition.expectations",
    "check_definitions": "parity.definition.checks",
    "same_weekday": "parity.definition.expectations",
    "usually": "parity.definition.expectations",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the workers of a cluster import this package without Feast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
