"""The peer of the stream's throughput: Quix Streams, from a topic to Redis, in an environment of its own.

    .venv/quix/bin/python benchmarks/quix_stream.py windows|state BROKER TOPIC EVENTS PORT FOLDER

The features are those of benchmarks/streams.py: mean and count over an hour, sum and count of all. ``windows`` has the
former by a sliding window of Quix Streams, ``state`` by the events themselves, in the state of a function.
"""

import json
import sys
import time
from datetime import timedelta

from quixstreams import Application
from quixstreams.dataframe.windows.aggregations import Count, Mean
from quixstreams.sinks.community.redis import RedisSink

HOUR = timedelta(hours=1)
MICROSECONDS = HOUR // timedelta(microseconds=1)


def all_so_far(event: dict, state) -> dict:
    found = {"sum": state.get("sum", 0.0) + event["amount"], "purchases": state.get("purchases", 0) + 1}
    for name, value in found.items():
        state.set(name, value)
    return found


def with_the_last_hour(event: dict, state) -> dict:
    after = event["at"] - MICROSECONDS
    kept = [one for one in state.get("events", []) if one[0] >= after] + [[event["at"], event["amount"]]]
    state.set("events", kept)
    return {"mean": sum(amount for _, amount in kept) / len(kept), "count": len(kept), **all_so_far(event, state)}


def sink(port: int, kind: str) -> RedisSink:
    return RedisSink("127.0.0.1", port, 0, key_serializer=lambda key, value: f"{kind}:{key.decode()}")


def main(way: str, broker: str, topic: str, events: int, port: int, folder: str) -> None:
    app = Application(
        broker,
        consumer_group=f"quix-{topic}-{way}",
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=folder,
        use_changelog_topics=False,
        loglevel="WARNING",
    )
    read = app.topic(topic, key_deserializer="bytes", timestamp_extractor=lambda event, *_: event["at"] // 1000)
    events_of = app.dataframe(read)
    if way == "windows":
        window = events_of.sliding_window(HOUR, name="hour").agg(mean=Mean("amount"), count=Count()).current()
        window.sink(sink(port, "hour"))
        events_of.apply(all_so_far, stateful=True).sink(sink(port, "all"))
    else:
        events_of.apply(with_the_last_hour, stateful=True).sink(sink(port, "user"))
    begun = time.perf_counter()
    app.run(count=events, collect=False, timeout=60)
    print(json.dumps({"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    way, broker, topic, events, port, folder = sys.argv[1:]
    main(way, broker, topic, int(events), int(port), folder)
