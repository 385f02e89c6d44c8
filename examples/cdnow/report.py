"""Write what was found of the model as a page: its measures, what it looks at, its calibration, the proof, the audit.

    python examples/cdnow/report.py [-c REPO] [--training FILE] [--proof FILE] [--audit FILE] [--page FILE.html]

The page is static: no script, nothing loaded from elsewhere, light and dark, wide and narrow. What train.py, prove.py
(--json) and `python -m parity audit` (--json) wrote down is read from data/; what is not there is said to be missing.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from cdnow import REPOSITORY, beside, model_of
from model import SERVICE

from parity.edge.command import argument_parser, file_named, run, shown
from parity.edge.errors import UserError
from parity.edge.files import replacing
from parity.report.html import STYLE

TEMPLATE = Path(__file__).with_name("report.html")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 330, 46, 44, 12, 14
"""Of the chart of calibration."""
NAMES = {
    "model": "the model",
    "recency_and_frequency": "recency and frequency alone",
    "bg_nbd": "BG/NBD (2005)",
    "share_of_all": "the share of all, for everyone",
}
MEASURES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "log_loss": "log loss",
}


def main() -> None:
    json_file = file_named(".json")
    parser = argument_parser(__doc__, REPOSITORY)
    of = "(default: REPO/data/{})"
    parser.add_argument(
        "--training", type=json_file, metavar="FILE.json", help=of.format(beside(Path(f"{SERVICE}.model")))
    )
    parser.add_argument("--proof", type=json_file, metavar="FILE.json", help=of.format("proof.json"))
    parser.add_argument("--audit", type=json_file, metavar="FILE.json", help=of.format("audit.json"))
    parser.add_argument("--page", type=file_named(".html"), metavar="FILE.html", help=of.format("report.html"))
    args = parser.parse_args()
    data = args.repository / "data"
    args.training = args.training or beside(model_of(args.repository, SERVICE))
    args.proof, args.audit = args.proof or data / "proof.json", args.audit or data / "audit.json"
    args.page = args.page or data / "report.html"
    training = _read(args.training)
    if training is None:
        raise UserError(f"{shown(args.training)}: there is no such file. Run: python examples/cdnow/train.py")
    try:
        text = rendered(training, _read(args.proof), _read(args.audit))
    except (jinja2.UndefinedError, KeyError, TypeError) as error:
        raise UserError(
            f"what was written down has another form than this page shows: {error}. Run: make model"
        ) from None
    with replacing(args.page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"The page -> {shown(args.page)}")


def rendered(training: Mapping[str, Any], proof: Mapping[str, Any] | None, audit: Mapping[str, Any] | None) -> str:
    """The page, of what train.py wrote down, and of the proof and the audit if there are any."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    most = max(one["importance"] + one["spread"] for one in training["importance"])
    return environment.from_string(TEMPLATE.read_text()).render(
        style=STYLE,
        training=training,
        proof=proof if proof is None or proof["contract"] == training["contract"] else None,
        audit=audit,
        names=NAMES,
        measures=MEASURES,
        best={measure: _best(training["measures"], measure) for measure in MEASURES},
        verdict=_verdict,
        charts={name: chart(points) for name, points in training["calibration"].items()},
        most=max(most, 1e-9),
        size=(WIDTH, HEIGHT),
    )


def chart(points: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Where the points of a chart of calibration, its grid and its diagonal are drawn."""
    most = max(max(point["said"], point["came"]) for point in points) * 1.06 or 1.0

    def x(value: float) -> float:
        return round(LEFT + value / most * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - value / most * (HEIGHT - BOTTOM - TOP), 1)

    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 1.0) if most / step <= 6)
    ticks = [step * number for number in range(int(most / step) + 1)]
    return {
        "points": [(x(point["said"]), y(point["came"])) for point in points],
        "ticks": [(x(tick), y(tick), f"{tick:.0%}") for tick in ticks],
        "zero": (x(0), y(0)),
        "end": (x(most), y(most)),
    }


def _best(found: Mapping[str, Mapping[str, float]], measure: str) -> float:
    values = [measures[measure] for measures in found.values()]
    return max(values) if measure in ("roc_auc", "average_precision") else min(values)


def _verdict(gain: float, spread: float) -> str:
    """As train.py says it."""
    return "wins" if gain > 2 * spread else "loses" if gain < -2 * spread else "is level"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{shown(path)}: this is not JSON. Run: make model") from None


if __name__ == "__main__":
    run(main)
