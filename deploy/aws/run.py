"""Run a command where the pipeline of a stack runs: in its image and network, with its rights and its variables.

    python deploy/aws/run.py features python -m parity deploy --allow additive
    python deploy/aws/run.py features sh deploy/pipeline.sh

It prints what the command logs. Exit status: that of the command; 2 too if it could not be run. Redis is in reach of
the VPC only, so a machine outside of it, such as one of GitHub, deploys by this. It takes requirements-s3.txt.
"""

import sys
import time
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from parity.edge.command import run
from parity.edge.errors import UserError

SECONDS_BETWEEN = 2


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        raise UserError("say which stack, and what to run: python deploy/aws/run.py STACK COMMAND ...")
    name, *command = sys.argv[1:]
    try:
        return ended(name, command)
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"{name}: {error}") from None


def ended(name: str, command: list[str]) -> int:
    """Run the command, wait for its end, and return its exit status."""
    stack, ecs = outputs(name), boto3.client("ecs")
    network = {
        "subnets": [stack["PrivateSubnetA"], stack["PrivateSubnetB"]],
        "securityGroups": [stack["PipelineGroup"]],
        "assignPublicIp": "DISABLED",
    }
    started = ecs.run_task(
        cluster=stack["Cluster"],
        taskDefinition=stack["Pipeline"],
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": network},
        overrides={"containerOverrides": [{"name": "pipeline", "command": command}]},
    )
    if started.get("failures"):
        raise UserError(f"{name}: ECS started no task: {started['failures'][0].get('reason', 'it does not say why')}")
    task = started["tasks"][0]["taskArn"]
    stream, shown = f"pipeline/pipeline/{task.rpartition('/')[2]}", {}
    while True:
        [found] = ecs.describe_tasks(cluster=stack["Cluster"], tasks=[task])["tasks"]
        show(stack["PipelineLogs"], stream, shown)
        if found["lastStatus"] == "STOPPED":
            break
        time.sleep(SECONDS_BETWEEN)
    status = found["containers"][0].get("exitCode")
    if status is None:
        raise UserError(f"{name}: the container did not start: {found.get('stoppedReason', 'ECS does not say why')}")
    return status


def outputs(name: str) -> dict[str, str]:
    [stack] = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    found = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    if "Pipeline" not in found:
        raise UserError(f"{name}: this stack has no pipeline. Name one of deploy/aws/feature-store.yaml.")
    return found


def show(group: str, stream: str, shown: dict[str, Any]) -> None:
    """Print what is new in a stream of the log; ``shown`` keeps how far it is read."""
    logs = boto3.client("logs")
    while True:
        try:
            page = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **shown)
        except logs.exceptions.ResourceNotFoundException:
            return
        for event in page["events"]:
            print(event["message"], flush=True)
        if page["nextForwardToken"] == shown.get("nextToken") or not page["events"]:
            return
        shown["nextToken"] = page["nextForwardToken"]


if __name__ == "__main__":
    run(main)
