"""Prints docs/errors.md from the exception classes; redirect it there."""

import errno
import sys
from collections.abc import Iterator

from daxmend.errors import DaxmendError, FaultError

_HEAD = """# Errors and exit statuses

Generated from `src/daxmend/errors.py` by `docs/generate_errors.py`; a test compares.

| class | errno | exit status | when |
|---|---|---|---|
"""

_TAIL = """
Exit statuses: 0 clean or done · 1 `check` found and repaired · 2 unknown (R44) · 4 bad ranges
remain · 8 could not be done · 16 usage. Where several hold: 8, then 4, then 2. A command that was
interrupted exits 130.

An `OSError` of the system (no such file, no space) keeps its errno, and the command exits 8.
"""


def classes(root: type[DaxmendError] = DaxmendError) -> Iterator[tuple[int, type[DaxmendError]]]:
    """Depth and class, as the tree in `errors.py` stands."""
    yield 0, root
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield from ((depth + 1, found) for depth, found in classes(child))


def document() -> str:
    """The whole page."""
    rows = []
    for depth, cls in classes():
        number = cls.fault_errno if issubclass(cls, FaultError) else cls.errno
        name = errno.errorcode.get(number or 0, "-")
        says = (cls.__doc__ or "").splitlines()[0].rstrip(".")
        indent = "&nbsp;&nbsp;" * depth
        rows.append(f"| {indent}`{cls.__name__}` | {name} | {cls.exit_status} | {says} |\n")
    return _HEAD + "".join(rows) + _TAIL


if __name__ == "__main__":
    sys.stdout.write(document())
