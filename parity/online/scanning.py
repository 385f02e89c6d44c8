"""Looking through what is stored, fit to be served or not, and taking out what is not wanted any more."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.redis import RedisType

from parity.definition.declare import horizon_of
from parity.edge.feast_internals import stored_name
from parity.online.encoding import KeyNames
from parity.online.marks import EVERYTHING, Marks, is_ahead, marks_text
from parity.online.rows import APPLIED, EVENT, STATE, STEPS, Fields, is_wrong_type, unless_error
from parity.online.scripts import COMPARE_AND_DELETE, SCAN
from parity.online.writing import KEYS_PER_ROUND_TRIP, Writes, batches

Found = tuple[bytes, bytes]
"""A Redis key, and the bytes of an event timestamp in it."""


@dataclass
class Leftovers:
    """What a scan met beside the rows that it looked for."""

    foreign: list[bytes] = field(default_factory=list)
    """Keys of this project that hold something else than a hash."""
    fuller: list[bytes] = field(default_factory=list)
    """Keys with fields that are not of the view's row, and not known: of other views, or of none any more."""
    known: Sequence[bytes | str] = ()
    """All fields that may be there, those of the view among them. In a Cluster they are not looked at."""


class Scans(Writes):
    """What a store does with rows of which nobody knows the keys."""

    def scan(self, config: RepoConfig, table: FeatureView, leftovers: Leftovers | None = None) -> Iterator[Found]:
        """Go through every entity that has a row of ``table`` in Redis, fit to be served or not, in no order.

        Gives its Redis key and the bytes of its event timestamp; one may come more than once. Keys of other types than
        the view's are among them, and those of a project whose name ends like this one's: `KeyEncoding` knows them.
        What else is met among the keys of this project is noted in ``leftovers``.
        """
        timestamp, own = Fields(stored_name(config, table)).timestamp, 1 + len(table.features)
        own += horizon_of(table) is not None  # what a stream has beside its rows is looked at
        keys = KeyNames(table.join_keys, config.project)
        known = leftovers.known if leftovers is not None else ()
        for some, events, fuller in self._pages(config, keys, timestamp, own, known):
            if leftovers is not None and (fuller or 0 in events):
                leftovers.fuller += [some[place] for place in fuller if some[place] in keys]
                leftovers.foreign += [
                    key for key, event in zip(some, events, strict=True) if event == 0 and key in keys
                ]
            rows = zip(some, events, strict=True)
            yield from (row for row in rows if row[1] not in (None, 0)) if None in events or 0 in events else rows

    def _pages(self, config: RepoConfig, keys: KeyNames, timestamp: str, own: int, known: Sequence) -> Iterator[tuple]:
        """A page of keys at a time: the keys, their event timestamps, and the places of those with more fields."""
        if config.online_store.redis_type == RedisType.redis_cluster:
            yield from self._pages_of_cluster(config, keys, timestamp, own)
            return
        scan, cursor = self._get_client(config.online_store).register_script(SCAN), None
        arguments = [_pattern(keys), KEYS_PER_ROUND_TRIP, timestamp, own, *known]
        while cursor != b"0":
            cursor, some, events, fuller = scan([], [cursor or 0, *arguments])
            yield some, events, [place - 1 for place in fuller]

    def _pages_of_cluster(self, config: RepoConfig, keys: KeyNames, timestamp: str, own: int) -> Iterator[tuple]:
        """The same in a Cluster, where a script sees the keys of one slot only."""
        client = self._get_client(config.online_store)
        for some in batches(client.scan_iter(_pattern(keys), KEYS_PER_ROUND_TRIP)):
            with client.pipeline(transaction=False) as pipeline:
                for key in some:
                    pipeline.hget(key, timestamp)
                    pipeline.hlen(key)
                replies = pipeline.execute(raise_on_error=False)
            events = [0 if is_wrong_type(reply) else unless_error(reply) for reply in replies[::2]]
            fuller = [
                place
                for place, (event, size) in enumerate(zip(events, replies[1::2], strict=True))
                if event != 0 and (event is None or unless_error(size) > own)
            ]
            yield some, events, fuller

    def retract(self, config: RepoConfig, table: FeatureView, rows: Iterable[Found], marks: Marks | None = None) -> int:
        """Delete the rows of ``table`` that `scan` found, each only while its event timestamp is still the one found.

        With ``marks`` of the files, those that a stream has written and that are ahead of them stay. Returns how many
        were deleted. Other feature views of the entities keep their rows.
        """
        fields, deleted = Fields(stored_name(config, table)), 0
        doomed = [*fields.of(feature.name for feature in table.features), *fields.beside]
        known = EVERYTHING if marks is None else marks_text(marks)
        for batch in batches(rows):
            calls = [(key, [fields.timestamp, timestamp, known, *doomed]) for key, timestamp in batch]
            deleted += sum(self.run_script(config, COMPARE_AND_DELETE, calls))
        return deleted

    def are_ahead(self, config: RepoConfig, table: FeatureView, keys: Iterable[bytes], marks: Marks) -> list[bool]:
        """For each of ``keys``, whether its row has events of a stream that files with these ``marks`` do not have."""
        applied, ahead = Fields(stored_name(config, table)).applied, []
        client = self._get_client(config.online_store)
        for batch in batches(keys):
            with client.pipeline(transaction=False) as pipeline:
                for key in batch:
                    pipeline.hget(key, applied)
                ahead += [is_ahead(unless_error(reply), marks) for reply in pipeline.execute(raise_on_error=False)]
        return ahead

    def have_steps(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bool]:
        """Whether steps lie beside the row of each of ``keys``, as beside those of a continuous view."""
        client, field, found = self._get_client(config.online_store), Fields(stored_name(config, table)).steps, []
        for batch in batches(keys):
            with client.pipeline(transaction=False) as pipeline:
                for key in batch:
                    pipeline.hexists(key, field)
                found += map(bool, pipeline.execute())
        return found

    def known_fields(self, config: RepoConfig, views: Iterable[FeatureView]) -> list[bytes]:
        """The fields that the rows of these views have."""
        return list(_known_fields(config, views))

    def delete_unknown_fields(
        self, config: RepoConfig, keys: Iterable[bytes], views: Callable[[], Iterable[FeatureView]]
    ) -> int:
        """Delete, in ``keys`` of this project, the fields of features that none of its ``views`` has any more.

        A key with a row of a view that is not known at all is left alone, and so is everything where several versions
        of a view are served. Returns how many fields were deleted.
        """
        if config.registry.enable_online_feature_view_versioning:
            return 0
        client, deleted = self._get_client(config.online_store), 0
        for batch in batches(keys):
            with client.pipeline(transaction=False) as pipeline:
                for key in batch:
                    pipeline.hkeys(key)
                found = pipeline.execute()
            known = _known_fields(config, views())  # as late as can be: a new view may be written meanwhile
            doomed = {
                key: [field for field in fields if _is_of_a_view(field) and field not in known]
                for key, fields in zip(batch, found, strict=True)
                if all(field in known for field in fields if field.startswith(EVENT.encode()))
            }
            with client.pipeline(transaction=False) as pipeline:
                for key, fields in doomed.items():
                    if fields:
                        pipeline.hdel(key, *fields)
                deleted += sum(pipeline.execute())
        return deleted

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete every row of ``table`` (`feast apply` asks, once a view is gone), and none of another project."""
        keys = KeyNames(table.join_keys, config.project)
        self.retract(config, table, (row for row in self.scan(config, table) if row[0] in keys))

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Delete every entity with these join keys (`feast teardown` asks), and none of another project."""
        client, keys = self._get_client(config.online_store), KeyNames(join_keys, config.project)
        for batch in batches(filter(keys.__contains__, client.scan_iter(_pattern(keys), KEYS_PER_ROUND_TRIP))):
            with client.pipeline(transaction=False) as pipeline:
                for key in batch:
                    pipeline.delete(key)
                pipeline.execute()


def _pattern(keys: KeyNames) -> bytes:
    """A pattern of Redis that finds these keys, and some others."""
    prefix, suffix = (_GLOB.sub(rb"\\\g<0>", part) for part in (keys.prefix, keys.suffix))
    return b"".join([prefix, b"*", suffix])


def _known_fields(config: RepoConfig, views: Iterable[FeatureView]) -> set[bytes]:
    """The fields that rows of these views may have."""
    known = set()
    for view in views:
        fields = Fields(stored_name(config, view))
        timestamp, *features = fields.of(feature.name for feature in view.features)
        beside = fields.beside if horizon_of(view) is not None else [fields.state, fields.applied]
        known.update(features, (name.encode() for name in (timestamp, *beside)))
    return known


def _is_of_a_view(field: bytes) -> bool:
    """Whether it is the field of a feature, or one of those that lie beside a row."""
    return len(field) == 4 or field.startswith((STEPS.encode(), STATE.encode(), APPLIED.encode()))


_GLOB = re.compile(rb"[*?\[\]\\]")
