"""What a check looks like on a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from parity.check.causes import is_same_event
from parity.check.found import NOT_ASKED, Compared, Example, Finding, Ties
from parity.check.verdict import Status, Verdict
from parity.compare.kinds import NOTHING, OR_CREATED, UNCHECKED
from parity.compare.sample import bound
from parity.edge.errors import printable
from parity.edge.shown import counted

LONGEST = 80
"""Characters of a value that are shown."""
FEATURES = 6
"""Features of a finding that are named."""


def heading(project: str, repository: str, stores: str, version: str) -> str:
    return f"{project} in {repository}: {stores}, Feast {version}. The definitions are those that were applied."


def line(one: Compared) -> str:
    """A subject in one line, as soon as it is compared."""
    if one.error is not None:
        return f"{one.name}: could not be compared: {one.error}"
    if not one.keys:
        return f"{one.name}: nothing is proven, as there are no keys, offline or online"
    of = f" of {one.of:,}, drawn at random by --seed {one.sample.seed}" if one.sample else ""
    parts = [f"{one.name}: {counted(one.keys, 'key')}{of}, {counted(one.values, 'value')}"]
    if one.is_vacuous:
        return f"{parts[0]}: nothing is proven: {why_null(one)}"
    parts.append(f"{one.proven:,} equal")
    if one.differing:
        verb = "differs" if one.differing == 1 else "differ"
        places = f" ({counted(len(one.differing_places), 'key')})" if one.differing_places else ""
        parts.append(f"{one.differing:,} {verb}{places}")
    if one.nulls.values:
        parts.append(f"{one.nulls.values:,} null on both sides")
    return ", ".join(parts)


def why_null(one: Compared) -> str:
    """Why nothing but nulls was compared."""
    if not one.values:
        return "no value was compared"
    if one.findings:
        return f"of {counted(one.values, 'value')} none is equal, and all that differ are accepted"
    reasons = []
    if one.later:
        reasons.append(f"{counted(one.later, 'key', 'is', 'are')} served an event after --at")
    if one.nulls.expired:
        rows = "all rows" if one.nulls.expired == one.keys else f"the last rows of {counted(one.nulls.expired, 'key')}"
        reasons.append(f"{rows} are older than the ttl{f' of {span(one.ttl)}' if one.ttl else ''}")
    if one.nulls.absent:
        what = "nothing is" if one.nulls.absent == one.keys else f"{counted(one.nulls.absent, 'key', 'is', 'are')} not"
        reasons.append(f"{what} online")
    because = f", because {', and '.join(reasons)}" if reasons else ""
    all_of = "the one value is" if one.values == 1 else f"all {one.values:,} values are"
    return f"{all_of} null on both sides{because}"


def details(verdict: Verdict) -> Iterable[str]:
    """What differs, the gravest first; then what is to be known beside it."""
    said: dict[tuple, int] = {}
    for number, finding in enumerate(verdict.findings, 1):
        alike = said.setdefault((finding.kind.name, finding.beneath, finding.inherited), number)
        yield from _of_finding(number, finding, verdict, alike)
    noted: dict[str, list[str]] = {}
    for one in verdict.compared:
        for text in notes(one):
            noted.setdefault(text, []).append(one.name)
    yield from (f"{_named(names)}: {text}" for text, names in noted.items())
    for name, why in verdict.left.items():
        own = why.removeprefix(f"{name} ")
        yield f"not compared: {name}: {why if own == why else f'it {own}'}"
    if verdict.vacuous:
        yield f"to prove something of {_named([one.name for one in verdict.vacuous])}: {to_prove(verdict.vacuous)}"


def to_prove(vacuous: Sequence[Compared]) -> str:
    """What to do about subjects of which nothing is proven."""
    if not any(one.keys for one in vacuous):
        return "write rows to the sources, and materialize them"
    lasts = [one.last for one in vacuous if one.nulls.expired and one.last]
    if not lasts:
        return NOTHING.advice
    last = moment(max(lasts).replace(microsecond=0) + timedelta(seconds=1))
    if all(one.nulls.absent < one.keys for one in vacuous):
        return f"materialize recent rows, or compare as of the last ones with --at {last}"
    return (
        f"materialize recent rows, or compare as of the last ones with --at {last}, after a feast materialize over a "
        "span that has them (materialize-incremental goes back only as far as the ttl)"
    )


def _of_finding(number: int, finding: Finding, verdict: Verdict, alike: int) -> Iterable[str]:
    """The lines of a finding: but one if it means the same for another view as the one ``alike``, said before."""
    accepted = (
        ""
        if verdict.fails(finding.kind)
        else " (accepted)"
        if finding.kind.name in verdict.accepted
        else " (not failing)"
    )
    if alike != number:
        yield f"{number}. {finding.kind.name}{accepted}, like {alike}: {about(finding)}"
        return
    yield f"{number}. {finding.kind.name}{accepted}: {about(finding)}"
    yield f"   {meaning(finding)}"
    for example in finding.examples[:1]:
        yield f"   for example {shown_example(example)}"
    yield f"   Do: {advice(finding, verdict)}"
    if finding.link:
        yield f"   Feast: {finding.link}"


def about(finding: Finding) -> str:
    """How much a finding is, of what, and since when."""
    names = list(finding.features)
    since = f", since {moment(finding.since)}" if finding.since else ""
    return f"{counted(finding.keys, 'key')} of {finding.view}, in {_named(names)}{since}"


def meaning(finding: Finding) -> str:
    said = _filled(finding.kind.meaning, finding)
    if finding.inherited:
        return f"{finding.view} has it of its inputs: {said}"
    if finding.beneath:
        return f"hidden today by the age of these rows, and there without it: {said}"
    return said


def advice(finding: Finding, verdict: Verdict | None = None) -> str:
    if finding.inherited:
        return f"mend what {finding.view} is computed of"
    return _filled(finding.about.get("instead", finding.kind.advice), finding)


def _filled(text: str, finding: Finding) -> str:
    features = _named(list(finding.features))
    return text.format_map(defaultdict(str, finding.about, view=finding.view, features=features))


def shown_example(example: Example) -> str:
    key = ", ".join(f"{name}={short(value)}" for name, value in example.key.items()) or "the view without entities"
    if "an error" in (example.training, example.serving):
        return f"{key}: {printable(example.feature)}"
    is_other = example.trained and not (example.served and is_same_event(example.trained, example.served))
    trained = f" (of {moment(example.trained)})" if is_other else ""
    served = f" (of {moment(example.served)})" if example.served else ""
    if example.serving == NOT_ASKED:
        return f"{key}: {example.feature} is {short(example.training)}{trained} offline"
    return (
        f"{key}: {example.feature} is {short(example.training)}{trained} in training, "
        f"{short(example.serving)}{served} in serving"
    )


def notes(one: Compared) -> list[str]:
    """What is to be known of a subject beside its findings."""
    said = [*one.notes, *map(of_ties, one.ties)]
    if one.error is None and one.trouble:
        said.append(f"not compared: {one.trouble}")
    if one.latent:
        said.append(f"{counted(one.latent, 'key', 'has', 'have')} newer rows of equal values that are not online yet")
    if one.later:
        verbs = ("is served", "are served")
        said.append(f"{counted(one.later, 'key', *verbs)} an event after --at, and not compared")
    if one.retried:
        said.append(
            f"{counted(one.retried, 'key')} differed once and not when asked again: something was writing, or a store "
            "takes any row of a tie"
        )
    if one.forecast and one.forecast.week:
        said.append(
            f"{counted(one.forecast.day, 'key')} will expire in training only within a day, {one.forecast.week:,} "
            "within a week, unless rows come and are materialized"
        )
    if one.sample and not one.findings:
        said.append(f"with 95 % confidence at most {bound(one.sample.size):.3%} of all {one.of:,} keys differ")
    return said


def of_ties(ties: Ties) -> str:
    """A warning of the ties of a source: no difference, as long as both sides take the same row of each."""
    key = ", ".join(f"{name}={short(value)}" for name, value in ties.key.items()) or "the view without entities"
    values = " and ".join(dict.fromkeys(map(short, ties.values)))
    return (
        f"ties: {counted(ties.keys, 'key')} of {ties.view} {'has' if ties.keys == 1 else 'have'} rows of different "
        f"values at one event time, {ties.last:,} of them at their last: which row is taken is up to each store, the "
        f"same today or not. For example {key}: {ties.feature} is {values} at {short(ties.event)}. Do: keep one row "
        f"for each key and {ties.timestamp}{OR_CREATED if ties.is_left_open else ''}"
    )


def last_line(verdict: Verdict) -> str:
    """The verdict, in one line."""
    tolerated = _tolerated(verdict) + _ties(verdict)
    if verdict.status == Status.DIFFERS:
        named = ", ".join(dict.fromkeys(one.kind.name for one in verdict.failing))
        return (
            f"DIFFERS: {verdict.differing:,} of {counted(verdict.values, 'value')}: {named}."
            f"{_unproven(verdict)}{tolerated}"
        )
    if verdict.status == Status.PASSES:
        word = "EQUAL" if verdict.is_equal else "PASSES"
        return f"{word}: training equals serving in {counted(verdict.proven, 'value')}.{tolerated}"
    reasons = [f"{one.name}: {one.trouble}" for one in verdict.unchecked if UNCHECKED.name not in verdict.accepted]
    if NOTHING.name not in verdict.accepted:
        reasons += [
            f"{one.name}: {why_null(one) if one.keys else 'there are no keys, offline or online'}"
            for one in verdict.vacuous
        ]
    said = next(iter(reasons), "anything: nothing could be compared")
    if len(reasons) > 1:  # which are in the lines of the subjects
        said = _named([reason.partition(": ")[0] for reason in reasons])
    equal = f" The rest is equal: {counted(verdict.proven, 'value')}." if verdict.proven else ""
    return f"NOTHING IS PROVEN of {said.rstrip('.')}.{equal}{tolerated}"


def _unproven(verdict: Verdict) -> str:
    """What is not among the equal values of a verdict, though it is no difference either."""
    names = [one.name for one in (*verdict.unchecked, *verdict.vacuous)]
    return f" Nothing is proven of {_named(names)}." if names else ""


def _named(names: Sequence[str]) -> str:
    """Names, those of many shortened."""
    some, more = names[:FEATURES], len(names) - FEATURES
    return f"{', '.join(some)} and {more} more" if more > 0 else ", ".join(some)


def _tolerated(verdict: Verdict) -> str:
    some = verdict.tolerated
    if not some:
        return ""
    kinds: dict[str, dict[str, int]] = {}
    for one in some:
        views = kinds.setdefault(one.kind.name, {})
        views[one.view] = views.get(one.view, 0) + one.values
    named = ", ".join(f"{kind} {sum(views.values()):,}{_by_view(views)}" for kind, views in kinds.items())
    return f" Beside the verdict, as you asked: {named}."


def _by_view(views: Mapping[str, int]) -> str:
    """How many values are of which view, in brackets; nothing for one view."""
    return f" ({_named([f'{number:,} in {view}' for view, number in views.items()])})" if len(views) > 1 else ""


def _ties(verdict: Verdict) -> str:
    ties = {one.view: one.keys for compared in verdict.compared for one in compared.ties}
    named = ", ".join(f"{keys:,} in {view}" for view, keys in ties.items())
    return f" Keys with ties in the source: {named}." if named else ""


def short(value: Any) -> str:
    if isinstance(value, datetime):
        return moment(value)
    text = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def moment(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def span(length: timedelta) -> str:
    return str(length).removesuffix(", 0:00:00")
