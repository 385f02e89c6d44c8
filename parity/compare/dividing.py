"""A side that fails for some keys, asked for the others: in parts, divided down to the keys that are to blame."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from parity.compare.answers import Answers
from parity.compare.subjects import Subject
from parity.edge.errors import of_error

SECONDS_OF_DIVIDING = 20
SMALLEST_DIVIDED = 64
"""How many keys that fail are asked one by one, at most: more are divided, and those of a part fail together."""


def in_parts(
    subject: Subject, number: int, size: int, ask: Callable[[Sequence[int]], Answers], is_divided: bool = True
) -> Answers:
    """Ask for the keys at places up to ``number``, ``size`` at once, each part `divided`, or its error passed on.

    Raises `Failed` if every key of every part fails, and at once if nobody answers.
    """
    whole = Answers({column.name: [] for column in subject.columns}, {column.name: [] for column in subject.columns})
    seconds, why = SECONDS_OF_DIVIDING, ""
    for start in range(0, number, size):
        places, began = range(start, min(start + size, number)), time.monotonic()
        try:
            part = divided(places, ask, seconds) if is_divided else ask(places)
        except Unreachable:
            raise
        except Failed as error:
            why, none = str(error), {column.name: [None] * len(places) for column in subject.columns}
            part = Answers(none, none, failed=dict.fromkeys(range(len(places)), why))
        else:
            whole.missing = part.missing
        if part.failed:
            seconds = max(0, seconds - (time.monotonic() - began))
        whole.failed |= {start + place: error for place, error in part.failed.items()}
        for target, given in ((whole.values, part.values), (whole.events, part.events)):
            for name, values in given.items():
                target[name] += values
    if number and len(whole.failed) == number:
        raise Failed(why)
    return whole


def divided(
    places: Sequence[int],
    ask: Callable[[Sequence[int]], Answers],
    seconds: float = SECONDS_OF_DIVIDING,
    hopeless: Callable[[], str | None] | None = None,
) -> Answers:
    """Ask for the keys at ``places`` at once; if that fails, for halves, down to the keys that are to blame, as long as
    there are ``seconds`` left.

    Raises `Failed` if every key is, at once if that is ``hopeless``, as it says.
    """
    number, first = len(places), places[0] if places else 0
    try:
        return ask(places)
    except Exception as error:
        if is_unreachable(error):
            raise Unreachable(of_error(error)) from None
        if hopeless and (why := hopeless()):
            raise Failed(why) from None
        parts = _parts(list(places), ask, error, [4 * SMALLEST_DIVIDED], time.monotonic() + seconds)
    failed = {place - first: answer for some, answer in parts if isinstance(answer, str) for place in some}
    if len(failed) == number:
        raise Failed(next(iter(failed.values())))
    whole = Answers({}, {}, np.zeros(number, bool), failed)
    for some, answer in parts:
        if isinstance(answer, str):
            continue
        whole.missing = answer.missing
        inside = [place - first for place in some]
        for target, given in ((whole.values, answer.values), (whole.events, answer.events)):
            for name, values in given.items():
                column = target.setdefault(name, [None] * number)
                for place, value in zip(inside, values, strict=True):
                    column[place] = value
        whole.there[inside] = True if answer.there is None else answer.there
    return whole


class Failed(Exception):
    """A side fails for every key, as the message says."""


class Unreachable(Failed):
    """Nobody answers."""


def is_unreachable(error: BaseException) -> bool:
    """Whether nobody answers, which no other keys change, and each attempt may take its time."""
    names = {type_.__name__ for type_ in type(error).__mro__}
    return isinstance(error, OSError) or any("Connection" in name or "Timeout" in name for name in names)


def _parts(places: list[int], ask: Callable, error: Exception, budget: list[int], deadline: float) -> list:
    """The answers of parts of ``places``, or the error of those that fail."""
    if len(places) == 1 or budget[0] <= 0 or time.monotonic() > deadline:
        return [(places, of_error(error))]
    found = []
    for part in (places[: len(places) // 2], places[len(places) // 2 :]):
        budget[0] -= 1
        try:
            found.append((part, ask(part)))
        except Exception as another:
            found += _parts(part, ask, another, budget, deadline)
    return found
