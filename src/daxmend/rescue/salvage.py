"""`salvage`: everything readable of a file into another one, and exactly what is lost (R12).

The copy has holes where the file has them, and where something is lost. The mapfile never claims
more than what is durable in the copy: it is replaced, as a whole, after the copy was synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from daxmend.errors import ChangedError, DaxmendError, UsageError
from daxmend.extent import Extent
from daxmend.host import zeroing
from daxmend.rescue.mapfile import RescueMap, Status, format_mapfile, parse_mapfile
from daxmend.rescue.subject import CHUNK

if TYPE_CHECKING:
    from daxmend.rescue.subject import Subject

_CHECKPOINT_SECONDS: Final = 5.0
_MISSING: Final = tuple(status for status in Status if status is not Status.SAVED)

Progress = Callable[[int], None]  # bytes that were dealt with since the last call


class SalvageReport(NamedTuple):
    """What became of a file of `size` bytes. `changed`: why the copy may be none of one moment."""

    size: int
    lost: list[Extent]
    changed: str | None

    @property
    def saved(self) -> int:
        """Bytes, holes among them."""
        return self.size - sum(run.length for run in self.lost)


class Salvage:
    """One run of it: from the opened file into `out`, with `mapfile` if there is one.

    A run that finds both `out` and `mapfile` goes on where they end, and tries again what was bad;
    else `out` must not exist, unless `overwrite`. Opening changes nothing but that it makes an
    empty `out`.
    """

    def __init__(
        self,
        subject: Subject,
        out: Path,
        mapfile: Path | None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.subject = subject
        self._out = out
        self._mapfile = mapfile
        self._saved_at = time.monotonic()
        self._is_resumed = mapfile is not None and mapfile.exists() and not overwrite
        _validate_names(subject, out, mapfile)
        self.map = self._open_map()
        self._fd = self._open_out(overwrite=overwrite)

    def _open_map(self) -> RescueMap:
        """What an earlier run has left, or a map of nothing."""
        if self._mapfile is None or not self._is_resumed:
            return RescueMap(self.subject.size)
        if not self._out.exists():
            raise UsageError(
                f"{self._mapfile} says what was saved, but {self._out} is not there; remove "
                f"{self._mapfile} to begin anew, or bring {self._out} back"
            )
        try:
            text = self._mapfile.read_text(encoding="ascii")
        except UnicodeDecodeError:
            raise UsageError(f"{self._mapfile} is no mapfile of GNU ddrescue") from None
        return parse_mapfile(text, self.subject.size, str(self._mapfile))

    def _open_out(self, *, overwrite: bool) -> int:
        """The copy, as long as the file. Its bytes are for who may read the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        if not overwrite and not self._is_resumed:
            flags |= os.O_EXCL
        try:
            fd = os.open(self._out, flags, self.subject.mode & 0o666 | 0o200)
        except FileExistsError:
            raise UsageError(
                f"{self._out} exists, and is not overwritten; go on with the --mapfile that "
                "belongs to it, name another, or say --overwrite"
            ) from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"{self._out} is no regular file; name a file to be made")
            if overwrite:
                os.ftruncate(fd, 0)
            self._validate_length(os.fstat(fd).st_size)
            os.ftruncate(fd, self.subject.size)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _validate_length(self, length: int) -> None:
        """Raise `UsageError` for a copy that cannot have all that the map says was saved."""
        saved = self.map.extents(Status.SAVED)
        if saved and saved[-1].end > length:
            raise UsageError(
                f"{self._out} has {length} bytes, but {self._mapfile} says that what lies up to "
                f"offset {saved[-1].end} was saved in it: it is another copy's map, or the copy "
                f"was cut; remove {self._mapfile} to begin anew with --overwrite"
            )

    # -- the work --------------------------------------------------------------------------

    def run(self, progress: Progress) -> SalvageReport:
        """Save what can be saved; all of it is durable on return.

        Whatever stops it, what was saved and the map of it stay, durable; without a mapfile one is
        written beside `out` then. Raises `OSError` for `out`, `ChangedError` for a file that
        shrinks under it; a file that grew or was replaced is told in the report.
        """
        user = self.subject.user()
        if user is not None:
            self.subject.notices.append(
                f"{self.subject.name} is {user.words}: what is saved of it may be of several "
                "moments"
            )
        try:
            self._checkpoint()
            at = 0
            for extent in self.subject.data():
                self._skip(Extent.between(at, extent.offset), progress)
                self._save_data(extent, progress)
                at = extent.end
            self._skip(Extent.between(at, self.subject.size), progress)
            self._checkpoint()
            return self._report()
        except BaseException as error:
            said = self._leave()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DaxmendError(f"{error.filename}: {error.strerror}; {said}") from None
            if isinstance(error, ChangedError):
                raise ChangedError(f"{error}; {said}") from None
            if said and isinstance(error, OSError | KeyboardInterrupt):
                self.subject.notices.append(said)
            raise

    def _skip(self, hole: Extent, progress: Progress) -> None:
        """Zeros, and a hole in the copy, also where it had something else before."""
        if self._is_resumed:
            for rest in self.map.extents(*_MISSING, within=hole):
                try:
                    zeroing.punch_hole(self._fd, rest)
                except OSError:  # a file system without holes
                    zeroing.write_zeros(self._fd, rest)
        self.map.set(hole, Status.SAVED)
        progress(hole.length)

    def _save_data(self, extent: Extent, progress: Progress) -> None:
        missing = self.map.extents(*_MISSING, within=extent)
        progress(extent.length - sum(run.length for run in missing))
        for run in missing:
            at = run.offset
            while at < run.end:
                chunk = Extent.between(at, min(run.end, at - at % CHUNK + CHUNK))
                self._save_chunk(chunk)
                progress(chunk.length)
                at = chunk.end

    def _save_chunk(self, chunk: Extent) -> None:
        for part, data in self.subject.pieces(chunk):
            if data is not None:
                self._write(part.offset, data)
            self.map.set(part, Status.BAD if data is None else Status.SAVED)
        if time.monotonic() - self._saved_at > _CHECKPOINT_SECONDS:
            self._checkpoint()

    def _write(self, offset: int, data: memoryview) -> None:
        while data:
            try:
                done = os.pwrite(self._fd, data, offset)
            except OSError as error:
                said = f"{error.strerror} (at offset {offset})"
                raise OSError(error.errno, said, str(self._out)) from None
            data = data[done:]
            offset += done

    def _checkpoint(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._out)) from None
        if self._mapfile is not None:
            self._write_map(self._mapfile)
        self._saved_at = time.monotonic()

    def _write_map(self, path: Path) -> None:
        """Replace the mapfile as a whole."""
        text = format_mapfile(
            self.map,
            [
                "Mapfile. Created by daxmend, in the format of GNU ddrescue",
                f"Command line: {_one_line(shlex.join(sys.argv))}",
                f"Current time: {time.strftime('%Y-%m-%d %H:%M:%S')}",
            ],
        )
        write_durably(path, text.encode("ascii", "backslashreplace"))

    def _leave(self) -> str:
        """Make durable what there is; how to go on."""
        path = self._mapfile or Path(f"{self._out}.map")
        said = f"what was saved stands in {self._out}, and {path} says what that is; "
        go_on = "to go on: " + shlex.join(
            ["daxmend", "salvage", self.subject.name, "-o", str(self._out), "--mapfile", str(path)]
        )
        try:
            if self._mapfile is None and path.exists():
                return f"{self._out} has only a part"
            os.fsync(self._fd)
            self._write_map(path)
        except OSError as error:
            return f"{self._out} has only a part, and {path} could not be written: {error.strerror}"
        return said + go_on

    def _report(self) -> SalvageReport:
        lost = self.map.extents(*_MISSING)
        changed = None
        try:
            self.subject.validate()
            if self.subject.is_touched:
                self.subject.notices.append(
                    f"{self.subject.name} was written to while it was read: the copy may have old "
                    "bytes and new ones"
                )
        except ChangedError as error:
            changed = str(error)
        return SalvageReport(self.subject.size, lost, changed)

    def close(self) -> None:
        """Let go of the copy."""
        os.close(self._fd)


def _validate_names(subject: Subject, out: Path, mapfile: Path | None) -> None:
    """Raise `UsageError` where the copy, or its map, would be written over the original."""
    for path in (out, mapfile):
        if path is not None and subject.is_same_as_path(path):
            raise UsageError(f"{path} is {subject.name} itself: nothing is ever written to it")
    if mapfile is not None and os.path.realpath(mapfile) == os.path.realpath(out):
        raise UsageError(f"{out} cannot be both the copy and its mapfile")


def write_durably(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Make or replace a file as a whole: after any stop it is the old one or the new one.

    Raises `OSError` that names the file; nothing is left then.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


def sync_directory(path: Path) -> None:
    """What was named or removed in the directory is durable on return."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")
