"""A foreign C handler that interrupts a guarded move, and faults in the very memory it reads."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native_child import run_program

COMPILER = shutil.which("cc")

# 64 MiB are long enough to be interrupted. The bad page is in the range of the copy, near its end;
# write_flush runs forward, the C library's own copy may start there.
PROGRAM = """
library = ctypes.CDLL(PATH)
library.nested_start.argtypes = (ctypes.c_void_p, ctypes.c_int)
library.nested_install()
count = 16384
many = stack.enter_context(open_pages(count))
lost = count - 3
many.break_page(lost)
target = bytearray(count * PAGE)
def copy():
    try:
        _native.write_flush(target, 0, many.memory)
    except _native.MemoryFault as fault:
        assert fault.done == lost * PAGE, fault
    else:
        raise AssertionError("no fault")
copy()
library.nested_start(many.address + lost * PAGE, 500)
for _ in range(400):
    if library.nested_begun() >= 20:
        break
    copy()
library.nested_stop()
print(library.nested_begun() >= 20, library.nested_finished() == library.nested_begun())
load(bad)
"""


@pytest.mark.skipif(
    "DAXMEND_SANITIZED" in os.environ,
    reason="the sanitizer's copy has frames so deep that the core cannot tell a handler from it",
)
@pytest.mark.skipif(COMPILER is None, reason="no C compiler for the foreign library")
def test_a_handler_that_faults_inside_a_guarded_copy_is_not_abandoned(tmp_path: Path) -> None:
    library = tmp_path / "nested.so"
    source = Path(__file__).with_name("nested.c")
    command = [str(COMPILER), "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    ending = run_program(f"PATH = {str(library)!r}\n{PROGRAM}")
    assert ending.output == "True True\n", ending
    assert ending.status == -7


# The foreign handler probes a watched page, at any moment of the trap's own work on others.
WATCHED = """
library = ctypes.CDLL(PATH)
library.nested_start.argtypes = (ctypes.c_void_p, ctypes.c_int)
library.nested_install()
count = 400
many = stack.enter_context(open_pages(count))
rights = mmap.PROT_READ | mmap.PROT_WRITE
watch = _native.Watch(many.address, count * PAGE, rights, 0, -1, 0)
watch.start()
library.nested_start(many.address + (count - 1) * PAGE, 100)
for _ in range(2000):
    for page in range(1, count, 2):
        many.break_page(page)
    for page in range(1, count, 2):
        assert load(many.address + page * PAGE) == bytes(1)
    if library.nested_begun() >= 50:
        break
library.nested_stop()
assert watch.stop()
print(library.nested_begun() >= 50, library.nested_finished() == library.nested_begun())
"""


@pytest.mark.skipif(COMPILER is None, reason="no C compiler for the foreign library")
def test_a_fault_in_a_handler_that_interrupts_the_trap_is_caught_too(tmp_path: Path) -> None:
    library = tmp_path / "nested.so"
    source = Path(__file__).with_name("nested.c")
    command = [str(COMPILER), "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    ending = run_program(f"PATH = {str(library)!r}\n{WATCHED}")
    assert (ending.status, ending.output) == (0, "True True\n"), ending
