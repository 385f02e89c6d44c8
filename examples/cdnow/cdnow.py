"""Real purchases, from nothing: the CDNOW data, taken out of a package of PyPI into data/ beside this file.

    python examples/cdnow/cdnow.py

69,659 purchases of the 23,570 customers who first bought at CDNOW in the first quarter of 1997, until the middle of
1998 (Fader and Hardie, "Forecasting Repeat Sales at CDNOW", 2001). The wheel of `lifetimes` (MIT license) carries the
file, and the 1/10 sample of it that papers use; nothing of that package is installed or run.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from parity.edge.command import argument_parser, run, shown
from parity.edge.errors import UserError
from parity.edge.files import replacing

REPOSITORY = Path(__file__).resolve().parent
DATA = REPOSITORY / "data"
PURCHASES, SAMPLE = DATA / "CDNOW_master.txt", DATA / "CDNOW_sample.txt"
PACKAGE = "lifetimes==0.11.3"
HASHES = {
    PURCHASES: "eff6889ed364c5199d6eacbbeb7a6d559971df4406ac876f322c373f00a072ef",
    SAMPLE: "6fae10155c0b0ba363c2c386e30f77990d22328220efd862a5edd1443420d94a",
}
"""SHA-256 of each file that is taken."""

BEGIN = datetime(1997, 1, 1, tzinfo=UTC)
"""The day of the first purchase."""
KEY = "customer_id"
PRESENT = datetime(1998, 7, 1, tzinfo=UTC)
"""The instant that the example takes for now: the midnight after the last purchase."""
CALIBRATION = timedelta(weeks=39)
"""How long from `BEGIN` the published forecasts are fitted on; they forecast as long again."""


def main() -> None:
    argument_parser(__doc__).parse_args()
    took = take()
    for path in HASHES:
        print(f"{'Took' if took else 'There already:'} {shown(path)}, {len(path.read_bytes().splitlines()):,} lines")


def model_of(repository: Path, service: str) -> Path:
    """Where the model of a ``service`` is kept, if nothing else is said."""
    return repository / "data" / f"{service}.model"


def beside(model: Path) -> Path:
    """Where the measures of a ``model`` are written: its whole name and .json, so that no other file has it."""
    return model.with_name(f"{model.name}.json")


def take() -> bool:
    """Put the files into data/, if they are not there as they have to be; say whether anything was to be done."""
    if all(path.is_file() and _sha256(path.read_bytes()) == right for path, right in HASHES.items()):
        return False
    with tempfile.TemporaryDirectory() as folder:
        [wheel] = _download(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            found = {path: archive.read(f"lifetimes/datasets/{path.name}") for path in HASHES}
    for path, content in found.items():
        if _sha256(content) != HASHES[path]:
            raise UserError(f"{PACKAGE}: its {path.name} is not the file that this example was written for.")
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return True


def _download(folder: Path) -> list[Path]:
    """Have pip fetch the wheel, as it is set up here (an index of one's own, a proxy), without installing it."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    pip = subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], capture_output=True, text=True)
    if pip.returncode:
        reason = (pip.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise UserError(f"pip can't download {PACKAGE}, which has the purchases: {reason}. Check the network.")
    return list(folder.glob("*.whl"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    run(main)
