"""A shop of its own in a folder and a Redis database, that is deployed to: what the tests of deployments share."""

import contextlib
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import click
from feast import FeatureStore
from feast.protos.feast.core.Registry_pb2 import Registry

from parity.definition.checks import declared
from parity.definition.declare import made_by
from parity.deploy import command
from parity.deploy.verdict import planned
from parity.edge.errors import UserError
from parity.repository import in_force
from tests.conftest import ROOT, Outcome

FEATURES = '''
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64

from parity import AggregatedFeatureView, TransactionSource, check_definitions

ROOT = Path(__file__).resolve().parent
buyer = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.INT64)
bought = TransactionSource(
    name="bought", path=str(ROOT / "bought.csv"), timestamp_field="at", schema=[Field(name="amount", dtype=Float64)]
)


def view(name, ttl=30, **functions):
    """A view of features that are called by what they are: mean_3 is the mean of three days."""
    return AggregatedFeatureView(
        name=name,
        entities=[buyer],
        ttl=ttl and timedelta(days=ttl),
        transactions=bought,
        aggregations=[
            Aggregation(
                name=feature, function=function, column="amount", time_window=days and timedelta(days=days)
            )
            for feature, (function, days) in functions.items()
        ],
        source=FileSource(
            name=f"{name}_source", path=str(ROOT / "data" / f"{name}.parquet"), timestamp_field="event_timestamp"
        ),
    )


'''
FIRST = """
spending = view("spending", spent=("sum", 3), visits=("count", None))
visiting = view("visiting", ttl=None, visits_7d=("count", 7))
shop = FeatureService(name="shop", features=[spending, visiting])
check_definitions(globals())
"""
SECOND = FIRST.replace('("sum", 3)', '("sum", 4)').replace('("count", 7)', '("count", 5)')
"""Both views changed: an answer of the one and the other is a mixture."""
CONFIGURATION = """project: {project}
provider: local
registry:
  path: {folder}/data/registry.db
  registry_store_type: parity.registry_store.ParityRegistryStore
  cache_ttl_seconds: 1
offline_store:
  type: parity.offline.store.ParityDuckDBOfflineStore
batch_engine:
  type: parity.online.engine.ParityComputeEngine
online_store:
  type: parity.online.store.ParityRedisOnlineStore
  connection_string: localhost:{port},socket_timeout=2,socket_connect_timeout=2
entity_key_serialization_version: 3
"""
BUYERS = 12


class Shop:
    """A feature repository in a folder, and the command line on it."""

    def __init__(self, folder: Path, port: int, capture: object):
        self.folder, self.port, self.capture = folder, port, capture
        self.project = f"deployed_{abs(hash(str(folder)))}"
        (folder / "data").mkdir()
        self.configure(port)
        self.declare(FIRST)
        self.sell(datetime.now(UTC))

    def configure(self, port: int) -> None:
        """Let the online store be the Redis at this port."""
        text = CONFIGURATION.format(project=self.project, folder=self.folder, port=port)
        (self.folder / "feature_store.yaml").write_text(text)

    def declare(self, views: str) -> None:
        (self.folder / "features.py").write_text(FEATURES + views)

    def sell(self, until: datetime, more: int = 0) -> None:
        """Write the transactions anew: some of each buyer, in the ten days before ``until``."""
        draw, lines = random.Random(7), ["buyer_id,at,amount"]
        for buyer in range(1, BUYERS + 1):
            for _ in range(12 + more):
                at = until - timedelta(seconds=draw.randrange(60, 10 * 86_400))
                lines.append(f"{buyer},{at:%Y-%m-%d %H:%M:%S},{draw.randrange(1, 10_000) / 100}")
        (self.folder / "bought.csv").write_text("\n".join([*lines, ""]))

    def deploy(self, *arguments: object, quality: bool = False) -> Outcome:
        """Run `python -m parity deploy`, in this process, with a verdict by definitions, which takes no other one."""
        gate = [] if quality else ["--no-quality"]
        command.planned = lambda path, against: self._verdict()
        try:
            return self._called(command.main, "python -m parity deploy", *gate, *arguments)
        finally:
            command.planned = planned

    def _verdict(self) -> tuple[str, str]:
        """What `python -m parity plan` comes to of these shops, by which features there are and how they are made."""
        served, said = (
            {(table.name, name): made for table in tables for name, made in made_by(table.view).items()}
            for tables in (in_force(self.folder), declared(self.folder))
        )
        if served.keys() - said.keys():
            return "breaking", ""
        changed = any(said[name] != served[name] for name in served)
        return ("value-changing" if changed else "additive" if said.keys() - served.keys() else "no-op"), ""

    def script(self, name: str, *arguments: object) -> Outcome:
        """Run one of the scripts, in this process."""
        main = runpy.run_path(str(ROOT / name))["main"]
        return self._called(main, name, *arguments)

    def _called(self, main: Callable[[], int | None], *arguments: object) -> Outcome:
        self.forget()
        argv, sys.argv = sys.argv, [str(arguments[0]), "-c", str(self.folder), *map(str, arguments[1:])]
        self.capture.readouterr()
        try:
            status = main() or 0
        except UserError as error:
            return Outcome(2, self.capture.readouterr().out, f"error: {error}")
        finally:
            sys.argv = argv
        return Outcome(status, *self.capture.readouterr())

    def forget(self) -> None:
        """Let features.py be imported anew."""
        for name in [
            name for name, one in sys.modules.items() if str(self.folder) in (getattr(one, "__file__", "") or "")
        ]:
            del sys.modules[name]

    def begun(self, *arguments: object, **environment: str) -> subprocess.Popen:
        """Begin `python -m parity deploy` for real, in a process that prints each line as it comes."""
        command = [sys.executable, "-u", "-m", "parity", "deploy", "-c", self.folder, "--no-quality", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=os.environ | environment, **pipes)

    def feast(self, *arguments: str) -> Outcome:
        """Run the `feast` command in this process; a `ClickException` is one line, and the status that it names."""
        from feast.cli.cli import cli

        self.forget()
        path = list(sys.path)
        self.capture.readouterr()
        try:
            with contextlib.chdir(self.folder):
                sys.path.insert(0, str(self.folder))
                cli(list(arguments), standalone_mode=False)
        except click.ClickException as error:
            return Outcome(error.exit_code, self.capture.readouterr().out, f"Error: {error.format_message()}\n")
        finally:
            sys.path[:] = path
            self.forget()
        return Outcome(0, *self.capture.readouterr())

    def kept_views(self) -> list[str]:
        """All views that the registry has, of any deployment, but for when they were written."""
        registry = Registry.FromString((self.folder / "data" / "registry.db").read_bytes())
        return sorted(str(view.spec) for view in registry.feature_views)

    def store(self) -> FeatureStore:
        return FeatureStore(repo_path=str(self.folder))

    def read(self, store: FeatureStore | None = None) -> dict[str, list]:
        """What readers get of all buyers, by the service."""
        store = store or self.store()
        rows = [{"buyer_id": buyer} for buyer in range(1, BUYERS + 1)]
        return store.get_online_features(store.get_feature_service("shop"), rows).to_dict()

    def right(self, spent: int = 3, visits_7d: int = 7) -> dict[str, list]:
        """What they have to get, worked out here: windows of so many days, as of each buyer's last purchase."""
        bought: dict[int, list[tuple[datetime, Decimal]]] = {buyer: [] for buyer in range(1, BUYERS + 1)}
        for line in (self.folder / "bought.csv").read_text().splitlines()[1:]:
            buyer, when, amount = line.split(",")
            bought[int(buyer)].append((datetime.fromisoformat(when), Decimal(amount)))
        answer: dict[str, list] = {"buyer_id": [], "spent": [], "visits": [], "visits_7d": []}
        for buyer, purchases in bought.items():
            last = max(when for when, _ in purchases)
            answer["buyer_id"].append(buyer)
            since = last - timedelta(days=spent)
            answer["spent"].append(float(sum(amount for when, amount in purchases if when >= since)))
            answer["visits"].append(len(purchases))
            answer["visits_7d"].append(sum(when >= last - timedelta(days=visits_7d) for when, _ in purchases))
        return answer
