"""How good the audit is: it finds every fault of what was served, names its cause, and is silent where all is well."""

import pytest

from parity.served.log import parts
from tests.served_world import FAULTS, served_world, try_fault, try_healthy, try_several

IN_MAKE_TEST = ("a row that comes late", "a stream that is ahead of the files")
CASES = [
    pytest.param(
        fault, id=fault.name.replace(" ", "_"), marks=[] if fault.name in IN_MAKE_TEST else [pytest.mark.scale]
    )
    for fault in FAULTS
]


@pytest.mark.parametrize("fault", CASES)
def test_a_planted_fault_is_found_and_its_cause_named(fault, redis_port):
    found = try_fault(fault, redis_port, seed=1)
    assert found.found == found.right
    assert found.right["today"] or found.right["then"]


@pytest.mark.scale
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name.replace(" ", "_") for fault in FAULTS])
def test_it_is_found_in_every_kind_of_world(fault, redis_port):
    for seed in range(2, 8):
        found = try_fault(fault, redis_port, seed)
        assert found.found == found.right, seed


def test_several_faults_in_one_log_are_told_apart(redis_port):
    found = try_several(redis_port, seed=1, faults=4)
    assert found.found == found.right
    assert len(found.right["today"]) > 1


@pytest.mark.soak
@pytest.mark.scale
def test_any_several_faults_in_one_log_are_told_apart(redis_port):
    for seed in range(2, 14):
        found = try_several(redis_port, seed)
        assert found.found == found.right, seed


def test_a_healthy_log_gives_no_alarm(redis_port):
    found = try_healthy(redis_port, seed=0, steps=2)
    assert found.found == found.right == {"today": {}, "then": {}}


@pytest.mark.scale
def test_healthy_logs_give_no_alarm(redis_port):
    for seed in range(1, 26):
        found = try_healthy(redis_port, seed)
        assert found.found == found.right == {"today": {}, "then": {}}, seed


def test_rows_that_the_log_has_dropped_are_counted(redis_port):
    with served_world(redis_port, 3, "int64", buffer_rows=9) as served:
        served.ask_all()  # more rows than there is room for
        served.ask(*served.world.users[:4])
        [view] = served.audit().views
        dropped = sum(part.dropped for part in parts(served.log))
        assert (view.rows, view.differing, dropped) == (4, 0, served.rows_asked - 4)
