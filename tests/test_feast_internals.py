"""Every private name of Feast that is used: one that a new Feast no longer has is named here, with what misses it."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureService, FeatureStore, RepoConfig, ValueType, utils
from feast.infra import online_stores
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.offline_stores import duckdb
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.registry.file import FileRegistryStore
from feast.infra.registry.registry_store import RegistryStore

import parity
from parity.definition.keys import as_table
from parity.edge import feast_internals
from parity.online.side import entity_keys, online_store_of
from tests.definition import TOTAL, purchases
from tests.online import opened

PACKAGE = Path(parity.__file__).parent


def require(there: Any, name: str, used_by: str) -> None:
    assert there, f"Feast no longer has {name}; {used_by} misses it"


@pytest.fixture
def table(tmp_path):
    return purchases(tmp_path)


@pytest.fixture
def store(tmp_path, redis_port, table):
    return opened(tmp_path, redis_port, [table])


class TestOfOnlineStores:
    USED_BY = "parity/check/online_keys.py"

    def test_the_client_of_redis_can_be_had(self, store):
        require(hasattr(RedisOnlineStore, "_get_client"), "RedisOnlineStore._get_client", self.USED_BY)
        assert feast_internals.redis_client(store).ping()

    def test_the_connection_of_postgres_can_be_had(self):
        pytest.importorskip("psycopg")
        from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore

        require(hasattr(PostgreSQLOnlineStore, "_get_conn"), "PostgreSQLOnlineStore._get_conn", self.USED_BY)

    def test_the_client_and_the_tables_of_dynamodb_can_be_had(self):
        pytest.importorskip("aiobotocore")
        from feast.infra.online_stores import dynamodb

        used = "parity/check/online_count.py"
        name = "DynamoDBOnlineStore._get_dynamodb_client"
        require(hasattr(dynamodb.DynamoDBOnlineStore, "_get_dynamodb_client"), name, used)
        require(hasattr(dynamodb, "_get_table_name"), "dynamodb._get_table_name", used)

    def test_the_collection_of_mongodb_and_the_tables_of_cassandra_can_be_had(self):
        used = "parity/check/online_listing.py"
        cassandra = "cassandra_online_store/cassandra_online_store.py"
        for file, name in [
            ("mongodb_online_store/mongodb.py", "_get_collection"),
            (cassandra, "_get_session"),
            (cassandra, "_fq_table_name"),
        ]:
            path = Path(online_stores.__path__[0], file)  # their drivers are not here to import them
            require(path.exists() and f"def {name}(" in path.read_text(), f"{file}: {name}", used)


class TestOfRequests:
    USED_BY = "parity/edge/feast_internals.py: resolved_request"

    def test_requests_are_resolved_to_nine_things_in_an_order(self, store, table):
        name = "feast.utils._get_cached_request_context"
        require(hasattr(utils, "_get_cached_request_context"), name, self.USED_BY)
        raw = utils._get_cached_request_context(store.registry, store.project, table.service, False)
        require(len(raw) == len(feast_internals.Request._fields), f"{name} with nine parts", self.USED_BY)
        request = feast_internals.resolved_request(store.registry, store.project, table.service, False)
        references = [f"purchases:{rule.name}" for rule in table.definition.rules]
        for field, expected in {
            "feature_refs": references,
            "on_demand": [],
            "result_names": frozenset(rule.name for rule in table.definition.rules),
            "request_data": set(),
            "entityless": False,
        }.items():
            require(getattr(request, field) == expected, f"{name}: the part {field}", self.USED_BY)
        require("user_id" in request.join_keys, f"{name}: the part join_keys", self.USED_BY)
        require(request.join_key_of["user"] == "user_id", f"{name}: the part join_key_of", self.USED_BY)
        require(request.types["user_id"] == ValueType.INT64, f"{name}: the part types", self.USED_BY)
        [(view, features)] = request.groups
        require(
            (view.name, sorted(features)) == ("purchases", sorted(rule.name for rule in table.definition.rules)),
            f"{name}: the part groups",
            self.USED_BY,
        )

    def test_what_a_request_was_resolved_to_is_kept(self, store, table):
        """If not, each read makes its plan anew, which is right, and slow."""
        one, two = (feast_internals.resolved_request(store.registry, store.project, table.service, False) for _ in "12")
        require(
            one.groups is two.groups, "a cache of resolved requests", "Reads._fast_read of parity/online/reading.py"
        )

    def test_the_cache_of_requests_can_be_bounded(self):
        for name in ("_feature_resolution_cache", "_feature_resolution_cache_lock"):
            require(hasattr(utils, name), f"feast.utils.{name}", self.USED_BY)

    def test_a_service_is_looked_up_in_the_registry_whatever_the_caller_has_kept_of_it(self, store, table):
        kept = FeatureService(name=table.service.name, features=[table.view[[TOTAL]]])
        request = feast_internals.resolved_request(store.registry, store.project, kept, False)
        [(_, features)] = request.groups
        require(
            sorted(features) == sorted(rule.name for rule in table.definition.rules),
            "FeatureService._pending_feature_refs, by which a service is looked up",
            self.USED_BY,
        )

    def test_a_registry_stays_as_it_was_at_a_moment(self, store, table):
        for name in ("_get_registry_proto", "_refresh_lock", "_file_path", "cached_registry_proto_ttl"):
            require(hasattr(store.registry, name), f"Registry.{name}", "of_one_moment")
        moment = feast_internals.of_one_moment(store.registry)
        opened(Path(store.config.registry.path).parent, 6379, [purchases(Path("/elsewhere"))], project=store.project)
        [view] = moment.list_feature_views(store.project, allow_cache=True)
        assert view.batch_source.path == table.source.path
        assert moment.cached_registry_proto_created <= store.registry.cached_registry_proto_created

    def test_feast_keeps_features_of_services_where_they_are_not_looked_up(self, store):
        name = feast_internals.FEATURES_OF_SERVICES
        require(f'"{name}"' in inspect.getsource(utils._get_features), f"the attribute {name}", "ServingRegistry")

    def test_entities_are_made_distinct(self, store, table):
        for name in ("_get_unique_entities", "_get_entity_key_protos"):
            require(hasattr(utils, name), f"feast.utils.{name}", "distinct_entities")
        [one, two] = [key.entity_values[0] for key in entity_keys(as_table([(1,), (2,)], table.definition.keys))]
        view = store.get_feature_view("purchases")
        found, places, length = feast_internals.distinct_entities(
            view, {"user_id": [two, one, two]}, {"user": "user_id"}
        )
        assert [key.entity_values[0] for key in found] == [one, two]
        assert [*map(list, places)] == [[1], [0, 2]]
        assert length == 3

    def test_rows_are_put_into_a_response(self):
        parameters = [
            "requested_features",
            "read_rows",
            "indexes",
            "online_features_response",
            "full_feature_names",
            "table",
            "output_len",
            "include_feature_view_version_metadata",
        ]
        name = "_populate_response_from_feature_data"
        require(hasattr(utils, name), f"feast.utils.{name}", "add_to_response")
        found = list(inspect.signature(getattr(utils, name)).parameters)
        require(found == parameters, f"feast.utils.{name} with its parameters", "add_to_response")

    def test_a_response_has_the_types_of_its_features(self, store, table):
        require(hasattr(OnlineStore, "_build_feature_types"), "OnlineStore._build_feature_types", "feature_types")
        request = feast_internals.resolved_request(store.registry, store.project, table.service, False)
        types = feast_internals.feature_types(online_store_of(store), request)
        assert types.keys() >= {rule.name for rule in table.definition.rules}

    def test_feast_says_whether_it_counts_reads(self):
        code = "from feast import metrics; assert metrics._config.online_features is False"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        require(done.returncode == 0, "feast.metrics._config.online_features", f"counts_reads: {done.stderr[-300:]}")


class TestOfParts:
    def test_a_feature_store_has_a_provider_with_its_online_store(self, store):
        require(hasattr(FeatureStore, "_get_provider"), "FeatureStore._get_provider", "online_store_of")
        require(hasattr(store._get_provider(), "online_store"), "Provider.online_store", "online_store_of")

    def test_a_configuration_has_its_registry(self, store):
        require("self._registry" in inspect.getsource(RepoConfig), "RepoConfig._registry", "with_registry")
        other = feast_internals.with_registry(store.config, path="/elsewhere/registry.db", deployment=["a", "a@1"])
        assert other.registry.path == "/elsewhere/registry.db"
        assert other.registry.model_extra["deployment"] == ["a", "a@1"]
        assert store.config.registry.path != other.registry.path
        assert other.online_store == store.config.online_store

    def test_a_feature_service_notes_what_it_names_by_text(self, table):
        require(
            hasattr(FeatureService(name="a", features=[]), "_pending_feature_refs"),
            "FeatureService._pending_feature_refs",
            "names_no_object",
        )
        assert not feast_internals.names_no_object(FeatureService(name="a", features=[table.view]))

    def test_a_service_has_its_views_as_objects(self, table):
        require(hasattr(FeatureService(name="a", features=[]), "_features"), "FeatureService._features", "views_of")
        assert feast_internals.views_of(FeatureService(name="a", features=[table.view, "text"])) == [table.view]

    def test_a_registry_is_asked_whether_it_may_use_its_cache(self, store):
        """By a local variable of the method that calls the store, `allow_cache`."""
        frames = []

        class Store(RegistryStore):
            def get_registry_proto(self):
                frames.append(feast_internals.is_read_by_itself(sys._getframe(1)))
                raise FileNotFoundError

            def update_registry_proto(self, registry_proto):
                pass

            def teardown(self):
                pass

        registry = store.registry
        registry._registry_store, registry.cached_registry_proto_created = Store(), None
        for ask in (lambda: registry.list_entities(store.project, allow_cache=True), registry.refresh):
            with pytest.raises(FileNotFoundError):
                ask()
        require(frames == [True, False], "allow_cache in Registry._get_registry_proto", "is_read_by_itself")

    def test_the_duckdb_store_has_its_writer(self):
        require(hasattr(duckdb, "_write_data_source"), "feast...duckdb._write_data_source", "write_data_source")

    def test_a_job_of_ibis_has_a_table_that_can_be_replaced(self):
        code = inspect.getsource(IbisRetrievalJob)
        require(
            "self.table = " in code and "self.table" in code.partition("def ")[2],
            "IbisRetrievalJob.table",
            "answered_by",
        )


class TestOfWhatIsDerivedFrom:
    """Methods that are overridden have to be called by Feast, with the arguments that they have here."""

    @pytest.mark.parametrize(
        ("name", "parameters"),
        [
            ("_parse_connection_string", ["connection_string"]),
            ("_get_client", ["self", "online_store_config"]),
            ("_get_client_async", ["self", "online_store_config"]),
            ("_read_hash_fields", ["self", "config", "commands"]),
            (
                "_read_features_per_fv",
                [
                    *["self", "config", "grouped_refs", "join_key_values", "entity_name_to_join_key_map"],
                    *["online_features_response", "full_feature_names", "include_feature_view_version_metadata"],
                ],
            ),
            (
                "_read_features_per_fv_async",
                [
                    *["self", "config", "grouped_refs", "join_key_values", "entity_name_to_join_key_map"],
                    *["online_features_response", "full_feature_names", "include_feature_view_version_metadata"],
                ],
            ),
        ],
    )
    def test_of_the_redis_store(self, name, parameters):
        method = getattr(RedisOnlineStore, name, None)
        require(method, f"RedisOnlineStore.{name}", "parity/online")
        found = list(inspect.signature(method).parameters)
        require(found == parameters, f"RedisOnlineStore.{name} with {parameters}", "parity/online")
        for kind in (OnlineStore, RedisOnlineStore):
            if f"self.{name}(" in inspect.getsource(kind):
                return
        require(False, f"a call of {name}", "parity/online")

    @pytest.mark.parametrize("name", ["_client", "_client_async"])
    def test_where_the_redis_store_keeps_its_clients(self, name):
        require(hasattr(RedisOnlineStore, name), f"RedisOnlineStore.{name}", "parity/online/connection.py")

    def test_of_the_compute_engine(self):
        name = "LocalComputeEngine._materialize_one"
        require(hasattr(LocalComputeEngine, "_materialize_one"), name, "parity/online/engine.py")
        found = list(inspect.signature(LocalComputeEngine._materialize_one).parameters)
        require(found[:3] == ["self", "registry", "task"], f"{name}(registry, task)", "parity/online/engine.py")

    def test_of_the_registry_in_a_file(self):
        code = inspect.getsource(FileRegistryStore)
        require("self._filepath = " in code, "FileRegistryStore._filepath", "parity/registry_store.py")


class TestOfTheImport:
    """What parity/edge/quick_feast.py changes."""

    def imported(self, code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_feast_still_checks_types_by_typeguard(self):
        out = self.imported(
            "import typeguard; seen = []; typeguard.typechecked = lambda one=None, **_: seen.append(one) or one\n"
            "import feast; print(len(seen))"
        )
        require(
            int(out) > 0, "typeguard.typechecked at its classes", "parity/edge/quick_feast.py has nothing to do, and"
        )

    @pytest.mark.parametrize("server", ["feast.feature_server", "feast.ui_server"])
    @pytest.mark.scale
    def test_feast_still_imports_its_servers(self, server):
        out = self.imported(f"import sys, feast; print({server!r} in sys.modules)")
        require(out == "True\n", f"import of {server}", "parity/edge/quick_feast.py")

    def test_feast_puts_up_with_metrics_that_can_not_be_imported(self):
        self.imported(
            "import parity.edge.quick_feast, sys; assert sys.modules['feast.metrics'] is None\n"
            "from feast import FeatureStore; import feast.infra.online_stores.redis"
        )


def test_no_private_name_of_feast_is_used_elsewhere():
    """Private names in other modules of this package are its own, or those that feast_internals.py lists."""
    listed = set(feast_internals.__doc__.split("`"))
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    own = {"_replace", "_fields", "_asdict", "_getframe", "_exit", "_is_text_encoding"}  # Python's
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
    found = []
    for path, tree in trees.items():
        if path.name == "feast_internals.py":
            continue
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("feast"):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and node.attr not in own | listed:
                names = [node.attr]
            found += [
                f"{path.relative_to(PACKAGE)}, line {node.lineno}: {name}"
                for name in names
                if name.startswith("_") and not name.startswith("__") and not name.isupper()  # errors of librdkafka
            ]
    assert found == [], "move these to parity/edge/feast_internals.py"
