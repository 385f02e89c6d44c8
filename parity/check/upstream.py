"""Errors that are Feast's own, told by their text: what to do about them, and the issue upstream."""

from __future__ import annotations

import re

from parity.compare.kinds import UPSTREAM
from parity.compare.subjects import Subject

LOST_NAME = re.compile(r"NameError: name '(\w+)' is not defined")


def known_fault(error: str, subject: Subject) -> str:
    """What to do about an error, in a sentence to follow it; "" for one that is not Feast's."""
    lost = LOST_NAME.search(error) if subject.is_on_demand else None
    if not lost:
        return ""
    return (
        f". Import or define {lost[1]} within the function: this Feast takes nothing but the text of the function from "
        f"the registry ({UPSTREAM}6815)"
    )
