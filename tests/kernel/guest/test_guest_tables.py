"""dmsetup accepts and refuses the same tables as `daxmend create --table` (tables.py has them)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pmem import SECTOR, Pmem
from program import Daxmend, program
from tables import SECTORS, TABLES, Table


@pytest.fixture(scope="module")
def members(pmems: list[Pmem]) -> Iterator[dict[str, str]]:
    """Two small devices by dm-linear, with DAX."""
    names = {"a": "ring-a", "b": "ring-b"}
    for name, pmem in zip(names.values(), pmems, strict=True):
        program("dmsetup", "create", name, text=f"0 {SECTORS} linear {pmem.path} 0")
    yield {letter: f"/dev/mapper/{name}" for letter, name in names.items()}
    for name in names.values():
        program("dmsetup", "remove", name)


def wipe(members: dict[str, str], text: str) -> None:
    """Zeros, where a log or a cache would take up again what an earlier one left."""
    if "log-writes" not in text and "writecache" not in text:
        return
    for path in members.values():
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, bytes(SECTORS * SECTOR))
        os.fsync(fd)
        os.close(fd)


def kernel_accepts(text: str) -> tuple[bool, str]:
    """dmsetup's answer; the device is removed again."""
    ran = program("dmsetup", "create", "ring-table", text=text, status=None)
    if ran.status == 0:
        program("dmsetup", "remove", "ring-table")
    return ran.status == 0, ran.err


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.text.replace("\n", "; "))
def test_both_sides_say_of_a_table_what_they_should(
    table: Table, members: dict[str, str], tmp_path: Path, daxmend: Daxmend
) -> None:
    text = table.text.format(**members)
    file = tmp_path / "table"
    file.write_text(text + "\n")
    wipe(members, text)
    accepted, said = kernel_accepts(text + "\n")
    wipe(members, text)
    ran = daxmend("create", tmp_path / "pool", "--raw", "--table", file, status=None)
    assert (accepted, ran.status == 0) == (table.kernel, table.ours), f"{said}\n{ran}"
