"""Plant one bad day and one drifted week among transactions, for a watch to find.

    python generate_synthetic_data.py --rows 27000 --users 300 --days 45 --output examples/watch/data/drawn.csv
    python examples/watch/plant.py

The bad day is one in the middle of the four weeks before the last week: three quarters of its rows are lost, and a
fifth of the amounts that are left have the other sign. In the last seven days that are over, a third of the users pay
40 % more. What is drawn is as it was; what is planted is written to purchases.csv beside it.
"""

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(__file__).resolve().parent / "data"
BAD_DAY, LOST, OTHER_SIGN = 15, 0.75, 0.2
DRIFTED_DAYS, SOME, DEARER = 7, 3, 1.4


def planted(drawn: pd.DataFrame, now: datetime, seed: int = 1) -> pd.DataFrame:
    """The same transactions with what is planted in them, as of ``now``."""
    random = np.random.default_rng(seed)
    today = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    days = (pd.to_datetime(drawn["timestamp"], utc=True) - today) // timedelta(days=1)  # of yesterday: -1
    amounts = drawn["purchase_amount"].to_numpy().copy()
    bad = (days == -BAD_DAY).to_numpy()
    amounts[bad & (random.random(len(drawn)) < OTHER_SIGN)] *= -1
    amounts[days.between(-DRIFTED_DAYS, 0) & (drawn["user_id"] % SOME == 0)] *= DEARER
    kept = ~(bad & (random.random(len(drawn)) < LOST))
    return drawn.assign(purchase_amount=amounts.round(2))[kept]


def main() -> None:
    planted(pd.read_csv(DATA / "drawn.csv"), datetime.now(UTC)).to_csv(DATA / "purchases.csv", index=False)
    print(f"one bad day and one drifted week -> {DATA / 'purchases.csv'}")


if __name__ == "__main__":
    main()
