"""Whether a store still gives what a model was trained on: by what its registry and its offline tables say.

`Contract.require_same` holds a model against what features.py declares. A server that has started goes by what is
applied, which somebody may change while it runs; it asks this module again and again.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException

from parity.definition.checks import FeatureTable
from parity.definition.declare import made_by
from parity.edge.errors import UserError
from parity.model.contract import Contract
from parity.repository import APPLY, COMPUTE, computed_by

CHANGES_NAMED = 5


def require_served(store: FeatureStore, contract: Contract, tables: Sequence[FeatureTable]) -> None:
    """Raise `UserError` if what is applied to the ``store``, or what was computed, is not what the model was trained
    on: naming each feature that is another.

    ``tables`` are those of the contract's service as they were declared when it was found to be the same
    (`Contract.require_same`). The registry is read anew.
    """
    registered: dict[str, FeatureView] = {}
    for table in tables:
        try:
            registered[table.name] = store.get_feature_view(table.name)
        except FeastObjectNotFoundException:
            needed = f"the model of {contract.service} needs {table.name}, which is not applied"
            raise UserError(f"{needed}. {APPLY}") from None
    changes = [change for table in tables for change in _changes(contract, table, registered[table.name])]
    if changes:
        more = f"; and {len(changes) - CHANGES_NAMED} more" if len(changes) > CHANGES_NAMED else ""
        raise UserError(
            f"what is applied is not what the model of {contract.service} was trained on: "
            f"{'; '.join(changes[:CHANGES_NAMED])}{more}. Restore features.py, or train again. {APPLY}"
        )
    contract.require_applied(store)
    for table in tables:
        if made_by(registered[table.name]) == table.definition.fingerprints and (others := _computed_otherwise(table)):
            raise UserError(
                f"{table.name} was computed by other definitions ({min(others):.8}...) than the model of "
                f"{contract.service} was trained on. Restore features.py, or train again. {COMPUTE}"
            )


def _computed_otherwise(table: FeatureTable) -> set[str]:
    """The fingerprints of other definitions that the offline table was computed by; none of one that is not there,
    which says nothing of what is online."""
    try:
        return computed_by(table) - {table.definition.fingerprint}
    except UserError:
        return set()


def _changes(contract: Contract, table: FeatureTable, applied: FeatureView) -> Iterator[str]:
    """What is applied otherwise than ``table`` has it, of what the contract is about: in words, with the names of the
    features."""
    declared, name = table.view, table.name
    keys, now = ([(key.name, str(key.dtype)) for key in view.entity_columns] for view in (declared, applied))
    if keys != now:
        yield f"the keys of {name} were {_listed(keys)} and are {_listed(now)}"
    if _ttl(declared) != _ttl(applied):
        yield f"the ttl of {name} was {_ttl(declared)} and is {_ttl(applied)}"
    types = {field.name: str(field.dtype) for field in applied.features}
    made = made_by(applied)
    for feature in contract.features:
        if feature.view != name:
            continue
        if feature.name not in types:
            yield f"{feature} is not applied any more"
        elif types[feature.name] != feature.type:
            yield f"{feature} was {feature.type} and is {types[feature.name]}"
        elif made.get(feature.name) != table.definition.fingerprints[feature.name]:
            yield f"{feature} is made in another way" if made else f"{feature} was applied without how it is made"


def _listed(keys: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in keys)


def _ttl(view: FeatureView) -> timedelta | str:
    return view.ttl or "none"
