"""Import Feast in a third of the time: imported for that, ahead of anything that imports Feast.

While it is imported, Feast has typeguard rewrite the source of its classes, to check the types of what definitions are
made of. `feast apply` does so, once; the scripts take up what was applied, and need not wait for it each time.
"""

import typeguard


def _as_it_is(target=None, **_):
    return target or _as_it_is


_typechecked = typeguard.typechecked
typeguard.typechecked = _as_it_is
try:
    import feast  # noqa: F401
finally:
    typeguard.typechecked = _typechecked
