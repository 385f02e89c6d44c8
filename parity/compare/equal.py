"""Whether two values are equal, by the declared type of their feature; and by what known way they differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from parity.compare.kinds import COERCION, FLOAT32, JSON, NULL, TYPE, Kind
from parity.edge.shown import shown

QUARTER = timedelta(minutes=15)
FARTHEST_ZONES = timedelta(hours=26)
NO_INSTANT = -(2**63)
"""What Feast stores for a missing instant, and its server sends over HTTP."""
MAY_BE_EMPTY = {int, float, Decimal, str, bool, list, dict, bytes}
"""The types whose empty value, or zero, stands for a null where there is none."""

OBJECTS = ("Json", "Map", "ScalarMap", "Struct")
"""What the names of the types of objects begin with."""


class Coerced(NamedTuple):
    """A value that is stored as another type than its feature's: equal to nothing that is of the right one."""

    value: Any
    kind: str

    def __str__(self) -> str:
        return f"{shown(self.value)} as {self.kind}"


def plain(value: Any) -> Any:
    """A value without what its library added: null for NaN, instants in UTC, lists, objects without nulls."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray | list | tuple | set | frozenset):
        return [plain(one) for one in (sorted(value, key=repr) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, Mapping):
        return {str(name): kept for name, one in value.items() if (kept := plain(one)) is not None}
    if isinstance(value, datetime):
        if value != value:  # NaT
            return None
        instant = value
        if hasattr(value, "to_pydatetime") and not value.nanosecond:  # which Python's own instants have not
            instant = value.to_pydatetime(warn=False)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    return value


def same(a: Any, b: Any) -> bool:
    """Equality of values: of type and value, null equal to null, and 0.0 not equal to -0.0, which is other bits."""
    if type(a) is not type(b) or a != b:
        return False
    return not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b)


def apart(training: list, serving: list, declared: str) -> list[int]:
    """The places at which two columns of values that are `plain` have not the very same: `difference` says of each how
    they differ, or that they are equal all the same."""
    pairs = enumerate(zip(training, serving, strict=True))
    if "(" in declared or declared.startswith(OBJECTS):  # within these, True is 1 and 0.0 is -0.0 to Python
        return [i for i, (a, b) in pairs if a is not b and (a != b or repr(a) != repr(b))]
    if declared.startswith("Float"):
        return [i for i, (a, b) in pairs if a != b or type(a) is not type(b) or (a == 0 and not _is_same_zero(a, b))]
    return [i for i, (a, b) in pairs if a != b or type(a) is not type(b)]


def difference(training: Any, serving: Any, declared: str) -> Kind | str | None:
    """How two values differ that are `plain`: not at all, None; in a kind that the values show; or "", in another way.

    ``declared`` is the type of the feature, as `str` of a type of Feast.
    """
    if training is None or serving is None:
        if training is serving:
            return None
        other = serving if training is None else training
        if declared == "Json" and isinstance(other, str) and _parsed(other) is None:
            return JSON
        return NULL if _is_empty(other) else ""
    if declared.startswith(OBJECTS):
        return _of_objects(training, serving)
    if declared.startswith("Set") and isinstance(training, list) and isinstance(serving, list):
        return _of_sets(training, serving, declared)
    if isinstance(training, list) and isinstance(serving, list):
        return _of_lists(training, serving, declared)
    return _of_scalars(training, serving, declared)


def _is_empty(value: Any) -> bool:
    return (type(value) in MAY_BE_EMPTY and not value) or (type(value) is int and value == NO_INSTANT)


def _of_scalars(training: Any, serving: Any, declared: str) -> Kind | str | None:
    numbers = _is_number(training), _is_number(serving)
    if all(numbers):
        return _of_numbers(training, serving, declared)
    if isinstance(training, datetime) and isinstance(serving, datetime):
        if training == serving:
            return None
        return COERCION if _moment(training) == _moment(serving) else ""  # cut to whole seconds
    if type(training) is type(serving) and training == serving:
        return None
    if declared == "UnixTimestamp" and (_is_midnight(training, serving) or _is_midnight(serving, training)):
        return None
    if type(training) is type(serving) and declared not in ("Uuid", "TimeUuid"):
        return ""
    if isinstance(training, bytes) and serving == str(training):
        return COERCION  # Python's way to write bytes, in a text field
    return TYPE if _is_same_text(training, serving, declared) else ""


def _is_midnight(day: Any, instant: Any) -> bool:
    """Whether an instant is the beginning, in UTC, of a day: Feast has no type of days, and writes them so."""
    if type(day) is not date or not isinstance(instant, datetime):
        return False
    return instant == datetime(day.year, day.month, day.day, tzinfo=UTC)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _of_numbers(training: Any, serving: Any, declared: str) -> Kind | str | None:
    if training == serving:
        return None if training or _is_same_zero(training, serving) else TYPE
    if isinstance(training, Decimal) or isinstance(serving, Decimal):
        return COERCION if float(training) == float(serving) else ""
    if "Float32" in declared and _is_float32(training) and _float32(serving) == _float32(training):
        return None  # HTTP writes no more digits of a 32-bit float than it takes
    if isinstance(training, int) and isinstance(serving, float) and "Float32" not in declared:
        return COERCION if float(training) == serving else ""  # beyond 2^53
    if _float32(training) == _float32(serving) and (
        _is_float32(serving) or _is_float32(training) or "Float32" in declared
    ):
        return COERCION if isinstance(serving, int) and isinstance(training, int) else FLOAT32
    if isinstance(serving, int) and isinstance(training, float) and math.isfinite(training):
        return COERCION if int(training) == serving or round(training) == serving else ""
    if isinstance(training, int) and float(training) == float(serving):
        return COERCION  # beyond 2^53
    return COERCION if _wraps(training, serving) else ""


def _is_same_zero(training: Any, serving: Any) -> bool:
    """Whether two zeros have the same sign, as far as they can have one."""
    both = isinstance(training, float) and isinstance(serving, float)
    return not both or math.copysign(1, training) == math.copysign(1, serving)


def _float32(value: Any) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _is_float32(value: Any) -> bool:
    return _float32(value) == value


def _wraps(training: Any, serving: Any) -> bool:
    """Whether a whole number lost its upper bits."""
    if not isinstance(training, int) or not isinstance(serving, int):
        return False
    return abs(training) >= 2**31 and (training - serving) % 2**32 == 0


def _of_lists(training: list, serving: list, declared: str) -> Kind | str | None:
    """Element by element; the gravest way in which one differs."""
    if len(training) != len(serving):
        return ""
    inner = _of_elements(declared)
    kinds = [difference(one, other, inner) for one, other in zip(training, serving, strict=True)]
    found = [kind for kind in kinds if kind is not None]
    if not found:
        return None
    return "" if "" in found else max(found, key=lambda kind: kind.harm)


def _of_sets(training: list, serving: list, declared: str) -> Kind | str | None:
    """In any order; a source may have an element twice, which is a list to Feast, and no set."""
    one, other = (sorted(values, key=repr) for values in (training, serving))
    kind = _of_lists(one, other, declared)
    if kind is None or kind != "":
        return kind
    return COERCION if {repr(value) for value in training} == {repr(value) for value in serving} else ""


def _of_elements(declared: str) -> str:
    """The type of the elements of an array or a set."""
    outer, bracket, inner = declared.partition("(")
    return inner.removesuffix(")") if bracket and outer in ("Array", "Set") else declared


def _of_objects(training: Any, serving: Any) -> Kind | str | None:
    one, other = _pairs(_parsed(training)), _pairs(_parsed(serving))
    if _is_alike(one, other):
        return JSON if isinstance(training, str) != isinstance(serving, str) else None
    if one == other:  # to Python, to which True is 1
        return TYPE
    if isinstance(one, dict) and isinstance(other, dict) and _as_texts(one) == _as_texts(other):
        return TYPE
    return ""


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two values within objects are equal as values by themselves are: 7 is 7.0, and True is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_alike, one, other))
    if _is_number(one) and _is_number(other):
        return one == other and _is_same_zero(one, other)
    return type(one) is type(other) and one == other


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return plain(json.loads(value))
    except ValueError:
        return value


def _pairs(value: Any) -> Any:
    """A map of Arrow, which is a list of pairs, as an object."""
    if isinstance(value, list) and value and all(isinstance(one, list) and len(one) == 2 for one in value):
        return {str(name): one for name, one in value if one is not None}
    return value


def _as_texts(value: dict) -> dict[str, str]:
    return {name: str(one) for name, one in value.items()}


def _is_same_text(training: Any, serving: Any, declared: str) -> bool:
    """Whether two values of different types stand for the same."""
    if isinstance(training, UUID) or isinstance(serving, UUID) or declared in ("Uuid", "TimeUuid"):
        return _uuid(training) is not None and _uuid(training) == _uuid(serving)
    if isinstance(training, bool) or isinstance(serving, bool):
        return _text(training).lower() in _spellings(serving) or _text(serving).lower() in _spellings(training)
    if isinstance(training, datetime) or isinstance(serving, datetime):
        return _moment(training) is not None and _moment(training) == _moment(serving)
    if isinstance(training, str | int | float) and isinstance(serving, str | int | float):
        try:
            one, other = float(training), float(serving)
        except ValueError:
            return False
        return one == other or (_is_float32(one) and _float32(other) == one)  # which is written with few digits
    return _text(training) == _text(serving)


def _spellings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, bool):
        return ()
    return ("true", "1", "1.0") if value else ("false", "0", "0.0")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _uuid(value: Any) -> UUID | None:
    """The UUID that a text, in any spelling, or 16 bytes stand for."""
    try:
        return value if isinstance(value, UUID) else UUID(bytes=value) if isinstance(value, bytes) else UUID(str(value))
    except ValueError:
        return None


def _moment(value: Any) -> datetime | None:
    """What instant a value of any type stands for, to the second."""
    try:
        if isinstance(value, datetime):
            return datetime(*value.timetuple()[:6], tzinfo=value.tzinfo)  # of pandas, too, which has nanoseconds
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(int(value), UTC)
        moment = datetime.fromisoformat(str(value))
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)).replace(microsecond=0)
    except (ValueError, OverflowError, OSError):
        return None


def fits(value: Any, declared: str) -> bool:
    """Whether a field of a type may hold a value: Feast writes a null for a list or an object in a scalar one."""
    return not isinstance(value, list | dict) or "(" in declared or declared in ("Json", "Map", "ScalarMap")


def is_close(training: Any, serving: Any) -> bool:
    """Whether two numbers, or lists of them, are as near as arithmetic on 32-bit floats leaves them."""
    if isinstance(training, list) and isinstance(serving, list):
        return len(training) == len(serving) and all(map(is_close, training, serving))
    if not (_is_number(training) and _is_number(serving)):
        return training == serving
    return math.isclose(float(training), float(serving), rel_tol=2**-21, abs_tol=1e-7)


def is_zone_shift(one: datetime, other: datetime) -> bool:
    """Whether two instants are as far apart as two time zones may be, and differ."""
    apart = abs(one.replace(microsecond=0) - other.replace(microsecond=0))
    return bool(apart) and apart <= FARTHEST_ZONES and not apart % QUARTER
