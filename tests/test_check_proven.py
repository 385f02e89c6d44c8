"""`parity check` on this project's own tables: the transactions are the third side."""

import json
import sys
from datetime import UTC, datetime

from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Value

from parity.check import command
from parity.edge.command import run
from parity.edge.feast_internals import stored_name
from parity.online.rows import Fields


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


def lines_of(project):
    return project.transactions.read_text().splitlines()


def services_of(project):
    return [one.name for one in FeatureStore(str(project.root / "feature_repo")).list_feature_services()]


def kinds_of(said):
    return {one["kind"]: one["keys"] for one in said["findings"]}


def test_a_view_that_carries_aggregations_is_compared_by_the_proof(project):
    project.prepare("--users", "30")
    status, said = checked(project)
    assert (status, said["verdict"]) == (0, "equal")
    [one] = said["compared"]
    assert (one["what"], one["equal"] > 0) == ("feature view", True)
    assert "rows offline were compared with the transactions" in " ".join(one["notes"])
    at = datetime.now(UTC).isoformat()
    status, said = checked(project, "--at", at)  # for that the proof would have to write
    [one] = said["compared"]
    assert (status, one["what"]) == (0, "feature view")
    assert "transactions are not compared as of --at" in " ".join(one["notes"])


def test_what_only_the_transactions_have_otherwise_is_of_the_kind_oracle(project):
    project.prepare("--users", "30")
    *lines, last = lines_of(project)
    user, product, when, amount = last.split(",")
    project.transactions.write_text("\n".join([*lines, f"{user},{product},{when},{float(amount) + 1}", ""]))
    for arguments in ([], ["--service", *services_of(project)]):
        status, said = checked(project, *arguments)
        assert (status, {one["kind"] for one in said["findings"]}) == (1, {"oracle"})


def test_what_was_computed_anew_and_not_materialized_is_a_correction_as_in_any_repository(project):
    project.prepare("--users", "30")
    *lines, last = lines_of(project)
    user, product, when, amount = last.split(",")
    project.transactions.write_text("\n".join([*lines, f"{user},{product},{when},{float(amount) + 1}", ""]))
    assert project.run("compute_features.py").status == 0
    status, said = checked(project)
    [one] = said["findings"]
    assert (status, one["kind"], one["keys_listed"]) == (1, "correction", [{"user_id": int(user)}])
    assert one["examples"][0]["trained_on_event"] == one["examples"][0]["served_of_event"]
    assert checked(project, "--accept", "correction")[0] == 0
    assert project.run("demo_fixed.py").status == 1


def test_what_is_new_and_what_is_stored_otherwise_has_a_kind_of_its_own(project):
    """Rows after the watermark are behind, and not late; a row that was materialized is lost."""
    project.prepare("--users", "30")
    feast, client = FeatureStore(str(project.root / "feature_repo")), project.client
    [view] = feast.list_feature_views()
    fields = Fields(stored_name(feast.config, view))
    lost, cast, *_ = sorted(key for key in client.keys("*") if key.endswith(feast.project.encode()))
    client.delete(lost)
    [whole] = [one.name for one in view.features if str(one.dtype) == "Int64"]
    number = Value.FromString(client.hget(cast, fields[whole])).int64_val
    client.hset(cast, fields[whole], Value(int32_val=number).SerializeToString())
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    *lines, last = lines_of(project)
    user, product, _, amount = last.split(",")
    project.transactions.write_text("\n".join([*lines, last, f"{user},{product},{now},{amount}", ""]))
    assert project.run("compute_features.py").status == 0
    status, said = checked(project)
    assert (status, kinds_of(said)) == (1, {"lost": 1, "behind": 1, "type": 1})


def test_without_transactions_the_two_sides_are_compared_and_the_third_is_said_to_be_missing(project):
    project.prepare("--users", "30")
    project.transactions.unlink()
    status, said = checked(project)
    assert (status, said["verdict"]) == (2, "not proven")
    third, two = said["compared"]
    assert (third["name"], str(project.transactions.name) in third["error"]) == ("the transactions", True)
    assert two["equal"] > 0
