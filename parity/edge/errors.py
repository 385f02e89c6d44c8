"""Errors for people: what is wrong, where, and what to do next, in one line."""

import re

from parity.edge.missing import missing

_SECRET = re.compile(r"(://[^\s:/@]*:|(?:password|secret|token|pwd)[\"']?\s*[=:]\s*)[^\s@,;)]+", re.IGNORECASE)
"""What stands in front of a secret, and the secret."""


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do next, in one line."""


def printable(text: str) -> str:
    """The same text with an escape for whatever could act on a terminal or hide there, such as a control character."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def of_error(error: BaseException) -> str:
    """An error of Feast, or of what is beneath it, in a line, without the passwords that it may quote."""
    if not_installed := missing(error):
        return not_installed
    text = _SECRET.sub(r"\1***", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text:.300}" if text else type(error).__name__


def bucket_trouble(error: Exception) -> str | None:
    """Say for people what S3 answered, or that nobody did; None for an error of another kind."""
    found = re.search(r"bucket '([^']*)'.*?AWS Error (\w+) during \w+ operation: (.*)", str(error), re.DOTALL)
    if not found:
        return None
    bucket, kind, reason = found.groups()
    reason = re.sub(r" \(Request ID: .*|^curlCode: .*Details: ", "", reason).rstrip(". ")
    return f"bucket {bucket}: {kind}: {reason}. Check its name, AWS_ENDPOINT_URL, AWS_REGION and the credentials."
