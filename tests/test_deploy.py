"""What deploy/ sets is what the production configuration asks for."""

import re

import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
CONFIGURATION = "\n".join(
    line
    for line in (ROOT / "feature_repo" / "feature_store.production.yaml").read_text().splitlines()
    if not line.startswith("#")
)
NAMED = set(re.findall(r"\$\{(\w+)\}", CONFIGURATION))


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


def test_the_image_holds_all_that_the_commands_need():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for name in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for source in name.split():
            assert list(ROOT.glob(source)), source
