"""What came of an experiment: exposures that serving notes, outcomes from files, the ratio and the effect."""

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parity.definition.checks import declared
from parity.edge.errors import UserError
from parity.experiment.analysis import LEFT_OUT, analyse, as_json, exposed_by_hash, exposed_by_log
from parity.experiment.command import main, shown
from parity.experiment.exposures import AS_OF, Exposures, exposure_parts
from parity.experiment.outcomes import read_outcomes
from parity.served.log import read
from tests.conftest import ROOT
from tests.test_definition import changed
from tests.test_experiment import SERVICES, declaration, experiment

pytest.importorskip("growthbook")
stats = pytest.importorskip("scipy.stats")

from tests import experiments  # noqa: E402

pytestmark = pytest.mark.scale

NOW = datetime(2026, 3, 1, 10, 30, tzinfo=UTC)


def units(count: int) -> list[str]:
    return [f"{number:05}" for number in range(count)]


def logged(folder, checkout, some, at=NOW, arm=None) -> None:
    with Exposures(folder, checkout, now=lambda: at) as exposures:
        for unit in some:
            exposures.arm_of(unit) if arm is None else exposures.note(unit, arm)


def written(path, *rows: str, header: str = "unit,outcome"):
    path.write_text("\n".join([header, *rows, ""]))
    return path


def table(of: dict[str, float]) -> pa.Table:
    return pa.table({"unit": pa.array(list(of), pa.string()), "outcome": pa.array(list(of.values()), pa.float64())})


class TestExposures:
    def test_each_has_unit_arm_service_and_instants(self, tmp_path):
        checkout = experiment(tmp_path)
        as_of = datetime(1998, 7, 1, tzinfo=UTC)
        with Exposures(tmp_path / "log", checkout, now=lambda: NOW) as exposures:
            arms = {unit: exposures.arm_of(unit, as_of) for unit in units(50)}
        rows = pa.concat_tables(read(part) for part in exposure_parts(tmp_path / "log", checkout)).to_pylist()
        assert {row["unit"]: row["arm"] for row in rows} == arms == {u: checkout.arm_of(u) for u in units(50)}
        assert all(row["service"] == checkout.arms[row["arm"]].name for row in rows)
        assert {row[AS_OF] for row in rows} == {as_of}
        assert {row["__log_timestamp"] for row in rows} == {NOW}
        assert exposures.dropped == 0

    def test_units_outside_are_not_noted(self, tmp_path):
        checkout = experiment(tmp_path, coverage=0.5)
        logged(tmp_path, checkout, units(200))
        exposed = exposed_by_log(tmp_path, checkout)
        assert set(exposed.units.to_pylist()) == {unit for unit in units(200) if checkout.arm_of(unit)}
        assert not exposed.in_another_arm

    def test_a_folder_that_is_not_writable_stops_nothing(self, tmp_path, caplog):
        (tmp_path / "log").write_text("a file where the folder should be")
        checkout = experiment(tmp_path)
        with caplog.at_level(logging.WARNING):
            exposures = Exposures(tmp_path / "log", checkout)
            arms = [exposures.arm_of(unit) for unit in units(20)]
            exposures.close()
        assert None not in arms
        assert exposures.dropped == 20
        assert "20" in caplog.text
        assert "Traceback" not in caplog.text

    def test_what_does_not_fit_is_dropped_counted_and_said_by_the_log(self, tmp_path):
        checkout = experiment(tmp_path)
        with Exposures(tmp_path, checkout, buffer_rows=30, flush_seconds=60) as exposures:
            for unit in units(100):
                exposures.arm_of(unit)
        assert exposures.dropped == 70
        exposed = exposed_by_log(tmp_path, checkout)
        assert (len(exposed.units), exposed.dropped) == (30, 70)

    def test_what_was_dropped_is_said_once_however_often_it_is_closed(self, tmp_path):
        checkout = experiment(tmp_path)
        exposures = Exposures(tmp_path, checkout, buffer_rows=30, flush_seconds=60)
        for some in (units(100), units(20)):
            for unit in some:
                exposures.arm_of(unit)
            exposures.close()
        assert (exposures.dropped, exposed_by_log(tmp_path, checkout).dropped) == (70, 70)

    def test_it_may_be_closed_and_gone_on_with(self, tmp_path):
        checkout = experiment(tmp_path)
        exposures = Exposures(tmp_path, checkout)
        for unit in units(3):
            exposures.arm_of(unit)
            exposures.close()
        exposures.close()
        assert exposed_by_log(tmp_path, checkout).exposures == 3

    def test_an_arm_that_does_not_exist(self, tmp_path):
        with pytest.raises(UserError, match="the experiment 'checkout' has no arm 'blue'; there is control, treatment"):
            Exposures(tmp_path, experiment(tmp_path)).note("1", "blue")

    def test_a_fork_notes_its_own_and_the_end_of_a_process_writes(self, tmp_path):
        code = f"""
import os
from pathlib import Path
from tests.test_experiment import experiment
from parity.experiment.exposures import Exposures
exposures = Exposures(Path({str(tmp_path)!r}), experiment(Path({str(tmp_path)!r})), flush_seconds=60)
exposures.arm_of("parent")
child = os.fork()
exposures.arm_of("child" if child == 0 else "parent again")
if child == 0:
    exposures.close()
    os._exit(0)
os.waitpid(child, 0)
"""
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
        exposed = exposed_by_log(tmp_path, experiment(tmp_path))
        assert sorted(exposed.units.to_pylist()) == ["child", "parent", "parent again"]
        assert exposed.exposures == 3


class TestWhoWasExposed:
    def test_a_unit_counts_once_from_its_first_exposure(self, tmp_path):
        checkout = experiment(tmp_path)
        for hours in (5, 0, 3):
            logged(tmp_path, checkout, units(10), NOW + timedelta(hours=hours))
        exposed = exposed_by_log(tmp_path, checkout)
        assert (len(exposed.units), exposed.exposures) == (10, 30)
        assert set(exposed.since.to_pylist()) == {NOW}

    def test_units_in_two_arms_refuse_the_verdict(self, tmp_path):
        checkout = experiment(tmp_path)
        logged(tmp_path, checkout, units(400))
        logged(tmp_path, checkout, ["00007"], NOW - timedelta(hours=1), "treatment")
        logged(tmp_path, checkout, ["00007"], NOW + timedelta(hours=1), "control")
        exposed = exposed_by_log(tmp_path, checkout)
        assert exposed.in_two_arms == ["00007"]
        analysis = analyse(checkout, exposed, table(dict.fromkeys(units(400)[::2], 1.0)))
        assert any("1 unit was in two arms (00007)" in reason for reason in analysis.reasons)
        assert analysis.effects == []

    def test_units_in_another_arm_than_the_hash_gives_refuse_the_verdict(self, tmp_path):
        checkout = experiment(tmp_path)
        logged(tmp_path, checkout, units(400))
        for unit in ("x", "y", "z"):
            [other] = set(checkout.arms) - {checkout.arm_of(unit)}
            logged(tmp_path, checkout, [unit], arm=other)
        exposed = exposed_by_log(tmp_path, checkout)
        assert exposed.in_another_arm == ["x", "y", "z"]
        analysis = analyse(checkout, exposed, table(dict.fromkeys(units(400)[::2], 1.0)))
        assert "3 units were in another arm than the hash gives (x, y, z)" in analysis.reasons[0]

    def test_of_an_arm_that_is_gone_there_is_one_line(self, tmp_path):
        checkout = experiment(tmp_path)
        old = experiment(tmp_path, arms={"blue": checkout.arms["control"], "treatment": checkout.arms["treatment"]})
        logged(tmp_path, old, units(30))
        with pytest.raises(UserError, match="has no arm 'blue'"):
            exposed_by_log(tmp_path, checkout)

    def test_of_nobody_there_is_one_line(self, tmp_path):
        with pytest.raises(UserError, match="it has no exposures of the experiment 'checkout'"):
            exposed_by_log(tmp_path / "nowhere", experiment(tmp_path))


class TestOutcomes:
    def test_ids_keep_their_zeros_and_several_columns_may_name_the_unit(self, tmp_path):
        checkout = experiment(tmp_path)
        for header in ("unit,outcome", "customer_id,outcome"):
            found = read_outcomes(written(tmp_path / "o.csv", "0042,1", "42,0.5", header=header), checkout)
            assert found.to_pylist() == [{"unit": "0042", "outcome": 1.0}, {"unit": "42", "outcome": 0.5}]

    def test_a_parquet_file_of_whole_numbers_and_of_any_time_zone(self, tmp_path):
        checkout, path = experiment(tmp_path, "user_id"), tmp_path / "o.parquet"
        zone = timezone(timedelta(hours=2))
        times = pa.array([datetime(2026, 3, 1, 12, tzinfo=zone)] * 2, pa.timestamp("ns", "Europe/Berlin"))
        pq.write_table(pa.table({"user_id": [7, 8], "outcome": [True, None], "timestamp": times}), path)
        ten = datetime(2026, 3, 1, 10, tzinfo=UTC)
        assert read_outcomes(path, checkout).to_pylist() == [
            {"unit": "7", "outcome": 1.0, "timestamp": ten},
            {"unit": "8", "outcome": None, "timestamp": ten},
        ]

    def test_empty_and_nan_are_no_outcome_and_a_time_without_an_offset_is_utc(self, tmp_path):
        path = written(
            tmp_path / "o.csv", "1,,2026-03-01", "2,NaN,2026-03-01T01:00:00+01:00", header="unit,outcome,timestamp"
        )
        found = read_outcomes(path, experiment(tmp_path))
        assert found["outcome"].to_pylist() == [None, None]
        assert set(found["timestamp"].to_pylist()) == {datetime(2026, 3, 1, tzinfo=UTC)}

    @pytest.mark.parametrize(
        ("rows", "header", "said"),
        [
            (["1,2", "2,many"], "unit,outcome", "row 2: 'many' can't be an outcome, which is a number"),
            (["1,inf"], "unit,outcome", "row 1: 'inf' can't be an outcome"),
            (["1,1_0"], "unit,outcome", "row 1: '1_0' can't be an outcome"),
            (["1,2", ",2"], "unit,outcome", "row 2: it has no unit"),
            (["1,2"], "id,outcome", "one column has to be called unit or user_id, and there is id, outcome"),
            (["1,2"], "unit,revenue", "one column has to be called outcome"),
            (["1,2,3"], "unit,user_id,outcome", "one column has to be called unit or user_id"),
            (["1,2,3"], "unit,outcome,outcome", "one column has to be called outcome"),
            (["1,2,noon"], "unit,outcome,timestamp", "row 1: 'noon' can't be a timestamp"),
            (["1,2,"], "unit,outcome,timestamp", "row 1: it has no timestamp"),
            (["0042,1"], "unit,outcome", "'0042' can't be a user_id, which is of type int64"),
            (["1,2", "1"], "unit,outcome", "the outcomes can't be read"),
        ],
    )
    def test_what_can_not_be_read_is_named_with_its_row(self, tmp_path, rows, header, said):
        path = written(tmp_path / "o.csv", *rows, header=header)
        with pytest.raises(UserError) as refused:
            read_outcomes(path, experiment(tmp_path, "user_id"))
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_column_of_another_kind_is_named(self, tmp_path):
        path = tmp_path / "o.parquet"
        pq.write_table(pa.table({"unit": ["1"], "outcome": [[1.0]]}), path)
        with pytest.raises(UserError, match=r"o\.parquet: a column of type list<.*> can't be an outcome"):
            read_outcomes(path, experiment(tmp_path))

    @pytest.mark.parametrize("large", [1e308, 1e200])
    def test_outcomes_beyond_what_can_be_compared_get_no_verdict(self, tmp_path, large):
        checkout, outcomes = experiment(tmp_path), table({unit: large * (n % 3) for n, unit in enumerate(units(400))})
        analysis = analyse(checkout, exposed_by_hash(outcomes, checkout), outcomes)
        assert not analysis.effects
        assert "are so large that a float64 does not hold how they vary" in " ".join(analysis.reasons)
        assert json.loads(json.dumps(as_json(analysis), allow_nan=False))["effects"] == []

    @pytest.mark.parametrize("name", ["o.csv", "o.parquet", "o.json"])
    def test_a_file_that_is_not_there_or_damaged(self, tmp_path, name):
        with pytest.raises(UserError, match=r"there is no such file|a \.csv or a \.parquet"):
            read_outcomes(tmp_path / name, experiment(tmp_path))
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=r"can't be read|a \.csv or a \.parquet"):
            read_outcomes(tmp_path / name, experiment(tmp_path))


class TestTheEffect:
    def test_is_welchs_as_by_its_formula(self, tmp_path):
        """Difference, standard error and degrees of freedom written out (Welch 1947; Satterthwaite 1946)."""
        checkout, draw = experiment(tmp_path), np.random.default_rng(5)
        outcomes = dict(zip(units(900), draw.gamma(2, 10, 900), strict=True))
        analysis = analyse(checkout, exposed_by_hash(table(outcomes), checkout), table(outcomes))
        arms = checkout.arms_of(units(900))
        b, a = (np.array(list(outcomes.values()))[arms == arm] for arm in ("control", "treatment"))
        parts = [some.var(ddof=1) / len(some) for some in (a, b)]
        error = sum(parts) ** 0.5
        degrees = sum(parts) ** 2 / sum(part**2 / (len(some) - 1) for part, some in zip(parts, (a, b), strict=True))
        half = stats.t.ppf(0.975, degrees) * error
        [found] = analysis.effects
        assert (found.arm, found.against) == ("treatment", "control")
        assert found.difference == pytest.approx(a.mean() - b.mean())
        assert [found.low, found.high] == pytest.approx([found.difference - half, found.difference + half])
        assert found.p == pytest.approx(2 * stats.t.sf(abs(found.difference) / error, degrees))
        assert not analysis.proportions

    def test_outcomes_from_before_the_exposure_and_of_others_do_not_count(self, tmp_path):
        checkout = experiment(tmp_path)
        logged(tmp_path, checkout, units(100))
        rows = [
            f"{unit},{outcome},{time.isoformat()}"
            for unit in units(100)
            for outcome, time in (
                (100, NOW - timedelta(microseconds=1)),
                (int(unit), NOW),
                (1, NOW + timedelta(days=9)),
            )
        ]
        path = written(tmp_path / "o.csv", *rows, f"stranger,7,{NOW.isoformat()}", header="unit,outcome,timestamp")
        analysis = analyse(checkout, exposed_by_log(tmp_path, checkout), read_outcomes(path, checkout))
        assert (analysis.too_early, analysis.not_exposed) == (100, 1)
        for arm in analysis.arms:
            mine = [int(unit) + 1 for unit in units(100) if checkout.arm_of(unit) == arm.name]
            assert arm.mean == pytest.approx(np.mean(mine))

    def test_units_without_an_outcome_count_as_nothing_or_are_left_out(self, tmp_path):
        checkout = experiment(tmp_path)
        logged(tmp_path, checkout, units(200))
        outcomes = table({unit: 5.0 + int(unit) for unit in units(80)} | {"00150": float("nan")})
        exposed = exposed_by_log(tmp_path, checkout)
        outcomes = outcomes.set_column(
            1, "outcome", pa.array([None if v != v else v for v in outcomes["outcome"].to_pylist()], pa.float64())
        )
        for missing in ("zero", LEFT_OUT):
            analysis = analyse(checkout, exposed, outcomes, missing)
            assert analysis.empty == 1
            for arm in analysis.arms:
                mine = [unit for unit in units(200) if checkout.arm_of(unit) == arm.name]
                values = [5.0 + int(unit) for unit in mine if unit < "00080"]
                assert (arm.units, arm.with_outcome) == (len(mine), len(values))
                assert arm.counted == (len(mine) if missing == "zero" else len(values))
                assert arm.mean == pytest.approx(sum(values) / arm.counted)

    def test_of_three_arms_each_is_held_against_the_first(self, tmp_path):
        arms = experiment(tmp_path).arms
        three = experiment(tmp_path, arms={"a": arms["control"], "b": arms["treatment"], "c": arms["control"]})
        outcomes = table({unit: float(int(unit) % 7) for unit in units(900)})
        analysis = analyse(three, exposed_by_hash(outcomes, three), outcomes)
        assert [(one.arm, one.against) for one in analysis.effects] == [("b", "a"), ("c", "a")]

    @pytest.mark.parametrize(
        ("outcomes", "said"),
        [
            (dict.fromkeys(units(200), 3.0), "are the same, so nothing is known of how they vary"),
            ({unit: float(unit == "00001") for unit in units(200)}, "5 ones and zeros are needed"),
            ({unit: float(int(unit)) for unit in units(6)}, "the ratio can't be tested with under 5"),
            ({}, "the ratio can't be tested with under 5"),
        ],
        ids=["no variance", "few ones", "few units", "nobody"],
    )
    def test_where_there_is_too_little_there_is_no_verdict(self, tmp_path, outcomes, said):
        checkout = experiment(tmp_path)
        analysis = analyse(checkout, exposed_by_hash(table(outcomes), checkout), table(outcomes))
        assert analysis.effects == []
        assert any(said in reason for reason in analysis.reasons)
        json.dumps(as_json(analysis), allow_nan=False)
        assert shown(analysis)


class TestTheRatio:
    def test_is_chi_squares_and_refuses_the_verdict(self, tmp_path):
        checkout = experiment(tmp_path)
        some = [unit for unit in units(6000) if checkout.arm_of(unit) == "control" or unit[-1] > "0"]
        logged(tmp_path, checkout, some)
        analysis = analyse(checkout, exposed_by_log(tmp_path, checkout), table(dict.fromkeys(some[::2], 1.0)))
        n, m = (arm.units for arm in analysis.arms)
        assert analysis.mismatch_p == pytest.approx(stats.chi2.sf((n - m) ** 2 / (n + m), 1))
        assert analysis.mismatch_p < 0.001
        assert "the sample ratio is off" in analysis.reasons[0]
        assert analysis.effects == []

    def test_is_held_against_the_weights(self, tmp_path):
        checkout = experiment(tmp_path, weights=[0.2, 0.8])
        outcomes = table({unit: float(int(unit) % 3) for unit in units(2000)})
        analysis = analyse(checkout, exposed_by_hash(outcomes, checkout), outcomes)
        assert [arm.expected for arm in analysis.arms] == [400, 1600]
        assert analysis.mismatch_p > 0.001
        assert analysis.effects


class TestTheCommand:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch, capsys):
        folder = tmp_path / "shop"
        folder.mkdir()
        (folder / "features.py").write_text(changed(("", SERVICES + declaration())))
        checkout = declared(folder).experiment("checkout")

        def run(*arguments: object) -> tuple[str, UserError | None]:
            argv = ["python -m parity experiment", "-c", str(folder), *map(str, arguments)]
            monkeypatch.setattr(sys, "argv", argv)
            capsys.readouterr()
            try:
                main()
            except UserError as error:
                return capsys.readouterr().out, error
            return capsys.readouterr().out, None

        run.checkout = checkout
        return run

    def test_says_the_verdict(self, run, tmp_path):
        logged(tmp_path / "log", run.checkout, range(2000))
        arms = run.checkout.arms_of(range(2000))
        bought = [unit for unit in range(2000) if unit % 10 < (3 if arms[unit] == "control" else 5)]
        path = written(tmp_path / "o.csv", *(f"{unit},1" for unit in bought))
        out, error = run("checkout", "--outcomes", path, "--exposures", tmp_path / "log")
        assert error is None
        assert "Experiment checkout, by user_id, 2,000 units of 2,000 exposures" in out
        assert "sample ratio: as it should be" in out
        assert "the outcomes have no timestamp" in out
        assert "treatment against control: +0.2" in out
        assert out.endswith(": more\n")
        out, error = run("checkout", "--outcomes", path, "--exposures", tmp_path / "log", "--json")
        found = json.loads(out)
        assert found["no_verdict_because"] == []
        assert found["outcomes"]["are"] == "proportions"
        [effect] = found["effects"]
        assert effect["interval"][0] < effect["difference"] < effect["interval"][1]

    def test_refuses_it_where_the_ratio_is_off(self, run, tmp_path):
        some = [unit for unit in range(4000) if unit % 5 or run.checkout.arm_of(unit) == "control"]
        path = written(tmp_path / "o.csv", *(f"{unit},{unit % 3}" for unit in some))
        out, error = run("checkout", "--outcomes", path)
        assert "all taken as exposed, in the arms that the hash gives" in out
        assert "sample ratio: OFF" in out
        assert "against control" not in out
        assert str(error).startswith("no verdict on checkout: the sample ratio is off: ")
        out, error = run("checkout", "--outcomes", path, "--json")
        assert error is not None
        assert json.loads(out)["effects"] == []
        assert run("checkout", "--outcomes", path, "--mismatch", "1e-300")[1] is None

    def test_ends_in_one_line_and_status_2(self, run, tmp_path):
        path = written(tmp_path / "o.csv", "1,2")
        command = [
            sys.executable,
            "-m",
            "parity",
            "experiment",
            "checkout",
            "-c",
            tmp_path / "shop",
            "--outcomes",
            path,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: no verdict on checkout: ")
        assert done.stderr.count("\n") == 1

    def test_of_an_experiment_that_is_not_declared(self, run, tmp_path):
        _, error = run("search", "--outcomes", written(tmp_path / "o.csv", "1,2"))
        assert str(error) == "there is no Experiment 'search'; there is checkout."


RUNS = 1000


@pytest.fixture(scope="module")
def treated(tmp_path_factory):
    return experiments.assignments(RUNS, 2000, tmp_path_factory.mktemp("runs"))


class TestOverAThousandRuns:
    """Bounds are four standard errors away, of a share of the runs; nothing is drawn anew, so none fails by chance."""

    def within(self, found: float, share: float) -> bool:
        return abs(found - share) <= 4 * (share * (1 - share) / RUNS) ** 0.5

    def test_an_even_split_is_refused_as_often_as_the_threshold_says(self, treated):
        for below in (0.001, 0.01, 0.05):
            assert self.within(experiments.mismatches(treated, below), below)

    def test_a_planted_split_of_52_to_48_is_caught_as_often_as_the_power_says(self, treated):
        draw = np.random.default_rng(1)
        units = treated.shape[1] * (1 - (1 - 48 / 52) / 2)
        assert self.within(experiments.caught(treated, draw), experiments.power(units))
        for size, least in ((10_000, 0.75), (20_000, 0.98), (40_000, 0.9999)):
            many = draw.binomial(size, 0.48, RUNS).tolist()
            share = np.mean([experiments.mismatch([size - n, n], [0.5, 0.5]) < 0.001 for n in many])
            assert self.within(share, experiments.power(size))
            assert experiments.power(size) > least

    @pytest.mark.parametrize("kind", ["proportions", "amounts"])
    def test_the_interval_has_the_true_effect_in_95_of_100(self, treated, kind):
        inside, shown = experiments.coverage(treated, np.random.default_rng(2), kind)
        assert self.within(inside, 0.95)
        assert self.within(shown, 0.05)

    def test_experiments_of_other_seeds_are_independent(self, tmp_path):
        """Of pairs of experiments over the same units, the correlation is what chance gives."""
        ids = units(2000)
        arms = np.array([experiment(tmp_path, seed=f"{n}").arms_of(ids) == "treatment" for n in range(46)])
        pairs = np.corrcoef(arms)[np.triu_indices(46, 1)] * len(ids) ** 0.5  # over 1,000 of them
        assert abs(pairs.mean()) < 4 / len(pairs) ** 0.5
        assert abs(pairs.std() - 1) < 4 / (2 * len(pairs)) ** 0.5
