"""Values written for people: printable, and no longer than one reads."""

from typing import Any

LONGEST_SHOWN, LONGEST_TEXT = 200, 500
"""Characters of a value that are shown, and of a text with its name and size; of longer ones the size is said."""


def shown(value: Any) -> str:
    """Write a value for people, whatever it is: printable, and of `LONGEST_SHOWN` characters or little more."""
    if isinstance(value, str | bytes):
        size, unit = len(value), "characters" if isinstance(value, str) else "bytes"
        return repr(value) if size <= LONGEST_SHOWN else f"{value[: LONGEST_SHOWN // 4]!r}... ({size:,} {unit})"
    return cut(str(value))


def cut(text: str) -> str:
    """The same text, printable, as it may try to steer the terminal; of a long one, its beginning and size."""
    size, text = len(text), text if len(text) <= LONGEST_TEXT else text[:LONGEST_SHOWN]
    text = text if text.isprintable() else repr(text)
    return text if size <= LONGEST_TEXT else f"{text}... ({size:,} characters)"


def counted(number: int, noun: str, verb: str = "", verbs: str = "") -> str:
    """A number of things; with what they do, if it is one and if it is several."""
    said = f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
    return f"{said} {verb if number == 1 else verbs}" if verb else said
