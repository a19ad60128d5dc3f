"""`memmap`: as `numpy.memmap`, but what meets a bad page raises."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Literal

from daxmend.errors import UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.guard.mapping import Mapping
from daxmend.units import PAGE, align_down

if TYPE_CHECKING:
    from daxmend.guard.array import GuardedArray

Shape = int | tuple[int, ...]


def memmap(
    path: str | os.PathLike[str],
    dtype: Any = "uint8",
    mode: str = "r+",
    offset: int = 0,
    shape: Shape | None = None,
    order: Literal["C", "F"] = "C",
) -> GuardedArray:
    """An array over a file; arguments as those of `numpy.memmap`, see `GuardedArray`.

    `offset` is in bytes, of any alignment; without `shape`, the array has one dimension and goes to
    the end of the file. `mode`: `r`, `r+`, `c` (see `Mapping`), or `w+`, which makes the file anew,
    of zeros and as long as `shape` says. `UsageError` for what does not fit, `UnsupportedError`
    without numpy.
    """
    try:
        from daxmend.guard import array
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        raise UnsupportedError(
            "guard.memmap needs numpy: pip install 'daxmend[numpy]'; guard.open does not"
        ) from None
    each = array.item_size(dtype)
    if mode == "w+":
        if shape is None:
            raise UsageError("mode 'w+' makes a file: say of what shape")
        _make(path, offset + each * _count(shape))
        mode = "r+"
    start = align_down(offset, PAGE)
    length = None if shape is None else offset - start + each * _count(shape)
    mapping = Mapping(path, mode, offset=start, length=length)
    if shape is None:
        rest = Extent.between(offset - start, len(mapping)).length
        if rest % each:
            raise UsageError(
                f"{os.fspath(path)}: {rest} bytes from offset {offset} on are no whole number of "
                f"elements of {each} bytes"
            )
        shape = rest // each
    return array.make_array(mapping, dtype, shape, offset - start, order)


def _count(shape: Shape) -> int:
    return math.prod(shape) if isinstance(shape, tuple) else int(shape)


def _make(path: str | os.PathLike[str], size: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
