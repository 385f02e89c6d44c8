"""What a proof found, gone through once, with what a page draws of it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parity.compare.equal import same
from parity.compare.sample import Sample
from parity.definition.keys import as_tuples
from parity.edge.files import progress
from parity.proof.found import Comparison, plain, require_same_definition, require_values
from parity.proof.proof import Proof
from parity.proof.raw import Purchase
from parity.proof.sides import Batch
from parity.report.certificate import Watched

KEYS_DRAWN = 1000


class Gallery:
    """Keeps what the page draws of a comparison: values of some keys, and their purchases."""

    def __init__(self, keys: int):
        self._every = max(1, math.ceil(keys / KEYS_DRAWN))
        self.points: dict[str, list[tuple[Any, Any]]] = {}
        self.purchases: dict[int, list[Purchase]] = {}
        self.names: dict[int, Any] = {}
        """The keys of those purchases."""

    def look(self, batch: Batch) -> None:
        """Take up every so many-th key, and every key that differs while there is room."""
        for feature, values in batch.sides.items():
            points = self.points.setdefault(feature, [])
            for place, (training, serving, oracle) in enumerate(zip(*values, strict=True)):
                odd = not (same(training, serving) and same(training, oracle))
                if place % self._every == 0 or (odd and len(points) < 2 * KEYS_DRAWN):
                    points.append((training, serving))
        numbers = batch.numbers[:: self._every].tolist()
        keys = as_tuples(batch.keys.take(list(range(0, len(batch.numbers), self._every))))
        for number, key, some in zip(numbers, keys, batch.purchases[:: self._every], strict=True):
            if some:
                self.purchases[number], self.names[number] = some, plain(key)


class Seen(NamedTuple):
    """What was found of one feature view, and what there is to draw of it."""

    found: Comparison
    gallery: Gallery


def look_through(
    proofs: Sequence[Proof], drawn: Sequence[tuple[np.ndarray, Sample | None]], files: Watched
) -> list[Seen]:
    """Compare the keys that are ``drawn`` for each proof, behind one progress bar.

    Raises `UserError` if the files changed meanwhile, or if nothing is proven: see `parity.proof.found`.
    """
    seen = look_at(proofs, drawn)
    files.require_unchanged()
    comparisons = [one.found for one in seen]
    require_values(comparisons)
    require_same_definition(comparisons)
    return seen


def look_at(proofs: Sequence[Proof], drawn: Sequence[tuple[np.ndarray, Sample | None]]) -> list[Seen]:
    """The same, be it that files changed or that nothing is proven."""
    seen = []
    with progress("compare", sum(len(numbers) for numbers, _ in drawn), "key") as bar:
        for proof, (numbers, sample) in zip(proofs, drawn, strict=True):
            found, batches = proof.compared(numbers, sample)
            gallery = Gallery(len(numbers))
            for batch in batches:
                gallery.look(batch)
                bar.update(len(batch.numbers))
            seen.append(Seen(found, gallery))
    return seen
