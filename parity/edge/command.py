"""The edge to the person at the terminal: one line for an error, an exit status for a verdict.

Every script begins with ``start()``, ahead of its slow imports, and ends in ``run(main)``. Status 0 is success, 1 is
skew and nothing else, 2 is "this could not be done". A signal gives 128 and its number: 130 is Ctrl-C.
"""

import argparse
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn

from parity.edge.errors import UserError, bucket_trouble, printable
from parity.edge.missing import missing
from parity.edge.signals import Watch, end_at_once, ending_in_order

TRACEBACK_OPTION, TRACEBACK_VARIABLE = "--traceback", "FEATURE_STORE_TRACEBACK"
LONGEST_REASON = 500
USUAL_REPOSITORY = "feature_repo"
"""The folder that messages speak of, and that scripts work on, where nothing else is said."""


def start() -> None:
    """Take over what happens if the script is interrupted or fails before it runs, while it imports."""
    end_at_once()
    _reopen_closed_streams()
    sys.excepthook = _exit_from_import


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's ``main`` and exit: with its status, or with 2 and one line on stderr for any exception."""
    _reopen_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    with ending_in_order() as watch:
        try:
            status = _flush(_status(main, watch))
        except KeyboardInterrupt:
            status = 130
    sys.exit(watch.status or status)


def _status(main: Callable[[], int | None], watch: Watch) -> int:
    try:
        return main() or 0
    except _Parsed as stop:
        return stop.code
    except BrokenPipeError:
        return 141
    except (Exception, SystemExit) as error:
        return 2 if watch.received else fail(error)


class _Parsed(SystemExit):
    """The command line has been answered: by the help, or by what is wrong with it."""


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if message:
            _complain(message)
        raise _Parsed(status)

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def argument_parser(doc: str, repository: Path | None = None) -> argparse.ArgumentParser:
    """Make the parser of a script's command line, described by its docstring, with what every script takes.

    One that works on a Feast repository takes another than the ``repository`` by ``-c``, as the `feast` command does,
    and has it as ``args.repository``; what an error says to run next is then of that one, as of a ``repository`` that
    is another by itself.
    """
    parser = _Parser(description=doc.splitlines()[0])
    _Chosen.named = shlex.quote(shown(repository)) if repository and repository.name != USUAL_REPOSITORY else None
    if repository:
        of = f"the folder of features.py and feature_store.yaml (default: {repository.name})"
        names = "-c", "--chdir"
        parser.add_argument(
            *names, dest="repository", type=Path, action=_Chosen, default=repository, metavar="REPO", help=of
        )
    parser.add_argument(TRACEBACK_OPTION, action="store_true", help="if something fails, print the whole traceback")
    return parser


class _Chosen(argparse.Action):
    """Take the repository, and note how it was named."""

    named: ClassVar[str | None] = None

    def __call__(self, parser, namespace, value: Path, option=None) -> None:
        if not value.is_dir():
            parser.error(f"argument -c/--chdir: {str(value)!r} is not a folder")
        _Chosen.named = shlex.quote(str(value))
        setattr(namespace, self.dest, value.resolve())


def of_chosen(message: str) -> str:
    """What a ``message`` says to run, for the repository that was chosen."""
    if not _Chosen.named:
        return message
    message = message.replace(f"cd {USUAL_REPOSITORY} && feast apply", f"cd {_Chosen.named} && feast apply")
    return re.sub(
        r"\bRun: python (?:\w+\.py|-m parity \w+)\b", lambda command: f"{command[0]} -c {_Chosen.named}", message
    )


def fail(error: BaseException) -> int:
    """Print one line about ``error`` on stderr, after its traceback if that is asked for, and return exit status 2."""
    _complain(f"{traced(error)}error: {printable(' '.join(of_chosen(explained(error)).split()))}\n")
    return 2


def traced(error: BaseException) -> str:
    """The whole traceback, if it is asked for."""
    asked = TRACEBACK_OPTION in sys.argv[1:] or os.environ.get(TRACEBACK_VARIABLE)
    return "".join(traceback.format_exception(error)) if asked else ""


def _complain(text: str) -> None:
    """Write ``text`` on stderr, if anybody can take it there: the exit status says what matters."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def explained(error: BaseException) -> str:
    """What is wrong, in words for people."""
    if not_installed := missing(error):
        return not_installed
    match error:
        case UserError():
            return str(error)
        case UnicodeEncodeError():
            return f"the name {error.object!r} holds bytes that are no text. Rename the file."
        case RuntimeError() if "Symlink loop" in str(error):
            return f"{error}. Name another file."
        case MemoryError():
            return "there is not enough memory for this much data."
        case OSError():
            return bucket_trouble(error) or f"{error.filename or 'input/output'}: {error.strerror or error}"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    reason = f"{type(error).__name__}: {_text(error):.{LONGEST_REASON}}"
    return f"unexpected {reason}{where}. For the whole of it: {TRACEBACK_OPTION}, or {TRACEBACK_VARIABLE}=1"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # of an exception that can't be shown
        return "of which nothing can be shown"


def _exit_from_import(_type: type, error: BaseException, _traceback: TracebackType | None) -> NoReturn:
    raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else fail(error))


def _reopen_closed_streams() -> None:
    """Let a stream that was closed (``2>&-``) lead nowhere; else the next file to be opened would get its output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _flush(status: int) -> int:
    """Print what is left; if nobody can take it, as after `| head` or on a full disk, say so by the exit status."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141 if isinstance(error, BrokenPipeError) else fail(error)
    return status


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


def share(text: str) -> float:
    """Read a share, more than nothing and less than all, for argparse."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


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
