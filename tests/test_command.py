"""How the scripts end: the exit status is a verdict, an error is one line, and a signal leaves nothing behind."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import redis
import yaml

from parity.edge.command import run
from parity.proof.replay import replayed
from tests.conftest import ROOT
from tests.world import World

SCRIPTS = ["generate_synthetic_data.py", "compute_features.py", "materialize_to_online.py", "demo_fixed.py"]
ONE_OF_THEM = [*(pytest.param(one, marks=pytest.mark.scale) for one in SCRIPTS[:-1]), SCRIPTS[-1]]
"""The scripts where each is a process of its own, which takes seconds: one in `make test`, all in `make test-scale`."""
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
FAILING = {
    "generate_synthetic_data.py": "parity.edge.files.write_table",
    "compute_features.py": "parity.compute.history.read_transactions",
    "materialize_to_online.py": "parity.materialization.latest_events",
    "demo_fixed.py": "parity.proof.proof.known_keys",
}


@pytest.fixture(autouse=True)
def ctrl_c():
    """Tests that run in the background have Ctrl-C ignored, and what they start ignored it too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class TestAnUnexpectedException:
    @pytest.fixture
    def broken(self, project, monkeypatch):
        """Let something in a script fail as a program fails."""
        project.prepare()

        def break_(script: str, error: BaseException) -> None:
            def fails(*_, **__):
                raise error

            monkeypatch.setattr(FAILING[script], fails)

        self.project, self.break_ = project, break_

    @pytest.mark.parametrize("script", SCRIPTS)
    @pytest.mark.parametrize("error", [KeyError("x"), ValueError("two\nlines"), TypeError("\x1b[2J"), AssertionError()])
    def test_is_status_2_and_one_line_that_says_how_to_see_more(self, broken, script, error):
        self.break_(script, error)
        said = self.project.fail(script)
        assert said.startswith(f"error: unexpected {type(error).__name__}: ")
        assert "(test_command.py, line " in said
        assert "--traceback" in said
        assert said.strip().isprintable()

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_is_shown_whole_on_request(self, broken, script, monkeypatch):
        self.break_(script, KeyError("x"))
        whole = self.project.run(script, "--traceback")
        assert whole.status == 2
        assert whole.err.startswith("Traceback (most recent call last):\n")
        assert whole.err.splitlines()[-1].startswith("error: unexpected KeyError")
        monkeypatch.setenv("FEATURE_STORE_TRACEBACK", "1")
        assert self.project.run(script).err.startswith("Traceback")

    def test_is_not_printed_without_end(self, broken):
        self.break_("demo_fixed.py", ValueError("x" * 5_000_000))
        assert len(self.project.fail("demo_fixed.py")) < 1000


@pytest.mark.parametrize("script", ONE_OF_THEM)
def test_a_fault_of_an_import_is_no_skew(project, script):
    instants = project.root / "parity" / "definition" / "instants.py"
    instants.unlink()  # a link
    instants.write_text("import nonsense\n")
    outcome = project.shell(f"python {script}")
    assert outcome.status == 2
    assert outcome.err.startswith("error: No module named 'nonsense' in this Python")
    assert outcome.err.count("\n") == 1
    outcome = project.shell(f"python {script} --traceback")
    assert outcome.status == 2
    assert outcome.err.startswith("Traceback")


class TestClosedStreams:
    @pytest.mark.parametrize(
        "closed",
        ["<&- >&- 2>&-", *(pytest.param(one, marks=pytest.mark.scale) for one in ("2>&-", ">&-", ">&- 2>&-", "<&-"))],
    )
    def test_they_change_no_verdict_and_no_file(self, project, closed):
        project.succeed("generate_synthetic_data.py")
        project.succeed("compute_features.py")
        expected = project.features.read_bytes()
        project.features.unlink()
        outcome = project.shell(f"python compute_features.py {closed}")
        assert outcome.status == 0, outcome
        assert project.features.read_bytes() == expected
        assert outcome.err == ""
        outcome = project.shell(f"python compute_features.py --input none.csv {closed}")
        assert (outcome.status, outcome.out) == (2, "")

    @pytest.mark.parametrize("script", ONE_OF_THEM)
    def test_a_full_disk_at_the_other_end_is_told(self, project, script):
        if not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        project.prepare()
        outcome = project.shell(f"python {script} >/dev/full")
        assert outcome.status == 2
        assert outcome.err == "error: input/output: No space left on device\n"

    @pytest.mark.parametrize("end", ["2>/dev/full", "2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}"])
    @pytest.mark.parametrize(
        "script",
        [
            "compute_features.py --input none.csv",
            pytest.param("demo_fixed.py --at 2020-01-01", marks=pytest.mark.scale),
        ],
    )
    def test_an_error_that_nobody_can_read_is_still_status_2(self, project, script, end):
        if not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        assert project.shell(f"exec bash -c 'python {script} {end}'").status == 2


def test_what_is_wrong_with_the_command_line_is_printable(project):
    outcome = project.run("materialize_to_online.py", "\x1b[31m--bad")
    assert outcome.status == 2
    assert r"\x1b[31m--bad" in outcome.err
    assert "\x1b" not in outcome.err


def test_a_sum_beyond_float64_is_refused_by_every_side(project):
    file = project.root / "feature_repo" / "features.py"
    text = file.read_text().replace('function="count"', 'function="sum"').replace("dtype=Int64,\n", "dtype=Float64,\n")
    file.write_text(text)
    said = "user_total_transactions at 2026-03-08T12:00:00+00:00: the sum of purchase_amount is beyond what a float64"
    fine = [f"{user},100,2026-03-0{day}T12:00:00Z,1.00" for user in (1, 2) for day in (7, 8)]
    project.write_transactions(*fine)
    project.apply()
    project.succeed("compute_features.py")
    project.succeed("materialize_to_online.py")

    for sign in ("", "-"):
        rows = [row.replace("1.00", f"{sign}1.7e308") if row.startswith("2") else row for row in fine]
        huge = project.root / "huge.csv"
        huge.write_text("\n".join(["user_id,product_id,timestamp,purchase_amount", *rows, ""]))
        before = project.features.read_bytes()
        assert f"user_id 2: {said}" in project.fail("compute_features.py", "--input", huge)
        assert f"user_id 2: {said}" in project.fail(
            "compute_features.py", "--incremental", "--input", huge, "--output", project.root / "data" / "days"
        )
        assert project.features.read_bytes() == before
        assert f"user 2: {said}" in project.fail("demo_fixed.py", "--input", huge, "--user", 1, "--at", "2026-03-09")


class TestSignals:
    """Real processes, with a temporary folder of their own, and signals at many points of their life."""

    @pytest.fixture(autouse=True)
    def prepared(self, project, tmp_path):
        project.prepare("--rows", 3000, "--users", 300)
        self.project, self.temporary = project, tmp_path / "temporary"
        self.temporary.mkdir()

    def start(self, *command: object, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=self.project.root,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def seconds_of(self, *command: object) -> float:
        start = time.monotonic()
        process = self.start(*command)
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
        return time.monotonic() - start

    def left(self) -> list[str]:
        """What is in the temporary folder, beside the outputs, or in Redis for a replay."""
        files = [path.name for path in self.temporary.iterdir()]
        files += [path.name for path in self.project.root.rglob("*.tmp")]
        config = yaml.safe_load((self.project.root / "feature_repo" / "feature_store.yaml").read_text())
        return files + list(self.project.client.scan_iter(f"*{config['project']}_replay_*", 1000))

    @pytest.mark.parametrize(
        "command",
        [
            pytest.param(["generate_synthetic_data.py", "--rows", 1_000_000], marks=pytest.mark.scale),
            ["compute_features.py"],
            pytest.param(["materialize_to_online.py"], marks=pytest.mark.scale),
            pytest.param(["demo_fixed.py"], marks=pytest.mark.scale),
            pytest.param(["demo_fixed.py", "--at", "now"], marks=pytest.mark.scale),
        ],
        ids=lambda command: " ".join(map(str, command[:2])),
    )
    def test_at_any_time_end_it_in_order(self, command):
        if "now" in command:
            command = [*command[:-1], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())]
        whole, points = self.seconds_of(*command), int(os.environ.get("SIGNAL_POINTS", 1))
        for number, status in SIGNALS.items():
            for point in range(points):
                process = self.start(*command)
                # Before the first tenth of a second it is Python that starts, and dies as Python does.
                time.sleep(0.1 + (whole - 0.1) * (point + number / 16) / points)
                process.send_signal(number)
                told = process.communicate(timeout=60)[1]
                assert process.returncode in (status, 0), (number, point, told)
                assert told == "", (number, point, told)
                assert self.left() == [], (number, point)

    @pytest.mark.scale
    def test_a_kill_leaves_no_folder_of_metrics(self):
        whole = self.seconds_of("materialize_to_online.py")
        for point in range(3):
            process = self.start("materialize_to_online.py")
            time.sleep(whole * (point + 1) / 4)
            process.kill()
            process.communicate(timeout=60)
            assert not [name for name in self.left() if name.startswith("feast_metrics")]

    def test_a_hang_up_that_the_parent_ignores_stays_ignored(self):
        process = subprocess.Popen(
            ["sh", "-c", f'trap "" HUP; exec {sys.executable} demo_fixed.py'],
            cwd=self.project.root,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(20):
            time.sleep(0.05)
            process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0


SLOW = """
from parity.edge.command import start
start()
import signal, sys, time
from parity.edge.command import run
from parity.edge.signals import deferred

def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        {clean_up}
        print("clean", flush=True)

run(main)
"""


@pytest.mark.parametrize("clean_up", ["time.sleep(1)", "with deferred(): time.sleep(1)"])
def test_a_second_signal_does_not_stop_the_clean_up(clean_up):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(clean_up=clean_up)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)  # of two that come at once, the one of the lower number is handled first
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
        time.sleep(0.05)
    assert process.communicate(timeout=30)[0] == "clean\n"
    assert process.returncode == 143


def test_a_signal_during_a_clean_up_waits_for_its_end():
    code = SLOW.format(clean_up="with deferred(): print('cleaning', flush=True); time.sleep(0.5); print('done')")
    code = code.replace("time.sleep(60)", "pass")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "cleaning\n"]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "done\n"
    assert process.returncode == 130


@pytest.mark.parametrize(("number", "status"), SIGNALS.items())
def test_a_library_that_makes_another_error_of_a_signal_does_not_change_the_status(number, status):
    """As DuckDB does: "RuntimeError: Query interrupted"."""

    def main():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise RuntimeError("Query interrupted") from None

    inherited = signal.signal(number, signal.SIG_DFL)  # which ignores SIGHUP, where nohup runs the tests
    try:
        with pytest.raises(SystemExit) as stop:
            run(main)
        assert stop.value.code == status
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_a_swallowed_signal_still_shows_in_the_status():
    def main():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            return 1

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 143


@pytest.mark.scale
def test_a_script_leaves_no_folder_of_metrics(project, tmp_path):
    project.prepare()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for script in SCRIPTS:
        outcome = project.shell(f"python {script}", TMPDIR=str(temporary), TMP="", TEMP="")
        assert outcome.status == 0, outcome
        code = f"import runpy, sys; sys.argv = [{script!r}]; runpy.run_path({script!r}, run_name='__main__')"
        check = f"try:\n    {code}\nexcept SystemExit: assert not sys.modules.get('feast.metrics')"
        assert project.shell(f'python -c "{check}"').status == 0
    assert list(temporary.iterdir()) == []


def test_signals_during_the_removal_of_a_replay_leave_none_of_its_keys(redis_port, tmp_path, monkeypatch):
    world, client = World(tmp_path, redis_port, seed=4, keys=2000), redis.Redis(port=redis_port)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    names, over = [], threading.Event()

    def hurry():
        while not over.wait(0.001):
            os.kill(os.getpid(), signal.SIGTERM)

    hurrying = threading.Thread(target=hurry)

    def main():
        try:
            with replayed(world.store, [world.table], world.now) as replay:
                names.append(replay.project)
                assert len(list(client.scan_iter(f"*{replay.project}*", 1000))) > 1000
                hurrying.start()
        finally:
            over.set()
            hurrying.join()

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 143
    assert list(client.scan_iter(f"*{names[0]}*", 1000)) == []
    assert list((tmp_path / "temporary").iterdir()) == []
