"""What was found as JUnit XML, for CI: as Ant writes it, by the schema that Jenkins and others read."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ElementTree, SubElement

from parity.check import terminal
from parity.check.certificate import Context
from parity.check.verdict import Status, Verdict
from parity.compare.kinds import NOTHING, UNCHECKED
from parity.edge.files import replacing


class Case(NamedTuple):
    """A test case, and what became of it: ``failure``, ``error`` or ``skipped``, or nothing where all is well."""

    group: str
    name: str
    became: str = ""
    kind: str = ""
    message: str = ""
    text: str | None = None


def write_junit(path: Path, verdict: Verdict, context: Context) -> None:
    """Write a test case for each subject, and one for each finding. What is accepted is skipped, and so is what was
    not compared: the suite is green where the exit status is 0, and nowhere else."""
    cases = list(_cases(verdict))
    became = [case.became for case in cases]
    suite = Element(
        "testsuite",
        name=_legal(f"parity check {context.project}"),
        hostname=platform.node() or "localhost",
        timestamp=f"{context.started.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",  # of the schema: without a zone
        time=f"{(context.ended - context.started).total_seconds():.3f}",
        tests=str(len(cases)),
        failures=str(became.count("failure")),
        errors=str(became.count("error")),
        skipped=str(became.count("skipped")),
    )
    properties = SubElement(suite, "properties")
    for name in ("repository", "offline", "online"):
        SubElement(properties, "property", name=name, value=_legal(getattr(context, name)))
    for case in cases:
        element = SubElement(suite, "testcase", classname=_legal(case.group), name=_legal(case.name), time="0")
        if case.became == "skipped":
            SubElement(element, "skipped", message=_legal(case.message))
        elif case.became:
            said = SubElement(element, case.became, type=case.kind, message=_legal(case.message))
            said.text = case.text and _legal(case.text)
    SubElement(suite, "system-out").text = _legal(terminal.last_line(verdict))
    SubElement(suite, "system-err")
    with replacing(path) as temporary:
        ElementTree(suite).write(temporary, encoding="utf-8", xml_declaration=True)


def _cases(verdict: Verdict) -> Iterator[Case]:
    unchecked, vacuous = verdict.unchecked, verdict.vacuous
    red = False
    for one in verdict.compared:
        kind = UNCHECKED if one in unchecked else NOTHING if one in vacuous else None
        became = "" if kind is None else "skipped" if kind.name in verdict.accepted else "error"
        red = red or became == "error"
        yield Case(one.what, one.name, became, kind.name if kind else "", terminal.line(one))
    for finding in verdict.findings:
        kind = finding.kind.name
        became = "failure" if verdict.fails(finding.kind) else "skipped"
        text = f"{terminal.meaning(finding)}\nDo: {terminal.advice(finding)}"
        yield Case(finding.view, f"{kind} in {finding.view}", became, kind, terminal.about(finding), text)
    for name, why in verdict.left.items():
        yield Case("not compared", name, "skipped", message=why)
    if verdict.status is Status.NOT_PROVEN and not red:
        yield Case("parity check", "something is compared", "error", NOTHING.name, terminal.last_line(verdict))


def _legal(text: str) -> str:
    """Text without the characters that XML can't hold."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else " " for sign in text)
