"""The steps that a deployment is made of. Each can be done again, and does the same; none but the switch is seen."""

import getpass
import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from feast import FeatureStore, FeatureView
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.Registry_pb2 import Registry

from parity.compute.history import compute_here, is_by_day, require_apart, update_here
from parity.definition.checks import Declared, FeatureTable
from parity.deploy import deployments
from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.edge.files import Location, location
from parity.materialization import materialize_all
from parity.offline.side import note_marks, note_origin, origins_of
from parity.offline.versions import are_kept, superseding
from parity.online.side import online_store_of
from parity.online.store import ParityRedisOnlineStore
from parity.proof.proof import proving
from parity.registry_store import ParityRegistryStore, deployment
from parity.report import terminal
from parity.report.certificate import watched
from parity.report.seen import look_through
from parity.repository import REGISTRY_STORE, opened, recall, registry_store_of, stored
from parity.stream.seed import seed_streamed
from parity.transactions.landed import high_water

Clock = Callable[[], datetime]


class Stopped(Exception):
    """A step has found something that stops the deployment: nothing of it is served."""


class Target:
    """The repository that is deployed to: its folder, and where its registry is."""

    def __init__(self, path: Path):
        self.path = path
        found = registry_store_of(path)
        if found is None:
            raise UserError(
                f"{path}: its registry is not kept by {REGISTRY_STORE}, which writes it in one step, as a deployment "
                "needs it. Let registry_store_type of the registry be that."
            )
        self.project, self._store = found

    def registry(self) -> Registry:
        """The registry as it is by now; an empty one if there is none."""
        return stored(self.path, self._store) or Registry()

    @property
    def store(self) -> ParityRegistryStore:
        return self._store

    def lock(self) -> str | None:
        """The file that keeps other deployments out; None in a bucket."""
        file = self._store.file
        return file and f"{file}.deploy.lock"

    def tables(self, number: int, names: Sequence[str] | None = None) -> list[FeatureTable]:
        """The tables of a deployment, of these views."""
        every = recall(self.path, self.registry(), deployment(self.project, number))
        return [table for table in every if names is None or table.name in names]


def require_versions(store: FeatureStore) -> None:
    """Refuse an online store that knows nothing of versions."""
    if not isinstance(online_store_of(store), ParityRedisOnlineStore):
        ours = f"{ParityRedisOnlineStore.__module__}.{ParityRedisOnlineStore.__name__}"
        raise UserError(f"a deployment keeps versions apart online, which {ours} does. Let the online_store be that.")


def judge(
    target: Target, said: Declared, names: Sequence[str], sources: dict[str, Location], at: datetime
) -> dict[str, Location]:
    """Hold the transactions of the views, by name in ``sources``, and their features to what is expected of them.

    Gives what the views are to be computed of. Raises `Stopped` if something is not as expected.
    """
    tables = [table for table in said if table.name in names]
    if not _is_installed():
        if any(table.view.expectations or getattr(table.view.transactions, "expectations", ()) for table in tables):
            raise UserError(
                "features.py expects something of its data, and Great Expectations is not installed. Run: pip install "
                "-r requirements-quality.txt; or leave the gate out, with --no-quality"
            )
        print("quality: nothing is expected, and Great Expectations is not installed")
        return sources
    if not tables:
        print("quality: nothing is computed")
        return sources
    from parity.quality.gate import passed  # an extra, and slow to import

    places = [sources[table.name] for table in tables]
    with passed(tables, places, target.path, at, incremental=False) as found:
        if found is None:
            raise Stopped("quality: the data is not as expected")
        print("quality: as expected")
        return dict(found.transactions)


def _is_installed() -> bool:
    return find_spec("great_expectations") is not None


def apply(target: Target, candidate: Registry) -> tuple[int, str]:
    """Put what is declared beside what is served. Gives its number, and the mark of this run."""
    run, number = secrets.token_hex(8), 0

    def put(registry: Registry) -> None:
        nonlocal number
        number = deployments.put_beside(registry, candidate, target.project, run)

    target.store.change(put)
    return number, run


def compute(target: Target, tables: Sequence[FeatureTable], sources: dict[str, Location]) -> None:
    """Compute the offline tables, each in a place of its own, in one file or by day, as what is served is kept."""
    is_logged = are_kept(target.path)
    served = {
        name: location(view.spec.batch_source.file_options.uri)
        for name, view in deployments.views_of(target.registry(), target.project).items()
    }
    for table in tables:
        source, output = sources[table.name], location(table.source.path)
        require_apart(source, output)
        beside = [served[table.name]] if table.name in served else []
        how = update_here if is_by_day(output, [*beside, *served.values()]) else compute_here
        marks = high_water(source)
        with superseding(table, output) if is_logged else nullcontext():
            print(f"compute: {table.name}: {how(table, source, output)} -> {shown(output)}")
        note_origin(table, output, source)
        note_marks(table, output, marks)


def materialize(
    target: Target, number: int, tables: Sequence[FeatureTable], end: datetime | None, clock: Clock
) -> None:
    """Bring them online, each under a name of its own."""
    now = clock()
    with opened(target.path, tables, of=number) as store:
        done = materialize_all(store, tables, None, end or now, now)
        seed_streamed(store, tables, now)
    for table, (keys, *_) in zip(tables, done, strict=True):
        print(f"materialize: {table.name}: {keys:,} {table.noun(keys)} in Redis")


def prove(
    target: Target, number: int | None, tables: Sequence[FeatureTable], at: datetime | None, clock: Clock
) -> None:
    """Prove a deployment, or what is served (None). Raises `Stopped` for any difference."""
    transactions = origins_of(tables, None)
    data = [*transactions, *(location(table.source.path) for table in tables)]
    now = clock()
    with (
        opened(target.path, tables, of=number) as store,
        watched(data, hashed=False) as files,
        proving(store, tables, transactions, at, now) as proofs,
    ):
        seen = look_through(proofs, [proof.chosen(None, 0) for proof in proofs], files)
    found = [one.found for one in seen]
    what = f"deployment {number}" if number is not None else "as it is served"
    if any(one.differences for one in found):
        print(terminal.every_view(found))
        raise Stopped(f"prove: {what}: training, serving and the transactions differ")
    keys = ", ".join(f"{one.keys:,} {one.table.noun(one.keys)} of {one.table.name}" for one in found)
    print(f"prove: {what}: all sides are equal, of {keys}")


def switch(target: Target, number: int, run: str | None, served: Registry, clock: Clock, back: bool = False) -> None:
    """Let the deployment be what is served, in one write. `UserError` if another run has been at work meanwhile."""

    def bring(registry: Registry) -> None:
        project = target.project
        one = deployments.numbered(registry, project, number)
        if not deployments.are_same(registry, project, served, project):
            raise UserError("what is served was changed while this was prepared, so nothing was switched. Run again.")
        if run is not None and one.notes.get(deployments.RUN) != run:
            raise UserError("another deployment was begun while this was prepared, so nothing was switched. Run again.")
        deployments.bring_into_force(registry, project, number, clock(), getpass.getuser(), back)

    target.store.change(bring)


def switch_back(target: Target, number: int, clock: Clock) -> str:
    """Let what was served before a deployment be served again; say in words what that is."""
    said = ""

    def bring(registry: Registry) -> None:
        nonlocal said
        notes = deployments.numbered(registry, target.project, number).notes
        before = notes.get(deployments.BACK_FROM) or notes.get(deployments.BEFORE)
        if before:
            deployments.bring_into_force(registry, target.project, int(before), clock(), getpass.getuser(), back=True)
            tags = deployments.note(registry, target.project, int(before))
            tags.pop(deployments.BACK_FROM, None)
            tags[deployments.PROVEN] = ""
        else:
            deployments.take_out_of_force(registry, target.project, number)
        said = f"deployment {before} is served again" if before else "nothing is served, as before"

    target.store.change(bring)
    return said


def note_proven(target: Target, number: int, at: datetime) -> None:
    def note(registry: Registry) -> None:
        deployments.note(registry, target.project, number)[deployments.PROVEN] = at.isoformat()

    target.store.change(note)


def delete_rows(target: Target, views: Sequence[FeatureViewProto]) -> None:
    """Delete the rows of views in Redis, which are of no deployment any more."""
    with opened(target.path, []) as store:
        for view in views:
            online_store_of(store).delete_table(store.config, FeatureView.from_proto(view))
