"""Each line of docs/recipes.md for a pmem disk does what it says on this kernel.

Emulated persistent memory has no record that a devdax device or a disk in sector mode could show:
it takes bad blocks by the fsdax disk alone.
"""

import random
from pathlib import Path

import pytest
from mountpoint import Mounted, is_dax, open_mount
from place import Place
from pmem import PAGE, SECTOR, Pmem
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


@pytest.mark.parametrize(
    ("name", "kind"), [("fsdax", "ext4"), ("fsdax-zero", "xfs"), ("nodax", "xfs")]
)
def test_each_line_of_the_recipe_does_what_it_says(
    name: str, kind: str, pmems: list[Pmem], tmp_path: Path
) -> None:
    place = Place("one", pmems[0].path, pmems[:1])
    dax = name != "nodax"
    with open_mount(kind, place, Path("/mnt/recipe"), dax=dax) as mounted:
        variables = damaged(mounted, tmp_path)
        assert is_dax(Path(str(variables["FILE"]))) is dax
        follow(name, variables)
    assert place.bad_sectors() == place.ndctl_bad_sectors() == []
