"""The online side that matters: what a deployed feature server answers over HTTP."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from feast import FeatureService

from parity.compare.answers import Answers
from parity.compare.dividing import in_parts
from parity.compare.equal import plain
from parity.compare.requested import Asked
from parity.compare.subjects import Column, Subject
from parity.edge.errors import UserError

KEYS_PER_REQUEST = 500
SECONDS = 60
LONGEST_ANSWER = 1 << 28
"""Bytes."""


class Server:
    """A feature server, asked as a model server asks it."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None):
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--url {url}: it has to begin with http:// or https://, as in http://localhost:6566")
        self._url, self._headers = url.rstrip("/"), dict(headers or {})

    def require(self) -> None:
        """Raise a `UserError` if nobody answers."""
        try:
            self._open("/health", None)
        except urllib.error.HTTPError:
            return  # it is there, and knows no such path
        except OSError as error:
            raise UserError(f"the feature server {self._url} does not answer: {error}. Run: feast serve") from None

    def ask(self, subject: Subject, asked: Asked) -> Answers:
        rows = asked.rows()
        return in_parts(subject, len(asked), KEYS_PER_REQUEST, lambda places: self._ask(subject, rows, places))

    def _ask(self, subject: Subject, rows: Mapping[str, list], places: Sequence[int]) -> Answers:
        what = (
            {"feature_service": subject.request.name}
            if isinstance(subject.request, FeatureService)
            else {"features": list(subject.request)}
        )
        entities = {name: [_as_json(values[place]) for place in places] for name, values in rows.items()}
        answer = self._open("/get-online-features", what | {"entities": entities, "full_feature_names": subject.full})
        names = answer["metadata"]["feature_names"]
        names = names["val"] if isinstance(names, dict) else names
        given = dict(zip(names, answer["results"], strict=True))
        values, events, missing = {}, {}, []
        for column in subject.columns:
            one = given.get(column.name)
            if one is None:
                missing.append(column.name)
                values[column.name] = events[column.name] = [None] * len(places)
                continue
            some = [_as_declared(value, column) for value in one["values"]]
            values[column.name] = some * len(places) if len(some) == 1 else some
            stamps = [_stamp(text) for text in one.get("event_timestamps") or [None] * len(some)]
            events[column.name] = stamps * len(places) if len(stamps) == 1 else stamps
        return Answers(values, events, missing=missing)

    def _open(self, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self._headers}
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                text = answer.read(LONGEST_ANSWER)
        except urllib.error.HTTPError as error:
            if body is None:
                raise
            raise RuntimeError(f"HTTP {error.code}: {_detail(error)}") from None
        return json.loads(text) if body is not None else None


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read(2000).decode("utf-8", "replace")
    try:
        return str(json.loads(text).get("detail", text))
    except (ValueError, AttributeError):
        return text


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _as_declared(value: Any, column: Column) -> Any:
    """What JSON has no types for, as the declared type has it."""
    if isinstance(value, list):
        return [_as_declared(one, column) for one in value]
    if value is None:
        return None
    if "UnixTimestamp" in column.type and isinstance(value, int):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return value  # the least whole number is sent for a missing instant
    if "UnixTimestamp" in column.type and isinstance(value, str):
        try:
            return plain(datetime.fromisoformat(value))
        except ValueError:
            return value
    if "Bytes" in column.type and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            return value
    if "Decimal" in column.type and isinstance(value, str):
        try:
            return Decimal(value)
        except InvalidOperation:
            return value
    if "Float" in column.type and isinstance(value, str):  # "NaN", "Infinity"
        try:
            return plain(float(value))
        except ValueError:
            return value
    return plain(value)


def _stamp(text: str | None) -> int | None:
    if not text:
        return None
    instant = plain(datetime.fromisoformat(text))
    return round((instant - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
