"""The HTML report: one file that stands by itself and shows what was found."""

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest

from parity.proof.raw import Purchase
from parity.report.shortcuts import local_days, rolling_rows, sql_interval
from tests.repository.features import user_purchase_features
from tests.test_demo import hashes

MEAN = user_purchase_features.definition.rules[0]


@pytest.fixture
def ready(project):
    project.prepare()
    return project


def page(project, status: int) -> str:
    path = project.root / "report.html"
    assert project.run("demo_fixed.py", "--report", path).status == status
    return path.read_text()


def charts(html: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def points(chart: ET.Element, kind: str) -> int:
    return sum(circle.get("class") == kind for circle in chart.iter("circle"))


@pytest.mark.smoke
def test_a_healthy_store(ready):
    html = page(ready, 0)
    assert '<h1 class="good">Equal</h1>' in html
    assert re.search(r"<b class=\"\">40</b><span>match</span>", html)
    average, total, *naive, _latency = charts(html)
    for chart in (average, total):
        assert (points(chart, "on"), points(chart, "off")) == (20, 0)
    assert len(naive) == 3
    assert all(points(chart, "on") + points(chart, "off") == 20 for chart in naive)
    assert "Causes" not in html


def test_a_skewed_store(ready):
    keys = hashes(ready)
    ready.client.delete(keys[3], keys[4])
    html = page(ready, 1)
    assert '<h1 class="bad">Skew</h1>' in html
    assert re.search(r"<td>4</td><td>never materialized</td>", html)
    assert re.search(r"<td>3</td><td>user_total_transactions</td>\s*<td>\d</td><td>null</td>", html)
    for chart in charts(html)[:2]:
        assert (points(chart, "on"), points(chart, "off")) == (18, 2)


def test_it_loads_nothing_and_runs_nothing(ready):
    html = page(ready, 0)
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", html)


def test_it_holds_no_secret(ready):
    ready.configure(online_store__connection_string=f"localhost:{ready.port},client_name=hush-hush")
    assert "hush-hush" not in page(ready, 0)


def test_a_run_that_fails_leaves_the_earlier_page_whole(ready, monkeypatch):
    html = page(ready, 0)
    monkeypatch.setattr("parity.report.page.charts.histogram", lambda *_: 1 / 0)
    assert "unexpected ZeroDivisionError" in ready.fail("demo_fixed.py", "--report", ready.root / "report.html")
    assert (ready.root / "report.html").read_text() == html


class TestNaive:
    """What the three implementations of the problem statement make of purchases that tell them apart."""

    event = datetime(2026, 3, 8, 3, 30, tzinfo=UTC)  # late in the evening of the day before in New York

    def bought(self, *ages: timedelta) -> dict[int, list[Purchase]]:
        return {1: [Purchase(self.event - age, {"purchase_amount": str(2**i)}) for i, age in enumerate(ages)]}

    def test_rows_are_not_days(self):
        days = [timedelta(days=age) for age in (0, 10, 20, 30)]
        assert rolling_rows(self.bought(*days), MEAN) == {1: (1 + 2 + 4) / 3}

    def test_exclusive_bounds_lose_both_ends(self):
        bought = self.bought(timedelta(), timedelta(days=1), timedelta(days=3))
        assert sql_interval(bought, MEAN) == {1: 2.0}
        assert sql_interval(self.bought(timedelta()), MEAN) == {}

    def test_local_days_are_other_days(self):
        bought = self.bought(timedelta(), timedelta(days=2, hours=22), timedelta(days=2, hours=23))
        assert local_days(bought, MEAN) == {1: 1.5}
