"""python -m parity deploy: what features.py declares, brought into force beside what is served, and back."""

import pytest

from tests.deploying import SECOND, Shop

ALLOWED = ("--allow", "value-changing")


@pytest.fixture
def shop(tmp_path, redis_port, capsys):
    return Shop(tmp_path, redis_port, capsys)


def test_the_first_deployment_on_an_empty_registry_serves_and_the_next_has_nothing_to_do(shop):
    done = shop.deploy()
    assert done.status == 0, done
    taken = " ".join(line.partition(":")[0] for line in done.out.splitlines())
    assert taken == "plan quality apply compute compute materialize materialize prove switch prove done"
    assert shop.read() == shop.right()
    registry = (shop.folder / "data" / "registry.db").read_bytes()
    again = shop.deploy()
    assert (again.status, again.out) == (0, "nothing to deploy: what features.py declares is what is served\n")
    assert (shop.folder / "data" / "registry.db").read_bytes() == registry
    nowhere = shop.deploy("--rollback")
    assert nowhere.status == 2
    assert "is the first of" in nowhere.err


def test_changed_values_have_to_be_allowed_are_served_then_and_taken_back(shop):
    shop.deploy()
    before = shop.read()
    shop.declare(SECOND)
    registry = (shop.folder / "data" / "registry.db").read_bytes()
    stopped = shop.deploy()
    assert stopped.status == 1
    assert "it is value-changing, which has to be allowed: --allow value-changing" in stopped.out
    assert (shop.folder / "data" / "registry.db").read_bytes() == registry
    assert shop.read() == before

    done = shop.deploy(*ALLOWED)
    assert done.status == 0, done
    assert "done: deployment 2 is served; deployment 1 stays" in done.out
    after = shop.read()
    assert after == shop.right(spent=4, visits_7d=5)
    assert after != before

    back = shop.deploy("--rollback")
    assert back.status == 0, back
    assert back.out.count("prove: ") == 2
    assert shop.read() == before
    listed = shop.deploy("--status").out.splitlines()
    assert [line.split()[:2] for line in listed] == [["1", "served"], ["2", "kept"]]
