"""What deploy/aws/ says, without any server: variables, rights, parameters and alarms."""

import re

import pytest

from tests.cloudformation import NETWORK, STORE, accepted, template
from tests.test_deploy import NAMED
from tests.test_pipeline_script import STEPS, run_with

TEMPLATE = template(STORE)
RESOURCES = TEMPLATE["Resources"]
PARAMETERS = TEMPLATE["Parameters"]
ROLES = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::IAM::Role"]


def container(task: str) -> dict:
    [definition] = RESOURCES[task]["Properties"]["ContainerDefinitions"]
    return definition


def statements(role: str) -> list[dict]:
    policies = RESOURCES[role]["Properties"]["Policies"]
    return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


@pytest.mark.parametrize("task", ["Pipeline", "Server"])
def test_every_task_gets_every_variable_and_the_password_as_a_secret(task):
    plain = {variable["Name"] for variable in container(task)["Environment"]}
    secret = {variable["Name"] for variable in container(task)["Secrets"]}
    assert plain | secret >= NAMED
    assert secret == {"FEATURE_STORE_REDIS"}, "what holds a password is a secret, and nothing else is"


def test_the_pipeline_is_the_one_that_kubernetes_runs_too():
    assert container("Pipeline")["Command"] == ["sh", "deploy/pipeline.sh"]
    assert "Command" not in container("Server"), "the image serves by itself"


def test_a_task_of_the_server_starts_a_worker_for_each_whole_vcpu_and_has_the_memory_for_them():
    sizes = template(STORE)["Mappings"]["ServerSizes"]
    assert list(sizes) == template(STORE)["Parameters"]["ServerSize"]["AllowedValues"]
    for size in sizes.values():
        assert int(size["Workers"]) == max(1, int(size["Cpu"]) // 1024)
        assert int(size["Memory"]) >= 200 + 250 * int(size["Workers"])
    [workers] = [one["Value"] for one in container("Server")["Environment"] if one["Name"] == "WEB_CONCURRENCY"]
    assert workers == {"Fn::FindInMap": ["ServerSizes", {"Ref": "ServerSize"}, "Workers"]}


def test_a_role_names_what_it_may_touch_where_aws_knows_how():
    everything = {
        action
        for role in ROLES
        for statement in statements(role)
        if "*" in ([statement["Resource"]] if not isinstance(statement["Resource"], list) else statement["Resource"])
        for action in [statement["Action"]]
    }
    assert everything == {"ecr:GetAuthorizationToken"}
    for role in ROLES:
        for statement in statements(role):
            assert "*" not in str(statement["Action"])
            assert "NotAction" not in statement
        assert "ManagedPolicyArns" not in RESOURCES[role]["Properties"]


def test_the_server_may_read_the_registry_and_write_nothing():
    allowed = [(statement["Action"], statement["Resource"]) for statement in statements("ServerRole")]
    assert allowed == [
        ("s3:GetObject", {"Fn::Sub": "${Bucket.Arn}/registry.db"}),
        ("s3:ListBucket", {"Fn::GetAtt": ["Bucket", "Arn"]}),
    ]


GOOD = {
    "BucketName": ["", "abc", "a" * 63, "my-features-1"],
    "ImageRepository": ["feature-store", "team/feature-store", "a.b_c"],
    "ImageTag": ["0.1.0", "latest-but-one", "9f2c1e7"],
    "NodeType": ["cache.t4g.micro", "cache.r7g.16xlarge"],
    "CertificateArn": ["", "arn:aws:acm:eu-central-1:000000000000:certificate/1", "arn:aws-cn:acm:x"],
    "AlarmEmail": ["", "on-call@example.com"],
    "Schedule": ["hourly", "daily"],
}
BAD = {
    "BucketName": ["a" * 64, "ab", "Features", "-abc", "abc-", "my_features", "a.b", "s3://features", "abc\n"],
    "ImageRepository": [
        "",
        "feature-store:1",
        "000000000000.dkr.ecr.eu-central-1.amazonaws.com/store:1",
        "Store",
        "a/",
    ],
    "ImageTag": ["", "latest", "a b", "-1", "sha256:0"],
    "NodeType": ["", "t4g.micro", "cache.t4g"],
    "CertificateArn": ["example.com", "arn:aws:iam::000000000000:server-certificate/1"],
    "AlarmEmail": ["on-call", "a b@c", "@"],
    "Schedule": ["", "weekly", "cron(0 * * * ? *)"],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_parameter_is_refused_before_anything_is_made(name):
    assert not [value for value in GOOD[name] if not accepted(PARAMETERS[name], value)]
    assert not [value for value in BAD[name] if accepted(PARAMETERS[name], value)]
    assert "ConstraintDescription" in PARAMETERS[name] or "AllowedValues" in PARAMETERS[name]


def test_only_what_nobody_else_can_know_must_be_given():
    needed = {name for name, parameter in PARAMETERS.items() if "Default" not in parameter}
    network = set(template(NETWORK)["Outputs"])
    assert needed - network == {"ImageRepository", "ImageTag"}
    assert network <= needed, "what network.yaml gives is what feature-store.yaml takes"


def test_what_a_client_makes_the_server_log_counts_as_no_run():
    def group(task: str) -> str:
        return container(task)["LogConfiguration"]["Options"]["awslogs-group"]["Ref"]

    filters = [one["Properties"] for one in RESOURCES.values() if one["Type"] == "AWS::Logs::MetricFilter"]
    assert {one["LogGroupName"]["Ref"] for one in filters} == {group("Pipeline")}
    assert group("Server") != group("Pipeline")


def test_alarms_say_what_they_do_where_nothing_is_measured():
    missing = {
        name: resource["Properties"]["TreatMissingData"]
        for name, resource in RESOURCES.items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert missing == {"ProofIsRed": "ignore", "NoGreenRun": "breaching", "NoServer": "breaching"}


@pytest.mark.parametrize("name", ["hourly", "daily"])
def test_the_alarm_waits_for_more_than_one_run_and_no_longer_than_cloudwatch_looks_back(name):
    schedule = TEMPLATE["Mappings"]["Schedules"][name]
    assert {"hourly": 1, "daily": 24}[name] < schedule["Hours"] <= 7 * 24
    assert RESOURCES["NoGreenRun"]["Properties"]["Period"] == 3600


def test_who_gets_in_is_named_by_group_and_nobody_by_address():
    for name, resource in RESOURCES.items():
        for rule in resource.get("Properties", {}).get("SecurityGroupIngress", []):
            assert "SourceSecurityGroupId" in rule, name
            assert not {"CidrIp", "CidrIpv6"} & rule.keys(), name
    assert RESOURCES["Balancer"]["Properties"]["Scheme"] == "internal"


def counted(line: str) -> list[str]:
    """The metric filters that a line of the log meets."""
    return [
        name
        for name, resource in RESOURCES.items()
        if resource["Type"] == "AWS::Logs::MetricFilter"
        and re.fullmatch('"(.+)"', resource["Properties"]["FilterPattern"])[1] in line
    ]


@pytest.mark.parametrize("failing", STEPS)
@pytest.mark.parametrize("status", [0, 1, 2])
def test_alarms_look_for_the_last_line_of_the_pipeline_and_for_no_other(tmp_path, failing, status):
    *before, last = run_with(tmp_path, failing, status).stdout.splitlines()
    red = failing == "demo_fixed.py" and status == 1
    assert counted(last) == (["CountRed"] if red else [] if status else ["CountNotRed", "CountGreen"])
    assert not [line for line in before if counted(line)]
