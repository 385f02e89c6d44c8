"""Parts by the hour: appended, merged and read, with no row lost and none read twice, wherever a process dies."""

import logging
import os
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parity.edge.errors import UserError
from parity.served import hourly
from parity.served.hourly import HourlyParts
from parity.served.log import parts, read

HOUR = datetime(2026, 3, 1, 10, tzinfo=UTC)
SCHEMA = pa.schema([("id", pa.int64()), ("__log_timestamp", pa.timestamp("us", "UTC"))])
FACTS = {"service": "s", "project": "p", "references": ["view:id"]}
MINUTE = timedelta(minutes=1)


class Clock:
    def __init__(self, at: datetime):
        self.at = at

    def __call__(self) -> datetime:
        return self.at


def rows(*some: tuple[int, datetime]) -> pa.Table:
    ids, times = zip(*some, strict=True)
    return pa.table([pa.array(ids), pa.array(times, SCHEMA.field(1).type)], SCHEMA)


def written(folder, at: datetime = HOUR) -> tuple[HourlyParts, Clock]:
    clock = Clock(at)
    return HourlyParts(folder / "service=s", SCHEMA, FACTS, now=clock), clock


def ids(folder, **which) -> list[int]:
    return [number for part in parts(folder, **which) for number in read(part)["id"].to_pylist()]


def files(folder) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.fixture(autouse=True)
def _warn_anew(monkeypatch):
    monkeypatch.setattr(hourly, "_warned", [float("-inf")])


def test_a_part_is_readable_at_once_and_says_what_it_is_of(tmp_path):
    log, _ = written(tmp_path)
    log.append(rows((1, HOUR), (2, HOUR + MINUTE)))
    [part] = parts(tmp_path)
    assert (part.service, part.project, part.references, part.dropped) == ("s", "p", ["view:id"], 0)
    assert (part.hour, part.rows) == (HOUR, 2)
    assert part.path.parent == tmp_path / "service=s" / "hour=2026-03-01T10"
    assert read(part).to_pylist()[1] == {"id": 2, "__log_timestamp": HOUR + MINUTE}


def test_rows_go_to_the_hour_in_which_they_were_served(tmp_path):
    log, _ = written(tmp_path)
    last = HOUR + timedelta(hours=1) - timedelta(microseconds=1)
    log.append(rows((2, HOUR + timedelta(hours=1)), (1, last)))
    assert [(part.hour, part.rows) for part in parts(tmp_path)] == [(HOUR, 1), (HOUR + timedelta(hours=1), 1)]
    assert ids(tmp_path, until=last) == [1]
    assert ids(tmp_path, since=HOUR + timedelta(hours=1)) == [2]
    assert ids(tmp_path, since=last, until=HOUR + timedelta(hours=1)) == [1, 2]


def test_the_parts_of_an_hour_become_one_when_it_has_passed(tmp_path):
    log, clock = written(tmp_path)
    for number in range(5):
        log.append(rows((number, HOUR)))
    assert len(files(tmp_path)) == 5
    clock.at = HOUR + 61 * MINUTE
    log.append(rows((5, clock.at)))
    assert len(files(tmp_path)) == 2
    assert ids(tmp_path) == list(range(6))


def test_the_end_of_a_process_merges_what_there_is(tmp_path):
    log, _ = written(tmp_path)
    for number in range(3):
        log.append(rows((number, HOUR)))
    log.close()
    assert len(files(tmp_path)) == 1
    assert ids(tmp_path) == [0, 1, 2]


def test_late_rows_of_a_merged_hour_are_merged_once_more(tmp_path):
    log, clock = written(tmp_path)
    log.append(rows((0, HOUR)))
    log.append(rows((1, HOUR)))
    clock.at = HOUR + 61 * MINUTE
    log.merge_passed()
    log.append(rows((2, HOUR)))
    log.append(rows((3, HOUR)))
    assert sorted(ids(tmp_path)) == [0, 1, 2, 3]


def test_a_process_killed_in_the_middle_of_a_merge_leaves_no_row_twice(tmp_path, monkeypatch):
    log, _ = written(tmp_path)
    for number in range(4):
        log.append(rows((number, HOUR)))

    class Killed(BaseException):
        pass

    left = [2]

    def unlink(path, missing_ok=False, unlink=os.unlink):
        if not left[0]:
            raise Killed
        left[0] -= 1
        unlink(path)

    monkeypatch.setattr("pathlib.Path.unlink", unlink)
    with pytest.raises(Killed):
        log.close()
    assert len(files(tmp_path)) == 3  # two parts, and what holds all four
    assert ids(tmp_path) == [0, 1, 2, 3]


def test_a_part_that_was_merged_after_it_was_listed_is_still_read(tmp_path):
    log, clock = written(tmp_path)
    for number in range(3):
        log.append(rows((number, HOUR)))
    listed = parts(tmp_path)
    clock.at = HOUR + 61 * MINUTE
    log.merge_passed()
    assert not any(part.path.exists() for part in listed)
    assert [read(part)["id"].to_pylist() for part in listed] == [[0], [1], [2]]
    [merged] = parts(tmp_path)
    log.append(rows((3, HOUR)))
    log.close()
    assert [read(part)["id"].to_pylist() for part in [*listed, merged]] == [[0], [1], [2], [0, 1, 2]]


def test_two_processes_of_one_name_write_to_one_folder(tmp_path):
    one, other = written(tmp_path)[0], written(tmp_path)[0]
    one.append(rows((1, HOUR)))
    other.append(rows((2, HOUR)))
    one.append(rows((3, HOUR)))
    one.close()
    other.close()
    assert sorted(ids(tmp_path)) == [1, 2, 3]


def test_what_was_dropped_is_said_by_the_next_part(tmp_path):
    log, _ = written(tmp_path)
    log.drop(7)
    log.append(rows((1, HOUR)))
    log.append(rows((2, HOUR)))
    assert [part.dropped for part in parts(tmp_path)] == [7, 0]
    log.drop(2)
    log.close()
    assert [(part.rows, part.dropped) for part in parts(tmp_path)] == [(2, 9)]


def test_a_folder_that_cannot_be_written_drops_rows_and_counts_them(tmp_path, caplog):
    log, _ = written(tmp_path)
    (tmp_path / "service=s").write_text("a file where a folder belongs")
    with caplog.at_level(logging.WARNING):
        log.append(rows((1, HOUR), (2, HOUR)))
        log.append(rows((3, HOUR)))
    assert len(caplog.messages) == 1  # one a minute
    assert "service=s" in caplog.messages[0]
    (tmp_path / "service=s").unlink()
    log.append(rows((4, HOUR)))
    assert [(part.rows, part.dropped) for part in parts(tmp_path)] == [(1, 3)]


def test_rows_that_no_file_can_say_were_dropped_are_warned_of_at_the_end(tmp_path, caplog):
    log, _ = written(tmp_path)
    (tmp_path / "service=s").write_text("")
    log.append(rows((1, HOUR)))
    log.close()
    assert "1 rows were dropped that no file of this log says" in caplog.messages[-1]


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path):
    log, _ = written(tmp_path)
    log.append(rows((1, HOUR)))
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    log.append(rows((2, HOUR)))
    log.append(rows((3, HOUR)))
    log.close()
    assert [part.dropped for part in parts(tmp_path)] == [0]
    assert ids(tmp_path) == [2, 3]


def test_what_a_killed_process_left_half_written_is_removed_by_the_next(tmp_path):
    log, _ = written(tmp_path)
    left = tmp_path / "service=s" / "hour=2026-03-01T10" / ".part.abcd1234.tmp"
    left.mkdir(parents=True, mode=0o700)
    (left / "new.tmp").write_bytes(b"PAR1")
    log.append(rows((1, HOUR)))
    assert not left.exists()
    assert ids(tmp_path) == [1]


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_damaged_part_is_named(tmp_path, content):
    log, _ = written(tmp_path)
    log.append(rows((1, HOUR)))
    bad = tmp_path / "service=s" / "hour=2026-03-01T10" / "x.parquet"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.parquet: this is not a Parquet file"):
        parts(tmp_path)


def test_a_file_that_is_no_part_is_named(tmp_path):
    folder = tmp_path / "service=s" / "hour=2026-03-01T10"
    folder.mkdir(parents=True)
    pq.write_table(rows((1, HOUR)), folder / "mine.parquet")
    with pytest.raises(UserError, match=r"mine\.parquet: this is no part of a log"):
        parts(tmp_path)
    (folder.parent / "hour=today").mkdir()
    (folder / "mine.parquet").unlink()
    with pytest.raises(UserError, match="hour=today: this is not an hour"):
        parts(tmp_path)


def test_of_a_folder_that_is_not_there_nothing_is_listed(tmp_path):
    assert parts(tmp_path / "nowhere") == []
