"""The example of real purchases: its definitions, its inputs and its baselines, each on what can be checked by hand."""

import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "cdnow"


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """The modules of the example, which are imported from its folder as its scripts do."""
    sys.path.insert(0, str(EXAMPLE))
    yield
    sys.path.remove(str(EXAMPLE))


@pytest.fixture
def model():
    import model

    return model


def test_the_present_is_the_same_wherever_it_is_written():
    import cdnow

    assert f"PRESENT := {cdnow.PRESENT:%Y-%m-%dT%H:%M:%SZ}\n" in (ROOT / "Makefile").read_text()


NEW_YEAR = datetime(1998, 1, 1, tzinfo=UTC)


def row(model, **features) -> dict[str, list]:
    usual = dict.fromkeys(model.AS_THEY_ARE, 1) | dict.fromkeys(model.DATES, 19970101)
    return {name: [value] for name, value in (usual | features).items()}


def column(model, name: str, features: dict[str, list], at: datetime = NEW_YEAR) -> float:
    return model.matrix(features, [at])[0, model.INPUTS.index(name)]


@pytest.mark.parametrize(
    ("date", "at", "days"),
    [
        (19971231, NEW_YEAR, 1),
        (19971231, NEW_YEAR - timedelta(microseconds=1), 0),
        (19970228, datetime(1997, 3, 1, tzinfo=UTC), 1),
        (19960228, datetime(1996, 3, 1, tzinfo=UTC), 2),
        (19970101, NEW_YEAR, 365),
        (19980101, NEW_YEAR, 0),
    ],
)
def test_dates_become_whole_days(model, date, at, days):
    assert column(model, "days_since_last", row(model, last_date=date), at) == days
    assert column(model, "days_since_first", row(model, first_date=date), at) == days


def test_instants_are_the_same_in_any_form(model):
    east = datetime(1998, 1, 1, 3, tzinfo=UTC).astimezone(tz=None)
    forms = [[east], np.array(["1998-01-01T03"], "datetime64[ns]"), np.array(["1998-01-01T03"], "datetime64[us]")]
    made = [model.matrix(row(model, last_date=19971230), form) for form in forms]
    assert made[0].tobytes() == made[1].tobytes() == made[2].tobytes()


def test_a_customer_without_features_has_no_inputs_and_no_score(model):
    nothing = model.matrix({name: [None] for name in row(model)}, [NEW_YEAR])
    assert np.isnan(nothing).all()
    assert np.isnan(model.scores(None, nothing)).all()  # so the model is not even asked


def test_inputs_are_those_that_the_features_allow(model):
    assert model.inputs_of(row(model)) == model.INPUTS
    assert model.inputs_of(["last_date", "purchases", "anything"]) == ("purchases", "days_since_last")
    few = model.matrix(row(model, purchases=7), [NEW_YEAR], ("days_since_last", "purchases"))
    assert few.tolist() == [[365.0, 7.0]]
