"""The numbers and structs of the ioctls on a mounted file."""

import pytest

from daxmend.extent import Extent
from daxmend.host import fileioctl
from daxmend.host.fileioctl import EXTENTS_COUNT, EXTENTS_SIZE, FileExtent, SavedPage


def test_the_numbers_are_part_of_the_interface() -> None:
    assert fileioctl.ZEROINIT == 0x4010DA01
    assert fileioctl.EXTENTS == 0xFFF0DA02
    assert fileioctl.SALVAGE == 0xD410DA03
    assert EXTENTS_SIZE == 0x3FF0 == 16 + EXTENTS_COUNT * 32


@pytest.mark.parametrize("count", [0, 1, EXTENTS_COUNT, EXTENTS_COUNT + 1, 2000])
def test_an_answer_holds_what_fits_and_says_if_there_is_more(count: int) -> None:
    extents = [FileExtent(n * 8192, n * 4096, 4096, n % 2 == 0) for n in range(count)]
    answer = fileioctl.pack_extents(77, extents)
    assert len(answer) == EXTENTS_SIZE
    assert fileioctl.unpack_extents_start(answer) == 77
    found, is_more = fileioctl.unpack_extents(answer)
    assert found == extents[:EXTENTS_COUNT]
    assert is_more == (count > EXTENTS_COUNT)


@pytest.mark.parametrize("length", [1, 700, 4096])
def test_a_page_comes_with_what_is_lost_of_it(length: int) -> None:
    page = SavedPage(b"d" * length, [Extent(0, 1)] if length > 1 else [])
    answer = fileioctl.pack_salvage(8192, page)
    assert len(answer) == fileioctl.SALVAGE_SIZE
    assert fileioctl.unpack_salvage_start(answer) == 8192
    assert fileioctl.unpack_salvage(answer) == page


def test_behind_more_lost_ranges_than_fit_all_is_lost() -> None:
    lost = [Extent(at, 1) for at in range(0, 4096, 16)]
    found = fileioctl.unpack_salvage(fileioctl.pack_salvage(0, SavedPage(b"d" * 4000, lost)))
    assert found.lost == [*lost[:127], Extent.between(lost[127].offset, 4000)]
    assert found.data == b"d" * lost[127].offset + bytes(4000 - lost[127].offset)


def test_a_file_elsewhere_says_enotty(tmp_path: object) -> None:
    with open(f"{tmp_path}/file", "w+b") as file:
        for call in (
            lambda: fileioctl.zeroinit(file.fileno(), 0, 4096),
            lambda: list(fileioctl.iter_extents(file.fileno())),
            lambda: fileioctl.salvage(file.fileno(), 0),
        ):
            with pytest.raises(OSError, match="ioctl"):
                call()
