"""The kinds of differences: what each means, how much harm it does, and what to do about it in the repository."""

from enum import IntEnum
from typing import NamedTuple

UPSTREAM = "https://github.com/feast-dev/feast/issues/"


class Harm(IntEnum):
    """How much harm a kind does: the higher, the earlier it is named."""

    TYPE = 1
    """The same number or text, told apart by its type or precision."""
    STALE = 2
    """An older value, or one where the other side has none."""
    MISSING = 3
    """No value where training had one."""
    WRONG = 4
    """Another value of the same event."""


class Kind(NamedTuple):
    """``name`` is what --accept and --fail-on take."""

    name: str
    harm: Harm
    meaning: str
    advice: str
    """One line, in the words of the repository. In both ``{view}``, ``{features}`` and others are filled in."""
    issue: int | None = None
    """Where Feast itself answers so, whatever the stores: the issue of feast-dev/feast that is about it."""


CRASH = Kind(
    "crash",
    Harm.WRONG,
    "serving, or training, or both fail with an error for these keys",
    "let {view} take nulls and keys that are not known: it runs on them whenever a model server asks for a new key",
)
ON_DEMAND_NULL = Kind(
    "on-demand-null",
    Harm.WRONG,
    "the on-demand view makes something else of a null in training than in serving",
    "treat a null in {view} explicitly (fillna, or `is None`), and the same in pandas as in Python",
)
ON_DEMAND = Kind(
    "on-demand",
    Harm.WRONG,
    "the on-demand view makes another value, which its inputs do not account for",
    "let {view} depend on its inputs only: no clock, no random numbers, nothing of other rows",
)
TIE = Kind(
    "tie",
    Harm.WRONG,
    "the source has several rows of these keys at one event time, and each side took another",
    "keep one row for each key and {timestamp} in the source of {view}{or_created}",
)
OR_CREATED = ", or name a created_timestamp_column"
CORRECTION = Kind(
    "correction",
    Harm.WRONG,
    "the source has another value for the very event that is served: it was corrected after it was "
    "materialized{or_overwritten}",
    "materialize {view} again, over a span that has these rows{of_redis}",
)
OR_OVERWRITTEN = (
    ", or something else wrote it online (with a created_timestamp_column in the source the two are told apart)"
)
OF_REDIS = "; Redis refuses a row of the same event time, so delete the keys first, or give corrected rows a later one"
OVERWRITTEN = Kind(
    "overwritten",
    Harm.WRONG,
    "by its created timestamp the source had this row before it was materialized, and serving has another value for "
    "the same event: something else wrote it online, or changed the row in place",
    "find out what writes {view} online beside materialize (a push, write_to_online_store), and materialize it "
    "again{of_redis}",
)
NULL = Kind(
    "null",
    Harm.WRONG,
    "null on one side is 0, an empty text or list, or the least whole number on the other",
    "decide in the source of {view} what a missing {features} is, and write that; a default is no null{of_instants}",
)
PUSH_LABELS = (
    "push the labels of {view} with to=PushMode.ONLINE_AND_OFFLINE: label views are not materialized, and what is "
    "written to their source alone is never served"
)
OF_INSTANTS = "; Feast's server sends that number for a missing instant: read it as a null where it is asked over HTTP"
TIME_ZONE = Kind(
    "time-zone",
    Harm.WRONG,
    "the same values under an event time that is off by whole quarters of an hour",
    "store {timestamp} of {view} as UTC with its zone, and push and materialize with aware datetimes",
)
EVENT_TIME = Kind(
    "event-time",
    Harm.WRONG,
    "what is served says another event time than any row of the source: it expires at another time, too",
    "write the event time of the source with what is pushed or written online for {view}",
)
UNEXPLAINED = Kind(
    "unexplained",
    Harm.WRONG,
    "another value of the same event, and nothing that is known explains it",
    "find out what else writes {view} online, or whether its source was rewritten; then materialize it again",
)
ORACLE = Kind(
    "oracle",
    Harm.WRONG,
    "the transactions give other values than training or serving has",
    "run: python compute_features.py, python materialize_to_online.py; python demo_fixed.py shows each value ({cause})",
)
FUTURE = Kind(
    "future",
    Harm.WRONG,
    "what is served is of an event that is still to come, which training can't have seen",
    "push and write no event times beyond now for {view}, and materialize up to now at the latest",
)
DELETED = Kind(
    "deleted",
    Harm.WRONG,
    "serving still has an event that the source has no longer",
    "delete these keys online when rows of {view} are deleted offline: Feast has no path for that, so "
    "truncate and materialize again",
)
KEY_MIXED = Kind(
    "key-mixed",
    Harm.WRONG,
    "a request has two keys for this view, one under the name that the service maps its join key to, and one under the "
    "join key's own, for another view: Feast's training takes the first, its serving either",
    "map the join keys of every view of that service, so that none is asked for under its own name",
)
KEY_CAST = Kind(
    "key-cast",
    Harm.MISSING,
    "the key is online under another type or spelling than the source has it",
    "declare the join key of {view} with the type that its source has, and write it in one spelling",
)
NEVER = Kind(
    "never-materialized",
    Harm.MISSING,
    "training has values, and nothing of them was ever written online",
    "run: feast materialize-incremental $(date -u +%Y-%m-%dT%H:%M:%S)",
)
LOST = Kind(
    "lost",
    Harm.MISSING,
    "the rows were materialized, by the registry, and are not online: evicted, flushed, expired there, or late",
    "run feast materialize with the whole span, as materialize-incremental goes on from its watermark; check evictions",
)
BEHIND = Kind(
    "behind",
    Harm.STALE,
    "newer rows are in the source, and were not materialized yet",
    "run: feast materialize-incremental $(date -u +%Y-%m-%dT%H:%M:%S), and more often",
)
LATE = Kind(
    "late",
    Harm.STALE,
    "rows came into the source after a materialization had passed their event time, so it never took them",
    "run feast materialize over a span that goes back as far as rows come late: materialize-incremental does not",
)
PUSHED = Kind(
    "pushed",
    Harm.STALE,
    "serving has rows that the source has not: pushed, or written, online only",
    "push {view} with to=PushMode.ONLINE_AND_OFFLINE, or write the same events into its source",
)
ONLY_ONLINE = Kind(
    "only-online",
    Harm.STALE,
    "serving has keys that the source has not: deleted offline, or written online only; {of_keys}",
    "find out what is pushed or written online only for {view}, and delete online what was deleted offline",
)
OF_HASHES = "the store has their hashes, so they are counted, and can't be named"
OF_STRAYS = (
    "they are of another type or spelling than the source can have, such as {key}, so nobody who asks finds them"
)
TTL = Kind(
    "ttl",
    Harm.STALE,
    "older than the ttl: training gives null, serving still gives the value (Feast applies a ttl in training only)",
    "materialize {view} more often than its ttl of {ttl}, lengthen it, or have the model server drop what is older",
    6821,
)
DROPPED = Kind(
    "dropped",
    Harm.STALE,
    "the offline store leaves the whole training row out, while serving answers",
    "use the duckdb offline store, which keeps such rows with nulls, or lengthen the ttl of {view}; with dask, models "
    "never see an expired key",
)
JSON = Kind(
    "json",
    Harm.TYPE,
    "a text in training is a parsed object in serving, of the same contents",
    "parse {features} where training data are prepared (json.loads), or declare String instead of Json",
)
TYPE = Kind(
    "type",
    Harm.TYPE,
    "equal, but of another type, or a zero of another sign",
    "declare {features} with the type that the source has, and write that, and one zero, wherever {view} is written",
)
COERCION = Kind(
    "coercion",
    Harm.TYPE,
    "the value was cut, rounded, converted or left out to fit the declared type",
    "declare {features} with the type that the source has{source_type}, or write the source in the declared one",
)
FLOAT32 = Kind(
    "float32",
    Harm.TYPE,
    "a double in training is a 32-bit float in serving: the difference is in the eighth digit, or a whole number off",
    "declare {features} as Float64, or write the source as 32-bit floats",
    4031,
)
COMPUTED_IN_FLOAT32 = FLOAT32._replace(
    meaning="the on-demand view computes in 32-bit floats in training and in doubles in serving, of equal inputs",
    advice="have {view} cast its inputs before it computes (astype('float64')): training hands over Float32 as it is, "
    "serving as doubles",
    issue=None,
)
"""The same kind, where no declaration mends it."""
NOTHING = Kind(
    "nothing-proven",
    Harm.TYPE,
    "no value was compared with another: all are null on both sides, or there are no keys",
    "materialize recent rows, or compare as of an instant with values by --at",
)
UNCHECKED = Kind("unchecked", Harm.TYPE, "it could not be compared", "mend what is named")

KINDS = [
    CRASH, ON_DEMAND_NULL, ON_DEMAND, TIE, CORRECTION, OVERWRITTEN, NULL, TIME_ZONE, EVENT_TIME, UNEXPLAINED, ORACLE,
    FUTURE, DELETED, KEY_MIXED, KEY_CAST, NEVER, LOST, BEHIND, LATE, PUSHED, ONLY_ONLINE, TTL, DROPPED, JSON, TYPE,
    COERCION, FLOAT32,
]  # fmt: skip
"""Every kind of difference."""
BY_NAME = {kind.name: kind for kind in KINDS}
CORRECTED_IN_REDIS, TIED_IN_DASK, AHEAD, MISSING_INSTANT = 2795, 3360, 4222, 2803
"""Issues of Feast that are about a kind in some stores, or states, only."""
