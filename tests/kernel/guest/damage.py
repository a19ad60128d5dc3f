"""The damage that the tests of files start from: which sectors, and what a file is without them."""

from pmem import SECTOR

PAGES = 64
# Sectors of a file: in the first and the middle of a page, over two pages, beside a chunk's end.
BAD = (16, 43, 44, 128, 135, 136, 200)


def bad_ranges() -> list[dict[str, int]]:
    """BAD as `--json` prints it: bytes, neighbours as one."""
    return [
        {"offset": first * SECTOR, "length": count * SECTOR}
        for first, count in ((16, 1), (43, 2), (128, 1), (135, 2), (200, 1))
    ]


def blanked(data: bytes, sectors: tuple[int, ...] = BAD) -> bytes:
    """The data with zeros in these sectors."""
    out = bytearray(data)
    for sector in sectors:
        out[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
    return bytes(out)
