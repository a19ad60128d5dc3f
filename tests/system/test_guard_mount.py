"""Guards over a daxmend mount: EIO, repair, refresh, and a server that dies."""

import mmap
import os
import signal
import subprocess
import sys

import pytest
from filemount import Files
from rawmount import PAGE, pattern

from daxmend import guard
from daxmend.errors import MediaError

DIAGONAL = True
EXPECTED = b"".join(map(pattern, range(8)))


def test_a_bad_block_raises_is_salvaged_repaired_and_read(files: Files) -> None:
    path = files.make("data")
    copy = files.base / "copy"
    copy.write_bytes(EXPECTED)
    with guard.open(path) as mapping:
        assert mapping[:] == EXPECTED
        files.damage(path, 2 * PAGE, 512)
        with pytest.raises(MediaError) as caught:
            mapping[:]
        error = caught.value
        assert (error.filename, error.offset, error.length) == (str(path), 2 * PAGE, PAGE)
        assert "a bad block" in str(error)
        assert [fault[:2] for fault in guard.probe(mapping)] == [(2 * PAGE, PAGE)]
        saved = guard.salvage(path, files.base / "saved")
        assert sum(run.length for run in saved.lost) in (512, PAGE)
        report = guard.repair(path, copy=copy, journal=files.base)
        assert [result.page.extent[0] for result in report.results] == [2 * PAGE]
        assert mapping[:] == EXPECTED
        assert guard.probe(mapping) == []


def test_foreign_code_goes_on_after_a_repair_in_the_block(files: Files) -> None:
    path = files.make("data")
    copy = files.base / "copy"
    copy.write_bytes(EXPECTED)
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    files.damage(path, 2 * PAGE)
    with guard.watch(memory) as g:
        assert memory[:] == EXPECTED[: 2 * PAGE] + bytes(PAGE) + EXPECTED[3 * PAGE :]
        assert [fault[:3] for fault in g.faults] == [(2 * PAGE, PAGE, "BUS_ADRERR")]
        assert [fault[:2] for fault in g.refresh()] == [(2 * PAGE, PAGE)]
        guard.repair(path, copy=copy, journal=files.base)
        assert g.refresh() == []
        assert memory[:] == EXPECTED
        memory[2 * PAGE : 3 * PAGE] = pattern(9)
        memory.flush()
    assert files.read_at(path, PAGE, 2 * PAGE) == pattern(9)


def test_a_repair_without_a_source_is_refused(files: Files) -> None:
    path = files.make("data")
    for options in ({}, {"zero": True, "copy": path}):
        with pytest.raises(Exception, match="where the lost bytes come from"):
            guard.repair(path, **options)
    assert guard.repair(path, zero=True, apply=False, journal=files.base).results == []


def test_plain_mmap_dies_where_the_guard_raises(files: Files) -> None:
    path = files.make("data")
    files.damage(path, 2 * PAGE)
    program = """
import mmap, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with open(sys.argv[1], 'r+b') as file:
    mmap.mmap(file.fileno(), 0)[:]
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGBUS
    with guard.open(path) as mapping, pytest.raises(MediaError):
        mapping[:]


def test_a_server_that_has_died_is_named_as_the_cause(files: Files) -> None:
    path = files.make("data")
    os.truncate(path, 64 * PAGE)
    with guard.open(path) as mapping:
        files.kill_server()
        with pytest.raises(MediaError) as caught:
            mapping[40 * PAGE :]
    assert "the file system has gone" in str(caught.value)
