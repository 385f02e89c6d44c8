"""Import Feast in a third of the time: imported for that, ahead of anything that imports Feast.

While it is imported, Feast has typeguard rewrite the source of its classes, to check the types of what definitions are
made of. `feast apply` does so, once; the scripts take up what was applied, and need not wait for it each time.

Nor do the scripts serve over HTTP or count for a monitor. Feast imports its servers all the same, and its metrics make
a temporary folder as they are imported, which a process that is killed leaves behind. So both are left out: the
servers are empty, and the metrics can't be imported, which Feast puts up with wherever it counts.
"""

import sys
from types import ModuleType

import typeguard


def _as_it_is(target=None, **_):
    return target or _as_it_is


if "feast" not in sys.modules:
    for server in ("feast.feature_server", "feast.ui_server"):
        sys.modules[server] = ModuleType(server)
    sys.modules["feast.metrics"] = None

_typechecked = typeguard.typechecked
typeguard.typechecked = _as_it_is
try:
    import feast  # noqa: F401
finally:
    typeguard.typechecked = _typechecked
