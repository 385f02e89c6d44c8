"""What training would have got at the moment of serving, as far as the versions of the offline table say."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.audit.causes import CORRECTION, DELETED
from parity.audit.logged import NO_EVENT
from parity.audit.sides import alike, one_array
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND, UTC_MICROSECONDS
from parity.offline.known_then import (
    ADDED,
    AS_OF,
    CHANGED,
    COMPUTED_BY_THEN,
    KNOWN,
    KNOWN_AT,
    REMOVED,
    SUPERSEDED_HOW,
    SUPERSEDED_WITH,
    THEN_EVENT,
)
from parity.offline.versions import Versions
from parity.proof.causes import DEFINITION, LATE_ROW

VERSIONS_SEARCHED = 20
"""In so many versions before a value was served it is looked for, the latest ones."""
CAUSE_OF = {ADDED: LATE_ROW, CHANGED: CORRECTION, REMOVED: DELETED}


class Then(NamedTuple):
    """What was known of some rows, where it is ``known``: the ``event`` of the row that training would have got, the
    features, and the cause for which that is not what training gets today."""

    known: np.ndarray
    event: np.ndarray
    values: pa.Table
    cause: pa.Array


class KnownThen:
    """What was known of a table, and when."""

    def __init__(self, table: FeatureTable):
        self._table, self._versions = table, Versions.of(table)
        self.since = self._versions.known_since

    def of(self, keys: pa.Table, as_of: np.ndarray, when: np.ndarray) -> Then:
        """What was known at ``when`` of each of ``keys`` at an instant ``as_of``, in microseconds since 1970."""
        found = self._versions.known_then(_asked(keys, as_of, when))
        known = found[KNOWN].to_numpy()
        event = pc.fill_null(found[THEN_EVENT].cast(pa.int64()), NO_EVENT).to_numpy()
        return Then(known, event, found, self._causes(found))

    def _causes(self, found: pa.Table) -> pa.Array:
        """By how what held then became what holds today. What is changed is so mostly as another row came or went."""
        how, beside = one_array(found[SUPERSEDED_HOW]), one_array(found[SUPERSEDED_WITH])
        first = pc.if_else(pc.equal(how, CHANGED), pc.coalesce(beside, how), how)
        other = pc.not_equal(one_array(found[COMPUTED_BY_THEN]), self._table.definition.fingerprint)
        words = pa.array([*CAUSE_OF.values(), DEFINITION])
        place = pc.index_in(first, pa.array(list(CAUSE_OF)))
        place = pc.if_else(pc.and_(pc.is_valid(place), pc.fill_null(other, False)), len(CAUSE_OF), place)
        return words.take(place)

    def were_there(
        self, feature: str, served: pa.Array, keys: pa.Table, event: np.ndarray, when: np.ndarray
    ) -> np.ndarray:
        """Whether some served values are what the table once had at the event of each, before it was served."""
        found = np.zeros(len(event), bool)
        for instant in reversed(self._versions.instants[-VERSIONS_SEARCHED:]):
            at = (instant - EPOCH) // MICROSECOND - 1
            before = np.flatnonzero((at < when) & ~found)
            if not len(before):
                continue
            places = pa.array(before)
            then = self.of(keys.take(places), event[before], np.full(len(before), at))
            was = (then.event == event[before]) & then.known
            found[before] = was & alike(served.take(places), one_array(then.values[feature]))
        return found


def _asked(keys: pa.Table, as_of: np.ndarray, when: np.ndarray) -> pa.Table:
    for name, instants in ((AS_OF, as_of), (KNOWN_AT, when)):
        keys = keys.append_column(name, pa.array(instants).cast(UTC_MICROSECONDS))
    return keys
