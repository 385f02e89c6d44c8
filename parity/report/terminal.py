"""What a proof looks like on a terminal."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from parity.compare.sample import CONFIDENCE, bound
from parity.definition.checks import FeatureTable
from parity.definition.functions import NUMBERS
from parity.definition.instants import LAST_INSTANT, MICROSECOND
from parity.definition.table import Rule
from parity.edge.shown import counted, cut
from parity.materialization import EVER
from parity.proof.causes import MEANING, OF_STREAMS
from parity.proof.found import (
    MATCH,
    NOT_ASKED,
    Comparison,
    Difference,
    Edges,
    Values,
    duration,
)
from parity.proof.oracle import evaluate, is_inside, last_moment, slides_of
from parity.proof.proof import Proof
from parity.proof.raw import Purchase

PROMISED_MILLISECONDS = 10
LINES_SHOWN = 20


def first_keys(proofs: Sequence[Proof], numbers: Sequence[int]) -> str:
    """Show one key of each feature view, by its number: each feature on both sides, and what the transactions give."""
    return "\n".join(
        _one_key(_heading(proof, number, len(proofs) > 1), proof.table, proof.sides_of(number))
        for proof, number in zip(proofs, numbers, strict=True)
    )


def _one_key(name: str, table: FeatureTable, sides: dict[str, Values]) -> str:
    lines = [("", "training (Parquet)", "serving (Redis)", "difference", "oracle (transactions)")]
    for feature in table.features:
        unit = feature.tags.get("unit", "")
        [training], [serving], [oracle] = sides[feature.name]
        numbers = isinstance(training, int | float) and isinstance(serving, int | float)
        difference = str(training - serving) if numbers else "-"
        lines.append((feature.name, _shown(training, unit), _shown(serving, unit), difference, _shown(oracle, unit)))
    return "\n".join([name, *_aligned(lines)])


def _heading(proof: Proof, number: int, several: bool) -> str:
    name = proof.named(proof.key(number))
    return _of_view(proof, name, several) if "=" not in name.partition(" ")[0] or several else name


def _of_view(proof: Proof, text: str, several: bool) -> str:
    """A line about one of ``several`` views, or about the only one."""
    return f"{proof.table.title}: {text}" if several else f"{text[:1].upper()}{text[1:]}"


def every_view(comparisons: Sequence[Comparison], unseen: Sequence[str] = ()) -> str:
    """Show the counts of each comparison, what it did not see, each difference with its cause, and one verdict."""
    lines = []
    for found in comparisons:
        keys = f"{found.keys:,} {found.table.noun(found.keys)}"
        what = f"{keys}, {_features(found)}, at {found.at.isoformat()}"
        counts = ", ".join(f"{kind} {count:,}" for kind, count in found.counts.items())
        is_named = found.service or len(comparisons) > 1
        lines += [f"{found.title}: {what}" if is_named else what, f"  {counts}"]
        lines += [f"  {line}" for line in looked_at(found)]
        lines += differences(found)
    if unseen:
        lines.append(f"  {not_looked_at(unseen)}")
    return "\n".join([*lines, *_verdicts(comparisons), *_advice(comparisons)])


def _features(found: Comparison) -> str:
    """How many features were compared, and of how many, if a service gives some of a view."""
    given, every = len(found.features), len(found.table.definition.rules)
    return counted(given, "feature") if given == every else f"{given:,} of {counted(every, 'feature')}"


def _verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """One verdict for each service, where it is services that were compared, and one for all of them."""
    names = dict.fromkeys(found.service for found in comparisons if found.service)
    lines = [f"{name}: {verdict([found for found in comparisons if found.service == name])}" for name in names]
    return lines if len(names) == 1 else [*lines, verdict(comparisons)]


def _advice(comparisons: Sequence[Comparison]) -> list[str]:
    """What is meant by causes that are about a stream, and what to do."""
    causes = {cause for found in comparisons for cause in found.causes}
    return [f"  {cause}: {MEANING[cause]}" for cause in OF_STREAMS if cause in causes]


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Say in one line what all comparisons come to."""
    first, several = comparisons[0], len({found.view for found in comparisons}) > 1
    if any(found.differences for found in comparisons):
        return _skew(comparisons)
    until = f", up to {first.at.isoformat()}" if first.past else ""
    of = f" of {len({found.view for found in comparisons})} feature views" if several else ""
    of += _through(comparisons)
    one, many = ("key", "keys") if several else (first.table.noun(1), first.table.noun())
    drawn = list({found.view: found for found in comparisons if found.sample}.values())
    if not drawn:
        return f"Training equals serving equals the oracle: every value of every {one}{of}{until}."
    keys, every = (sum(sizes) for sizes in zip(*((f.sample.size, f.sample.of) for f in drawn), strict=True))
    share = max(bound(found.keys) for found in drawn)
    all_of = f"all {many}{' of a view' if several else ''}"
    rest = f"at most {100 * share:.2g} % of {all_of} differ, at {CONFIDENCE:.0%} confidence"
    return (
        f"Training equals serving equals the oracle: every value of {keys:,} {many} drawn from {every:,}{of}{until}; "
        f"{rest if share < 1 else 'so few say nothing of the others'}."
    )


def _through(comparisons: Sequence[Comparison]) -> str:
    """Say of which features a verdict is, where that is not those of the views."""
    services = {found.service for found in comparisons if found.service}
    if not services:
        return ""
    return f" that the service {services.pop()} gives" if len(services) == 1 else f" through {len(services)} services"


def _skew(comparisons: Sequence[Comparison]) -> str:
    skewed = [found for found in comparisons if found.differences]
    differing, listed = (
        sum(counts) for counts in zip(*((f.differing, len(f.differences)) for f in skewed), strict=True)
    )
    causes = sum((found.causes for found in skewed[1:]), skewed[0].causes)
    named = ", ".join(f"{cause} {count:,}" for cause, count in causes.most_common())
    keys = sum(found.keys_skewed for found in skewed)
    services = {found.service for found in comparisons if found.service}
    if len(services) > 1:
        of = f"{counted(keys, 'vector')} through {len({f.service for f in skewed})} of {len(services)} services"
    elif len(comparisons) > 1:
        of = f"{counted(keys, 'key')} in {len(skewed)} of {len(comparisons)} feature views"
    else:
        of = f"{keys:,} {skewed[0].table.noun(keys)}"
    some = f" of the {listed:,} listed" if listed < differing else ""
    return f"SKEW: {differing:,} values of {of}. Causes{some}: {named}."


def looked_at(found: Comparison) -> list[str]:
    """Say how much of the history was compared, how much was nothing, and what was not looked at."""
    history, noun = found.history, found.table.noun
    rows = f"history: {counted(history.rows, 'row')} of {history.keys:,} {noun(history.keys)}"
    if history.differing:
        counts = [f"{kind.removesuffix(' in history')} {count:,}" for kind, count in history.counts.items()]
        lines = [f"{rows}, {', '.join(counts)}"]
    else:
        lines = [f"{rows}, {counted(history.counts[MATCH], 'value')} equal to the oracle"]
    if found.redefined:
        lines.append(
            "definition: the table was computed by another one than features.py has now; "
            "run compute_features.py, then materialize_to_online.py"
        )
    if history.later and found.past:
        lines.append(f"not looked at: {counted(history.later, 'row')} of the history from after that instant")
    elif history.later:
        later = "to come" if found.edges else "later"
        rows = counted(history.later, "row")
        lines.append(f"{later}: {rows} of the history from after that instant, compared as well")
    lines += [_edges(found.edges)] if found.edges else []
    if found.nulls:
        lines.append(f"no value on any side: {found.nulls:,} of {found.values:,} ({_why_null(found)})")
    if found.left_over:
        lines.append(
            f"left over: {counted(found.left_over, 'row')} in Redis of {noun()} without history, last updated more "
            f"than {duration(found.ttl)} ago, so never served; a full materialization takes out what is left over"
        )
    return lines


def _edges(edges: Edges) -> str:
    """Say how much was compared at edges, and how to draw the same ones again."""
    if not edges.past and not edges.ahead:
        return f"edges: none was compared (drawn with --seed {edges.seed})"
    differing = f"{edges.differing:,} of " if edges.differing else ""
    values = f"{differing}{counted(edges.counts.total(), 'value')} {'differ' if differing else 'equal'}"
    return (
        f"edges: {edges.past:,} past and {edges.ahead:,} coming steps, at each and a microsecond before and after: "
        f"{values} (drawn with --seed {edges.seed})"
    )


def _why_null(found: Comparison) -> str:
    if found.expired:
        expired = f"{found.expired:,} {found.table.noun(found.expired)}"
        what = "purchase, or end of a window," if found.edges else "purchase"
        return f"expired: {expired}, whose last {what} is more than {duration(found.ttl)} ago"
    if found.edges:
        return "nothing is in the window, or no purchase was known by then"
    if any(rule.nullable for rule in found.table.rules):
        return "no purchase was known by then, or too few"
    return "no purchase was known by then"


def not_looked_at(unseen: Sequence[str]) -> str:
    return f"not looked at: the feature views {', '.join(map(cut, unseen))}"


def differences(found: Comparison) -> list[str]:
    """Name each difference: key, feature, the value on each side, kind and cause."""
    lines = [f"  {_difference(found, d)} ({d.kind}: {d.cause})" for d in found.differences]
    hidden = found.history.differing - found.history.listed
    others = found.others.count - len(found.others.examples)
    lines += [f"  ... and {counted(others, 'more key')} of another type in Redis"] if others else []
    return lines + ([f"  ... and {hidden:,} more values in history"] if hidden else [])


def _difference(found: Comparison, d: Difference) -> str:
    if d.instant and d.serving is not NOT_ASKED:
        return (
            f"{found.named(d.key)} at {d.instant.isoformat()}: {d.feature} is {_shown(d.training)} in training, "
            f"{_shown(d.serving)} in serving, {_shown(d.oracle)} by the oracle"
        )
    if d.instant:
        return (
            f"{found.named(d.key)} at {d.instant.isoformat()}: {d.feature} is {_shown(d.training)} in training, "
            f"{_shown(d.oracle)} by the oracle"
        )
    return (
        f"{found.named(d.key)}: {d.feature} is {_shown(d.training)} in training, {_shown(d.serving)} in serving, "
        f"{_shown(d.oracle)} by the oracle"
    )


def explanation(proof: Proof, number: int) -> str:
    """Show, for each feature of one key, which purchases its window takes in, and what they come to on each side; and
    how many transactions the condition leaves out."""
    table, at, sides = proof.table, proof.at, proof.sides_of(number)
    known = sorted((p for p in proof.purchases_of(number) if p.time <= at), key=lambda purchase: purchase.time)
    lines = [f"{_heading(proof, number, False)} at {at.isoformat()}"]
    if condition := table.definition.condition:
        left_out = counted(proof.left_out(number), "transaction")
        lines.append(f"  where {condition.text}, which leaves out {left_out}")
    if not known:
        return "\n".join([*lines, "  has bought nothing by then", *_values(table, sides)])
    event, slides = known[-1].time, slides_of(table.definition)
    age = at - last_moment(known, at, slides)
    lines.append(f"  last purchase {event.isoformat()}, {at - event} ago{_against(table.view.ttl, age, bool(slides))}")
    event = at if slides else event
    for rule in table.rules:
        window = rule.time_window
        inside = [purchase for purchase in known if is_inside(rule, purchase, event)]
        start = event - window if window is not None and event - EVER >= window else known[0].time
        lines.append(f"{rule.name}: {rule.function} of {rule.column} in [{start}, {event}]")
        lines += _purchases("outside", rule.column, known[: len(known) - len(inside)])
        lines += _purchases("inside", rule.column, inside)
        lines.append(f"  {_parts(rule, inside)}: {rule.function} {_shown(evaluate(rule, inside, event))}")
    lines += _to_come(table, known, at) if slides else []
    return "\n".join([*lines, *_values(table, sides)])


def _to_come(table: FeatureTable, known: Sequence[Purchase], at: datetime) -> list[str]:
    """When the next purchases leave which windows, and what the values are then, unless there is another purchase."""
    steps = []
    for rule in table.rules:
        inside = [] if rule.time_window is None else [p for p in known if is_inside(rule, p, at)]
        for bought in sorted({purchase.time for purchase in inside}):
            if LAST_INSTANT - bought > rule.time_window:
                steps.append((bought + rule.time_window + MICROSECOND, rule, bought))
    steps.sort(key=lambda step: step[0])
    if not steps:
        return ["nothing is in a window that slides, so no value changes until the next purchase"]
    lines = [("instant", "feature", "value", "what has left")]
    for instant, rule, bought in steps[:LINES_SHOWN]:
        some = [p for p in known if p.time == bought]
        left = f"{cut(str(some[0].values[rule.column]))} of" if len(some) == 1 else f"{len(some):,} purchases of"
        value = _shown(evaluate(rule, known, instant))
        lines.append((instant.isoformat(), rule.name, value, f"{left} {bought.isoformat()}"))
    hidden = [f"  ... and {len(steps) - LINES_SHOWN:,} later ones"] if len(steps) > LINES_SHOWN else []
    return ["what comes, unless there is another purchase:", *_aligned(lines), *hidden]


def _parts(rule: Rule, inside: Sequence[Purchase]) -> str:
    """What a result is made of."""
    count = f"count {len(inside):,}"
    if rule.column_type not in NUMBERS or not inside:
        return count
    numbers = [_exact(rule, purchase) for purchase in inside]
    if rule.function in ("var", "std"):
        return f"mean {_decimal(sum(numbers) / len(numbers))}, {count}"
    return f"sum {_decimal(sum(numbers))}, {count}"


def _exact(rule: Rule, purchase: Purchase) -> Fraction:
    value = purchase.values[rule.column]
    return Fraction(repr(float(value))) if rule.column_type == pa.float64() else Fraction(value)


def latencies(proofs: Sequence[Proof], milliseconds: Sequence[np.ndarray]) -> str:
    """Show how long online reads of one key of each view took, against the promise."""
    return "\n".join(
        _of_view(proof, _latency(proof.table.noun(1), times), len(proofs) > 1)
        for proof, times in zip(proofs, milliseconds, strict=True)
    )


def _latency(noun: str, milliseconds: np.ndarray) -> str:
    p50, p99 = np.percentile(milliseconds, [50, 99])
    kept = "kept" if p99 < PROMISED_MILLISECONDS else "NOT kept"
    return (
        f"online read of one {noun}, {len(milliseconds):,} calls: p50 {p50:.2f} ms, p99 {p99:.2f} ms "
        f"(promise: under {PROMISED_MILLISECONDS} ms, {kept})"
    )


def _purchases(where: str, column: str, purchases: Sequence[Purchase]) -> list[str]:
    hidden = [f"  {where:7}  ... {len(purchases) - LINES_SHOWN:,} earlier ones"] if len(purchases) > LINES_SHOWN else []
    last = purchases[-LINES_SHOWN:]
    return hidden + [f"  {where:7}  {p.time.isoformat()}  {cut(str(p.values[column])):>12}" for p in last]


def _values(table: FeatureTable, sides: dict[str, Values]) -> list[str]:
    lines = [("", "oracle (transactions)", "training (Parquet)", "serving (Redis)")]
    for name in (feature.name for feature in table.features):
        [training], [serving], [oracle] = sides[name]
        lines.append((name, *map(_shown, (oracle, training, serving))))
    return _aligned(lines)


def _against(ttl: timedelta | None, age: timedelta, slides: bool = False) -> str:
    if not ttl:
        return ", and values live for ever"
    changed = f"; the last change, {age} ago, is " if slides else ", "
    return f"{changed}{'within' if age <= ttl else 'beyond'} the ttl of {duration(ttl)}"


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
