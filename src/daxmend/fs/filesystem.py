"""`FileSystem`: the operations, joined."""

from daxmend.fs.check import check
from daxmend.fs.data import Data
from daxmend.fs.finding import Finding
from daxmend.fs.namespace import Namespace
from daxmend.fs.owner import Owners


class FileSystem(Namespace, Data, Owners):
    """A file system on one `DaxDevice`, open (architecture.md, "The file system").

    `commits_each`: every operation that changes more than times is in the journal when it returns;
    else changes become durable at `sync`, after a second (`tidy`), or when there are many. Numbers
    of inodes are never used twice; those from 2 to `FIRST_INO` are never used at all. An operation
    that fails changes nothing but what its docstring says. `notices` is what whoever opened it
    should be told.

    Opening heals damaged copies of metadata from the others. Where both copies of something are
    gone the file system is read-only, and a notice names what is lost. Raises `CorruptionError` or
    `UnsupportedError` where there is no file system to open. Close it before the device.
    """

    def check(self) -> list[Finding]:
        """What `check` finds on the medium, after a commit of what is still in memory."""
        with self.lock:
            if not self.is_read_only:
                self._commit()
            return list(check(self.device))
