"""The training of the example on all of CDNOW: what it learns from, what it has to beat, and what it leaves behind."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import BIN, ROOT

pytestmark = pytest.mark.scale
for extra in ("sklearn", "scipy", "skops", "mlflow"):
    pytest.importorskip(extra)
threadpoolctl = pytest.importorskip("threadpoolctl")

EXAMPLE = ROOT / "examples" / "cdnow"
PRESENT = "1998-07-01T00:00:00Z"
LEAKS_BY = 0.1
"""By how much ROC AUC has to jump with features of the label's end. It is 0.82 without."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads of scikit-learn that wait for each other on a busy machine spin, for minutes."""
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        yield


class Shop:
    """A copy of the example, ready to train in."""

    def __init__(self, folder: Path, port: int):
        self.folder = folder / "cdnow"
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
        file = self.folder / "feature_store.yaml"
        configuration = yaml.safe_load(file.read_text())
        configuration["online_store"]["connection_string"] = f"localhost:{port}"
        file.write_text(yaml.safe_dump(configuration))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def script(self, name: str, *arguments: str, **environment: str) -> str:
        ran = self.run(sys.executable, str(self.folder / name), *arguments, **environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def refused(self, name: str, *arguments: str, **environment: str) -> str:
        ran = self.run(sys.executable, str(self.folder / name), *arguments, **environment)
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert ran.stderr.startswith("error: ")
        assert ran.stderr.count("\n") == 1
        return ran.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory, redis_port):
    shop = Shop(tmp_path_factory.mktemp("shop"), redis_port)
    shop.taken = shop.script("cdnow.py")
    assert shop.run(str(BIN / "feast"), "apply").returncode == 0
    computed = shop.run(sys.executable, str(ROOT / "compute_features.py"), "-c", str(shop.folder))
    assert computed.returncode == 0, computed.stderr
    return shop


@pytest.fixture(scope="module")
def train(shop):
    """The module train.py of the copy, and a feature store to train from."""
    before = set(sys.modules)
    sys.path.insert(0, str(shop.folder))
    import train

    yield train
    sys.path.remove(str(shop.folder))
    for name in set(sys.modules) - before:
        if str(shop.folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def learn(shop, train):
    """Make examples of some instants."""
    from feast import FeatureStore

    from parity.definition.checks import declared
    from parity.model.contract import Contract

    everything, store = declared(shop.folder), FeatureStore(repo_path=str(shop.folder))
    contract = Contract.of(
        everything, train.SERVICE, train.inputs_of((*train.the_model.AS_THEY_ARE, "first_date", "last_date"))
    )
    purchases = train.purchases_of(everything.tables[0])

    def learn(instants, **options):
        return train.examples_of(store, contract, purchases, instants, **options)

    return learn


@pytest.fixture(scope="module")
def lines(shop):
    """The purchases as the file has them: customer, day, CDs, dollars."""
    rows = [line.split() for line in (shop.folder / "data" / "CDNOW_master.txt").read_text().splitlines()[1:]]
    return [
        (who, date.fromisoformat(f"{day[:4]}-{day[4:6]}-{day[6:]}"), int(cds), float(spent))
        for who, day, cds, spent in rows
    ]


def test_the_file_is_taken_once(shop):
    assert "Took " in shop.taken
    assert "69,660 lines" in shop.taken
    assert "There already" in shop.script("cdnow.py")


def test_a_file_that_was_changed_is_taken_again(shop):
    file = shop.folder / "data" / "CDNOW_sample.txt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "Took " in shop.script("cdnow.py")
    assert file.read_bytes() == whole


def test_where_nothing_can_be_downloaded_one_line_says_so(shop):
    file = shop.folder / "data" / "CDNOW_sample.txt"
    whole = file.read_bytes()
    file.write_bytes(b"")
    try:
        said = shop.refused("cdnow.py", PIP_INDEX_URL="http://127.0.0.1:1/", PIP_RETRIES="0", PIP_FIND_LINKS="")
    finally:
        file.write_bytes(whole)
    assert "pip can't download lifetimes==0.11.3" in said


def test_labels_of_the_training_end_before_the_first_instant_that_is_measured(train):
    instants = train.months()
    training = [at for at in instants if at + train.HORIZON < train.HELD_OUT]
    held_out = [at for at in instants if at >= train.HELD_OUT]
    assert [len(training), len(held_out)] == [9, 4]
    assert max(at + train.HORIZON for at in training) < min(held_out)
    assert max(at + train.HORIZON for at in held_out) < train.PRESENT
    at = np.array([at.replace(tzinfo=None) for at in instants], "datetime64[us]")
    whole = train.Examples(np.array(["1"] * len(at)), at, np.zeros((len(at), 1)), np.zeros(len(at), bool))
    assert [len(part.buys) for part in train.split(whole)] == [9, 4]


def test_examples_are_what_the_file_says_by_brute_force(train, learn, lines):
    [at] = [at for at in train.months() if (at.year, at.month) == (1997, 6)]
    examples, today = learn([at]), at.date()
    draw = np.random.default_rng(1).choice(len(examples.buys), 300, replace=False)
    by_customer = {}
    for who, *purchase in lines:
        by_customer.setdefault(who, []).append(purchase)
    known = {who for who, some in by_customer.items() if min(some)[0] <= today}
    assert set(examples.customers) == known
    assert examples.buys[draw].any()
    for place in draw:
        past = [one for one in by_customer[examples.customers[place]] if one[0] <= today]
        month = [one for one in past if one[0] >= today - timedelta(days=30)]
        inputs = dict(zip(train.the_model.INPUTS, examples.inputs[place], strict=True))
        assert inputs["purchases"] == len(past)
        assert inputs["purchases_30d"] == len(month)
        assert inputs["dollars_30d"] == pytest.approx(sum(spent for _, _, spent in month))
        assert inputs["largest"] == max(spent for *_, spent in past)
        assert inputs["days_with_purchases"] == len({day for day, *_ in past})
        assert inputs["days_since_first"] == (today - past[0][0]).days
        assert inputs["days_since_last"] == (today - past[-1][0]).days
        coming = [
            day for day, *_ in by_customer[examples.customers[place]] if today < day <= today + timedelta(days=90)
        ]
        assert examples.buys[place] == bool(coming)


def test_a_leak_is_seen_by_the_jump_of_the_measure(train, learn):
    """Features as of the label's end know the label. The measure has to show that, or it would hide any leak."""
    instants = [at for at in train.months() if (at.year, at.month) in [(1997, 6), (1997, 7), (1998, 2)]]
    measured = {}
    for leak in (timedelta(0), train.HORIZON):
        training, held_out = train.split(learn(instants, features_after=leak))
        model = train.trained(training.inputs, training.buys, 0)
        measured[leak] = train.measured(held_out.buys, train.scores(model, held_out.inputs))["roc_auc"]
    assert 0.78 < measured[timedelta(0)] < 0.85
    assert measured[train.HORIZON] > measured[timedelta(0)] + LEAKS_BY
    assert measured[train.HORIZON] > 0.99


def test_the_forecast_has_the_published_parameters(shop, train):
    """Fader, Hardie and Lee (2005), of the 1/10 sample: r 0.243, alpha 4.414, a 0.793, b 2.426, ln L -9582.4."""
    from baselines import BetaGeometric, histories

    end, days = date(1997, 9, 30), {}
    for line in (shop.folder / "data" / "CDNOW_sample.txt").read_text().splitlines():
        _, who, day, *_ = line.split()
        if (bought := date.fromisoformat(f"{day[:4]}-{day[4:6]}-{day[6:]}")) <= end:
            days.setdefault(who, set()).add(bought)
    assert len(days) == 2357
    columns = [(len(some), (end - min(some)).days, (end - max(some)).days) for some in days.values()]
    known = histories(*np.array(columns, float).T)
    fitted = BetaGeometric.fit(known)
    printed = [f"{value:.3f}" for value in (fitted.r, fitted.alpha, fitted.a, fitted.b)]
    assert printed == ["0.243", "4.414", "0.793", "2.426"]
    assert f"{fitted.log_likelihood(known).sum():.1f}" == "-9582.4"


def test_the_forecast_agrees_with_customers_who_are_made_up_by_its_story(train):
    """How many purchases come, and who buys at all: simulated from the same parameters."""
    from baselines import BetaGeometric, Histories

    story, draw, observed, ahead = BetaGeometric(0.243, 4.414, 0.793, 2.426), np.random.default_rng(3), 30.0, 20.0
    rows = []
    for _ in range(40_000):
        rate, leaving = draw.gamma(story.r, 1 / story.alpha), draw.beta(story.a, story.b)
        times, time = [0.0], 0.0
        while rate > 0 and (time := time + draw.exponential(1 / rate)) <= observed + ahead:
            times.append(time)
            if draw.random() < leaving:
                break
        past = [time for time in times if time <= observed]
        rows.append((len(past) - 1, past[-1], observed, len(times) - len(past)))
    x, last, until, following = np.array(rows, float).T
    known = Histories(x, last, until)
    for forecast, came in ((story.expected(known, ahead), following), (story.buys(known, ahead), following > 0)):
        for some in (x == 0, (x > 0) & (x < 4), x >= 4):
            error = np.std(came[some] - forecast[some]) / np.sqrt(some.sum())
            assert abs((came[some] - forecast[some]).mean()) < 4 * error


@pytest.fixture(scope="module")
def twice(shop):
    """Two runs of the training, the other from another folder: what they said, and the model's bytes."""
    file, said, models = shop.folder / "data" / "buys_again.model", [], []
    for _ in range(2):
        said.append(shop.script("train.py", "--repeats", "2"))
        models.append(file.read_bytes())
    return said, models


def test_two_runs_give_the_same_bytes(twice):
    assert twice[1][0] == twice[1][1]


def test_runs_are_kept_beside_the_example_and_compared(shop, twice):
    assert "the ranks are those of the run before" not in twice[0][0]
    assert "the ranks are those of the run before" in twice[0][1]
    with sqlite3.connect(shop.folder / "data" / "mlflow.db") as database:
        importance = database.execute("select key, value from metrics where key like 'importance/%'").fetchall()
        tags = dict(database.execute("select key, value from tags").fetchall())
    assert len(importance) == 2 * 13
    assert tags["feast.feature_service"] == "buys_again"
    assert (
        tags["parity.contract"] == json.loads((shop.folder / "data" / "buys_again.model.json").read_text())["contract"]
    )
    assert not (shop.folder / "mlflow.db").exists()
    assert not (shop.folder / "mlruns").exists()
    kept = [file.name for file in (shop.folder / "data" / "mlflow").rglob("*") if file.is_file()]
    assert kept.count("contract.json") == kept.count("model.skops") == kept.count("feast_features.json") == 2


def test_the_model_beats_what_anyone_knows_where_it_says_so(shop, twice):
    found = json.loads((shop.folder / "data" / "buys_again.model.json").read_text())
    measures = found["measures"]
    assert measures["model"]["roc_auc"] > 0.81
    assert measures["model"]["log_loss"] < measures["recency_and_frequency"]["log_loss"]
    assert measures["model"]["roc_auc"] > measures["bg_nbd"]["roc_auc"]
    assert all(len(tenths) == 10 for tenths in found["calibration"].values())
    assert found["training"]["labels_end"] < found["held_out"]["instants"][0]


def test_a_change_of_rank_is_found():
    sys.path.insert(0, str(EXAMPLE))
    try:
        from train import ranks_changed
    finally:
        sys.path.remove(str(EXAMPLE))
    now = [{"input": "a", "rank": 1}, {"input": "b", "rank": 2}, {"input": "c", "rank": 3}]
    assert ranks_changed({}, now) == []
    assert ranks_changed({"a": 0.3, "b": 0.2, "c": 0.1}, now) == []
    changed = ranks_changed({"b": 0.3, "a": 0.2, "d": 0.1}, now)
    assert changed == [
        {"input": "a", "before": 2, "now": 1},
        {"input": "b", "before": 1, "now": 2},
        {"input": "c", "before": None, "now": 3},
        {"input": "d", "before": 3, "now": None},
    ]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:////dev/null/runs.db", "MLflow's store /dev/null/runs.db: "),
        ("http://127.0.0.1:1", "MLflow's store http://127.0.0.1:1: "),
        ("nothing://here", "MLflow"),
    ],
)
def test_a_store_of_mlflow_that_is_not_there_is_one_line(shop, uri, said):
    found = shop.refused("train.py", MLFLOW_TRACKING_URI=uri)
    assert said in found
    assert "--untracked" in found


@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("http://me:sEcret@127.0.0.1:1", "sEcret"),
        ("http://me:s%40Ecret@127.0.0.1:1", "Ecret"),
        ("http://127.0.0.1:1/?token=sEcret", "sEcret"),
        ("postgresql://me:sEcret@127.0.0.1:1/x", "sEcret"),
        ("nothing://me:sEcret@here", "sEcret"),
    ],
)
def test_no_secret_of_mlflow_is_printed(shop, uri, secret):
    said = shop.refused("train.py", MLFLOW_TRACKING_URI=uri)
    assert secret not in said
    assert "MLflow's store" in said
    assert "not installed" not in said


def test_a_folder_of_models_that_cant_be_written_is_refused_before_the_training(shop, tmp_path):
    folder = shop.folder / "data" / "mlflow"
    kept = folder.rename(tmp_path / "kept") if folder.exists() else None
    folder.write_text("a file")
    try:
        said = shop.refused("train.py", "--model", str(tmp_path / "t.model"))
    finally:
        folder.unlink()
        if kept:
            kept.rename(folder)
    assert "MLflow's folder of models" in said
    assert not (tmp_path / "t.model").exists()


def test_a_store_of_mlflow_that_is_no_database_is_one_line(shop, tmp_path):
    (tmp_path / "runs.db").write_text("not a database, and long enough to be read as one" * 100)
    assert "file is not a database" in shop.refused("train.py", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/runs.db")


def test_definitions_that_changed_and_were_not_applied_are_refused(shop):
    file = shop.folder / "features.py"
    text = file.read_text()
    file.write_text(text.replace('"30d": timedelta(days=30)', '"30d": timedelta(days=31)'))
    try:
        said = shop.refused("train.py", "--untracked")
    finally:
        file.write_text(text)
    assert "has changed since it was applied" in said


def test_the_page_shows_what_was_found(shop, twice):
    shop.script("report.py")
    page = (shop.folder / "data" / "report.html").read_text()
    assert "<script" not in page
    assert "http" not in page
    assert page.count("<svg") == 13 + 3
    assert "Not proven for this model" in page
