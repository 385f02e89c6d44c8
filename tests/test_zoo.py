"""How good the checker is: it finds every planted fault, names its cause, and is silent where all is well."""

import logging

import numpy as np
import pytest

from parity.compare.equal import same
from parity.proof import causes
from parity.proof.found import WRONG
from parity.report.terminal import every_view
from tests.faults import FAULTS
from tests.world import STOCK, world
from tests.zoo import try_fault, try_healthy

KEPT = (causes.NOT_LANDED, causes.OFFSET_RESET)
"""Causes of rows that are ahead of the files, which no repair takes back."""
ONLINE_FAULTS = [fault for fault in FAULTS if fault.kind != WRONG and fault.online != STOCK]
REPAIRED = [fault for fault in ONLINE_FAULTS if fault.cause not in KEPT]
HEALTHY, AT_ONCE = 48, 8


def cases(faults):
    """All of these, but of those of a stream always one of each cause that only streams have, and the others seldom."""
    found, seen = [], set()
    for fault in faults:
        is_first = fault.cause in causes.OF_STREAMS and fault.cause not in seen
        marks = [pytest.mark.scale] if fault.is_of_stream and not is_first else []
        seen |= {fault.cause} if fault.is_of_stream else set()
        found.append(pytest.param(fault, marks=marks, id=fault.name.replace(" ", "_")))
    return found


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)  # the online store reports broken bytes, which some faults are made of


@pytest.mark.parametrize("fault", cases(FAULTS))
def test_a_planted_fault_is_found_and_its_cause_named(fault, redis_port):
    score = try_fault(fault, redis_port, seed=1)
    assert score.found == score.faults
    assert score.causes == score.values > 0
    assert score.alarms == 0


def repaired(spoiled):
    """Repair what differs; return what was found before."""
    with spoiled.proof() as proof:
        found, batches = proof.compared(np.arange(len(proof)))
        list(batches)
        proof.repair(found, spoiled.now)
    return found


@pytest.mark.scale
@pytest.mark.parametrize("fault", cases(REPAIRED))
def test_what_a_fault_spoils_online_is_repaired(fault, redis_port):
    with world(redis_port, 2, fault.online, fault.offline, fault.world(2)) as spoiled:
        fault.plant(spoiled)
        repaired(spoiled)
        left = spoiled.compare()
        assert not any(same(d.training, d.oracle) for d in left.differences), "what is left is wrong offline"


@pytest.mark.parametrize("fault", cases([fault for fault in ONLINE_FAULTS if fault.cause in KEPT]))
def test_no_repair_takes_back_what_a_stream_has_brought_ahead_of_the_files(fault, redis_port):
    with world(redis_port, 2, kind=fault.world(2)) as spoiled:
        planted = fault.plant(spoiled)
        numbers = {number for number, *_ in planted}
        before = [spoiled.client.hgetall(spoiled.redis_key(number)) for number in numbers]
        found = repaired(spoiled)
        assert [spoiled.client.hgetall(spoiled.redis_key(number)) for number in numbers] == before
        assert every_view([found]).endswith(f"  {fault.cause}: {causes.MEANING[fault.cause]}")


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("an event is online and landed and not computed", ["compute"]),
        ("a late event is online and landed and not computed", ["compute"]),
        ("what is applied was set back and an event came again", ["materialize"]),
        ("a duplicate is counted online", ["materialize"]),
        ("a stream was made anew with its files", ["delete", "materialize"]),
        ("a stream was made anew and its files became others", ["delete", "materialize"]),
    ],
)
@pytest.mark.scale
def test_what_a_cause_says_to_do_puts_it_right(name, steps, redis_port):
    [fault] = [fault for fault in FAULTS if fault.name == name]
    with world(redis_port, 3, kind=fault.world(3)) as spoiled:
        fault.plant(spoiled)
        for step in steps:
            if step == "delete":
                spoiled.client.delete(spoiled.redis_key(900))
            else:
                getattr(spoiled, step)()
        assert not spoiled.compare().differences


def test_there_is_a_fault_of_every_cause():
    assert {fault.cause for fault in FAULTS} == set(causes.MEANING)


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.scale) for first in range(AT_ONCE, HEALTHY, AT_ONCE))]
)
def test_a_healthy_store_raises_no_alarm(redis_port, first):
    for seed in range(first, first + AT_ONCE):
        assert try_healthy(redis_port, seed) == 0, seed
