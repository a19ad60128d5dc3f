"""Disks to compare on: what is not theirs is refused, and what they were given is taken away."""

import errno
import os
from pathlib import Path

import pytest

from daxmend.errors import BusyError, DaxmendError, UnknownStateError, UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.report import disk
from daxmend.report.disk import ProgramFailedError, RealDisk, open_own, run_program
from daxmend.report.system import iter_systems
from daxmend.units import SECTOR


@pytest.fixture
def real(tmp_path: Path) -> RealDisk:
    """A disk whose node and record are plain files."""
    made = RealDisk.__new__(RealDisk)
    made.node = str(tmp_path / "node")
    made._record = tmp_path / "badblocks"
    Path(made.node).write_bytes(bytes(1 << 20))
    made._record.write_text("8 1\n20 3\n")
    return made


def test_all_that_is_bad_is_written_and_the_record_is_asked_again(
    real: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeroed: list[Extent] = []
    later = ["30 1\n", ""]  # what the record had no room to show at first

    def zeroout(fd: int, extent: Extent) -> None:
        zeroed.append(extent)
        if extent.offset != 8 * SECTOR:
            real._record.write_text(later.pop(0))

    monkeypatch.setattr(disk, "block_zeroout", zeroout)
    real.clear()
    assert zeroed == [Extent.of_sectors(*each) for each in ((8, 1), (20, 3), (30, 1))]


def test_a_disk_that_zeros_do_not_clear_is_told(
    real: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "block_zeroout", lambda fd, extent: None)
    with pytest.raises(DaxmendError, match="writing zeros does not clear"):
        real.clear()


def test_bad_sectors_go_to_the_record_a_line_a_write_and_an_entry_a_line(
    real: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda fd, line: lines.append(line))
    real.make_bad([Extent.of_sectors(5, 1), Extent.of_sectors(70, 1100)])
    assert lines == [b"5 1\n", b"70 512\n", b"582 512\n", b"1094 76\n"]


def test_a_record_that_is_full_is_told_r8(real: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, line: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UnsupportedError, match=r"record of .* is full"):
        real.make_bad([Extent.of_sectors(5, 1)])


def test_a_disk_that_somebody_has_is_left_alone(
    real: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(errno.EBUSY if flags & os.O_EXCL else 0, "no", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BusyError, match="is in use by another device"):
        real.clear()


def test_a_program_that_fails_says_why_and_one_that_is_missing_too() -> None:
    assert run_program("echo", "hello") == "hello\n"
    with pytest.raises(ProgramFailedError, match=r"sh -c .*: no luck"):
        run_program("sh", "-c", "echo no luck >&2; exit 3")
    with pytest.raises(ProgramFailedError, match="exit status 3"):
        run_program("sh", "-c", "exit 3")
    with pytest.raises(UnsupportedError, match="no-such-program is missing"):
        run_program("no-such-program")


def test_a_server_that_is_slow_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = [UnknownStateError("busy"), UnknownStateError("busy"), "target"]

    def ask(path: Path, *, writable: bool) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(disk, "open_target", ask)
    assert open_own(Path("/mnt")) == "target"


def test_a_server_that_never_answers_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(path: Path, *, writable: bool) -> object:
        raise UnknownStateError("busy")

    monkeypatch.setattr(disk, "open_target", ask)
    with pytest.raises(UnknownStateError):
        open_own(Path("/mnt"))


def test_nothing_is_overwritten_that_was_not_meant(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"everything on /dev/pmem9 is overwritten.*--yes"):
        next(iter_systems(["/dev/pmem9"], tmp_path, 1 << 20, ["ext4"], overwrite=False))
