"""Running things in the guest: programs, and daxmend in this process, which saves its start."""

import json
import subprocess
from typing import Any, NamedTuple

import pytest

from daxmend.cli import run

DAXMEND = ".venv/bin/daxmend"  # from the checkout, where the tests run


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on its stdout."""
        return json.loads(self.out)


def program(*words: object, status: int | None = 0, text: str | None = None) -> Ran:
    """Run a program; `text` goes to its stdin. Fails unless it exits `status` (None: any)."""
    done = subprocess.run(
        [str(word) for word in words], input=text, capture_output=True, text=True, check=False
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert status is None or ran.status == status, f"{' '.join(map(str, words))}: {ran}"
    return ran


class Daxmend:
    """The command, in this process: `daxmend("list", path)`; its output is taken by `capture`."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *words: object, status: int | None = 0) -> Ran:
        """Fails unless it exits `status` (None: any); a traceback is never an answer."""
        self._capture.readouterr()
        code = run([str(word) for word in words])
        out, err = self._capture.readouterr()
        ran = Ran(code, out, err)
        said = f"daxmend {' '.join(map(str, words))}\nexit {code}\n{out}{err}"
        assert "Traceback" not in said, said
        assert status is None or code == status, said
        return ran
