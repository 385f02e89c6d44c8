"""A model's file: read back to the same bits, or refused in one line."""

import dataclasses
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from parity.edge.errors import UserError
from parity.model.contract import Contract
from tests.test_model import FEATURES

pytestmark = pytest.mark.scale
pytest.importorskip("skops")
ensemble = pytest.importorskip("sklearn.ensemble")
impute = pytest.importorskip("sklearn.impute")
pipeline = pytest.importorskip("sklearn.pipeline")
threadpoolctl = pytest.importorskip("threadpoolctl")

from parity.definition.checks import declared  # noqa: E402
from parity.model.file import MAGIC, load, read_contract, save  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads of scikit-learn that wait for each other on a busy machine spin, for minutes."""
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        yield


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "repository"
    folder.mkdir()
    (folder / "features.py").write_text(FEATURES)
    return declared(folder)


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(7).normal(size=(200, 3))


@pytest.fixture(scope="module")
def model(matrix):
    return ensemble.HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(matrix, matrix[:, 0] > 0)


@pytest.fixture
def file(tmp_path, model, definitions):
    save(model, Contract.of(definitions, "churn"), tmp_path / "churn.model")
    return tmp_path / "churn.model"


def refused(file, definitions, service="churn") -> str:
    with pytest.raises(UserError) as error:
        load(file, definitions, service)
    assert str(error.value).startswith(str(file)) or "the model" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def resealed(content: bytes) -> bytes:
    """``content``, from the contract on, with the checksum that it has to have."""
    return MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def test_a_model_is_read_back_to_the_same_bits_with_its_contract(file, definitions, model, matrix):
    again, contract = load(file, definitions, "churn")
    assert again.predict_proba(matrix).tobytes() == model.predict_proba(matrix).tobytes()
    assert contract == Contract.of(definitions, "churn") == read_contract(file)


@pytest.mark.parametrize("kind", ["GradientBoostingClassifier", "RandomForestRegressor"])
def test_other_trees_are_read_back_too(tmp_path, definitions, matrix, kind):
    trees = getattr(ensemble, kind)(n_estimators=3, random_state=0).fit(matrix, matrix[:, 0] > 0)
    save(trees, Contract.of(definitions, "churn"), tmp_path / "m")
    again, _ = load(tmp_path / "m", definitions, "churn")
    assert again.predict(matrix).tobytes() == trees.predict(matrix).tobytes()


def test_a_pipeline_that_fills_in_what_is_missing_is_read_back_too(tmp_path, definitions, matrix):
    trees = ensemble.RandomForestClassifier(n_estimators=3, random_state=0)
    steps = pipeline.make_pipeline(impute.SimpleImputer(), trees)
    steps.fit(matrix, matrix[:, 0] > 0)
    save(steps, Contract.of(definitions, "churn"), tmp_path / "m")
    again, _ = load(tmp_path / "m", definitions, "churn")
    assert again.predict_proba(matrix).tobytes() == steps.predict_proba(matrix).tobytes()


def test_a_model_that_is_read_back_is_saved_as_the_same_bytes(file, definitions, tmp_path):
    """So the bytes do not depend on where in memory what is in them lay."""
    save(*load(file, definitions, "churn"), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_a_file_that_is_cut_anywhere_or_changed_is_refused(file, definitions):
    whole = file.read_bytes()
    for length in [0, 1, len(MAGIC), len(MAGIC) + 30, 200, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        said = refused(file, definitions)
        assert "truncated or damaged" in said or "not a file that a model was saved to" in said
    for place in [len(MAGIC) + 3, 300, len(whole) // 2, len(whole) - 5]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "truncated or damaged" in refused(file, definitions)
    file.write_bytes(whole + b"\n")
    assert "truncated or damaged" in refused(file, definitions)


def test_what_is_no_model_is_refused(tmp_path, definitions):
    assert "there is no model" in refused(tmp_path / "none.model", definitions)
    assert "this is a folder" in refused(tmp_path, definitions)
    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95")
    assert "not a file that a model was saved to" in refused(tmp_path / "pickle", definitions)
    assert "it can't be read: Not a directory" in refused(tmp_path / "pickle" / "x", definitions)
    assert "it can't be read: File name too long" in refused(tmp_path / ("x" * 300), definitions)
    with pytest.raises(UserError, match="no file can have this name"):
        load("a\0b", definitions, "churn")


def test_a_path_may_be_a_text(tmp_path, model, definitions):
    save(model, Contract.of(definitions, "churn"), str(tmp_path / "m"))
    assert load(str(tmp_path / "m"), definitions, "churn")[1] == read_contract(str(tmp_path / "m"))


@pytest.mark.parametrize("line", [b"[" * 100_000, b"3", b'"x"', b"[]", b"{}", b"\xff", b"null"])
def test_a_forged_contract_is_one_line(file, definitions, line):
    file.write_bytes(resealed(line + b"\n"))
    assert "its contract can't be read" in refused(file, definitions)


@pytest.mark.parametrize("name", ["versions", "views"])
def test_a_contract_without_versions_or_views_is_one_line(file, definitions, model, name):
    contract = dataclasses.replace(Contract.of(definitions, "churn"), **{name: None})
    file.write_bytes(resealed(contract.to_json().encode() + b"\n"))
    assert "versions or views" in refused(file, definitions)


def test_a_model_of_another_service_is_refused(file, definitions):
    assert "was trained on the FeatureService 'churn', not on 'few'" in refused(file, definitions, "few")


def test_a_model_of_other_definitions_is_refused(file, tmp_path):
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "features.py").write_text(FEATURES.replace("days=7", "days=8"))
    said = refused(file, declared(tmp_path / "changed"))
    assert "customer_orders:spent_7d: window was 7 days and is 8 days" in said


def test_a_model_of_another_scikit_learn_is_refused(file, model, definitions):
    contract = Contract.of(definitions, "churn")
    save(model, dataclasses.replace(contract, versions={"scikit-learn": "1.2.3"}), file)
    assert "trained by scikit-learn 1.2.3, and" in refused(file, definitions)
    save(model, dataclasses.replace(contract, versions={}), file)
    assert "does not say by which scikit-learn" in refused(file, definitions)


def test_types_that_nobody_vouched_for_are_not_read(file, definitions, model):
    """Even where whoever made the file gave it the checksum that it has to have."""
    from skops.io import dumps

    contract = Contract.of(definitions, "churn").to_json().encode()
    file.write_bytes(resealed(contract + b"\n" + dumps({"path": subprocess.Popen})))
    assert "subprocess.Popen in it, which is not trusted" in refused(file, definitions)
    file.write_bytes(resealed(contract + b"\nno archive"))
    assert "can't be read: BadZipFile" in refused(file, definitions)
    file.write_bytes(resealed(b"{}\n"))
    assert "its contract can't be read" in refused(file, definitions)


def test_what_could_not_be_read_again_is_not_written(file, definitions):
    before = file.read_bytes()
    with pytest.raises(UserError, match="which could not be read again"):
        save({"path": subprocess.Popen}, Contract.of(definitions, "churn"), file)
    assert file.read_bytes() == before


def test_what_is_to_be_installed_is_named(file, definitions, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(UserError, match=r"Run: pip install -r requirements-model.txt"):
        load(file, definitions, "churn")


@pytest.mark.scale
def test_two_processes_train_and_save_the_same_bytes(tmp_path):
    (tmp_path / "features.py").write_text(FEATURES)
    script = (
        "import sys; from pathlib import Path; import numpy as np; from parity.definition.checks import declared\n"
        "from parity.model.file import save; from parity.model.contract import Contract\n"
        "from sklearn.ensemble import HistGradientBoostingClassifier as Trees\n"
        "here = Path(sys.argv[1]); x = np.random.default_rng(7).normal(size=(20000, 5))\n"
        "model = Trees(random_state=0, max_iter=20).fit(x, x[:, 0] * x[:, 1] > 0)\n"
        "save(model, Contract.of(declared(here), 'churn'), here / sys.argv[2])\n"
    )
    for name in "ab":
        alone = os.environ | {"OMP_NUM_THREADS": "1"}  # as threads that wait for each other on a busy machine spin
        subprocess.run([sys.executable, "-c", script, str(tmp_path), name], env=alone, check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
