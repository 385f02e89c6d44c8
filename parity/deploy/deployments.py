"""The deployments of a project, as its registry keeps them: which is in force, which were before, what each has.

A deployment is all that a project has in Feast's registry, under the name PROJECT@NUMBER. That in force is the project
itself too, which is what readers read. Bringing another one into force is one write of the registry.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from feast import FeatureView
from feast.protos.feast.core.DataSource_pb2 import DataSource
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.message import Message

from parity.definition.declare import DECLARED
from parity.definition.recorded import are_one_version, version_of, versioned_path
from parity.edge.errors import UserError
from parity.edge.feast_internals import STORED_AS
from parity.registry_store import BETWEEN, IN_FORCE, copy_project, deployment, drop_project, given_by

BEFORE, SINCE, BY, PROVEN, BACK_FROM, RUN = (
    f"parity.{name}" for name in ("before", "since", "by", "proven", "back_from", "run")
)
"""The tags of a deployment, beside `IN_FORCE`: which was before it; since when it is in force, and by whom; when it was
proven as it is served; which one it took the place of in a rollback; and which run has put it there."""


class Deployment(NamedTuple):
    """A deployment of a project, with its notes."""

    number: int
    notes: dict[str, str]

    @property
    def is_in_force(self) -> bool:
        return IN_FORCE in self.notes

    @property
    def is_finished(self) -> bool:
        """Whether it is in force, or was."""
        return SINCE in self.notes

    @property
    def before(self) -> int | None:
        """The one that was in force before it, and that a rollback goes back to."""
        return int(self.notes[BEFORE]) if self.notes.get(BEFORE) else None


def deployments_of(registry: Registry, project: str) -> list[Deployment]:
    """The deployments of a project, the oldest first."""
    found = []
    for one in registry.projects:
        name, _, number = one.spec.name.rpartition(BETWEEN)
        if name == project and number.isdecimal():
            found.append(Deployment(int(number), dict(one.spec.tags)))
    return sorted(found)


def in_force(registry: Registry, project: str) -> Deployment | None:
    """The deployment that is served; None of a project that was never deployed."""
    return next((one for one in deployments_of(registry, project) if one.is_in_force), None)


def numbered(registry: Registry, project: str, number: int) -> Deployment:
    found = next((one for one in deployments_of(registry, project) if one.number == number), None)
    if found is None:
        raise UserError(f"there is no deployment {number} of {project} any more.")
    return found


def note(registry: Registry, project: str, number: int) -> Any:
    """The tags of a deployment, to be changed."""
    name = deployment(project, number)
    for one in registry.projects:
        if one.spec.name == name:
            return one.spec.tags
    added = registry.projects.add()
    added.spec.name = name
    return added.spec.tags


def require_declared(registry: Registry, project: str) -> None:
    """Refuse to deploy beside what could not be gone back to, as the registry does not say how it is declared."""
    for view in registry.feature_views:
        if view.spec.project == project and DECLARED not in view.spec.tags:
            raise UserError(
                f"{view.spec.name} is served as an earlier version of this library has applied it, without how it is "
                "declared, so no rollback could lead back to it. Restore the features.py that is served, and run: "
                "cd feature_repo && feast apply. Then deploy the change."
            )


def put_beside(registry: Registry, candidate: Registry, project: str, run: str) -> int:
    """Put what ``candidate`` has of the project into the registry as its next deployment, and return its number.

    What was in force and is no deployment yet, as it was brought there by `feast apply`, becomes one. One that was put
    there before, and was never in force, is what a run has left that was ended.
    """
    if in_force(registry, project) is None and views_of(registry, project):
        number = _next(registry, project)
        copy_project(registry, project, registry, deployment(project, number))
        note(registry, project, number).update({IN_FORCE: "yes", SINCE: "", BY: "feast apply", PROVEN: ""})
    for one in deployments_of(registry, project):
        if not one.is_finished:
            drop_project(registry, deployment(project, one.number))
    number = _next(registry, project)
    copy_project(candidate, project, registry, deployment(project, number))
    tags = note(registry, project, number)
    tags.clear()
    tags[RUN] = run
    return number


def _next(registry: Registry, project: str) -> int:
    return max((one.number for one in deployments_of(registry, project)), default=0) + 1


def bring_into_force(registry: Registry, project: str, number: int, at: datetime, by: str, back: bool = False) -> None:
    """Let a deployment take the place of the one in force, which is kept as it is by now; also if it goes ``back``."""
    old = in_force(registry, project)
    if old is not None:
        kept = dict(old.notes)
        copy_project(registry, project, registry, deployment(project, old.number))
        tags = note(registry, project, old.number)
        tags.clear()
        tags.update({name: text for name, text in kept.items() if name != IN_FORCE})
    tags = note(registry, project, number)
    notes = dict(tags) | {IN_FORCE: "yes", SINCE: at.isoformat(), BY: by}
    for name in (RUN, PROVEN, BACK_FROM):
        notes.pop(name, None)
    if back:
        notes[BACK_FROM] = str(old.number) if old is not None else ""
    elif BEFORE not in notes:
        notes[BEFORE] = str(old.number) if old is not None else ""
    tags.clear()
    tags.update(notes)
    copy_project(registry, deployment(project, number), registry, project)
    for one in registry.projects:
        if one.spec.name == project:
            one.spec.tags.clear()


def take_out_of_force(registry: Registry, project: str, number: int) -> None:
    """Let the project be empty again, as it was before its first deployment."""
    drop_project(registry, project)
    tags = note(registry, project, number)
    for name in (IN_FORCE, SINCE):
        tags.pop(name, None)


def prunable(registry: Registry, project: str, keep: int) -> list[int]:
    """All deployments but the one in force, and as many as are to be kept of those that rollbacks from there lead to,
    one after the other."""
    one, wanted = in_force(registry, project), set()
    for _ in range(keep + 1):
        if one is not None:
            wanted.add(one.number)
            one = next((other for other in deployments_of(registry, project) if other.number == one.before), None)
    return [one.number for one in deployments_of(registry, project) if one.number not in wanted]


def views_of_none(registry: Registry, project: str, gone: Sequence[int]) -> list[FeatureViewProto]:
    """The views of those deployments whose rows are of no other deployment."""
    forgotten = {deployment(project, number) for number in gone}
    others = [view for view in registry.feature_views if view.spec.project not in forgotten]
    kept = {(view.spec.name, stored(view)) for view in others}
    found = {(view.spec.name, stored(view)): view for view in registry.feature_views if view.spec.project in forgotten}
    return [view for rows, view in sorted(found.items()) if rows not in kept]


# What is in them


def views_of(registry: Registry, project: str) -> dict[str, FeatureViewProto]:
    return {view.spec.name: view for view in registry.feature_views if view.spec.project == project}


def stored(view: FeatureViewProto) -> str:
    """The version that the rows of a view are of; empty if it has none."""
    return view.spec.tags.get(STORED_AS, "")


def under_versions(candidate: Registry, registry: Registry, project: str) -> None:
    """Let the views of a ``candidate``, as declared, keep their rows apart from those that are served by now.

    A view that is served stays under what it is served under where nothing of it has changed, also without a version.
    """
    served = views_of(registry, project)
    places = {}
    for view in candidate.feature_views:
        old = served.get(view.spec.name)
        version = stored(old) if old is not None and _is_same(old, view) else version_of(FeatureView.from_proto(view))
        if version:
            places[view.spec.batch_source.name] = versioned_path(view.spec.batch_source.file_options.uri, version)
            view.spec.tags[STORED_AS] = version
    projections = [one for service in candidate.feature_services for one in service.spec.features]
    for source in (
        *(view.spec.batch_source for view in candidate.feature_views),
        *(one.batch_source for one in projections if one.HasField("batch_source")),
        *candidate.data_sources,
    ):
        if source.name in places:
            source.file_options.uri = places[source.name]


def _is_same(old: FeatureViewProto, new: FeatureViewProto) -> bool:
    """Whether a view that is served is declared as it was."""
    place = new.spec.batch_source.file_options.uri
    kept = versioned_path(place, stored(old)) if stored(old) else place
    is_there = old.spec.batch_source.file_options.uri == kept
    return is_there and are_one_version(FeatureView.from_proto(old), FeatureView.from_proto(new))


def touched(candidate: Registry, of: str, registry: Registry, project: str) -> list[str]:
    """The views of project ``of`` of the candidate that are served otherwise than ``project`` is by now: those of
    another version, at another place, and those of which a service gives something else."""
    served, new = views_of(registry, project), views_of(candidate, of)
    found = [name for name, view in new.items() if name not in served or _kept(view) != _kept(served[name])]
    given = _given(registry, project)
    for place, projections in _given(candidate, of).items():
        if given.get(place) != projections and place[1] in new:
            found.append(place[1])
    return sorted(set(found))


def _kept(view: FeatureViewProto) -> tuple:
    return stored(view), version_of(FeatureView.from_proto(view)), view.spec.batch_source.file_options.uri


def _given(registry: Registry, project: str) -> dict[tuple[str, str], list[tuple]]:
    """What each service of a project gives of which view, by their names."""
    given: dict[tuple[str, str], list[tuple]] = {}
    for service in registry.feature_services:
        if service.spec.project == project:
            for view, *what in given_by(service):
                given.setdefault((service.spec.name, view), []).append(tuple(what))
    return given


def are_same(registry: Registry, project: str, other: Registry, of: str) -> bool:
    """Whether two projects have the same definitions, whenever they were applied and materialized."""
    return _definitions(registry, project) == _definitions(other, of)


def _definitions(registry: Registry, project: str) -> set[bytes]:
    alone = Registry()
    copy_project(registry, project, alone, "")
    return {_content(one) for one in _objects(alone)}


def _objects(registry: Registry) -> Iterator[Message]:
    for field in Registry.DESCRIPTOR.fields:
        if field.is_repeated and field.name not in ("projects", "project_metadata"):
            yield from getattr(registry, field.name)


def _content(one: Message) -> bytes:
    copy = type(one).FromString(one.SerializeToString())
    _without_times(copy)
    if isinstance(copy, FeatureViewProto) and not copy.spec.ttl.ToNanoseconds():  # Feast writes no ttl in two ways
        copy.spec.ClearField("ttl")
    return one.DESCRIPTOR.full_name.encode() + copy.SerializeToString(deterministic=True)


def _without_times(one: Message) -> None:
    """Clear what only says when something was written, also of what it holds; and of a file, whose type says it, that
    it is one: when Feast applies a view again, it leaves that out."""
    if "meta" in one.DESCRIPTOR.fields_by_name:
        one.ClearField("meta")
    if isinstance(one, DataSource) and one.type == DataSource.BATCH_FILE:
        one.ClearField("data_source_class_type")
    for field, value in one.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else [value]:
            _without_times(part)
