"""One side of a plan, in a process of its own: what a repository declares, and its features, computed.

    python -P own_library.py    which runs this file, with the library of that side on PYTHONPATH

The library is that of the side, which may be years older than this file. So nothing of it is imported but where it is
used, and where it has no such thing, features are computed by the command line that it always had. Requests come as
lines of JSON on stdin, and each is answered by one on stdout: see `ANSWERS`. An error is an answer, too.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import duckdb
import feast
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast.aggregation import Aggregation
from feast.base_feature_view import BaseFeatureView
from feast.on_demand_feature_view import OnDemandFeatureView

SEPARATOR = "\x1f"
MICROSECOND = 1e-6
COMMAND = "compute_features.py"


class Side:
    """A repository, its folder of Python on the path, and what its features.py declares."""

    def __init__(self, root: str, repository: str, moved: Mapping[str, str]):
        self.root, self.repository = Path(root), Path(repository)
        for there, here in moved.items():  # as where a package of the checkout is installed from it
            sys.path[:] = [_moved(Path(path), Path(there), Path(here)) for path in sys.path]
        self.variables = vars(_imported(self.repository / "features.py"))
        _require_own_modules(moved)
        objects = list({id(value): value for value in self.variables.values()}.values())
        self.views = {one.name: one for one in objects if isinstance(one, BaseFeatureView)}
        self.services = [one for one in objects if isinstance(one, feast.FeatureService)]
        self.experiments = [one for one in objects if type(one).__name__ == "Experiment"]
        self.aggregations = {one.name: one for one in _aggregations(objects)}

    def describe(self) -> dict[str, Any]:
        """All that is declared, in words and numbers that JSON has."""
        on_demand = [view for view in self.views.values() if isinstance(view, OnDemandFeatureView)]
        views = [view for view in self.views.values() if isinstance(view, feast.FeatureView)]
        return {
            "project": _project(self.repository),
            "views": [self._view(view) for view in views],
            "on_demand": [_on_demand(view) for view in on_demand],
            "services": [_service(service) for service in self.services],
            "experiments": [_experiment(one) for one in self.experiments],
            "contracts": self._contracts(),
        }

    def _view(self, view: feast.FeatureView) -> dict[str, Any]:
        definition, transactions = getattr(view, "definition", None), getattr(view, "transactions", None)
        condition = getattr(definition, "condition", None)
        rules = {rule.name: rule for rule in getattr(definition, "rules", ())}
        made = getattr(definition, "fingerprints", {})
        return {
            **described(view),
            "transactions": None if transactions is None else self._place(transactions.path),
            "transactions_name": getattr(transactions, "name", None),
            "timestamp": getattr(getattr(definition, "reading", None), "timestamp", None),
            "where": getattr(condition, "text", None),
            "made": made,
            "computed_by": getattr(definition, "fingerprint", None),
            "rules": {
                field.name: rule_of(rules.get(field.name) or self.aggregations.get(field.name))
                for field in view.features
            },
        }

    def _place(self, path: str) -> str:
        """A path as Feast reads it: from the folder of features.py."""
        return path if "://" in path else os.path.normpath(self.repository / path)

    def _contracts(self) -> dict[str, dict[str, str]]:
        """By service, the fingerprint of each feature in the contract of a model that would be trained on it now."""
        try:
            from parity.definition.checks import check_definitions
            from parity.model.contract import Contract

            declared, found = check_definitions(self.variables), {}
            for service in declared.services:
                with contextlib.suppress(Exception):  # of a service that no contract can be made of
                    contract = Contract.of(declared, service.name)
                    found[service.name] = {str(one): one.fingerprint for one in contract.features}
        except (ImportError, AttributeError, TypeError):  # of a library that has no contracts yet
            return {}
        return found

    def count(self, view: str, transactions: str) -> dict[str, Any]:
        """How many keys have a transaction that counts."""
        definition = self.views[view].definition
        rows = _read(transactions, definition)
        return {"keys": rows.select(definition.keys.names).group_by(definition.keys.names).aggregate([]).num_rows}

    def compute(self, view: str, transactions: str, below: int | None, folder: str) -> dict[str, Any]:
        """Compute the features of a view into a Parquet file in ``folder``, and leave what it was computed of beside.

        With ``below``, only those of keys whose hash is below it.
        """
        features, rows = Path(folder) / "features.parquet", Path(folder) / "rows.parquet"
        keys = self.views[view].join_keys
        try:
            seconds = _computed(self.views[view].definition, transactions, below, features, rows)
        except (ImportError, AttributeError, TypeError):
            if not (self.root / COMMAND).is_file():
                if not hasattr(self.views[view], "definition"):
                    raise RuntimeError(f"it has no {COMMAND} yet, which computes features. Name a later one.") from None
                raise
            seconds = self._by_command(view, transactions, features)
            if below is not None:
                pq.write_table(_sampled(pq.read_table(features, partitioning=None), keys, below), features)
        return {
            "features": str(features),
            "rows": str(rows) if rows.exists() else None,
            "seconds": seconds,
            "bytes": features.stat().st_size,
            "count": pq.read_metadata(features).num_rows,
            "keys": pq.read_table(features, columns=list(keys), partitioning=None)
            .group_by(list(keys))
            .aggregate([])
            .num_rows,
        }

    def online(self, view: str, features: str, port: int) -> dict[str, Any] | None:
        """What the latest rows of a view take in the Redis at ``port``; of the head, whose library this file is of."""
        from parity.plan.online_cost import measured

        return measured(self.views[view], _project(self.repository) or "plan", Path(features), port)

    def recall(self, view: str, made: Mapping[str, str]) -> dict[str, Any]:
        """How features were made that have these fingerprints, where that is found; of the head, as `online` is."""
        from parity.definition.declare import column_type
        from parity.plan.recall import recalled

        of = self.views[view]
        types = {field.name: column_type(field.dtype) for field in getattr(of.transactions, "schema", ())}
        return {name: rule_of(rule) for name, rule in recalled(of.definition, types, made).items()}

    def _by_command(self, view: str, transactions: str, features: Path) -> dict[str, float]:
        """As `compute`, by the command line of a library that can't be called in another way."""
        command = [sys.executable, "-B", str(self.root / COMMAND)]
        if self.repository != self.root / "feature_repo":
            command += ["-c", str(self.repository)]
        if len(self.views) > 1:
            command += ["--view", view]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--input", transactions, "--output", str(features)],
            cwd=self.root,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"status {done.returncode}"]
            raise RuntimeError(f"{COMMAND}: {said[-1].removeprefix('error: ')}")
        return {"all": time.perf_counter() - start}


def _imported(file: Path) -> Any:
    """Import features.py by the library's own way, which checks it; or just so, if the library has none."""
    try:
        from parity.definition.checks import declared
    except ImportError:
        name = f"{file.parent.name}.{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        if not file.is_file():
            raise RuntimeError(f"{file}: there is no such file, and it is what declares the features.") from None
        spec.loader.exec_module(module)
        return module
    declared(file.parent)
    return sys.modules[f"{file.parent.resolve().name}.{file.stem}"]


def _moved(path: Path, there: Path, here: Path) -> str:
    """Where a folder of the checkout ``there`` is unpacked ``here``; an environment in it stays where it is."""
    return str(here / path.relative_to(there) if _is_in(path, there) else path)


def _is_in(path: Path, checkout: Path) -> bool:
    return path.is_relative_to(checkout) and not any(path.is_relative_to(one) for one in (sys.prefix, sys.base_prefix))


def _require_own_modules(moved: Mapping[str, str]) -> None:
    """Refuse a module of the working tree in the base: what it says now is not what it said then."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name.partition(".")[0] != "parity" and name != "__main__":
            for there in moved:
                if _is_in(Path(file), Path(there)) and Path(file).parent != Path(__file__).parent:
                    raise RuntimeError(
                        f"it imports {name} from the working tree, {file}, as that is installed from there, so it "
                        "would not be what it was. Plan in an environment where it is not."
                    )


def _aggregations(objects: list) -> Iterator[Aggregation]:
    for one in objects:
        if isinstance(one, Aggregation):
            yield one
        elif isinstance(one, list | tuple):
            yield from (part for part in one if isinstance(part, Aggregation))


def described(view: feast.FeatureView) -> dict[str, Any]:
    """What a view is to those who read it, also if it comes from a registry."""
    return {
        "name": view.name,
        "entities": list(view.entities),
        "keys": [[column.name, str(column.dtype)] for column in view.entity_columns],
        "event": view.batch_source.timestamp_field or "event_timestamp",
        "ttl": None if not view.ttl else view.ttl.total_seconds(),
        "online": view.online,
        "continuous": "parity.horizon" in view.tags,
        "horizon": int(view.tags["parity.horizon"]) * MICROSECOND if "parity.horizon" in view.tags else None,
        "tags": {name: value for name, value in view.tags.items() if not name.startswith("parity.")},
        "source": view.batch_source.path,
        "version": view.tags.get("parity.version"),
        "features": [
            {"name": field.name, "type": str(field.dtype), "unit": (field.tags or {}).get("unit")}
            for field in view.features
        ],
    }


def rule_of(rule: Any) -> dict[str, Any] | None:
    if rule is None:
        return None
    window = None if not rule.time_window else rule.time_window.total_seconds()
    return {"function": rule.function, "column": rule.column, "window": window}


def _service(service: feast.FeatureService) -> dict[str, Any]:
    given = service.feature_view_projections
    return {
        "name": service.name,
        "features": [[one.name, field.name] for one in given for field in one.features],
        "called": {one.name: one.name_alias for one in given if one.name_alias},
    }


def _experiment(experiment: Any) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "unit": experiment.unit,
        "arms": {arm: service.name for arm, service in experiment.arms.items()},
        "shares": experiment.shares,
        "seed": experiment.seed,
        "coverage": experiment.coverage,
    }


def _on_demand(view: OnDemandFeatureView) -> dict[str, Any]:
    return {
        "name": view.name,
        "features": [{"name": field.name, "type": str(field.dtype)} for field in view.features],
        "sources": [one.name for one in view.source_feature_view_projections.values()],
        "code": _code_of(view),
    }


def _code_of(view: OnDemandFeatureView) -> str:
    """A hash of what the function of an on-demand view does: a comment and an empty line are nothing of it."""
    function = getattr(getattr(view, "feature_transformation", None), "udf", None)
    code = getattr(function, "__code__", None)
    what = _instructions(code, function.__doc__) if code else function
    return hashlib.sha256(repr(what).encode()).hexdigest()


def _instructions(code: CodeType, docstring: str | None = None) -> tuple:
    parts = [
        _instructions(one) if isinstance(one, CodeType) else None if one == docstring else one for one in code.co_consts
    ]
    return code.co_code, parts, code.co_names, code.co_varnames


def _project(repository: Path) -> str | None:
    file = repository / "feature_store.yaml"
    content = yaml.safe_load(os.path.expandvars(file.read_text())) if file.is_file() else None
    return content.get("project") if isinstance(content, dict) else None


def _computed(definition: Any, transactions: str, below: int | None, features: Path, rows: Path) -> dict[str, float]:
    """As `Side.compute`, by the functions that compute_features.py calls; how long the parts of it took."""
    from parity.compute.windows import aggregate
    from parity.edge.files import write_table

    start = time.perf_counter()
    read = _read(transactions, definition)
    found = read if below is None else _sampled(read, definition.keys.names, below)
    seconds = {"read": time.perf_counter() - start}
    del read
    start = time.perf_counter()
    history = aggregate(found, definition) if found.num_rows else definition.schema.empty_table()
    seconds["compute"] = time.perf_counter() - start
    start = time.perf_counter()
    write_table(history, features)
    seconds["write"] = time.perf_counter() - start
    pq.write_table(found, rows)
    return seconds


def _read(transactions: str, definition: Any) -> pa.Table:
    from parity.transactions.read import read_transactions

    return read_transactions(Path(transactions), definition)


def _sampled(rows: pa.Table, keys: list[str], below: int) -> pa.Table:
    """The rows of the keys whose hash is below: the same keys whatever else a table has, and whatever their type."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", rows.select(keys))
        quoted = [f'"{key.replace(chr(34), chr(34) * 2)}"::VARCHAR' for key in keys]
        query = f"SELECT md5_number_lower(concat_ws($1, {', '.join(quoted)})) < $2::UBIGINT AS kept FROM rows"
        kept = connection.execute(query, [SEPARATOR, below]).fetch_arrow_table()["kept"]
    return rows.filter(kept)


ANSWERS = {
    "describe": Side.describe,
    "count": Side.count,
    "compute": Side.compute,
    "online": Side.online,
    "recall": Side.recall,
}


def main() -> None:
    """Answer each request: {"do": one of `ANSWERS`, ...}. The first one says where the side is."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever features.py prints is no answer
    side = None
    for line in sys.stdin:
        request: Mapping[str, Any] = json.loads(line)
        try:
            if side is None:
                side = Side(request.pop("root"), request.pop("repository"), request.pop("moved"))
            answer = {"answer": ANSWERS[request.pop("do")](side, **request)}
        except (Exception, SystemExit) as error:
            answer = {"error": _reason(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _reason(error: BaseException) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())
    return text if kinds & {"UserError", "RuntimeError"} else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main()
