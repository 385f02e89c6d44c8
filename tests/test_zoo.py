"""How good the checker is: it finds every planted fault, names its cause, and is silent where all is well."""

import logging

import numpy as np
import pytest

from parity.proof import causes
from parity.proof.causes import same
from parity.proof.found import WRONG
from tests.faults import FAULTS
from tests.world import STOCK, world
from tests.zoo import try_fault, try_healthy

ONLINE_FAULTS = [fault for fault in FAULTS if fault.kind != WRONG and fault.online != STOCK]
HEALTHY, AT_ONCE = 50, 25


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)  # the online store reports broken bytes, which some faults are made of


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_a_planted_fault_is_found_and_its_cause_named(fault, redis_port):
    score = try_fault(fault, redis_port, seed=1)
    assert score.found == score.faults
    assert score.causes == score.values > 0
    assert score.alarms == 0


@pytest.mark.parametrize("fault", ONLINE_FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_what_a_fault_spoils_online_is_repaired(fault, redis_port):
    with world(redis_port, 2, fault.online, fault.offline, fault.world(2)) as spoiled:
        fault.plant(spoiled)
        with spoiled.proof() as proof:
            found, batches = proof.compared(np.arange(len(proof)))
            list(batches)
            proof.repair(found, spoiled.now)
        left = spoiled.compare()
        assert not any(same(d.training, d.oracle) for d in left.differences), "what is left is wrong offline"


def test_there_is_a_fault_of_every_cause():
    assert {fault.cause for fault in FAULTS} == set(causes.MEANING)


@pytest.mark.parametrize("first", range(0, HEALTHY, AT_ONCE))
def test_a_healthy_store_raises_no_alarm(redis_port, first):
    for seed in range(first, first + AT_ONCE):
        assert try_healthy(redis_port, seed) == 0, seed
