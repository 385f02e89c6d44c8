"""python -m parity plan --against: what a change of features.py does to values, by one plan that has all of it."""

import json
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import pandas as pd
import pyarrow.csv as pacsv
import pytest

from parity.definition.checks import declared
from parity.model.contract import Contract
from parity.plan.as_json import as_json
from parity.plan.command import planned
from parity.plan.found import BREAKING, Note
from parity.plan.markdown import MARK, as_markdown, lines_not_folded
from parity.plan.terminal import shown
from tests.plans import Shop

BASE = """
spending = view("spending", [buyer], [
    made("mean_3d", "mean", "amount", 3),
    made("spent", "sum", "amount"),
    made("bought_ever", "count", "amount"),
    made("first_product", "first", "product", 5),
    made("pieces_7d", "sum", "pieces", 7),
    made("typed", "max", "pieces"),
    made("gone", "min", "pieces", 2),
    made("one", "count", "product", 1 / 86400),
])
visits = view("visits", [buyer, shop], [made("visits_5d", "count", "amount", 5)])
stays = view("stays", [shop], [made("shop_spent", "sum", "amount"), made("shop_mean", "mean", "amount", 9)])
old = view("old", [shop], [made("of_old", "max", "amount", 3)])
rekeyed = view("rekeyed", [buyer], [made("by_buyer", "count", "amount")])
paid = view("paid", [buyer], [made("paid_4d", "sum", "amount", 4)], where="amount > 10")
everything = FeatureService(name="everything", features=[spending, visits, stays, old, rekeyed, paid])
few = FeatureService(name="few", features=[spending[["mean_3d"]]])
some = FeatureService(name="some", features=[spending[["spent"]]])
trial = Experiment(name="trial", unit="buyer_id", arms={"control": some, "treatment": few})
"""
CHANGED = """
# a comment, and another order
spending = view("spending", [buyer], [
    made("spent", "sum", "amount"),
    made("mean_3d", "mean", "amount", 4),
    made("purchases", "count", "amount"),
    made("first_product", "first", "product", 2),
    made("pieces_7d", "sum", "pieces", 7),
    made("typed", "max", "amount"),
    made("var_9d", "var", "amount", 9),
    made("one", "count", "product", 1 / 86400),
])
visits = view("visits", [buyer, shop], [made("visits_5d", "count", "amount", 5)], ttl=timedelta(days=2))
remains = view("remains", [shop], [made("shop_spent", "sum", "amount"), made("shop_mean", "mean", "amount", 9)])
rekeyed = view("rekeyed", [shop], [made("by_buyer", "count", "amount")])
paid = view("paid", [buyer], [made("paid_4d", "sum", "amount", 4)], where="amount > 5")
new = view("new", [buyer], [made("of_new", "max", "amount", 3)])
everything = FeatureService(name="everything", features=[spending, visits, remains, rekeyed, paid, new])
few = FeatureService(name="few", features=[spending[["mean_3d"]]])
some = FeatureService(name="some", features=[spending[["spent"]]])
trial = Experiment(name="trial", unit="buyer_id", arms={"control": some, "treatment": few}, seed="another")
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("plan"), BASE)
    declarations = declared(shop.folder)
    for number, service in enumerate(("everything", "some", "some", "few")):
        place = shop.folder / "data" / f"run_{number}" / "contract.json"
        place.parent.mkdir(parents=True)
        place.write_text(Contract.of(declarations, service, project="shop").to_json())
    place.with_name("other.model").write_text("no model")
    shop.write(CHANGED)
    return shop


@pytest.fixture(scope="module")
def plan(shop):
    before = shop.files()
    found = planned(shop.folder, "main")
    assert shop.files() == before, "a plan writes nothing into the checkout, nor into .git"
    return found


@pytest.fixture(scope="module")
def found(plan):
    """The plan as JSON has it."""
    return json.loads(json.dumps(as_json(plan), allow_nan=False))


def view_of(found: dict, name: str) -> dict:
    return next(view for view in found["views"] if view["view"] == name)


def feature_of(found: dict, view: str, name: str) -> dict:
    return next(one for one in view_of(found, view)["features"] if one["feature"] == name)


def bought(shop: Shop) -> pd.DataFrame:
    frame = pacsv.read_csv(shop.folder / "bought.csv").to_pandas()
    return frame.assign(at=pd.to_datetime(frame["at"], utc=True))


def test_the_window_of_a_mean_changes_the_rows_and_keys_that_a_naive_mean_says(shop, found):
    frame, rows, keys, differences, latest = bought(shop), 0, set(), [], {}
    for buyer, own in frame.groupby("buyer_id"):
        for at in sorted(own["at"]):
            means = []
            for days in (3, 4):
                inside = own[(own["at"] >= at - timedelta(days=days)) & (own["at"] <= at)]
                means.append(round(float((inside["amount"] * 100).round().sum()) / len(inside), 6))
            latest[buyer] = means[0] != means[1]
            if means[0] != means[1]:
                rows, keys = rows + 1, keys | {buyer}
                differences.append((means[1] - means[0]) / 100)
    change = feature_of(found, "spending", "mean_3d")["change"]
    assert change["rows"] == {"differ": rows, "compared": len(frame)}
    assert change["keys"]["differ"] == len(keys)
    assert change["keys"]["differ_at_latest"] == sum(latest.values())
    assert change["difference"]["0"] == pytest.approx(min(differences), abs=1e-6)
    assert change["difference"]["1"] == pytest.approx(max(differences), abs=1e-6)
    assert change["difference"]["0.5"] == pytest.approx(pd.Series(differences).median(), abs=1e-6)


def test_the_five_keys_that_change_most_come_with_the_purchases_that_entered_their_window(shop, found):
    users = feature_of(found, "spending", "mean_3d")["change"]["users"]
    assert len(users) == 5
    sizes = [abs(user["after"] - user["before"]) for user in users]
    assert sizes == sorted(sizes, reverse=True)
    frame = bought(shop)
    for user in users:
        at = pd.Timestamp(user["at"])
        own = frame[frame["buyer_id"] == int(user["key"])]
        new = own[(own["at"] < at - timedelta(days=3)) & (own["at"] >= at - timedelta(days=4))]
        entered = [(datetime.fromisoformat(one["at"]), one["value"]) for one in user["entered"]]
        assert entered == sorted(zip(new["at"], new["amount"], strict=True), reverse=True)
        assert entered
        assert user["left"] == []


def test_texts_that_change_are_counted_by_what_they_were_and_are(shop, found):
    moves = Counter()
    for _, own in bought(shop).sort_values("at").groupby("buyer_id"):
        for at in own["at"]:
            was, now = (own[(own["at"] >= at - timedelta(days=days)) & (own["at"] <= at)].iloc[0] for days in (5, 2))
            if was["product"] != now["product"]:
                moves[was["product"], now["product"]] += 1
    change = feature_of(found, "spending", "first_product")["change"]
    assert change["rows"]["differ"] == moves.total() > 0
    assert [one["rows"] for one in change["moves"]] == [count for _, count in moves.most_common(3)]
    assert all(moves[one["before"], one["after"]] == one["rows"] for one in change["moves"])
    assert change["difference"] is None


def test_what_is_only_moved_or_commented_is_unchanged(found):
    for name in ("spent", "pieces_7d", "one"):
        one = feature_of(found, "spending", name)
        assert (one["status"], one["verdict"], one["change"]["rows"]["differ"]) == ("unchanged", "no-op", 0)
        assert one["change"]["rows"]["compared"] == 400


def test_a_feature_with_the_same_values_under_another_name_is_renamed(found):
    one = feature_of(found, "spending", "purchases")
    assert (one["status"], one["before"], one["verdict"]) == ("renamed", "bought_ever", "breaking")
    assert one["change"]["rows"]["differ"] == 0


def test_features_come_and_go_and_change_their_type(found):
    assert feature_of(found, "spending", "var_9d")["verdict"] == "additive"
    assert feature_of(found, "spending", "gone")["verdict"] == "breaking"
    typed = feature_of(found, "spending", "typed")
    assert (typed["status"], typed["type_before"], typed["type"]) == ("type changed", "Int64", "Float64")
    assert typed["verdict"] == "breaking"


def test_a_view_with_the_same_values_under_another_name_is_renamed(found):
    view = view_of(found, "remains")
    assert (view["status"], view["before"], view["verdict"]) == ("renamed", "stays", "breaking")
    assert {one["status"] for one in view["features"]} == {"unchanged"}


def test_a_view_that_is_found_by_other_keys_is_broken(found):
    view = view_of(found, "rekeyed")
    assert view["verdict"] == "breaking"
    assert "found by shop (String), and was by buyer_id (Int64)" in view["notes"][0]["text"]
    assert view["features"][0]["status"] == "not compared"


def test_views_come_and_go(found):
    assert view_of(found, "new")["status"] == "added"
    assert view_of(found, "old")["status"] == "removed"
    assert view_of(found, "new")["verdict"] == "additive"
    assert view_of(found, "old")["verdict"] == "breaking"


def test_another_ttl_changes_what_is_served_of_equal_rows(shop, found):
    view = view_of(found, "visits")
    assert feature_of(found, "visits", "visits_5d")["change"]["rows"]["differ"] == 0
    assert view["verdict"] == "value-changing"
    last = bought(shop).groupby(["buyer_id", "shop"])["at"].max()
    age = bought(shop)["at"].max() - last
    gone = ((age > timedelta(days=2)) & (age <= timedelta(days=30))).sum()
    assert any(
        f"{gone:,} of {len(last):,} keys of buyer and shop are served nothing" in one["text"] for one in view["notes"]
    )


def test_other_rows_are_compared_by_what_a_reader_gets_at_each_instant(shop, found):
    frame = bought(shop)
    frame = frame[frame["amount"] > 5].sort_values("at")
    differ = 0
    for _, own in frame.groupby("buyer_id"):
        seen = None
        for at, amount in zip(own["at"], own["amount"], strict=True):
            inside = own[(own["at"] >= at - timedelta(days=4)) & (own["at"] <= at)]["amount"]
            if amount > 10:
                seen = round(inside[inside > 10].sum(), 2)
            differ += seen is None or seen != round(inside.sum(), 2)
    view = view_of(found, "paid")
    assert view["rows"] == len(frame)
    assert view["rows_only_in_head"] == (frame["amount"] <= 10).sum()
    assert view["rows_only_in_base"] == 0
    assert feature_of(found, "paid", "paid_4d")["change"]["rows"]["differ"] == differ
    assert view["verdict"] == "value-changing"


def test_services_and_arms_that_read_a_feature_are_named(found):
    one = feature_of(found, "spending", "mean_3d")
    assert (one["services"], one["arms"]) == (["everything", "few"], ["trial/treatment"])
    assert feature_of(found, "spending", "gone")["services"] == ["everything"]


def test_what_a_service_does_not_give_any_more_and_an_experiment_that_draws_anew_are_said(found):
    said = {one["text"]: one["verdict"] for one in found["notes"]}
    assert said["the service everything does not give spending:gone, old:of_old any more"] == "breaking"
    assert any("trial: its seed were trial and are another" in text for text in said)


def test_models_that_would_be_served_other_values_than_they_were_trained_on_are_named(found):
    models = {one["service"]: one for one in found["models"]}
    assert models["few"]["served_other_values"] == ["spending:mean_3d (values changed)"]
    assert models["few"]["refused"]
    assert "spending:gone (removed)" in models["everything"]["served_other_values"]
    assert "visits:visits_5d (other rows, or another ttl)" in models["everything"]["served_other_values"]
    assert "spending:spent (unchanged)" not in models["everything"]["served_other_values"]
    assert not any(one["stale"] for one in models.values())
    read_by = feature_of(found, "spending", "mean_3d")["models"]
    assert read_by == [models["everything"]["model"], models["few"]["model"]]


def test_a_model_of_features_that_stay_is_served_what_it_was_trained_on(found):
    some = next(one for one in found["models"] if one["service"] == "some")
    assert (some["served_other_values"], some["refused"], len(some["places"])) == ([], False, 2)


def test_what_is_no_model_is_said_and_passed_over(found):
    assert any("other.model" in one and "not a file that a model was saved to" in one for one in found["not_asked"])


def test_the_verdict_is_the_worst_and_the_values_are_counted(found):
    assert found["verdict"] == BREAKING
    changes = [one["change"] for view in found["views"] for one in view["features"] if one["change"]]
    assert found["values"]["compared"] == sum(one["rows"]["compared"] for one in changes)
    assert found["values"]["differ"] == sum(one["rows"]["differ"] for one in changes) > 0


def test_the_cost_of_what_has_to_be_computed_anew_is_measured(found):
    cost = view_of(found, "spending")["cost"]
    assert cost["offline"]["rows"] == 400
    assert cost["offline"]["bytes"] > 0
    assert cost["online"]["keys"] == 30
    assert cost["online"]["bytes"] > 1000
    assert view_of(found, "new")["cost"]["online"]["keys"] == 30


def test_a_person_reads_it_on_a_terminal(plan):
    text = shown(plan)
    assert "with changes that are not committed, against main (" in text
    assert "was mean of amount in 3 days, is mean of amount in 4 days" in text
    assert text.splitlines()[-1].startswith("breaking: ")


def test_the_comment_of_a_pull_request_fits_a_screen_and_folds_the_rest(plan):
    lines = as_markdown(plan).splitlines()
    assert lines[0] == MARK
    assert lines_not_folded(lines) <= 50
    assert sum(line.startswith("<details>") for line in lines) == sum(line == "</details>" for line in lines) > 3
    assert any("`spending:mean_3d`" in line and "values changed" in line for line in lines)
    assert "- 🔴 `remains`: renamed, was `stays`" in lines


def test_the_comment_of_a_large_change_fits_a_screen_too(plan):
    many = replace(plan, views=[replace(view, name=f"{view.name}_{n}") for n in range(30) for view in plan.views])
    text = as_markdown(many)
    assert lines_not_folded(text.splitlines()) <= 50
    assert len(text) <= 65_536
    assert text.count("<details>") == text.count("</details>")


def test_names_that_would_be_markdown_are_text(plan):
    [view, *_] = plan.views
    evil = replace(view, name="a|b`c<details>@all", notes=[Note("[x](http://y) <img> #1", BREAKING)])
    text = as_markdown(replace(plan, views=[evil]))
    assert "<img>" not in text
    assert "[x](" not in text
    assert all(line.count("|") - line.count("\\|") == 6 for line in text.splitlines() if line.startswith("| `"))


def test_the_drift_of_new_values_against_old_is_judged_or_said_how(plan, found):
    drift = feature_of(found, "spending", "mean_3d")["change"]["drift"]
    try:
        import scipy  # noqa: F401
    except ModuleNotFoundError:
        assert any("requirements-drift.txt" in one for one in plan.not_asked)
    else:
        assert drift["status"] in ("drift", "steady", "too small to matter")
