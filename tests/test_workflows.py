"""The workflows of GitHub: checked by actionlint, and run step by step in a clone, with a Redis of its own."""

import re
import shutil
import subprocess

import pytest
import yaml

from parity.edge.redis_server import find_server, free_port, launch
from tests.conftest import ROOT
from tests.workflows import WORKFLOWS, Runner, comments_of_github, evaluate, filled_in, read, steps_of

ACTION = "./.github/actions/parity-check"
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.yml"))


def test_expressions_come_to_what_github_says():
    known = {"github": {"labels": [{"name": "a"}, {"name": "b"}], "event": {"n": 7}}, "vars": {"x": ""}}
    assert evaluate("contains(github.labels.*.name, 'b') && 'yes' || 'no'", known) == "yes"
    assert evaluate("!contains(github.labels.*.name, 'c')", known) is True
    assert evaluate("vars.x != '' || vars.y == ''", known) is True
    assert evaluate("failure()", known, failed=True) is True
    assert filled_in("n ${{ github.event.n }}, ${{ vars.x || 'none' }}, ${{ true }}", known) == "n 7, none, true"
    with pytest.raises(ValueError, match="more than is known here"):
        evaluate("github.event[0]", known)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_says_what_its_token_may_do_and_puts_no_event_into_a_command(name):
    workflow = read(name)
    assert workflow["permissions"]["contents"] == "read"
    for _, step in steps_of(name):
        written = re.findall(r"\$\{\{(.*?)\}\}", step.get("run", ""))
        assert not [one for one in written if "github." in one or "inputs." in one], "in env: it is no code"


def test_what_reaches_production_waits_for_an_environment_and_is_off_without_its_variables():
    for name in ("deploy", "nightly"):
        for job in read(name)["jobs"].values():
            assert job["environment"].startswith("production")
            assert "vars.FEATURE_STORE_REGISTRY != ''" in job["if"]


def test_a_merge_is_deployed_once_ci_is_green_and_no_pull_request_is():
    condition = read("deploy")["jobs"]["deploy"]["if"]

    def is_due(event: str, conclusion: str = "success", of: str = "push", registry: str = "s3://b/r.db") -> bool:
        run = {"conclusion": conclusion, "event": of}
        known = {"github": {"event_name": event, "event": {"workflow_run": run}}}
        return bool(evaluate(condition, {**known, "vars": {"FEATURE_STORE_REGISTRY": registry}}))

    assert is_due("workflow_run")
    assert is_due("workflow_dispatch")
    assert not is_due("workflow_run", conclusion="failure")
    assert not is_due("workflow_run", of="pull_request")
    assert not is_due("workflow_run", registry="")
    assert read("deploy")["on"]["workflow_run"]["workflows"] == [read("ci")["name"]]


def test_a_fork_s_token_is_not_asked_to_write():
    [comment] = [step for _, step in steps_of("plan") if step.get("name") == "comment"]
    for repository, is_due in (("owner/name", True), ("somebody/fork", False)):
        assert evaluate(comment["if"], {"github": pull_request(repository=repository)}) is is_due


@pytest.mark.scale
@pytest.mark.skipif(shutil.which("go") is None, reason="actionlint takes Go")
def test_actionlint_has_nothing_to_say():
    pinned = re.search(r"^ACTIONLINT := (\S+@v[\d.]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    done = subprocess.run(["go", "run", pinned], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("workflows"))


def test_an_action_gets_its_inputs_as_variables_and_never_as_code():
    content = yaml.safe_load((ROOT / ACTION / "action.yml").read_text())
    commands = [step["run"] for step in content["runs"]["steps"] if "run" in step]
    assert not [command for command in commands if "${{" in command]
    given = " ".join(str(value) for step in content["runs"]["steps"] for value in step.get("env", {}).values())
    assert set(content["inputs"]) == set(re.findall(r"inputs\.([\w-]+)", given)), "each is used"
    assert all(step["shell"] == "bash" for step in content["runs"]["steps"] if "run" in step), "which has pipefail"


def test_the_example_of_the_documentation_calls_the_action_with_inputs_that_it_has():
    [example] = re.findall(r"^```yaml\n(steps:.*?)^```$", (ROOT / "docs" / "check.md").read_text(), re.M | re.DOTALL)
    [given] = [step["with"] for step in yaml.safe_load(example)["steps"] if step["uses"] == ACTION]
    assert given.keys() <= yaml.safe_load((ROOT / ACTION / "action.yml").read_text())["inputs"].keys()


@pytest.mark.scale
class TestCheck:
    """The action that checks a Feast repository, as CI calls it; on GitHub the clone is one of theirs."""

    def test_it_is_green_where_training_equals_serving_and_red_where_it_does_not(self, runner):
        ran = runner.run("ci", "check", {})
        assert ran.failed == [], ran
        first, *_, verdict, last = ran.summary.splitlines()
        assert (first, last) == ("```text", "```"), "or its lines run into one"
        assert verdict.startswith("PASSES: training equals serving in ")
        assert {path.name for path in runner.clone.glob("parity-check.*")} == {"parity-check.html", "parity-check.xml"}
        (runner.bin / "parity").unlink()
        ran = runner.act(ACTION, repository="demo/feature_repo")
        assert ran["Install"].out.strip() or (runner.bin / "parity").exists(), "it is there, or it is installed"
        assert [(step.name, step.status) for step in ran.failed] == [("Compare", 1)]
        assert ran.summary.splitlines()[-2].startswith("DIFFERS: ")

        ran = runner.act(ACTION, repository="demo/feature_repo", sample="3", **{"fail-on": "tie,correction"})
        assert ran.failed == [], ran
        assert "3 keys of 5, drawn at random" in ran.summary
        ran = runner.act(ACTION, repository="demo/feature_repo", url="http://127.0.0.1:1")
        assert [(step.name, step.status) for step in ran.failed] == [("Compare", 2)]
        assert "http://127.0.0.1:1" in ran.summary
        ran = runner.act(ACTION, repository="$(touch hacked)`touch hacked`; touch hacked")
        assert [(step.name, step.status) for step in ran.failed] == [("Compare", 2)]
        assert not list(runner.clone.glob("**/hacked"))


def pull_request(*labels: str, repository: str = "owner/name") -> dict:
    head = {"repo": {"full_name": repository}}
    event = {"pull_request": {"number": 7, "labels": [{"name": label} for label in labels], "head": head}}
    return {"repository": "owner/name", "event": event}


@pytest.mark.scale
class TestPlan:
    def test_the_comment_is_updated_in_place_and_the_gate_is_the_label(self, runner):
        features = runner.clone / "feature_repo" / "features.py"
        before = features.read_text()
        by_a_person = {"id": 1, "user": {"type": "User"}, "body": "<!-- parity plan -->\nlooks good"}
        others = [{"id": number, "user": {"type": "Bot"}, "body": "another bot's"} for number in (2, 3)]
        comments = [by_a_person, *others]
        with comments_of_github(comments) as api:

            def plan(text: str, *labels: str, **options: str):
                features.write_text(text)
                runner.commit("change the definitions")
                return runner.run("plan", "plan", {"api": api, "github": pull_request(*labels, **options)})

            ran = plan(before.replace("time_window=timedelta(days=3)", "time_window=timedelta(days=4)"))
            assert [step.name for step in ran.failed] == ["gate"], ran
            assert len(comments) == 4
            assert "value-changing" in comments[3]["body"]
            assert comments[3]["body"].strip() == ran.summary.strip()

            ran = plan(before, "values may change")
            assert (ran.failed, len(comments)) == ([], 4)
            assert "value-changing" in comments[3]["body"]

            ran = plan(f"{before}# a comment\n")
            assert (ran.failed, len(comments)) == ([], 4)
            assert "no-op" in comments[3]["body"]

            ran = plan(before + "import nothing_there\n")
            assert [step.name for step in ran.failed] == ["gate"]
            assert ran["gate"].status == 2
            assert comments[3]["body"].startswith("<!-- parity plan -->\n### No plan could be made")
            assert "nothing_there" in comments[3]["body"]
        assert comments[:3] == [by_a_person, *others]


@pytest.fixture(scope="module")
def production(runner):
    """What a workflow that reaches production is given: Redis, registry and features, as the pipeline makes them."""
    port = free_port()
    redis = launch(find_server(), port, runner.folder)
    variables = {
        "FEATURE_STORE_REGISTRY": str(runner.folder / "registry.db"),
        "FEATURE_STORE_OFFLINE_PATH": str(runner.folder / "user_features.parquet"),
        "FEATURE_STORE_REDIS_TYPE": "redis",
        "FEATURE_STORE_TRANSACTIONS": str(runner.folder / "transactions.csv"),
        "SECONDS_BETWEEN": "0",
    }
    secrets = {"FEATURE_STORE_REDIS": f"localhost:{port}"}
    runner.git("reset", "--quiet", "--hard", "origin/HEAD")
    file = runner.clone / "feature_repo" / "feature_store.production.yaml"
    environment = {**variables, **secrets, "FEAST_FS_YAML_FILE_PATH": str(file)}
    done = runner.shell(
        "python generate_synthetic_data.py --rows 9000 --users 100 --days 45 --output $FEATURE_STORE_TRANSACTIONS\n"
        "sh deploy/pipeline.sh",
        **environment,
    )
    assert done.returncode == 0, done.stdout
    yield {"vars": variables, "secrets": secrets, "environment": environment}
    redis.terminate()
    redis.wait(10)


@pytest.mark.scale
class TestDeploy:
    def test_a_merge_deploys_what_adds_and_stops_at_what_changes_values(self, runner, production):
        features = runner.clone / "feature_repo" / "features.py"
        before = features.read_text()
        merged = {"event_name": "workflow_run", "event": {"workflow_run": {"conclusion": "success", "event": "push"}}}
        by_hand = {"event_name": "workflow_dispatch"}

        def deploy(text: str, github: dict, **inputs: object):
            features.write_text(text)
            return runner.run("deploy", "deploy", {**production, "github": github, "inputs": inputs})

        other = before.replace("time_window=timedelta(days=3)", "time_window=timedelta(days=4)")
        ran = deploy(other, merged)
        assert [(step.name, step.status) for step in ran.failed] == [("deploy", 1)], ran
        assert "value-changing" in ran.summary
        ran = deploy(other, by_hand, allow="value-changing", rollback=False)
        assert ran.failed == [], ran
        assert ran["rollback"] is None
        ran = deploy(other, by_hand, allow="additive", rollback=True)
        assert (ran.failed, ran["deploy"]) == ([], None), ran
        features.write_text(before)
        environment = production["environment"]
        assert runner.shell("python demo_fixed.py --sample 50", **environment).returncode == 0


def matrix_of(part: str) -> dict:
    [one] = [one for one in read("nightly")["jobs"]["look"]["strategy"]["matrix"]["include"] if one["part"] == part]
    return one


@pytest.mark.scale
class TestNightly:
    @pytest.mark.parametrize("part", ["proof", "watch"])
    def test_what_is_well_is_green_and_keeps_its_pages(self, runner, production, part):
        ran = runner.run("nightly", "look", production, matrix_of(part))
        assert ran.failed == [], ran
        assert list((runner.clone / "nightly").glob("*.html"))
        assert "equals the oracle" in ran.summary

    def test_what_could_not_be_checked_is_tried_three_times_and_is_red(self, runner, production):
        gone = production | {"secrets": {"FEATURE_STORE_REDIS": f"localhost:{free_port()}"}}
        ran = runner.run("nightly", "look", gone, matrix_of("proof"))
        assert [(step.name, step.status) for step in ran.failed] == [("proof", 2)]
        assert ran["proof"].out.count("could not be checked") == 3

    def test_a_difference_is_red_at_once(self, runner, production):
        tampered = "import redis\nstore = redis.Redis(port=PORT)\nstore.delete(next(store.scan_iter()))\n"
        port = production["secrets"]["FEATURE_STORE_REDIS"].rpartition(":")[2]
        assert runner.shell(f"python - <<'END'\n{tampered.replace('PORT', port)}END\n").returncode == 0
        ran = runner.run("nightly", "look", production, matrix_of("proof"))
        mended = runner.shell("python materialize_to_online.py", **production["environment"])  # for the other tests
        assert mended.returncode == 0, mended.stdout
        assert [(step.name, step.status) for step in ran.failed] == [("proof", 1)]
        assert "SKEW" in ran.summary
        assert "could not be checked" not in ran["proof"].out

    def test_without_variables_there_is_nothing_to_look_at(self, runner):
        assert runner.run("nightly", "look", {"vars": {}}, matrix_of("proof")).steps == []
