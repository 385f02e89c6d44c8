"""What deploy/ sets is what the production configuration asks for."""

import json
import math
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import uvicorn
import yaml

from parity.check.command import arguments as check_arguments
from parity.check.verdict import Status
from parity.edge.redis_server import free_port
from parity.watch.command import arguments as watch_arguments
from tests.conftest import ROOT
from tests.deployments import wait_until

DEPLOY = ROOT / "deploy"
CONFIGURATION = "\n".join(
    line
    for line in (ROOT / "feature_repo" / "feature_store.production.yaml").read_text().splitlines()
    if not line.startswith("#")
)
NAMED = {name for names in re.findall(r"\$\{(\w+)\}|\benv:(\w+)", CONFIGURATION) for name in names if name}


@pytest.mark.smoke
def test_compose_sets_every_variable_for_every_container_of_ours():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("server", "pipeline"):
        assert set(services[name]["environment"]) >= NAMED
    assert "command" not in services["server"], "the image serves by itself"


def test_kubernetes_sets_every_variable_for_every_container():
    text = (DEPLOY / "kubernetes" / "feature-store.yaml").read_text()
    resources = {resource["kind"]: resource for resource in yaml.safe_load_all(text)}
    secret = set(re.findall(r"--from-literal=(\w+)=", text))
    assert secret == {"FEATURE_STORE_REDIS"}, "what holds a password is in the secret, and nowhere else"
    assert NAMED <= resources["ConfigMap"]["data"].keys() | secret
    for template in (
        resources["Deployment"]["spec"]["template"],
        resources["CronJob"]["spec"]["jobTemplate"]["spec"]["template"],
    ):
        [container] = template["spec"]["containers"]
        sources = {next(iter(source.values()))["name"] for source in container["envFrom"]}
        assert sources == {"feature-store", "feature-store-redis"}


def test_the_watch_of_kubernetes_fails_at_once_on_what_is_found_and_tries_again_what_could_not_be_checked(monkeypatch):
    resources = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / "watch.yaml").read_text())}
    job = resources["CronJob"]["spec"]["jobTemplate"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    sources = {next(iter(source.values()))["name"] for source in container["envFrom"]}
    assert sources == {"feature-store", "feature-store-redis"}, "the variables are those of feature-store.yaml"
    [rule] = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [1])
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "or there is no podFailurePolicy"
    assert job["backoffLimit"] > 0
    python, *arguments = container["command"]
    assert (python, arguments[:3]) == ("python", ["-m", "parity", "watch"])
    monkeypatch.setattr(sys, "argv", ["watch", *arguments[3:]])
    asked = watch_arguments()
    [mount] = container["volumeMounts"]
    assert Path("/app") / asked.report.parent == Path(mount["mountPath"]), "the page is written to the volume"
    assert set(asked.fail_on) == {"quality", "drift", "proof"}


def test_the_check_ahead_of_a_deployment_stops_at_once_on_a_difference_and_is_tried_again_otherwise(
    monkeypatch, tmp_path
):
    job = yaml.safe_load((ROOT / "examples" / "check" / "job.yaml").read_text())
    assert (job["kind"], job["apiVersion"]) == ("Job", "batch/v1")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "PreSync"
    pod = job["spec"]["template"]["spec"]
    [container], [rule] = pod["containers"], job["spec"]["podFailurePolicy"]["rules"]
    assert pod["restartPolicy"] == "Never", "or there is no podFailurePolicy"
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [int(Status.DIFFERS)])
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert job["spec"]["backoffLimit"] > 0
    parity, check, option, _, *arguments = container["command"]
    assert (parity, check, option) == ("parity", "check", "-c")
    monkeypatch.setattr(sys, "argv", ["parity check", "-c", str(tmp_path), *arguments])
    asked = check_arguments()
    assert (asked.url, asked.accept) == ("http://feature-server:6566", ["float32", "ttl"])


def test_the_image_holds_all_that_the_commands_need():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for name in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for source in name.split():
            assert list(ROOT.glob(source)), source


def test_compose_shows_the_server_to_this_machine_only_and_redis_to_none():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert [port for service in services.values() for port in service.get("ports", [])] == ["127.0.0.1:6566:6566"]
    assert services["redis"]["networks"] == ["store"]
    assert compose["networks"]["store"]["internal"]


def test_kubernetes_lets_in_who_carries_a_label():
    resources = yaml.safe_load_all((DEPLOY / "kubernetes" / "feature-store.yaml").read_text())
    by_kind = {resource["kind"]: resource for resource in resources}
    policy, server = by_kind["NetworkPolicy"]["spec"], by_kind["Deployment"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= server["metadata"]["labels"].items()
    [rule] = policy["ingress"]
    [peer] = rule["from"]
    assert peer["podSelector"]["matchLabels"]
    assert peer["namespaceSelector"]["matchLabels"]
    assert "command" not in server["spec"]["containers"][0], "the image serves by itself"


def command_of_the_image() -> list[str]:
    return json.loads(re.search(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[1])


def started_by_the_image(**environment: str) -> tuple[int, bool]:
    """How many workers the command of the image starts with these variables, and whether each request is logged."""
    variables = dict(re.findall(r"^ENV (UVICORN_\w+)=(\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (variables | environment).items():
            patch.setenv(name, value)
        asked = uvicorn.main.make_context("serve", ["app", *command_of_the_image()[4:]]).params
        return uvicorn.Config("app", workers=asked["workers"]).workers, asked["access_log"]


def test_the_image_starts_as_many_workers_as_it_is_given_and_logs_no_request():
    assert started_by_the_image() == (1, False)
    assert started_by_the_image(WEB_CONCURRENCY="4", UVICORN_ACCESS_LOG="true") == (4, True)
    server = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["server"]
    assert server["environment"]["WEB_CONCURRENCY"] == "${WEB_CONCURRENCY:-2}"


def test_kubernetes_starts_a_worker_for_each_cpu_that_is_asked_for_and_has_the_memory_for_them():
    resources = yaml.safe_load_all((DEPLOY / "kubernetes" / "feature-store.yaml").read_text())
    [deployment] = [one for one in resources if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [variable] = [one for one in container["env"] if one["name"] == "WEB_CONCURRENCY"]
    assert variable["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}
    asked = container["resources"]["requests"]["cpu"]
    workers = math.ceil(float(asked.removesuffix("m")) / 1000 if asked.endswith("m") else float(asked))
    memory = {"Mi": 1, "Gi": 1024}
    limit = container["resources"]["limits"]["memory"]
    assert int(limit[:-2]) * memory[limit[-2:]] >= 200 + 250 * workers


def ask(url: str, body: object = None, method: str | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


FEATURE = "user_purchase_features:user_total_transactions"
ROW = {
    "user_id": [1],
    "event_timestamp": ["2026-11-25T00:00:00+00:00"],
    "user_avg_3day_purchase_amount": [666.0],
    "user_total_transactions": [666],
}
WRITES = [
    ("/write-to-online-store", {"feature_view_name": "user_purchase_features", "df": ROW}),
    ("/push", {"push_source_name": "any", "df": ROW, "to": "online_and_offline"}),
    ("/materialize", {"start_ts": "2020-01-01T00:00:00", "end_ts": "2021-01-01T00:00:00"}),
    ("/materialize-incremental", {"end_ts": "2021-01-01T00:00:00"}),
    ("/retrieve-online-documents", {"features": [FEATURE], "query": [1.0]}),
    ("/search", {"features": [FEATURE], "query": [1.0]}),
    ("/chat", {"messages": []}),
]


@pytest.mark.scale
def test_the_server_of_the_image_answers_reads_and_refuses_what_writes(project):
    project.prepare()
    port = free_port()
    python, *arguments = command_of_the_image()
    assert (python, arguments[:3]) == ("python", ["-m", "parity", "serve"])
    arguments[arguments.index("0.0.0.0")], arguments[arguments.index("6566")] = "127.0.0.1", str(port)
    server = subprocess.Popen([sys.executable, *arguments], cwd=project.root, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    question = {"features": [FEATURE], "entities": {"user_id": [1]}}
    try:
        wait_until(lambda: healthy(url), 120)
        assert ask(f"{url}/get-online-features", question)[0] == 200
        before = ask(f"{url}/get-online-features", question)
        for path, body in WRITES:
            for variant in (path, f"{path}/", f"/{path}", f"{path}?x=1", path.replace("e", "%65"), path.upper()):
                for method in ("POST", "PUT"):
                    status, answer = ask(url + variant, body, method)
                    assert (status, "this server only reads" in answer) == (403, True), variant
        for path in ("/openapi.json", "/docs", "/static/", "/chat", "/v1/vector_stores", "/get-online-features", "/"):
            assert ask(url + path)[0] == 403, path
        assert ask(f"{url}/health", {})[0] == 403
        assert ask(f"{url}/health", method="HEAD")[0] == 200
        status, answer = ask(f"{url}/get-online-features", question | {"more": "x" * (8 << 20)})
        assert (status, "larger than 8,388,608 bytes" in answer) == (413, True)
        assert ask(f"{url}/get-online-features", question) == before
        assert "666" not in before[1]
        assert server.poll() is None
    finally:
        server.terminate()
        server.wait(30)


def healthy(url: str) -> bool:
    try:
        return ask(f"{url}/health")[0] == 200
    except urllib.error.URLError:
        return False


@pytest.mark.parametrize("options", ["--port abc", "--bogus"])
@pytest.mark.scale
def test_a_server_with_wrong_options_says_so_in_one_line(project, options):
    outcome = project.shell(f"python -m parity serve {options}")
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.scale
def test_a_server_without_its_variables_says_which_in_one_line(project):
    yaml_file = project.root / "feature_repo" / "feature_store.production.yaml"
    outcome = project.shell("python -m parity serve --port 1", FEAST_FS_YAML_FILE_PATH=str(yaml_file))
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "FEATURE_STORE_REDIS, FEATURE_STORE_REDIS_TYPE, FEATURE_STORE_REGISTRY, which are not set" in outcome.err


def test_the_workflow_builds_the_image_and_tries_what_the_tasks_run():
    workflow = (ROOT / ".github" / "workflows" / "image.yml").read_text()
    commands = [step["run"] for step in yaml.safe_load(workflow)["jobs"]["build"]["steps"] if "run" in step]
    assert commands[0].startswith("docker build -f deploy/Dockerfile ")
    assert any("sh deploy/smoke.sh" in command for command in commands)
    smoke = (DEPLOY / "smoke.sh").read_text()
    assert set(re.findall(r"(FEATURE_STORE_\w+)=", smoke)) >= NAMED
    assert "sh deploy/pipeline.sh" in smoke
