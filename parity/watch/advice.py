"""What to do about what was found: a line for each kind of it, with the command that does it."""

from __future__ import annotations

import re
from datetime import date

from parity.definition.expectations import Expectation
from parity.edge.command import of_chosen
from parity.proof import causes
from parity.proof.found import Difference

COMPUTE = "python compute_features.py"
MATERIALIZE = "python materialize_to_online.py"
PROVE = "python demo_fixed.py"

MENDED = f"Once the transactions are right, bring that to the features. Run: {COMPUTE} && {MATERIALIZE}"
FEATURES = f"Such features can't come of their definition, so compute them anew. Run: {COMPUTE} && {MATERIALIZE}"
UNREADABLE = "Have whoever writes the file write it again as it is declared."

_KINDS = {
    "expect_column_values_to_not_be_null": (
        "{column} missing",
        "Ask whoever writes the transactions for the {column} that is missing.",
    ),
    "expect_column_values_to_be_between": (
        "{column} out of range",
        "Look at {column} in those rows: another unit (cents), another sign (refunds), or a wrong clock?",
    ),
    "expect_column_values_to_not_be_in_set": (
        "{column} has values that it must not have",
        "Ask whoever writes the transactions what those values of {column} stand for: often for none.",
    ),
    "expect_compound_columns_to_be_unique": (
        "rows twice",
        "See whether a file was delivered twice, and take one of the two away.",
    ),
    "expect_column_max_to_be_between": (
        "{column} ends too early, or too late",
        "See whether deliveries have stopped, and when the last one came.",
    ),
    "expect_table_row_count_to_be_between": (
        "more or fewer rows than usual",
        "See whether a delivery of that day failed, came in part, twice, or late, and get the rest of it.",
    ),
    "expect_column_unique_value_count_to_be_between": (
        "more or fewer different values of {column} than usual",
        "See whether a part of the shop is missing from that day's delivery.",
    ),
}
_OTHER = ("{type} fails", "Look at what is named, and ask whoever writes it.")


def short(one: Expectation) -> str:
    """What it is that fails, in some words."""
    return _KINDS.get(one.type, _OTHER)[0].format(column=_column(one), type=one.type)


def of_expectation(one: Expectation) -> str:
    return _KINDS.get(one.type, _OTHER)[1].format(column=_column(one), type=one.type)


def _column(one: Expectation) -> str:
    return " and ".join(name.removeprefix(":") for name in one.columns) or "a column"


def of_moved_data(source: str, feature: str, since: date, bad: date | None) -> tuple[str, ...]:
    """Of a drift that the oracle agrees with, with the first day of ``bad`` data that lies in the days compared."""
    lines = [
        f"Ask whoever owns {source} what changed around {since}: prices, a unit, a campaign, other users. If it lasts, "
        f"train what reads {feature} again with days since then; if it is a mistake, have the transactions corrected."
    ]
    if bad is not None:
        lines.insert(0, f"First see to the bad data of {bad}, which is among the days compared and may be all of it.")
    return tuple(lines)


def of_pipeline_drift(feature: str) -> tuple[str, ...]:
    return (
        f"Don't train on {feature}: what is stored is not what the transactions give. "
        f"Compute, serve and prove it anew. Run: {COMPUTE} && {MATERIALIZE} && {PROVE}",
    )


def of_cause(example: Difference) -> str:
    """Of values on which the sides of the proof disagree, for one cause."""
    if example.cause in causes.OF_STREAMS:
        meaning = causes.MEANING[example.cause]
        return f"{meaning[:1].upper()}{meaning[1:]}."
    if not causes.same(example.training, example.oracle):
        return (
            "The stored features are wrong, so training is too. Compute, serve and prove them anew. "
            f"Run: {COMPUTE} && {MATERIALIZE} && {PROVE}"
        )
    if example.cause == causes.TAMPERED:
        return f"Find out who else writes to Redis, change its password, and put it right. Run: {PROVE} --repair"
    return f"Only what is served is wrong. Serve and prove it anew. Run: {MATERIALIZE} && {PROVE}"


def for_repository(text: str) -> str:
    """Advice with the repository that was chosen in its commands."""
    return re.sub(r"\bpython \w+\.py\b", lambda found: of_chosen(f"Run: {found[0]}").removeprefix("Run: "), text)
