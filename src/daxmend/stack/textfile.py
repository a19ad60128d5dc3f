"""Text that people write and commands read: tables, fault plans."""

from pathlib import Path

from daxmend.errors import UsageError


def read_text(path: Path) -> str:
    """All of a file. Raises `UsageError` for what is not UTF-8, `OSError` as open(2)."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text: byte {error.start} is not UTF-8") from None
