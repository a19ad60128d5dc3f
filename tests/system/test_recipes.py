"""Each line of docs/recipes.md that needs no persistent memory does what it says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hoststack import SIZES, HostStack, host_stack
from rawmount import PAGE, SECTOR, Mounted

from recipebook import Line, recipes

pytestmark = [
    pytest.mark.timeout(90, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="losetup and mount need root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
    pytest.mark.parametrize("open_mode", ["direct"], indirect=True),
]

RING = {"fsdax", "devdax", "sector"}  # the kernel ring's
HERE = sorted(set(recipes()) - RING)


@pytest.fixture(params=["ext4", "xfs"])
def stack(request: pytest.FixtureRequest, pool: Mounted) -> Iterator[HostStack]:
    pool.pool.unlink()
    pool.size = SIZES[request.param]
    pool.create()
    with host_stack(pool, request.param) as made:
        yield made


def run(line: Line, variables: dict[str, str]) -> None:
    program = f"{sys.executable} -c 'from daxmend.cli import main; main()'"
    ran = subprocess.run(
        ["sh", "-c", f'daxmend() {{ {program} "$@"; }}\n{line.command}'],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == line.status, (line, ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", HERE)
def test_each_line_of_the_recipe_does_what_it_says(stack: HostStack, base: Path, name: str) -> None:
    path = stack.make("file")
    copy, safe = base / "copy", base / "safe"
    copy.write_bytes(path.read_bytes())
    safe.mkdir()
    stack.damage_file(path, 5 * PAGE + SECTOR)
    variables = {"DISK": stack.loop, "DIR": stack.fs, "FILE": path, "COPY": copy, "SAFE": safe}
    for line in recipes()[name]:
        run(line, {key: str(value) for key, value in variables.items()})
