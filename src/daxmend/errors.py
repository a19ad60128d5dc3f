"""The whole exception tree. A class carries its errno and the exit status of a command it ends.

"Cannot read" (`MediaError`) and "read but wrong" (`CorruptionError`) never share a class (R44).
A message names the thing, the offset, what happened and what to do next.
"""

import errno as _errno
import os
from typing import ClassVar

# Exit statuses of the commands; where several hold: 8, then 4, then 2 (docs/errors.md).
EXIT_DONE = 0
EXIT_REPAIRED = 1
EXIT_UNKNOWN = 2
EXIT_BAD_REMAINS = 4
EXIT_FAILED = 8
EXIT_USAGE = 16


class DaxmendError(Exception):
    """The root: something could not be done."""

    errno: int | None = _errno.EINVAL
    exit_status: int = EXIT_FAILED

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    cls: type[DaxmendError], args: tuple[object, ...], state: dict[str, object]
) -> DaxmendError:
    """An error that another process raised: its own constructor takes more than the message."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


def os_error(number: int) -> OSError:
    """The exception of a system call that fails with the errno `number`."""
    return OSError(number, os.strerror(number))


class UsageError(DaxmendError):
    """The caller asked for something that has no meaning: a bad argument, a malformed line."""

    exit_status: int = EXIT_USAGE


class BusyError(DaxmendError):
    """The thing is there, but another process owns it."""

    errno: int | None = _errno.EBUSY


class ChangedError(DaxmendError):
    """A file was truncated, replaced or written to by somebody else meanwhile (ESTALE)."""

    errno: int | None = _errno.ESTALE


class FaultError(DaxmendError, OSError):
    """An access to bytes of a named thing failed.

    `offset` and `length` are bytes from the start of `filename`; `length` is the extent known to
    be affected. `code` is what the system called it (`EIO`, `BUS_ADRERR`, `BUS_MCEERR_AR`).
    `ranges` has the offset and length of each part, where one error tells of several.
    """

    fault_errno: ClassVar[int] = _errno.EIO
    what: ClassVar[str] = "cannot be accessed"

    def __init__(
        self, filename: str, offset: int, length: int, code: str = "EIO", hint: str = ""
    ) -> None:
        message = f"{filename}: {length} bytes at offset {offset} {self.what} ({code})"
        super().__init__(self.fault_errno, f"{message}; {hint}" if hint else message)
        self.errno = self.fault_errno
        self.filename = filename
        self.offset = offset
        self.length = length
        self.code = code
        self.hint = hint
        self.ranges: tuple[tuple[int, int], ...] = ((offset, length),)

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[object, ...]:
        made_of = (str(self.filename), self.offset, self.length, self.code, self.hint)
        return type(self), made_of, {"ranges": self.ranges}


class MediaError(FaultError):
    """The medium cannot give these bytes back (EIO)."""

    exit_status: int = EXIT_BAD_REMAINS
    what: ClassVar[str] = "are unreadable"


class BadBlockError(MediaError):
    """The range holds a sector of the bad-block record (R1)."""

    what: ClassVar[str] = "hold a recorded bad block"


class PoisonError(MediaError):
    """A load met poison on the medium (R1); latent poison shows itself this way (R3)."""

    what: ClassVar[str] = "are poisoned"


class TruncatedError(FaultError):
    """The bytes are past the end of a file that shrank (EFAULT)."""

    fault_errno: ClassVar[int] = _errno.EFAULT
    what: ClassVar[str] = "lie beyond the end of the file"


class CorruptionError(DaxmendError):
    """Bytes were read, and they are wrong: a structure fails its own check (EUCLEAN).

    `offset` is in bytes from the start of the thing named in `structure`.
    """

    errno: int | None = _errno.EUCLEAN

    def __init__(
        self,
        structure: str,
        offset: int,
        field: str,
        expected: object,
        got: object,
        hint: str = "",
    ) -> None:
        message = f"{structure} at offset {offset}: {field} is {got}, expected {expected}"
        super().__init__(f"{message}; {hint}" if hint else message)
        self.structure = structure
        self.offset = offset
        self.field = field
        self.expected = expected
        self.got = got


class UnknownStateError(DaxmendError):
    """Neither clean nor bad could be established (R44)."""

    errno: int | None = _errno.ENODATA
    exit_status: int = EXIT_UNKNOWN


class TableError(UsageError):
    """A device-mapper table is refused; `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"table line {line}: {reason}")
        self.line = line
        self.reason = reason


class UnsupportedError(DaxmendError):
    """The device, the medium or the running kernel cannot do this (EOPNOTSUPP)."""

    errno: int | None = _errno.EOPNOTSUPP


class NoRecoveryError(MediaError, UnsupportedError):
    """Bytes are bad, and what holds them cannot recover (EOPNOTSUPP, R37).

    A `MediaError`, so that what was written before them counts (R17).
    """

    fault_errno: ClassVar[int] = _errno.EOPNOTSUPP
    what: ClassVar[str] = "cannot be recovered"
