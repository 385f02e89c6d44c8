"""Conditions on transactions, such as ``amount > 0 AND status = 'paid'``: which rows a feature view looks at.

A condition is an SQL expression of comparisons (``=``, ``<>``, ``<``, ``<=``, ``>``, ``>=``), ``BETWEEN``, ``IN``,
``IS NULL``, ``IS NOT NULL``, ``AND``, ``OR``, ``NOT`` and parentheses. A row is looked at where it is true; where it is
unknown, as ``amount > 0`` is of a null, the row is not. Text is compared by code points, to the letter.

It is parsed once, where it is declared, and travels as tuples; the oracle evaluates the text in SQLite instead.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.functions import COLUMN_TYPES, WHOLE_NUMBERS

_COMPARISONS = {
    "EQ": pc.equal,
    "NEQ": pc.not_equal,
    "LT": pc.less,
    "LTE": pc.less_equal,
    "GT": pc.greater,
    "GTE": pc.greater_equal,
}


class Condition(NamedTuple):
    """A condition, ready to be evaluated."""

    text: str
    tree: tuple
    columns: tuple[tuple[str, pa.DataType], ...]
    """The columns that it looks at, with their types, sorted by name."""

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """Say of each row whether it is looked at: booleans, never null."""
        found = _evaluate(self.tree, rows)
        return pc.fill_null(found, False)


def parse_condition(text: str, declared: Mapping[str, pa.DataType]) -> Condition:
    """Parse a condition. Columns that are not ``declared`` get the type of what they are compared with.

    Raises `ValueError`, in words for people, for what is no such condition.
    """
    import sqlglot  # slow, and of use only where a condition is declared
    from sqlglot import expressions as exp

    try:
        parsed = sqlglot.parse(text)
    except sqlglot.errors.SqlglotError as error:
        raise ValueError(f"the condition {text!r} can't be parsed: {str(error).splitlines()[0]}") from None
    if len(parsed) != 1 or parsed[0] is None:
        raise ValueError(f"the condition {text!r} is not one expression")
    reader = _Reader(exp, text, dict(declared))
    tree = reader.boolean(parsed[0])
    return Condition(text, tree, tuple(sorted(reader.types.items())))


class _Reader:
    """Makes tuples of sqlglot's tree, and finds the types of columns."""

    def __init__(self, exp: Any, text: str, declared: dict[str, pa.DataType]):
        self.exp, self.text, self.declared = exp, text, declared
        self.types: dict[str, pa.DataType] = {}

    def boolean(self, node: Any) -> tuple:
        exp = self.exp
        match node:
            case exp.Paren():
                return self.boolean(node.this)
            case exp.And() | exp.Or():
                return (type(node).__name__.lower(), self.boolean(node.left), self.boolean(node.right))
            case exp.Not():
                return ("not", self.boolean(node.this))
            case exp.Is() if isinstance(node.expression, exp.Null):
                return ("null", self.column(node.this, pa.string(), is_compared=False))
            case exp.Is() if isinstance(node.expression, exp.Boolean):
                return ("is", self.column(node.this, pa.bool_()), bool(node.expression.this))
            case exp.Between():
                least = ("GTE", *self.operands(node.this, node.args["low"]))
                return ("and", least, ("LTE", *self.operands(node.this, node.args["high"])))
            case exp.In() if node.expressions:
                pairs = [self.operands(node.this, value) for value in node.expressions]
                if any(value[0] != "value" for _, value in pairs):
                    raise ValueError(f"the condition {self.text!r}: IN takes a list of numbers or of texts")
                return ("in", pairs[0][0], tuple(value[1] for _, value in pairs))
            case exp.Column():
                return ("EQ", self.column(node, pa.bool_()), ("value", True))
        name = type(node).__name__.upper()
        if name in _COMPARISONS:
            return (name, *self.operands(node.left, node.right))
        raise ValueError(
            f"the condition {self.text!r}: {node.sql()!r} is not a comparison of a column, nor IN, BETWEEN, IS NULL, "
            "AND, OR or NOT"
        )

    def operands(self, left: Any, right: Any) -> tuple[tuple, tuple]:
        """The two sides of a comparison, of one type."""
        left, right = _bare(self.exp, left), _bare(self.exp, right)
        if isinstance(left, self.exp.Column):
            kind = self.kind(right)
            first = self.column(left, kind)
            return first, self.value(right, self.types[first[1]])
        if isinstance(right, self.exp.Column):
            second = self.column(right, self.kind(left))
            return self.value(left, self.types[second[1]]), second
        raise ValueError(f"the condition {self.text!r}: {left.sql()} and {right.sql()} are both no column")

    def kind(self, node: Any) -> pa.DataType:
        """The type that a column has by being compared with this."""
        exp = self.exp
        if isinstance(node, exp.Column):
            return self.declared.get(node.name) or self.types.get(node.name) or pa.float64()
        if isinstance(node, exp.Boolean):
            return pa.bool_()
        return pa.string() if isinstance(node, exp.Literal) and node.is_string else pa.float64()

    def column(self, node: Any, otherwise: pa.DataType, is_compared: bool = True) -> tuple:
        node = _bare(self.exp, node)
        if not isinstance(node, self.exp.Column) or node.table:
            raise ValueError(f"the condition {self.text!r}: {node.sql()!r} is not the name of a column")
        name = node.name
        found = self.declared.get(name) or self.types.get(name, otherwise)
        if is_compared and found not in COLUMN_TYPES:
            raise ValueError(f"the condition {self.text!r}: {name} is {found}, which can't be compared")
        self.types[name] = found
        return ("column", name)

    def value(self, node: Any, to: pa.DataType) -> tuple:
        exp = self.exp
        if isinstance(node, exp.Column):
            column = self.column(node, to)
            if self.types[column[1]] != to:
                raise ValueError(f"the condition {self.text!r}: {node.name} is {self.types[column[1]]}, and not {to}")
            return column
        wrong = ValueError(f"the condition {self.text!r}: {node.sql()} is compared with a column that is {to}")
        if isinstance(node, exp.Boolean):
            if to != pa.bool_():
                raise wrong
            return ("value", bool(node.this))
        negative = isinstance(node, exp.Neg)
        literal = node.this if negative else node
        if not isinstance(literal, exp.Literal) or (literal.is_string and (negative or to != pa.string())):
            raise wrong
        if literal.is_string:
            return ("value", literal.this)
        if to == pa.float64():
            return ("value", -float(literal.this) if negative else float(literal.this))
        if to not in WHOLE_NUMBERS or not literal.this.isdecimal():
            raise wrong
        number = -int(literal.this) if negative else int(literal.this)
        if not -(2 ** (to.bit_width - 1)) <= number < 2 ** (to.bit_width - 1):
            raise wrong
        return ("value", number)


def _bare(exp: Any, node: Any) -> Any:
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _evaluate(tree: tuple, rows: pa.Table) -> Any:
    kind, *parts = tree
    match kind:
        case "and" | "or":
            combine: Callable = pc.and_kleene if kind == "and" else pc.or_kleene
            return combine(*(_evaluate(part, rows) for part in parts))
        case "not":
            return pc.invert(_evaluate(parts[0], rows))
        case "null":
            return pc.is_null(rows[parts[0][1]])
        case "is":
            return pc.fill_null(pc.equal(rows[parts[0][1]], parts[1]), False)
        case "in":
            column = rows[parts[0][1]]
            found = pc.is_in(column, pa.array(parts[1], column.type))
            return pc.if_else(pc.is_null(column), pa.scalar(None, pa.bool_()), found)
    left, right = (_operand(part, rows, parts) for part in parts)
    return _COMPARISONS[kind](left, right)


def _operand(part: tuple, rows: pa.Table, both: list[tuple]) -> Any:
    if part[0] == "column":
        return rows[part[1]]
    [column] = [name for kind, name in both if kind == "column"]
    return pa.scalar(part[1], rows[column].type)
