"""Run a script in a process of its own and say how much memory it took.

python -m benchmarks.script [--terminal | --pipe] SCRIPT [ARGUMENT ...]
"""

import json
import os
import pty
import resource
import subprocess
import sys


def main(arguments: list[str]) -> None:
    terminal = arguments[0] == "--terminal"
    command = [sys.executable, *(arguments[1:] if arguments[0].startswith("--") else arguments)]
    if terminal:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        try:
            while os.read(ours, 1024):
                pass
        except OSError:
            pass  # the other end is closed
    else:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if process.wait():
        sys.exit(process.returncode)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"peak_mb": peak / (1024 if sys.platform == "linux" else 1024**2)}))


main(sys.argv[1:])
