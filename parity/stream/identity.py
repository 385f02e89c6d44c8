"""By what an event is known as an earlier one: its id, and its keys in every view of its source.

Ids may be unique within an entity only, so an event whose key is another one in any view is another event in all of
them. Rows are looked for by the keys of one view, so there the keys of the others are a part of the id.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.table import Definition


def keys_beside(definition: Definition, of_source: Sequence[Definition]) -> list[pa.Field]:
    """The key columns of all views of a source that are not those of this one."""
    keys = {(key.name, str(key.type)): key for one in of_source for key in one.keys}
    own = {(key.name, str(key.type)) for key in definition.keys}
    return [key for at, key in sorted(keys.items(), key=lambda item: item[0]) if at not in own]


def known_ids(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Ids, null for those that are an empty text, which says of no event which one it is."""
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def identities(
    ids: pa.Array | pa.ChunkedArray, keys: Sequence[pa.Array | pa.ChunkedArray]
) -> pa.Array | pa.ChunkedArray:
    """The ids with these ``keys``, from which both can be told: their texts, and then how long each is. A key that is
    null, as it may be where a condition leaves the event out, is one of its own."""
    if not keys:
        return ids
    texts = [_texts(key) for key in keys]
    sizes = [pc.fill_null(pc.utf8_length(text).cast(pa.string()), "-") for text in texts]
    return pc.binary_join_element_wise(ids, *(pc.fill_null(text, "") for text in texts), *sizes, " ")


def _texts(key: pa.Array | pa.ChunkedArray) -> pa.Array:
    if pa.types.is_binary(key.type):
        return pa.array([None if value is None else value.hex() for value in key.to_pylist()], pa.string())
    return key.cast(pa.string())
