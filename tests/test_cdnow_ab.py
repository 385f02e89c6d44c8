"""examples/cdnow/ab.py, on purchases that are made up: two models side by side, from nothing to a verdict."""

import random
import shutil
import subprocess
import sys
from datetime import date, timedelta

import pytest
import yaml

from tests.conftest import BIN, ROOT

EXAMPLE = ROOT / "examples" / "cdnow"
pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(not (EXAMPLE / "train.py").exists(), reason="there is nothing that trains the models"),
]
for package in ("growthbook", "scipy", "sklearn", "skops"):
    pytest.importorskip(package)


def write_purchases(path, customers: int) -> None:
    """Customers who come back each at a rate of their own, until they don't."""
    draw, lines = random.Random(3), ["ID"]
    for customer in range(1, customers + 1):
        day, gap = date(1997, 1, 1) + timedelta(days=draw.randrange(90)), draw.choice([10, 30, 90, 300])
        while day <= date(1998, 6, 30):
            lines.append(f" {customer:05} {day:%Y%m%d}  {draw.randrange(1, 4)}  {draw.uniform(5, 60):.2f}")
            if draw.random() < 0.15:
                break
            day += timedelta(days=1 + int(draw.expovariate(1 / gap)))
    path.write_text("\n".join([*lines, ""]))


@pytest.fixture
def run(tmp_path, redis_port):
    folder = tmp_path / "cdnow"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (folder / "data").mkdir()
    write_purchases(folder / "data" / "CDNOW_master.txt", 1500)
    file = folder / "feature_store.yaml"
    options = yaml.safe_load(file.read_text())
    options["project"] = f"ab_{abs(hash(str(tmp_path)))}"
    options["online_store"]["connection_string"] = f"localhost:{redis_port},db=0"
    file.write_text(yaml.safe_dump(options))

    def run(*command: object, status: int = 0) -> str:
        command = [str(part) for part in command]
        program = [BIN / "feast"] if command[0] == "feast" else [sys.executable, command[0]]
        done = subprocess.run(
            [*program, *command[1:]],
            cwd=folder,
            env={"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout if status != 2 else done.stderr

    return run


@pytest.mark.soak  # which make model does as well
def test_from_nothing_to_a_verdict(run):
    run("feast", "apply")
    run(ROOT / "compute_features.py", "-c", ".")
    run(ROOT / "materialize_to_online.py", "-c", ".", "--end", "1998-07-01T00:00:00Z")
    assert "there is no model. Run: python examples/cdnow/train.py --service recency" in run("ab.py", status=2)
    for service in ("recency_and_frequency", "buys_again"):
        run("train.py", "--service", service, "--untracked", "--repeats", 2)
    out = run("ab.py", "--sample", 300)
    for service in ("recency_and_frequency", "buys_again"):
        assert f"\n{service}: Training equals serving equals the oracle" in out
    assert "units of 1,500 exposures" in out
    assert "sample ratio: as it should be" in out
    assert "\ntreatment against control: " in out
    assert "is known until 1998-04-02" in run("ab.py", "--at", "1998-06-01", status=2)
