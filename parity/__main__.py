"""The abilities beside the four scripts.

python -m parity redis start|stop    a Redis on this machine, for trying things out
python -m parity serve [OPTIONS]     Feast's feature server, which lets reads through only
python -m parity audit [OPTIONS]     what was really served, held against what training gets
python -m parity quality [OPTIONS]   whether transactions and features are as expected, day by day
python -m parity stream [OPTIONS]    events, brought online and landed among the transactions as they come
python -m parity experiment NAME     the arms of an experiment held against each other, by their outcomes
python -m parity drift [OPTIONS]     two windows of days compared, and what has drifted
python -m parity watch [OPTIONS]     quality, drift and the proof of a sample, and one page for whoever is on call
python -m parity plan [OPTIONS]      what a change of definitions does to values, before it ships
python -m parity deploy [OPTIONS]    what features.py declares, brought into force beside what is served; and back
python -m parity check [OPTIONS]     training held against serving in any Feast repository, which is only read
"""

import sys

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from parity.edge.command import run, start
from parity.edge.errors import UserError

COMMANDS = {
    "audit": "parity.audit.command",
    "deploy": "parity.deploy.command",
    "redis": "parity.edge.redis_server",
    "serve": "parity.online.server",
    "quality": "parity.quality.command",
    "stream": "parity.stream.command",
    "experiment": "parity.experiment.command",
    "drift": "parity.drift.command",
    "watch": "parity.watch.command",
    "plan": "parity.plan.command",
    "check": "parity.check.command",
}


def main() -> int | None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    if name == "--version":
        print(version("feature-store-mvp"))
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; there is {', '.join(COMMANDS)}. See: python -m parity --help")
    sys.argv[:] = [f"python -m parity {name}", *arguments]
    return import_module(COMMANDS[name]).main()


def command() -> NoReturn:
    """The `parity` command of the installed package."""
    start()
    run(main)


if __name__ == "__main__":
    run(main)
