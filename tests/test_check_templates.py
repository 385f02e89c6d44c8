"""`parity check` on the templates that Feast ships, set up as they say, as far as they and their stores run here.

That of PostgreSQL fails while it loads its own data (Feast 0.67); the others want servers or services of others.
"""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import BIN
from tests.strangers import Stranger

pytestmark = pytest.mark.scale


def feast(folder: Path, *arguments: str) -> None:
    done = subprocess.run([BIN / "feast", *arguments], cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr


def repository(folder: Path, template: str) -> Path:
    """The folder of a template, applied and materialized."""
    feast(folder, "init", "demo", "-t", template)
    made = folder / "demo" / "feature_repo"
    feast(made, "apply")
    feast(made, "materialize-incremental", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    return made


def test_local_differs_in_its_json_and_in_nothing_else(tmp_path, capfd):
    theirs = Stranger(repository(tmp_path, "local"), capfd, datetime.now(UTC))
    found = theirs.check()
    assert (found.status, set(found.kinds)) == (1, {"json"})
    assert found.compared("transformed_conv_rate")["equal"] == 10
    assert theirs.check("--accept", "json").status == 0
    services = theirs.check("--service", "driver_activity_v1", "driver_activity_v2", "--accept", "json")
    assert (services.status, len(services.said["compared"])) == (0, 2)


def test_pytorch_nlp_stores_doubles_as_32_bit_floats_and_has_a_view_that_draws(tmp_path, capfd):
    theirs = Stranger(repository(tmp_path, "pytorch_nlp"), capfd, datetime.now(UTC))
    found = theirs.check()
    assert (found.status, set(found.kinds)) == (1, {"float32"})
    assert "sentiment_prediction: could not be compared" in found.out
    accepted = theirs.check("--accept", "float32")
    assert (accepted.status, "NOTHING IS PROVEN of sentiment_prediction" in accepted.out) == (2, True)


def test_an_empty_project_has_nothing_to_compare(tmp_path, capfd):
    feast(tmp_path, "init", "-m", "demo")
    found = Stranger(tmp_path / "demo" / "feature_repo", capfd, datetime.now(UTC)).check()
    assert (found.status, found.said) == (2, None)
    assert "Run: feast apply" in found.err
