"""The man pages: what is made is what stands there, every page is whole, and its examples run."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from daxmend import errors
from daxmend.cli import COMMANDS
from daxmend.dm.table import TARGETS
from daxmend.fuse import iter_mounts, unmount_dead

_ROOT = Path(__file__).parents[2]
_MAN = _ROOT / "docs/man"
_COMMANDS = ["daxmend", *(f"daxmend-{name}" for name in COMMANDS)]
_SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]


class Example(NamedTuple):
    """A line of shell, and how it exits."""

    command: str
    status: int


def generator() -> ModuleType:
    """docs/generate_man.py, which is no package."""
    spec = importlib.util.spec_from_file_location("generate_man", _ROOT / "docs/generate_man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples(name: str) -> list[Example]:
    """What docs/man/parts has under EXAMPLES, with what runs before and is not shown."""
    text = (_MAN / "parts" / f"{name}.man").read_text()
    section = text.partition(".SH EXAMPLES\n")[2].partition(".SH ")[0]
    found, status, skips = [], 0, False
    for line in section.splitlines():
        if line.startswith('.\\" exits '):
            status = int(line.split()[-1])
        elif line.startswith('.\\" not here: '):
            skips = True
        elif line.startswith('.\\" $ '):
            found.append(Example(line[5:], 0))
        elif line.startswith("$ "):
            if not skips:
                found.append(Example(as_typed(line[2:]), status))
            status, skips = 0, False
    return found


def as_typed(line: str) -> str:
    """What a reader types who sees the line of roff."""
    for written, seen in (("\\-", "-"), ("\\(aq", "'"), ("\\e", "\\")):
        line = line.replace(written, seen)
    return line


def test_the_pages_are_what_is_made_of_the_commands() -> None:
    """If not: `.venv/bin/python docs/generate_man.py` writes them."""
    made = generator().pages()
    assert set(made) == {path.name for path in _MAN.glob("*.1")}
    for name, text in made.items():
        assert (_MAN / name).read_text() == text, name


def test_every_part_is_a_pages() -> None:
    assert {path.stem for path in (_MAN / "parts").iterdir()} == set(_COMMANDS)


def test_every_target_has_a_page() -> None:
    assert {f"daxmend-{name}.7" for name in TARGETS} == {path.name for path in _MAN.glob("*.7")}


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_page_says_what_people_look_for(name: str) -> None:
    text = (_MAN / f"{name}.1").read_text()
    titles = re.findall(r"^\.SH (.*)$", text, re.MULTILINE)
    assert [title for title in titles if title in _SECTIONS] == _SECTIONS
    assert titles.count("FILES") == 1
    section = text.partition(".SH EXIT STATUS\n")[2].partition(".SH ")[0]
    statuses = {int(status) for status in re.findall(r"^\.B (\d+)$", section, re.MULTILINE)}
    known = {value for key, value in vars(errors).items() if key.startswith("EXIT_")} | {130}
    assert {0, errors.EXIT_FAILED, errors.EXIT_USAGE} <= statuses <= known


@pytest.mark.parametrize("name", _COMMANDS)
def test_what_a_page_refers_to_is_there(name: str) -> None:
    text = (_MAN / f"{name}.1").read_text().replace("\\-", "-")
    for page, section in re.findall(r"\b(daxmend[\w-]*)(?: |\\f. ?)\((\d)\)", text):
        assert (_MAN / f"{page}.{section}").exists(), page


@pytest.mark.parametrize("path", sorted(_MAN.glob("*.[17]")), ids=lambda path: path.name)
def test_man_has_nothing_to_complain_of(path: Path) -> None:
    if not shutil.which("man") or not shutil.which("groff"):
        pytest.skip("man or groff is not installed")
    formatted = subprocess.run(
        ["man", "--warnings=w", "-E", "UTF-8", "-l", path],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert formatted.stderr == ""
    assert all(len(line) <= 80 for line in formatted.stdout.splitlines())


@pytest.mark.parametrize("path", sorted(_MAN.glob("*.[17]")), ids=lambda path: path.name)
def test_mandoc_has_nothing_to_complain_of(path: Path) -> None:
    """The date is left out: the page is of the version that it came with."""
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    linted = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True, check=False
    )
    complaints = [line for line in linted.stdout.splitlines() if "missing date" not in line]
    assert complaints == []


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_examples_of_a_page_do_what_it_says(name: str, fuse: None, shm: Path) -> None:
    program = shm / "daxmend"
    program.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'from daxmend.cli import main; main()' \"$@\"\n"
    )
    program.chmod(0o755)
    work = shm / "work"
    work.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{shm}:{os.environ['PATH']}",
        "TMPDIR": str(shm),
    }
    try:
        for example in examples(name):
            ran = subprocess.run(
                example.command,
                shell=True,
                cwd=work,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == example.status, (example, ran.stdout, ran.stderr)
    finally:
        for mount in [*iter_mounts()]:
            if mount.is_fuse and Path(mount.mount_point).is_relative_to(shm):
                unmount_dead(mount.mount_point)


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_page_has_examples(name: str) -> None:
    text = (_MAN / f"{name}.1").read_text()
    assert re.search(rf"^\$ {name.split('-')[0]} ", text, re.MULTILINE)
    assert "not here" not in text
