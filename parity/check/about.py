"""What a finding says by the stores and the view that it is of: the blanks in its sentences, filled in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feast import FeatureStore

from parity.check import terminal
from parity.check.found import Finding
from parity.compare.equal import NO_INSTANT
from parity.compare.kinds import (
    AHEAD,
    BEHIND,
    COERCION,
    CORRECTED_IN_REDIS,
    CORRECTION,
    LATE,
    MISSING_INSTANT,
    NEVER,
    OF_INSTANTS,
    OF_REDIS,
    OR_CREATED,
    OR_OVERWRITTEN,
    OVERWRITTEN,
    PUSH_LABELS,
    TIE,
    TIED_IN_DASK,
)
from parity.compare.subjects import LabelView, Source, Subject
from parity.edge.feast_internals import online_store_of

OWN_STORE = "ParityRedisOnlineStore"
"""The store of this project, which expires what training expires, and lets corrections in."""


@dataclass(frozen=True)
class Stores:
    """The classes of the stores, by which some sentences differ."""

    offline: frozenset[str]
    online: frozenset[str]
    """Of a feature server elsewhere, too: it reads what the same configuration says."""

    @classmethod
    def of(cls, store: FeatureStore) -> Stores:
        return cls(_classes(store.provider.offline_store), _classes(online_store_of(store)))

    @property
    def expires_too(self) -> bool:
        return OWN_STORE in self.online

    @property
    def refuses_corrections(self) -> bool:
        return "RedisOnlineStore" in self.online and not self.expires_too

    @property
    def is_dask(self) -> bool:
        return "DaskOfflineStore" in self.offline


def _classes(thing: Any) -> frozenset[str]:
    return frozenset(type_.__name__ for type_ in type(thing).__mro__)


def fill(finding: Finding, subject: Subject, stores: Stores, store: FeatureStore, now: datetime) -> None:
    """Fill in what the sentences of a finding leave open, and the issue of Feast that it is in these stores."""
    about, kind = finding.about, finding.kind
    if any(NO_INSTANT in (one.training, one.serving) for one in finding.examples):
        about["of_instants"], finding.issue = OF_INSTANTS, MISSING_INSTANT
    about["of_redis"] = OF_REDIS if stores.refuses_corrections else ""
    if kind in (CORRECTION, OVERWRITTEN) and stores.refuses_corrections:
        finding.issue = CORRECTED_IN_REDIS
    source = next((source for source in subject.sources if source.name == finding.view), None)
    if source is None:
        return
    if isinstance(source.view, LabelView) and kind in (NEVER, BEHIND, LATE, CORRECTION):
        about["instead"] = PUSH_LABELS
    about["timestamp"] = source.batch.timestamp_field
    about["ttl"] = terminal.span(source.ttl) if source.ttl else "none"
    is_created_known = bool(source.batch.created_timestamp_column)
    about["or_overwritten"] = "" if is_created_known else OR_OVERWRITTEN
    about["or_created"] = "" if is_created_known or stores.is_dask else OR_CREATED
    if kind == TIE and is_created_known and stores.is_dask:
        finding.issue = TIED_IN_DASK
    if kind in (LATE, BEHIND) and source.watermark is not None and source.watermark > now:
        finding.issue = AHEAD
    if kind == COERCION:
        about["source_type"] = _types(source, list(finding.features), store)


def _types(source: Source, features: list[str], store: FeatureStore) -> str:
    """The types that the columns of some features have in the source, in brackets; nothing where they are not known."""
    try:
        known = dict(source.batch.get_table_column_names_and_types(store.config))
    except Exception:  # of any store: it is no more than a help
        return ""
    column_of = {called: column for column, called in (source.batch.field_mapping or {}).items()}
    types = [str(known[name]) for name in (column_of.get(one, one) for one in features) if name in known]
    return f" ({', '.join(dict.fromkeys(types))})" if types else ""
