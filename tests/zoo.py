"""A zoo of faults: each planted in a real store, to measure how good the checker is.

    python -m tests.zoo [--rounds N] [--healthy N]

It plants every fault in N random stores, then looks at N random healthy ones, and prints how many faults were found,
how often the right cause was named, and how many false alarms there were. It starts a Redis of its own and stops it.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from parity.edge.command import run, whole_number
from parity.edge.redis_server import free_port, launch, require_server
from tests.faults import FAULTS, Fault
from tests.world import KINDS, world


class Score(NamedTuple):
    """How the checker did: faults planted and found, values spoiled by them, and given their cause, false alarms."""

    faults: int = 0
    found: int = 0
    values: int = 0
    causes: int = 0
    alarms: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(*map(sum, zip(self, other, strict=True)))


def try_fault(fault: Fault, port: int, seed: int) -> Score:
    """Plant a fault in a random world. It is found if the spoiled values, and no others, differ, as the right kind."""
    with world(port, seed, fault.online, fault.offline, fault.world(seed)) as spoiled:
        planted = dict(map(fault.expected, fault.plant(spoiled)))
        found = spoiled.compare().differences
        differences = {(spoiled.number(d.key), d.feature, d.instant): d for d in found}
        hits = [(differences[value], *planted[value]) for value in planted if value in differences]
        return Score(
            faults=1,
            found=len(hits) == len(planted) and all(d.kind == kind for d, kind, _ in hits),
            values=len(planted),
            causes=sum(d.cause == cause for d, _, cause in hits),
            alarms=len(differences.keys() - planted.keys()),
        )


def try_healthy(port: int, seed: int) -> int:
    """Compare a random healthy world; return the false alarms."""
    kinds = list(KINDS)
    with world(port, seed, kind=kinds[seed % len(kinds)]) as healthy:
        if healthy.kind.streamed:
            healthy.live()
        return len(healthy.compare().differences)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=whole_number(1), default=8, help="random stores per fault (default: 8)")
    parser.add_argument("--healthy", type=whole_number(1), default=500, help="random healthy stores (default: 500)")
    args = parser.parse_args()
    logging.disable()  # the online store reports broken bytes, which some faults are made of
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        server = launch(require_server(), port, Path(folder))
        try:
            total, by_cause = Score(), {}
            for kind in tqdm(FAULTS, "faults", leave=False, disable=None):
                score = sum((try_fault(kind, port, seed) for seed in range(args.rounds)), Score())
                by_cause[kind.cause] = by_cause.get(kind.cause, Score()) + score
                total += score
            seeds = tqdm(range(args.healthy), "healthy", leave=False, disable=None)
            alarms = sum(try_healthy(port, 10**6 + seed) for seed in seeds)
        finally:
            server.terminate()
            server.wait()
    for cause, score in by_cause.items():
        print(f"{cause:26}  {score.found} of {score.faults} found, {score.causes} of {score.values} causes right")
    print(f"detection: {total.found} of {total.faults} faults of {len(FAULTS)} kinds")
    print(f"causes: {total.causes} of {total.values} values")
    print(f"false alarms: {alarms + total.alarms}, of them {alarms} in {args.healthy} healthy stores")
    return 0 if total.found == total.faults and total.causes == total.values and not alarms + total.alarms else 1


if __name__ == "__main__":
    run(main)
