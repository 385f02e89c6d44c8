"""Templates of CloudFormation, read and followed without an account."""

import re
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "aws"
STORE, NETWORK = FOLDER / "feature-store.yaml", FOLDER / "network.yaml"


class _Loader(yaml.SafeLoader):
    pass


def _function(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    else:
        value = loader.construct_scalar(node)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _function)


def template(path: Path) -> dict[str, Any]:
    """Read a template, its short forms (``!Ref``) as the long ones."""
    return yaml.load(path.read_text(), _Loader)


def named_in(value: Any) -> set[str]:
    """The names that a part of a template reads: of parameters, resources, and pseudo parameters."""
    if isinstance(value, list):
        return set().union(*map(named_in, value))
    if not isinstance(value, dict):
        return set()
    names = set().union(*map(named_in, value.values()))
    if "Ref" in value:
        names.add(value["Ref"])
    if "Fn::GetAtt" in value:
        names.add(value["Fn::GetAtt"][0])
    if "Fn::Sub" in value:
        text = value["Fn::Sub"] if isinstance(value["Fn::Sub"], str) else value["Fn::Sub"][0]
        names |= {name.partition(".")[0] for name in re.findall(r"\$\{([^!}]+)\}", text)}
    return names


def accepted(parameter: dict[str, Any], value: str) -> bool:
    """Whether CloudFormation takes a ``value``, by the length, the pattern and the list of a parameter."""
    return (
        len(value) <= parameter.get("MaxLength", len(value))
        and bool(re.fullmatch(parameter.get("AllowedPattern", ".*"), value))
        and value in parameter.get("AllowedValues", [value])
    )
