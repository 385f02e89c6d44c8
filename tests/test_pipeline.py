"""The four scripts and the stock `feast` commands, each through its real command line."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from tests.conftest import BIN, free_port

SERVICE, VIEW = "user_features", "user_purchase_features"
AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
@pytest.mark.scale
def test_the_whole_pipeline_is_the_same_in_every_time_zone_and_from_another_directory(project, tmp_path, zone):
    end = (datetime.now(UTC) - timedelta(minutes=5)).replace(microsecond=0)
    expected = tmp_path / "expected.parquet"
    project.succeed("generate_synthetic_data.py", "--end", end.isoformat())
    project.succeed("compute_features.py", "--output", expected)
    transactions = project.transactions.read_bytes()
    project.transactions.unlink()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for command in [
        f"python {project.root}/generate_synthetic_data.py --end {end.isoformat()}",
        f"feast -c {project.root}/feature_repo apply",
        f"python {project.root}/compute_features.py",
        f"python {project.root}/materialize_to_online.py",
        f"python {project.root}/demo_fixed.py",
    ]:
        outcome = project.shell(command, cwd=elsewhere, TZ=zone, PYTHONWARNINGS="default")
        assert outcome.status == 0, outcome
        assert outcome.err == ""  # no deprecation, no progress bar, no source that is not there yet
    assert re.search(rf"{AVERAGE} +\$95\.32 +\$95\.32 +0\.0 +\$95\.32\n", outcome.out)
    assert "match 40, mismatch 0, missing online 0, extra online 0, equal but wrong 0" in outcome.out
    assert project.transactions.read_bytes() == transactions
    assert pq.read_table(project.features).equals(pq.read_table(expected), check_metadata=True)
    assert list(elsewhere.iterdir()) == []


class TestStockCommands:
    """What Feast's own command line does with this repository. An instant needs its offset: Feast reads a bare one in
    the machine's time zone."""

    @pytest.fixture
    def repository(self, project):
        now = datetime.now(UTC)
        fresh, old = now - timedelta(hours=1), now - timedelta(days=31)
        project.write_transactions(f"1,100,{fresh.isoformat()},10.00", f"2,100,{old.isoformat()},20.00")
        project.apply()
        project.succeed("compute_features.py")
        return project

    def feast(self, project, arguments: str) -> str:
        outcome = project.shell(f"feast {arguments}", cwd=project.root / "feature_repo", TZ="Asia/Tokyo")
        assert outcome.status == 0, outcome
        return outcome.out

    @pytest.mark.parametrize(
        "command",
        [
            pytest.param("materialize 2020-01-01T00:00:00+00:00", marks=pytest.mark.scale),
            "materialize-incremental",
        ],
    )
    def test_materialize(self, repository, command):
        self.feast(repository, f"{command} {datetime.now(UTC).isoformat()}")
        repository.succeed("demo_fixed.py")
        assert "2 users in Redis" in repository.succeed("materialize_to_online.py")

    def test_get_online_features(self, repository):
        repository.succeed("materialize_to_online.py")
        out = self.feast(repository, f"get-online-features -e user_id=1 -f {VIEW}:{AVERAGE} -f {VIEW}:{TOTAL}")
        assert json.loads(out[out.index("{") :]) == {"user_id": [1], AVERAGE: [10.0], TOTAL: [1]}

    @pytest.mark.scale
    def test_serve(self, repository):
        repository.succeed("materialize_to_online.py")
        with self.served(repository) as ask:
            answer = ask({"feature_service": SERVICE, "entities": {"user_id": [1, 2, 3]}})
        columns = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
        assert columns[AVERAGE]["values"] == [10.0, None, None]
        assert columns[TOTAL]["values"] == [1, None, None]
        for feature in (AVERAGE, TOTAL):
            assert columns[feature]["statuses"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]

    @contextmanager
    def served(self, project):
        port = free_port()
        server = subprocess.Popen(
            [BIN / "feast", "serve", "--port", str(port), "--no-access-log"],
            cwd=project.root / "feature_repo",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def ask(question: dict) -> dict:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/get-online-features",
                json.dumps(question).encode(),
                {"Content-Type": "application/json"},
            )
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=10) as response:
                        return json.load(response)
                except ConnectionRefusedError:
                    pass
                except urllib.error.URLError as error:
                    if not isinstance(error.reason, ConnectionRefusedError):
                        raise
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

        try:
            yield ask
        finally:
            server.terminate()
            server.wait(10)


SLOW_WORK = """
import time
from parity.edge.files import progress
with progress("write", 3, "row") as bar:
    for _ in range(3):
        time.sleep(0.6)
        bar.update()
"""


@pytest.mark.parametrize("on_a_terminal", [True, False])
def test_long_work_shows_a_progress_bar_on_a_terminal_only(on_a_terminal):
    here, there = pty.openpty() if on_a_terminal else os.pipe()
    if on_a_terminal:
        termios.tcsetwinsize(there, (24, 80))
    process = subprocess.Popen([sys.executable, "-c", SLOW_WORK], stdout=there, stderr=there)
    os.close(there)
    seen = bytearray()
    try:
        while block := os.read(here, 65536):
            seen += block
    except OSError:  # how a pseudo-terminal says that the other side has closed it
        pass
    os.close(here)
    assert process.wait(60) == 0
    assert (b"write:" in seen) == on_a_terminal
    assert on_a_terminal or not seen


def test_the_scripts_work_on_another_repository_and_say_what_to_run_there(project):
    other = project.root / "other"
    (project.root / "feature_repo").rename(other)
    project.succeed("generate_synthetic_data.py")
    assert f"{project.root}/feature_repo/features.py: there is no such file" in project.fail("compute_features.py")
    assert f"Run: cd {other} && feast apply\n" in project.fail("materialize_to_online.py", "-c", other)
    assert project.shell(f"feast -c {other} apply").status == 0
    line = project.fail("materialize_to_online.py", "-c", other)
    assert line.endswith(f"Run: python compute_features.py -c {other}\n")
    project.succeed("compute_features.py", "-c", other)
    project.succeed("materialize_to_online.py", "--chdir", other)
    assert "every value of every user" in project.succeed("demo_fixed.py", "-c", other)
    outcome = project.run("demo_fixed.py", "-c", other / "nowhere")
    assert outcome.status == 2
    assert outcome.err.endswith(f"argument -c/--chdir: '{other}/nowhere' is not a folder\n")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("compute_features.py", marks=pytest.mark.scale),
        pytest.param("materialize_to_online.py", marks=pytest.mark.scale),
        "demo_fixed.py",
    ],
)
def test_a_script_does_not_wait_for_typeguard_and_leaves_it_as_it_was(project, script):
    code = f"""
import runpy, sys, typeguard
from typeguard import typechecked
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit:
    assert typeguard.typechecked is typechecked
    print("feast" in sys.modules, file=sys.stderr)
"""
    outcome = project.shell(f"python - <<'E'{code}E")
    assert outcome.status == 0, outcome
    assert outcome.err.endswith("True\n")


def test_the_generator_starts_without_feast_and_pandas(project):
    outcome = project.shell("python -X importtime generate_synthetic_data.py --help")
    assert "pyarrow" in outcome.err
    assert "feast" not in outcome.err
    assert not re.search(r"\| +pandas$", outcome.err, re.MULTILINE)
