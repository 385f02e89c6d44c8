"""What a registry keeps of how a view is declared, from which the declaration is made again."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from feast import FeatureView
from feast.types import Float64, Int64, String

from parity.definition.checks import FeatureTable
from parity.definition.declare import DECLARED, DefinitionError
from parity.definition.recorded import are_one_version, recalled, under_version, version_of, versioned_path
from parity.edge.errors import UserError
from parity.edge.feast_internals import STORED_AS, stored_as
from tests.definition import aggregation, customer, customers, customers_in_stores, purchases, store, table, user

ENTITIES = {entity.name: entity for entity in (user, customer, store)}
HERE = Path("/anywhere")
READ_IN_MANY_WAYS = {
    "timestamp_format": "%d.%m.%Y %H:%M",
    "time_zone": "Europe/Berlin",
    "field_mapping": {"betrag": "total", "wann": "at"},
    "timestamp_field": "at",
    "delimiter": ";",
    "decimal": ",",
    "thousands": ".",
    "currency": "€",
    "null_values": ("-", "n/a"),
    "skip_rows": 2,
    "event_id": "order_id",
}


def in_many_ways(folder: Path) -> FeatureTable:
    columns = {"total": Float64, "quantity": Int64, "status": String}
    return table(folder, "orders", [customer], [aggregation("sum", "total", 0.5)], columns, **READ_IN_MANY_WAYS)


def sliding(folder: Path) -> FeatureTable:
    horizon = timedelta(hours=30)
    features = [aggregation("mean", "total", 3), aggregation("first", "quantity")]
    return table(
        folder, "sliding", [user], features, where="total > 0", continuous=True, horizon=horizon, ttl=timedelta(0)
    )


@pytest.mark.parametrize("declare", [purchases, customers, customers_in_stores, in_many_ways, sliding])
def test_a_view_of_a_registry_is_declared_again_as_it_was(declare):
    declared = declare(HERE)
    kept = FeatureView.from_proto(declared.view.to_proto())
    again = recalled(kept, ENTITIES)
    assert again.definition == declared.definition
    assert again.definition.fingerprint == declared.definition.fingerprint
    assert again.tags == declared.view.tags
    assert again.to_proto().spec == declared.view.to_proto().spec
    assert again.transactions.path == declared.view.transactions.path
    assert again.transactions.reading == declared.view.transactions.reading
    assert getattr(again.transactions, "event_id", None) == declared.event_id
    assert version_of(again) == version_of(kept) == version_of(declared.view)


def test_a_version_follows_from_what_is_served_and_from_nothing_else():
    def version(days=3, ttl=timedelta(days=30), **more):
        view = table(HERE, "one", [user], [aggregation("sum", "total", days, "spent")], ttl=ttl, **more).view
        return version_of(view)

    same = version()
    others = [version(days=4), version(ttl=timedelta(days=31)), version(where="total > 1"), version(continuous=True)]
    others += [version(continuous=True, horizon=timedelta(days=9)), version(transactions="/elsewhere/orders.csv")]
    others.append(version(time_zone="Europe/Berlin"))
    assert len({same, version(), *others}) == 8


def test_a_view_that_was_applied_without_its_declaration_is_one_with_what_gives_the_same():
    view, other = purchases(HERE).view, FeatureView.from_proto(purchases(HERE).view.to_proto())
    del other.tags[DECLARED]
    assert are_one_version(view, other)
    other.ttl = timedelta(days=1)
    assert not are_one_version(view, other)


def test_a_view_under_its_version_keeps_its_name_and_has_rows_of_its_own():
    view = purchases(HERE).view
    versioned = under_version(view, version_of(view))
    assert versioned.name == view.name == "purchases"
    assert stored_as(versioned) == version_of(view)
    assert versioned.batch_source.path == f"/anywhere/purchases.{version_of(view)}.parquet"
    assert versioned.projection.batch_source.path == versioned.batch_source.path
    assert view.batch_source.path == "/anywhere/purchases.parquet"
    assert stored_as(view) == ""
    assert recalled(FeatureView.from_proto(versioned.to_proto()), ENTITIES).tags == versioned.tags


@pytest.mark.parametrize(
    ("path", "versioned"),
    [
        ("/data/a.parquet", "/data/a.12.parquet"),
        ("s3://bucket/in/a.b.parquet", "s3://bucket/in/a.b.12.parquet"),
        ("/data.d/folder", "/data.d/folder.12"),
        ("s3://bucket/folder/", "s3://bucket/folder.12"),
        ("/data/.hidden", "/data/.hidden.12"),
    ],
)
def test_a_version_lies_beside_the_others(path, versioned):
    assert versioned_path(path, "12") == versioned


def test_a_view_that_was_applied_without_its_declaration_is_named():
    view = FeatureView.from_proto(purchases(HERE).view.to_proto())
    del view.tags[DECLARED]
    with pytest.raises(UserError, match="purchases was applied without how it is declared"):
        recalled(view, ENTITIES)


def test_a_declaration_that_gives_other_features_by_now_is_named():
    view = FeatureView.from_proto(purchases(HERE).view.to_proto())
    said = json.loads(view.tags[DECLARED])
    said["aggregations"][0][3] += 1
    view.tags[DECLARED] = json.dumps(said)
    with pytest.raises(UserError, match="purchases was declared for an earlier version of this library"):
        recalled(view, ENTITIES)


@pytest.mark.parametrize("tag", [DECLARED, STORED_AS])
def test_nobody_else_writes_these_tags(tag):
    from parity import AggregatedFeatureView

    view = purchases(HERE).view
    with pytest.raises(DefinitionError, match=f"the tag {tag}"):
        AggregatedFeatureView(
            name="one", entities=[user], transactions=view.transactions, aggregations=view.aggregations, tags={tag: "1"}
        )
