"""python -m parity drift without the package that it needs: what is wrong is one line."""

import sys

import pytest

from parity.drift.command import main
from parity.edge.errors import UserError


def test_without_scipy_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["drift"])
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"^drift needs scipy. Run: pip install -r requirements-drift.txt$"):
        main()
