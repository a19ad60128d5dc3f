"""Arrays over a guarded mapping: what numpy does with them raises where it would die."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from daxmend import _native
from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.guard.mapping import Mapping
from daxmend.guard.region import Region, bounds
from daxmend.guard.watch import Watch
from daxmend.units import PAGE

# Methods of ndarray that load or store elements. `tests/unit/guard` looks that none is forgotten.
TOUCHING: Final = (
    *("__bool__", "__complex__", "__contains__", "__copy__", "__deepcopy__", "__float__"),
    *("__format__", "__getitem__", "__index__", "__int__", "__reduce__", "__reduce_ex__"),
    *("__repr__", "__setitem__", "__str__"),
    *("all", "any", "argmax", "argmin", "argpartition", "argsort", "astype", "byteswap"),
    *("choose", "clip", "compress", "conj", "conjugate", "copy", "cumprod", "cumsum", "diagonal"),
    *("dot", "dump", "dumps", "fill", "flatten", "item", "max", "mean", "min", "nonzero"),
    *("partition", "prod", "put", "ravel", "repeat", "reshape", "round", "searchsorted"),
    *("sort", "squeeze", "std", "sum", "swapaxes", "take", "tobytes", "tofile", "tolist"),
    *("trace", "transpose", "var"),
)


class GuardedArray(np.ndarray):
    """An array over a `Mapping`, made by `memmap`: a real ndarray whose every operation is watched.

    Indexing, ufuncs, reductions, methods and numpy's functions raise `MediaError` or
    `TruncatedError` as `Watch` does; what an operation stored before, or into bad pages, is then
    undefined or lost. Views are guarded, too; results are ordinary arrays.

    Not guarded is what takes the memory out of numpy's hands: `np.asarray(a)`,
    `a.view(np.ndarray)`, `a.data`, `a.flat`, `np.nditer(a)`, and functions written in C that know
    nothing of subclasses. Use a `Watch` around those.
    """

    _region: Region | None
    _mapping: Mapping | None

    def __array_finalize__(self, made_from: object) -> None:
        """Views know the mapping; so do arrays made like them, whose memory is another."""
        self._region = getattr(made_from, "_region", None)
        self._mapping = getattr(made_from, "_mapping", None)

    @property
    def mapping(self) -> Mapping | None:
        """The mapping below."""
        return self._mapping

    @property
    def filename(self) -> str | None:
        """The mapped file, as it was named."""
        return None if self._mapping is None else self._mapping.filename

    def flush(self) -> None:
        """Durable on return; raises as `Mapping.flush`."""
        if self._mapping is not None:
            self._mapping.flush()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return _watched(getattr(ufunc, method), inputs, options)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, inputs: Any, options: Any
    ) -> Any:
        return _watched(function, inputs, options)


def _method(name: str) -> Callable[..., Any]:
    plain = getattr(np.ndarray, name)

    def method(self: GuardedArray, *inputs: Any, **options: Any) -> Any:
        return _watched(plain, (self, *inputs), options)

    method.__name__ = name
    method.__doc__ = plain.__doc__
    return method


for _name in TOUCHING:
    setattr(GuardedArray, _name, _method(_name))


class _Operands:
    """The guarded arrays among the arguments of one operation."""

    def __init__(self, inputs: Any, options: Any) -> None:
        self.spans: dict[Region, Extent] = {}
        self._mappings: dict[Region, Mapping | None] = {}
        self._originals: dict[int, tuple[object, GuardedArray]] = {}
        self._plain = (self._without(tuple(inputs)), self._without(options))

    def _without(self, value: Any) -> Any:
        """The same with plain views in place of guarded arrays, also inside lists and the like."""
        if isinstance(value, GuardedArray):
            return self._take(value)
        if type(value) in (list, tuple):
            return type(value)(map(self._without, value))
        if type(value) is dict:
            return {key: self._without(each) for key, each in value.items()}
        return value

    def _take(self, array: GuardedArray) -> np.ndarray[Any, Any]:
        view = array.view(np.ndarray)
        self._originals[id(view)] = (view, array)
        region = array._region
        address, length = _bounds(view)
        if region is not None and length and region.holds(address, length):
            pages = Extent(address, length).widened(PAGE)
            known = self.spans.get(region, pages)
            first = min(known.offset, pages.offset)
            self.spans[region] = Extent.between(first, max(known.end, pages.end))
            self._mappings[region] = array._mapping
        return view

    def call(self, function: Callable[..., Any]) -> Any:
        """What the function makes of the plain views; once."""
        try:
            return self.guarded(function(*self._plain[0], **self._plain[1]))
        except Exception as error:  # noqa: BLE001  # raised again, without frames
            raise error.with_traceback(None) from error.__cause__
        finally:
            self._plain = ((), {})
            self._originals.clear()

    def guarded(self, result: Any) -> Any:
        """A result that is an operand, or a view of one, is guarded."""
        if type(result) is tuple:
            return tuple(map(self.guarded, result))
        if type(result) is list:
            return list(map(self.guarded, result))
        if type(result) is not np.ndarray:
            return result
        if id(result) in self._originals:
            return self._originals[id(result)][1]
        address, length = _bounds(result)
        for region in self.spans:
            if length and region.holds(address, length):
                array = result.view(GuardedArray)
                array._region, array._mapping = region, self._mappings[region]
                return array
        return result


def _bounds(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """As `bounds`, with a short cut for most."""
    if array.flags.c_contiguous and array.dtype.kind in "iufb":
        # A buffer, as numpy's types say only from Python 3.12 on.
        return _native.address_of(array), array.nbytes  # type: ignore[arg-type]
    return bounds(array)


def _watched(function: Callable[..., Any], inputs: Any, options: Any) -> Any:
    """No plain view stays in the frames of the traceback: who prints those (pytest) would die."""
    operands = _Operands(inputs, options)
    with contextlib.ExitStack() as stack:
        for region, span in operands.spans.items():
            stack.enter_context(Watch.over(region, *span))
        return operands.call(function)


def make_array(mapping: Mapping, dtype: Any, shape: Any, offset: int, order: Any) -> GuardedArray:
    """An array of `shape` whose first byte is at `offset` of the mapping."""
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise UsageError(f"{kind} holds Python objects, which no file can keep")
    region = Watch(mapping).region
    region.pin = memoryview(mapping)  # nobody closes it under an array
    array = np.ndarray.__new__(GuardedArray, shape, kind, mapping, offset, order=order)
    array._region, array._mapping = region, mapping
    return array


def item_size(dtype: Any) -> int:
    """Bytes of one element."""
    return int(np.dtype(dtype).itemsize)
