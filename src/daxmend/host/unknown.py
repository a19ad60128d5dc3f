"""What could not be found out: a third answer beside "there are" and "there are none" (R44)."""

from __future__ import annotations

from typing import NamedTuple


class Unknown(NamedTuple):
    """The running system did not say; `why` is a clause for a message."""

    why: str
