"""Small files of sysfs: read, or *unknown* with why (R44)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from daxmend.host.unknown import Unknown

SYSFS: Final = Path("/sys")


def read_text(path: Path) -> str | Unknown:
    """What the file says, without the line's end."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
    except OSError as error:
        return Unknown(f"{path} cannot be read: {error.strerror}")


def read_number(path: Path) -> int | Unknown:
    """A decimal, or a hexadecimal number with 0x."""
    text = read_text(path)
    if isinstance(text, Unknown):
        return text
    try:
        return int(text, 0)
    except ValueError:
        return Unknown(f"{path} says '{text}', which is no number")
