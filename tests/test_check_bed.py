"""The test bed of `parity check`: a little of it in each run, and more of it, of bounded size, where there is time."""

import itertools

import pytest

from parity.compare.kinds import KINDS, ONLY_ONLINE, ORACLE
from tests.strangers.bed import couples, pairs_of, try_healthy, try_planted
from tests.strangers.plants import PLANTS
from tests.strangers.tables import Pair

DUCKDB = Pair("duckdb")
FEW = ["corrected", "pushed_of_new_keys", "of_another_event_time", "mixed_keys"]
"""Faults that no other test plants in this way."""


def trials(faults, pairs, seed):
    """Each fault in one of the pairs of stores, in turn."""
    for number, names in enumerate(faults):
        allowed = [pair for pair in pairs if all(pair.offline in PLANTS[name].offline for name in names)]
        yield names, seed + number, allowed[number % len(allowed)]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_healthy_repository_is_said_to_be_as_it_is(seed, capfd):
    trial = try_healthy(seed, DUCKDB)
    assert trial.is_counted, trial


@pytest.mark.parametrize("name", FEW)
def test_a_fault_is_named_with_its_keys_and_its_instant(name, capfd):
    trial = try_planted((name,), 7, DUCKDB)
    assert trial.is_counted, trial
    assert trial.is_dated, trial


@pytest.mark.scale
def test_healthy_repositories_of_all_stores_raise_no_alarm(redis_port, capfd):
    pairs = pairs_of(redis_port)
    alarms = [trial for seed in range(24) if not (trial := try_healthy(seed, pairs[seed % 4])).is_counted]
    assert not alarms, "\n".join(map(str, alarms))


@pytest.mark.scale
def test_every_fault_and_couples_of_them_are_named(redis_port, capfd):
    faults = [*((name,) for name in PLANTS), *couples()[::9]]
    made = [try_planted(*one) for one in trials(faults, pairs_of(redis_port), 0)]
    wrong = [trial for trial in made if not (trial.is_counted and trial.is_dated)]
    assert not wrong, "\n".join(map(str, wrong))
    named = set(itertools.chain.from_iterable(trial.expected for trial in made))
    planted = {kind for kind, _ in named} | {"ttl", "dropped"}  # the one or the other, by the offline store
    # of hashed keys, in tests/test_check_stores.py; of transactions, in tests/test_check_oracle.py
    assert {kind.name for kind in KINDS} - planted == {ONLY_ONLINE.name, ORACLE.name}
