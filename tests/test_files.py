"""Files are replaced in one step, through temporary files that nobody else can guess, use or leave behind."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parity.edge.errors import UserError
from parity.edge.files import NEW, on_disk, parquet_files, replacing, write_table
from parity.report.certificate import write_certificate
from tests.conftest import ROOT

ROWS = pa.table({"n": range(3)})
MANY = pa.table({"n": range(200_000)})
SOMEBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to act as another user")


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "out.csv"


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


@contextmanager
def limited_to(size: int):
    """No file may grow beyond ``size`` bytes: as on a full disk, wherever a test runs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True).returncode:
        pytest.skip("takes the right to mount a disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


WRITER = """
import sys, time
from pathlib import Path
from parity.edge.command import run
from parity.edge.files import replacing
def main():
    with replacing(Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        sys.stdin.readline()
        temporary.write_text("whole")
run(main)
"""


@contextmanager
def writer(out: Path):
    """Another process, half-way through writing ``out``; a line on its standard input lets it finish."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WRITER, out], cwd=ROOT, text=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


class TestTemporaryFiles:
    @pytest.mark.parametrize(
        "name", ["out.csv", "[a]*.csv", "café .csv", "caf\udce9.csv", "n" * 251 + ".csv", "d.parquet"]
    )
    def test_nothing_but_the_file_is_there_in_the_end(self, out, name):
        out = out.with_name(name)
        write_table(ROWS, out)
        write_table(ROWS, out)
        assert names(out) == [name]

    def test_two_writers_of_one_file_do_not_meet_even_with_one_process_id(self, out):
        with replacing(out) as first, replacing(out) as second, open(first, "w") as a, open(second, "w") as b:
            for number in range(10_000):
                a.write(f"a{number}\n")
                b.write(f"b{number}\n")
        assert first != second
        assert out.read_text().splitlines() == [f"a{number}" for number in range(10_000)]
        assert names(out) == ["out.csv"]

    def test_processes_with_one_id_that_write_one_table_leave_a_whole_one(self, out):
        code = (
            "import os, sys; os.getpid = lambda: 7\n"
            "from pathlib import Path; import pyarrow as pa; from parity.edge.files import write_table\n"
            "for _ in range(4): write_table(pa.table({'n': [int(sys.argv[2])] * 50_000}), Path(sys.argv[1]))"
        )
        running = [subprocess.Popen([sys.executable, "-c", code, out, str(n)], cwd=ROOT) for n in (1, 2, 3)]
        assert [process.wait(60) for process in running] == [0, 0, 0]
        lines = out.read_text().splitlines()
        assert len(lines) == 50_001
        assert len(set(lines[1:])) == 1
        assert names(out) == ["out.csv"]

    @as_root
    def test_nobody_else_may_enter_where_a_file_is_written(self, out):
        out.parent.chmod(0o777)
        with replacing(out) as temporary:
            temporary.write_text("secret")
            [folder] = names(out)
            status = (out.parent / folder).stat()
            assert stat.S_IMODE(status.st_mode) == 0o700
            looked = subprocess.run(
                ["cat", f"{out.parent}/{folder}/{NEW}"], user=SOMEBODY, capture_output=True, text=True
            )
            assert "denied" in looked.stderr

    def test_a_reader_of_the_folder_does_not_take_it_for_a_table(self, out):
        table = out.with_name("table.parquet")
        write_table(ROWS, table)
        with replacing(out.with_name("other.parquet")) as temporary:
            pq.write_table(ROWS, temporary)
            assert [info.path for info in parquet_files(out.parent)[1]] == [str(table)]

    def test_links_where_a_temporary_file_was_guessed_are_not_followed(self, out):
        private = out.parent.parent / "private"
        private.write_text("private")
        for guess in (f".out.csv.{os.getpid()}.tmp", ".out.csv.tmp", ".out.csv.abcdefgh.tmp", "out.csv.tmp"):
            (out.parent / guess).symlink_to(private)
        write_table(ROWS, out)
        assert private.read_text() == "private"
        assert not out.is_symlink()

    def test_a_folder_that_is_moved_away_meanwhile_takes_nothing_private_with_it(self, out):
        """As somebody may do who may write to the folder around it: moves it, and puts a link in its place."""
        private = out.parent.parent / "private"
        private.mkdir()
        (private / NEW).write_text("private")
        with replacing(out) as temporary:
            [folder] = names(out)
            (out.parent / folder).rename(out.parent / "moved")
            (out.parent / folder).symlink_to(private)
            temporary.write_text("new")
        assert out.read_text() == "new"
        assert (private / NEW).read_text() == "private"


class TestLeftOver:
    def test_what_a_killed_process_left_is_removed_by_the_next(self, out):
        out.write_text("earlier")
        with writer(out) as process:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        assert len(names(out)) == 2
        assert out.read_text() == "earlier"
        write_table(ROWS, out)
        assert names(out) == ["out.csv"]

    def test_what_is_being_written_is_not_removed(self, out):
        with writer(out) as process:
            write_table(ROWS, out)
            assert len(names(out)) == 2
            process.communicate("\n", timeout=10)
            assert process.returncode == 0
        assert out.read_text() == "whole"
        assert names(out) == ["out.csv"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_process_that_is_told_to_end_leaves_nothing(self, out, number):
        with writer(out) as process:
            process.send_signal(number)
            process.wait(10)
        assert names(out) == []

    def test_a_failure_leaves_the_earlier_file_and_nothing_else(self, out):
        out.write_text("earlier")
        with suppress(ZeroDivisionError), replacing(out) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError
        assert out.read_text() == "earlier"
        assert names(out) == ["out.csv"]

    def test_folders_that_only_look_like_ours_are_left_alone(self, out):
        for name in (".out.csv.abcdefgh.tmp", ".out.csv.short.tmp", ".other.csv.abcdefgh.tmp"):
            folder = out.parent / name
            folder.mkdir(0o700)
            (folder / "diary").write_text("mine")
        (out.parent / ".out.csv.12345678.tmp").write_text("a file")
        before = names(out)
        write_table(ROWS, out)
        assert names(out) == sorted([*before, "out.csv"])
        assert (out.parent / ".out.csv.abcdefgh.tmp" / "diary").read_text() == "mine"

    @as_root
    def test_what_another_user_left_is_left_alone(self, out):
        folder = out.parent / ".out.csv.abcdefgh.tmp"
        folder.mkdir(0o700)
        (folder / NEW).write_text("theirs")
        os.chown(folder, SOMEBODY, SOMEBODY)
        write_table(ROWS, out)
        assert (folder / NEW).read_text() == "theirs"


class TestMode:
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
    def test_an_earlier_file_keeps_its_mode(self, out, mode):
        out.write_text("earlier")
        out.chmod(mode)
        write_table(ROWS, out)
        assert stat.S_IMODE(out.stat().st_mode) == mode

    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_new_file_has_the_mode_that_the_umask_leaves(self, out, umask, suffix):
        before = os.umask(umask)
        try:
            write_table(ROWS, out.with_suffix(suffix))
        finally:
            os.umask(before)
        assert stat.S_IMODE(out.with_suffix(suffix).stat().st_mode) == 0o666 & ~umask

    @as_root
    def test_a_file_that_somebody_else_made_for_all_to_write_is_not_kept_so(self, out):
        out.write_text("planted")
        out.chmod(0o666)
        os.chown(out, SOMEBODY, SOMEBODY)
        write_table(ROWS, out)
        assert stat.S_IMODE(out.stat().st_mode) & 0o022 == 0


class TestLinks:
    @pytest.mark.parametrize("there_already", [True, False])
    @pytest.mark.parametrize("relative", [True, False])
    def test_a_link_stays_and_what_it_points_to_is_replaced(self, out, relative, there_already):
        real = out.parent / "elsewhere" / "real.csv"
        real.parent.mkdir()
        if there_already:
            real.write_text("earlier")
        second = out.with_name("second.csv")
        second.symlink_to("elsewhere/real.csv" if relative else real)
        out.symlink_to("second.csv")
        write_table(ROWS, out)
        assert out.is_symlink()
        assert second.is_symlink()
        assert not real.is_symlink()
        assert out.read_text() == real.read_text() == "n\n0\n1\n2\n"
        assert names(real) == ["real.csv"]

    def test_a_circle_of_links_is_told(self, out):
        out.symlink_to("other.csv")
        out.with_name("other.csv").symlink_to("out.csv")
        with pytest.raises(OSError, match="Too many levels") as caught:
            write_table(ROWS, out)
        assert str(out) in str(caught.value) or "other.csv" in str(caught.value)

    @as_root
    @pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
    def test_a_link_of_another_user_in_a_shared_folder_is_not_followed(self, out, mode):
        private = out.parent.parent / "private.csv"
        private.write_text("private")
        out.symlink_to(private)
        os.chown(out, SOMEBODY, SOMEBODY, follow_symlinks=False)
        out.parent.chmod(mode)
        with pytest.raises(UserError, match=r"out\.csv: this is a link that another user made"):
            write_table(ROWS, out)
        assert private.read_text() == "private"

    def test_a_device_or_a_pipe_is_not_replaced(self, out):
        os.mkfifo(out)
        with pytest.raises(UserError, match=r"out\.csv: this is a device or a pipe"):
            write_table(ROWS, out)
        out.unlink()
        out.symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"out\.csv: this is a device or a pipe"):
            write_table(ROWS, out)
        assert Path("/dev/full").is_char_device()


def write_rows(path: Path) -> None:
    write_table(MANY, path)


def write_html(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("<p>" * 200_000)


def write_json(path: Path) -> None:
    write_certificate({"differences": ["one"] * 100_000}, path)


class TestFullDisk:
    @pytest.mark.parametrize(
        ("name", "write"),
        [("o.csv", write_rows), ("o.parquet", write_rows), ("o.html", write_html), ("o.json", write_json)],
    )
    def test_it_is_told_by_the_files_name_and_the_earlier_one_is_whole(self, out, name, write):
        out = out.with_name(name)
        out.write_text("earlier")
        with limited_to(1 << 16), pytest.raises(UserError, match=rf"^{out}: File too large\.$"):
            write(out)
        assert out.read_text() == "earlier"
        assert names(out) == [name]
        write(out)
        assert out.stat().st_size > 1 << 16

    @pytest.mark.parametrize("name", ["o.csv", "o.parquet"])
    def test_through_a_script_on_a_disk_that_is_really_full(self, small_disk, project, name):
        out = small_disk / name
        options = ["--output", out, "--rows"]
        project.succeed("generate_synthetic_data.py", *options, 10)
        before = out.read_bytes()
        error = project.fail("generate_synthetic_data.py", *options, 100_000)
        assert error == f"error: {out}: No space left on device. Make room, and run again.\n"
        assert out.read_bytes() == before
        assert names(out) == [name]

    def test_reports_on_a_disk_that_is_really_full(self, small_disk, project):
        project.prepare()
        certificate, page = small_disk / "c.json", small_disk / "r.html"
        options = ["--certificate", certificate, "--report", page]
        project.succeed("demo_fixed.py", *options)
        assert json.loads(certificate.read_text())["verdict"] == "equal"
        before = {file: file.read_bytes() for file in (certificate, page)}
        with pytest.raises(OSError, match="No space"):
            (small_disk / "filler").write_bytes(bytes(1 << 20))
        error = project.fail("demo_fixed.py", *options)
        assert "No space left on device" in error
        assert str(certificate) in error or str(page) in error
        assert {file: file.read_bytes() for file in before} == before

    def test_no_room_for_even_a_name_is_told_by_the_files_name(self, out, monkeypatch):
        def full(*arguments):
            raise OSError(28, os.strerror(28), f"{out.parent}/.out.csv.abcdefgh.tmp")

        monkeypatch.setattr("parity.edge.files.tempfile.mkdtemp", full)
        with pytest.raises(UserError, match=rf"^{out}: No space left on device"):
            write_table(ROWS, out)

    def test_a_trouble_of_another_file_keeps_its_name(self, out):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"), replacing(out) as temporary:
            temporary.write_bytes(out.with_name("nowhere.csv").read_bytes())


def test_a_table_is_read_back_as_it_was_written(out):
    write_table(MANY, out.with_suffix(".parquet"))
    assert pq.read_table(out.with_suffix(".parquet")).equals(MANY)


def test_a_file_on_a_disk_is_not_copied_to_be_read(out):
    with on_disk(out) as path:
        assert path == out
