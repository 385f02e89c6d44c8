"""The wheel, as a stranger has it: built, installed beside Feast and what it declares, and run without a checkout."""

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
from feast import Field
from feast.types import Float32, Int64

from parity.__main__ import COMMANDS
from tests.conftest import ROOT
from tests.strangers import DAY, customers, orders, stranger

pytestmark = pytest.mark.scale


class Installed:
    """An environment, and a folder that is no checkout, to run its commands in."""

    def __init__(self, root: Path, wheel: Path):
        self.root, self.wheel = root, wheel
        root.mkdir(exist_ok=True)
        venv.create(root / "python", with_pip=True)
        self.bin = root / "python" / "bin"
        self.elsewhere = root / "elsewhere"
        self.elsewhere.mkdir()

    def install(self, extra: str = "") -> None:
        requirement = f"feature-store-mvp{extra} @ {self.wheel.as_uri()}"
        assert self.run("python", "-m", "pip", "install", "--quiet", requirement).returncode == 0

    def run(self, name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FEAST", "VIRTUAL"))}
        found = kept | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"} | environment
        command = [name, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.elsewhere, env=found, capture_output=True, text=True, timeout=600)
        print(command, done.returncode, done.stdout, done.stderr)
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    pytest.importorskip("build")
    root = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--outdir", root / "dist", ROOT]  # the wheel from the sdist
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    [wheel] = (root / "dist").glob("*.whl")
    made = Installed(root, wheel)
    made.install()
    return made


@pytest.fixture
def theirs(tmp_path, capfd):
    """A repository with a double that is served as a 32-bit float, on dask and SQLite."""
    made = stranger(tmp_path, capfd)
    fields = [Field(name="total", dtype=Float32), Field(name="orders", dtype=Int64)]
    made.apply(*customers(made.write("orders", orders(made.now, total=lambda key: key + 0.1)), 10 * DAY, fields))
    made.materialize()
    return made


@pytest.mark.parametrize("name", ["parity", "feature-store-mvp"])
def test_the_command_compares_a_repository_where_there_is_no_checkout(installed, theirs, name):
    done = installed.run(name, "check", "-c", theirs.root)
    assert (done.returncode, done.stderr) == (1, "")
    assert "20 keys, 40 values, 20 equal, 20 differ" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("DIFFERS: 20 of 40 values: float32")
    pages = ["--report", "page.html", "--certificate", "found.json", "--junit", "junit.xml"]
    done = installed.run(name, "check", "-c", theirs.root, "--accept", "float32", *pages)
    assert (done.returncode, done.stderr) == (0, "")
    assert all((installed.elsewhere / page).stat().st_size for page in pages[1::2])
    done = installed.run(name, "check")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "feature_store.yaml: there is no such file" in done.stderr


def test_help_and_version_take_no_extra(installed):
    done = installed.run("parity", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f" parity {name} " in done.stdout for name in COMMANDS)
    done = installed.run("parity", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, installed.wheel.name.split("-")[1])


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"check"}))
def test_an_ability_whose_extra_is_not_installed_says_so_in_one_line(installed, name):
    done = installed.run("parity", name)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: No module named ")
    assert "Run: pip install '" in done.stderr


def test_a_store_whose_extra_is_not_installed_is_named_with_that_extra(installed, theirs):
    file = theirs.root / "feature_store.yaml"
    text = file.read_text()
    for store, extra in (("online_store: {type: redis}", "redis"), ("offline_store: {type: duckdb}", "duckdb")):
        file.write_text(f"{text}\n{store}\n")  # the last of two entries of one name is the one that holds
        done = installed.run("parity", "check", "-c", theirs.root)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"Run: pip install 'feast[{extra}]'" in done.stderr


def test_the_extra_that_is_named_is_what_the_other_abilities_take(installed):
    more = Installed(installed.root / "more", installed.wheel)
    for one in (installed, more):  # what is installed there need not be installed here once more
        [one.packages] = (one.root / "python" / "lib").glob("python*/site-packages")
    (more.packages / "installed.pth").write_text(str(installed.packages))
    more.install("[pipeline]")
    for name in sorted(COMMANDS.keys() - {"redis", "serve"}):  # which look for feature_repo first
        done = more.run("python", "-m", "parity", name, "--help")
        assert (done.returncode, done.stderr) == (0, "")


def test_the_sdist_holds_what_a_wheel_is_made_of_and_no_half_of_the_tests(installed):
    with tarfile.open(next(installed.wheel.parent.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "docs/check.md",
        "parity/check/page.html",
    } <= names
    assert not [name for name in names if name.startswith("tests")]


def imported(folder: Path, *command: object) -> set[str]:
    """The packages, but for those of Python itself, that a command has imported when it ends, in this environment."""
    folder.mkdir(exist_ok=True)
    at_the_end = "import atexit, sys\natexit.register(lambda: open(OUT, 'w').write('\\n'.join(sys.modules)))\n"
    (folder / "sitecustomize.py").write_text(at_the_end.replace("OUT", repr(str(folder / "imported"))))
    environment = os.environ | {"PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment, check=True, capture_output=True)
    tops = {name.partition(".")[0] for name in (folder / "imported").read_text().splitlines()}
    return tops - set(sys.stdlib_module_names)


def test_a_check_imports_what_feast_imports_for_such_a_repository_and_no_extra(theirs, tmp_path):
    by_feast = f"""
import pandas as pd
from datetime import UTC, datetime
from feast import FeatureStore
store = FeatureStore({str(theirs.root)!r})
keys = pd.DataFrame({{"customer_id": [1], "event_timestamp": [datetime.now(UTC)]}})
store.get_historical_features(keys, ["customers:total"]).to_arrow()
store.get_online_features(["customers:total"], [{{"customer_id": 1}}]).to_dict()
"""
    usual = imported(tmp_path / "usual", "-c", by_feast)
    ours = imported(tmp_path / "ours", "-m", "parity", "check", "-c", theirs.root, "--accept", "float32")
    assert "parity" in ours
    assert ours - usual <= {"parity"}
