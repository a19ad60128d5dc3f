"""The target of a replay: a fresh pool and its mount, driven through the command line."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from judge import Transcript
from rawmount import Ran, User, abort_mounts, call, cli
from replay import EXTENTS_XATTR, Replay
from scenario import Scenario

SIZE = "256M"
SECTORS = 256 << 11
# Raw members, their size, and the line over them, which makes as large a device.
TABLES = {
    "linear": (("a",), "272M", f"0 {SECTORS} linear a 4096"),
    "striped": (("a", "b"), "128M", f"0 {SECTORS} striped 2 8 a 0 b 0"),
    "log-writes": (("a", "log"), "256M", f"0 {SECTORS} log-writes a log"),
}
SCENARIO_SECONDS = 60.0
_SOURCE = Path(__file__).with_name("touch.c")


def build_helper(directory: Path) -> Path:
    """Compile touch.c."""
    program = directory / "touch"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(_SOURCE)]
    subprocess.run(command, check=True)
    return program


def refusal() -> str | None:
    """Why no file system pool can be made, or None if one can."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        ran = cli("create", Path(name, "pool"), "--size", SIZE)
    if ran.status == 0:
        return None
    return f"daxmend create exits {ran.status}: {ran.err.strip().splitlines()[-1]}"


class MountTarget:
    """A pool in `base`, mounted with `-o open=MODE`; with `table`, over one of `TABLES`."""

    def __init__(self, base: Path, mode: str, helper: Path, table: str | None = None) -> None:
        self.base = base
        self._table = table
        self.helper = helper
        self.directory = base / "mnt"
        self.pool = base / "pool"
        self._log = base / "server.log"
        self._mode = mode

    @property
    def device(self) -> Path:
        return self.directory / ".daxmend" / "device"

    def create(self) -> None:
        """Make the pool and mount it."""
        self.directory.mkdir()
        if self._table is None:
            _must(cli("create", self.pool, "--size", SIZE))
        else:
            self._create_over(*TABLES[self._table])
        self.mount()

    def _create_over(self, members: tuple[str, ...], size: str, line: str) -> None:
        for member in members:
            _must(cli("create", self.base / member, "--raw", "--size", size))
        table = self.base / "table"
        table.write_text(f"{line}\n")
        _must(cli("create", self.pool, "--table", table))

    def mount(self) -> None:
        _must(
            cli("mount", "-o", f"open={self._mode}", "--log", self._log, self.pool, self.directory)
        )

    def umount(self) -> None:
        _must(cli("umount", self.directory))

    def remount(self) -> None:
        self.umount()
        self.mount()

    def _control(self, name: str) -> Path:
        return self.directory / ".daxmend" / name

    def read_badblocks(self) -> list[tuple[int, int]]:
        lines = self._control("badblocks").read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def inject(self, sector: int) -> None:
        fd = os.open(self._control("badblocks"), os.O_WRONLY)
        try:
            os.write(fd, f"{sector} 1\n".encode())
        finally:
            os.close(fd)

    def mapping(self, path: Path) -> list[tuple[int, int, int, str]]:
        lines = os.getxattr(path, EXTENTS_XATTR).decode().splitlines()
        if lines and lines[-1] == "more":
            raise AssertionError(f"{path.name} has more extents than an xattr holds")
        words = [line.split() for line in lines]
        return [(int(a), int(b), int(c), kind) for a, b, c, kind in words]

    def complaint(self) -> str:
        """What the server logged; it should have had no reason."""
        return self._log.read_text() if self._log.exists() else ""


def _must(ran: Ran) -> None:
    if ran.status or ran.err:
        raise AssertionError(f"the command line: {ran}")


@contextmanager
def fresh_directory() -> Iterator[Path]:
    """On tmpfs, with every mount below it gone in the end."""
    base = Path(tempfile.mkdtemp(prefix="daxmend-conformance-", dir="/dev/shm"))
    try:
        yield base
    finally:
        abort_mounts(base)
        shutil.rmtree(base, ignore_errors=True)


def replay_on_mount(
    scenario: Scenario,
    mode: str,
    helper: Path,
    buffer: str = "aligned",
    table: str | None = None,
) -> Transcript:
    """Replay on a fresh pool, in a child that cannot hang (the connection would be aborted)."""
    with fresh_directory() as base:
        target = MountTarget(base, mode, helper, table)

        def body() -> Transcript:
            target.create()
            transcript = Replay(target, buffer).run(scenario)
            target.umount()
            if "Traceback" in (text := target.complaint()):
                raise AssertionError(f"the server complained: {text}")
            return transcript

        me = User("self", os.geteuid(), os.getegid())
        transcript = call(body, me, SCENARIO_SECONDS, lambda: abort_mounts(base))
        assert isinstance(transcript, Transcript)
        return transcript
