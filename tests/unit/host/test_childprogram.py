"""Programs in a process of their own, with a time limit."""

import os

from daxmend.host.childprogram import run_program


def test_the_exit_status_is_that_of_the_program() -> None:
    assert run_program("import sys; sys.exit(int(sys.argv[1]))", "107", seconds=10) == 107


def test_a_program_that_does_not_end_is_given_up_and_killed() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    program = "import os, signal, sys; os.write(int(sys.argv[1]), b'.'); signal.pause()"
    assert run_program(program, str(writer), seconds=0.05) is None
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() in (b"", b".")  # and the end: nobody has it open any more
