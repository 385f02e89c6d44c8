"""deploy/pipeline.sh, what Kubernetes and ECS run: its last line and its exit status say how it ended."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.test_deploy import DEPLOY

STEPS = ["feast", "compute_features.py", "materialize_to_online.py", "demo_fixed.py"]


def run_with(
    folder: Path, failing: str, status: int, body: str = "", **environment: str
) -> subprocess.CompletedProcess:
    """Run the script where the one step that is ``failing`` ends with ``status``, and all others well."""
    body += f'#!/bin/sh\ncase "$0 $*" in *"{failing}"*) exit {status};; esac\n'
    for name in ("python", "feast"):
        (folder / name).write_text(body)
        (folder / name).chmod(0o755)
    variables = {"PATH": f"{folder}:/usr/bin:/bin", "FEATURE_STORE_TRANSACTIONS": "s3://bucket/transactions"}
    command = ["sh", str(DEPLOY / "pipeline.sh")]
    return subprocess.run(command, env=variables | environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("failing", STEPS)
@pytest.mark.parametrize("status", [1, 2, 137])
def test_a_step_that_fails_is_named_and_a_difference_is_red(tmp_path, failing, status):
    ended = run_with(tmp_path, failing, status)
    red = failing == "demo_fixed.py" and status == 1
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("pipeline: red: " if red else "pipeline: failed: ")
    assert red or re.search(rf"{failing}.* \(exit status {status}\)$", last)
    assert ended.returncode == (1 if red else 2), "1 is a difference, and nothing else is"


@pytest.mark.parametrize("verdict", ["value-changing", "breaking"])
def test_a_plan_of_that_verdict_stops_it_before_anything_is_applied(tmp_path, verdict):
    ended = run_with(tmp_path, f"--fail-on {verdict}", 1, FEATURE_STORE_FAIL_ON=verdict)
    assert ended.returncode == 2
    assert re.match(f"pipeline: failed: python -m parity plan: .* {verdict}", ended.stdout.splitlines()[-1])
    assert "feast" not in ended.stdout


@pytest.mark.parametrize(("fail_on", "plans"), [("value-changing", True), ("never", False), ("", False)])
def test_without_a_plan_it_goes_on(tmp_path, fail_on, plans):
    ended = run_with(tmp_path, "parity plan", 2, FEATURE_STORE_FAIL_ON=fail_on)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "pipeline: green")
    assert ("there is no plan" in ended.stdout) == plans


def test_what_is_deployed_is_left_as_it_is_and_kept_fresh(tmp_path):
    """Where features.py is ahead of what is served, or behind it, after a rollback, `feast apply` would be refused."""
    body = '#!/bin/sh\ncase "$*" in *"deploy --status"*) echo "2  served since then by me: spending 1a2b";; esac\n'
    ended = run_with(tmp_path, "feast", 1, body=body, FEATURE_STORE_FAIL_ON="breaking")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "pipeline: green")
    assert "so nothing is applied here" in ended.stdout
    assert "materialize_to_online.py" in ended.stdout


def test_a_green_run_says_so(tmp_path):
    ended = run_with(tmp_path, "nothing", 1)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "pipeline: green")


def test_a_pipeline_without_transactions_does_nothing(tmp_path):
    ended = run_with(tmp_path, "nothing", 1, FEATURE_STORE_TRANSACTIONS="")
    assert (ended.returncode, ended.stdout) == (2, "pipeline: failed: FEATURE_STORE_TRANSACTIONS is not set\n")


def test_kubernetes_runs_it_and_the_image_holds_it():
    manifests = yaml.safe_load_all((DEPLOY / "kubernetes" / "feature-store.yaml").read_text())
    [job] = [manifest for manifest in manifests if manifest["kind"] == "CronJob"]
    [pod] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert pod["command"] == ["sh", "deploy/pipeline.sh"]
    assert "COPY deploy/pipeline.sh deploy/\n" in (DEPLOY / "Dockerfile").read_text()
