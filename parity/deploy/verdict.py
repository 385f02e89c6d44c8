"""What a deployment would change, asked of `python -m parity plan` in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from parity.edge.errors import UserError
from parity.plan.found import NO_OP

SHOWN = 5


def planned(path: Path, against: str | None) -> tuple[str, str]:
    """The verdict on what features.py declares, and which features it is about, in words; or what else.

    It is held against what is served, or against the git ref ``against``, by values. Raises `UserError`.
    """
    base = ["--against", against] if against else ["--applied"]
    command = [sys.executable, "-m", "parity", "plan", "-c", str(path), *base, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it ended without a reason"]
        raise UserError(f"there is no plan: {reason[0].removeprefix('error: ')}")
    plan = json.loads(done.stdout)
    changes = [
        f"{view['view']}:{feature['feature']} {feature['status']}"
        for view in plan["views"]
        for feature in view["features"]
        if feature["status"] != "unchanged"
    ]
    if not changes:
        notes = [(f"{view['view']}: ", note) for view in plan["views"] for note in view["notes"]]
        notes += [("", note) for note in plan["notes"]]
        changes = [f"{of}{note['text']}" for of, note in notes if note["verdict"] != NO_OP]
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return plan["verdict"], ", ".join(changes[:SHOWN]) + more
