"""What follows the rows of a continuous view, read from the offline store: the steps that are written with them."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, RepoConfig

from parity.definition.declare import DefinitionError, horizon_of
from parity.definition.instants import EPOCH, LAST_INSTANT, MICROSECOND, UTC_MICROSECONDS
from parity.definition.keys import KeyBook
from parity.definition.table import COMPUTED_BY, CONTINUOUS
from parity.edge.errors import UserError
from parity.edge.feast_internals import stored_name
from parity.edge.files import location, parquet_files
from parity.online.encoding import schema_of
from parity.online.rows import Fields
from parity.online.steps import encode


def require_slides_alike(view: FeatureView) -> None:
    """Raise a `DefinitionError` if windows slide in the offline table of ``view``, and not in the view, or the reverse.

    Feast's own commands know no more of the definition than that. Tables that were not computed here are let through,
    and so are those that can't be read, which whoever reads their rows says.
    """
    source = view.batch_source
    if not isinstance(source, FileSource):
        return
    try:
        filesystem, files = parquet_files(location(source.path))
        notes = [pq.read_schema(file.path, filesystem=filesystem).metadata or {} for file in files]
    except (UserError, OSError, pa.ArrowInvalid):
        return
    for noted in notes:
        if COMPUTED_BY in noted and (CONTINUOUS in noted) != (horizon_of(view) is not None):
            slide, applied = ("slide", "not continuous") if CONTINUOUS in noted else ("do not slide", "continuous")
            raise DefinitionError(
                f"{view.name}: windows {slide} in {source.path}, as it was computed, and the view that is applied is "
                f"{applied}. Run: cd feature_repo && feast apply; then: python compute_features.py"
            )


def steps_after(
    config: RepoConfig, offline_store: Any, view: FeatureView, rows: pa.Table, end: datetime
) -> list[bytes] | None:
    """Encode the steps of ``rows``, each key's latest at the aware instant ``end``, up to the horizon of ``view`` after
    it; None if the view is not continuous.

    Every row of the offline store in this time is read at once: some times their size is needed.
    """
    horizon = horizon_of(view)
    if horizon is None:
        return None
    present = (end - EPOCH) // MICROSECOND
    until = min(present + horizon, (LAST_INSTANT - EPOCH) // MICROSECOND)
    event, features = view.batch_source.timestamp_field, [feature.name for feature in view.features]
    later = offline_store.pull_all_from_table_or_query(
        config=config,
        data_source=view.batch_source,
        join_key_columns=view.join_keys,
        feature_name_columns=features,
        timestamp_field=event,
        start_date=end + MICROSECOND,
        end_date=EPOCH + until * MICROSECOND,
    ).to_arrow()
    book = KeyBook(schema_of(view))
    book.number(rows)
    owners = book.find(later)
    instants = later[event].cast(UTC_MICROSECONDS).cast(pa.int64()).to_numpy()
    order = np.lexsort((instants, owners))
    order = order[np.searchsorted(owners[order], 0) :]
    steps = later.take(pa.array(order))
    return encode(Fields(stored_name(config, view)), event, features, rows, steps, owners[order], until, present)
