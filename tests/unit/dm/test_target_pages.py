"""Each target has a man page, whose examples are tables and messages that hold."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from members import Members

from daxmend.dm import MappedDevice
from daxmend.dm.table import TARGETS
from daxmend.units import MIB

_MAN = Path(__file__).parents[3] / "docs" / "man"
_OVERVIEW = Path(__file__).parents[3] / "docs" / "dm.md"
_SECTIONS = [
    "NAME", "SYNOPSIS", "DESCRIPTION", "BAD BLOCKS", "STATUS", "MESSAGES", "EXAMPLE", "SEE ALSO",
]  # fmt: skip
_EXAMPLE = re.compile(r"^\.EX\n(.*?)^\.EE$", re.DOTALL | re.MULTILINE)

each_target = pytest.mark.parametrize("name", TARGETS)


def page(name: str) -> Path:
    return _MAN / f"daxmend-{name}.7"


def examples(name: str) -> list[str]:
    text = page(name).read_text()
    return [found.replace("\\-", "-") for found in _EXAMPLE.findall(text)]


@contextmanager
def example_device(name: str) -> Iterator[MappedDevice]:
    """The device of the first example."""
    members = Members(64 * MIB)
    device = MappedDevice.from_table("t.pool", examples(name)[0], members)
    try:
        yield device
    finally:
        device.close()
        members.close()


def test_there_is_a_page_for_each_target_and_each_page_has_one() -> None:
    pages = {path.name for path in _MAN.glob("*.7")}
    assert {page(name).name for name in TARGETS} <= pages
    for name in TARGETS:
        assert f"(man/{page(name).name})" in _OVERVIEW.read_text()


@each_target
def test_a_page_has_its_sections_in_their_order(name: str) -> None:
    text = page(name).read_text()
    assert re.findall(r"^\.SH (.*)$", text, re.MULTILINE) == _SECTIONS
    assert f"\n{name.replace('-', chr(92) + '-')} \\- " in text
    for seen in re.findall(r"^\.BR daxmend\\-(\S+) \(7\)", text, re.MULTILINE):
        assert seen.replace("\\-", "-") in TARGETS


@each_target
def test_a_page_names_every_argument(name: str) -> None:
    synopsis = page(name).read_text().split(".SH")[2]
    for word in re.findall(r"[A-Z][A-Z_]+", " ".join(TARGETS[name].usage)):
        assert word.rstrip("S") in synopsis, word


@each_target
def test_a_page_is_typeset_without_a_warning(name: str) -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is missing")
    command = ["groff", "-t", "-man", "-ww", "-Tutf8", "-rLL=78n", str(page(name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    shown = re.sub(r"\x1b\[[0-9]*m|.\x08", "", done.stdout)  # bold and underlined
    assert max(map(len, shown.splitlines())) <= 80


@each_target
def test_the_example_is_a_table(name: str) -> None:
    with example_device(name) as device:
        assert name in {target.name for target in device.targets}
        assert device.table == examples(name)[0]


@each_target
def test_the_example_of_a_message_is_understood(name: str) -> None:
    for example in examples(name)[1:]:
        command, message, pool, sector, *words = example.split()
        assert (command, message, pool) == ("daxmend", "message", "t.pool")
        with example_device(name) as device:
            assert device.message(int(sector), words) == ""
