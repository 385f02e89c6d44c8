"""moto's server, with the types of CloudFormation's resources that moto leaves out: python -m tests.aws_server -p PORT

moto makes a stack of what it knows and passes over the rest, down to the single property. Here each such resource is
made by a call of its own API, which boto3 checks, on the same server: what `CALLS` lists. `NOT_MADE` lists what moto
has no API for either.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.parsing import get_model_map, get_name_type_map
from moto.core.utils import pascal_to_camelcase, remap_nested_keys
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ecs.models import EC2ContainerServiceBackend
from moto.elbv2.models import FakeLoadBalancer, FakeTargetGroup
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket
from moto.server import main

NOT_MADE = {"AWS::ElastiCache::ParameterGroup"}
"""What moto has no API for. `Ref` to it is left out."""
PORT = sys.argv[-1]


@dataclass
class Made:
    """A resource that was made: what ``Ref`` and ``Fn::GetAtt`` give, and how it is deleted."""

    id: str
    attributes: dict[str, str] = field(default_factory=dict)
    delete: Callable[[], object] = lambda: None


def client(service: str) -> Any:
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=f"http://127.0.0.1:{PORT}", **keys)


def secret(name: str, properties: dict) -> Made:
    secrets = client("secretsmanager")
    if drawn := properties.pop("GenerateSecretString", None):
        properties["SecretString"] = secrets.get_random_password(**drawn)["RandomPassword"]
    arn = secrets.create_secret(Name=name, **properties)["ARN"]
    return Made(arn, {}, lambda: secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True))


def subnet_group(name: str, properties: dict) -> Made:
    description = properties.pop("Description")
    client("elasticache").create_cache_subnet_group(
        CacheSubnetGroupName=name.lower(), CacheSubnetGroupDescription=description, **properties
    )
    return Made(name.lower())


def replication_group(name: str, properties: dict) -> Made:
    id, elasticache = name.lower()[-40:].lstrip("-0123456789"), client("elasticache")
    made = elasticache.create_replication_group(ReplicationGroupId=id, **properties)["ReplicationGroup"]
    [group] = elasticache.describe_replication_groups(ReplicationGroupId=id)["ReplicationGroups"]
    endpoint = group["NodeGroups"][0]["PrimaryEndpoint"]
    attributes = {f"PrimaryEndPoint.{name}": str(value) for name, value in endpoint.items()}
    return Made(
        made["ReplicationGroupId"],
        attributes,
        lambda: elasticache.delete_replication_group(ReplicationGroupId=id),
    )


def bucket(name: str, properties: dict) -> Made:
    s3 = client("s3")
    s3.create_bucket(Bucket=name)
    [rule] = properties["LifecycleConfiguration"]["Rules"]
    rule |= {"ID": rule.pop("Id"), "Filter": {}}
    rule |= {"Expiration": {"ExpiredObjectDeleteMarker": rule.pop("ExpiredObjectDeleteMarker")}}
    encryption = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    for rules in encryption:
        rules["ApplyServerSideEncryptionByDefault"] = rules.pop("ServerSideEncryptionByDefault")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration=properties["VersioningConfiguration"])
    s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": encryption})
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=properties["PublicAccessBlockConfiguration"])
    s3.put_bucket_ownership_controls(Bucket=name, OwnershipControls=properties["OwnershipControls"])
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [rule]})
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": properties["Tags"]})
    return Made(name, {"Arn": f"arn:aws:s3:::{name}"}, lambda: s3.delete_bucket(Bucket=name))


def bucket_policy(name: str, properties: dict) -> Made:
    client("s3").put_bucket_policy(Bucket=properties["Bucket"], Policy=json.dumps(properties["PolicyDocument"]))
    return Made(name)


def role(name: str, properties: dict) -> Made:
    iam, trust = client("iam"), json.dumps(properties["AssumeRolePolicyDocument"])
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    for policy in properties["Policies"]:
        document = json.dumps(policy["PolicyDocument"])
        iam.put_role_policy(RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=document)
    return Made(name, {"Arn": arn})


def metric_filter(name: str, properties: dict) -> Made:
    client("logs").put_metric_filter(filterName=name, **remap_nested_keys(properties, pascal_to_camelcase))
    return Made(name)


def alarm(name: str, properties: dict) -> Made:
    client("cloudwatch").put_metric_alarm(AlarmName=name, **properties)
    return Made(name, {}, lambda: client("cloudwatch").delete_alarms(AlarmNames=[name]))


def subscription(name: str, properties: dict) -> Made:
    return Made(client("sns").subscribe(**properties, ReturnSubscriptionArn=True)["SubscriptionArn"])


def schedule(name: str, properties: dict) -> Made:
    network = properties["Target"]["EcsParameters"]["NetworkConfiguration"]
    network["awsvpcConfiguration"] = network.pop("AwsvpcConfiguration")
    client("scheduler").create_schedule(Name=name, **properties)
    return Made(name, {}, lambda: client("scheduler").delete_schedule(Name=name))


def cluster(name: str, properties: dict) -> Made:
    arn = client("ecs").create_cluster(clusterName=name, **remap_nested_keys(properties, pascal_to_camelcase))
    delete = lambda: client("ecs").delete_cluster(cluster=name)  # noqa: E731
    return Made(name, {"Arn": arn["cluster"]["clusterArn"]}, delete)


def task_definition(name: str, properties: dict) -> Made:
    lower = remap_nested_keys(properties, pascal_to_camelcase)
    return Made(client("ecs").register_task_definition(**lower)["taskDefinition"]["taskDefinitionArn"])


def service(name: str, properties: dict) -> Made:
    ecs, lower = client("ecs"), remap_nested_keys(properties, pascal_to_camelcase)
    arn = ecs.create_service(serviceName=name, **lower)["service"]["serviceArn"]
    cluster = properties["Cluster"]
    return Made(arn, {"Name": name}, lambda: ecs.delete_service(cluster=cluster, service=name, force=True))


CALLS = {
    "AWS::SecretsManager::Secret": secret,
    "AWS::ElastiCache::SubnetGroup": subnet_group,
    "AWS::ElastiCache::ReplicationGroup": replication_group,
    "AWS::S3::Bucket": bucket,
    "AWS::S3::BucketPolicy": bucket_policy,
    "AWS::IAM::Role": role,
    "AWS::Logs::MetricFilter": metric_filter,
    "AWS::CloudWatch::Alarm": alarm,
    "AWS::SNS::Subscription": subscription,
    "AWS::Scheduler::Schedule": schedule,
    "AWS::ECS::Cluster": cluster,
    "AWS::ECS::TaskDefinition": task_definition,
    "AWS::ECS::Service": service,
}
"""What is made here: types that moto's CloudFormation lacks, and the bucket, roles and ECS, which it makes in part."""


def resolved(value: Any) -> Any:
    """Put secrets in the place of what names them, as CloudFormation does and moto doesn't."""
    if isinstance(value, dict):
        return {name: resolved(one) for name, one in value.items()}
    if isinstance(value, list):
        return [resolved(one) for one in value]
    if isinstance(value, str):
        named = r"\{\{resolve:secretsmanager:([^{}]+)\}\}"
        read = lambda found: client("secretsmanager").get_secret_value(SecretId=found[1])["SecretString"]  # noqa: E731
        return re.sub(named, read, value)
    return value


class Resource:
    """A resource, in the form in which moto keeps those of a stack."""

    def __init__(self, kind: str, made: Made):
        self.made, self.physical_resource_id, self.type = made, made.id, kind

    def get_cfn_attribute(self, name: str) -> str:
        return self.made.attributes[name]

    def delete(self, *_: str) -> None:
        self.made.delete()

    def is_created(self) -> bool:
        return True


class Model:
    """How resources of a type are made, in the form in which moto wants to have it."""

    def __init__(self, kind: str, make: Callable[[str, dict], Made]):
        self.kind, self.make = kind, make

    def has_cfn_attr(self, _: str) -> bool:
        return True

    def create_from_cloudformation_json(self, resource_name: str, cloudformation_json: dict, *_: str, **__: str):
        try:
            return Resource(self.kind, self.make(resource_name, resolved(cloudformation_json["Properties"])))
        except Exception as error:  # moto would answer with a page that says nothing
            raise ValidationError(message=f"{self.kind} {resource_name}: {error!r}") from error

    def update_from_cloudformation_json(self, original_resource: Resource, cloudformation_json: dict, **_: str):
        properties = resolved(cloudformation_json["Properties"])
        if self.kind in ("AWS::ECS::TaskDefinition", "AWS::CloudWatch::Alarm"):
            return Resource(self.kind, self.make(original_resource.physical_resource_id, properties))
        if self.kind == "AWS::ECS::Service":
            names = {"Cluster", "TaskDefinition", "DesiredCount"} & properties.keys()
            changed = {pascal_to_camelcase(name): properties[name] for name in names}
            client("ecs").update_service(service=original_resource.get_cfn_attribute("Name"), **changed)
        return original_resource


def fill_in() -> None:
    FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL  # as moto takes a condition for met, here no TLS
    needed = {"CPU": 0, "MEMORY": 0, "PORTS": [], "PORTS_UDP": []}
    # Of a container, which need not say it on Fargate, where the task does.
    EC2ContainerServiceBackend._calculate_task_resource_requirements = staticmethod(lambda _: needed)
    NetworkInterface.private_dns_name = ""  # which a task asks for, and moto forgets where a VPC has DNS names
    for kind, make in CALLS.items():
        get_model_map()[kind] = Model(kind, make)
        get_name_type_map()[kind] = {"AWS::S3::Bucket": "BucketName"}.get(kind, "")
    for owner, attribute, mark in [
        (FakeLoadBalancer, "LoadBalancerFullName", "loadbalancer/"),
        (FakeTargetGroup, "TargetGroupFullName", ":"),
    ]:
        owner.get_cfn_attribute = with_full_name(getattr(owner, "get_cfn_attribute", None), attribute, mark)
        owner.has_cfn_attr = classmethod(lambda cls, attr: True)


def with_full_name(known: Callable | None, attribute: str, mark: str) -> Callable:
    def get_cfn_attribute(self, name: str) -> str:
        return self.arn.rpartition(mark)[2] if name == attribute else known(self, name)

    return get_cfn_attribute


if __name__ == "__main__":
    fill_in()
    main()
