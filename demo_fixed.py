"""Prove that serving equals training, for every user and every feature.

    python demo_fixed.py [--user ID]

Exit status 0: all equal. 1: skew, each differing value named. 2: it could not be checked.
"""

import argparse
from pathlib import Path

import numpy as np

from feature_repo.features import user_features, user_purchase_features
from parity import report
from parity.command import run, utc_now
from parity.proof import both_sides, compare, known_users, online_latency
from parity.repository import opened

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--user", type=int, help="the user to show in full (default: the first)")
    args = parser.parse_args()

    with opened(REPOSITORY, user_features, user_purchase_features) as store:
        now = utc_now()
        users = known_users(store, user_purchase_features, now)
        shown = users.choose(args.user)
        training, serving = both_sides(store, user_features, user_purchase_features, np.array([shown]), now)
        print(report.one_user(shown, user_purchase_features, training, serving))

        everyone = compare(store, user_features, user_purchase_features, users.all, now)
        print(report.every_user(everyone))
        print(report.latency(online_latency(store, user_features, user_purchase_features, shown)))
    return 1 if everyone.differences else 0


if __name__ == "__main__":
    run(main)
