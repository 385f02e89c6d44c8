"""A model and its contract in one file, which is whole or refused, and in which nothing is run to read it.

A file is text for two lines, then the model as `skops` writes it, without pickle:

    parity-model 1 SHA-256-OF-ALL-THAT-FOLLOWS
    THE CONTRACT, as JSON
    ...

The same model gives the same bytes, whichever process wrote it.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parity.definition.checks import Declared
from parity.edge.errors import UserError
from parity.edge.files import replacing
from parity.model.contract import TRAIN, Contract

MAGIC = b"parity-model 1 "
TRUSTED = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""Types that are taken from a file beside those that skops takes by itself: what trees and imputers are made of."""
LIBRARY = "scikit-learn"
"""The package whose version has to be that of the training: it promises to read its own models only."""
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time that entries of an archive have, so that they have one."""


def save(model: Any, contract: Contract, path: Path | str) -> None:
    """Write a ``model`` of scikit-learn and its ``contract`` to ``path``, replacing an earlier file atomically.

    Raises `UserError` if the model could not be read again.
    """
    path = Path(path)
    packed = _settled(_skops().dumps(model))
    if untrusted := _untrusted(packed, TRUSTED):
        raise UserError(f"{path}: the model has {untrusted}, which could not be read again. Train one without it.")
    content = contract.to_json().encode() + b"\n" + packed
    with replacing(path) as temporary:
        temporary.write_bytes(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def load(path: Path | str, declared: Declared, service: str) -> tuple[Any, Contract]:
    """Read a model that is to be served with this ``service``, and its contract.

    Raises `UserError` if the file is not there or not whole, of another service, of other definitions than are
    ``declared``, or of another scikit-learn; and if it has types in it that are not trusted.
    """
    _skops()
    path = Path(path)
    contract, packed = _read(path)
    contract.require_of(service)
    _require_library(path, contract)
    contract.require_same(declared)
    return _unpacked(path, packed, TRUSTED), contract


def read_contract(path: Path | str) -> Contract:
    """The contract in a file, of which no more is asked than that it is whole. Raises `UserError`."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[Contract, bytes]:
    try:
        with path.open("rb") as file:
            head = file.readline(len(MAGIC) + 65)
            content = file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no model. {TRAIN.replace(' again', '')} first.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a folder, not a model. Name the file.") from None
    except OSError as error:
        raise UserError(f"{path}: it can't be read: {error.strerror or error}. Name another file.") from None
    except ValueError as error:
        raise UserError(f"{str(path)!r:.300}: no file can have this name: {error}. Name another.") from None
    if not MAGIC.startswith(head[: len(MAGIC)]) or (not head and not content):
        raise UserError(f"{path}: this is not a file that a model was saved to with its contract. {TRAIN}.")
    if head[len(MAGIC) :] != hashlib.sha256(content).hexdigest().encode() + b"\n":
        raise UserError(f"{path}: it is truncated or damaged: its checksum is not that of its content. {TRAIN}.")
    line, _, packed = content.partition(b"\n")
    try:
        return Contract.from_json(line), packed
    except ValueError as error:
        raise UserError(f"{path}: its contract can't be read: {error}. {TRAIN}.") from None


def _require_library(path: Path, contract: Contract) -> None:
    trained, here = contract.versions.get(LIBRARY), version(LIBRARY)
    if trained is None:
        raise UserError(f"{path}: it does not say by which {LIBRARY} it was trained. {TRAIN}.")
    if trained != here:
        raise UserError(
            f"{path}: it was trained by {LIBRARY} {trained}, and {here} is installed here. {TRAIN}, or run: "
            f"pip install {LIBRARY}=={trained}"
        )


def _unpacked(path: Path, packed: bytes, trusted: Collection[str]) -> Any:
    try:
        if untrusted := _untrusted(packed, trusted):
            raise UserError(f"{path}: it has {untrusted} in it, which is not trusted, so it is not read. {TRAIN}.")
        return _skops().loads(packed, trusted=list(trusted))
    except UserError:
        raise
    except Exception as error:  # of as many kinds as there are faults in a file whose checksum somebody made
        raise UserError(f"{path}: the model in it can't be read: {type(error).__name__}: {error!s:.200}") from None


def _untrusted(packed: bytes, trusted: Collection[str]) -> str:
    """The types in a file that nobody vouched for, in words; nothing if there is none."""
    return ", ".join(sorted(set(_skops().get_untrusted_types(data=packed)) - set(trusted)))


def _skops() -> Any:
    try:
        import skops.io  # an extra
    except ModuleNotFoundError:
        raise UserError(
            "skops is not installed, which reads and writes models. Run: pip install -r requirements-model.txt"
        ) from None
    return skops.io


def _settled(packed: bytes) -> bytes:
    """The same archive with numbers, in the order in which they are met, for the addresses in memory that skops knows
    objects by, and names their files after."""
    numbers: dict[str, str] = {}
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    schema = _numbered(json.loads(entries.pop("schema.json")), numbers)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        named = {_file_numbered(name, numbers): content for name, content in entries.items()}
        for name in sorted(named):
            archive.writestr(zipfile.ZipInfo(name, EARLIEST), named[name], zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo("schema.json", EARLIEST), json.dumps(schema), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _numbered(node: Any, numbers: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_numbered(part, numbers) for part in node]
    if not isinstance(node, dict):
        return node
    done = {}
    for name, part in node.items():
        if name == "__id__" and isinstance(part, int):
            done[name] = int(numbers.setdefault(str(part), str(len(numbers) + 1)))
        elif name == "file" and isinstance(part, str):
            done[name] = _file_numbered(part, numbers)
        else:
            done[name] = _numbered(part, numbers)
    return done


def _file_numbered(name: str, numbers: dict[str, str]) -> str:
    """The name of a file of an archive, whose stem is the address of what it holds."""
    stem, dot, suffix = name.partition(".")
    return numbers.setdefault(stem, str(len(numbers) + 1)) + dot + suffix
