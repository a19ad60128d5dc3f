"""Tables that dmsetup and daxmend must judge alike, and those where docs/dm.md says we differ.

`{a}` and `{b}` are block devices of SECTORS sectors.
"""

from typing import NamedTuple

SECTORS = 32768


class Table(NamedTuple):
    """A table, and whether each side takes it; `why` says where the sides may differ."""

    text: str
    kernel: bool
    ours: bool
    why: str = ""


def both(*texts: str) -> list[Table]:
    """Both accept."""
    return [Table(text, True, True) for text in texts]


def neither(*texts: str) -> list[Table]:
    """Both refuse."""
    return [Table(text, False, False) for text in texts]


def only_the_kernel(why: str, *texts: str) -> list[Table]:
    """The kernel accepts and we refuse, on purpose."""
    return [Table(text, True, False, why) for text in texts]


TABLES = [
    *both(
        "0 32768 linear {a} 0",
        "0 8192 linear {a} 8192",
        "0 8192 linear {a} 0\n8192 8192 linear {b} 16384",
        "0 8 linear {a} 32760",
        "0 65536 striped 2 128 {a} 0 {b} 0",
        "0 1024 striped 2 8 {a} 8192 {b} 0",
        "0 8192 striped 1 128 {a} 0",
        "0 8192 error",
        "0 8192 zero",
        "0 8192 linear {a} 0\n8192 800 error\n8992 8192 zero\n"
        "17184 2048 striped 2 8 {a} 8192 {b} 0",
        "0 16384 log-writes {a} {b}",
        "0 16384 writecache p {b} {a} 4096 0",
        "0 16384 writecache p {b} {a} 4096 4 high_watermark 60 low_watermark 40",
        "0 16384 writecache p {b} {a} 4096 2 start_sector 8",
        "0 16384 writecache p {b} {a} 4096 1 fua",
    ),
    *neither(
        "8 8192 linear {a} 0",
        "0 8192 linear {a} 0\n8200 8192 linear {b} 0",
        "0 8192 linear {a} 0\n8184 8192 linear {b} 0",
        "0 0 linear {a} 0",
        "0 8192 linear {a}",
        "0 8192 linear {a} 0 0",
        "0 8192 linear {a} none",
        "0 8192 linear /dev/there-is-none 0",
        "0 32776 linear {a} 0",
        "0 8192 linear {a} 32768",
        "0 8192 bent {a} 0",
        "0 8192 zero {a}",
        "0 65536 striped 0 128 {a} 0 {b} 0",
        "0 65536 striped 2 0 {a} 0 {b} 0",
        "0 65536 striped 2 128 {a} 0",
        "0 65536 striped 3 128 {a} 0 {b} 0",
        "0 65528 striped 2 128 {a} 0 {b} 0",
        "0 131072 striped 2 128 {a} 0 {b} 0",
        "0 8192 log-writes {a}",
        "0 16384 writecache x {b} {a} 4096 0",
        "0 16384 writecache p {b} {a} 4000 0",
        "0 16384 writecache p {b} {a} 4096 2 high_watermark 101",
        "0 16384 writecache p {b} {a} 4096 1 fuo",
        "0 16384 writecache p {b} {a}",
    ),
    *only_the_kernel("a device without sectors holds nothing", ""),
    *only_the_kernel(
        "every number in a line is a multiple of a page",
        "0 8193 linear {a} 0",
        "0 8192 linear {a} 1",
        "0 8192 striped 2 4 {a} 0 {b} 0",
    ),
    *only_the_kernel(
        "the same bytes of a member cannot be used twice",
        "0 8192 linear {a} 0\n8192 8192 linear {a} 0",
        "0 16384 striped 2 128 {a} 0 {a} 0",
    ),
]
