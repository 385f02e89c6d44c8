"""`parity check` on this project's own tables: the transactions are the third side."""

import json
import sys

from parity.check import command
from parity.edge.command import run


def checked(project, *arguments):
    """Run the check on the copy of this project, and return its status and its certificate."""
    certificate = project.root / "check.json"
    path, argv = list(sys.path), sys.argv
    sys.modules.pop("feature_repo.features", None)
    try:
        sys.argv = [
            "parity check",
            "-c",
            str(project.root / "feature_repo"),
            "--certificate",
            str(certificate),
            *arguments,
        ]
        run(command.main)
    except SystemExit as stop:
        return stop.code, json.loads(certificate.read_text())
    finally:
        sys.path[:], sys.argv = path, argv


def test_what_the_transactions_give_is_compared_too(project):
    project.prepare("--users", "30")
    status, said = checked(project)
    assert (status, said["verdict"]) == (0, "equal")
    assert [one["what"] for one in said["compared"]] == ["feature view", "oracle"]
    assert said["compared"][1]["equal"] > 0
    lines = project.transactions.read_text().splitlines()
    user, product, when, amount = lines[-1].split(",")
    lines[-1] = ",".join([user, product, when, str(float(amount) + 1)])
    project.transactions.write_text("\n".join([*lines, ""]))
    status, said = checked(project)
    assert (status, {one["kind"] for one in said["findings"]}) == (1, {"oracle"})
