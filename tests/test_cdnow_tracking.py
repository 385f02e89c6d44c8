"""Where the example keeps what it trains, and that no secret of MLflow's store is said."""

from pathlib import Path

import pytest

from parity.edge.errors import UserError
from tests.cdnow import module


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:sEcret@host:1", "API request to http://me:sEcret@host:1/api failed"),
        ("http://me:s%40Ecret@host:1", "user me, password s@Ecret"),
        ("http://me:p@sEcret@host:1", "http://me:p@sEcret@host:1/api"),
        ("postgresql://host/x?password=sEcret", "connection with password=sEcret refused"),
        ("http://host", "redirected to http://me:sEcret@other/"),
    ],
)
@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError])
def test_a_secret_is_hidden_whatever_is_raised(uri, said, kind):
    with pytest.raises(UserError) as error, module("tracking").named(uri):
        raise kind(said)
    assert "Ecret" not in str(error.value)
    assert str(error.value).startswith("MLflow's store")
    assert error.value.__suppress_context__


def test_a_secret_of_the_environment_is_hidden(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sEcret")
    with pytest.raises(UserError) as error, module("tracking").named("http://host"):
        raise ValueError("the token sEcret is not known")
    assert "sEcret" not in str(error.value)


def test_what_is_written_beside_a_model_is_never_a_model():
    cdnow = module("cdnow")
    models = [Path("x.json"), Path("a.v1"), Path("a.v2"), Path("a"), Path("a.model")]
    assert len({*models, *map(cdnow.beside, models)}) == 2 * len(models)
    assert cdnow.model_of(Path("/other"), "s") == Path("/other/data/s.model")
