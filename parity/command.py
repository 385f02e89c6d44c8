"""The edge to the person at the terminal: one line for an error, an exit status for a verdict.

Every script ends in ``run(main)``. Status 0 is success, 1 is skew, 2 is "this could not be done", 130 is Ctrl-C.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do next, in one line."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit: with its status, or with 2 and one line on stderr for a `UserError`."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end: what is temporary is taken away
    try:
        status = main()
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        status = fail(str(error))
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except UnicodeEncodeError as error:
        status = fail(f"the name {error.object!r} holds bytes that are no text. Rename the file.")
    except RuntimeError as error:
        if "Symlink loop" not in str(error):
            raise
        status = fail(f"{error}. Name another file.")
    except MemoryError:
        status = fail("there is not enough memory for this much data.")
    except OSError as error:
        status = fail(bucket_trouble(error) or f"{error.filename or 'input/output'}: {error.strerror or error}")
    sys.exit(status)


def fail(message: str) -> int:
    """Print ``message`` as one line on stderr and return exit status 2."""
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def printable(text: str) -> str:
    """The same text with an escape for whatever could act on a terminal or hide there, such as a control character."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def bucket_trouble(error: Exception) -> str | None:
    """Say for people what S3 answered, or that nobody did; None for an error of another kind."""
    told = re.search(r"bucket '([^']*)'.*?AWS Error (\w+) during \w+ operation: (.*)", str(error), re.DOTALL)
    if not told:
        return None
    bucket, kind, reason = told.groups()
    reason = re.sub(r" \(Request ID: .*|^curlCode: .*Details: ", "", reason).rstrip(". ")
    return f"bucket {bucket}: {kind}: {reason}. Check its name, AWS_ENDPOINT_URL, AWS_REGION and the credentials."


def utc_now() -> datetime:
    """The present instant. Scripts call it once, at the edge, and pass it on."""
    return datetime.now(UTC)


def instant(text: str) -> datetime:
    """Read an ISO 8601 date and time for argparse; one without an offset is UTC."""
    value = datetime.fromisoformat(text)
    try:
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value).astimezone(UTC)
    except OverflowError:  # in UTC it falls outside the years 1 to 9999
        raise ValueError from None


def whole_number(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Make a reader of whole numbers from ``least`` to ``most`` for argparse."""

    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    read.__name__ = "whole number"  # argparse names it in its error
    return read


def file_named(suffix: str) -> Callable[[str], Path]:
    """Make a reader of file names with this suffix for argparse: an output can't fall on a file of another kind."""

    def read(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        return path

    return read


def shown(path: Path | str) -> str:
    """Write a path as the user would: from the working directory, if it lies below. A URI is what it is."""
    if isinstance(path, str):
        return printable(path)
    path = path.resolve()
    return printable(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
