"""The registry: Feast's file, replaced in one step, and shared by any number of processes without losing a change.

feature_store.yaml names it, through Feast's own plug-in mechanism:

    registry:
      path: ../data/registry.db        # or s3://bucket/registry.db
      registry_store_type: parity.registry_store.ParityRegistryStore

The bytes are those of Feast's stock registry. It differs in four things:

- Feast truncates the file and then writes it, so a reader may meet an empty registry. Here it is replaced atomically.
- Feast writes the whole registry as the process last read it, and so takes back what others wrote meanwhile. Here a
  write is compared with what is stored, under a lock on a disk and by a conditional write in a bucket, and both sides'
  changes are kept. Where both changed one definition, the later writer's stays, and a warning says who was first.
- Feast refuses to serve a feature view while it is materialized, and for good if that run dies. A view that has been
  materialized once holds whole rows at any time, so here its state remains AVAILABLE_ONLINE.
- What `python -m parity deploy` has brought into force, with a version (`parity.definition.recorded`) or without, only
  that can change: `feast apply` of the same definitions changes nothing of it, and of others it is refused.

The deployments of a project, the one in force and those before and after it, are kept in the same registry, each as a
project by itself, called PROJECT@NUMBER, that nobody reads. With ``deployment: NUMBER`` in the configuration, which
`parity.deploy` sets, the store shows that deployment in the place of the project.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from feast import FeatureStore
from feast.errors import FeastError, S3RegistryBucketForbiddenAccess, S3RegistryBucketNotExist
from feast.feature_view import FeatureView, FeatureViewState
from feast.infra.registry.file import FileRegistryStore
from feast.infra.registry.registry_store import RegistryStore
from feast.protos.feast.core.FeatureService_pb2 import FeatureService
from feast.protos.feast.core.FeatureView_pb2 import FeatureViewMeta
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig
from filelock import FileLock, Timeout
from google.protobuf.message import Message

from parity.definition.instants import utc_now
from parity.definition.recorded import are_one_version, declared_otherwise, not_declared
from parity.edge.feast_internals import STORED_AS, is_read_by_itself
from parity.edge.files import replacing

logger = logging.getLogger(__name__)

BETWEEN = "@"
"""What stands between the name of a project and the number of a deployment; no project has it in its name."""
IN_FORCE = "parity.in_force"
"""The tag of the deployment of a project that is in force."""
SECONDS_FOR_THE_LOCK = 30
MICROSECONDS_10 = 10_000
"""In nanoseconds: a difference of times that a float64 still shows."""
ATTEMPTS = 50
"""How often a write to a bucket is tried again because another came first."""
STATES_IN_BETWEEN = (FeatureViewState.MATERIALIZING.to_proto(), FeatureViewState.GENERATED.to_proto())
"""The states of a view that is being materialized, and of one whose materialization failed."""


class Changed(Exception):
    """What is stored is no longer what was read."""


class RegistryBusy(FeastError):
    """Another process kept the registry to itself for too long."""


class UnknownPlace(FeastError):
    """The registry lies where this store has no way to."""


class ParityRegistryStore(RegistryStore):
    """See the module's docstring. It is made as a store in a file or in a bucket, as its path says."""

    def __new__(cls, registry_config: RegistryConfig, repo_path: Path):
        scheme, separator, _ = registry_config.path.partition("://")
        if separator and scheme != "s3":
            raise UnknownPlace(
                f"{registry_config.path}: ParityRegistryStore keeps a registry in a file or in s3://. For another "
                "place leave out registry_store_type, and Feast's own store is used."
            )
        return super().__new__(_InBucket if separator else _InFile)

    _given: Registry | None = None
    """The object that was last given out, in which Feast makes its changes before it commits them."""
    _base: bytes = b""
    """What that object held when it was last in step with what is stored."""
    _deployment: tuple[str, str] | None = None
    """The project, and the one that is shown in its place."""

    def _show(self, registry_config: RegistryConfig) -> None:
        if shown := (registry_config.model_extra or {}).get("deployment"):
            self._deployment = tuple(shown)

    def get_registry_proto(self) -> Registry:
        """Read the registry. Raises `FileNotFoundError` if there is none.

        Feast reads anew whenever the file has changed, also halfway through `feast apply`. What this process has
        changed and not yet committed is then kept. It is dropped where Feast is asked to read anew, as after an apply
        that failed.
        """
        stored = self._shown(Registry.FromString(self._read()[0]))
        _settle(stored)
        if self._given is not None and is_read_by_itself(sys._getframe(1)):
            base = Registry.FromString(self._base)
            if self._given != base:
                changed = Registry()
                changed.CopyFrom(stored)
                merge(changed, base, self._given)
                self._given, self._base = changed, stored.SerializeToString()
                return changed
        self._keep(stored)
        return stored

    def update_registry_proto(self, registry_proto: Registry) -> None:
        """Write ``registry_proto``, with the changes that others made since it was read, which it then holds too."""
        for _ in range(ATTEMPTS):
            try:
                with self._alone():
                    self._update(registry_proto)
                return
            except Changed:
                continue
        raise self._busy()

    def change(self, how: Callable[[Registry], None]) -> None:
        """Change what is stored in one step, whoever writes beside: ``how`` may be asked several times.

        It works on the whole registry. What it raises leaves all as it is.
        """
        for _ in range(ATTEMPTS):
            try:
                with self._alone():
                    whole, version = self._whole()
                    whole = whole or Registry()
                    how(whole)
                    self._write(whole, version)
                self._given = None
                return
            except Changed:
                continue
        raise self._busy()

    def _whole(self) -> tuple[Registry | None, Any]:
        try:
            content, version = self._read()
        except FileNotFoundError:
            return None, None
        return Registry.FromString(content), version

    def _write(self, whole: Registry, version: Any) -> None:
        whole.version_id = str(uuid.uuid4())
        whole.last_updated.FromDatetime(utc_now())
        self._replace(whole.SerializeToString(), version)

    def _busy(self) -> RegistryBusy:
        return RegistryBusy(
            f"{self._place}: other processes changed the registry {ATTEMPTS} times in a row. Try again."
        )

    def _shown(self, whole: Registry) -> Registry:
        """What is given out of the ``whole`` registry."""
        if self._deployment is None:
            return whole
        shown = _copied(whole)
        copy_project(whole, self._deployment[1], shown, self._deployment[0])
        return shown

    def _update(self, registry_proto: Registry) -> None:
        whole, version = self._whole()
        base = Registry.FromString(self._base)
        if whole is not None and whole.version_id != base.version_id:
            stored = self._shown(_copied(whole))
            _settle(stored)
            merge(stored, base, registry_proto)
        else:
            stored = _copied(registry_proto)
        _settle(stored)
        if self._deployment is not None:
            whole = whole or Registry(registry_schema_version=stored.registry_schema_version)
            copy_project(stored, self._deployment[0], whole, self._deployment[1])
            self._write(whole, version)
            stored.version_id = whole.version_id
        else:
            if whole is not None:
                keep_versions(whole, stored)
            self._write(stored, version)
        registry_proto.CopyFrom(stored)
        self._keep(registry_proto)

    def _keep(self, registry_proto: Registry) -> None:
        self._given, self._base = registry_proto, registry_proto.SerializeToString()

    _place: Any
    """Where the registry is, for people."""
    file: Path | None = None
    """Its file, if it is on a disk."""

    @abstractmethod
    def _alone(self) -> Any:
        """Keep other writers out, where the place has a lock."""

    @abstractmethod
    def _read(self) -> tuple[bytes, Any]:
        """The content, and its version, if the place has any. Raises `FileNotFoundError`."""

    @abstractmethod
    def _replace(self, content: bytes, version: Any) -> None:
        """Put ``content`` in the place of ``version`` (None: of nothing), in one step, or raise `Changed`."""

    # Feast's own way to keep notes about a project, which it has in each store.
    set_project_metadata = FileRegistryStore.set_project_metadata
    get_project_metadata = FileRegistryStore.get_project_metadata


class _InFile(ParityRegistryStore, FileRegistryStore):
    """A registry on a disk. Feast looks at the file's time of modification itself, as of any `FileRegistryStore`."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path):
        FileRegistryStore.__init__(self, registry_config, repo_path)
        self._show(registry_config)
        self._place = self.file = self._filepath

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self._filepath}.lock", timeout=SECONDS_FOR_THE_LOCK)
        try:
            lock.acquire()
        except Timeout:
            seconds = f"{SECONDS_FOR_THE_LOCK} seconds"
            raise RegistryBusy(f"{self._place}: another process has been writing for {seconds}. Try again.") from None
        try:
            yield
        finally:
            lock.release()

    def _read(self) -> tuple[bytes, None]:
        try:
            return self._filepath.read_bytes(), None
        except FileNotFoundError:
            raise FileNotFoundError(
                f'Registry not found at path "{self._place}". Have you run "feast apply"?'
            ) from None

    def _replace(self, content: bytes, version: None) -> None:
        before = self._filepath.stat().st_mtime_ns if self._filepath.exists() else 0
        with replacing(self._filepath) as temporary:
            temporary.write_bytes(content)
            if (status := temporary.stat()).st_mtime_ns <= before + MICROSECONDS_10:
                # Feast knows a changed registry by a later time, which some disks count in steps of milliseconds.
                os.utime(temporary, ns=(status.st_atime_ns, before + MICROSECONDS_10))


class _InBucket(ParityRegistryStore):
    """A registry in S3, written on the condition that it is still the one that was read (If-Match)."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path):
        import boto3  # an extra
        from botocore.config import Config

        self._place = registry_config.path
        self._show(registry_config)
        self._bucket, _, self._key = registry_config.path.removeprefix("s3://").partition("/")
        self._options = registry_config.s3_additional_kwargs or {}
        bounds = Config(connect_timeout=3, read_timeout=20, retries={"mode": "standard", "max_attempts": 3})
        self._client = boto3.client("s3", endpoint_url=os.environ.get("FEAST_S3_ENDPOINT_URL"), config=bounds)

    def _alone(self) -> Any:
        return nullcontext()

    def _read(self) -> tuple[bytes, str]:
        from botocore.exceptions import ClientError

        try:
            found = self._client.get_object(Bucket=self._bucket, Key=self._key)
            return found["Body"].read(), found["ETag"]
        except ClientError as error:
            match error.response["Error"]["Code"]:
                case "NoSuchKey" | "404":
                    raise FileNotFoundError(f"there is no registry at {self._place}") from None
                case "NoSuchBucket":
                    raise S3RegistryBucketNotExist(self._bucket) from None
                case "AccessDenied" | "403":
                    raise S3RegistryBucketForbiddenAccess(self._bucket) from None
            raise

    def _replace(self, content: bytes, version: str | None) -> None:
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._key, Body=content, **condition, **self._options)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                raise Changed from None
            raise

    def teardown(self) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._key)


def _settle(registry: Registry) -> None:
    """Let the views that have been materialized be available, also while they are materialized again."""
    for view in (*registry.feature_views, *registry.stream_feature_views):
        if view.meta.state in STATES_IN_BETWEEN and view.meta.materialization_intervals:
            view.meta.state = FeatureViewState.AVAILABLE_ONLINE.to_proto()


# Projects


def deployment(project: str, number: int) -> str:
    """What the deployment of a project with this number is called, as a project."""
    return f"{project}{BETWEEN}{number}"


def deployments(store: FeatureStore) -> list[str]:
    """The deployments that the registry of a store has of its project, as projects."""
    names = [project.name for project in store.registry.list_projects()]
    return [name for name in names if name.startswith(f"{store.project}{BETWEEN}")]


def copy_project(source: Registry, of: str, target: Registry, to: str) -> None:
    """Let project ``to`` of ``target`` hold what project ``of`` of ``source`` does, and nothing else."""
    for objects, others in zip(_kinds(target), _kinds(source), strict=True):
        kept = [type(one).FromString(one.SerializeToString()) for one in objects if _project(one) != to]
        new = [type(one).FromString(one.SerializeToString()) for one in others if _project(one) == of]
        for one in new:
            _rename(one, to)
        del objects[:]
        objects.extend([*kept, *new])


def is_deployed(registry: Registry, project: str) -> bool:
    """Whether what a project has was brought into force by a deployment."""
    numbers = (one for one in registry.projects if one.spec.name.rpartition(BETWEEN)[0] == project)
    return any(IN_FORCE in one.spec.tags for one in numbers)


def drop_project(registry: Registry, name: str) -> None:
    """Take a project out of a registry, and all that it holds."""
    copy_project(Registry(), name, registry, name)


def _kinds(registry: Registry) -> list[Any]:
    """All lists of a registry that hold things of projects."""
    named = [getattr(registry, field.name) for field in Registry.DESCRIPTOR.fields if field.is_repeated]
    return [*named, registry.feature_view_version_history.records]


def _project(one: Message) -> str:
    holder, field = _names_project(one)
    return getattr(holder, field)


def _rename(one: Message, project: str) -> None:
    holder, field = _names_project(one)
    setattr(holder, field, project)


def _names_project(one: Message) -> tuple[Message, str]:
    """Where an object says of which project it is; a project, what it is called."""
    if one.DESCRIPTOR.name == "FeatureViewVersionRecord":
        return one, "project_id"
    holder = one.spec if "spec" in one.DESCRIPTOR.fields_by_name else one
    return holder, "name" if one.DESCRIPTOR.name == "Project" else "project"


def keep_versions(before: Registry, after: Registry) -> None:
    """Leave what was deployed as it was ``before``, in what is to be written. Raises `DefinitionError` where ``after``
    has another definition in the place of a view or a service, or none."""
    views = {_identity(view): view for view in after.feature_views}
    parts = [part for service in after.feature_services for part in service.spec.features]
    deployed = {one.spec.project for one in before.feature_views if is_deployed(before, one.spec.project)}
    _require_services(before, after, deployed)
    for old in before.feature_views:
        if old.spec.project not in deployed:
            continue
        new, version = views.get(_identity(old)), old.spec.tags.get(STORED_AS)
        if new is None:
            raise not_declared(old.spec.name)
        if version and new.spec.tags.get(STORED_AS) == version:
            continue
        if not are_one_version(FeatureView.from_proto(old), FeatureView.from_proto(new)):
            raise declared_otherwise(old.spec.name)
        if not version:
            if old.spec.batch_source.file_options.uri != new.spec.batch_source.file_options.uri:
                raise declared_otherwise(old.spec.name)
            continue
        new.spec.tags[STORED_AS] = old.spec.tags[STORED_AS]
        new.spec.batch_source.CopyFrom(old.spec.batch_source)
        for source in (
            *(one for one in after.data_sources if one.project == old.spec.project),
            *(part.batch_source for part in parts if part.feature_view_name == old.spec.name),
        ):
            if source.name == old.spec.batch_source.name:
                source.file_options.CopyFrom(old.spec.batch_source.file_options)


def _require_services(before: Registry, after: Registry, deployed: set[str]) -> None:
    services = {_identity(one): one for one in after.feature_services}
    for old in before.feature_services:
        if old.spec.project in deployed:
            if (new := services.get(_identity(old))) is None:
                raise not_declared(old.spec.name)
            if given_by(new) != given_by(old):
                raise declared_otherwise(old.spec.name)


def given_by(service: FeatureService) -> list[tuple]:
    """What a service gives: of each view its name, what it and its keys are called there, and the features."""
    return sorted(
        (
            one.feature_view_name,
            one.feature_view_name_alias,
            sorted(one.join_key_map.items()),
            sorted((column.name, column.value_type) for column in one.feature_columns),
        )
        for one in service.spec.features
    )


def _copied(registry: Registry) -> Registry:
    copy = Registry()
    copy.CopyFrom(registry)
    return copy


# Merging


def merge(stored: Registry, base: Registry, changed: Registry) -> None:
    """Make in ``stored`` the changes that lead from ``base``, which both come from, to ``changed``."""
    for field in Registry.DESCRIPTOR.fields:
        ours, before, theirs = (getattr(registry, field.name) for registry in (changed, base, stored))
        if field.name in ("version_id", "last_updated"):
            continue
        if field.name == "feature_view_version_history":
            _merge_versions(theirs, before, ours)
        elif field.is_repeated:
            _merge_objects(field.name, theirs, before, ours)
        elif ours != before:
            if isinstance(ours, Message):
                theirs.CopyFrom(ours)
            else:
                setattr(stored, field.name, ours)


def _merge_versions(theirs: Message, before: Message, ours: Message) -> None:
    """Add the versions that are new on this side, and remove those of views that it deleted.

    One number, given on both sides, stays that of the first writer.
    """
    gone = {_version(record) for record in before.records} - {_version(record) for record in ours.records}
    kept = [record for record in theirs.records if _version(record) not in gone]
    taken = {_version(record) for record in (*before.records, *kept)}
    copies = [type(record).FromString(record.SerializeToString()) for record in kept]
    del theirs.records[:]
    theirs.records.extend(copies)
    theirs.records.extend(record for record in ours.records if _version(record) not in taken)


def _version(record: Message) -> tuple[str, str, int]:
    return record.project_id, record.feature_view_name, record.version_number


def _merge_objects(kind: str, theirs: Any, before: Any, ours: Any) -> None:
    old, new, found = ({_identity(one): one for one in objects} for objects in (before, ours, theirs))
    merged = {}
    for identity in [*found, *(name for name in new if name not in found)]:
        one = _merge_object(kind, identity, old.get(identity), new.get(identity), found.get(identity))
        if one is not None:
            merged[identity] = type(one).FromString(one.SerializeToString())  # a copy, before the list is emptied
    del theirs[:]
    theirs.extend(merged.values())


def _identity(one: Message) -> tuple[str, str]:
    spec = one.spec if "spec" in one.DESCRIPTOR.fields_by_name else one
    return getattr(spec, "project", ""), getattr(spec, "name", "")


def _merge_object(
    kind: str, identity: tuple[str, str], old: Message | None, ours: Message | None, theirs: Message | None
) -> Message | None:
    """What is to become of an object, None for none, that was ``old`` and is now ``ours`` here and ``theirs`` there."""
    if ours == old:
        return theirs
    if theirs == old:
        return ours
    defined, here, there = (_definition(one) for one in (old, ours, theirs))
    chosen = theirs if here == defined else ours
    if here not in (defined, there) and there != defined:
        when = f" at {theirs.meta.last_updated_timestamp.ToDatetime().isoformat()}Z" if hasattr(theirs, "meta") else ""
        what = f"{kind.removesuffix('s').replace('_', ' ')} {identity[1]}"
        logger.warning("another process changed the %s first%s; this change takes its place", what, when)
    if chosen is not None and ours is not None and theirs is not None and hasattr(chosen, "meta"):
        chosen = type(chosen).FromString(chosen.SerializeToString())
        _merge_meta(chosen.meta, old.meta if old is not None else None, ours.meta, theirs.meta)
    return chosen


def _definition(one: Message | None) -> bytes | None:
    """An object without what only says when it was written and materialized."""
    if one is None:
        return None
    copy = type(one).FromString(one.SerializeToString())
    if "meta" in copy.DESCRIPTOR.fields_by_name:
        copy.ClearField("meta")
    return copy.SerializeToString(deterministic=True)


def _merge_meta(meta: Message, old: Message | None, ours: Message, theirs: Message) -> None:
    if "last_updated_timestamp" in meta.DESCRIPTOR.fields_by_name:
        latest = max(ours.last_updated_timestamp.ToNanoseconds(), theirs.last_updated_timestamp.ToNanoseconds())
        meta.last_updated_timestamp.FromNanoseconds(latest)
    if "materialization_intervals" in meta.DESCRIPTOR.fields_by_name:
        _merge_intervals(meta, old, ours, theirs)


def _merge_intervals(
    meta: FeatureViewMeta, old: FeatureViewMeta | None, ours: FeatureViewMeta, theirs: FeatureViewMeta
) -> None:
    known = [*(old.materialization_intervals if old is not None else ())]
    new = [interval for interval in ours.materialization_intervals if interval not in known]
    merged = [*theirs.materialization_intervals]
    merged += [interval for interval in new if interval not in merged]
    intervals = [type(interval).FromString(interval.SerializeToString()) for interval in merged]
    del meta.materialization_intervals[:]
    meta.materialization_intervals.extend(intervals)
    meta.state = max(ours.state, theirs.state)  # later in a view's life: they are numbered in that order
