"""How many keys an online store has that stores hashes of them: they can't be named, but those beside the source show
in their number."""

from __future__ import annotations

import time

from feast import FeatureStore

from parity.check.found import Compared
from parity.compare.kinds import ONLY_ONLINE
from parity.compare.subjects import Source, Subject
from parity.edge.feast_internals import dynamodb_table, online_store_of

SECONDS = 30
"""How long the items of a table are counted, at most."""


def counted(store: FeatureStore, subject: Subject) -> int | None:
    """How many keys of the one source of a ``subject`` are online; None where that can't be counted, or need not be.

    It is to be asked before the keys of the source are: what is added meanwhile is then not taken for more than these.
    """
    names = {type_.__name__ for type_ in type(online_store_of(store)).__mro__}
    one = len(subject.sources) == 1 and not subject.is_on_demand and subject.what != "feature service"
    return _in_dynamodb(store, subject.sources[0]) if one and "DynamoDBOnlineStore" in names else None


def _in_dynamodb(store: FeatureStore, source: Source) -> int | None:
    client, table = dynamodb_table(store, source.view)
    deadline, number = time.monotonic() + SECONDS, 0
    for page in client.get_paginator("scan").paginate(TableName=table, Select="COUNT"):
        number += page["Count"]
        if time.monotonic() > deadline:
            return None
    return number


def note_extras(found: Compared, subject: Subject, stored: int) -> None:
    """Note how many of the ``stored`` keys are none of those that were compared: at least so many, of a sample."""
    here = found.keys - found.nulls.absent if found.sample is None else found.of
    extras = stored - here
    if extras <= 0:
        return
    finding = found.finding(ONLY_ONLINE, subject.sources[0].name)
    finding.unnamed = extras
    finding.features["all, by the number of keys"] += extras
    found.differing += extras
    found.values += extras
