"""What the README shows is what happens: its commands are run as printed, and their output compared with it."""

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from parity.definition.functions import FUNCTIONS
from parity.definition.keys import KEY_TYPES
from parity.proof.causes import MEANING
from tests.conftest import BIN, ROOT, free_port
from tests.faults import FAULTS
from tests.repository.features import user_purchase_features

README = (ROOT / "README.md").read_text()
DOCS = {file.name: file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
CONSOLE = re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00"
MILLISECONDS = r"\d+\.\d\d ms"


def commands(block: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", block, re.MULTILINE)


def normalised(output: str) -> str:
    """Write instants and durations, which differ from run to run, as what they are, and in one order what has none."""
    output = re.sub(MILLISECONDS, "<ms>", re.sub(INSTANT, "<instant>", output))
    output = re.sub(r"drawn with --seed \d+", "drawn with --seed <seed>", output)
    unordered = r"(^(Deploying|Removing) .*\n)+"
    return re.sub(unordered, lambda lines: "".join(sorted(lines[0].splitlines(True))), output, flags=re.M)


@pytest.fixture
def checkout(project):
    """The project as a newcomer has it once the requirements are installed, with an address at which no Redis is."""
    for name in ["Makefile", "requirements.txt", "pyproject.toml"]:
        shutil.copy2(ROOT / name, project.root / name)
    shutil.copytree(ROOT / "examples", project.root / "examples")
    environment = project.root / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        (environment / entry.name).symlink_to(entry)
    (environment / "installed").unlink(missing_ok=True)
    (environment / "installed").touch()
    port = free_port()
    config = project.root / "feature_repo" / "feature_store.yaml"
    config.write_text((ROOT / "feature_repo" / "feature_store.yaml").read_text().replace(":6379", f":{port}"))
    yield project, port
    project.shell("make redis-stop")


def run_as_printed(blocks: list[str], project, port: int) -> None:
    script = "\n".join(f"{line}\necho ----" for block in blocks for line in commands(block))
    outcome = project.shell(f"set -e\n{script}", MAKELEVEL="", MAKEFLAGS="")  # make may run the tests
    assert outcome.status == 0, outcome
    shown = [normalised(text) for block in blocks for text in re.split(r"^\$ .*\n", block, flags=re.MULTILINE)[1:]]
    seen = normalised(outcome.out.replace(f":{port}", ":6379")).split("----\n")[:-1]
    assert seen == shown


def test_make_demo_prints_what_it_shows(checkout):
    assert commands(CONSOLE[0]) == ["make demo"]
    run_as_printed(CONSOLE[:1], *checkout)


@pytest.mark.scale
def test_the_single_steps_print_what_it_shows(checkout):
    project, port = checkout
    assert project.shell("make redis").status == 0
    run_as_printed(CONSOLE[1:], project, port)


@pytest.mark.scale
def test_the_check_of_feast_s_own_template_prints_what_it_shows(tmp_path):
    [excerpt] = re.findall(r"^```text\n\$ parity check\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    steps = ["feast init demo", "cd demo/feature_repo", "feast apply", f"feast materialize-incremental {now}"]
    script = " && ".join(f"{step} >&2" for step in steps)
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = f"{script} && python -m parity check"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done
    seen = re.sub(r"since \S+Z", "since <instant>", done.stdout)
    parts = re.sub(r"since \S+Z", "since <instant>", excerpt).split("...\n")
    assert re.fullmatch(r"(?:.*\n)*".join(re.escape(part.rstrip(" ")) for part in parts), seen), seen


def test_its_definitions_are_those_of_the_code():
    text = DOCS["features.md"]
    row = {feature: line for line in text.splitlines() for feature in re.findall(r"^\| `(\w+)` \|", line)}
    for feature in user_purchase_features.features:
        assert f"| {feature.dtype} |" in row[feature.name]
    for rule in user_purchase_features.definition.rules:
        window = rule.time_window
        assert not window or f"[T - {window // timedelta(days=1)} days, T]" in row[rule.name]
    assert f"**A value lives for {user_purchase_features.ttl.days} days**" in text


def test_its_figures_of_the_checker_are_of_these_faults():
    [found, planted, kinds] = map(int, re.search(r"detection: (\d+) of (\d+) faults of (\d+) kinds", README).groups())
    assert kinds == len(FAULTS)
    assert f"plants {kinds} kinds of faults" in README
    assert (found, planted) == (10 * kinds, 10 * kinds)


def test_it_names_every_kind_and_cause_and_option():
    words = " ".join(DOCS["proof.md"].split())
    for name in MEANING:
        assert name in words
    for option in re.findall(r'add_argument\("(--\w+)"', (ROOT / "demo_fixed.py").read_text()):
        assert option in words or option == "--seed"


@pytest.mark.parametrize("name", DOCS)
def test_every_file_that_is_named_is_there(name):
    for file in re.findall(r"`((?:feature_repo/|tests/|parity/|examples/)[\w./]*|\w+_\w+\.py|Makefile)`", DOCS[name]):
        assert (ROOT / file).exists() or (ROOT / "tests" / file).exists(), file
    folder = ROOT if name == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", DOCS[name]):
        assert (folder / link).exists(), link


@pytest.mark.smoke
def test_the_code_that_it_shows_is_the_code_that_runs():
    first, whole, sliding = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert sliding in (ROOT / "examples" / "visits" / "features.py").read_text()
    assert first.removesuffix(")\n") in (ROOT / "tests" / "repository" / "features.py").read_text()
    assert whole == (ROOT / "examples" / "orders" / "features.py").read_text()
    [data] = re.findall(r"^```csv\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert data == (ROOT / "examples" / "orders" / "orders.csv").read_text()


def test_every_function_and_key_type_and_operator_is_documented():
    text = DOCS["features.md"]
    for name in [*FUNCTIONS, *KEY_TYPES]:
        assert f"`{name}`" in text, name
