"""How a feature that is applied was made: the registry has a fingerprint of that, and the usual ways are few enough.

What is found is certain, as it has the very fingerprint. What is not found was made of other columns or rows, or over a
window that nobody would guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa

from parity.definition.functions import FUNCTIONS
from parity.definition.table import Definition, Rule

WINDOWS = (
    None,
    *(timedelta(days=days) for days in range(1, 401)),
    *(timedelta(hours=hours) for hours in range(1, 73) if hours % 24),
    *(timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 20, 30, 45, 90)),
)


def recalled(definition: Definition, types: Mapping[str, pa.DataType], made: Mapping[str, str]) -> dict[str, Rule]:
    """The rules that have the fingerprints ``made``, by the names of their features, where they are found.

    ``definition`` is that of the view now, and ``types`` are those of the columns of its transactions.
    """
    now, found = {rule.name: rule for rule in definition.rules}, {}
    for name, fingerprint in made.items():
        for rule in _candidates(name, now.get(name), definition.columns | dict(types)):
            if replace(definition, rules=(rule,)).fingerprint == fingerprint:
                found[name] = rule
                break
    return found


def _candidates(name: str, now: Rule | None, types: Mapping[str, pa.DataType]) -> Iterator[Rule]:
    """The usual ways, those that are like the one of ``now`` first."""
    ways = [
        (function, column)
        for column, type in types.items()
        for function in FUNCTIONS
        if type in FUNCTIONS[function].takes
    ]
    like = [(rule.function, rule.column) for rule in [now] if rule]
    if now:
        yield now
    for function, column in dict.fromkeys([*like, *ways]):
        if column in types and types[column] in FUNCTIONS[function].takes:
            yield from (Rule(name, function, column, window, types[column]) for window in WINDOWS)
