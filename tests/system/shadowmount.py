"""A directory with files of `pattern`, and its shadow, mounted through the command line."""

import os
from pathlib import Path

from filemount import Files
from rawmount import Mapping, Ran, User, abort_mounts, call, cli, find_mount, pattern

PAGES = 16


class Shadowed(Files):
    """`source` is the directory below, `mountpoint` its shadow."""

    def __init__(self, base: Path, open_mode: str, programs: Path) -> None:
        super().__init__(base, open_mode, programs)
        self.source = base / "source"

    def create(self, *_: str) -> None:
        self.source.mkdir()
        self.mountpoint.mkdir()

    def mount(self, *options: str) -> Ran:
        """`options` are the command's; names and attributes are not cached."""
        words = ("--cache", 0, "-o", f"open={self.open_mode}", "--log", self.log, *options)
        return cli("shadow", *words, self.source, self.mountpoint)

    def must_umount(self) -> None:
        ran = self.umount()
        assert ran == Ran(0, "", ""), ran
        assert find_mount(self.mountpoint) is None

    def below(self, name: str) -> Path:
        """The same file, in the directory itself."""
        return self.source / name

    def make(self, name: str, pages: int = PAGES) -> Path:
        self.below(name).write_bytes(b"".join(map(pattern, range(pages))))
        return self.path(name)

    def inject(self, name: str, offset: int, length: int = 4096, *how: str) -> Ran:
        words = ("--offset", offset, "--length", length, *how)
        ran = cli("inject", self.path(name), *words)
        assert ran.status == 0, ran
        return ran

    @property
    def faults(self) -> str:
        return self.read_control("faults")

    def mapped_file(self, path: Path, access: str = "rw") -> Mapping:
        """What the program is told to inject, it writes to `faults`."""
        control = str(self.control / "faults")
        return Mapping([str(self.programs / "mapped"), str(path), access, control])


def end_shadow(shadow: Shadowed, user: User) -> None:
    """Unmount, whatever the test left; the plain `umount` must do."""
    trouble = []
    try:
        if find_mount(shadow.mountpoint) is not None:
            ran = call(shadow.umount, user, 20, lambda: abort_mounts(shadow.base))
            if ran != Ran(0, "", ""):
                trouble.append(f"umount: {ran}")
        if shadow.log.exists() and shadow.log.read_text():
            trouble.append(f"the server complained: {shadow.log.read_text()}")
    finally:
        abort_mounts(shadow.base)
    assert not trouble, trouble


def listing(directory: Path) -> dict[str, tuple[int, ...]]:
    """What stat(2) says of everything below a directory, by its relative path; but for times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        st = os.lstat(path)
        size = 0 if path.is_dir() else st.st_size
        found[str(path.relative_to(directory))] = (
            st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, size,
            st.st_rdev, st.st_blocks, st.st_mtime_ns,
        )  # fmt: skip
    return found
