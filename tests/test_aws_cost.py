"""The arithmetic of docs/scale.md's cost on AWS is right, and counts what the template makes."""

import re

import pytest

from tests.cloudformation import STORE, template
from tests.conftest import ROOT

COST = (ROOT / "docs" / "scale.md").read_text().partition("## What it costs on AWS")[2]
RESOURCES = template(STORE)["Resources"]


def bills() -> list[list[tuple[str, str, float]]]:
    """The rows of each bill: what, arithmetic, dollars."""
    rows = re.findall(r"^\| (.+?) \| (.*?) ?\| ([\d.,]+) \|$", COST, re.MULTILINE)
    ends = [number for number, row in enumerate(rows) if row[0] == "**together**"]
    parsed = [(what, arithmetic, float(dollars.replace(",", ""))) for what, arithmetic, dollars in rows]
    return [parsed[: ends[0] + 1], parsed[ends[0] + 1 : ends[1] + 1]]


def worked_out(arithmetic: str) -> float:
    assert re.fullmatch(r"[\d.+x/() ]+", arithmetic), arithmetic
    return eval(arithmetic.replace("x", "*"))


@pytest.mark.parametrize("number", [0, 1])
def test_each_row_comes_to_what_it_says_and_so_does_the_sum(number):
    *rows, (_, _, total) = bills()[number]
    assert len(rows) == 7
    for what, arithmetic, dollars in rows:
        assert round(worked_out(arithmetic), 2) == pytest.approx(dollars, abs=0.005), what
    assert sum(dollars for _, _, dollars in rows) == pytest.approx(total, abs=0.005)


def test_what_is_counted_is_what_the_template_makes():
    kinds = [resource["Type"] for resource in RESOURCES.values()]
    metrics = {
        one["MetricName"]
        for resource in RESOURCES.values()
        if resource["Type"] == "AWS::Logs::MetricFilter"
        for one in resource["Properties"]["MetricTransformations"]
    }
    counted = (kinds.count("AWS::SecretsManager::Secret"), kinds.count("AWS::CloudWatch::Alarm"), len(metrics))
    assert counted == (2, 3, 2)
    for rows in bills():
        assert rows[-2][1].startswith("2 x 0.40 + 3 x 0.10 + 2 x 0.30 +")
    assert RESOURCES["Redis"]["Properties"]["NumCacheClusters"] == 2
    assert template(STORE)["Parameters"]["NodeType"]["Default"] in bills()[0][0][0]
