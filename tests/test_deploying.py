"""python -m parity deploy: what features.py declares, brought into force beside what is served, and back."""

import re
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import redis
from feast.infra.registry.registry import Registry
from feast.protos.feast.types.Value_pb2 import Value
from filelock import FileLock

from parity.definition.declare import DECLARED
from parity.deploy import steps
from parity.deploy.deployments import bring_into_force
from parity.deploy.verdict import planned
from parity.edge.feast_internals import stored_name
from parity.edge.redis_server import free_port
from parity.online.encoding import redis_key
from parity.online.rows import Fields
from parity.online.side import entity_keys
from parity.repository import opened
from tests.deploying import BUYERS, FIRST, SECOND, Shop

ALLOWED = ("--allow", "value-changing")
WITH_A_PART = FIRST.replace(
    "features=[spending, visiting])",
    "features=[spending[['spent']], visiting])\nwhole = FeatureService(name='whole', features=[spending])",
)


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


@pytest.mark.parametrize("first", [(), ("--incremental",), None])
@pytest.mark.scale
def test_a_deployed_table_can_be_computed_on_as_the_one_before_it_was(shop, first):
    """With one file, by day, or with nothing ahead of the first deployment, which goes on in both ways."""
    if first is not None:
        assert shop.feast("apply").status == 0
        assert shop.script("compute_features.py", *first).status == 0
        assert shop.script("materialize_to_online.py").status == 0
        shop.declare(SECOND)
    assert shop.deploy(*ALLOWED).status == 0
    assert served_file(shop, "spending").is_dir() == (first != ())
    for option in [first] if first is not None else [("--incremental",), (), ("--incremental",)]:
        shop.sell(datetime.now(UTC), more=5)
        for script, *options in (["compute_features.py", *option], ["materialize_to_online.py"], ["demo_fixed.py"]):
            done = shop.script(script, *options)
            assert done.status == 0, done
    if first is None:
        shop.declare(SECOND)
        assert shop.deploy(*ALLOWED).status == 0
        assert served_file(shop, "spending").is_dir()
    assert shop.read() == shop.right(spent=4, visits_7d=5)
    assert shop.deploy("--rollback").status == 0
    assert shop.read() == shop.right()


@pytest.mark.scale
def test_a_feature_that_is_added_needs_no_permission_and_what_is_unchanged_is_left_alone(shop):
    shop.deploy()
    visiting = served_file(shop, "visiting")
    stamp = visiting.stat().st_mtime_ns
    shop.declare(FIRST.replace('visits=("count", None)', 'visits=("count", None), dearest=("max", 5)'))
    done = shop.deploy()
    assert done.status == 0, done
    assert "compute: visiting" not in done.out
    assert "prove: deployment 2: all sides are equal, of 12 buyers of spending\n" in done.out
    assert visiting.stat().st_mtime_ns == stamp
    answer = shop.read()
    assert {name: answer[name] for name in shop.right()} == shop.right()
    assert None not in answer["dearest"]
    assert shop.deploy("--rollback").status == 0
    assert shop.read() == shop.right()


@pytest.mark.scale
def test_a_service_alone_is_switched_and_proven(shop):
    shop.deploy()
    shop.declare(WITH_A_PART)
    done = shop.deploy()
    assert done.status == 0, done
    assert shop.read() == {name: values for name, values in shop.right().items() if name != "visits"}


@pytest.mark.scale
def test_what_feast_apply_has_brought_there_is_what_a_rollback_goes_back_to(shop):
    for script in ("apply", "compute_features.py", "materialize_to_online.py"):
        done = shop.script(script) if script != "apply" else shop.feast("apply")
        assert done.status == 0, done
    assert shop.deploy().out.startswith("nothing to deploy")
    shop.declare(SECOND)
    assert shop.deploy(*ALLOWED).status == 0
    assert shop.read() == shop.right(spent=4, visits_7d=5)
    assert shop.deploy("--rollback").status == 0
    assert shop.read() == shop.right()
    assert served_file(shop, "spending") == shop.folder / "data" / "spending.parquet"


@pytest.mark.scale
def test_the_scripts_go_on_with_what_is_served_after_a_rollback(shop):
    shop.deploy()
    shop.declare(SECOND)
    shop.deploy(*ALLOWED)
    shop.deploy("--rollback")
    shop.sell(datetime.now(UTC), more=5)
    for script in ("compute_features.py", "materialize_to_online.py", "demo_fixed.py"):
        done = shop.script(script)
        assert done.status == 0, done
        assert done.err.startswith("features.py has another spending, visiting than is deployed; this goes by what is")
    assert shop.read() == shop.right()
    shop.declare(FIRST)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert shop.script("demo_fixed.py").err == ""
    assert not [one for one in said if "FeatureService" in str(one.message)]


def applied_and_deployed(shop, views):
    """A project that `feast apply` has set up, and to which ``views`` were deployed then."""
    assert shop.feast("apply").status == 0
    for script in ("compute_features.py", "materialize_to_online.py"):
        assert shop.script(script).status == 0
    shop.declare(views)
    assert shop.deploy(*ALLOWED).status == 0


@pytest.mark.scale
def test_what_feast_apply_has_brought_there_is_guarded_once_it_was_gone_back_to(shop):
    applied_and_deployed(shop, SECOND)
    assert shop.deploy("--rollback").status == 0
    shop.sell(datetime.now(UTC), more=5)
    refused = shop.feast("apply")
    assert (refused.status, "is declared in another way, and what is deployed of it" in refused.err) == (2, True)
    for script in ("compute_features.py", "materialize_to_online.py", "demo_fixed.py"):
        done = shop.script(script)
        assert done.status == 0, done
        assert done.err.startswith("features.py has another spending, visiting than is deployed; this goes by what is")
    assert shop.read() == shop.right()
    shop.declare(FIRST)
    assert shop.feast("apply").status == 0
    assert shop.deploy().out.startswith("nothing to deploy")


@pytest.mark.scale
def test_a_view_without_a_version_is_guarded_beside_one_that_has_one(shop):
    applied_and_deployed(shop, FIRST.replace('("sum", 3)', '("sum", 4)'))
    shop.declare(SECOND)
    refused = shop.feast("apply")
    assert (refused.status, "Error: visiting is declared in another way" in refused.err) == (2, True)
    for script in ("compute_features.py", "materialize_to_online.py", "demo_fixed.py"):
        done = shop.script(script)
        assert (done.status, "another visiting than is deployed" in done.err) == (0, True), done
    assert shop.read() == shop.right(spent=4)


@pytest.mark.scale
def test_what_was_applied_without_its_declaration_is_not_deployed_beside(shop):
    assert shop.feast("apply").status == 0
    target = steps.Target(shop.folder)
    target.store.change(lambda registry: [view.spec.tags.pop(DECLARED) for view in registry.feature_views])
    registry = (shop.folder / "data" / "registry.db").read_bytes()
    shop.declare(SECOND)
    refused = shop.deploy(*ALLOWED)
    assert (refused.status, "Restore the features.py that is served, and run" in refused.err) == (2, True)
    assert (shop.folder / "data" / "registry.db").read_bytes() == registry
    shop.declare(FIRST)
    assert shop.feast("apply").status == 0
    assert shop.deploy().out.startswith("nothing to deploy")


@pytest.mark.scale
def test_another_file_of_transactions_is_computed_and_proven_and_taken_back(shop):
    shop.deploy()
    before = shop.read()
    (shop.folder / "earlier.csv").write_bytes((shop.folder / "bought.csv").read_bytes())
    shop.sell(datetime.now(UTC), more=5)
    (shop.folder / "bought.csv").rename(shop.folder / "later.csv")
    (shop.folder / "earlier.csv").rename(shop.folder / "bought.csv")
    shop.declare(FIRST)
    file = shop.folder / "features.py"
    file.write_text(file.read_text().replace("bought.csv", "later.csv"))
    for script in ("compute_features.py", "materialize_to_online.py", "demo_fixed.py"):
        done = shop.script(script)
        assert (done.status, "features.py has another spending, visiting than is" in done.err) == (0, True), done
    assert shop.read() == before
    refused = shop.feast("apply")
    assert (refused.status, "is declared in another way" in refused.err) == (2, True)
    done = shop.deploy(*ALLOWED)
    assert (done.status, done.out.count("compute: "), done.out.count("prove: ")) == (0, 2, 2), done
    assert shop.read() != before
    back = shop.deploy("--rollback")
    assert (back.status, back.out.count("compute: "), back.out.count("prove: ")) == (0, 2, 2), back
    assert shop.read() == before == shop.right()


@pytest.mark.scale
def test_a_plan_of_no_feature_says_what_it_is_about(shop):
    shop.deploy()
    (shop.folder / "moved.csv").write_bytes((shop.folder / "bought.csv").read_bytes())
    file = shop.folder / "features.py"
    file.write_text(file.read_text().replace("bought.csv", "moved.csv"))
    verdict, what = planned(shop.folder, None)
    assert verdict == "value-changing"
    assert what.startswith("spending: its transactions are at ")
    assert "moved.csv" in what


@pytest.mark.scale
def test_a_change_that_the_plan_calls_value_changing_is_computed_and_proven_wherever_it_lies(shop, monkeypatch):
    shop.deploy()
    shop.declare(FIRST.replace('name="shop", features', 'name="shop", owner="another", features'))
    monkeypatch.setattr(Shop, "_verdict", lambda self: ("value-changing", ""))
    done = shop.deploy(*ALLOWED)
    assert (done.status, done.out.count("compute: "), done.out.count("prove: ")) == (0, 2, 2), done
    back = shop.deploy("--rollback")
    assert (back.status, back.out.count("compute: "), back.out.count("prove: ")) == (0, 2, 2), back


@pytest.mark.scale
def test_a_kept_version_is_brought_up_to_date_before_it_is_served_again(shop):
    shop.deploy()
    shop.declare(SECOND)
    shop.deploy(*ALLOWED)
    shop.sell(datetime.now(UTC), more=5)
    assert shop.deploy("--rollback").status == 0
    assert shop.read() == shop.right()


@pytest.mark.scale
class TestFeastApply:
    """On a project that is deployed."""

    def test_of_what_is_served_changes_nothing(self, shop):
        shop.deploy()
        before = shop.kept_views()
        assert shop.feast("apply").status == 0
        assert shop.kept_views() == before
        assert shop.read() == shop.right()
        assert shop.deploy().out.startswith("nothing to deploy")

    @pytest.mark.parametrize(
        ("views", "error"),
        [
            (SECOND, "Error: spending is declared in another way, and what is deployed of it is served"),
            (FIRST.replace("ttl=None", "ttl=1"), "Error: visiting is declared in another way, and what is deployed"),
            (
                FIRST.replace('("visiting"', '("visits"'),
                "Error: visiting is not declared any more, and what is deployed",
            ),
            (WITH_A_PART, "Error: shop is declared in another way, and what is deployed"),
        ],
    )
    def test_of_anything_else_is_refused_in_one_line_and_takes_nothing_away(self, shop, views, error):
        shop.deploy()
        registry = (shop.folder / "data" / "registry.db").read_bytes()
        shop.declare(views)
        done = shop.feast("apply")
        assert (done.status, done.err.startswith(error), done.err.count("\n")) == (2, True, 1)
        assert (shop.folder / "data" / "registry.db").read_bytes() == registry
        assert shop.read() == shop.right()


class TestWhatStops:
    """A deployment, with the old version served."""

    @pytest.fixture
    def ready(self, shop):
        shop.deploy()
        shop.declare(SECOND)
        return shop

    def spoil(self, shop, number) -> None:
        """Change a value in Redis of what a deployment has of a buyer."""
        with opened(shop.folder, [], of=number) as store:
            view = store.get_feature_view("spending")
            [key] = entity_keys(pa.table({"buyer_id": [1]}))
            name = redis_key(store.project, key, 3)
            field = Fields(stored_name(store.config, view))["spent"]
        with redis.Redis(port=shop.port) as client:
            assert client.hset(name, field, Value(double_val=-1.0).SerializeToString()) == 0

    def spoil_after(self, step, shop, monkeypatch):
        whole = getattr(steps, step)

        def spoiling(target, number, *arguments, **options):
            whole(target, number, *arguments, **options)
            self.spoil(shop, number)

        monkeypatch.setattr(steps, step, spoiling)

    def test_a_proof_that_is_red(self, ready, monkeypatch):
        self.spoil_after("materialize", ready, monkeypatch)
        done = ready.deploy(*ALLOWED)
        assert done.status == 1
        assert "prove: deployment 2: training, serving and the transactions differ. Deployment 1 is served" in done.out
        assert ready.read() == ready.right()
        monkeypatch.undo()
        assert ready.deploy(*ALLOWED).status == 0
        assert ready.read() == ready.right(spent=4, visits_7d=5)

    @pytest.mark.scale
    def test_a_proof_of_what_is_served_that_is_red(self, ready, monkeypatch):
        self.spoil_after("switch", ready, monkeypatch)
        done = ready.deploy(*ALLOWED)
        assert done.status == 1
        assert "switch: deployment 1 is served again" in done.out
        assert ready.read() == ready.right()
        monkeypatch.undo()
        assert ready.deploy(*ALLOWED).status == 0
        assert ready.read() == ready.right(spent=4, visits_7d=5)
        assert ready.deploy("--rollback").status == 0
        assert ready.read() == ready.right()

    @pytest.mark.scale
    def test_a_redis_that_does_not_answer(self, ready):
        ready.configure(free_port())
        done = ready.deploy(*ALLOWED)
        assert (done.status, "does not answer" in done.err) == (2, True)
        ready.configure(ready.port)
        assert ready.read() == ready.right()
        assert [line.split()[1] for line in ready.deploy("--status").out.splitlines()] == ["served", "never"]
        assert ready.deploy(*ALLOWED).status == 0

    @pytest.mark.scale
    def test_transactions_that_lack_a_column(self, ready):
        ready.declare(SECOND.replace('("sum", 4)', '("sum", 4)), rebate=("sum", 4)').replace("4)), reb", "4), reb"))
        text = (ready.folder / "features.py").read_text()
        (ready.folder / "features.py").write_text(
            text.replace('column="amount"', 'column="amount" if feature != "rebate" else "rebate"')
        )
        done = ready.deploy(*ALLOWED)
        assert done.status == 2
        assert "rebate" in done.err
        assert ready.read() == ready.right()

    @pytest.mark.scale
    def test_somebody_who_changes_what_is_served_meanwhile(self, ready, monkeypatch):
        whole = steps.prove

        def change(registry, project):
            [service] = [one for one in registry.feature_services if one.spec.project == project]
            service.spec.owner = "another"

        def prove(target, number, *arguments):
            whole(target, number, *arguments)
            target.store.change(lambda registry: change(registry, target.project))

        monkeypatch.setattr(steps, "prove", prove)
        done = ready.deploy(*ALLOWED)
        assert (done.status, "what is served was changed while this was prepared" in done.err) == (2, True)
        assert ready.read() == ready.right()

    @pytest.mark.scale
    def test_another_deployment(self, ready):
        with FileLock(ready.folder / "data" / "registry.db.deploy.lock"):
            done = ready.deploy(*ALLOWED)
        assert (done.status, "another deployment" in done.err) == (2, True)

    @pytest.mark.scale
    def test_a_registry_that_is_not_written_in_one_step(self, ready):
        file = ready.folder / "feature_store.yaml"
        file.write_text(re.sub("  registry_store_type.*\n", "", file.read_text()))
        done = ready.deploy(*ALLOWED)
        assert (done.status, "is not kept by parity.registry_store.ParityRegistryStore" in done.err) == (2, True)

    def test_a_registry_that_is_damaged(self, shop):
        (shop.folder / "data" / "registry.db").write_bytes(b"\xff\xff no registry")
        for arguments in ((), ("--status",), ("--rollback",)):
            done = shop.deploy(*arguments)
            assert (done.status, "is damaged" in done.err) == (2, True)

    @pytest.mark.scale
    def test_a_features_py_that_is_broken(self, ready):
        ready.declare("1 / 0")
        done = ready.deploy(*ALLOWED)
        assert (done.status, "ZeroDivisionError" in done.err) == (2, True)
        assert ready.read() == ready.right()


@pytest.mark.scale
def test_there_is_nothing_to_go_back_to_in_a_project_that_was_never_deployed(shop):
    done = shop.deploy("--rollback")
    assert (done.status, "was never deployed" in done.err) == (2, True)
    assert shop.deploy("--status").out.endswith("was never deployed\n")


def test_an_answer_is_of_one_moment_of_the_registry(shop, monkeypatch):
    """Also where it is brought to another deployment between the views of a service."""
    shop.deploy()
    shop.declare(SECOND)
    shop.deploy(*ALLOWED)
    target = steps.Target(shop.folder)
    find, found = Registry.get_any_feature_view, []

    def switching(self, name, *arguments, **options):
        view = find(self, name, *arguments, **options)
        if not found:
            target.store.change(
                lambda registry: bring_into_force(registry, target.project, 1, datetime.now(UTC), "me", True)
            )
        found.append(name)
        return view

    store = shop.store()
    service = store.get_feature_service("shop")
    rows = [{"buyer_id": buyer} for buyer in range(1, BUYERS + 1)]
    monkeypatch.setattr(Registry, "get_any_feature_view", switching)
    assert store.get_online_features(service, rows).to_dict() == shop.right(spent=4, visits_7d=5)
    assert sorted(found) == ["spending", "visiting"]
    assert shop.read(store) == shop.right()


@pytest.mark.scale
def test_a_service_that_was_kept_is_read_as_it_is_by_now(shop):
    shop.deploy()
    store = shop.store()
    service = store.get_feature_service("shop")
    rows = [{"buyer_id": buyer} for buyer in range(1, BUYERS + 1)]
    assert store.get_online_features(service, rows).to_dict() == shop.right()
    shop.declare(FIRST.replace('spent=("sum", 3), visits=("count", None)', 'visits=("count", None), dear=("max", 5)'))
    assert shop.deploy("--allow", "breaking").status == 0
    store.refresh_registry()
    answer = store.get_online_features(service, rows).to_dict()
    assert answer.keys() == {"buyer_id", "visits", "dear", "visits_7d"}
    assert answer["visits"] == shop.right()["visits"]
    assert None not in answer["dear"]


@pytest.mark.scale
def test_what_is_forgotten_leaves_redis_and_what_is_kept_stays(shop):
    shop.deploy()
    for declared in (SECOND, FIRST.replace('("sum", 3)', '("sum", 2)')):
        shop.declare(declared)
        assert shop.deploy(*ALLOWED).status == 0
    with redis.Redis(port=shop.port) as client:
        [name, *_] = [name for name in client.scan_iter() if name.endswith(shop.project.encode())]
        before = client.hlen(name)
        done = shop.deploy("--prune", "1")
        assert (done.status, done.out.splitlines()[0].startswith("forgotten: 1")) == (0, True)
        assert [line.split()[:2] for line in shop.deploy("--status").out.splitlines()] == [
            ["2", "kept"],
            ["3", "served"],
        ]
        assert client.hlen(name) == before - 3  # the sum of three days, and the count and the event beside it
    assert shop.deploy("--prune", "1").out == "nothing to forget\n"
    assert shop.read() == shop.right(spent=2)
    assert shop.deploy("--rollback").status == 0
    assert shop.read() == shop.right(spent=4, visits_7d=5)
    assert "there is no deployment 1" in shop.deploy("--rollback").err


@pytest.mark.scale
def test_a_deployment_to_a_bucket(shop, bucket, monkeypatch):
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEAST_S3_ENDPOINT_URL", bucket["AWS_ENDPOINT_URL"])
    file = shop.folder / "feature_store.yaml"
    file.write_text(re.sub("path: .*registry.db", "path: s3://bucket/registry.db", file.read_text()))

    def declare(views: str) -> None:
        shop.declare(views)
        path = shop.folder / "features.py"
        place = 'str(ROOT / "data" / f"{name}.parquet")'
        assert place in path.read_text()
        path.write_text(path.read_text().replace(place, 'f"s3://bucket/{name}.parquet"'))

    declare(FIRST)
    assert shop.deploy().status == 0
    assert shop.read() == shop.right()
    declare(SECOND)
    done = shop.deploy(*ALLOWED)
    assert done.status == 0, done
    assert "-> s3://bucket/spending." in done.out
    assert shop.read() == shop.right(spent=4, visits_7d=5)
    assert shop.deploy("--rollback").status == 0
    assert shop.read() == shop.right()


@pytest.mark.scale
def test_data_that_is_not_as_expected_is_not_deployed(shop):
    pytest.importorskip("great_expectations")

    def declare(most: int) -> None:
        expected = f"Expectation('expect_column_values_to_be_between', column='amount', max_value={most})"
        shop.declare(SECOND)
        file = shop.folder / "features.py"
        text = file.read_text().replace("dtype=Float64)]\n", f"dtype=Float64)], expectations=[{expected}]\n")
        file.write_text(text.replace("import AggregatedFeatureView", "import Expectation, AggregatedFeatureView"))

    shop.deploy()
    declare(50)
    stopped = shop.deploy(*ALLOWED, quality=True)
    assert (stopped.status, "quality: the data is not as expected. Deployment 1 is served" in stopped.out) == (1, True)
    assert shop.read() == shop.right()
    declare(100)
    done = shop.deploy(*ALLOWED, quality=True)
    assert (done.status, "quality: as expected" in done.out) == (0, True), done
    assert shop.read() == shop.right(spent=4, visits_7d=5)


def served_file(shop: Shop, view: str) -> Path:
    return Path(shop.store().get_feature_view(view).batch_source.path)
