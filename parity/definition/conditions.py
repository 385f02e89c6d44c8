"""Conditions on transactions, such as ``amount > 0 AND status = 'paid'``: which rows a feature view looks at.

A condition is an SQL expression of comparisons (``=``, ``<>``, ``<``, ``<=``, ``>``, ``>=``), ``BETWEEN``, ``IN``,
``IS NULL``, ``IS NOT NULL``, ``AND``, ``OR``, ``NOT`` and parentheses. A row is looked at where it is true; where it is
unknown, as ``amount > 0`` is of a null, the row is not. Text is compared by code points, to the letter.

The type of a column follows from its declaration, or else from what it is compared with, in whatever order the parts
stand; `IS NULL` has no say in it.

It is parsed once, where it is declared, and travels as tuples; the oracle evaluates the text in SQLite instead.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.functions import COLUMN_TYPES, TYPE_NAMES, WHOLE_NUMBERS

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

    @property
    def compared(self) -> set[str]:
        """The columns of which more is asked than whether they are null."""
        return set(_compared(self.tree))

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """Say of each row whether it is looked at: booleans, never null."""
        found = _evaluate(self.tree, rows)
        return pc.fill_null(found, False)


def parse_condition(text: str, declared: Mapping[str, pa.DataType], numbers: Collection[str] = ()) -> Condition:
    """Parse a condition. Columns that are not ``declared`` get the type of what they are compared with.

    Those of which only is asked whether they are null are Float64 if they are among ``numbers``, and else text.
    Raises `ValueError`, in words for people, for what is no such condition.
    """
    import sqlglot  # slow, and of use only where a condition is declared
    from sqlglot import expressions as exp

    if not isinstance(text, str):
        raise ValueError(f'the condition is {text!r}, and has to be a text, such as "amount > 0"')
    try:
        parsed = sqlglot.parse(text)
    except sqlglot.errors.SqlglotError as error:
        raise ValueError(f"the condition {text!r} can't be parsed{_near(error)}") from None
    if not any(parsed):
        raise ValueError(f"the condition {text!r} is empty: leave it out")
    if len(parsed) != 1 or parsed[0] is None:
        raise ValueError(f"the condition {text!r} is not one expression")
    reader = _Reader(exp, text, _typed(exp, parsed[0], declared, numbers))
    tree = reader.boolean(parsed[0])
    return Condition(text, tree, tuple(sorted(reader.types.items())))


def _near(error: Exception) -> str:
    """Where an expression is wrong, as sqlglot has found it."""
    found = next((one.get("highlight") for one in getattr(error, "errors", ())), None)
    return f", at {found!r}: is a part missing there, or one too many?" if found else ""


def _typed(
    exp: Any, tree: Any, declared: Mapping[str, pa.DataType], numbers: Collection[str]
) -> dict[str, pa.DataType]:
    """The types of all columns of a condition, beside those that are ``declared``."""
    types = dict(declared)
    pairs = [(_bare(exp, left), _bare(exp, right)) for left, right in _compared_in(exp, tree)]
    pairs += [(right, left) for left, right in pairs]
    of_columns = [(left.name, right) for left, right in pairs if isinstance(left, exp.Column)]
    while True:  # what two columns that are compared have in common passes from one to the next
        found = [(name, _type_of(exp, other, types)) for name, other in of_columns if name not in types]
        known = [(name, type) for name, type in found if type is not None]
        if not known:
            break
        types |= dict(reversed(known))  # so that the first one counts
    compared = {name for name, _ in of_columns} | {*numbers}
    names = {column.name for column in tree.find_all(exp.Column)}
    return {name: pa.float64() if name in compared else pa.string() for name in names} | types


def _compared_in(exp: Any, tree: Any) -> Iterator[tuple[Any, Any]]:
    """What is compared with what, in the order of the text."""
    for node in tree.dfs():
        match node:
            case exp.Is() if isinstance(node.expression, exp.Boolean):
                yield node.this, node.expression
            case exp.Between():
                yield node.this, node.args["low"]
                yield node.this, node.args["high"]
            case exp.In():
                yield from ((node.this, value) for value in node.expressions)
            case exp.Column() if _stands_alone(exp, node):
                yield node, exp.true()
        if type(node).__name__.upper() in _COMPARISONS:
            yield node.left, node.right


def _stands_alone(exp: Any, node: Any) -> bool:
    while isinstance(node.parent, exp.Paren):
        node = node.parent
    return node.parent is None or isinstance(node.parent, exp.And | exp.Or | exp.Not)


def _type_of(exp: Any, node: Any, types: Mapping[str, pa.DataType]) -> pa.DataType | None:
    """The type that a column has by being compared with this; None if that is a column of a type not known yet."""
    if isinstance(node, exp.Column):
        return types.get(node.name)
    if isinstance(node, exp.Boolean):
        return pa.bool_()
    return pa.string() if isinstance(node, exp.Literal) and node.is_string else pa.float64()


class _Reader:
    """Makes tuples of sqlglot's tree, and notes the columns that it meets."""

    def __init__(self, exp: Any, text: str, known: Mapping[str, pa.DataType]):
        self.exp, self.text, self.known = exp, text, known
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
                return ("null", self.column(node.this, is_compared=False))
            case exp.Is() if isinstance(node.expression, exp.Boolean):
                return ("is", self.boolean_column(node.this), bool(node.expression.this))
            case exp.Between():
                least = ("GTE", *self.operands(node.this, node.args["low"]))
                return ("and", least, ("LTE", *self.operands(node.this, node.args["high"])))
            case exp.In() if node.expressions:
                pairs = [self.operands(node.this, value) for value in node.expressions]
                if any(value[0] != "value" for _, value in pairs):
                    raise ValueError(f"the condition {self.text!r}: IN takes a list of numbers or of texts")
                return ("in", pairs[0][0], tuple(value[1] for _, value in pairs))
            case exp.Column():
                return ("EQ", self.boolean_column(node), ("value", True))
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
            first = self.column(left)
            return first, self.value(right, self.types[first[1]])
        if isinstance(right, self.exp.Column):
            second = self.column(right)
            return self.value(left, self.types[second[1]]), second
        raise ValueError(f"the condition {self.text!r}: {left.sql()} and {right.sql()} are both no column")

    def column(self, node: Any, is_compared: bool = True) -> tuple:
        node = _bare(self.exp, node)
        if not isinstance(node, self.exp.Column) or node.table:
            raise ValueError(f"the condition {self.text!r}: {node.sql()!r} is not the name of a column")
        name, found = node.name, self.known[node.name]
        if is_compared and found not in COLUMN_TYPES:
            what = "an instant" if pa.types.is_timestamp(found) else "bytes"
            raise ValueError(
                f"the condition {self.text!r}: {name} is {what}, which can't be compared; only IS NULL and IS NOT NULL "
                "can be asked of it"
            )
        self.types[name] = found
        return ("column", name)

    def boolean_column(self, node: Any) -> tuple:
        column = self.column(node)
        if self.types[column[1]] != pa.bool_():
            told = f"{column[1]} is {_called(self.types[column[1]])}, and neither true nor false"
            raise ValueError(f"the condition {self.text!r}: {told}; compare it with a value")
        return column

    def value(self, node: Any, to: pa.DataType) -> tuple:
        exp = self.exp
        if isinstance(node, exp.Column):
            column = self.column(node)
            if (found := self.types[column[1]]) != to:
                told = f"{node.name} is {_called(found)}, and is compared with what is {_called(to)}"
                raise ValueError(f"the condition {self.text!r}: {told}")
            return column
        wrong = ValueError(f"the condition {self.text!r}: {node.sql()} is compared with a column that is {_called(to)}")
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


def _called(type: pa.DataType) -> str:
    return TYPE_NAMES.get(type, str(type))


def _compared(tree: tuple) -> Iterator[str]:
    kind, *parts = tree
    if kind == "column":
        yield parts[0]
    elif kind in ("in", "is"):
        yield from _compared(parts[0])
    elif kind not in ("null", "value"):
        for part in parts:
            yield from _compared(part)


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
