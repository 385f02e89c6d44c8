"""Workers, Redis and Kafka are killed at random under load for a while: `make chaos` does it for longer."""

import pytest

from tests.brokers import needs_kafka
from tests.chaos import chaos

pytestmark = pytest.mark.scale


@pytest.mark.parametrize("by", [pytest.param("kafka", marks=[needs_kafka, pytest.mark.soak]), "redis"])
def test_nothing_is_lost_doubled_or_wrong_after_a_minute_of_kills(by, record_property):
    outcome = chaos(60, seed=1, by=by)
    record_property("counts", f"{by}: {outcome}")
    assert outcome.found.bad == []
    assert outcome.ended == []
    assert outcome.found.landed == outcome.found.sent > 1000
    assert outcome.kills["worker"] > 3
    assert outcome.kills["Redis"] > 1
    assert outcome.events["already"] > 0
