"""python -m parity drift without the package that it needs: what is wrong is one line."""

import sys

import pytest

from parity.drift.command import main
from parity.edge.errors import UserError


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_metrics_go_to_a_folder_that_is_there(monkeypatch, capsys, tmp_path, folder):
    """One that is made on the way is none that is collected."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["drift", "--metrics", str(tmp_path / folder / "x.prom")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert f"argument --metrics: '{tmp_path / folder}' is no folder" in line
    assert not (tmp_path / "missing").exists()


def test_without_scipy_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["drift"])
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"^drift needs scipy. Run: pip install -r requirements-drift.txt$"):
        main()
