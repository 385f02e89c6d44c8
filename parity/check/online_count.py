"""Keys that are counted, and not asked for: those of a store that has hashes of them, which can't be named, but those
beside the source show in their number; and those of a type that the source does not have."""

from __future__ import annotations

import time

from feast import FeatureStore

from parity.check import terminal
from parity.check.found import LISTED, Compared, Finding
from parity.check.keys import Keys, bare
from parity.compare.kinds import KEY_CAST, OF_HASHES, OF_STRAYS, ONLY_ONLINE
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
    _count(found, subject.sources[0].name, extras, OF_HASHES)


def note_strays(found: Compared, subject: Subject, keys: Keys) -> None:
    """Note the keys that are online under a type that is none of the source: nobody trains on them. They are not asked
    for; those of a key that is online under no other type are of the kind `KEY_CAST` already."""
    if subject.is_on_demand:
        return
    cast = {keys.bare(place) for one in found.findings.values() if one.kind == KEY_CAST for place in one.places}
    for view, tables in keys.strays.items():
        some = [key for table in tables for key in table.to_pylist() if bare(key.values()) not in cast]
        if some:
            named = ", ".join(f"{name}={terminal.short(value)}" for name, value in some[0].items())
            _count(found, view, len(some), OF_STRAYS.format(key=named)).listed = some[:LISTED]


def _count(found: Compared, view: str, number: int, why: str) -> Finding:
    finding = found.finding(ONLY_ONLINE, view)
    finding.unnamed = number
    finding.about["of_keys"] = why
    finding.features["all, by the number of keys"] += number
    found.differing += number
    found.values += number
    return finding
