"""A pool with files, made and damaged without a mount."""

import os
from pathlib import Path

from daxmend.cli import run
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import open_filesystem
from daxmend.units import PAGE

STRANGE = b'<script> & "it\'s" $HOME \n\xff\xe2\x80\xae'  # the last turns text around


class FilePool:
    """A pool of 8 MiB at `path`, whose file system is empty at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        assert run(["create", str(path), "--size", "8M", "--durability", "process"]) == 0

    def make(self, *names: bytes, pages: int = 4) -> None:
        """Files of `x`."""
        device = open_device(self.path)
        fs = open_filesystem(device, writable=True)
        for name in names:
            ino = fs.make(fs.root, name, 0o100644, 0, 0)
            fs.write(ino, 0, b"x" * (pages * PAGE))
        fs.close()
        device.close()

    def inject(self, name: bytes | None, offset: int, length: int, *options: str) -> None:
        """Make bytes of a file bad; without a name, of the device."""
        target = os.fsencode(self.path) + (b"" if name is None else b":/" + name)
        words = ["inject", os.fsdecode(target), "--offset", str(offset), "--length", str(length)]
        assert run([*words, *options]) == 0
