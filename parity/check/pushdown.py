"""What is left to the store itself, where Feast asks it through Ibis (DuckDB): to choose keys, and the rows of keys.

A job of such a store has a table that is not executed yet. What is added to it here runs in the store, and what comes
back is what is needed, in Arrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

ROW = "parity_row"


def table_of(job: Any) -> Any:
    """The table of a job, not executed yet; None of a job that has none."""
    table = getattr(job, "table", None)
    return table if type(table).__module__.startswith("ibis.") else None


def counted(table: Any, keys: Sequence[str]) -> tuple[int, int]:
    """How many rows have all ``keys``, and how many have not."""
    import ibis

    usable = ibis.and_(*(table[name].notnull() for name in keys))
    rows, whole = table.aggregate(rows=table.count(), whole=usable.sum()).to_pyarrow().to_pylist()[0].values()
    return int(whole or 0), rows - int(whole or 0)


def drawn(table: Any, keys: Sequence[str], size: int, seed: int) -> pa.Table:
    """Draw ``size`` of the rows that have all ``keys``, one for each key, every one as likely as another: those with
    the least hashes of the key and the seed."""
    import ibis

    texts = [ibis.literal(str(seed)), *(table[name].cast("string") for name in keys)]
    salted = texts[0]
    for text in texts[1:]:
        salted = salted.concat("\x1f", text)
    usable = table.filter(ibis.and_(*(table[name].notnull() for name in keys)))
    return usable.order_by([salted.hash(), *keys]).limit(size).to_pyarrow()


def of_keys(table: Any, names: Sequence[str], keys: pa.Table) -> pa.Table:
    """The rows of a table whose columns ``names`` have one of ``keys``."""
    import ibis

    return table.semi_join(ibis.memtable(keys.rename_columns(list(names))), list(names)).to_pyarrow()


def lacked(table: Any, names: Sequence[str], keys: pa.Table) -> pa.Array:
    """The places of the ``keys`` that no row of a table has in its columns ``names``."""
    import ibis

    asked = keys.rename_columns(list(names)).append_column(ROW, pa.array(range(keys.num_rows), pa.int64()))
    return ibis.memtable(asked).anti_join(table, list(names)).select(ROW).to_pyarrow()[ROW].combine_chunks()
