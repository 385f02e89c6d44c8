"""Whether a store still gives what a model was trained on: by what its registry and its offline tables say.

`Contract.require_same` holds a model against what features.py declares. A server that has started goes by what is
applied, which somebody may change while it runs; it asks this module again and again.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta

from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException

from parity.definition.checks import FeatureTable
from parity.definition.declare import horizon_of, made_by
from parity.edge.errors import UserError
from parity.model.contract import Contract
from parity.repository import APPLY, COMPUTE, computed_by

CHANGES_NAMED = 5


def require_served(store: FeatureStore, contract: Contract, tables: Iterable[FeatureTable]) -> None:
    """Raise `UserError` if what is applied to the ``store``, or what was computed, is not what the model was trained
    on: naming each feature that is another.

    ``tables`` are those of the contract's service as they were declared when it was found to be the same
    (`Contract.require_same`). The registry is read anew.
    """
    changes = []
    for table in tables:
        try:
            changes += _changes(table, store.get_feature_view(table.name))
        except FeastObjectNotFoundException:
            needed = f"the model of {contract.service} needs {table.name}, which is not applied"
            raise UserError(f"{needed}. {APPLY}") from None
    if changes:
        more = f"; and {len(changes) - CHANGES_NAMED} more" if len(changes) > CHANGES_NAMED else ""
        raise UserError(
            f"what is applied is not what the model of {contract.service} was trained on: "
            f"{'; '.join(changes[:CHANGES_NAMED])}{more}. Restore features.py, or train again. {APPLY}"
        )
    contract.require_applied(store)
    for table in tables:
        others: set[str] = set()
        with suppress(UserError):  # of a table that is not there, which says nothing of what is online
            others = computed_by(table) - {table.definition.fingerprint}
        if others:
            raise UserError(
                f"{table.name} was computed by other definitions ({min(others):.8}...) than the model of "
                f"{contract.service} was trained on. Restore features.py, or train again. {COMPUTE}"
            )


def _changes(table: FeatureTable, applied: FeatureView) -> Iterator[str]:
    """What is applied otherwise than ``table`` has it, in words, with the names of the features."""
    declared, name = table.view, table.name
    keys, now = ([(key.name, str(key.dtype)) for key in view.entity_columns] for view in (declared, applied))
    if keys != now:
        yield f"the keys of {name} were {keys} and are {now}"
    if _ttl(declared) != _ttl(applied):
        yield f"the ttl of {name} was {_ttl(declared)} and is {_ttl(applied)}"
    if (horizon_of(declared) is None) != (horizon_of(applied) is None):
        yield f"the windows of {name} {'slide no longer' if horizon_of(applied) is None else 'slide now'}"
    types = {field.name: str(field.dtype) for field in applied.features}
    made = made_by(applied)
    for field in declared.features:
        feature, before = f"{name}:{field.name}", str(field.dtype)
        if field.name not in types:
            yield f"{feature} is not applied any more"
        elif types[field.name] != before:
            yield f"{feature} was {before} and is {types[field.name]}"
        elif made.get(field.name) != table.definition.fingerprints[field.name]:
            yield f"{feature} is made in another way" if made else f"{feature} was applied without how it is made"


def _ttl(view: FeatureView) -> timedelta | str:
    return view.ttl or "none"
