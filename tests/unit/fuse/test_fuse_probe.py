"""What a kernel's FUSE can do, asked without a mount that anybody sees."""

import importlib
import os
import subprocess

import pytest

from daxmend.errors import UnsupportedError
from daxmend.fuse import probe_kernel, protocol
from daxmend.fuse.probe import unpack_offer
from daxmend.host.mountinfo import iter_mounts
from daxmend.host.unknown import Unknown

mount = importlib.import_module("daxmend.fuse.mount")  # the name is the function's, too
HEADER = bytes(protocol.IN_HEADER.size)


def message(major: int, minor: int, flags: int) -> bytes:
    """An INIT request that offers `flags`."""
    offered = protocol.FUSE_INIT_EXT | flags & 0xFFFFFFFF
    body = protocol.INIT_IN.pack(major, minor, 0, offered)
    return HEADER + body + protocol.INIT_IN_FLAGS2.pack(flags >> 32)


def test_the_offer_is_what_the_message_says() -> None:
    offer = unpack_offer(message(7, 45, protocol.FUSE_PASSTHROUGH))
    assert (offer.minor, offer.kernel.passthrough, offer.kernel.direct_mmap) == (45, True, False)
    offer = unpack_offer(message(7, 39, protocol.FUSE_DIRECT_IO_ALLOW_MMAP))
    assert (offer.minor, offer.kernel.passthrough, offer.kernel.direct_mmap) == (39, False, True)


@pytest.mark.parametrize(("major", "minor"), [(7, 8), (6, 0), (8, 0)])
def test_a_kernel_that_is_no_use_is_named(major: int, minor: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"FUSE {major}\.{minor}"):
        unpack_offer(message(major, minor, 0))


def test_asking_leaves_no_mount() -> None:
    try:
        mount.check_device()
    except UnsupportedError as error:
        pytest.skip(str(error))
    offer = probe_kernel()
    if isinstance(offer, Unknown):
        pytest.skip(offer.why)
    assert offer.minor >= protocol.OLDEST_MINOR_VERSION
    assert ("daxmend", "fuse") not in {(mount.source, mount.fstype) for mount in iter_mounts()}


def test_a_missing_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount, "_DEVICE", "/dev/no-fuse-here")
    with pytest.raises(UnsupportedError, match="modprobe fuse"):
        probe_kernel()


@pytest.mark.parametrize(
    ("child", "why"),
    [
        (
            "import sys; sys.exit('nothing can be mounted: Operation not permitted')",
            "not permitted",
        ),
        ("import os; os._exit(3)", "status 3"),
        ("import signal; signal.raise_signal(9)", "status -9"),
    ],
)
def test_a_child_that_fails_leaves_it_unknown(
    child: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daxmend.fuse.probe.check_device", lambda: None)
    monkeypatch.setattr("daxmend.fuse.probe._PROGRAM", child)
    found = probe_kernel()
    assert isinstance(found, Unknown)
    assert why in found.why


@pytest.mark.parametrize(
    "failure", [OSError(11, os.strerror(11)), subprocess.TimeoutExpired("python", 5)]
)
def test_no_child_or_no_answer_is_unknown(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("daxmend.fuse.probe.check_device", lambda: None)
    monkeypatch.setattr(subprocess, "run", fail)
    assert isinstance(probe_kernel(), Unknown)
