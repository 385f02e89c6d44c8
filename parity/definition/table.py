"""What a table of features is, without Feast: what workers take with them, and what the fingerprint is of."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property

import pyarrow as pa

from parity.definition.conditions import Condition
from parity.definition.functions import FUNCTIONS
from parity.definition.instants import MICROSECOND, UTC_MICROSECONDS
from parity.definition.reading import Reading

COMPUTED_BY = b"parity.computed_by"
"""The key, in the metadata of a Parquet file, of the fingerprint of the definition that it was computed by."""
CONTINUOUS = b"parity.continuous"
"""The key there of a note that windows slide in it, for those who know of the view no more than Feast's registry."""


@dataclass(frozen=True)
class Rule:
    """How a feature is computed: what Feast's `Aggregation` says, and the types that follow."""

    name: str
    function: str
    column: str
    time_window: timedelta | None
    column_type: pa.DataType = field(default=pa.float64())

    @property
    def type(self) -> pa.DataType:
        return FUNCTIONS[self.function].gives(self.column_type)

    @property
    def nullable(self) -> bool:
        return FUNCTIONS[self.function].nullable

    @property
    def window(self) -> int | None:
        """In microseconds."""
        return None if self.time_window is None else self.time_window // MICROSECOND

    @property
    def continues(self) -> bool:
        """Whether, without a window, later results follow from earlier ones and the rows between."""
        return self.time_window is None and FUNCTIONS[self.function].continues(self.column_type)


@dataclass(frozen=True)
class Definition:
    """What a feature view's table is computed of, and how."""

    name: str
    """That of the feature view."""
    keys: pa.Schema
    """The join keys, none of them null, in the order of the view's entities."""
    event: str
    """What the offline table calls the instant of a row."""
    rules: tuple[Rule, ...]
    """One a feature, in the order of the view's fields."""
    reading: Reading = field(default_factory=Reading)
    condition: Condition | None = None
    continuous: bool = False
    """Whether the table has a row, beside those of the transactions, at each instant at which one leaves a window."""

    @cached_property
    def columns(self) -> dict[str, pa.DataType]:
        """The columns of the transactions that features are made of, sorted by name: those of the rules."""
        return dict(sorted({rule.column: rule.column_type for rule in self.rules}.items()))

    @cached_property
    def transactions(self) -> pa.Schema:
        """What is computed on: keys, `Reading.timestamp`, and the columns. Nothing of it is null."""
        columns = [pa.field(name, type, nullable=False) for name, type in self.columns.items()]
        return pa.schema([*self.keys, pa.field(self.reading.timestamp, UTC_MICROSECONDS, nullable=False), *columns])

    @cached_property
    def raw(self) -> pa.Schema:
        """What has to be read of a file: the same, and the columns of the condition. Any but the instant may be null
        in a row that the condition leaves out."""
        types: Mapping[str, pa.DataType] = dict(self.condition.columns) if self.condition else {}
        more = [pa.field(name, type) for name, type in types.items() if name not in self.transactions.names]
        return pa.schema([*self.transactions, *more])

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """How long they are, in microseconds: each length once, ascending."""
        return tuple(sorted({rule.window for rule in self.rules if rule.window is not None}))

    @cached_property
    def schema(self) -> pa.Schema:
        """The strict schema of the offline table: keys, event timestamp, features. Its metadata has the fingerprint,
        and a note if windows slide."""
        features = [pa.field(rule.name, rule.type, nullable=self.may_be_null(rule)) for rule in self.rules]
        fields = [*self.keys, pa.field(self.event, UTC_MICROSECONDS, nullable=False), *features]
        return pa.schema(fields, {COMPUTED_BY: self.fingerprint} | ({CONTINUOUS: "yes"} if self.continuous else {}))

    @cached_property
    def tail(self) -> pa.Schema:
        """What earlier rows of a key come to, for its later features: the keys, and the features that continue."""
        return pa.schema([*self.keys, *(pa.field(rule.name, rule.type) for rule in self.rules if rule.continues)])

    @cached_property
    def unwindowed(self) -> tuple[Rule, ...]:
        """The rules of the features that look at all rows."""
        return tuple(rule for rule in self.rules if rule.window is None)

    @cached_property
    def state(self) -> pa.Schema:
        """What earlier rows of a key come to, for all its later features without a window: the keys, and what is kept
        of each of these. With it any feature can be continued, where `tail` has those whose results are enough."""
        kept = [pa.field(rule.name, FUNCTIONS[rule.function].kept(rule.column_type)) for rule in self.unwindowed]
        return pa.schema([*self.keys, *kept])

    def may_be_null(self, rule: Rule) -> bool:
        """Whether a feature is null at some instants: where it is not defined on few rows, or on none."""
        empties = self.continuous and rule.window is not None
        return rule.nullable or (empties and FUNCTIONS[rule.function].of_nothing is None)

    @property
    def reach(self) -> int | None:
        """How many microseconds before an instant the rows begin that it needs; None if it needs all of them."""
        if any(rule.window is None and not rule.continues for rule in self.rules):
            return None
        longest = max(self.windows, default=0)
        return longest + 1 if self.continuous and longest else longest  # at which the oldest of them leaves

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides what is computed, wherever the files are and in whatever order features come."""
        rules = sorted(
            (rule.name, rule.function, rule.column, str(rule.column_type), rule.window, str(rule.type))
            for rule in self.rules
        )
        keys = [(key.name, str(key.type)) for key in self.keys]
        condition = self.condition and self.condition.tree
        computed = (keys, self.event, rules, replace(self.reading, name=""), condition)
        computed += (CONTINUOUS,) if self.continuous else ()
        return hashlib.sha256(repr(computed).encode()).hexdigest()

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The same of each feature alone, by its name: what another feature is made of changes nothing of it."""
        return {rule.name: replace(self, rules=(rule,)).fingerprint for rule in self.rules}
