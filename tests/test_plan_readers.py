"""What a plan says of services, experiments, on-demand views and renamed views: by descriptions of both sides alone."""

import pandas as pd
import pytest
from feast import Entity, Field, FileSource, ValueType
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import Float64

from parity.plan.as_json import as_json
from parity.plan.cost import Cost
from parity.plan.found import (
    ADDITIVE,
    BREAKING,
    NO_OP,
    RENAMED,
    UNCHANGED,
    VALUE_CHANGING,
    FeatureFound,
    Plan,
    ViewFound,
)
from parity.plan.pairing import notes_of
from parity.plan.probe import _code_of, _on_demand
from parity.plan.readers import notes_of_readers

VIEW = {
    "name": "v",
    "entities": ["user"],
    "keys": [["user_id", "Int64"]],
    "event": "event_timestamp",
    "ttl": 60.0,
    "online": True,
    "continuous": False,
    "horizon": None,
    "source": "/data/v.parquet",
    "version": None,
    "transactions": "/data/t.csv",
}


def side(services=(), experiments=(), on_demand=()) -> dict:
    return {"services": list(services), "experiments": list(experiments), "on_demand": list(on_demand)}


def service(name: str, *features: str, called: dict | None = None) -> dict:
    return {"name": name, "features": [one.split(":") for one in features], "called": called or {}}


def said(base: dict, head: dict, views=()) -> dict[str, str]:
    return {note.text: note.verdict for note in notes_of_readers(views, base, head)}


def test_a_service_that_gives_less_is_broken_and_one_that_gives_more_is_not():
    found = said(side([service("s", "v:a", "v:b")]), side([service("s", "v:a", "v:c")]))
    assert found == {
        "the service s does not give v:b any more": BREAKING,
        "the service s gives v:c too": ADDITIVE,
    }


def test_services_come_and_go():
    found = said(side([service("old", "v:a")]), side([service("new", "v:a")]))
    assert found == {"the service new is added": ADDITIVE, "the service old is removed": BREAKING}


def test_the_order_of_a_service_is_said_and_no_change_of_values():
    found = said(side([service("s", "v:a", "v:b")]), side([service("s", "v:b", "v:a")]))
    assert list(found.values()) == [NO_OP]


def test_another_alias_is_breaking():
    found = said(side([service("s", "v:a")]), side([service("s", "v:a", called={"v": "w"})]))
    assert found == {"the service s gives v as w, and gave it as v": BREAKING}


def test_a_view_that_is_renamed_and_given_under_its_old_name_is_no_news_of_the_service():
    renamed = ViewFound("new", RENAMED, before="v")
    found = said(side([service("s", "v:a")]), side([service("s", "new:a", called={"new": "v"})]), [renamed])
    assert BREAKING not in {verdict for text, verdict in found.items() if "gives new as" in text}


EXPERIMENT = {"name": "e", "unit": "user_id", "arms": {"a": "s", "b": "t"}, "shares": {"a": 0.5, "b": 0.5}}
EXPERIMENT |= {"seed": "e", "coverage": 1.0}


@pytest.mark.parametrize(
    "change",
    [{"seed": "f"}, {"coverage": 0.5}, {"shares": {"a": 0.9, "b": 0.1}}, {"arms": {"b": "t", "a": "s"}}, {"unit": "x"}],
)
def test_whatever_moves_units_between_arms_changes_values(change):
    found = said(side(experiments=[EXPERIMENT]), side(experiments=[EXPERIMENT | change]))
    assert list(found.values()) == [VALUE_CHANGING]


def test_experiments_are_not_asked_of_a_registry_which_knows_none():
    base = side() | {"experiments": None, "on_demand": None}
    assert said(base, side(experiments=[EXPERIMENT])) == {}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"ttl": 30.0}, VALUE_CHANGING),
        ({"ttl": None}, VALUE_CHANGING),
        ({"continuous": True, "horizon": 60.0}, VALUE_CHANGING),
        ({"online": False}, BREAKING),
        ({"keys": [["user_id", "String"]]}, BREAKING),
        ({"keys": [["user_id", "Int64"], ["shop", "String"]]}, BREAKING),
        ({"entities": ["buyer"]}, NO_OP),
        ({"event": "at"}, NO_OP),
        ({"source": "/elsewhere.parquet"}, NO_OP),
        ({"transactions": "/elsewhere.csv"}, VALUE_CHANGING),
    ],
)
def test_what_a_view_is_beside_its_features_has_a_verdict(change, verdict):
    [note] = notes_of(VIEW, VIEW | change)
    assert note.verdict == verdict


def test_a_view_that_is_deployed_under_a_version_is_kept_elsewhere_by_that():
    assert notes_of(VIEW | {"source": "/data/v.1a2b.parquet", "version": "1a2b"}, VIEW) == []


def test_a_view_that_is_the_same_has_no_notes():
    assert notes_of(VIEW, dict(VIEW)) == []


def on_demand(function) -> OnDemandFeatureView:
    from feast import FeatureView, RequestSource

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="v",
        entities=[user],
        schema=[Field(name="a", dtype=Float64)],
        source=FileSource(path="/x", timestamp_field="t"),
    )
    asked = RequestSource(name="asked", schema=[Field(name="b", dtype=Float64)])
    schema = [Field(name="c", dtype=Float64)]
    return OnDemandFeatureView(name="o", sources=[view, asked], schema=schema, mode="pandas", udf=function)


def test_a_comment_in_an_on_demand_function_is_nothing_and_another_number_is():
    def plain(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"c": inputs["a"] + 1.0})

    def plain_with_words(inputs: pd.DataFrame) -> pd.DataFrame:
        """What it is."""
        # and why
        return pd.DataFrame({"c": inputs["a"] + 1.0})

    def other(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"c": inputs["a"] + 2.0})

    assert _code_of(on_demand(plain)) == _code_of(on_demand(plain_with_words)) != _code_of(on_demand(other))
    before, after = ([_on_demand(on_demand(one))] for one in (plain, other))
    [(text, verdict)] = said(side(on_demand=before), side(on_demand=after)).items()
    assert "its function is another, and its values are not compared" in text
    assert verdict == VALUE_CHANGING
    changed = ViewFound("v", "values changed")
    [text] = said(side(on_demand=before), side(on_demand=before), [changed])
    assert text == "the on-demand view o is made of v, whose values change"


def test_other_transactions_are_value_changing_also_where_no_value_differs():
    [note] = notes_of(VIEW, VIEW | {"transactions": "/data/u.csv"})
    assert note.text == "its transactions are at /data/u.csv, and were at /data/t.csv: other rows give other values"
    assert note.verdict == VALUE_CHANGING
    assert not notes_of(VIEW, VIEW | {"transactions": "/data/../data/t.csv"}), "the same file, written otherwise"
    assert not notes_of(VIEW | {"transactions": None}, VIEW), "a base that does not say where they were"


def test_the_place_of_a_version_is_no_news_and_another_place_is():
    assert not notes_of(VIEW | {"source": "/data/v.a9d9c63d.parquet", "version": "a9d9c63d"}, VIEW)
    [note] = notes_of(VIEW, VIEW | {"source": "/data/w.parquet"})
    assert note.text == "its features are kept at /data/w.parquet, and were at /data/v.parquet: compute them there"


def test_a_view_is_changed_to_a_machine_where_one_of_its_features_has_another_name():
    feature = FeatureFound("new", RENAMED, "Int64", before="old")
    views = [ViewFound("v", UNCHANGED, features=[feature]), ViewFound("w", UNCHANGED)]
    found = as_json(Plan("base", "head", "all keys", views))["views"]
    assert [(one["status"], one["verdict"]) for one in found] == [("changed", BREAKING), ("unchanged", NO_OP)]


def test_a_cost_says_on_how_many_keys_it_was_measured():
    cost = Cost(1354, 32_000, 0.39, 18, 112_000, 0.0054, times=4.5, online_times=9.0)
    offline, online = cost.lines("keys")
    assert offline.endswith("measured on 4 of 18 keys and multiplied")
    assert online.endswith("measured on 2 of 18 keys and multiplied")
    assert next(Cost(1, 1, 0.1, 18, None, None, 1.0, 1.0).lines("keys")).endswith(", measured")
