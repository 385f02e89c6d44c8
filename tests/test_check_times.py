"""Event times as people have them: `parity check` reads what Feast can train on."""

import pandas as pd
import pytest
from feast import FileSource

from tests.strangers import customers, orders, stranger

FORMS = {
    "nanoseconds without a zone": lambda times: times.dt.tz_localize(None),
    "nanoseconds of another zone": lambda times: times.dt.tz_convert("Asia/Tokyo"),
    "text": lambda times: times.dt.strftime("%Y-%m-%d %H:%M:%S"),
    "text with a zone": lambda times: times.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
}


@pytest.mark.parametrize("form", FORMS)
def test_event_times_of_any_form_are_compared(tmp_path, capfd, form):
    theirs = stranger(tmp_path, capfd, "duckdb")
    frame = orders(theirs.now, keys=5)
    times = pd.to_datetime(frame["event_timestamp"]).astype("datetime64[ns, UTC]")
    path = theirs.root / "orders.parquet"
    frame.assign(event_timestamp=FORMS[form](times)).to_parquet(path)
    theirs.apply(*customers(FileSource(name="orders", path=str(path), timestamp_field="event_timestamp")))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 10)
