"""The online store's side: what serving reads of it through Feast, and who is in it."""

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pyarrow as pa
from feast import FeatureService, FeatureStore, FeatureView
from feast.types import from_feast_to_pyarrow_type

from parity.online_store import ParityRedisOnlineStore


def online_store_of(store: FeatureStore) -> ParityRedisOnlineStore:
    """The online store that ``store`` reads and writes through."""
    return store._get_provider().online_store


def serving_values(store: FeatureStore, service: FeatureService, view: FeatureView, ids: np.ndarray) -> pa.Table:
    """Ask Feast for the features of ``ids`` (int64) as a model server does.

    The result has one column per feature, of its declared type, and one row per id, in their order.
    """
    response = store.get_online_features(service, {view.join_keys[0]: ids.tolist()}).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    return pa.table(
        {
            feature.name: pa.array(
                [getattr(v, kind) if (kind := v.WhichOneof("val")) else None for v in vectors[feature.name].values],
                from_feast_to_pyarrow_type(feature.dtype),
            )
            for feature in view.features
        }
    )


def stored_events(store: FeatureStore, view: FeatureView) -> Iterator[tuple[int, datetime]]:
    """Go through each key that has a row of ``view`` online, fit to be served or not, with its event timestamp."""
    for entity_key, event_timestamp in online_store_of(store).stored(store.config, view):
        yield entity_key.entity_values[0].int64_val, event_timestamp
