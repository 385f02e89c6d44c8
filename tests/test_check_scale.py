"""`parity check` on stores that take an extra: Spark, and DynamoDB as moto speaks it."""

import pytest

from tests.strangers import customers, orders, stranger

pytestmark = pytest.mark.scale


def test_dynamodb_is_compared_and_what_it_has_beside_the_source_is_counted(tmp_path, capfd, s3_url, monkeypatch):
    pytest.importorskip("aiobotocore")
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    online = {"type": "dynamodb", "region": "us-east-1", "endpoint_url": s3_url}
    theirs = stranger(tmp_path, capfd, "dask", online, project="dynamo")
    frame = orders(theirs.now)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 40)
    assert "keys that only DynamoDBOnlineStore has are not looked for" in found.out  # by name
    more = orders(theirs.now, keys=23).groupby("customer_id").tail(1)
    theirs.store.write_to_online_store("customers", more[more["customer_id"] > 20])
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["only-online"])
    assert (found.of("only-online")["keys"], found.of("only-online")["examples"]) == (3, [])
    theirs.write("orders", frame[frame["customer_id"] > 15])
    assert theirs.check().of("only-online")["keys"] == 18
    theirs.store.teardown()
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    theirs.write("orders", frame.assign(total=frame["total"] + 1))
    assert theirs.check().kinds == ["correction"]


def test_spark_is_compared(tmp_path, capfd):
    pytest.importorskip("pyspark")
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    theirs = stranger(tmp_path, capfd, "spark")
    frame = orders(theirs.now)
    theirs.write("orders", frame)
    source = SparkSource(
        name="orders",
        path=str(theirs.root / "orders.parquet"),
        file_format="parquet",
        timestamp_field="event_timestamp",
    )
    made = customers(source)
    theirs.apply(*made)
    theirs.store.write_to_online_store("customers", frame.groupby("customer_id").tail(1))
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 40)
    theirs.write("orders", frame.assign(total=frame["total"] + 1))
    assert theirs.check().kinds == ["unexplained"]
