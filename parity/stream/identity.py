"""By what an event is known as an earlier one: its id, and its keys in every view of its source.

Ids may be unique within an entity only, so an event whose key is another one in any view is another event in all of
them. Rows are looked for by the keys of one view, so there the keys of the others are a part of the id.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.table import Definition


def keys_beside(definition: Definition, of_source: Sequence[Definition]) -> list[pa.Field]:
    """The key columns of all views of a source that are not those of this one."""
    keys = {(key.name, str(key.type)): key for one in of_source for key in one.keys}
    own = {(key.name, str(key.type)) for key in definition.keys}
    return [key for at, key in sorted(keys.items(), key=lambda item: item[0]) if at not in own]


@dataclass(frozen=True)
class _More(Definition):
    more: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @cached_property
    def transactions(self) -> pa.Schema:
        return pa.schema([*super().transactions, *self.more])


def with_columns(definition: Definition, columns: Iterable[tuple[str, pa.Field]]) -> Definition:
    """The same with more columns of its transactions, by other names, which are null where a file does not have them.

    So a column can be read beside what the view itself reads it as.
    """
    columns, reading = list(columns), definition.reading
    renamed = [(reading.in_file(one.name), name) for name, one in columns if name != one.name]
    given = {one.name: getattr(definition, one.name) for one in fields(Definition)}
    given["reading"] = replace(reading, renamed=(*reading.renamed, *renamed))
    return _More(**given, more=pa.schema([pa.field(name, one.type) for name, one in columns]))


def numbered(keys: Sequence[pa.Field]) -> list[tuple[str, pa.Field]]:
    """Columns for `with_columns`, by names that no view has."""
    return [(f"_key {number}", key) for number, key in enumerate(keys)]


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
