"""What a deployment would change, asked of `python -m parity plan` in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from feast import FeatureView
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.Registry_pb2 import Registry

from parity.definition.declare import made_by
from parity.deploy.deployments import views_of
from parity.edge.errors import UserError

NO_OP, ADDITIVE, VALUE_CHANGING, BREAKING = VERDICTS = ("no-op", "additive", "value-changing", "breaking")


def planned(path: Path, against: str | None, candidate: Registry, registry: Registry, project: str) -> tuple[str, str]:
    """The verdict on what features.py declares, and what it is about, in words.

    It is held against what is applied, or against the git ref ``against``, by values. Raises `UserError`.
    """
    if find_spec("parity.plan") is None or not views_of(registry, project):
        return _by_definitions(candidate, registry, project)
    base = ["--against", against] if against else ["--applied"]
    command = [sys.executable, "-m", "parity", "plan", "-c", str(path), *base, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it ended without a reason"]
        raise UserError(f"there is no plan: {reason[0].removeprefix('error: ')}")
    plan = json.loads(done.stdout)
    changed = [
        f"{view['name']}:{feature['name']} {feature['status']}"
        for view in plan["views"]
        for feature in view["features"]
        if feature["status"] != "unchanged"
    ]
    return plan["verdict"], ", ".join(changed)


def _by_definitions(candidate: Registry, registry: Registry, project: str) -> tuple[str, str]:
    """The same by how features are made, and not by values: where nothing is applied, every feature is new."""
    verdicts, said = {NO_OP}, []
    for verdict, what in _changes(views_of(registry, project), views_of(candidate, project)):
        verdicts.add(verdict)
        said.append(what)
    return max(verdicts, key=VERDICTS.index), ", ".join(said)


def _changes(served: dict[str, FeatureViewProto], new: dict[str, FeatureViewProto]) -> Iterator[tuple[str, str]]:
    for name in sorted(served.keys() | new.keys()):
        if name not in new:
            yield BREAKING, f"{name} removed"
        elif name not in served:
            yield ADDITIVE, f"{name} added"
        else:
            old, now = (FeatureView.from_proto(views[name]) for views in (served, new))
            before, made = made_by(old), made_by(now)
            for feature in sorted(before.keys() | made.keys()):
                if feature not in made:
                    yield BREAKING, f"{name}:{feature} removed"
                elif feature not in before:
                    yield ADDITIVE, f"{name}:{feature} added"
                elif made[feature] != before[feature]:
                    yield VALUE_CHANGING, f"{name}:{feature} made in another way"
            if (old.ttl or None) != (now.ttl or None):
                yield VALUE_CHANGING, f"{name} served for another time"
