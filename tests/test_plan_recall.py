"""How a feature was made, found by its fingerprint alone."""

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from parity.definition.table import Rule
from parity.plan.recall import recalled
from tests.definition import AVERAGE, purchases

TYPES = {"purchase_amount": pa.float64(), "product_id": pa.int64(), "shop": pa.string()}


@pytest.mark.parametrize(
    ("function", "column", "window"),
    [
        ("mean", "purchase_amount", timedelta(days=4)),
        ("mean", "purchase_amount", None),
        ("max", "product_id", timedelta(hours=36)),
        ("last", "shop", timedelta(minutes=30)),
    ],
)
def test_a_usual_way_is_found(tmp_path, function, column, window):
    definition = purchases(tmp_path).definition
    rule = Rule(AVERAGE, function, column, window, TYPES[column])
    made = {AVERAGE: replace(definition, rules=(rule,)).fingerprint}
    assert recalled(definition, TYPES, made) == {AVERAGE: rule}


def test_what_nobody_would_guess_is_not_known(tmp_path):
    definition = purchases(tmp_path).definition
    rule = Rule(AVERAGE, "mean", "purchase_amount", timedelta(days=3, microseconds=1))
    made = {AVERAGE: replace(definition, rules=(rule,)).fingerprint, "gone": "0" * 64}
    assert recalled(definition, TYPES, made) == {}
