"""The worker that asks Evidently: it runs in an environment of its own, reads pairs of columns, and writes scores.

python drift_evidently.py < pairs > scores

The test is the one that its preset of data drift picks by itself for a number; the score is the p-value or the
distance, with the threshold that the preset has for it.
"""

import pickle
import sys

import pandas as pd
from evidently.legacy.calculations.stattests import get_stattest
from evidently.legacy.core import ColumnType

if __name__ == "__main__":
    while True:
        try:
            reference, current = (pd.Series(part).dropna() for part in pickle.load(sys.stdin.buffer))
        except EOFError:
            break
        test = get_stattest(reference, current, ColumnType.Numerical, None)
        threshold = test.default_threshold
        score, drifted = test.func(reference, current, ColumnType.Numerical, threshold)
        pickle.dump((test.name, float(score), bool(drifted)), sys.stdout.buffer)
        sys.stdout.buffer.flush()
