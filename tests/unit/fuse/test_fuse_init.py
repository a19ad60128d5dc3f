import struct
from typing import NamedTuple

import pytest

from daxmend.errors import UnsupportedError
from daxmend.fuse import MAX_WRITE, DirentBuffer, Handler
from daxmend.fuse import protocol as p
from daxmend.fuse.init import negotiate, wanted_flags

EVERYTHING = (1 << 64) - 1


def init_in(major: int, minor: int, flags: int, *flags2: int) -> memoryview:
    words = [major, minor, 131072, flags & 0xFFFFFFFF, *flags2]
    return memoryview(struct.pack(f"={len(words)}I", *words))


class InitOut(NamedTuple):
    """`struct fuse_init_out`, in its order."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int
    map_alignment: int
    flags2: int
    max_stack_depth: int


def init_out(packed: bytes) -> InitOut:
    return InitOut._make(struct.unpack("=IIIIHHIIHHII24x", packed))


class Plus(Handler):
    kills_suidgid = True

    def readdirplus(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        pass


def test_the_lower_minor_is_offered() -> None:
    for minor, expected in ((31, 31), (99, p.FUSE_KERNEL_MINOR_VERSION)):
        kernel, packed = negotiate(init_in(7, minor, EVERYTHING), wanted_flags(Handler(), False))
        assert kernel is not None
        assert kernel.minor == init_out(packed).minor == expected


def test_requests_hold_a_mebibyte() -> None:
    _, packed = negotiate(init_in(7, 40, EVERYTHING), wanted_flags(Handler(), False))
    out = init_out(packed)
    assert (out.max_write, out.max_pages, out.time_gran) == (MAX_WRITE, 256, 1)
    assert out.max_readahead == 131072
    assert MAX_WRITE == 1 << 20


def test_nothing_is_granted_that_the_kernel_did_not_offer() -> None:
    kernel, packed = negotiate(init_in(7, 40, p.FUSE_MAX_PAGES), wanted_flags(Plus(), True))
    assert kernel is not None
    assert kernel.flags == init_out(packed).flags == p.FUSE_MAX_PAGES


def test_the_writeback_cache_is_never_negotiated() -> None:
    kernel, _ = negotiate(init_in(7, 40, EVERYTHING, 0xFFFFFFFF), wanted_flags(Plus(), True))
    assert kernel is not None
    assert not kernel.flags & p.FUSE_WRITEBACK_CACHE


def test_the_upper_flags_need_the_extended_request() -> None:
    wanted = wanted_flags(Handler(), True)
    short, _ = negotiate(init_in(7, 35, EVERYTHING), wanted)
    assert short is not None
    assert not short.direct_mmap
    long, packed = negotiate(init_in(7, 40, EVERYTHING, 0xFFFFFFFF), wanted)
    assert long is not None
    assert long.direct_mmap
    assert long.passthrough
    out = init_out(packed)
    assert out.flags2 == 0b110000  # bits 36 and 37
    assert out.max_stack_depth == 2


def test_passthrough_is_off_unless_asked_for() -> None:
    kernel, packed = negotiate(
        init_in(7, 40, EVERYTHING, 0xFFFFFFFF), wanted_flags(Handler(), False)
    )
    assert kernel is not None
    assert not kernel.passthrough
    assert init_out(packed).max_stack_depth == 0


def test_what_a_handler_does_not_have_is_not_asked_for() -> None:
    optional = p.FUSE_DO_READDIRPLUS | p.FUSE_READDIRPLUS_AUTO | p.FUSE_HANDLE_KILLPRIV_V2
    assert wanted_flags(Handler(), False) & optional == 0
    assert wanted_flags(Plus(), False) & optional == optional


def test_a_newer_major_is_asked_to_come_back() -> None:
    kernel, packed = negotiate(init_in(8, 0, EVERYTHING), wanted_flags(Handler(), False))
    assert kernel is None
    assert init_out(packed).major == 7


@pytest.mark.parametrize(("major", "minor"), [(7, 27), (6, 99)])
def test_an_older_kernel_is_refused_by_name(major: int, minor: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"{major}\.{minor}.*Linux 4\.20"):
        negotiate(init_in(major, minor, EVERYTHING), wanted_flags(Handler(), False))


class Acls(Handler):
    posix_acls = True


def test_who_has_acls_applies_the_umask() -> None:
    both = p.FUSE_POSIX_ACL | p.FUSE_DONT_MASK
    assert wanted_flags(Acls(), False) & both == both
    assert wanted_flags(Handler(), False) & both == 0
