"""Memory errors wider than the access, which no test can raise without hardware."""

import shutil
import subprocess
from pathlib import Path

import pytest

import daxmend._native

COMPILER = shutil.which("cc")
CORE = Path(daxmend._native.__file__).parent


@pytest.mark.skipif(COMPILER is None, reason="no C compiler for the test of the core's arithmetic")
def test_an_error_reported_beside_the_move_still_finds_its_bytes(tmp_path: Path) -> None:
    program = tmp_path / "wide_error"
    source = Path(__file__).with_name("wide_error.c")
    parts = [str(CORE / f"{name}.c") for name in ("table", "watch", "move")]
    command = [str(COMPILER), "-std=c11", f"-I{CORE}", "-o", str(program), str(source), *parts]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
