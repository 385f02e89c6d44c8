"""Events from Redis Streams: each partition is a stream, read as a whole from any entry on.

An offset is the id of an entry as one number. Entries are read in one step with what Redis counts: how many were added
to the stream, and how many it still has. So none can be trimmed away unnoticed before it was read, as then more are
gone than were read. How many those were is noted, once they have landed, in a consumer group of the stream, which reads
nothing; there it also shows, to others, how far behind a worker is. Before Redis 7 this is not counted, nor noticed.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import redis

from parity.definition.instants import utc_now
from parity.edge.configuration import addresses
from parity.edge.errors import UserError
from parity.online.connection import RedisConnections, RedisOptions
from parity.stream.broker import Lag, Lost, Progress, Reached
from parity.stream.configuration import StreamSource
from parity.stream.events import Bad, Raw
from parity.transactions.landed import NOWHERE

SEQUENCES = 1 << 21
"""How many entries of one millisecond have an offset."""
LATEST_MILLISECOND = 1 << 42
BLOCK_MILLISECONDS = 50
ENTRIES_PER_COMMAND = 500

READ = """
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if string.find(info.err, 'no such key') then return {} end
  return info
end
local found = {}
for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
return {found['last-generated-id'], found['max-deleted-entry-id'] or '0-0', found['length'],
        found['entries-added'] or -1, redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])}
"""

# KEYS: a stream. ARGV: its last id, as last seen, and the one that it is to go on behind.
CONTINUE = """
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' and info[i + 1] == ARGV[1] then
    redis.call('XSETID', KEYS[1], ARGV[2])
  end
end
"""

PASSING = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.MasterDownError,
)
"""What may be over in a while."""


@contextmanager
def passing(place: str, hide: Callable[[object], str]) -> Iterator[None]:
    """Make `Lost` of what may be over in a while, and a `UserError` of what else Redis refuses."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.AuthorizationError) as error:
        raise UserError(hide(f"{place} refuses the user or the password: {error}".rstrip("."))) from None
    except PASSING as error:
        raise Lost(hide(f"{place} does not answer: {error}".rstrip("."))) from None
    except (redis.RedisError, redis.RedisClusterException) as error:
        raise UserError(hide(f"{place} refuses a command: {str(error)[:300]!r}.")) from None


def offset_of(entry: bytes) -> int:
    """The offset of an entry's id, ``MILLISECONDS-SEQUENCE``. `UserError` for one that has none."""
    first, _, second = entry.partition(b"-")
    milliseconds, sequence = int(first), int(second)
    if milliseconds >= LATEST_MILLISECOND or sequence >= SEQUENCES:
        raise UserError(
            f"the entry {entry.decode()} of a stream has an id beyond {LATEST_MILLISECOND - 1}-{SEQUENCES - 1}. Add "
            "entries with the id *, which Redis makes of the time."
        )
    return milliseconds * SEQUENCES + sequence


def id_of(offset: int) -> bytes:
    """The other way of `offset_of`."""
    return b"%d-%d" % divmod(offset, SEQUENCES)


class _Partition:
    """Where reading is in a stream."""

    def __init__(self, name: str, key: str):
        self.name, self.key = name, key
        self.offset = NOWHERE
        """Up to which it was read."""
        self.safe = NOWHERE
        """Up to which entries may be gone: they were read at least once."""
        self.forgiven = NOWHERE
        """Up to which entries may have been deleted one by one."""
        self.count: int | None = None
        """How many entries there ever were up to ``safe``; None if that is not known, as nothing was noted."""
        self.counts: dict[int, int] = {}
        """The same up to other offsets, which have not landed yet."""
        self.behind = 0

    def read(self, offsets: list[int]) -> None:
        """Note that entries were read."""
        self.offset = offsets[-1]
        if self.count is not None:
            self.count += len(offsets) - bisect_right(offsets, self.safe)
        if self.offset > self.safe:
            self.safe = self.offset
            if self.count is not None:
                self.counts[self.safe] = self.count

    def note(self, last: int, length: int, added: int) -> None:
        """Note how far behind the end reading is."""
        if self.offset >= last:
            self.behind = 0
            if added >= 0:
                self.count = added
        else:
            self.behind = max(1, length if self.count is None or added < 0 else added - self.count)


class RedisBroker:
    """The streams of a source; ``client`` is that of the online store, for a source with no connection of its own."""

    def __init__(
        self,
        source: StreamSource,
        client: redis.Redis,
        address: str,
        only: Sequence[int] | None = None,
        reader: str = "feature-store",
    ):
        """``reader`` is the name of the consumer group that has how far it is."""
        self.source = source
        if source.connection is not None:
            options = {"redis_type": source.redis_type, "sentinel_master": source.sentinel_master}
            config = RedisOptions(
                connection_string=source.connection, **{name: value for name, value in options.items() if value}
            )
            client, address = RedisConnections()._get_client(config), addresses(source.connection)
        self.client, self.place = client, f"Redis at {address}"
        self._script, self._continue = client.register_script(READ), client.register_script(CONTINUE)
        keys = source.keys()
        wanted = range(len(keys)) if only is None else only
        for number in wanted:
            if number >= len(keys):
                raise source.refuse(f"there is no partition {number}: it has {len(keys):,}, from 0 on.")
        self._partitions = [_Partition(source.partition(number), keys[number]) for number in wanted]
        self._keys, self._reader = keys, reader
        self._is_cluster = isinstance(client, redis.RedisCluster)

    def _asking(self):
        return passing(self.place, self.source.without_secrets)

    def start(self, progress: Progress, skip_lost: bool) -> None:
        self._progress = progress
        self._start(skip_lost)

    def rewind(self) -> None:
        self._start(skip_lost=False)

    def _start(self, skip_lost: bool) -> None:
        reached = self._progress.reached()
        for partition in self._partitions:
            landed, kept, is_whole = reached.get(partition.name, Reached(NOWHERE, NOWHERE))
            partition.safe, partition.count = landed, None
            went_back = not is_whole and self.source.connection is None
            found = self._brought_back(partition, self._look(partition, b"+", 0), skip_lost or went_back)
            if skip_lost:
                partition.forgiven = offset_of(found[1]) if found else NOWHERE
            self._require_whole(partition, found)
            if found:
                partition.count = self._counted(partition, found, skip_lost, went_back or self._is_emptied())
                self._require_whole(partition, found)
            else:
                partition.count = 0
            if not (is_whole or self._has_all(partition, kept, found)):
                self._refill(partition)
                kept = landed
            partition.offset = kept

    def _has_all(self, partition: _Partition, kept: int, found: list) -> bool:
        """Whether the stream still has what is behind ``kept``, up to the last entry that has landed."""
        if not found or not self._between(partition, partition.safe - 1, partition.safe):
            return False
        with self._asking():
            return found[2] == found[3] or bool(self.client.xrevrange(partition.key, id_of(max(kept, 0)), "-", 1))

    def _refill(self, partition: _Partition) -> None:
        self._progress.refill(f"the stream {partition.key} has no more what the rows online have lost")

    def _is_emptied(self) -> bool:
        """Whether the Redis of the streams has lost all that it had: if it has the rows too."""
        return self.source.connection is None and self._progress.is_emptied()

    def _look(self, partition: _Partition, start: bytes, count: int) -> list:
        """The last id, the greatest one that was deleted, how many there are and ever were (-1 before Redis 7), and
        entries; nothing for a stream that is not there."""
        with self._asking():
            return self._script([partition.key], [start, count])

    def _counted(self, partition: _Partition, found: list, skip_lost: bool, may_lack: bool) -> int | None:
        """How many entries there ever were up to what has landed."""
        last, _, length, added, _ = found
        if added < 0:
            return None
        if partition.safe == NOWHERE or skip_lost:
            return added - length + self._between(partition, NOWHERE, partition.safe)
        if offset_of(last) == partition.safe:
            return added
        with self._asking():
            groups = self.client.xinfo_groups(partition.key)
        for group in groups:
            if group["name"] == self._reader.encode() and group.get("entries-read") is not None:
                noted = offset_of(group["last-delivered-id"])
                if noted <= partition.safe:
                    return group["entries-read"] + self._between(partition, noted, partition.safe)
        if not self._between(partition, partition.safe - 1, partition.safe):
            if not may_lack:
                raise self._trimmed(partition)  # it can't be known, so it is not passed over
            return added - length + self._between(partition, NOWHERE, partition.safe)  # Redis lost what was noted, too
        return None

    def _between(self, partition: _Partition, after: int, until: int) -> int:
        """How many entries the stream has behind one offset, up to another."""
        count = 0
        while after < until:
            with self._asking():
                some = self.client.xrange(partition.key, id_of(after + 1), id_of(until), ENTRIES_PER_COMMAND)
            if not some:
                break
            count, after = count + len(some), offset_of(some[-1][0])
        return count

    def _require_whole(self, partition: _Partition, found: list) -> None:
        """Refuse a stream that has lost entries that were not read."""
        key, safe = partition.key, partition.safe
        if safe == NOWHERE:
            return
        if not found:
            raise self.source.refuse(
                f"the stream {key} is gone from {self.place}, and was read up to {id_of(safe).decode()}. If it was "
                "deleted on purpose, go on with what comes: --skip-lost"
            )
        is_trimmed = partition.count is not None and found[3] - found[2] > partition.count
        if is_trimmed or offset_of(found[1]) > max(safe, partition.forgiven):
            raise self._trimmed(partition)

    def _brought_back(self, partition: _Partition, found: list, may_be_gone: bool) -> list:
        """Have a stream that has lost its end, as a Redis that was killed does, go on behind what was read of it.

        Returns what the stream is then. `UserError` for one whose entries are other ones than those that were read.
        """
        safe = partition.safe
        if safe == NOWHERE or (found and offset_of(found[0]) >= safe):
            return found
        if found:
            self._require_known(partition, found[0])
        elif not (may_be_gone or self._is_emptied()):
            return found
        else:
            with self._asking(), suppress(redis.ResponseError):  # another worker may have made it meanwhile
                self.client.xgroup_create(partition.key, self._reader, id_of(safe), mkstream=True, entries_read=0)
        last = found[0] if found else b"0-0"
        with self._asking():
            self._continue([partition.key], [last, id_of(safe)])
        found = self._look(partition, b"+", 0)
        if found and offset_of(found[0]) < safe:
            raise self._made_anew(partition, found[0])
        return found

    def _require_known(self, partition: _Partition, last: bytes) -> None:
        """Refuse a stream none of whose last entries was read."""
        with self._asking():
            entries = self.client.xrevrange(partition.key, count=ENTRIES_PER_COMMAND)
        offsets = [offset_of(entry) for entry, _ in entries]
        if offsets and not self._progress.has_landed(partition.name, offsets):
            raise self._made_anew(partition, last)

    def _made_anew(self, partition: _Partition, last: bytes) -> UserError:
        return self.source.refuse(
            f"the stream {partition.key} was made anew, or a clock was set back: its last entry is {last.decode()}, "
            f"and entries up to {id_of(partition.safe).decode()} have been read. Delete from it what has landed, and "
            f"write generation: {self.source.generation + 1} for this source: then all that the stream has counts as "
            "new"
        )

    def _trimmed(self, partition: _Partition) -> UserError:
        return self.source.refuse(
            f"entries of the stream {partition.key} behind {id_of(partition.safe).decode()}, up to which it was read, "
            "were deleted before they were. Keep more of it (MAXLEN, MINID). Produce them once more, or go on without "
            "them: --skip-lost"
        )

    def read(self, seconds: float) -> list[Raw]:
        batch = max(1, self.source.batch // max(1, len(self._partitions)))
        found = [raw for partition in self._partitions if (raw := self._read(partition, batch))]
        if not found and seconds > 0:
            self._wait(seconds)
        return found

    def _read(self, partition: _Partition, batch: int) -> Raw | None:
        found = self._look(partition, b"-" if partition.offset == NOWHERE else b"(" + id_of(partition.offset), batch)
        if (back := self._brought_back(partition, found, may_be_gone=False)) is not found:
            if found:
                self._refill(partition)
            found, partition.count = [*back[:4], []], None
        self._require_whole(partition, found)
        if not found:
            return None
        last, _, length, added, entries = found
        if entries:
            offsets = [offset_of(entry[0]) for entry in entries]
            raw = Raw(partition.name, offsets, [self._event(fields) for _, fields in entries])
            partition.read(offsets)
        partition.note(offset_of(last), length, added)
        return raw if entries else None

    def _event(self, fields: list[bytes]) -> bytes | None:
        wanted = self.source.event_field.encode()
        if fields and fields[0] == wanted:
            return fields[1]
        return dict(zip(fields[::2], fields[1::2], strict=True)).get(wanted)

    def _wait(self, seconds: float) -> None:
        """Wait for an entry of any stream. What is found is read anew, in one step with what Redis knows of it."""
        if self._is_cluster and len(self._partitions) > 1:  # whose streams are on several nodes
            time.sleep(min(seconds, 0.002))
            return
        streams = {p.key: b"0-0" if p.offset == NOWHERE else id_of(p.offset) for p in self._partitions}
        with self._asking():
            self.client.xread(streams, count=1, block=max(1, min(BLOCK_MILLISECONDS, round(seconds * 1000))))

    def commit(self, until: Mapping[str, int]) -> None:
        for partition in self._partitions:
            offset = until.get(partition.name, NOWHERE)
            if offset in partition.counts:
                self._note(partition, id_of(offset), partition.counts[offset])
                partition.counts = {later: count for later, count in partition.counts.items() if later > offset}

    def _note(self, partition: _Partition, entry: bytes, count: int) -> None:
        """Note how many entries there were up to one that has landed."""
        place = partition.key, self._reader, entry
        with self._asking():
            try:
                self.client.xgroup_setid(*place, entries_read=count)
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    return  # it is for notice only
                with suppress(redis.ResponseError):  # another worker may have made it meanwhile
                    self.client.xgroup_create(*place, entries_read=count)

    def lag(self) -> dict[str, Lag]:
        now = utc_now().timestamp()
        return {
            p.name: Lag(p.behind, max(0.0, now - p.offset / SEQUENCES / 1000) if p.behind and p.offset >= 0 else 0.0)
            for p in self._partitions
        }

    def bury(self, bad: Sequence[Bad]) -> None:
        with self._asking():
            pipe = self.client.pipeline(transaction=False)
            for one in bad:
                entry = {
                    "event": one.value or b"",
                    "reason": one.reason,
                    "partition": one.partition,
                    "offset": one.offset,
                    "entry": id_of(one.offset),
                    "time": utc_now().isoformat(),
                }
                pipe.xadd(self.source.dead_letters, entry, maxlen=self.source.dead_letters_at_most, approximate=True)
            pipe.execute()

    def send(self, events: Sequence[tuple[int, bytes]]) -> None:
        field = self.source.event_field
        with self._asking():
            for start in range(0, len(events), ENTRIES_PER_COMMAND):
                pipe = self.client.pipeline(transaction=False)
                for number, event in events[start : start + ENTRIES_PER_COMMAND]:
                    pipe.execute_command("XADD", self._keys[number % len(self._keys)], "*", field, event)
                pipe.execute()

    def partitions(self) -> int:
        return len(self._keys)

    def ping(self) -> None:
        with self._asking():
            self.client.ping()

    def close(self) -> None:
        """Nothing: the connections end with the process."""
