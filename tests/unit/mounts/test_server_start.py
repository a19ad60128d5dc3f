"""How a server begins, or does not, and how it ends."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from daxmend.errors import EXIT_FAILED, UsageError
from daxmend.mounts import daemon
from daxmend.mounts.daemon import MountFailedError, start_server

_DIES_LATER = """
import os
import sys
from pathlib import Path
from daxmend.mounts.daemon import start_server

def serve(on_ready):
    on_ready()
    raise AssertionError("a mistake")

start_server(serve, Path("/nowhere"), Path(sys.argv[1]))
os.wait()
"""


def refuse(on_ready: Callable[[], None]) -> None:
    raise UsageError("no such pool")


def die(on_ready: Callable[[], None]) -> None:
    os._exit(3)


def mistake(on_ready: Callable[[], None]) -> None:
    raise AssertionError("a mistake")


@pytest.mark.parametrize(
    ("serve", "said", "status"),
    [
        (refuse, "no such pool", UsageError.exit_status),
        (die, "/nowhere: the server died before it was ready", EXIT_FAILED),
        (mistake, "/nowhere: the server died before it was ready", EXIT_FAILED),
    ],
)
def test_what_stopped_a_server_is_told_and_no_process_is_left(
    serve: Callable[[Callable[[], None]], None],
    said: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    children: list[int] = []
    fork = os.fork

    def noted() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", noted)
    with pytest.raises(MountFailedError, match=said) as caught:
        start_server(serve, Path("/nowhere"), None)
    assert caught.value.exit_status == status
    with pytest.raises(ChildProcessError):
        os.waitpid(*children, os.WNOHANG)


def test_a_mistake_of_the_server_stands_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", _DIES_LATER, log], check=True, timeout=60)
    assert "AssertionError: a mistake" in log.read_text()


def test_a_server_that_cannot_even_ask_to_be_unmounted_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No child can be had that unmounts: nobody else will end this one."""

    def fail(mountpoint: Path) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(daemon, "unmount", fail)
    done: list[str] = []
    handler = SimpleNamespace(write_back=lambda: done.append("written back"))
    session = SimpleNamespace(stop=lambda: done.append("stopped"))
    daemon._unmount_or_stop(session, handler, Path("/nowhere"))  # type: ignore[arg-type]
    assert done == ["written back", "stopped"]
