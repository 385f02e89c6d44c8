"""A worker on a real Redis: what it reads, applies and lands, whatever is lost, killed or done twice meanwhile."""

import threading
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from parity.edge.errors import UserError
from parity.edge.redis_server import free_port
from parity.stream.broker import Lost, Reached
from parity.stream.configuration import StreamSource
from parity.stream.events import Bad, EventReader
from parity.stream.metrics import Metrics
from parity.stream.redis_source import RedisBroker, id_of, offset_of
from parity.stream.worker import OnlineStore, Worker
from parity.transactions.landed import NOWHERE, OFFSET, high_water
from tests.definition import purchases

NOW = datetime(2026, 7, 10, tzinfo=UTC)


@pytest.fixture
def client(redis_port):
    with redis.Redis(port=redis_port) as client:
        yield client


@pytest.fixture
def source(tmp_path):
    name = f"shop-{uuid.uuid4().hex[:12]}"
    tables = (purchases(tmp_path),)
    return StreamSource(
        name,
        tables,
        tmp_path / "landed",
        tmp_path / "stream.yaml",
        stream=name,
        dead_letters=f"{name}.dead",
        landing_seconds=0.05,
        wait_seconds=5,
        replay_seconds=0,
    )


class Stub:
    """Stands in for a worker where only what a broker asks of it matters: up to where events have landed."""

    def __init__(self, landed: dict | None = None, kept: int | None = None, is_whole: bool = True):
        self.landed, self.kept, self.is_whole = landed or {}, kept, is_whole
        self.refilled: list[str] = []
        self.emptied = False
        self.known: list[int] = list(self.landed.values())

    def reached(self) -> dict[str, Reached]:
        return {
            partition: Reached(offset, offset if self.kept is None else self.kept, self.is_whole)
            for partition, offset in self.landed.items()
        }

    def settle(self) -> None: ...

    def has_landed(self, partition, offsets) -> bool:
        return not set(self.known).isdisjoint(offsets)

    def refill(self, why: str) -> None:
        self.refilled.append(why)

    def is_emptied(self) -> bool:
        return self.emptied


def add(client, source, *events: str | dict, key: str | None = None, id: str = "*") -> list[bytes]:
    """Add events to a stream; of a number, one that is good."""
    entries = [{"event": event} if isinstance(event, str) else event for event in events]
    return [client.xadd(key or source.stream, entry, id) for entry in entries]


def event(user: int = 7, amount: float = 1.5, minute: int = 0) -> str:
    at = (NOW - timedelta(minutes=minute)).isoformat()
    return f'{{"user_id": {user}, "timestamp": "{at}", "purchase_amount": {amount}}}'


def started(source, client, landed: dict | Stub | None = None, skip_lost: bool = False, only=None) -> RedisBroker:
    broker = RedisBroker(source, client, "here", only)
    broker.start(landed if isinstance(landed, Stub) else Stub(landed), skip_lost)
    return broker


def offsets(found: list) -> list[int]:
    return [offset for raw in found for offset in raw.offsets]


# Redis Streams


def test_an_id_and_an_offset_are_one_and_grow_alike():
    ids = [b"0-1", b"1-0", b"1-2097151", b"2-0", b"1795671565755-3", b"4398046511103-2097151"]
    assert [id_of(offset_of(id)) for id in ids] == ids
    assert sorted(map(offset_of, ids)) == [offset_of(id) for id in ids]
    assert offset_of(ids[-1]) == 2**63 - 1
    for beyond in (b"4398046511104-0", b"1-2097152"):
        with pytest.raises(UserError, match=r"has an id beyond 4398046511103-2097151"):
            offset_of(beyond)


def test_what_is_there_is_read_in_order_and_never_waited_for(source, client):
    ids = add(client, source, *(event(n) for n in range(5)), {"note": "x"}, {"note": "x", "event": "{}"})
    broker = started(replace(source, batch=4), client)
    begin = time.monotonic()
    first, second = broker.read(5), broker.read(5)
    assert time.monotonic() - begin < 2
    assert offsets(first) + offsets(second) == [offset_of(id) for id in ids]
    assert second[0].values == [event(4).encode(), None, b"{}"]
    assert broker.read(0.01) == []
    assert first[0].partition == f"{source.name}/0"


def test_a_stream_that_is_not_there_yet_is_waited_for(source, client):
    broker = started(source, client)
    assert broker.read(0.01) == []
    add(client, source, event())
    assert len(offsets(broker.read(1))) == 1


def test_several_partitions_are_several_streams_of_which_some_may_be_named(source, client):
    source = replace(source, partitions=3)
    for number in range(3):
        add(client, source, event(number), key=f"{source.stream}:{number}")
    assert [raw.partition for raw in started(source, client).read(1)] == [f"{source.name}/{n}" for n in range(3)]
    assert [raw.partition for raw in started(source, client, only=[0, 2]).read(1)] == [
        f"{source.name}/0",
        f"{source.name}/2",
    ]
    with pytest.raises(UserError, match=r"there is no partition 3: it has 3, from 0 on"):
        started(source, client, only=[3])


@pytest.mark.parametrize("removed", ["trimmed", "deleted one by one", "with what was noted"])
def test_entries_gone_before_they_were_read_are_one_loud_error(source, client, removed):
    ids = add(client, source, *(event(n) for n in range(7)))
    first, landed = started(replace(source, batch=2), client), {f"{source.name}/0": offset_of(ids[1])}
    first.read(1)
    first.commit(landed)
    client.xtrim(source.stream, minid=ids[2], approximate=False)
    assert len(offsets(started(source, client, landed).read(1))) == 5  # what is gone had landed
    broker = started(source, client, landed)
    if removed == "deleted one by one":
        client.xdel(source.stream, ids[4])
    else:
        client.xtrim(source.stream, minid=ids[5], approximate=False)
    told = r"entries of the stream .* behind .*, up to which it was read, were deleted before they were.*--skip-lost"
    with pytest.raises(UserError, match=told):
        broker.read(1)
    if removed == "with what was noted":
        client.xgroup_destroy(source.stream, "feature-store")
    with pytest.raises(UserError, match=told):
        started(source, client, landed)
    left = 4 if removed == "deleted one by one" else 2
    assert len(offsets(started(source, client, landed, skip_lost=True).read(1))) == left


def test_how_far_a_worker_is_shows_in_redis(source, client):
    ids = add(client, source, *(event(n) for n in range(5)))
    broker = started(replace(source, batch=3), client)
    broker.read(1)
    broker.commit({f"{source.name}/0": offset_of(ids[2])})
    [group] = client.xinfo_groups(source.stream)
    assert (group["entries-read"], group["lag"], group["last-delivered-id"]) == (3, 2, ids[2])


def test_entries_that_were_read_may_be_trimmed_while_a_worker_runs(source, client):
    ids = add(client, source, *(event(n) for n in range(4)))
    broker = started(replace(source, batch=2), client)
    assert len(offsets(broker.read(1))) == 2
    client.xtrim(source.stream, minid=ids[2], approximate=False)
    assert len(offsets(broker.read(1))) == 2
    client.xtrim(source.stream, maxlen=0, approximate=False)
    assert broker.read(0) == []
    add(client, source, event())
    assert len(offsets(broker.read(1))) == 1


def test_a_stream_that_is_gone_or_made_anew_is_one_loud_error(source, client):
    ids = add(client, source, event(), event())
    landed = {f"{source.name}/0": offset_of(ids[1])}
    broker = started(source, client, landed)
    client.delete(source.stream)
    for read in (lambda: broker.read(0), lambda: started(source, client, landed)):
        with pytest.raises(UserError, match=r"the stream .* is gone .*--skip-lost"):
            read()
    again = started(source, client, landed, skip_lost=True)
    time.sleep(0.002)  # ids are times
    add(client, source, event())
    assert len(offsets(again.read(1))) == 1
    client.delete(source.stream)
    add(client, source, event(), id="1-1")
    for skip in (False, True):
        with pytest.raises(UserError, match=r"was made anew, or a clock was set back: .* write generation: 1 for this"):
            started(source, client, landed, skip_lost=skip)
    anew = replace(source, generation=1)
    assert started(anew, client, landed).read(1)[0].partition == f"{source.name}/1.0"


@pytest.mark.parametrize("replay", [0, 1, 3, 500, 1251])
@pytest.mark.parametrize("is_whole", [True, False])
def test_entries_that_have_landed_are_read_once_more_from_where_the_rows_surely_have_them(
    source, client, replay, is_whole
):
    pipe = client.pipeline()
    for number in range(1300):
        pipe.xadd(source.stream, {"event": event(number)})
    offset = [NOWHERE, *map(offset_of, pipe.execute())]
    progress = Stub({f"{source.name}/0": offset[1251]}, offset[1251 - replay], is_whole)
    broker = started(replace(source, batch=5000), client, progress)
    assert offsets(broker.read(1)) == offset[1252 - replay :]
    assert progress.refilled == []


@pytest.mark.parametrize("gone", ["before what rows have", "the end", "all of it", "nothing"])
def test_rows_that_lost_what_the_stream_has_not_any_more_are_refilled(source, client, gone):
    ids = add(client, source, *(event(n) for n in range(8)))
    first = started(replace(source, batch=6), client)
    first.read(1)
    first.commit({f"{source.name}/0": offset_of(ids[5])})
    progress = Stub({f"{source.name}/0": offset_of(ids[5])}, offset_of(ids[2]), is_whole=False)
    if gone == "before what rows have":
        client.xtrim(source.stream, minid=ids[4], approximate=False)
    elif gone == "the end":
        client.xdel(source.stream, ids[5])
    elif gone == "all of it":
        client.xtrim(source.stream, minid=ids[6], approximate=False)
    broker = started(source, client, progress)
    assert len(progress.refilled) == (gone != "nothing")
    assert offsets(broker.read(1))[-2:] == [offset_of(id) for id in ids[6:]]


def lost_end(source, client) -> tuple[list[bytes], Stub]:
    """A stream of 8 entries of which Redis has lost the last 3, all of which had landed."""
    ids = add(client, source, *(event(n) for n in range(8)))
    progress = Stub({f"{source.name}/0": offset_of(ids[7])}, offset_of(ids[4]), is_whole=False)
    progress.known = [offset_of(id) for id in ids]
    without_end(source, client, ids[4])
    return ids, progress


def without_end(source, client, last: bytes) -> None:
    """Take from a stream what is behind an entry, as a Redis that was killed loses it."""
    entries = client.xrange(source.stream, "-", last)
    client.delete(source.stream)
    for id, entry in entries:
        client.xadd(source.stream, entry, id)
    time.sleep(0.002)  # so that what is added next has a later id


def test_a_stream_that_lost_its_end_goes_on_behind_what_has_landed_once_rows_were_refilled(source, client):
    _, progress = lost_end(source, client)
    broker = started(source, client, progress)
    [line] = progress.refilled
    assert line == f"the stream {source.stream} has no more what the rows online have lost"
    broker.read(0)
    more = add(client, source, event(), event())
    assert offsets(broker.read(1)) == [offset_of(id) for id in more]
    assert len(progress.refilled) == 1
    client.xtrim(source.stream, minid=more[1], approximate=False)
    assert broker.read(0) == []


def test_a_stream_that_alone_lost_its_end_needs_no_rows_refilled(source, client):
    ids, progress = lost_end(source, client)
    progress.is_whole, progress.kept = True, offset_of(ids[7])
    broker = started(source, client, progress)
    assert (broker.read(0), progress.refilled) == ([], [])
    more = add(client, source, event())
    assert offsets(broker.read(1)) == [offset_of(more[0])]


def test_a_stream_that_loses_its_end_while_it_is_read_is_noticed(source, client):
    ids, progress = lost_end(source, client)
    add(client, source, event(5), id=ids[5])
    progress.landed = {}
    broker = started(source, client, progress)
    assert len(offsets(broker.read(1))) == 6
    without_end(source, client, ids[4])
    assert broker.read(0) == []
    assert len(progress.refilled) == 1
    more = add(client, source, event())
    assert offsets(broker.read(1)) == [offset_of(more[0])]


def test_after_a_clock_was_set_back_entries_come_behind_what_has_landed_or_are_refused(source, client, monkeypatch):
    far = [b"4000000000000-%d" % number for number in range(1, 4)]
    for id in far:
        add(client, source, event(), id=id)
    progress = Stub({f"{source.name}/0": offset_of(far[2])}, offset_of(far[2]))
    progress.known = [offset_of(id) for id in far]
    without_end(source, client, far[0])
    broker = started(source, client, progress)
    more = add(client, source, event())
    assert more[0] > far[2]
    assert offsets(broker.read(1)) == [offset_of(more[0])]
    with pytest.raises(redis.ResponseError, match="equal or smaller"):
        add(client, source, event(), id=far[1])
    without_end(source, client, far[0])
    monkeypatch.setattr(progress, "has_landed", lambda *_: add(client, source, event(), id=far[1]))
    with pytest.raises(UserError, match=r"or a clock was set back: its last entry is 4000000000000-2"):
        started(source, client, progress)


def test_a_redis_that_was_emptied_has_its_stream_go_on(source, client):
    _, progress = lost_end(source, client)
    client.delete(source.stream)
    progress.emptied = True
    for started_before in (True, False):
        if started_before:
            broker = started(source, client, progress)
            assert broker.read(0) == []
        more = add(client, source, event())
        broker = broker if started_before else started(source, client, progress)
        assert offsets(broker.read(1))[-1:] == [offset_of(more[0])]


def test_the_lag_is_counted(source, client):
    add(client, source, *(event(n) for n in range(10)))
    broker = started(replace(source, batch=4), client)
    broker.read(1)
    assert broker.lag()[f"{source.name}/0"].events >= 1
    broker.read(1), broker.read(1)
    assert broker.lag() == {f"{source.name}/0": (0, 0.0)}
    add(client, source, *(event(n) for n in range(10)))
    time.sleep(0.01)
    broker.read(1)
    events, seconds = broker.lag()[f"{source.name}/0"]
    assert events == 6
    assert 0 < seconds < 60


def test_dead_letters_have_place_and_reason_and_are_bounded(source, client):
    source = replace(source, dead_letters_at_most=1)
    broker = started(source, client)
    broker.bury(
        [Bad(f"{source.name}/0", offset_of(b"7-%d" % n), None if n else b"\xff{", f"r{n}") for n in range(1000)]
    )
    found = client.xrange(source.dead_letters)
    assert len(found) < 500
    last = found[-1][1]
    assert last[b"reason"] == b"r999"
    assert (last[b"partition"], last[b"entry"]) == (f"{source.name}/0".encode(), b"7-999")
    assert datetime.fromisoformat(last[b"time"].decode()).tzinfo is not None


def test_what_does_not_answer_is_lost_and_what_is_refused_is_said_without_the_secret(source, client, redis_port):
    nowhere = replace(source, connection=f"localhost:{free_port()},password=swordfish")
    with pytest.raises(Lost, match="does not answer") as lost:
        RedisBroker(nowhere, client, "here").ping()
    wrong = replace(source, connection=f"redis://:swordfish@localhost:{redis_port}")
    with pytest.raises(UserError, match="refuses the user or the password") as refused:
        started(wrong, client)
    assert "swordfish" not in f"{lost.value!r}{refused.value!r}{wrong!r}{lost.value.__cause__}{refused.value.__cause__}"
    client.set(source.stream, "no stream")
    with pytest.raises(UserError, match="WRONGTYPE"):
        started(source, client).read(0)


# The loop


class Recorder:
    """Stands in for an applier where only what is asked of it matters: applies each offset once, and may fail."""

    def __init__(self, fail_at=()):
        self.applied, self.seen, self._fail_at, self.calls = [], set(), list(fail_at), 0

    def apply(self, events, now):
        self.calls += 1
        if self.calls in self._fail_at:
            raise redis.ConnectionError("gone for a moment")
        offsets = events[OFFSET].to_pylist()
        became = np.array([int(offset in self.seen) for offset in offsets], np.int8)
        self.applied += [offset for offset in offsets if offset not in self.seen]
        self.seen |= set(offsets)
        none = events.select(["user_id"]).slice(0, 0)
        return SimpleNamespace(
            became=became, late=np.zeros(len(offsets), bool), unseeded=none, fenced=none, foreign=none, reasons={}
        )


def worker(source, client, applier, said: list | None = None, broker=None, who=None) -> Worker:
    [table] = source.tables
    said = [] if said is None else said
    notes = applier.__dict__.setdefault("notes", {})
    online = OnlineStore(
        "Redis", who or (lambda: "one"), lambda name, keys: None, lambda: None, lambda: notes, notes.update
    )
    broker = broker or RedisBroker(source, client, "here")
    reader = EventReader(source.tables, largest=source.largest_event)
    metrics = Metrics(source.name)
    return Worker(source, broker, {table.name: applier}, reader, metrics, 0, online, lambda: NOW, said.append)


def landed(source) -> list[int]:
    return [
        o for file in sorted(source.landing.glob("*.parquet")) for o in pq.ParquetFile(file).read()[OFFSET].to_pylist()
    ]


def test_events_are_read_again_when_redis_was_started_again_and_no_command_has_failed(source, client):
    ids = add(client, source, *(event(n) for n in range(5)))
    applier, said, answers = Recorder(), [], ["one"]
    one = worker(replace(source, replay_seconds=100), client, applier, said, who=lambda: answers[-1])
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        _wait(lambda: len(landed(source)) == len(ids))
        applier.seen.clear()  # as a Redis may come back without what it had confirmed last
        answers.append("another")
        _wait(lambda: len(applier.applied) == 2 * len(ids))
    finally:
        one.end()
        thread.join()
    assert applier.applied == 2 * [offset_of(id) for id in ids]
    assert landed(source) == [offset_of(id) for id in ids]
    assert said[0].startswith("Redis was started again, or another one answers. It is waited for")


def _wait(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_events_are_applied_landed_and_buried_and_replays_change_nothing(source, client):
    ids = add(client, source, event(1), "{", event(2), event(3, minute=-1), event(4))
    applier, source = Recorder(), replace(source, replay_seconds=100)
    first = worker(source, client, applier)
    first.run(until_idle=0.1)
    good = [offset_of(ids[n]) for n in (0, 2, 4)]
    assert applier.applied == landed(source) == good
    assert high_water(source.landing) == {f"{source.name}/0": offset_of(ids[4])}
    assert dict(first.metrics.counts) == {"applied": 3, "dead": 2, "landed": 3}
    more = add(client, source, event(5))
    second = worker(source, client, applier)
    second.run(until_idle=0.1)
    assert landed(source) == [*good, offset_of(more[0])]
    assert dict(second.metrics.counts) == {"applied": 1, "already": 3, "landed": 1}
    assert client.xlen(source.dead_letters) == 2  # nor are they buried twice
    assert str(second.metrics) == "4 events, 1 applied, 3 already, 1 landed"


def test_what_rows_surely_have_is_noted_after_it_has_landed_and_some_seconds_later(source, client):
    ids = add(client, source, *(event(n) for n in range(10)))
    applier, place = Recorder(), f"{source.name}/0"
    one = worker(replace(source, batch=5, replay_seconds=0.5), client, applier)
    one.broker.start(one, False)
    one._step(), one.settle()
    assert applier.notes == {place: (offset_of(ids[4]), NOWHERE)}
    time.sleep(0.5)
    one._step(), one.settle()
    assert applier.notes == {place: (offset_of(ids[9]), offset_of(ids[4]))}
    assert one.reached() == {place: Reached(offset_of(ids[9]), offset_of(ids[4]), True)}
    applier.notes[place] = offset_of(ids[7]), offset_of(ids[2])  # as a Redis may come back with
    assert one.reached() == {place: Reached(offset_of(ids[9]), offset_of(ids[2]), False)}
    more = add(client, source, event())
    one._step(), one.settle()
    assert applier.notes == {place: (offset_of(more[0]), offset_of(ids[2]))}


def test_rows_that_are_gone_are_filled_without_an_event_and_when_one_finds_them_gone(source, client):
    """The events may come by another Redis, or by Kafka, which has them all."""
    applier, said, filled = Recorder(), [], []
    one = worker(
        replace(source, connection=f"localhost:{client.get_connection_kwargs()['port']}"), client, applier, said
    )
    marks: list[dict | None] = [{}]

    def fill() -> None:
        filled.append(landed(source))
        marks[0] = {}

    one._online = one._online._replace(fill=fill, marks=lambda: marks[0])
    add(client, source, event())
    one.broker.start(one, False)
    one._step()
    marks[0], one._asked = None, 0.0
    one._step()
    assert filled == [landed(source)]
    assert len(filled[0]) == 1  # what was applied has landed before
    assert said == ["Redis was emptied. The rows are brought back from the files of what has landed."]
    add(client, source, event())
    marks[0], seen = None, len(applier.applied)
    apply = applier.apply

    def unseeded(events, now):
        applied = apply(events, now)
        if marks[0] is None:
            applied.unseeded = events.select(["user_id"])
            applier.seen.clear()
        return applied

    applier.apply, one._asked = unseeded, time.monotonic() + 60
    one._step()
    assert len(filled) == len(said) == 2
    assert len(applier.applied) > seen


def test_a_lost_server_is_waited_for_with_one_line_and_what_has_not_landed_is_read_again(source, client):
    add(client, source, *(event(n) for n in range(30)))
    applier, said = Recorder(fail_at=[2, 3, 5]), []
    one = worker(replace(source, batch=5, replay_seconds=0.01), client, applier, said)
    one.run(until_idle=0.2)
    assert len(applier.applied) == len(set(applier.applied)) == 30
    assert landed(source) == sorted(applier.applied)
    assert len(said) == 6
    assert said[0] == "Redis does not answer: gone for a moment. It is waited for, 5 seconds at most."
    assert said[1].startswith("Redis at here answers again, after ")


def test_a_server_that_stays_lost_ends_the_worker_once_what_was_applied_has_landed(source, client):
    add(client, source, event())
    source, said = replace(source, wait_seconds=0.3, landing_seconds=60), []
    broker = RedisBroker(source, client, "here")
    one = worker(source, client, Recorder(), said, broker)
    step, broker.client = one._step, client

    def lose():
        step()
        if one.metrics.counts["applied"]:
            broker.read = broker.ping = lost

    def lost(*_):
        raise Lost("Redis at here does not answer: nobody there")

    one._step = lose
    with pytest.raises(UserError, match=r"nobody there, and did not for 0.3 seconds"):
        one.run()
    assert len(landed(source)) == 1
    assert len(said) == 1


def test_a_worker_that_dies_before_it_lands_loses_nothing_and_lands_nothing_twice(source, client):
    add(client, source, *(event(n) for n in range(20)))
    applier = Recorder()

    class Death(Exception):
        pass

    def die(*_):
        raise Death

    for step in range(1, 5):
        one = worker(replace(source, batch=3), client, applier)
        one._finish = lambda: None
        one._buffer.take = die if step % 2 else one._buffer.take
        one._land_if_due = die
        with pytest.raises(Death):
            one.run(until_idle=0.1)
        assert landed(source) == []
    worker(source, client, applier).run(until_idle=0.1)
    assert len(applier.applied) == 20
    assert landed(source) == applier.applied


def test_two_workers_on_one_partition_land_each_event_once(source, client):
    from threading import Thread

    applier = Recorder()
    both = [worker(replace(source, batch=7), client, applier) for _ in range(2)]
    threads = [Thread(target=one.run, kwargs={"until_idle": 0.4}) for one in both]
    for thread in threads:
        thread.start()
    for number in range(100):
        add(client, source, event(number))
    for thread in threads:
        thread.join(30)
    assert len(landed(source)) == len(set(landed(source))) == 100


def test_events_wait_to_land_no_longer_and_no_more_than_declared(source, client):
    add(client, source, *(event(n) for n in range(50)))
    waiting = replace(source, batch=10, landing_seconds=60, landing_events=20)
    one, sizes = worker(waiting, client, Recorder()), []
    land = one._buffer.land
    one._buffer.land = lambda: (sizes.append(one._buffer._count), land())[1]
    one.run(until_idle=0.1)
    assert sizes == [20, 20, 10]
    assert len(landed(source)) == 50


def test_a_worker_asked_to_end_lands_what_it_has_applied(source, client):
    add(client, source, event())
    one = worker(replace(source, landing_seconds=60), client, Recorder())
    step = one._step
    one._step = lambda: (step(), one.metrics.counts["applied"] and one.end())[0]
    one.run()
    assert len(landed(source)) == 1


@pytest.mark.parametrize("kind", ["fenced", "foreign", "unseeded"])
def test_an_entity_that_is_not_to_be_written_ends_the_worker_with_one_line(source, client, kind):
    add(client, source, event(1), event(2))

    class Refusing(Recorder):
        def apply(self, events, now):
            applied = super().apply(events, now)
            setattr(applied, kind, events.select(["user_id"]).slice(1, 1))
            applied.became[1] = 5
            return applied

    words = {"fenced": "of another definition", "foreign": "something else than rows", "unseeded": "not known"}
    with pytest.raises(UserError, match=rf"^purchases: 1 user \(2\) is {words[kind]}"):
        worker(source, client, Refusing()).run(until_idle=0.1)
    assert landed(source) == []


def test_an_entity_that_is_not_seeded_is_seeded_and_its_events_applied(source, client):
    add(client, source, event(1), event(2))
    asked = []

    class Seeding(Recorder):
        def apply(self, events, now):
            applied = super().apply(events, now)
            if not asked:
                self.seen.remove(self.applied.pop())
                applied.unseeded, applied.became[1] = events.select(["user_id"]).slice(1, 1), 5
            return applied

    one = worker(source, client, Seeding())
    one._online = one._online._replace(seed=lambda name, keys: asked.append((name, keys.to_pylist())))
    one.run(until_idle=0.1)
    assert asked == [("purchases", [{"user_id": 2}])]
    assert dict(one.metrics.counts) == {"applied": 2, "landed": 2}


def test_an_event_beyond_what_a_feature_holds_is_buried_and_those_beside_it_are_not(source, client):
    add(client, source, event(1), event(2, 99.0), event(2), event(3))

    class Overflowing(Recorder):
        def apply(self, events, now):
            if 99.0 in (amounts := events["purchase_amount"].to_pylist()):
                users = events["user_id"].to_pylist()
                beyond = [place for place, user in enumerate(users) if user == users[amounts.index(99.0)]]
                others = np.array([place not in beyond for place in range(len(users))])
                applied = super().apply(events.filter(pa.array(others)), now)
                applied.became = np.array([5 if n in beyond else 0 for n in range(len(users))], np.int8)
                applied.late = np.zeros(len(users), bool)
                applied.reasons = dict.fromkeys(beyond, "its sum is beyond 64 bits")
                return applied
            return super().apply(events, now)

    one = worker(source, client, Overflowing())
    one.run(until_idle=0.1)
    assert dict(one.metrics.counts) == {"applied": 3, "dead": 1, "landed": 3}
    [(_, letter)] = client.xrange(source.dead_letters)
    assert letter[b"event"] == event(2, 99.0).encode()
    assert letter[b"reason"] == b"purchases: its sum is beyond 64 bits"


def test_dead_letters_come_in_the_order_of_the_log_whatever_they_are_refused_for(source, client):
    bad = ["{}", "{", event(1, minute=-1), "[]", '{"user_id": "x"}']  # a negative minute is ahead of the clock
    add(client, source, *bad, event(2))
    worker(source, client, Recorder()).run(until_idle=0.1)
    assert [letter[b"event"].decode() for _, letter in client.xrange(source.dead_letters)] == bad
