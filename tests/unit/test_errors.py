"""The exception tree: errno, exit status and message of each (R44, R45)."""

import errno
import inspect
import pickle

import pytest

from daxmend import errors
from daxmend.errors import (
    BadBlockError,
    BusyError,
    ChangedError,
    CorruptionError,
    DaxmendError,
    FaultError,
    MediaError,
    NoRecoveryError,
    PoisonError,
    TableError,
    TruncatedError,
    UnknownStateError,
    UnsupportedError,
    UsageError,
)

CLASSES = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, BaseException)
]
SAMPLES = [
    DaxmendError("it could not be done"),
    UsageError("a bad argument"),
    BusyError("p.pool is in use by process 7"),
    ChangedError("p.pool was replaced"),
    FaultError("p.pool", 512, 64),
    MediaError("p.pool", 512, 64, "BUS_ADRERR"),
    BadBlockError("p.pool", 512, 512, hint="write the whole page to heal it"),
    PoisonError("p.pool", 64, 64, "BUS_MCEERR_AR"),
    NoRecoveryError("p.pool", 0, 4096, "EOPNOTSUPP", "the device has no error management"),
    TruncatedError("p.pool", 8192, 10, hint="restore it"),
    CorruptionError("p.pool: header", 0, "magic", b"A", b"B", "restore it"),
    UnknownStateError("not permitted"),
    TableError(3, "unknown target"),
    UnsupportedError("the medium cannot clear"),
]
RESULTS = {
    DaxmendError: (errno.EINVAL, 8),
    UsageError: (errno.EINVAL, 16),
    BusyError: (errno.EBUSY, 8),
    ChangedError: (errno.ESTALE, 8),
    FaultError: (errno.EIO, 8),
    MediaError: (errno.EIO, 4),
    BadBlockError: (errno.EIO, 4),
    PoisonError: (errno.EIO, 4),
    NoRecoveryError: (errno.EOPNOTSUPP, 4),
    TruncatedError: (errno.EFAULT, 8),
    CorruptionError: (errno.EUCLEAN, 8),
    UnknownStateError: (errno.ENODATA, 2),
    TableError: (errno.EINVAL, 16),
    UnsupportedError: (errno.EOPNOTSUPP, 8),
}


def test_every_class_of_the_tree_is_sampled_here() -> None:
    assert {type(sample) for sample in SAMPLES} == set(CLASSES) == set(RESULTS)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_each_class_carries_errno_and_exit_status(error: DaxmendError) -> None:
    assert (error.errno, error.exit_status) == RESULTS[type(error)]
    assert isinstance(error, DaxmendError)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_no_failure_exits_like_success(error: DaxmendError) -> None:
    """R45."""
    assert error.exit_status not in (errors.EXIT_DONE, errors.EXIT_REPAIRED)


def test_the_worse_exit_status_is_the_higher_bit() -> None:
    assert (errors.EXIT_UNKNOWN, errors.EXIT_BAD_REMAINS, errors.EXIT_FAILED) == (2, 4, 8)
    assert (errors.EXIT_DONE, errors.EXIT_REPAIRED, errors.EXIT_USAGE) == (0, 1, 16)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_survives_being_sent_to_another_process(error: DaxmendError) -> None:
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)
    assert (twin.errno, twin.exit_status) == (error.errno, error.exit_status)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if issubclass(cls, FaultError)])
def test_a_fault_is_an_oserror_that_names_file_offset_and_length(cls: type[FaultError]) -> None:
    error = cls("data.bin", 4096, 512, "BUS_ADRERR", "write the page")
    assert isinstance(error, OSError)
    assert error.errno == cls.fault_errno
    assert (error.filename, error.offset, error.length) == ("data.bin", 4096, 512)
    assert (error.code, error.hint) == ("BUS_ADRERR", "write the page")
    for part in ("data.bin", "512 bytes", "offset 4096", "BUS_ADRERR", "write the page"):
        assert part in str(error)


def test_unreadable_and_wrong_share_no_class() -> None:
    """R44: "cannot read" and "read but wrong" are different answers."""
    assert not issubclass(CorruptionError, OSError)
    assert not issubclass(MediaError, CorruptionError)
    assert not issubclass(CorruptionError, MediaError)


def test_a_corruption_names_structure_offset_field_and_both_values() -> None:
    error = CorruptionError("p.pool: header", 4096, "version", 1, 9, "use the other copy")
    assert str(error) == (
        "p.pool: header at offset 4096: version is 9, expected 1; use the other copy"
    )
    assert (error.structure, error.offset, error.field) == ("p.pool: header", 4096, "version")
    assert (error.expected, error.got) == (1, 9)


def test_a_table_error_names_the_line() -> None:
    error = TableError(3, "unknown target 'foo'")
    assert (error.line, error.reason) == (3, "unknown target 'foo'")
    assert str(error) == "table line 3: unknown target 'foo'"
