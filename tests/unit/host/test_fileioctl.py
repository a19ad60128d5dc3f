"""The numbers and structs of the ioctls on a mounted file."""

import pytest

from daxmend.host import fileioctl
from daxmend.host.fileioctl import EXTENTS_COUNT, EXTENTS_SIZE, FileExtent


def test_the_numbers_are_part_of_the_interface() -> None:
    assert fileioctl.ZEROINIT == 0x4010DA01
    assert fileioctl.EXTENTS == 0xFFF0DA02
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


def test_a_file_elsewhere_says_enotty(tmp_path: object) -> None:
    with open(f"{tmp_path}/file", "w+b") as file:
        for call in (
            lambda: fileioctl.zeroinit(file.fileno(), 0, 4096),
            lambda: list(fileioctl.iter_extents(file.fileno())),
        ):
            with pytest.raises(OSError, match="ioctl"):
                call()
