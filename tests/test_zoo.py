"""How good the checker is: it finds every planted fault, names its cause, and is silent where all is well."""

import logging

import pytest

from parity.proof import causes
from tests.faults import FAULTS
from tests.zoo import try_fault, try_healthy

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


def test_there_is_a_fault_of_every_cause():
    assert {fault.cause for fault in FAULTS} == set(causes.MEANING)


@pytest.mark.parametrize("first", range(0, HEALTHY, AT_ONCE))
def test_a_healthy_store_raises_no_alarm(redis_port, first):
    for seed in range(first, first + AT_ONCE):
        assert try_healthy(redis_port, seed) == 0, seed
