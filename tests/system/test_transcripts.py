"""The transcripts of the project's pages are run as they stand, and print what the pages show."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rawmount import abort_mounts

from page import blocks, pages
from transcript import Reader, steps

pytestmark = pytest.mark.timeout(300)

# Who reads the page; every other page with a transcript is read by whoever runs the tests.
_ORDINARY = {"tutorial.md", "guide-developer.md", "guide-engineer.md"}


def _has_transcript(page: Path) -> bool:
    return any(block.language == "console" for block in blocks(page))


_PAGES = [page for page in pages() if _has_transcript(page)]


@pytest.fixture
def directory(fuse: None) -> Iterator[Path]:
    """An empty directory, cleared of mounts afterwards."""
    path = Path(tempfile.mkdtemp(prefix="daxmend-test-", dir="/tmp"))
    yield path
    abort_mounts(path)
    shutil.rmtree(path)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_the_transcript_of_a_page_shows_what_really_happens(directory: Path, page: Path) -> None:
    ordinary = page.name in _ORDINARY
    if ordinary and os.geteuid() == 0 and not shutil.which("fusermount3"):
        pytest.skip("fusermount3 is missing: a user cannot mount")
    assert Reader(directory, ordinary=ordinary).follow(page) == _commands(page)


def _commands(page: Path) -> int:
    found = [block for block in blocks(page) if block.language == "console"]
    return sum(len(steps(block.body)) for block in found if block.body.startswith("$ "))


def test_pages_with_transcripts_are_found() -> None:
    assert {"README.md", "shadow.md", *_ORDINARY} <= {page.name for page in _PAGES}
