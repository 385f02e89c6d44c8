"""Workflows of GitHub, run here: their `run:` steps, one after the other, in a clone of the project.

    python -m tests.workflows .github/workflows/plan.yml

prints the steps of a workflow. What runs here is what is written there, parsed and not copied: commands, conditions,
variables and the shell. So do the steps of the composite actions that are here too (`uses: ./...`). Those of others are
left out; they fetch code, a Python and credentials, which are here.
"""

import json
import os
import re
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"
SHELLS = {None: ["bash", "-e"], "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"]}
"""As of GitHub's reference; without a name there is no pipefail."""


def read(name: str) -> dict[str, Any]:
    """A workflow. `on` is a boolean in YAML 1.1, and is a name here."""
    content = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())
    return {("on" if key is True else key): value for key, value in content.items()}


def steps_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every (job, step) of a workflow."""
    for job, content in read(name)["jobs"].items():
        for step in content["steps"]:
            yield job, step


# Expressions, as far as these workflows go

_TOKENS = re.compile(r"\s*('(?:[^']|'')*'|&&|\|\||==|!=|!|[(),]|[A-Za-z_][\w.*-]*|\d+)")
_WORDS = {"&&": " and ", "||": " or ", "!": " not ", "true": "True", "false": "False", "null": "None"}
FUNCTIONS = "always", "contains", "failure", "success"


def evaluate(text: str, context: Mapping[str, Any], failed: bool = False) -> Any:
    """What an expression comes to, without ``${{ }}`` around it."""
    place, parts = 0, []
    while place < len(text.rstrip()):
        found = _TOKENS.match(text, place)
        if not found:
            raise ValueError(f"this expression is more than is known here: {text!r}")
        token, place = found[1], found.end()
        if token.startswith("'"):
            parts.append(repr(token[1:-1].replace("''", "'")))
        elif re.match(r"[A-Za-z_]", token) and token not in _WORDS and token not in FUNCTIONS:
            parts.append(f"look({token!r})")
        else:
            parts.append(_WORDS.get(token, token))
    functions = {
        "look": lambda path: _look(context, path.split(".")),
        "contains": lambda some, one: one in (some or ()),
        "always": lambda: True,
        "failure": lambda: failed,
        "success": lambda: not failed,
    }
    return eval("".join(parts), {"__builtins__": {}}, functions)  # of what this repository has written itself


def _look(value: Any, path: list[str]) -> Any:
    """What is at a path; an empty text where nothing is."""
    for place, name in enumerate(path):
        if name == "*":
            return [_look(one, path[place + 1 :]) for one in value or ()]
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    return value


def filled_in(text: Any, context: Mapping[str, Any]) -> str:
    """A text with its expressions as what they come to, as GitHub writes it."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: _written(evaluate(found[1].strip(), context)), _written(text))


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


# Running


@dataclass
class Done:
    """A step that was run."""

    name: str
    status: int
    out: str


@dataclass
class Ran:
    """What a job came to: a step that failed fails it."""

    steps: list[Done] = field(default_factory=list)
    summary: str = ""

    @property
    def failed(self) -> list[Done]:
        return [step for step in self.steps if step.status]

    def __getitem__(self, name: str) -> Done | None:
        """The step of that name; None if it was left out."""
        return next((step for step in self.steps if step.name == name), None)


class Runner:
    """A clone of the project, in which jobs are run, with a Python of its own that packages may be installed into."""

    def __init__(self, folder: Path):
        self.folder, self.clone = folder, folder / "clone"
        self.git("clone", "--quiet", str(ROOT), str(self.clone), cwd=folder)
        venv.create(folder / "python", with_pip=True)
        self.bin = folder / "python" / "bin"
        [packages] = (folder / "python" / "lib").glob("python*/site-packages")
        here = [str(self.clone), *(path for path in sys.path if path.endswith("site-packages"))]
        (packages / "those_of_the_tests.pth").write_text("\n".join(here))
        feast = self.bin / "feast"  # of this Python, as pip finds Feast installed already
        feast.write_text(f"#!{self.bin / 'python'}\nfrom feast.cli.cli import cli\n\ncli()\n")
        feast.chmod(0o755)

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=cwd or self.clone, check=True, capture_output=True, text=True).stdout

    def commit(self, message: str) -> None:
        self.git("commit", "--quiet", "--all", "--allow-empty", "--message", message)

    def shell(
        self, command: str, shell: str | None = None, folder: str = ".", **environment: str
    ) -> subprocess.CompletedProcess:
        environment = os.environ | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"} | environment
        script = self.folder / "step.sh"
        script.write_text(command)
        return subprocess.run(
            [*SHELLS[shell], str(script)],
            cwd=self.clone / folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )

    def run(self, name: str, job: str, context: Mapping[str, Any], matrix: Mapping[str, str] | None = None) -> Ran:
        """Run the steps of a job, as long as their conditions hold. ``context`` is what GitHub knows: ``github``,
        ``vars``, ``secrets`` and ``inputs``. A job whose own condition does not hold has no steps."""
        workflow = read(name)
        content, ran = workflow["jobs"][job], Ran()
        github = {"workspace": str(self.clone), "token": "a-token"} | dict(context.get("github", {}))
        known = dict(context) | {"github": github, "matrix": matrix or {}, "steps": {}}
        if "if" in content and not evaluate(_bare(content["if"]), known):
            return ran
        shell = workflow.get("defaults", {}).get("run", {}).get("shell")
        environment = {**workflow.get("env", {}), **content.get("env", {})}
        self._run_steps(content["steps"], known, environment, shell, ran)
        return ran

    def act(self, action: str, **inputs: str) -> Ran:
        """Run the steps of a composite action of the clone, which is named as in ``uses:``."""
        ran = Ran()
        self._act(action, inputs, ran)
        return ran

    def _act(self, action: str, inputs: Mapping[str, Any], ran: Ran) -> None:
        folder = self.clone / action
        content = yaml.safe_load((folder / "action.yml").read_text())
        unknown = inputs.keys() - content["inputs"].keys()
        if unknown:
            raise ValueError(f"{action} has no input {', '.join(sorted(unknown))}")
        given = {name: one["default"] for name, one in content["inputs"].items()} | dict(inputs)
        github = {"workspace": str(self.clone)}
        environment = {"GITHUB_ACTION_PATH": str(folder)}
        self._run_steps(
            content["runs"]["steps"], {"inputs": given, "github": github, "steps": {}}, environment, None, ran
        )

    def _run_steps(self, steps: list, known: dict, environment: Mapping, shell: str | None, ran: Ran) -> None:
        """Run steps, and the composite actions of the clone among them, and add what each came to."""
        output, summary = self.folder / "output", self.folder / "summary"
        for step in steps:
            if not _is_due(step, known, bool(ran.failed)):
                continue
            if step.get("uses", "").startswith("./"):
                self._act(step["uses"], {key: filled_in(one, known) for key, one in step.get("with", {}).items()}, ran)
            if "run" not in step:
                continue
            output.write_text("")
            summary.write_text("")
            given = {**environment, **step.get("env", {})}
            variables = {key: filled_in(value, known) for key, value in given.items()} | {
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(summary),
                "GITHUB_REPOSITORY": "owner/name",
                "GITHUB_API_URL": str(known.get("api", "")),
            }
            command, folder = filled_in(step["run"], known), step.get("working-directory", ".")
            done = self.shell(command, step.get("shell", shell), folder, **variables)
            ran.steps.append(Done(filled_in(step.get("name", step["run"]), known), done.returncode, done.stdout))
            outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
            known["steps"][step.get("id")] = {"outputs": outputs}
            ran.summary += summary.read_text()


def _bare(condition: str) -> str:
    found = re.fullmatch(r"\s*\$\{\{(.*)\}\}\s*", str(condition))
    return found[1] if found else str(condition)


def _is_due(step: Mapping[str, Any], known: Mapping[str, Any], failed: bool) -> bool:
    condition = _bare(step.get("if", "success()"))
    if not re.search(r"\b(always|failure|success)\(", condition):
        condition = f"success() && ({condition})"
    return bool(evaluate(condition, known, failed))


# The comments of GitHub's API


@contextmanager
def comments_of_github(comments: list[dict]) -> Iterator[str]:
    """The URL of a server that keeps ``comments`` of a pull request as GitHub does, in pages of 2."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = int(re.search(r"[?&]page=(\d+)", self.path)[1])
            self._answer(200, comments[2 * page - 2 : 2 * page])

        def do_POST(self) -> None:
            user = {"type": "Bot", "login": "github-actions[bot]"}
            comments.append({"id": 100 + len(comments), "user": user, **self._body()})
            self._answer(201, {**comments[-1], "html_url": f"https://example.com/{comments[-1]['id']}"})

        def do_PATCH(self) -> None:
            [one] = [one for one in comments if self.path.endswith(f"/issues/comments/{one['id']}")]
            one.update(self._body())
            self._answer(200, {**one, "html_url": f"https://example.com/{one['id']}"})

        def _body(self) -> dict:
            assert self.headers["Authorization"] == "Bearer a-token"
            return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, status: int, content: object) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        log_message: Callable = lambda *_: None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    for of, one in steps_of(Path(sys.argv[1]).stem):
        print(f"{of}: {one.get('name') or one.get('uses') or one['run']}")
