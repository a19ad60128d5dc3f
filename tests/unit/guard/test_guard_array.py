# ruff: noqa: PLW0108  # each line is one operation, also where a method would do
"""`guard.memmap`: a numpy array whose operations raise."""

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guardmemory import PAGE, content, make_file, run_program

from daxmend import guard
from daxmend.errors import TruncatedError, UsageError

np = pytest.importorskip("numpy")
from daxmend.guard.array import TOUCHING, GuardedArray  # noqa: E402  # needs numpy

PAGES = 64
# Methods that load and store no element, and those that `GuardedArray` says are not guarded.
_ELSEWHERE = {
    *("__array__", "__array_finalize__", "__array_function__", "__array_namespace__"),
    *("__array_ufunc__", "__array_wrap__", "__array_prepare__", "__buffer__", "__class__"),
    *("__class_getitem__", "__delattr__", "__dir__", "__dlpack__", "__dlpack_device__"),
    *("__getattribute__", "__getstate__", "__init__", "__init_subclass__", "__iter__", "__len__"),
    *("__new__", "__setattr__", "__setstate__", "__sizeof__", "__subclasshook__", "__delitem__"),
    *("getfield", "resize", "setfield", "setflags", "to_device", "view", "__release_buffer__"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path / "data", PAGES)


@pytest.fixture
def short(path: Path) -> GuardedArray:
    """An array over 64 pages, of which 10 are left."""
    array = guard.memmap(path, "uint64")
    os.truncate(path, 10 * PAGE)
    return array


def test_it_is_a_real_array(path: Path) -> None:
    array = guard.memmap(path, "uint64", shape=(64, 512))
    assert isinstance(array, np.ndarray)
    assert array.sum() == np.frombuffer(content(PAGES), "uint64").sum()
    assert (array.shape, array.dtype) == ((64, 512), np.dtype("uint64"))
    array[3, :] = 7
    array += 1
    array.flush()
    assert (np.fromfile(path, "uint64")[3 * 512 : 4 * 512] == 8).all()
    assert type(array[2:5]) is GuardedArray
    assert type(array.T) is GuardedArray
    assert type(np.transpose(array)) is GuardedArray
    assert type(array + 1) is np.ndarray
    assert array[2, 1] == 4
    assert [row[0] for row in array[:3]] == [2, 3, 4]
    assert (array.filename, pickle.loads(pickle.dumps(array))[5, 5]) == (str(path), 7)
    assert repr(array[:1, :2]).startswith("array(")


@pytest.mark.parametrize(
    "operation",
    [
        lambda a: a.sum(),
        lambda a: np.sum(a),
        lambda a: np.add.reduce(a),
        lambda a: a[20 * 512],
        lambda a: a[[1, 20 * 512]],
        lambda a: a[a > 5],
        lambda a: a + 1,
        lambda a: 1 - a,
        lambda a: a == 3,
        lambda a: -a,
        lambda a: a.__iadd__(1),
        lambda a: a.__setitem__(slice(None), 0),
        lambda a: np.sort(a),
        lambda a: a.sort(),
        lambda a: a.tolist(),
        lambda a: a.tobytes(),
        lambda a: a.copy(),
        lambda a: a.astype("f8"),
        lambda a: a.mean(),
        lambda a: a.max(),
        lambda a: a.argmax(),
        lambda a: a.fill(1),
        lambda a: a.nonzero(),
        lambda a: list(a),
        lambda a: 10**9 in a,
        lambda a: np.concatenate([a, a]),
        lambda a: np.add(np.arange(len(a), dtype="u8"), 1, out=a),
        lambda a: np.copyto(np.empty_like(a), a),
        lambda a: np.histogram(a),
        lambda a: a.view("f4").sum(),
        lambda a: a[::7].sum(),
        lambda a: a.reshape(64, 512).T.sum(axis=0),
        lambda a: str(a[20 * 512 : 20 * 512 + 3]),
        lambda a: float(a[20 * 512 : 20 * 512 + 1].reshape(())),
        lambda a: a.tofile("out"),
        lambda a: pickle.dumps(a),
    ],
)
def test_every_operation_that_meets_a_bad_page_raises(
    short: GuardedArray,
    path: Path,
    operation: Callable[[Any], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(path.parent)
    for _ in range(2):
        with pytest.raises(TruncatedError) as caught:
            operation(short)
        assert caught.value.filename == str(path)
        assert caught.value.offset >= 10 * PAGE


def test_what_stays_on_good_pages_works(short: GuardedArray) -> None:
    assert short[: 10 * 512].sum() == np.frombuffer(content(10), "uint64").sum()
    assert short[5] == 1
    assert len(short) == PAGES * 512


def test_after_a_repair_it_goes_on_by_itself(short: GuardedArray, path: Path) -> None:
    with pytest.raises(TruncatedError):
        short.sum()
    path.write_bytes(content(PAGES))
    assert short.sum() == np.frombuffer(content(PAGES), "uint64").sum()


def test_every_method_of_ndarray_is_guarded_or_named_as_harmless() -> None:
    """A new version of numpy with a new method fails here, and is looked at."""
    names = {name for name in dir(np.ndarray) if callable(getattr(np.ndarray, name))}
    operators = {
        name
        for name in names
        if name.startswith("__")
        and name.strip("_").removeprefix("r").removeprefix("i")
        in {
            *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift"),
            *("rshift", "and", "or", "xor", "matmul", "neg", "pos", "abs", "nvert", "invert"),
            *("eq", "ne", "lt", "le", "gt", "ge", "shift"),
        }
    }
    inherited = {"__hash__"}
    assert names - operators - set(TOUCHING) - _ELSEWHERE - inherited <= {"__rlshift__"}


def test_shapes_offsets_and_modes_are_numpys(path: Path, tmp_path: Path) -> None:
    data = content(PAGES)
    assert guard.memmap(path, "u1", "r", offset=5000)[0] == data[5000]
    fortran = guard.memmap(path, "u8", "r", shape=(512, 64), order="F")
    assert fortran[3, 9] == 10
    made = guard.memmap(tmp_path / "new", "f8", "w+", shape=(100, 10))
    made[:] = 1.5
    made.flush()
    assert np.fromfile(tmp_path / "new").sum() == 1500
    private = guard.memmap(path, "u8", "c")
    private[0] = 99
    assert path.read_bytes() == data
    with pytest.raises(ValueError, match="read-only"):
        guard.memmap(path, "u8", "r")[0] = 1


def test_what_does_not_fit_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no whole number"):
        guard.memmap(path, "u8", offset=3)
    with pytest.raises(UsageError, match="not a part of"):
        guard.memmap(path, "u8", shape=64 * 512 + 1)
    with pytest.raises(UsageError, match="of what shape"):
        guard.memmap(tmp_path / "new", mode="w+")
    with pytest.raises(UsageError, match="Python objects"):
        guard.memmap(path, object)


def test_its_mapping_is_not_closed_under_it(path: Path) -> None:
    array = guard.memmap(path, "u8")
    assert array.mapping is not None
    with pytest.raises(BufferError):
        array.mapping.close()
    assert array[0] == 1


def test_watch_guards_plain_memmaps_slices_and_dates(path: Path) -> None:
    plain = np.memmap(path, "datetime64[s]", "r+").reshape(64, 512)
    os.truncate(path, 10 * PAGE)
    for part in (plain, plain[5:40:3, 7:9], plain[::-1], plain.T):
        with pytest.raises(TruncatedError), guard.watch(part):
            part.copy()
    with guard.watch(plain[:10]):
        plain[:10].copy()


def test_threads_of_numpy_are_guarded(path: Path) -> None:
    plain = np.memmap(path, "f4", "r+").reshape(128, 512)
    os.truncate(path, 10 * PAGE)
    with pytest.raises(TruncatedError), guard.watch(plain):
        np.dot(plain, plain.T)


def test_plain_numpy_dies_and_ours_does_not(tmp_path: Path) -> None:
    """The same four lines in a child each."""
    make_file(tmp_path / "data", PAGES)
    program = """
import numpy as np
data = {maker}(path, dtype='uint8', mode='r+')
os.truncate(path, 20 * PAGE)
print(data.sum())
"""
    dead = run_program(program.format(maker="np.memmap"), tmp_path / "data")
    assert dead.status == -signal.SIGBUS
    make_file(tmp_path / "data", PAGES)
    ours = run_program(program.format(maker="guard.memmap"), tmp_path / "data")
    assert ours.status == 1
    said = (
        f"TruncatedError: {tmp_path / 'data'}: {44 * PAGE} bytes at offset {20 * PAGE} lie beyond"
    )
    assert said in ours.errors


def test_an_escaped_view_dies_unless_it_is_watched(tmp_path: Path) -> None:
    make_file(tmp_path / "data", PAGES)
    program = """
import numpy as np
data = np.asarray(guard.memmap(path))
os.truncate(path, 20 * PAGE)
try:
    with guard.watch(data):
        data.sum()
except TruncatedError:
    print('raised', flush=True)
data.sum()
"""
    ending = run_program(program, tmp_path / "data")
    assert (ending.status, ending.output) == (-signal.SIGBUS, "raised\n")


def test_without_numpy_it_says_what_to_install(tmp_path: Path) -> None:
    make_file(tmp_path / "data", PAGES)
    program = """
sys.modules['numpy'] = None
from daxmend.errors import UnsupportedError
try:
    guard.memmap(path)
except UnsupportedError as error:
    print(error)
"""
    assert "pip install 'daxmend[numpy]'" in run_program(program, tmp_path / "data").output
