"""deploy/aws/ as a stack: checked by cfn-lint, made on moto's server, and the pipeline run by what it gives."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import pytest

from parity.__main__ import COMMANDS
from parity.edge.redis_server import free_port
from tests.cloudformation import FOLDER, NETWORK, STORE, named_in, template
from tests.conftest import BIN, ROOT, s3_server
from tests.deployments import Servers, certificates, tls_server, wait_until

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto")
pytest.importorskip("cfnlint")
from botocore.exceptions import ClientError  # noqa: E402

from tests.aws_server import NOT_MADE  # noqa: E402
from tests.test_deploy import ask, command_of_the_image, healthy  # noqa: E402

pytestmark = pytest.mark.scale
RESOURCES = template(STORE)["Resources"]
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
GIVEN = {"ImageRepository": "feature-store", "ImageTag": "0.1.0", "AlarmEmail": "on-call@example.com"}


def lint(*arguments: object) -> SimpleNamespace:
    command = [BIN / "cfn-lint", "--format", "parseable", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return SimpleNamespace(status=done.returncode, out=done.stdout + done.stderr)


def test_cfn_lint_finds_nothing():
    assert lint(*sorted(FOLDER.glob("*.yaml")), "--regions", "us-east-1", "eu-central-1").out == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["VpcId=vpc-00000000"], "'PrivateSubnetA' is a required property"),
        (["BucketName=" + "a" * 64], "'Ref' is resolved to 'aaaa"),
        (["VpcId=production"], "is not a 'AWS::EC2::VPC.Id'"),
    ],
)
def test_cfn_lint_refuses_parameters_that_are_wrong_or_missing(given, told):
    assert told in lint(STORE, "--parameters", *given).out


class Account:
    """An account on moto's server, with what it makes of templates."""

    def __init__(self, url: str):
        self.url = url

    def client(self, service: str):
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client(service, endpoint_url=self.url, **keys)

    def create(self, name: str, path: Path, **parameters: str) -> "Stack":
        self.client("cloudformation").create_stack(**_stack(name, path, parameters))
        return Stack(self, name, path)


class Stack:
    def __init__(self, account: Account, name: str, path: Path):
        self.account, self.name, self.path, self.client = account, name, path, account.client

    @property
    def outputs(self) -> dict[str, str]:
        [stack] = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    @property
    def ids(self) -> dict[str, str]:
        found = self.client("cloudformation").list_stack_resources(StackName=self.name)["StackResourceSummaries"]
        return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found}

    def update(self, **parameters: str) -> None:
        self.client("cloudformation").update_stack(**_stack(self.name, self.path, parameters))

    def delete(self) -> None:
        self.client("cloudformation").delete_stack(StackName=self.name)

    def container(self, task: str) -> dict:
        found = self.client("ecs").describe_task_definition(taskDefinition=self.ids[task])["taskDefinition"]
        [container] = found["containerDefinitions"]
        return container

    def environment(self, task: str) -> dict[str, str]:
        """What a task finds in its environment: plain values, and secrets as ECS fetches them."""
        container, secrets = self.container(task), self.client("secretsmanager")
        plain = {one["name"]: one["value"] for one in container["environment"]}
        return plain | {
            one["name"]: secrets.get_secret_value(SecretId=one["valueFrom"])["SecretString"]
            for one in container["secrets"]
        }


def _stack(name: str, path: Path, parameters: dict[str, str]) -> dict:
    """What makes or changes a stack. As JSON, as moto misreads some of the short forms of YAML."""
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    body = json.dumps(template(path))
    return {"StackName": name, "TemplateBody": body, "Capabilities": ["CAPABILITY_IAM"], "Parameters": given}


@pytest.fixture(scope="module")
def account():
    with s3_server(sys.executable, "-m", "tests.aws_server", PYTHONPATH=str(ROOT)) as url:
        yield Account(url)


@pytest.fixture(scope="module")
def network(account):
    return account.create("network", NETWORK).outputs


@pytest.fixture(scope="module")
def stack(account, network):
    return account.create("features", STORE, **network, **GIVEN)


def test_every_resource_is_made(stack):
    made = {name for name, id in stack.ids.items() if id}
    assert made >= {name for name, resource in RESOURCES.items() if resource["Type"] not in NOT_MADE}


OTHERS = {
    "BucketName": "named-bucket",
    "Engine": "redis",
    "NodeType": "cache.m7g.large",
    "Schedule": "daily",
    "PipelineSize": "large",
    "FailOn": "never",
    "AlarmEmail": "",
}


def test_every_other_choice_makes_a_stack_too(account, network):
    certificate = account.client("acm").request_certificate(DomainName="features.internal")["CertificateArn"]
    stack = account.create("other", STORE, **network, **GIVEN | OTHERS, CertificateArn=certificate)
    assert stack.ids["Bucket"] == "named-bucket"
    assert not stack.ids.get("Mail")
    [listener] = stack.client("elbv2").describe_listeners(ListenerArns=[stack.ids["Listener"]])["Listeners"]
    assert (listener["Protocol"], listener["Port"], len(listener["Certificates"])) == ("HTTPS", 443, 1)
    assert stack.outputs["ServerUrl"].startswith("https://")
    [alarm] = stack.client("cloudwatch").describe_alarms(AlarmNames=[stack.ids["NoGreenRun"]])["MetricAlarms"]
    assert alarm["EvaluationPeriods"] == 30
    clock = stack.client("scheduler").get_schedule(Name=stack.ids["Clock"])
    assert clock["ScheduleExpression"] == "cron(5 3 * * ? *)"
    assert clock["Target"]["EcsParameters"]["TaskDefinitionArn"] == stack.ids["Pipeline"]
    assert stack.environment("Pipeline")["FEATURE_STORE_FAIL_ON"] == "never"


@pytest.mark.parametrize("left_out", ["VpcId", "PrivateSubnetA", "PrivateSubnetB", "ImageRepository", "ImageTag"])
def test_a_stack_without_a_parameter_is_not_made(account, network, left_out):
    parameters = {name: value for name, value in (network | GIVEN).items() if name != left_out}
    with pytest.raises(ClientError, match=left_out):
        account.create("incomplete", STORE, **parameters)


def test_the_bucket_is_versioned_encrypted_private_and_tls_only(stack):
    s3, name = stack.client("s3"), {"Bucket": stack.outputs["BucketName"]}
    assert s3.get_bucket_versioning(**name)["Status"] == "Enabled"
    [encryption] = s3.get_bucket_encryption(**name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert set(s3.get_public_access_block(**name)["PublicAccessBlockConfiguration"].values()) == {True}
    [rule] = s3.get_bucket_lifecycle_configuration(**name)["Rules"]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    [statement] = json.loads(s3.get_bucket_policy(**name)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    arn = f"arn:aws:s3:::{name['Bucket']}"
    assert statement["Resource"] == [arn, f"{arn}/*"]


def test_redis_has_tls_a_password_encryption_and_two_zones(stack):
    groups = stack.client("elasticache").describe_replication_groups(ReplicationGroupId=stack.ids["Redis"])
    [group] = groups["ReplicationGroups"]
    for name in ("TransitEncryptionEnabled", "AtRestEncryptionEnabled", "AuthTokenEnabled"):
        assert group[name] is True, name
    assert (group["MultiAZ"], group["AutomaticFailover"]) == ("enabled", "enabled")
    password = stack.client("secretsmanager").get_secret_value(SecretId=stack.ids["RedisPassword"])["SecretString"]
    assert re.fullmatch(r"[A-Za-z0-9]{64}", password), "AUTH takes 16 to 128 of few signs, and commas part options"
    connection = stack.environment("Pipeline")["FEATURE_STORE_REDIS"]
    assert connection == stack.environment("Server")["FEATURE_STORE_REDIS"]
    assert connection.endswith(f":6379,ssl=true,password={password},socket_timeout=2,socket_connect_timeout=2")
    tasks = stack.container("Pipeline"), stack.container("Server")
    assert password not in json.dumps([*tasks, stack.outputs])


def test_alarms_reach_the_topic_and_the_topic_reaches_a_person(stack):
    names = [stack.ids[name] for name in ("ProofIsRed", "NoGreenRun", "NoServer")]
    alarms = stack.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    assert {alarm["MetricName"] for alarm in alarms} == {"Red", "Green", "HealthyHostCount"}
    assert all(alarm["AlarmActions"] == [stack.outputs["Topic"]] for alarm in alarms)
    [subscription] = stack.client("sns").list_subscriptions_by_topic(TopicArn=stack.outputs["Topic"])["Subscriptions"]
    assert subscription["Endpoint"] == GIVEN["AlarmEmail"]
    [group] = stack.client("logs").describe_log_groups(logGroupNamePrefix=stack.outputs["PipelineLogs"])["logGroups"]
    assert group["retentionInDays"] == 90


def test_the_filters_that_are_made_find_the_lines_of_the_script(stack):
    logs, name = stack.client("logs"), {"logGroupName": stack.outputs["PipelineLogs"]}
    lines = [line for line in (ROOT / "deploy" / "pipeline.sh").read_text().splitlines() if "echo " in line]
    logs.create_log_stream(**name, logStreamName="lines")
    events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines]
    logs.put_log_events(**name, logStreamName="lines", logEvents=events)
    found = {}
    for one in logs.describe_metric_filters(**name)["metricFilters"]:
        [measured] = one["metricTransformations"]
        events = logs.filter_log_events(**name, filterPattern=one["filterPattern"])["events"]
        found[measured["metricName"], measured["metricValue"]] = len(events)
    assert found == {("Red", "1"): 1, ("Red", "0"): 1, ("Green", "1"): 1}


def replacing_parameters(name: str) -> set[str]:
    """The parameters whose change would make a resource anew, as AWS publishes it and cfn-lint knows it."""
    from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", RESOURCES[name]["Type"]).schema
    fixed = {path.split("/")[2] for path in schema.get("createOnlyProperties", [])}
    properties = RESOURCES[name].get("Properties", {})
    return named_in({key: value for key, value in properties.items() if key in fixed}) & set(
        template(STORE)["Parameters"]
    )


@pytest.mark.parametrize(
    ("name", "anew"),
    [
        ("Bucket", {"BucketName"}),
        ("Redis", set()),
        ("RedisSubnets", set()),
        ("RedisPassword", set()),
        ("RedisConnection", set()),
        ("Cluster", set()),
        ("Service", set()),
        ("PipelineLogs", set()),
        ("Topic", set()),
    ],
)
def test_another_tag_or_size_makes_nothing_anew_that_holds_something(name, anew):
    assert replacing_parameters(name) == anew


def test_an_update_brings_the_next_image_and_keeps_bucket_and_redis(account, network):
    stack = account.create("updated", STORE, **network, **GIVEN)
    before, first = stack.ids, stack.environment("Pipeline")
    stack.update(**network, **GIVEN | {"ImageTag": "0.2.0"}, ServerTasks="3", Environment="staging")
    after = stack.ids
    for name in ("Bucket", "Redis", "RedisPassword", "RedisConnection"):
        assert before[name] == after[name]
    assert stack.environment("Pipeline") == first
    assert stack.container("Server")["image"].endswith("/feature-store:0.2.0")
    [service] = stack.client("ecs").describe_services(cluster=after["Cluster"], services=[after["Service"]])["services"]
    assert (service["desiredCount"], service["taskDefinition"]) == (3, after["Server"])


def test_a_stack_that_is_deleted_leaves_the_bucket_and_nothing_that_costs(account, network):
    stack = account.create("deleted", STORE, **network, **GIVEN)
    ids, s3 = stack.ids, account.client("s3")
    s3.put_object(Bucket=ids["Bucket"], Key="registry.db", Body=b"x")
    stack.delete()
    assert s3.get_object(Bucket=ids["Bucket"], Key="registry.db")["Body"].read() == b"x"
    groups = account.client("elasticache").describe_replication_groups()["ReplicationGroups"]
    assert [group["Status"] for group in groups if group["ReplicationGroupId"] == ids["Redis"]] in ([], ["deleting"])
    services = account.client("ecs").describe_services(cluster=ids["Cluster"], services=[ids["Service"]])
    assert not [service for service in services["services"] if service["status"] == "ACTIVE"]


def by_hand(stack: Stack, *command: str) -> subprocess.CompletedProcess:
    """What deploy/aws/run.py says and returns."""
    environment = os.environ | KEYS | {"AWS_ENDPOINT_URL": stack.account.url}
    called = [sys.executable, FOLDER / "run.py", *command]
    return subprocess.run(called, env=environment, capture_output=True, text=True, timeout=120)


def test_any_command_runs_where_the_pipeline_does(stack, account):
    done = by_hand(stack, "features", "python", "-m", "parity", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    ecs, cluster = stack.client("ecs"), stack.outputs["Cluster"]
    [arn] = ecs.list_tasks(cluster=cluster, launchType="FARGATE")["taskArns"]
    [task] = ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"]
    assert task["taskDefinitionArn"] == stack.outputs["Pipeline"]
    [override] = task["overrides"]["containerOverrides"]
    assert override["command"] == ["python", "-m", "parity", "--help"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["nowhere", "true"], "nowhere: .*does not exist"),
        (["network", "true"], "network: this stack has no pipeline"),
        (["features"], "say which stack, and what to run"),
        ([], "say which stack, and what to run"),
    ],
)
def test_a_command_that_can_not_be_run_says_why_in_one_line(stack, command, told):
    done = by_hand(stack, *command)
    assert done.returncode == 2
    assert re.match(f"error: {told}", done.stderr)
    assert done.stderr.count("\n") == 1


@contextmanager
def redis_of(stack: Stack, folder: Path):
    """A real Redis with TLS and with the password of the stack; give the variables with its address for moto's."""
    connection = stack.environment("Pipeline")["FEATURE_STORE_REDIS"]
    options = connection.partition(",")[2]
    password = re.search(r"password=(\w+)", options)[1]
    certificates(folder, folder / "server")
    port, plain = free_port(), free_port()
    files = ["--tls-ca-cert-file", f"{folder}/ca.crt", "--tls-cert-file", f"{folder}/server.crt"]
    more = ["--tls-key-file", f"{folder}/server.key", "--tls-auth-clients", "no", "--tls-port", str(port)]
    with Servers(folder) as servers:
        servers.launch(plain, *files, *more, "--requirepass", password, server=tls_server())
        # The CA is one that the machine trusts, as Amazon's is.
        yield {"FEATURE_STORE_REDIS": f"localhost:{port},{options}", "SSL_CERT_FILE": f"{folder}/ca.crt"}


def written_to(stack: Stack) -> set[str]:
    found = stack.client("s3").list_objects_v2(Bucket=stack.outputs["BucketName"])["Contents"]
    return {one["Key"] for one in found if not one["Key"].startswith("transactions/")}


def allowed_to(stack: Stack, role: str, action: str) -> list[str]:
    """The resources that the role of a task may do something with, as patterns."""
    iam, name = stack.client("iam"), stack.ids[role]
    names = iam.list_role_policies(RoleName=name)["PolicyNames"]
    policies = [iam.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"] for one in names]
    statements = [statement for policy in policies for statement in policy["Statement"]]
    resources = [statement["Resource"] for statement in statements if action in statement["Action"]]
    return [one for named in resources for one in ([named] if isinstance(named, str) else named)]


def test_the_pipeline_and_the_server_run_by_the_variables_of_the_stack(stack, project, tmp_path):
    (project.root / "deploy").mkdir()
    (project.root / "deploy" / "pipeline.sh").write_text((ROOT / "deploy" / "pipeline.sh").read_text())
    project.succeed("generate_synthetic_data.py")
    s3, bucket = stack.client("s3"), stack.outputs["BucketName"]
    assert stack.outputs["Transactions"] == f"s3://{bucket}/transactions"
    s3.put_object(Bucket=bucket, Key="transactions/first.csv", Body=project.transactions.read_bytes())
    configuration = project.root / "feature_repo" / "feature_store.production.yaml"
    machine = KEYS | {"AWS_ENDPOINT_URL": stack.account.url, "FEAST_FS_YAML_FILE_PATH": str(configuration)}
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_of(stack, folder) as redis:
        command = " ".join(stack.container("Pipeline")["command"])
        outcome = project.shell(command, **machine | stack.environment("Pipeline") | redis)
        assert (outcome.status, outcome.out.splitlines()[-1]) == (0, "pipeline: green"), outcome
        assert "match 40, mismatch 0" in outcome.out

        if "plan" in COMMANDS:
            outcome = project.shell(
                "python -m parity plan --applied", **machine | stack.environment("Pipeline") | redis
            )
            assert (outcome.status, "0 of 200 values differ" in outcome.out) == (0, True), outcome

        writable = allowed_to(stack, "PipelineRole", "s3:PutObject")
        for key in written_to(stack):
            assert any(fnmatchcase(f"arn:aws:s3:::{bucket}/{key}", pattern) for pattern in writable), key
        assert allowed_to(stack, "ServerRole", "s3:PutObject") == []

        purchases = Counter(row["user_id"] for row in csv.DictReader(project.transactions.open()))
        with server(project, machine | stack.environment("Server") | redis) as url:
            users = sorted(map(int, purchases))
            question = {"features": ["user_purchase_features:user_total_transactions"], "entities": {"user_id": users}}
            status, answer = ask(f"{url}/get-online-features", question)
            assert status == 200
            totals = json.loads(answer)["results"][1]["values"]
            assert dict(zip(users, totals, strict=True)) == {int(user): count for user, count in purchases.items()}
            assert ask(f"{url}/push", {"push_source_name": "any", "df": {}})[0] == 403


@contextmanager
def server(project, environment: dict[str, str]):
    """The feature server, by the command of the image, on a free port of this machine."""
    port = free_port()
    _, *arguments = command_of_the_image()
    arguments[arguments.index("0.0.0.0")], arguments[arguments.index("6566")] = "127.0.0.1", str(port)
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=project.root, env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: healthy(url), 120)
        yield url
    finally:
        process.terminate()
        process.wait(30)
