"""Each line of docs/recipes.md for fsdax does what it says on this kernel.

Emulated persistent memory has no record that a devdax device or a disk in sector mode could show:
it takes bad blocks by the fsdax disk alone.
"""

import random
from pathlib import Path

import pytest
from mountpoint import Mounted
from pmem import PAGE, SECTOR
from program import program

from recipebook import recipes

BIN = Path(".venv/bin").absolute()


def follow(name: str, variables: dict[str, object]) -> None:
    """Run the lines of a recipe, each in a shell of its own; each exits as the page says."""
    assigned = f"PATH={BIN}:$PATH; " + "".join(f"{k}='{v}'; " for k, v in variables.items())
    for line in recipes()[name]:
        ran = program("sh", "-c", assigned + line.command, status=None)
        assert ran.status == line.status, (line, ran)
        assert "Traceback" not in ran.err


def damaged(mounted: Mounted, safe: Path) -> dict[str, object]:
    """A file with a bad sector, a copy, and the names that the recipes use."""
    data = random.Random(19).randbytes(64 * PAGE)
    path, copy = mounted.write("file", data), safe / "copy"
    copy.write_bytes(data)
    mounted.inject(path, 5 * PAGE + SECTOR)
    return {
        "DISK": mounted.place.path, "DIR": mounted.directory, "FILE": path, "COPY": copy,
        "SAFE": safe,
    }  # fmt: skip


@pytest.mark.parametrize("place", ["one"], indirect=True)
@pytest.mark.usefixtures("no_bad_blocks")
@pytest.mark.parametrize("name", ["fsdax", "fsdax-zero"])
def test_the_recipe_for_fsdax(mounted: Mounted, name: str, tmp_path: Path) -> None:
    follow(name, damaged(mounted, tmp_path))
    (mounted.directory / "file").unlink()
