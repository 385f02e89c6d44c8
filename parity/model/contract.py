"""The contract of a model: what it was trained on, so that it is served with nothing else.

A contract names a FeatureService, its features in their order with their types, and how each is made: by which
function, of which column, over which window and which rows. It is kept beside the model, in one file with it
(`parity.model.file`), and held against the definitions of the day wherever the model is used.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from typing import Any

from feast import FeatureService, FeatureStore
from feast.errors import FeatureServiceNotFoundException

from parity.definition.checks import Declared, FeatureTable
from parity.definition.reading import Reading
from parity.definition.table import Definition, Rule
from parity.edge.errors import UserError
from parity.edge.shown import cut

PACKAGES = ("scikit-learn", "numpy", "scipy", "skops")
"""Those whose version can change what a model answers, or whether it can be read."""
TRAIN = "Train it again"
CHANGES_NAMED = 5
FORMAT = 2
"""Of the JSON of a contract; 1 had no project."""
CONDITION = "condition"
"""What a definition has beside the text of its condition: a hash of what that says."""


@dataclass(frozen=True)
class Feature:
    """A feature that a model was trained on."""

    view: str
    name: str
    type: str
    """That of Feast, such as ``Int64``."""
    definition: Mapping[str, Any]
    """How it is made, in words: of itself, then of its view."""
    fingerprint: str
    """SHA-256 of the type and the definition."""

    def __str__(self) -> str:
        return f"{self.view}:{self.name}"


@dataclass(frozen=True)
class Contract:
    """What a model was trained on."""

    service: str
    """The name of the FeatureService."""
    features: tuple[Feature, ...]
    """In the order in which the service gives them."""
    views: Mapping[str, str]
    """The fingerprint of the definition of each view, by its name: that of `Definition.fingerprint`."""
    inputs: tuple[str, ...]
    """What the model is given, in order: the names of the features, or of what is derived of them."""
    versions: Mapping[str, str]
    """Of `PACKAGES`, those that are installed."""
    project: str = ""
    """The Feast project of the store that it was trained from; empty if that was not said, which is any."""

    @classmethod
    def of(cls, declared: Declared, service: str, inputs: Sequence[str] = (), project: str = "") -> "Contract":
        """The contract of a model that is trained on this ``service`` now.

        ``inputs`` are what the model is given, by default the features themselves. Raises `UserError` if there is no
        such service, or if it asks for a view that is not aggregated, as nothing is known of how that is made.
        """
        features = tuple(_features(declared, _service(declared, service)))
        names = {feature.view for feature in features}
        views = {table.name: table.definition.fingerprint for table in declared if table.name in names}
        given = tuple(inputs) or tuple(one.name for one in features)
        return cls(service, features, views, given, _versions(), project)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of project, service, features, their definitions, and inputs: equal if the contract is."""
        of = [self.project, self.service, [(str(one), one.fingerprint) for one in self.features], list(self.inputs)]
        return _sha256(of)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Contract":
        """Read what `to_json` wrote. Raises `ValueError`."""
        try:
            content = json.loads(text)
            if not isinstance(content, dict):
                raise ValueError("it is no contract: it has no names")
            if not all(isinstance(content[name], dict) for name in ("versions", "views")):
                raise ValueError("it is no contract: its versions or views have no names")
            if content.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            fingerprint = content.pop("fingerprint")
            features = tuple(Feature(**feature) for feature in content.pop("features"))
            found = cls(features=features, inputs=tuple(content.pop("inputs")), **content)
            altered = found.fingerprint != fingerprint or any(
                feature.fingerprint != _fingerprint(feature.type, feature.definition) for feature in features
            )
        except RecursionError:
            raise ValueError("it is no contract: it is nested too deeply") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no contract: {error}") from None
        if altered:
            raise ValueError("its fingerprint is not that of what it says")
        return found

    def require_of(self, service: str) -> None:
        """Raise `UserError` if the model is of another service."""
        if self.service != service:
            raise UserError(
                f"the model was trained on the FeatureService {cut(self.service)!r}, not on {service!r}. Name the "
                f"model of {service!r}, or train one."
            )

    def require_same(self, declared: Declared) -> None:
        """Raise `UserError` if a feature is ``declared`` otherwise than when the model was trained, naming each."""
        now = Contract.of(declared, self.service, self.inputs)
        if changes := list(_changes(self, now)):
            more = f"; and {len(changes) - CHANGES_NAMED} more" if len(changes) > CHANGES_NAMED else ""
            raise UserError(
                f"the model of {self.service} was trained on other definitions: "
                f"{'; '.join(changes[:CHANGES_NAMED])}{more}. {TRAIN}, or restore the definitions."
            )

    def require_applied(self, store: FeatureStore) -> None:
        """Raise `UserError` if the ``store``, by what was applied to it, gives other features, or in another order;
        or if it is of another project."""
        if self.project and self.project != store.project:
            raise UserError(
                f"the model of {self.service} was trained in the project {cut(self.project)!r}, not in "
                f"{store.project!r}. Name another model, or train one here."
            )
        try:
            service = store.get_feature_service(self.service)
        except FeatureServiceNotFoundException:
            raise UserError(f"{self.service} is not applied. Run: cd feature_repo && feast apply") from None
        applied = [
            (projection.name, field.name, str(field.dtype))
            for projection in service.feature_view_projections
            for field in projection.features
        ]
        trained = [(feature.view, feature.name, feature.type) for feature in self.features]
        for place, (before, now) in enumerate(zip_longest(trained, applied), 1):
            if before != now:
                raise UserError(
                    f"the model of {self.service} was trained on {_place(before)} as feature {place}, and the "
                    f"definitions that are applied have {_place(now)} there. Run: cd feature_repo && feast apply"
                )

    def require_inputs(self, inputs: Sequence[str]) -> None:
        """Raise `UserError` if the model was trained on other ``inputs``, or in another order."""
        for place, (before, now) in enumerate(zip_longest(self.inputs, inputs), 1):
            if before != now:
                raise UserError(
                    f"the model of {self.service} was trained on {before or 'nothing'} as input {place}, and would be "
                    f"given {now or 'nothing'} there. {TRAIN}."
                )


def _place(feature: tuple[str, str, str] | None) -> str:
    return "nothing" if feature is None else f"{feature[0]}:{feature[1]} ({feature[2]})"


def _service(declared: Declared, name: str) -> FeatureService:
    for service in declared.services:
        if service.name == name:
            return service
    there = ", ".join(service.name for service in declared.services) or "none"
    raise UserError(f"there is no FeatureService {name!r}; there is {there}.")


def _features(declared: Declared, service: FeatureService) -> Iterator[Feature]:
    tables = {table.name: table for table in declared.tables}
    for projection in service.feature_view_projections:
        table = tables.get(projection.name)
        if table is None:
            raise UserError(
                f"{service.name} asks for {projection.name}, which is no AggregatedFeatureView, so a model's contract "
                "can't say how it is made. Train on a FeatureService of aggregated views alone."
            )
        renamed = {"alias": projection.name_alias, "join keys": dict(sorted((projection.join_key_map or {}).items()))}
        of_view = _of_view(table) | {name: what for name, what in renamed.items() if what}
        rules = {rule.name: rule for rule in table.definition.rules}
        for field in projection.features:
            definition = _of_rule(rules[field.name]) | of_view
            kind = str(field.dtype)
            yield Feature(table.name, field.name, kind, definition, _fingerprint(kind, definition))


def _of_rule(rule: Rule) -> dict[str, str]:
    window = "none" if rule.time_window is None else _time(rule.time_window)
    return {"function": rule.function, "column": rule.column, "column type": str(rule.column_type), "window": window}


def _of_view(table: FeatureTable) -> dict[str, str]:
    """What all features of a view share. Not where files lie, nor how long ahead rows are known online."""
    definition: Definition = table.definition
    usual = Reading()
    read = {
        option.name: repr(getattr(definition.reading, option.name))
        for option in fields(Reading)
        if option.name != "name" and getattr(definition.reading, option.name) != getattr(usual, option.name)
    }
    ttl = table.view.ttl
    return {
        "keys": ", ".join(f"{key.name} {key.type}" for key in definition.keys),
        "where": definition.condition.text if definition.condition else "none",
        CONDITION: _sha256(repr(definition.condition and definition.condition.tree)),
        "ttl": _time(ttl) if ttl else "none",
        "continuous": "yes" if definition.continuous else "no",
        "source": ", ".join(f"{name}={value}" for name, value in read.items()) or "as usual",
    }


def _time(time: timedelta) -> str:
    return str(time).removesuffix(", 0:00:00")


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _changes(before: Contract, now: Contract) -> Iterator[str]:
    """What has changed of each feature, in words."""
    old, new = ({str(feature): feature for feature in one.features} for one in (before, now))
    for name, feature in old.items():
        if name not in new:
            yield f"{cut(name)} is not in {before.service} any more"
        elif new[name].fingerprint != feature.fingerprint:
            yield f"{name}: {', '.join(_differences(feature, new[name]))}"
    for name in new:
        if name not in old:
            yield f"{name} is new in {before.service}"
    if old.keys() == new.keys() and list(old) != list(new):
        pairs = enumerate(zip(old, new, strict=True), 1)
        place, (was, is_now) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
        yield f"the order of the features: number {place} was {was} and is {is_now}"


def _differences(before: Feature, now: Feature) -> Iterator[str]:
    one, other = ({"type": feature.type, **feature.definition} for feature in (before, now))
    for name in dict.fromkeys([*one, *other]):
        compared = CONDITION if name == "where" else name
        if name == CONDITION or one.get(compared) == other.get(compared):
            continue
        if one.get(name) == other.get(name):  # a column that the condition looks at is read as another type
            yield f"{name}, {cut(str(one.get(name)))}, compares values of other types now"
        else:
            yield f"{name} was {cut(str(one.get(name, 'none')))} and is {cut(str(other.get(name, 'none')))}"


def _fingerprint(type: str, definition: Mapping[str, Any]) -> str:
    """However a condition is written, it is the same if it says the same."""
    return _sha256([type, {name: what for name, what in definition.items() if name != "where"}])


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
