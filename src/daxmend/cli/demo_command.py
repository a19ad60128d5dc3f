"""`daxmend demo`: the whole story on real files, with programs that know nothing of daxmend.

Every step says what it expects and looks whether it came true; one that did not ends the demo
with exit status 8.
"""

import mmap
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from daxmend import _native
from daxmend.errors import EXIT_BAD_REMAINS, DaxmendError
from daxmend.fuse import unmount_dead
from daxmend.host.mountinfo import find_mount
from daxmend.media.pool import read_owner
from daxmend.units import PAGE, SECTOR

_PAGES = 64
_BAD_PAGE = 26
_BAD = _BAD_PAGE * PAGE
_CLEARED_SECONDS = 5


class DemoFailedError(DaxmendError):
    """A step did not do what it says."""


@click.command("demo")
def command() -> None:
    """Damage, EIO, SIGBUS and an in-place heal, shown on real files in under 30 seconds."""
    _say(
        "Persistent memory is memory that keeps its bytes without power. When a cell of it fails, "
        "the processor refuses to read that cacheline: it is *poisoned*. A program that reads the "
        "file gets an I/O error; a program that mapped it is killed. Below, a file plays such a "
        "device, and ordinary programs meet its damage and repair it."
    )
    with tempfile.TemporaryDirectory(prefix="daxmend-demo-") as name, _story(Path(name)) as story:
        _make_file(story)
        _damage(story)
        _repair(story)
        _free(story)
        _latent(story)
        _kill(story)
    _say("Every step did what it said. Nothing was left behind.")


class _Story:
    """A scratch directory with `mnt` and a file to copy from, and the steps' printing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mountpoint = directory / "mnt"
        self.file = self.mountpoint / "letter"
        self.extents = ""  # of that file, as they were before anything happened
        self.mountpoint.mkdir()
        (directory / "letter").write_bytes(b"".join(map(_page, range(_PAGES))))

    def run(self, line: str, *, fails_with: str = "", shows: str = "") -> None:
        """Run a shell line in the scratch directory and hold it to what it should do."""
        click.secho(f"\n$ {line}", bold=True)
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.directory,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
        output = (done.stdout + done.stderr).rstrip()
        for text in output.splitlines()[:6]:
            click.echo(f"  {text}")
        if bool(fails_with) != bool(done.returncode):
            raise DemoFailedError(f"'{line}' ended with exit status {done.returncode}: {output}")
        for expected in filter(None, (fails_with, shows)):
            self.expect(expected in output, f"'{line}' did not say '{expected}'")

    def daxmend(self, arguments: str, *, status: int = 0, shows: str = "") -> str:
        """Run daxmend itself and hold it to what it should do; returns what it printed."""
        click.secho(f"\n$ daxmend {arguments}", bold=True)
        done = subprocess.run(
            [sys.executable, "-c", "from daxmend.cli import main; main()", *shlex.split(arguments)],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        output = (done.stdout + done.stderr).rstrip()
        if output:
            click.echo(textwrap.indent(output, "  "))
        self.expect(done.returncode == status, f"'daxmend {arguments}' ended {done.returncode}")
        self.expect(shows in output, f"'daxmend {arguments}' did not say '{shows}'")
        return output

    def expect(self, is_true: bool, otherwise: str) -> None:
        """A step's promise."""
        if not is_true:
            raise DemoFailedError(f"the demo's step failed: {otherwise}")


@contextmanager
def _story(directory: Path) -> Iterator[_Story]:
    story = _Story(directory)
    try:
        yield story
    finally:
        if find_mount(story.mountpoint) is not None:
            unmount_dead(story.mountpoint)


def _make_file(story: _Story) -> None:
    story.daxmend("create pool --size 64M")
    story.daxmend("mount pool mnt")
    story.run("cp letter mnt/letter")
    story.run("sha256sum < letter; sha256sum < mnt/letter")
    story.extents = story.daxmend("locate --extents mnt/letter")
    _say("A file system on a device that can fail, and a file on it. Any program can use it.")


def _damage(story: _Story) -> None:
    story.daxmend(f"inject mnt/letter --offset {_BAD} --length {SECTOR}")
    _say(
        f"512 bytes of the file go bad, in page {_BAD_PAGE}. (The kernel's file "
        "/sys/block/pmem0/badblocks is here, too: mnt/.daxmend/badblocks.) [R2, R9]"
    )
    story.run(
        f"dd if=mnt/letter of=/dev/null bs=4096 skip={_BAD_PAGE} count=1 status=none",
        fails_with="Input/output error",
    )
    story.run(f"dd if=mnt/letter of=/dev/null bs=4096 skip={_BAD_PAGE + 1} count=1 status=none")
    _say("Reading the page fails; the page after it is fine. [R10, R11]")
    story.daxmend("locate mnt", status=EXIT_BAD_REMAINS, shows="/letter")
    _say("Which file, and which bytes of it: nobody has to search for that. [R42]")
    offset = _fault_offset(story)
    _say(
        f"A program that maps the file is killed by SIGBUS at byte {offset}, the first byte of "
        "the bad page; the byte before it loads. [R24]"
    )


def _repair(story: _Story) -> None:
    with open(story.file, "r+b") as file, mmap.mmap(file.fileno(), _PAGES * PAGE) as mapping:
        story.run(_copy_page(_BAD_PAGE))
        _say(
            "One plain page-aligned write of the page from a copy: the poison is cleared, the "
            "record updated and the data written in one operation. No hole was punched, no "
            "privilege was needed beyond that of writing. [R14, R20]"
        )
        seen = mapping[_BAD : _BAD + PAGE]
        story.expect(seen == _page(_BAD_PAGE), "the old mapping does not show the new data")
        _say("A mapping that was open all the time sees the new data. [R27]")
    story.run("cmp letter mnt/letter && sha256sum < mnt/letter")
    now = story.daxmend("locate --extents mnt/letter")
    story.expect(now == story.extents, "the extents of the file are not what they were")
    story.daxmend("list mnt", shows="no bad blocks")
    _say("The checksum is that of the copy, and nothing moved: the extents are what they were.")


def _free(story: _Story) -> None:
    story.run("cp letter mnt/other")
    story.daxmend(f"inject mnt/other --offset {_BAD} --length {SECTOR}")
    story.run("rm mnt/other")
    badblocks = story.mountpoint / ".daxmend" / "badblocks"
    deadline = time.monotonic() + _CLEARED_SECONDS
    while badblocks.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    story.daxmend("list mnt", shows="no bad blocks")
    _say(
        "A bad block that its file gives up goes to nobody else: it is in quarantine until it has "
        "been cleared in the background. [R31]"
    )


def _latent(story: _Story) -> None:
    story.daxmend("inject mnt/letter --offset 40960 --length 64 --latent")
    story.daxmend("list mnt/letter", shows="no bad blocks recorded")
    _say("One cacheline has failed and no record knows: latent poison. [R1]")
    story.run("cmp letter mnt/letter", fails_with="Input/output error")
    story.daxmend("list mnt/letter", status=EXIT_BAD_REMAINS, shows="40960")
    _say("The first read that meets it fails, and now the record knows. [R3]")


def _kill(story: _Story) -> None:
    server = _server_of(story.directory / "pool")
    click.secho("\n$ kill -9 SERVER", bold=True)
    os.kill(server, signal.SIGKILL)
    story.daxmend("umount mnt")
    story.daxmend("mount pool mnt")
    story.daxmend("list mnt/letter", status=EXIT_BAD_REMAINS, shows="40960")
    _say("The server was killed; the damage is still known. [R8]")
    story.run(_copy_page(10))
    story.run("cmp letter mnt/letter && sha256sum < mnt/letter")
    story.daxmend("umount mnt")
    story.daxmend("check pool")


def _copy_page(number: int) -> str:
    pages = f"bs={PAGE} skip={number} seek={number} count=1"
    return f"dd if=letter of=mnt/letter {pages} conv=notrunc status=none"


_LOADER = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
offset = int(sys.argv[2])
print("the byte before:", mapping[offset - 1], flush=True)
print("the byte:", mapping[offset])
"""


def _fault_offset(story: _Story) -> int:
    """Let a program die of the bad page, then say where the fault was."""
    offset = _BAD
    click.secho(f"\n$ python3 loader.py mnt/letter {offset}", bold=True)
    done = subprocess.run(
        [sys.executable, "-c", _LOADER, str(story.file), str(offset)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    click.echo(textwrap.indent(done.stdout.rstrip(), "  "))
    story.expect(done.returncode == -signal.SIGBUS, f"the load ended with {done.returncode}")
    click.echo("  Bus error")
    with open(story.file, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    try:
        _native.read(mapping, offset, 1)
    except _native.MemoryFault as fault:
        return fault.address - _native.address_of(mapping)
    finally:
        mapping.close()
    raise DemoFailedError("a load of the bad page was let through")


def _server_of(pool: Path) -> int:
    owner = read_owner(pool)
    if owner is None:
        raise DemoFailedError(f"{pool} has no server")
    return owner[0]


def _page(number: int) -> bytes:
    line = b"This is page %2d, as it was before the damage.\n" % number
    return (line * (PAGE // len(line) + 1))[:PAGE]


def _say(text: str) -> None:
    click.echo()
    for paragraph in textwrap.wrap(text, 78):
        click.secho(f"  {paragraph}", fg="cyan")
