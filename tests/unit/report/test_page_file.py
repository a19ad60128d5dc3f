"""Where the page goes: a whole file or none, and never over something else."""

import errno
import os
from pathlib import Path

import pytest

from daxmend.errors import UsageError
from daxmend.report.pagefile import validate_free, write_page


def test_a_page_is_made_whole_and_anew_only_if_told(tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    validate_free(out, "target", overwrite=False)
    write_page(out, b"one", overwrite=False)
    assert out.read_bytes() == b"one"
    with pytest.raises(UsageError, match=r"exists, and is not overwritten.*--overwrite"):
        validate_free(out, "target", overwrite=False)
    with pytest.raises(UsageError, match="exists"):  # somebody made it meanwhile
        write_page(out, b"two", overwrite=False)
    assert out.read_bytes() == b"one"
    validate_free(out, "target", overwrite=True)
    write_page(out, b"two", overwrite=True)
    assert out.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.html"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cannot_be_written_leaves_what_was_there(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.html"
    if overwrite:
        out.write_bytes(b"old")

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("daxmend.rescue.salvage.os.write", full)
    with pytest.raises(OSError, match=r"a\.html") as info:
        write_page(out, b"new", overwrite=overwrite)
    assert info.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["a.html"] if overwrite else [])
    assert not overwrite or out.read_bytes() == b"old"


def test_what_is_asked_is_never_written_over(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.write_bytes(b"all that she has")
    (tmp_path / "link").symlink_to("pool")
    os.link(pool, tmp_path / "twin")
    for name in ("pool", "link", "twin"):
        for target in (str(pool), f"{pool}:/file"):
            with pytest.raises(UsageError, match="itself: nothing is ever written to it"):
                validate_free(tmp_path / name, target, overwrite=True)


def test_what_is_no_file_is_no_place_for_a_page(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to("missing")
    os.mkfifo(tmp_path / "fifo")
    for name, said in (
        (".", "no regular file"),
        ("fifo", "no regular file"),
        ("nowhere", "leads nowhere"),
        ("missing/a.html", "is no directory"),
    ):
        with pytest.raises(UsageError, match=said):
            validate_free(tmp_path / name, "target", overwrite=True)


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("real")
    validate_free(link, "target", overwrite=True)
    write_page(link, b"new", overwrite=True)
    assert link.is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
