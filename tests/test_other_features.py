"""Whoever edits feature_repo/features.py, as README invites, breaks no test."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.scale
def test_the_smoke_tests_pass_with_other_features(tmp_path):
    """A copy of the checkout, in which a text key and two views have taken the place of what ships."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "data", "*.egg-info", "*.csv")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.copytree(ROOT / "examples", copy / "examples", dirs_exist_ok=True)
    shutil.copy(ROOT / "examples" / "orders" / "features.py", copy / "feature_repo" / "features.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "smoke", "-q", "-p", "no:cacheprovider"],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10
