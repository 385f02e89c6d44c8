"""The logged models that a plan concerns, by their contracts: in files of `parity.model` and artifacts of MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.plan.found import ADDED, NO_OP, UNCHANGED, VALUE_CHANGING, ModelFound, ViewFound, is_as_bad
from parity.plan.readers import Description

SUFFIX, LOGGED = ".model", "contract.json"
"""What a model's file is called, and what MLflow's artifacts call the contract."""


def places_of(repository: Path) -> list[Path]:
    """Where models are by default: in the folders of data in a repository and beside it."""
    return [place for place in (repository / "data", repository.parent / "data") if place.is_dir()]


def models_found(
    places: Sequence[Path], views: Sequence[ViewFound], base: Description, head: Description
) -> tuple[list[ModelFound], list[str]]:
    """The models that are logged in these ``places``, each contract once; and what of them can't be read."""
    files = sorted({file for place in places for file in _files(place)})
    if not files:
        return [], []
    from parity.model.contract import Contract  # which imports Feast
    from parity.model.file import read_contract

    contracts: dict[str, tuple[Contract, list[str]]] = {}
    unread = []
    for file in files:
        try:
            contract = Contract.from_json(file.read_bytes()) if file.name == LOGGED else read_contract(file)
        except (UserError, ValueError, OSError) as error:
            unread.append(f"the model {shown(file)}: {str(error).removeprefix(f'{file}: ')}")
            continue
        if contract.project and head["project"] and contract.project != head["project"]:
            continue
        contracts.setdefault(contract.fingerprint, (contract, []))[1].append(shown(file))
    found = [_found(contract, named, views, base, head) for contract, named in contracts.values()]
    return found, unread


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    else:
        yield from (file for file in place.rglob(f"*{SUFFIX}") if file.is_file())
        yield from place.rglob(LOGGED)


def _found(
    contract: Any, places: list[str], views: Sequence[ViewFound], base: Description, head: Description
) -> ModelFound:
    trained = {str(one): one.fingerprint for one in contract.features}
    was, now = (side["contracts"].get(contract.service) for side in (base, head))
    stale = bool(base["contracts"]) and was != trained
    title = next((place for place in places if place.endswith(SUFFIX)), places[0])
    if len(places) > 1:
        title += f" (and {len(places) - 1} more of the same contract)"
    others = list(_since(trained, now or {}) if stale else _others(contract, title, views))
    refused = bool(head["contracts"]) and list((now or {}).items()) != list(trained.items())
    return ModelFound(title, contract.service, places, others, refused, stale)


def _others(contract: Any, title: str, views: Sequence[ViewFound]) -> Iterator[str]:
    """The features of a model of the base that are others in the head, and how."""
    by_name = {
        (view.before or view.name, one.before or one.name): (view, one) for view in views for one in view.features
    }
    for feature in contract.features:
        view, found = by_name.get((feature.view, feature.name), (None, None))
        if found is None or found.status == ADDED:
            yield f"{feature} (is not there)"
            continue
        found.readers.models.append(title)
        rows = [note for note in view.notes if is_as_bad(note.verdict, VALUE_CHANGING)]
        if found.status != UNCHANGED:
            yield f"{feature} ({found.status})"
        elif view.status != UNCHANGED and view.verdict != NO_OP and view.before:
            yield f"{feature} (its view is renamed)"
        elif rows:
            yield f"{feature} (other rows, or another ttl)"


def _since(trained: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """The same of a model that is not of the base: by how features are made, as there are no values to compare."""
    for name, fingerprint in trained.items():
        if now.get(name) != fingerprint:
            yield f"{name} ({'made in another way' if name in now else 'is not there'})"
