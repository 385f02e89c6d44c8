"""What a proof looks like on a terminal."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from feast import FeatureView

from parity.definition.table import Rule
from parity.materialization import EVER
from parity.online.side import cut
from parity.proof.compare import CONFIDENCE, MATCH, Comparison, Difference, Sample, Values, bound, duration
from parity.proof.oracle import Purchase, evaluate

PROMISED_MILLISECONDS = 10
LINES_SHOWN = 20


def one_user(user: int, view: FeatureView, sides: dict[str, Values]) -> str:
    """Show each feature of one user on both sides, their difference, and what the transactions give."""
    lines = [("", "training (Parquet)", "serving (Redis)", "difference", "oracle (transactions)")]
    for feature in view.features:
        unit = feature.tags.get("unit", "")
        [training], [serving], [oracle] = sides[feature.name]
        numbers = isinstance(training, int | float) and isinstance(serving, int | float)
        difference = str(training - serving) if numbers else "-"
        lines.append((feature.name, _shown(training, unit), _shown(serving, unit), difference, _shown(oracle, unit)))
    return "\n".join([f"User {user}", *_aligned(lines)])


def every_user(found: Comparison, sample: Sample | None = None) -> str:
    """Show the counts of a comparison, what it did not see, each difference with its cause, and the verdict."""
    counts = ", ".join(f"{kind} {count:,}" for kind, count in found.counts.items())
    lines = [f"{found.users:,} users, {len(found.features)} features, at {found.at.isoformat()}", f"  {counts}"]
    lines += [f"  {line}" for line in looked_at(found)]
    lines += differences(found)
    if found.differences:
        causes = ", ".join(f"{cause} {count:,}" for cause, count in found.causes.most_common())
        skewed, listed = len(found.users_skewed), len(found.differences)
        of = f" of the {listed:,} listed" if listed < found.differing else ""
        lines.append(f"SKEW: {found.differing:,} values of {skewed:,} users. Causes{of}: {causes}.")
    elif sample:
        lines.append(
            f"Training equals serving equals the oracle: every value of {found.users:,} users drawn from "
            f"{sample.of:,}{_until(found)}; at most {bound(found.users):.2g} of all users differ, "
            f"at {CONFIDENCE:.0%} confidence."
        )
    else:
        lines.append(f"Training equals serving equals the oracle: every value of every user{_until(found)}.")
    return "\n".join(lines)


def _until(found: Comparison) -> str:
    return f", up to {found.at.isoformat()}" if found.past else ""


def looked_at(found: Comparison) -> list[str]:
    """Say how much of the history was compared, how much was nothing, and what was not looked at."""
    history = found.history
    rows = f"history: {_count(history.rows, 'row')} of {_count(history.users, 'user')}"
    if history.differing:
        counts = [f"{kind.removesuffix(' in history')} {count:,}" for kind, count in history.counts.items()]
        lines = [f"{rows}, {', '.join(counts)}"]
    else:
        lines = [f"{rows}, {_count(history.counts[MATCH], 'value')} equal to the oracle"]
    if history.later and found.past:
        lines.append(f"not looked at: {_count(history.later, 'row')} of the history from after that instant")
    elif history.later:
        lines.append(f"later: {_count(history.later, 'row')} of the history from after that instant, compared as well")
    if found.nulls:
        expired = (
            f"expired: {_count(found.expired, 'user')}, whose last purchase is more than {duration(found.ttl)} ago"
        )
        reason = expired if found.expired else "no purchase was known by then"
        lines.append(f"no value on any side: {found.nulls:,} of {found.values:,} ({reason})")
    if found.left_over:
        lines.append(
            f"left over: {_count(found.left_over, 'row')} in Redis of users without history, last updated more than "
            f"{duration(found.ttl)} ago, so never served; a full materialization takes out what is left over"
        )
    if found.unseen:
        lines.append(f"not looked at: the feature views {', '.join(map(cut, found.unseen))}")
    if found.others.count:
        lines.append(f"not looked at: {found.others}")
    return lines


def differences(found: Comparison) -> list[str]:
    """Name each difference: user, feature, the value on each side, kind and cause."""
    lines = [f"  {_difference(d)} ({d.kind}: {d.cause})" for d in found.differences]
    hidden = found.differing - len(found.differences)
    return lines + ([f"  ... and {hidden:,} more values in history"] if hidden else [])


def _difference(d: Difference) -> str:
    if d.instant:
        return (
            f"user {d.user} at {d.instant.isoformat()}: {d.feature} is {_shown(d.training)} in training, "
            f"{_shown(d.oracle)} by the oracle"
        )
    return (
        f"user {d.user}: {d.feature} is {_shown(d.training)} in training, {_shown(d.serving)} in serving, "
        f"{_shown(d.oracle)} by the oracle"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def explanation(
    user: int,
    view: FeatureView,
    aggregations: Sequence[Rule],
    purchases: Sequence[Purchase],
    sides: dict[str, Values],
    at: datetime,
) -> str:
    """Show, for each feature of one user, which purchases its window takes in, and what they come to on each side."""
    known = sorted((purchase for purchase in purchases if purchase.time <= at), key=lambda purchase: purchase.time)
    lines = [f"User {user} at {at.isoformat()}"]
    if not known:
        return "\n".join([*lines, "  has bought nothing by then", *_values(view, sides)])
    event = known[-1].time
    lines.append(f"  last purchase {event.isoformat()}, {at - event} ago, {_against(view.ttl, at - event)}")
    for aggregation in aggregations:
        window = aggregation.time_window
        inside = [purchase for purchase in known if window is None or event - purchase.time <= window]
        start = event - window if window is not None and event - EVER >= window else inside[0].time
        lines.append(f"{aggregation.name}: {aggregation.function} of {aggregation.column} in [{start}, {event}]")
        lines += _purchases("outside", aggregation.column, known[: len(known) - len(inside)])
        lines += _purchases("inside", aggregation.column, inside)
        total = sum(Fraction(repr(float(purchase.amounts[aggregation.column]))) for purchase in inside)
        lines.append(
            f"  sum {_decimal(total)}, count {len(inside):,}: {aggregation.function} "
            f"{evaluate(aggregation, inside, event)}"
        )
    return "\n".join([*lines, *_values(view, sides)])


def latency(milliseconds: np.ndarray) -> str:
    """Show how long online reads of one user took, against the promise."""
    p50, p99 = np.percentile(milliseconds, [50, 99])
    kept = "kept" if p99 < PROMISED_MILLISECONDS else "NOT kept"
    return (
        f"Online read of one user, {len(milliseconds):,} calls: p50 {p50:.2f} ms, p99 {p99:.2f} ms "
        f"(promise: under {PROMISED_MILLISECONDS} ms, {kept})"
    )


def _purchases(where: str, column: str, purchases: Sequence[Purchase]) -> list[str]:
    hidden = [f"  {where:7}  ... {len(purchases) - LINES_SHOWN:,} earlier ones"] if len(purchases) > LINES_SHOWN else []
    last = purchases[-LINES_SHOWN:]
    return hidden + [f"  {where:7}  {p.time.isoformat()}  {cut(p.amounts[column]):>12}" for p in last]


def _values(view: FeatureView, sides: dict[str, Values]) -> list[str]:
    lines = [("", "oracle (transactions)", "training (Parquet)", "serving (Redis)")]
    for name in (feature.name for feature in view.features):
        [training], [serving], [oracle] = sides[name]
        lines.append((name, *map(_shown, (oracle, training, serving))))
    return _aligned(lines)


def _against(ttl: timedelta | None, age: timedelta) -> str:
    if not ttl:
        return "and values live for ever"
    return f"{'within' if age <= ttl else 'beyond'} the ttl of {duration(ttl)}"


def _decimal(value: Fraction | int) -> str:
    return str(Decimal(value.numerator) / Decimal(value.denominator))


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip() for name, *cells in lines
    ]


def _shown(value: Any, unit: str = "") -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "null" if value is None else cut(f"{unit}{value}")
