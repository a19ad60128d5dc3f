"""What targets read of the control directory of a mount."""

from __future__ import annotations

import json
from pathlib import Path

from daxmend.errors import UnknownStateError


class ControlReader:
    """The part of a target that reads the files of text in `_control`."""

    _control: Path

    def _lines(self, name: str) -> list[str]:
        """Raises `UnknownStateError` where only its owner may ask (R44)."""
        try:
            return (self._control / name).read_text(encoding="ascii").splitlines()
        except PermissionError as error:
            raise UnknownStateError(
                f"{self._control / name}: {error.strerror}; ask its owner, or root"
            ) from None

    def _read_status(self) -> dict[str, object]:
        document: dict[str, object] = json.loads("\n".join(self._lines("status")))
        return document
